//! A server as a guest in the host's own `mio::Poll`, beside a source of the host's.
//!
//! `cargo run --example mio_loop`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

use std::error::Error;
use std::io::ErrorKind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use udsmsg::{Batch, Client, Outgoing, Server};

/// The host's own source, and the first of the server's tokens.
const CHANNEL: Token = Token(0);
const SERVER: usize = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let (say, heard) = mpsc::channel();
    let waker = Waker::new(poll.registry(), CHANNEL)?;
    let mut server = Server::builder().start_in(poll.registry(), SERVER)?;
    println!("listening at {}, tokens {:?}", server.address(), server.tokens());

    // Says something to the host and sends messages; usually another process does.
    let target = server.address().clone();
    let sender = thread::spawn(move || -> std::io::Result<[String; 2]> {
        say.send("the host's own words").map_err(std::io::Error::other)?;
        waker.wake()?;
        let mut client = Client::new().map_err(std::io::Error::other)?;
        let text = Outgoing::new("text").with_text("hello from mio");
        Ok([client.ping(&target).to_string(), client.send(&target, &text).to_string()])
    });

    let mut batch = Batch::new();
    let (mut host_heard, mut arrived) = (false, 0);
    while !host_heard || arrived == 0 {
        // The server gives the longest wait: zero if work is left.
        match poll.poll(&mut events, server.next_timeout()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        // Every event is offered to the server; what it does not take is the host's.
        for event in &events {
            if !server.on_event(event) && event.token() == CHANNEL {
                for words in heard.try_iter() {
                    println!("the host heard {words:?}");
                    host_heard = true;
                }
            }
        }
        // Then one turn, which never waits here.
        let _ = server.process()?;
        arrived += server.drain_into(&mut batch);
        for entry in &batch {
            println!("{} from {}: {}", entry.id(), entry.peer(), entry.message().json());
        }
    }
    server.shutdown(Duration::from_secs(1))?;
    let told = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {told:?}");
    Ok(())
}
