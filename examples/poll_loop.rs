//! A server in a loop around plain `poll(2)`, beside a descriptor of the host's: any loop that can watch a
//! descriptor, level-triggered, does it like this.
//!
//! `cargo run --example poll_loop`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

#[cfg(unix)]
use {
    nix::errno::Errno,
    nix::poll::{PollFd, PollFlags, PollTimeout, poll},
    std::error::Error,
    std::io::{PipeReader, Read, Write},
    std::os::fd::AsFd,
    std::thread,
    std::time::Duration,
    udsmsg::os::poll_timeout,
    udsmsg::{Batch, Client, Outgoing, Server},
};

#[cfg(not(unix))]
fn main() {
    println!("there is no descriptor to watch here: see the example mio_loop");
}

/// Waits; returns whether the pipe can be read.
#[cfg(unix)]
fn wait(server: &mut Server, pipe: &PipeReader) -> Result<bool, Box<dyn Error>> {
    let timeout = PollTimeout::try_from(poll_timeout(server.next_timeout()))?;
    let queue = server.event_queue().ok_or("the server lives in another loop")?;
    let mut watched = [PollFd::new(queue, PollFlags::POLLIN), PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    match poll(&mut watched, timeout) {
        Ok(_) => Ok(watched[1].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(unix)]
fn main() -> Result<(), Box<dyn Error>> {
    let (mut pipe_out, mut pipe_in) = std::io::pipe()?;
    let mut server = Server::builder().start()?;
    println!("listening at {}", server.address());

    // Writes to the pipe and sends messages; usually another process does.
    let target = server.address().clone();
    let sender = thread::spawn(move || -> std::io::Result<[String; 2]> {
        pipe_in.write_all(b"the host's own bytes")?;
        let mut client = Client::new().map_err(std::io::Error::other)?;
        let text = Outgoing::new("text").with_text("hello from poll");
        let told = [client.ping(&target).to_string(), client.send(&target, &text).to_string()];
        Ok(told)
    });

    let mut batch = Batch::new();
    let (mut host_heard, mut arrived) = (false, 0);
    while !host_heard || arrived == 0 {
        if wait(&mut server, &pipe_out)? {
            let mut space = [0; 64];
            let n = pipe_out.read(&mut space)?;
            if n > 0 {
                println!("the host read {:?}", String::from_utf8_lossy(space.get(..n).unwrap_or_default()));
                host_heard = true;
            }
        }
        // After every wait: a turn costs little when there is nothing to do.
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
