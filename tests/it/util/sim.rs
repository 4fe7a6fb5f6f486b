//! A virtual world: an `Endpoint`, a clock that stands still until it is moved, and peers in memory.

use std::collections::VecDeque;
use std::time::Duration;

use udsmsg::parts::{AuthToken, CloseReason, ConnKey, Mono, Now, Step};
use udsmsg::{Batch, Endpoint, Limits, PeerIdentity, Wall};

use super::Dice;

pub const PATH: &str = "/tmp/sim/messaging.sock";
pub const OWNER: u32 = 1000;
/// The wall clock at the origin of the virtual one: 2026-11-22T10:00:00.000Z.
const EPOCH: u64 = 1_795_341_600_000;
/// The longest error line, and what is added to it beyond the bound on output.
const ERROR_LINE_MAX: usize = 256;

pub fn token() -> AuthToken {
    AuthToken::from_bytes([0xa5; 32])
}

/// The handle of a peer in a [`Sim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(usize);

/// One peer: two byte pipes and what happened to them.
pub struct Peer {
    key: Option<ConnKey>,
    identity: PeerIdentity,
    /// Sent and not yet read by the server.
    inbound: VecDeque<u8>,
    has_finished: bool,
    is_end_told: bool,
    /// It closed both sides: what is written to it is lost.
    is_gone: bool,
    /// What the server wrote and the peer has not taken.
    outbound: Vec<u8>,
    /// How much of that fits.
    pub room: usize,
    /// The server refused to read and has not yet asked for a read again.
    is_read_refused: bool,
    pub is_write_shut: bool,
    pub closed: Option<CloseReason>,
    /// It was closed without having been given a key.
    pub is_turned_away: bool,
}

/// The world.
pub struct Sim {
    pub endpoint: Endpoint,
    pub limits: Limits,
    now_ms: u64,
    peers: Vec<Peer>,
    backlog: VecDeque<Id>,
    /// At most so many bytes are there for one read.
    pub read_max: usize,
    /// Seeded faults: short reads, short writes.
    pub faults: Option<Dice>,
    pub turns: usize,
}

impl Sim {
    pub fn new(tweak: impl FnOnce(&mut Limits)) -> Self {
        super::trace::print_if_asked();
        let mut limits = Limits::default();
        tweak(&mut limits);
        Self {
            endpoint: Endpoint::new(PATH, token(), limits.clone()).unwrap(),
            limits,
            now_ms: 0,
            peers: Vec::new(),
            backlog: VecDeque::new(),
            read_max: usize::MAX,
            faults: None,
            turns: 0,
        }
    }

    pub fn now(&self) -> Now {
        Now {
            mono: Mono::after_origin(Duration::from_millis(self.now_ms)),
            wall: Wall::from_millis(EPOCH + self.now_ms),
        }
    }

    // Peers.

    /// A peer connects: it waits in the backlog until a turn accepts it.
    pub fn connect(&mut self) -> Id {
        self.connect_as(PeerIdentity::unix(OWNER, Some(77)))
    }

    pub fn connect_as(&mut self, identity: PeerIdentity) -> Id {
        let id = Id(self.peers.len());
        self.peers.push(Peer {
            key: None,
            identity,
            inbound: VecDeque::new(),
            has_finished: false,
            is_end_told: false,
            is_gone: false,
            outbound: Vec::new(),
            room: 1 << 20,
            is_read_refused: false,
            is_write_shut: false,
            closed: None,
            is_turned_away: false,
        });
        self.backlog.push_back(id);
        id
    }

    /// The peer writes; `$TOKEN` is the token. Lost if the server has closed.
    pub fn send(&mut self, id: Id, template: &[u8]) {
        let bytes = super::fill(template, token().expose(), PATH);
        self.send_raw(id, &bytes);
    }

    pub fn send_raw(&mut self, id: Id, bytes: &[u8]) {
        let peer = &mut self.peers[id.0];
        assert!(!peer.has_finished, "it sends after its half-close");
        if peer.closed.is_none() {
            peer.inbound.extend(bytes);
        }
    }

    pub fn half_close(&mut self, id: Id) {
        self.peers[id.0].has_finished = true;
    }

    /// The peer closes both sides.
    pub fn vanish(&mut self, id: Id) {
        self.half_close(id);
        self.peers[id.0].is_gone = true;
    }

    /// The peer takes all that was written to it.
    pub fn take(&mut self, id: Id) -> String {
        String::from_utf8(std::mem::take(&mut self.peers[id.0].outbound)).unwrap()
    }

    /// The peer takes at most `n` bytes.
    pub fn take_some(&mut self, id: Id, n: usize) -> usize {
        let outbound = &mut self.peers[id.0].outbound;
        let n = n.min(outbound.len());
        outbound.drain(..n);
        n
    }

    pub fn peer(&mut self, id: Id) -> &mut Peer {
        &mut self.peers[id.0]
    }

    pub fn closed(&self, id: Id) -> Option<CloseReason> {
        self.peers[id.0].closed
    }

    pub fn is_open(&self, id: Id) -> bool {
        !self.peers[id.0].is_turned_away && self.peers[id.0].closed.is_none()
    }

    pub fn key(&self, id: Id) -> ConnKey {
        self.peers[id.0].key.expect("it was accepted")
    }

    /// Bytes that the peer sent and the server has not read.
    pub fn unread(&self, id: Id) -> usize {
        self.peers[id.0].inbound.len()
    }

    // The host.

    fn roll(&mut self, bound: usize) -> usize {
        match &mut self.faults {
            Some(dice) if bound > 1 => 1 + dice.below(bound),
            _ => bound,
        }
    }

    /// One turn, in the order that the endpoint documents.
    pub fn turn(&mut self) {
        self.turns += 1;
        let now = self.now();
        self.endpoint.work(now);
        for at in 0..self.peers.len() {
            self.read(Id(at), now);
        }
        for at in 0..self.peers.len() {
            if let Some(key) = self.peers[at].key.filter(|_| self.peers[at].closed.is_none()) {
                self.write(Id(at), key, now);
            }
        }
        self.take_steps(now);
        for _ in 0..self.limits.turn_accepts_max {
            if !self.endpoint.can_accept() {
                break;
            }
            let Some(id) = self.backlog.pop_front() else { break };
            let identity = self.peers[id.0].identity;
            let is_trusted = [Some(OWNER), Some(0)].contains(&identity.uid());
            if !is_trusted {
                self.endpoint.stranger_refused(identity);
            }
            match is_trusted.then(|| self.endpoint.accepted(identity, now)).flatten() {
                Some(key) => {
                    assert!(key.index() < self.endpoint.slots_max());
                    let held =
                        |p: &&Peer| p.closed.is_none() && p.key.is_some_and(|k| k.index() == key.index());
                    assert!(!self.peers.iter().any(|p| held(&p)), "{key:?} is still in use");
                    self.peers[id.0].key = Some(key);
                }
                None => self.peers[id.0].is_turned_away = true,
            }
            self.take_steps(now);
        }
        self.endpoint.deadlines_reached(now);
        self.take_steps(now);
        self.endpoint.turn_ended();
        self.check();
    }

    fn read(&mut self, id: Id, now: Now) {
        let peer = &self.peers[id.0];
        let Some(key) = peer.key else { return };
        let has_something = !peer.inbound.is_empty() || (peer.has_finished && !peer.is_end_told);
        if peer.closed.is_some() || peer.is_read_refused || !has_something {
            return;
        }
        let available = self.read_max.min(peer.inbound.len());
        let available = self.roll(available);
        let Some(mut space) = self.endpoint.recv_space(key, now) else {
            self.peers[id.0].is_read_refused = true;
            return;
        };
        assert!(!space.is_empty(), "a read into nothing looks like the end");
        let peer = &mut self.peers[id.0];
        let n = available.min(space.len());
        for (to, from) in space.iter_mut().zip(peer.inbound.drain(..n)) {
            *to = from;
        }
        let is_end = n == 0;
        space.received(n);
        if is_end {
            self.peers[id.0].is_end_told = true;
            if self.peers[id.0].is_gone {
                self.endpoint.output_failed(key);
            }
            self.endpoint.end_of_input(key, now);
        }
    }

    fn write(&mut self, id: Id, key: ConnKey, now: Now) {
        let len = self.endpoint.output(key).len();
        if len == 0 {
            return;
        }
        if self.peers[id.0].is_gone {
            self.endpoint.output_failed(key);
            return;
        }
        let free = self.peers[id.0].room.saturating_sub(self.peers[id.0].outbound.len());
        let n = self.roll(free.min(len)).min(free);
        if n > 0 {
            assert!(!self.peers[id.0].is_write_shut, "wrote after its write side was shut");
            self.peers[id.0].outbound.extend_from_slice(&self.endpoint.output(key)[..n]);
            self.endpoint.sent(key, n, now);
        }
    }

    fn take_steps(&mut self, now: Now) {
        let mut steps = 0;
        while let Some((key, step)) = self.endpoint.next_step() {
            steps += 1;
            assert!(steps < 100_000, "the steps never end");
            let at = self.peers.iter().position(|p| p.key == Some(key) && p.closed.is_none());
            // A connection may be closed before its key was handed out.
            let Some(at) = at else {
                assert!(matches!(step, Step::Close(_)), "{step:?} for a stale key");
                continue;
            };
            match step {
                Step::Write => self.write(Id(at), key, now),
                Step::Read => self.peers[at].is_read_refused = false,
                Step::ShutWrite => self.peers[at].is_write_shut = true,
                Step::Close(reason) => self.peers[at].closed = Some(reason),
            }
        }
    }

    /// What must hold after every turn.
    fn check(&mut self) {
        assert!(self.endpoint.clients() <= self.limits.clients_max);
        assert!(self.endpoint.inbox_len() <= self.limits.inbox_entries_max);
        for peer in &self.peers {
            if let (Some(key), None) = (peer.key, peer.closed) {
                let len = self.endpoint.output(key).len();
                assert!(len <= self.limits.output_bytes_max + ERROR_LINE_MAX, "{len} bytes of output");
            }
        }
    }

    fn is_busy(&self) -> bool {
        let can_read = |p: &Peer| {
            p.key.is_some()
                && p.closed.is_none()
                && !p.is_read_refused
                && (!p.inbound.is_empty() || (p.has_finished && !p.is_end_told))
        };
        let can_write = |p: &Peer| match (p.key, p.closed) {
            (Some(key), None) => {
                !self.endpoint.output(key).is_empty() && (p.is_gone || p.room > p.outbound.len())
            }
            _ => false,
        };
        self.endpoint.has_work()
            || (!self.backlog.is_empty() && self.endpoint.can_accept())
            || self.peers.iter().any(|p| can_read(p) || can_write(p))
    }

    /// Turns until there is nothing to do at this moment.
    pub fn run(&mut self) {
        self.turn();
        let mut turns = 0;
        while self.is_busy() {
            self.turn();
            turns += 1;
            assert!(turns < 1_000_000, "it never becomes idle");
        }
    }

    /// Time passes without a turn: the host is away.
    pub fn host_away(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// Time passes with a turn at every deadline and at the end.
    pub fn advance(&mut self, ms: u64) {
        let target = self.now_ms + ms;
        self.run();
        loop {
            let before = self.now().mono;
            let Some(deadline) = self.endpoint.next_deadline() else { break };
            assert!(
                deadline > before,
                "a deadline that has passed is still there: {deadline:?} at {before:?}"
            );
            let at = deadline.as_nanos().div_ceil(1_000_000);
            if at > target {
                break;
            }
            self.now_ms = at;
            self.run();
        }
        self.now_ms = target;
        self.run();
    }

    /// What is in the inbox, as JSON; takes it out.
    pub fn drain(&mut self) -> Vec<String> {
        let mut batch = Batch::new();
        self.endpoint.drain_into(&mut batch);
        batch.iter().map(|entry| entry.message().json().to_owned()).collect()
    }

    /// Sends `template` and returns the answer.
    pub fn ask(&mut self, id: Id, template: &[u8]) -> String {
        self.send(id, template);
        self.run();
        self.take(id)
    }

    /// A connected peer.
    pub fn join(&mut self) -> Id {
        let id = self.connect();
        self.run();
        id
    }

    /// A connected peer that has authenticated.
    pub fn join_known(&mut self) -> Id {
        let id = self.join();
        let answer = self.ask(id, &super::ping());
        assert!(answer.starts_with(r#"{"type":"pong""#), "{answer}");
        id
    }

    /// Asserts that the last line to this peer was the error `reason`, with no other line before it.
    #[track_caller]
    pub fn expect_error(&mut self, id: Id, reason: &str) {
        let line = self.take(id);
        assert!(super::matches(&super::error(reason), line.trim_end()), "expected {reason:?}, got {line:?}");
    }
}
