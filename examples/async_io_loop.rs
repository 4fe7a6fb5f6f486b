//! A server in a future that waits with `async-io`, for smol and other executors on it.
//!
//! `cargo run --example async_io_loop`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

#[cfg(unix)]
use {
    async_io::{Async, Timer},
    futures_lite::future,
    std::error::Error,
    std::os::fd::OwnedFd,
    std::thread,
    std::time::Duration,
    udsmsg::{Batch, Client, Outgoing, Server},
};

#[cfg(not(unix))]
fn main() {
    println!("there is no descriptor to watch here: see the example mio_loop");
}

/// Waits until a turn of the server is due.
#[cfg(unix)]
async fn turn_is_due(fd: &Async<OwnedFd>, next: Option<Duration>) -> std::io::Result<()> {
    // Something is left to do: let other tasks run, then go on.
    if next == Some(Duration::ZERO) {
        future::yield_now().await;
        return Ok(());
    }
    let timer = async {
        next.map_or_else(Timer::never, Timer::after).await;
        Ok(())
    };
    future::or(fd.readable(), timer).await
}

#[cfg(unix)]
async fn host(mut server: Server) -> Result<(), Box<dyn Error>> {
    // A copy of the descriptor, so that the server stays free to be turned.
    let queue = server.event_queue().ok_or("the server lives in another loop")?;
    let fd = Async::new_nonblocking(queue.try_clone_to_owned()?)?;
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
    // Shutdown blocks while a client does not read its answers, so in an executor its grace is short.
    Ok(server.shutdown(Duration::from_millis(100))?)
}

#[cfg(unix)]
fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().start()?;
    println!("listening at {}", server.address());

    let target = server.address().clone();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        let text = Outgoing::new("text").with_text("hello from async-io");
        Client::new().map(|mut client| (client.ping(&target), client.send(&target, &text)))
    });

    // The host has work of its own.
    let ticker = async {
        loop {
            println!("tick");
            Timer::after(Duration::from_millis(20)).await;
        }
    };
    async_io::block_on(future::or(host(server), ticker))?;
    let (pinged, sent) = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {pinged}, {sent}");
    Ok(())
}
