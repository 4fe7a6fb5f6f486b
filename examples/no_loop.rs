//! A host without any loop to wait in, as a game: it has frames to draw, and gives the server a turn in each.
//!
//! `cargo run --example no_loop`

#![allow(clippy::print_stdout, reason = "printing is what an example is for")]

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use udsmsg::{Batch, Client, Limits, Outgoing, Server};

/// 60 frames a second.
const FRAME: Duration = Duration::from_micros(16_667);

fn main() -> Result<(), Box<dyn Error>> {
    // A frame has no time to spare: at most 16 lines of a client, and 8 newcomers, in one turn.
    let mut limits = Limits::default();
    limits.turn_frames_max = 16;
    limits.turn_accepts_max = 8;
    let mut server = Server::builder().limits(limits).start()?;
    println!("listening at {}", server.address());

    let target = server.address().clone();
    let sender = thread::spawn(move || {
        let text = Outgoing::new("text").with_text("hello between two frames");
        Client::new().map(|mut client| (client.ping(&target), client.send(&target, &text)))
    });

    let mut batch = Batch::new();
    let (mut frames, mut longest) = (0, Duration::ZERO);
    let mut next_frame = Instant::now();
    while batch.is_empty() {
        // The game's own work would be here.
        frames += 1;
        // Never waits. What it leaves undone (`Turn::more`) comes in the next frame.
        let begun = Instant::now();
        let _ = server.process()?;
        longest = longest.max(begun.elapsed());
        server.drain_into(&mut batch);
        for entry in &batch {
            println!("frame {frames}: {}: {}", entry.id(), entry.message().json());
        }
        next_frame += FRAME;
        thread::sleep(next_frame.saturating_duration_since(Instant::now()));
    }
    println!("{frames} frames, the longest turn took {longest:?}");
    server.shutdown(Duration::from_secs(1))?;
    let (pinged, sent) = sender.join().map_err(|_| "the sender panicked")??;
    println!("the sender was told: {pinged}, {sent}");
    Ok(())
}
