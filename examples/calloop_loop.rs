//! A server in a `calloop` loop, as Wayland compositors have one.
//!
//! `cargo run --example calloop_loop`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

#[cfg(unix)]
use {
    calloop::generic::Generic,
    calloop::timer::{TimeoutAction, Timer},
    calloop::{EventLoop, Interest, Mode, PostAction},
    std::error::Error,
    std::thread,
    std::time::Duration,
    udsmsg::{Batch, Client, Outgoing, Server},
};

#[cfg(not(unix))]
fn main() {
    println!("there is no descriptor to watch here: see the example mio_loop");
}

/// What every callback of this host gets.
#[cfg(unix)]
struct Host {
    server: Server,
    batch: Batch,
    ticks: usize,
}

#[cfg(unix)]
fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().start()?;
    println!("listening at {}", server.address());
    let mut event_loop = EventLoop::<Host>::try_new()?;

    // A copy of the descriptor, because the server lives in the host's state. It must be level-triggered.
    let queue = server.event_queue().ok_or("the server lives in another loop")?;
    let watched = Generic::new(queue.try_clone_to_owned()?, Interest::READ, Mode::Level);
    let token = event_loop.handle().insert_source(watched, |_, _, _| Ok(PostAction::Continue))?;
    // The host has work of its own.
    let tick = Timer::from_duration(Duration::from_millis(10));
    event_loop.handle().insert_source(tick, |_, _, host| {
        host.ticks += 1;
        TimeoutAction::ToDuration(Duration::from_millis(10))
    })?;

    let target = server.address().clone();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        let text = Outgoing::new("text").with_text("hello from calloop");
        Client::new().map(|mut client| (client.ping(&target), client.send(&target, &text)))
    });

    let mut host = Host { server, batch: Batch::new(), ticks: 0 };
    while host.batch.is_empty() {
        // The server gives the longest wait. (With `ServerBuilder::timer`, on Linux, this is not needed, and
        // the turn can be made in the callback.)
        let timeout = host.server.next_timeout();
        event_loop.dispatch(timeout, &mut host)?;
        let _ = host.server.process()?;
        host.server.drain_into(&mut host.batch);
        for entry in &host.batch {
            println!("{} from {}: {}", entry.id(), entry.peer(), entry.message().json());
        }
    }
    println!("the host ticked {} times meanwhile", host.ticks);
    event_loop.handle().remove(token);
    host.server.shutdown(Duration::from_secs(1))?;
    let (pinged, sent) = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {pinged}, {sent}");
    Ok(())
}
