//! A server and a client in one program: the message goes over a real socket, and what arrives is printed.
//!
//! `cargo run --example quickstart`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

use std::error::Error;
use std::thread;
use std::time::Duration;

use udsmsg::{Batch, Client, Outgoing, Server};

fn main() -> Result<(), Box<dyn Error>> {
    // The owner: its inbox has a path of its own, and its capability is published where clients look for it.
    let mut server = Server::builder().start()?;
    println!("listening at {}", server.address());

    // A sender, usually another process. It blocks until it knows the outcome of its message.
    let target = server.address().clone();
    let sender = thread::spawn(move || {
        let message = Outgoing::new("text").with_text("hello");
        Client::new().map(|mut client| client.send(&target, &message))
    });

    // The owner's one thread: a turn of work, then the messages that arrived.
    let mut batch = Batch::new();
    while server.drain_into(&mut batch) == 0 {
        let _ = server.turn(Some(Duration::from_secs(5)))?;
    }
    for entry in &batch {
        let text = entry.message().data().and_then(|data| data.text().map(String::from));
        println!("{} from {}: {}", entry.id(), entry.peer(), text.unwrap_or_default());
    }

    let outcome = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {outcome}");
    server.shutdown(Duration::from_secs(1))?;
    Ok(())
}
