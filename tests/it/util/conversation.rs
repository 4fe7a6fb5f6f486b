//! Conversations as data: one table, run against `Endpoint` on a virtual clock and, with the feature
//! `server`, against a real socket, with the bytes arriving whole, one by one, and cut in two at every place.

#[cfg(feature = "server")]
use std::time::Instant;

use udsmsg::Limits;

#[cfg(feature = "server")]
use super::in_json;
#[cfg(feature = "server")]
use super::real::{PATIENCE, Real};
use super::sim::{PATH, Sim, token};
#[cfg(feature = "server")]
use super::watchdog;
use super::{fill, matches};

/// One step of a client.
#[derive(Clone, Debug)]
pub enum Step {
    /// It writes; `$TOKEN` and `$PATH` are filled in.
    Send(Vec<u8>),
    /// It half-closes.
    HalfClose,
    /// It reads a line like this.
    Expect(String),
    /// It reads the end.
    ExpectEnd,
    /// Time passes with a turn at every deadline. Virtual clock only.
    Advance(u64),
    /// The owner drains exactly these.
    Inbox(Vec<String>),
}

pub use Step::{Advance, Expect, ExpectEnd, HalfClose, Inbox, Send};

/// One conversation.
pub struct Case {
    pub name: &'static str,
    pub limits: fn(&mut Limits),
    pub steps: Vec<Step>,
}

impl Case {
    pub fn new(name: &'static str, steps: Vec<Step>) -> Self {
        Self { name, limits: |_| (), steps }
    }

    pub fn with(mut self, limits: fn(&mut Limits)) -> Self {
        self.limits = limits;
        self
    }

    fn sent_bytes(&self) -> usize {
        let sent = |step: &Step| match step {
            Send(bytes) => bytes.len(),
            _ => 0,
        };
        self.steps.iter().map(sent).sum()
    }

    /// A pipe cannot do that.
    #[cfg(feature = "server")]
    fn half_closes(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, HalfClose))
    }

    fn needs_virtual_clock(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Advance(_)))
    }
}

pub fn send(bytes: impl AsRef<[u8]>) -> Step {
    Send(bytes.as_ref().to_vec())
}

/// A frame on a connection of its own, and the error that it gets.
pub fn refused(name: &'static str, line: impl AsRef<[u8]>, reason: &str) -> Case {
    let mut line = line.as_ref().to_vec();
    line.push(b'\n');
    Case::new(name, vec![Send(line), Expect(super::error(reason)), ExpectEnd, Inbox(vec![])])
}

/// A frame that is accepted, and what the owner gets.
pub fn accepted(name: &'static str, line: impl AsRef<[u8]>, stored: &str) -> Case {
    let mut line = line.as_ref().to_vec();
    line.push(b'\n');
    Case::new(name, vec![Send(line), Expect(super::ok(1)), Inbox(vec![stored.to_owned()])])
}

/// How what is sent arrives.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    Whole,
    Bytes,
    SplitAt(usize),
}

/// Runs every case in every way that it allows.
pub fn check(cases: &[Case]) {
    for case in cases {
        in_sim(case, Pieces::Whole);
        in_sim(case, Pieces::Bytes);
        let sent = case.sent_bytes();
        if sent <= 2_000 {
            let longest = case.steps.iter().map(|step| match step {
                Send(bytes) => fill(bytes, token().expose(), PATH).len(),
                _ => 0,
            });
            for at in 1..longest.max().unwrap_or(0) {
                in_sim(case, Pieces::SplitAt(at));
            }
        }
        #[cfg(feature = "server")]
        if !case.needs_virtual_clock() && (cfg!(unix) || !case.half_closes()) {
            on_a_socket(case, Pieces::Whole);
            if sent <= 4_000 {
                on_a_socket(case, Pieces::Bytes);
            }
        }
    }
}

fn in_sim(case: &Case, pieces: Pieces) {
    let mut sim = Sim::new(case.limits);
    let peer = sim.join();
    let mut seen = String::new();
    let place = |at: usize| format!("{:?}, virtual, {pieces:?}, step {at}: {:?}", case.name, case.steps[at]);
    for (at, step) in case.steps.iter().enumerate() {
        match step {
            Send(bytes) => {
                let bytes = fill(bytes, token().expose(), PATH);
                let cut = match pieces {
                    Pieces::Whole => bytes.len().max(1),
                    Pieces::Bytes => 1,
                    Pieces::SplitAt(at) => at.min(bytes.len()).max(1),
                };
                let (first, rest) = bytes.split_at(cut.min(bytes.len()));
                sim.send_raw(peer, first);
                sim.run();
                let size = if matches!(pieces, Pieces::Bytes) { 1 } else { rest.len().max(1) };
                for piece in rest.chunks(size) {
                    sim.send_raw(peer, piece);
                    sim.run();
                }
            }
            HalfClose => {
                sim.half_close(peer);
                sim.run();
            }
            Expect(pattern) => {
                seen.push_str(&sim.take(peer));
                let (line, rest) = seen.split_once('\n').unwrap_or_else(|| panic!("{}: no line", place(at)));
                assert!(matches(&pattern.replace("$PATH", PATH), line), "{}: got {line}", place(at));
                seen = rest.to_owned();
            }
            ExpectEnd => {
                seen.push_str(&sim.take(peer));
                assert!(seen.is_empty(), "{}: more came: {seen}", place(at));
                let is_shut = sim.peer(peer).is_write_shut || sim.closed(peer).is_some();
                assert!(is_shut, "{}: still open", place(at));
            }
            Advance(ms) => sim.advance(*ms),
            Inbox(expected) => assert_eq!(sim.drain(), *expected, "{}", place(at)),
        }
    }
    seen.push_str(&sim.take(peer));
    assert!(seen.is_empty(), "{:?}, virtual, {pieces:?}: unexpected output: {seen}", case.name);
}

#[cfg(feature = "server")]
fn on_a_socket(case: &Case, pieces: Pieces) {
    let _watchdog = watchdog::watch(case.name);
    let real = Real::start(case.limits);
    let mut peer = real.connect();
    let place = |at: usize| format!("{:?}, real, {pieces:?}, step {at}: {:?}", case.name, case.steps[at]);
    for (at, step) in case.steps.iter().enumerate() {
        match step {
            Send(bytes) if matches!(pieces, Pieces::Bytes) => peer.send_bytewise(bytes),
            Send(bytes) => peer.send(bytes),
            HalfClose => peer.half_close(),
            Expect(pattern) => {
                let line = peer.line().unwrap_or_else(|| panic!("{}: the end", place(at)));
                let pattern = pattern.replace("$PATH", &in_json(&real.path));
                assert!(matches(&pattern, &line), "{}: got {line}", place(at));
            }
            ExpectEnd => assert_eq!(peer.line(), None, "{}", place(at)),
            Advance(_) => unreachable!("needs a virtual clock"),
            Inbox(expected) => {
                let mut found = real.drain();
                // The server may not have read everything yet.
                let patience = Instant::now() + PATIENCE;
                while found.len() < expected.len() && Instant::now() < patience {
                    found.extend(real.drain());
                }
                assert_eq!(found, *expected, "{}", place(at));
            }
        }
    }
}
