//! A server in a tokio runtime of one thread, as one task among others.
//!
//! `cargo run --example tokio_loop`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

#[cfg(unix)]
use {
    std::error::Error,
    std::os::fd::OwnedFd,
    std::thread,
    std::time::Duration,
    tokio::io::Interest,
    tokio::io::unix::AsyncFd,
    udsmsg::{Batch, Client, Outgoing, Server},
};

#[cfg(not(unix))]
fn main() {
    println!("there is no descriptor to watch here: see the example mio_loop");
}

/// Waits until a turn of the server is due.
#[cfg(unix)]
async fn turn_is_due(fd: &AsyncFd<OwnedFd>, next: Option<Duration>) -> std::io::Result<()> {
    match next {
        // Something is left to do: let the other tasks run, then go on.
        Some(Duration::ZERO) => tokio::task::yield_now().await,
        next => {
            // tokio is edge-triggered inside. Forgetting that the descriptor was ready *before* the turn is
            // what makes this right: a turn takes every event there is, and one that comes later is a new
            // edge.
            if let Ok(guard) = tokio::time::timeout(next.unwrap_or(Duration::MAX), fd.readable()).await {
                guard?.clear_ready();
            }
        }
    }
    Ok(())
}

/// A copy of the server's descriptor under the runtime's watch, so that the server stays free to be turned.
#[allow(
    deprecated,
    reason = "its safe form is; what `register` asks for in `unsafe` is kept by owning the copy"
)]
#[cfg(unix)]
fn watch(server: &Server) -> Result<AsyncFd<OwnedFd>, Box<dyn Error>> {
    let queue = server.event_queue().ok_or("the server lives in another loop")?;
    Ok(AsyncFd::with_interest(queue.try_clone_to_owned()?, Interest::READABLE)?)
}

#[cfg(unix)]
async fn host(mut server: Server) -> Result<(), Box<dyn Error>> {
    let fd = watch(&server)?;
    let mut batch = Batch::new();
    while batch.is_empty() {
        let _ = server.process()?;
        server.drain_into(&mut batch);
        for entry in &batch {
            println!("{} from {}: {}", entry.id(), entry.peer(), entry.message().json());
        }
        if batch.is_empty() {
            turn_is_due(&fd, server.next_timeout()).await?;
        }
    }
    // Shutdown blocks while a client does not read its answers, so in a runtime its grace is short.
    Ok(server.shutdown(Duration::from_millis(100))?)
}

#[cfg(unix)]
fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().start()?;
    println!("listening at {}", server.address());

    let target = server.address().clone();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        let text = Outgoing::new("text").with_text("hello from tokio");
        Client::new().map(|mut client| (client.ping(&target), client.send(&target, &text)))
    });

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The host has work of its own.
        let ticker = tokio::spawn(async {
            loop {
                println!("tick");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let result = host(server).await;
        ticker.abort();
        result
    })?;
    let (pinged, sent) = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {pinged}, {sent}");
    Ok(())
}
