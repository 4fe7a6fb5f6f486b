//! The protocol without any I/O: an `Endpoint` that is given bytes and time, and gives bytes back.
//!
//! This is what simulations, fuzzers and hosts with an unusual loop drive.
//!
//! `cargo run --example drive_endpoint`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

use udsmsg::parts::{AuthToken, Mono, Now, Step};
use udsmsg::{Endpoint, Error, Limits, PeerIdentity, Wall};

fn main() -> Result<(), Error> {
    let auth_token = AuthToken::from_bytes([7; 32]);
    let line = format!(
        r#"{{"type":"text","data":"no socket was opened","meta":{{"authToken":"{}"}}}}"#,
        auth_token.expose()
    );
    let mut endpoint = Endpoint::new("/nowhere/messaging.sock", auth_token, Limits::default())?;

    // A client connects, sends one line, and half-closes.
    let now = Now { mono: Mono::default(), wall: Wall::from_millis(1_795_341_600_000) };
    let Some(key) = endpoint.accepted(PeerIdentity::unix(1000, Some(1)), now) else { return Ok(()) };
    let taken = endpoint.received_bytes(key, format!("{line}\n").as_bytes(), now);
    println!("{taken} bytes taken");
    endpoint.end_of_input(key, now);

    // What is to be done with its stream.
    while let Some((key, step)) = endpoint.next_step() {
        match step {
            Step::Write => {
                let output = endpoint.output(key).to_vec();
                print!("write {}", String::from_utf8_lossy(&output));
                endpoint.sent(key, output.len(), now);
            }
            Step::Read | Step::ShutWrite => {}
            Step::Close(reason) => println!("close: {reason:?}"),
        }
    }
    endpoint.turn_ended();

    for entry in &endpoint.drain() {
        println!("{}: {}", entry.id(), entry.message().json());
    }
    Ok(())
}
