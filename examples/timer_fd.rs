//! On Linux, a server's descriptor alone can tell when a turn is due: with a timer inside, its host needs no
//! timeout.
//!
//! `cargo run --example timer_fd`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

use std::error::Error;

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), Box<dyn Error>> {
    println!("there are no timer descriptors here: see the example poll_loop");
    Ok(())
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use udsmsg::{Batch, Client, Limits, Outgoing, Server};

    let mut limits = Limits::default();
    limits.auth_timeout = Duration::from_millis(100);
    let mut server = Server::builder().limits(limits).timer().start()?;
    println!("listening at {}", server.address());

    let target = server.address().clone();
    let sender = thread::spawn(move || {
        // A client that sends nothing is closed by a deadline, which only the timer reports to the host.
        let mut refusal = String::new();
        UnixStream::connect(target.path())?.read_to_string(&mut refusal)?;
        let text = Outgoing::new("text").with_text("hello from a timer");
        let outcome = Client::new().map_err(std::io::Error::other)?.send(&target, &text);
        Ok::<_, std::io::Error>((refusal, outcome.to_string()))
    });

    let mut batch = Batch::new();
    while batch.is_empty() {
        let queue = server.event_queue().ok_or("the server lives in another loop")?;
        // For ever: the timer is in the descriptor.
        match poll(&mut [PollFd::new(queue, PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = server.process()?;
        server.drain_into(&mut batch);
        for entry in &batch {
            println!("{} from {}: {}", entry.id(), entry.peer(), entry.message().json());
        }
    }
    server.shutdown(Duration::from_secs(1))?;
    let (refusal, outcome) = sender.join().map_err(|_| "the sender panicked")??;
    print!("the silent one was told: {refusal}");
    println!("the sender was told: {outcome}");
    Ok(())
}
