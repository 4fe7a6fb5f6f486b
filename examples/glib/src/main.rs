//! A server in a glib main loop, as GTK programs have one.
//!
//! `cargo run --manifest-path examples/glib/Cargo.toml`; it needs the system's glib (Debian:
//! `libglib2.0-dev`).

use std::cell::RefCell;
use std::error::Error;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use glib::{ControlFlow, IOCondition, MainLoop};
use udsmsg::{Batch, Client, Outgoing, Server};

fn main() -> Result<(), Box<dyn Error>> {
    // With the timer inside, the descriptor alone says when a turn is due: glib is told of nothing else.
    let server = Server::builder().timer().start()?;
    println!("listening at {}", server.address());
    let queue = server.event_queue().ok_or("the server lives in another loop")?;
    let (target, fd) = (server.address().clone(), queue.as_raw_fd());
    let server = Rc::new(RefCell::new(server));
    let main_loop = MainLoop::new(None, false);

    let sender = thread::spawn(move || {
        let text = Outgoing::new("text").with_text("hello from glib");
        Client::new().map(|mut client| (client.ping(&target), client.send(&target, &text)))
    });

    // glib watches level-triggered, which is what the server needs.
    let in_loop = (Rc::clone(&server), main_loop.clone());
    let mut batch = Batch::new();
    let watch = glib_unix::unix_fd_add_local(fd, IOCondition::IN, move |_, _| {
        let (server, main_loop) = &in_loop;
        let mut server = server.borrow_mut();
        if let Err(error) = server.process() {
            eprintln!("the server cannot go on: {error}");
            main_loop.quit();
            return ControlFlow::Continue;
        }
        server.drain_into(&mut batch);
        for entry in &batch {
            println!("{} from {}: {}", entry.id(), entry.peer(), entry.message().json());
            main_loop.quit();
        }
        ControlFlow::Continue
    });
    main_loop.run();

    watch.remove();
    server.borrow_mut().shutdown(Duration::from_secs(1))?;
    let (pinged, sent) = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {pinged}, {sent}");
    Ok(())
}
