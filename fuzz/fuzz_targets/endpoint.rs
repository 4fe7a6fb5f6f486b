//! `Endpoint` under any list of operations: peers that connect, send, stop, take and vanish while time
//! passes.
//!
//! The token is fixed, so that the fuzzer passes authentication. After each operation the bounds must hold;
//! at the end the answers to each peer match its lines exactly.
#![no_main]

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use udsmsg::parts::{AuthToken, CloseReason, ConnKey, Mono, Now, Step};
use udsmsg::{Batch, Endpoint, Limits, PeerIdentity, Wall};

const OWNER: u32 = 1000;
const PEERS_MAX: usize = 64;
/// The longest error line.
const ERROR_LINE_MAX: usize = 256;

#[derive(Arbitrary, Debug)]
struct Input {
    limits: Small,
    operations: Vec<Operation>,
}

/// Limits so small that all of them are reached.
#[derive(Arbitrary, Debug)]
struct Small {
    clients: u8,
    frame: u8,
    unfinished: u8,
    entries: u8,
    inbox_bytes: u16,
    turn_frames: u8,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Connect {
        is_stranger: bool,
        room: u16,
    },
    Send {
        peer: u8,
        piece: Piece,
    },
    HalfClose {
        peer: u8,
    },
    Vanish {
        peer: u8,
    },
    /// How many bytes the peer's side still takes: 0 blocks the writes.
    Room {
        peer: u8,
        room: u16,
    },
    Broken {
        peer: u8,
    },
    Advance {
        ms: u16,
    },
    /// The host's clock steps back for the time of one turn.
    TurnInThePast {
        ms: u16,
    },
    Turn,
    Drain,
    Shutdown,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Text {
        len: u8,
    },
    Ping,
    WrongToken,
    NoType,
    Blank {
        len: u8,
    },
    /// The first bytes of a good message; the rest may follow in another piece.
    Part {
        from: u8,
        to: u8,
    },
    Long,
    Raw(Vec<u8>),
}

impl Piece {
    fn bytes(&self, token: &str) -> Vec<u8> {
        let line = |data: usize| {
            format!(
                "{{\"type\":\"text\",\"data\":\"{}\",\"meta\":{{\"authToken\":\"{token}\"}}}}\n",
                "x".repeat(data)
            )
            .into_bytes()
        };
        match self {
            Self::Text { len } => line(usize::from(*len)),
            Self::Ping => {
                format!("{{\"type\":\"ping\",\"meta\":{{\"authToken\":\"{token}\"}}}}\n").into_bytes()
            }
            Self::WrongToken => {
                format!("{{\"type\":\"x\",\"meta\":{{\"authToken\":\"{}\"}}}}\n", &token[1..]).into_bytes()
            }
            Self::NoType => format!("{{\"meta\":{{\"authToken\":\"{token}\"}}}}\n").into_bytes(),
            Self::Blank { len } => b" \t\r\n".repeat(usize::from(*len)),
            Self::Part { from, to } => {
                let whole = line(0);
                let from = usize::from(*from).min(whole.len());
                let to = usize::from(*to).clamp(from, whole.len());
                whole[from..to].to_vec()
            }
            Self::Long => vec![b'y'; 700],
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

struct Peer {
    key: ConnKey,
    inbound: VecDeque<u8>,
    has_finished: bool,
    is_end_told: bool,
    is_gone: bool,
    is_read_refused: bool,
    is_write_shut: bool,
    is_closed: bool,
    has_lost: bool,
    room: usize,
    /// Answers that say ok, and whether it was sent an error, which is always the last line.
    responses: u64,
    has_error: bool,
    line: Vec<u8>,
}

struct World {
    endpoint: Endpoint,
    limits: Limits,
    now_ms: u64,
    peers: Vec<Peer>,
    backlog: VecDeque<(bool, usize)>,
    /// Indices handed out and not free before the end of this turn.
    used_in_turn: HashSet<usize>,
    batch: Batch,
    drained: u64,
}

impl World {
    fn now(&self) -> Now {
        Now {
            mono: Mono::after_origin(Duration::from_millis(self.now_ms)),
            wall: Wall::from_millis(1_795_341_600_000 + self.now_ms),
        }
    }

    fn alive(&mut self, peer: u8) -> Option<&mut Peer> {
        let count = self.peers.len().max(1);
        self.peers.get_mut(usize::from(peer) % count).filter(|peer| !peer.is_closed)
    }

    fn read(&mut self, at: usize) {
        let now = self.now();
        let peer = &mut self.peers[at];
        let has_something = !peer.inbound.is_empty() || (peer.has_finished && !peer.is_end_told);
        if peer.is_closed || peer.is_read_refused || !has_something {
            return;
        }
        let Some(mut space) = self.endpoint.recv_space(peer.key, now) else {
            peer.is_read_refused = true;
            return;
        };
        assert!(!space.is_empty() && space.len() <= self.limits.frame_bytes_max + 1);
        let n = space.len().min(peer.inbound.len());
        for (to, from) in space.iter_mut().zip(peer.inbound.drain(..n)) {
            *to = from;
        }
        space.received(n);
        if n == 0 {
            peer.is_end_told = true;
            if peer.is_gone {
                peer.has_lost = true;
                self.endpoint.output_failed(peer.key);
            }
            self.endpoint.end_of_input(peer.key, now);
        }
    }

    fn write(&mut self, at: usize) {
        let now = self.now();
        let peer = &mut self.peers[at];
        let output = self.endpoint.output(peer.key);
        if peer.is_closed || output.is_empty() {
            return;
        }
        if peer.is_gone {
            peer.has_lost = true;
            self.endpoint.output_failed(peer.key);
            return;
        }
        let n = peer.room.min(output.len());
        if n == 0 {
            return;
        }
        assert!(!peer.is_write_shut, "written after the write side was shut");
        peer.room -= n;
        for byte in &output[..n] {
            peer.line.push(*byte);
            if *byte == b'\n' {
                assert!(!peer.has_error, "something behind an error line");
                peer.has_error = peer.line.starts_with(b"{\"type\":\"error\"");
                peer.responses += u64::from(peer.line.starts_with(b"{\"type\":\"response\""));
                peer.line.clear();
            }
        }
        self.endpoint.sent(peer.key, n, now);
    }

    fn take_steps(&mut self) {
        let mut count = 0;
        while let Some((key, step)) = self.endpoint.next_step() {
            count += 1;
            assert!(count < 10_000, "the steps never end");
            let Some(at) = self.peers.iter().position(|peer| peer.key == key && !peer.is_closed) else {
                assert!(matches!(step, Step::Close(_)), "{step:?} for a stale key");
                continue;
            };
            match step {
                Step::Write => self.write(at),
                Step::Read => self.peers[at].is_read_refused = false,
                Step::ShutWrite => {
                    assert!(!self.peers[at].is_write_shut);
                    self.peers[at].is_write_shut = true;
                }
                Step::Close(reason) => {
                    let peer = &mut self.peers[at];
                    peer.is_closed = true;
                    // Behind an error line nothing can be missing, and a peer that finished got all if no
                    // time passed.
                    let has_all = peer.has_error || (reason == CloseReason::PeerFinished && self.now_ms == 0);
                    peer.has_lost |= !has_all;
                }
            }
        }
    }

    fn turn(&mut self) {
        let now = self.now();
        self.endpoint.work(now);
        for at in 0..self.peers.len() {
            self.read(at);
        }
        for at in 0..self.peers.len() {
            self.write(at);
        }
        self.take_steps();
        while self.endpoint.can_accept() {
            let Some((is_stranger, room)) = self.backlog.pop_front() else { break };
            if is_stranger {
                self.endpoint.stranger_refused(PeerIdentity::unix(OWNER + 1, None));
                continue;
            }
            let key = self.endpoint.accepted(PeerIdentity::unix(OWNER, None), now).expect("there was room");
            assert!(key.index() < self.endpoint.slots_max());
            assert!(self.peers.iter().all(|peer| peer.key != key), "a key is used twice");
            let is_taken = self.peers.iter().any(|peer| !peer.is_closed && peer.key.index() == key.index());
            assert!(!is_taken && self.used_in_turn.insert(key.index()), "an index is used twice in one turn");
            self.peers.push(Peer {
                key,
                inbound: VecDeque::new(),
                has_finished: false,
                is_end_told: false,
                is_gone: false,
                is_read_refused: false,
                is_write_shut: false,
                is_closed: false,
                has_lost: false,
                room,
                responses: 0,
                has_error: false,
                line: Vec::new(),
            });
            self.take_steps();
        }
        self.endpoint.deadlines_reached(now);
        self.take_steps();
        self.endpoint.turn_ended();
        self.used_in_turn = self.peers.iter().filter(|p| !p.is_closed).map(|p| p.key.index()).collect();
        let now = now.mono;
        if let Some(deadline) = self.endpoint.next_deadline() {
            assert!(deadline > now, "what was due has been dealt with");
            assert_eq!(self.endpoint.next_deadline(), Some(deadline), "asking changes nothing");
        }
    }

    fn check(&self) {
        assert!(self.endpoint.clients() <= self.limits.clients_max);
        assert!(self.endpoint.inbox_len() <= self.limits.inbox_entries_max);
        assert_eq!(self.endpoint.accepted_total(), self.drained + self.endpoint.inbox_len() as u64);
        for peer in &self.peers {
            let output = self.endpoint.output(peer.key);
            assert!(output.is_empty() || !peer.is_closed, "output under a stale key");
            assert!(output.len() <= self.limits.output_bytes_max + ERROR_LINE_MAX);
        }
    }

    fn drain(&mut self) {
        self.endpoint.drain_into(&mut self.batch);
        let mut bytes = 0;
        for entry in &self.batch {
            self.drained += 1;
            assert_eq!(entry.id().number(), self.drained, "ids have no gap");
            bytes += entry.message().json().len();
            let again =
                udsmsg::Message::from_json(entry.message().json()).expect("what is stored is a message");
            assert_eq!(again.kind(), entry.message().kind());
            assert!(!entry.message().json().contains(TOKEN), "the token is in the inbox");
        }
        assert!(bytes <= self.limits.inbox_bytes_max);
    }

    fn apply(&mut self, operation: &Operation) {
        let token = TOKEN;
        match operation {
            Operation::Connect { is_stranger, room } => {
                if self.peers.len() + self.backlog.len() < PEERS_MAX {
                    self.backlog.push_back((*is_stranger, usize::from(*room)));
                }
            }
            Operation::Send { peer, piece } => {
                if let Some(peer) = self.alive(*peer).filter(|peer| !peer.has_finished) {
                    peer.inbound.extend(piece.bytes(token));
                }
            }
            Operation::HalfClose { peer } => {
                if let Some(peer) = self.alive(*peer) {
                    peer.has_finished = true;
                }
            }
            Operation::Vanish { peer } => {
                if let Some(peer) = self.alive(*peer) {
                    (peer.has_finished, peer.is_gone) = (true, true);
                }
            }
            Operation::Room { peer, room } => {
                if let Some(peer) = self.alive(*peer) {
                    peer.room = usize::from(*room);
                }
            }
            Operation::Broken { peer } => {
                if let Some(peer) = self.alive(*peer) {
                    peer.has_lost = true;
                    let key = peer.key;
                    self.endpoint.broken(key);
                    self.take_steps();
                }
            }
            Operation::Advance { ms } => self.now_ms += u64::from(*ms),
            Operation::TurnInThePast { ms } => {
                let latest = self.now_ms;
                self.now_ms = latest.saturating_sub(u64::from(*ms));
                self.turn();
                self.now_ms = latest;
            }
            Operation::Turn => self.turn(),
            Operation::Drain => self.drain(),
            Operation::Shutdown => {
                let now = self.now();
                self.endpoint.shutdown(now);
                self.take_steps();
            }
        }
    }
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fuzz_target!(|input: Input| {
    let small = &input.limits;
    let mut limits = Limits::default();
    limits.clients_max = 1 + usize::from(small.clients % 8);
    limits.frame_bytes_max = 1 + 2 * usize::from(small.frame);
    limits.unfinished_bytes_max = usize::from(small.unfinished % 4) * limits.frame_bytes_max;
    limits.inbox_entries_max = 1 + usize::from(small.entries);
    limits.inbox_bytes_max = 1 + usize::from(small.inbox_bytes);
    limits.output_bytes_max = 4096;
    limits.turn_frames_max = 1 + usize::from(small.turn_frames % 16);
    limits.turn_bytes_max = 1 << (small.turn_frames / 16);
    limits.turn_accepts_max = 4;
    // Sometimes all of them are one process with a share and a rate.
    if small.unfinished & 0x30 == 0x10 {
        limits.pid_lines_per_second_max = 1 + usize::from(small.unfinished >> 6);
    }
    if small.unfinished & 0x0c == 0x04 {
        limits.inbox_share_percent_max = 1 + usize::from(small.entries % 100);
    }
    let auth_token = AuthToken::parse(TOKEN).expect("64 digits");
    let mut world = World {
        endpoint: Endpoint::new("/s", auth_token, limits.clone()).expect("the limits are fine"),
        limits,
        now_ms: 0,
        peers: Vec::new(),
        backlog: VecDeque::new(),
        used_in_turn: HashSet::new(),
        batch: Batch::new(),
        drained: 0,
    };
    for operation in &input.operations {
        world.apply(operation);
        world.check();
    }
    // Every peer reads what is left and leaves: the endpoint must become idle, and hold nothing.
    for peer in &mut world.peers {
        peer.room = usize::MAX;
        peer.has_finished = true;
    }
    world.backlog.clear();
    // A turn takes a byte of each, or a line, at least.
    let unread: usize = world.peers.iter().map(|peer| peer.inbound.len()).sum();
    for _ in 0..20_000 + 2 * unread {
        world.now_ms += if world.limits.pid_lines_per_second_max > 0 { 100 } else { 0 };
        world.turn();
        if world.peers.iter().all(|peer| peer.is_closed) {
            break;
        }
    }
    assert!(world.peers.iter().all(|peer| peer.is_closed), "a connection is never closed");
    // Keys of closed connections may still be in a queue; one turn removes them.
    world.turn();
    assert_eq!(world.endpoint.clients(), 0);
    assert_eq!(world.endpoint.next_deadline(), None);
    assert!(!world.endpoint.has_work());
    world.drain();
    let responses: u64 = world.peers.iter().map(|peer| peer.responses).sum();
    assert!(responses <= world.drained);
    if world.peers.iter().all(|peer| !peer.has_lost) {
        assert_eq!(responses, world.drained, "one answer for each message that was taken");
    }
});
