//! An `Outbox` that sends to real `Endpoint`s over pipes in memory that fail, for the random test and the
//! fuzzer.
//!
//! Operations come as triples of bytes; any are valid. At the end the inboxes and the outcomes are compared.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use udsmsg::parts::{AuthToken, ConnKey, LinkStep, Mono, Now, Outbox, Step};
use udsmsg::{Batch, Endpoint, Error, ErrorKind, Limits, Outgoing, PeerIdentity, SendId, SendOutcome, Wall};

const OWNER: u32 = 1000;
const RECEIVERS: usize = 2;
const MESSAGES_MAX: usize = 400;

/// One operation.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Send {
        to: usize,
        len: usize,
        timeout_ms: u64,
        is_ping: bool,
    },
    SenderTurns {
        bytes: usize,
    },
    ReceiverTurns {
        which: usize,
        bytes: usize,
    },
    Advance {
        ms: u64,
    },
    /// To the next deadline of the sender, exactly.
    AdvanceToDeadline,
    /// Of what is under way, so many bytes still arrive, and then the end.
    Cut {
        wire: usize,
        forth: usize,
        back: usize,
    },
    /// The receiver is killed, and another takes its place (or none does before its next kill).
    Kill {
        which: usize,
        stays_down: bool,
    },
    BacklogFull {
        which: usize,
        is_full: bool,
    },
    Drain {
        which: usize,
    },
    /// Another client takes a slot of the receiver, with or without sending.
    Squat {
        which: usize,
        speaks: bool,
    },
    SquatterLeaves,
    /// The capability that is read next is the one of the server before.
    OldToken,
    /// Attempts to connect are not answered until that is over.
    HoldConnects {
        are_held: bool,
    },
    /// On the next connection something is there to be read before anything was written.
    SpeakFirst {
        line: &'static str,
    },
}

/// What a receiver answers too early.
const EARLY: [&str; 4] = [
    "{\"type\":\"response\",\"meta\":{\"id\":\"early\"}}\n",
    "{\"type\":\"error\",\"data\":\"inbox full\"}\n",
    "{\"type\":\"error\",\"data\":\"too many clients\"}\n",
    "{\"type\":\"pong\"}\n{\"type\":\"response\"}\n",
];

impl Op {
    /// Every triple is an operation.
    pub fn from_bytes([op, a, b]: [u8; 3]) -> Self {
        let (which, n, m) = (usize::from(a) % RECEIVERS, usize::from(a), usize::from(b));
        match op % 32 {
            0..=6 => Self::Send {
                to: which,
                len: m % 128,
                timeout_ms: 1 + u64::from(a) * u64::from(b % 8),
                is_ping: b % 16 == 15,
            },
            7..=13 => Self::SenderTurns { bytes: 1 + n * (1 + m % 4) },
            14..=21 => Self::ReceiverTurns { which, bytes: 1 + m * (1 + n % 4) },
            22 | 23 => Self::Advance { ms: u64::from(b % 64) },
            24 => Self::AdvanceToDeadline,
            25 | 26 => Self::Cut { wire: n, forth: m, back: 255 - m },
            27 => match b % 16 {
                0..=4 => Self::Kill { which, stays_down: b % 16 == 4 },
                5 => Self::OldToken,
                6 | 7 => Self::HoldConnects { are_held: b % 16 == 6 },
                8 | 9 => Self::SpeakFirst { line: EARLY[n % EARLY.len()] },
                _ => Self::Drain { which },
            },
            28 => Self::BacklogFull { which, is_full: b % 4 == 3 },
            29 | 30 => Self::Drain { which },
            _ if b % 3 == 0 => Self::SquatterLeaves,
            _ => Self::Squat { which, speaks: b % 3 == 1 },
        }
    }
}

/// A connect error that counts as a busy receiver; only a real outcome contains one.
pub fn busy_error() -> Error {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    let at = |ms| Now { mono: Mono::after_origin(Duration::from_millis(ms)), wall: Wall::from_millis(0) };
    let _ = outbox.send("/x", &Outgoing::new("x"), None, Duration::from_millis(1), at(0)).unwrap();
    let (key, step) = outbox.next_step().unwrap();
    assert_eq!(step, LinkStep::Connect);
    outbox.connected(key, AuthToken::from_bytes([1; 32]), at(0));
    let line = b"{\"type\":\"error\",\"data\":\"too many clients\"}\n";
    let mut space = outbox.recv_space(key).unwrap();
    space[..line.len()].copy_from_slice(line);
    space.received(line.len(), at(0));
    outbox.deadlines_reached(at(1));
    match outbox.next_outcome() {
        Some((_, SendOutcome::NotSent(error))) if error.kind() == ErrorKind::Busy => error,
        other => panic!("not busy: {other:?}"),
    }
}

/// Any other connect error.
pub fn other_error() -> Error {
    AuthToken::parse("none").unwrap_err()
}

/// A connection: two pipes.
struct Wire {
    receiver: usize,
    /// The link, or none if it is a squatter's.
    client: Option<ConnKey>,
    server: Option<ConnKey>,
    /// It is in the backlog. Those that came first stand first in the list of wires.
    is_waiting: bool,
    forth: VecDeque<u8>,
    back: VecDeque<u8>,
    is_client_gone: bool,
    is_server_gone: bool,
    is_end_told: bool,
    is_read_refused: bool,
}

struct Receiver {
    endpoint: Endpoint,
    token: AuthToken,
    old_token: AuthToken,
    life: u8,
    is_down: bool,
    is_full: bool,
    /// Everything that was ever in an inbox: which server, which id, which message.
    inbox: Vec<(u8, String, usize)>,
}

struct Posted {
    receiver: usize,
    is_ping: bool,
    deadline: Mono,
    told: Option<(&'static str, Option<String>)>,
}

/// What became of all messages of a run.
pub type Counts = BTreeMap<&'static str, usize>;

/// The world.
pub struct World {
    outbox: Outbox,
    limits: Limits,
    pipe_bytes: usize,
    now_ms: u64,
    receivers: Vec<Receiver>,
    wires: Vec<Wire>,
    posted: Vec<Posted>,
    by_id: HashMap<SendId, usize>,
    uses_old_token: bool,
    /// Attempts to connect that were not answered yet, and to which receiver.
    connecting: Vec<(ConnKey, usize)>,
    holds_connects: bool,
    speaks_first: Option<&'static str>,
    /// Streams that are gone: what is reported of them must change nothing.
    stale: VecDeque<ConnKey>,
    counts: Counts,
    /// Connections wanted at this moment for a receiver since it last answered and since the last message to
    /// it.
    attempts: [usize; RECEIVERS],
    batch: Batch,
}

fn path(receiver: usize) -> String {
    format!("/r/{receiver}")
}

fn token(receiver: usize, life: u8) -> AuthToken {
    AuthToken::from_bytes([life.wrapping_mul(16).wrapping_add(u8::try_from(receiver).unwrap()); 32])
}

impl World {
    /// A world with limits so small that all of them are reached; `small` chooses them.
    pub fn new(small: [u8; 6]) -> Self {
        let mut limits = Limits::default();
        let [entries, clients, in_flight, turn_frames, pipe, outbox] = small.map(usize::from);
        limits.frame_bytes_max = 400;
        limits.inbox_entries_max = 1 + entries % 32;
        limits.clients_max = 1 + clients % 4;
        limits.in_flight_max = 1 + in_flight % 8;
        limits.turn_frames_max = 1 + turn_frames % 16;
        limits.outbox_entries_max = 1 + outbox % 64;
        limits.output_bytes_max = 4096;
        limits.auth_timeout = Duration::from_millis(40);
        limits.idle_timeout = Duration::from_millis(90);
        limits.frame_timeout = Duration::from_millis(120);
        limits.output_timeout = Duration::from_millis(100);
        limits.closing_timeout = Duration::from_millis(20);
        limits.eviction_age = Duration::from_millis(10);
        let receivers = (0..RECEIVERS)
            .map(|at| Receiver {
                endpoint: Endpoint::new(&path(at), token(at, 1), limits.clone()).unwrap(),
                token: token(at, 1),
                old_token: token(at, 0),
                life: 1,
                is_down: false,
                is_full: false,
                inbox: Vec::new(),
            })
            .collect();
        Self {
            outbox: Outbox::new(limits.clone()).unwrap(),
            limits,
            pipe_bytes: 1 + 4 * pipe,
            now_ms: 0,
            receivers,
            wires: Vec::new(),
            posted: Vec::new(),
            by_id: HashMap::new(),
            uses_old_token: false,
            connecting: Vec::new(),
            holds_connects: false,
            speaks_first: None,
            stale: VecDeque::new(),
            counts: Counts::new(),
            attempts: [0; RECEIVERS],
            batch: Batch::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Mono::after_origin(Duration::from_millis(self.now_ms)),
            wall: Wall::from_millis(1_795_341_600_000 + self.now_ms),
        }
    }

    /// Does the operation `op`.
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Send { to, len, timeout_ms, is_ping } => self.send(to, len, timeout_ms, is_ping),
            Op::SenderTurns { bytes } => self.sender_turns(bytes),
            Op::ReceiverTurns { which, bytes } => self.receiver_turns(which, bytes),
            Op::Advance { ms } => self.advance(ms),
            Op::AdvanceToDeadline => {
                if let Some(deadline) = self.outbox.next_deadline() {
                    self.advance((deadline.as_nanos() / 1_000_000).saturating_sub(self.now_ms));
                }
            }
            Op::Cut { wire, forth, back } => {
                let count = self.wires.len().max(1);
                if let Some(wire) = self.wires.get_mut(wire % count) {
                    wire.forth.truncate(forth);
                    wire.back.truncate(back);
                    (wire.is_client_gone, wire.is_server_gone) = (true, true);
                }
            }
            Op::Kill { which, stays_down } => self.kill(which, stays_down),
            Op::BacklogFull { which, is_full } => self.receivers[which].is_full = is_full,
            Op::Drain { which } => self.drain(which),
            Op::Squat { which, speaks } => self.squat(which, speaks),
            Op::SquatterLeaves => {
                if let Some(wire) = self.wires.iter_mut().find(|w| w.client.is_none() && !w.is_client_gone) {
                    wire.is_client_gone = true;
                }
            }
            Op::OldToken => self.uses_old_token = true,
            Op::HoldConnects { are_held } => self.holds_connects = are_held,
            Op::SpeakFirst { line } => self.speaks_first = Some(line),
        }
    }

    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        if ms > 0 {
            self.attempts = [0; RECEIVERS];
        }
    }

    fn send(&mut self, to: usize, len: usize, timeout_ms: u64, is_ping: bool) {
        if self.posted.len() >= MESSAGES_MAX {
            return;
        }
        let label = self.posted.len();
        let message = if is_ping { Outgoing::new("ping") } else { Outgoing::new("text") };
        let message = message.with_text(&format!("{label} {}", "x".repeat(len)));
        let (now, timeout) = (self.now(), Duration::from_millis(timeout_ms));
        let before = self.outbox.outstanding();
        match self.outbox.send(&path(to), &message, None, timeout, now) {
            Ok(id) => {
                assert!(self.by_id.insert(id, label).is_none(), "an id is given twice");
                self.attempts[to] = 0;
                let deadline = now.mono.plus(timeout);
                self.posted.push(Posted { receiver: to, is_ping, deadline, told: None });
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutboxFull, "{error}");
                assert!(before > 0, "nothing is on its way: {error}");
            }
        }
    }

    fn kill(&mut self, which: usize, stays_down: bool) {
        self.drain(which);
        for wire in self.wires.iter_mut().filter(|wire| wire.receiver == which) {
            wire.forth.clear();
            (wire.server, wire.is_server_gone, wire.is_waiting) = (None, true, false);
        }
        let receiver = &mut self.receivers[which];
        receiver.life += 1;
        receiver.old_token = std::mem::replace(&mut receiver.token, token(which, receiver.life));
        receiver.endpoint = Endpoint::new(&path(which), receiver.token.clone(), self.limits.clone()).unwrap();
        receiver.is_down = stays_down;
    }

    fn drain(&mut self, which: usize) {
        let receiver = &mut self.receivers[which];
        receiver.endpoint.drain_into(&mut self.batch);
        for entry in &self.batch {
            let data = entry.message().data().and_then(|data| data.text()).unwrap().into_owned();
            let label = data.split(' ').next().unwrap().parse().unwrap();
            receiver.inbox.push((receiver.life, entry.id().to_string(), label));
        }
    }

    fn squat(&mut self, which: usize, speaks: bool) {
        if self.wires.iter().filter(|wire| wire.client.is_none() && !wire.is_client_gone).count() > 6 {
            return;
        }
        let at = self.connect(which, None);
        if speaks {
            let token = self.receivers[which].token.expose();
            let line = format!("{{\"type\":\"ping\",\"meta\":{{\"authToken\":\"{token}\"}}}}\n");
            self.wires[at].forth.extend(line.bytes());
        }
    }

    fn connect(&mut self, receiver: usize, client: Option<ConnKey>) -> usize {
        let at = self.wires.len();
        self.wires.push(Wire {
            receiver,
            client,
            server: None,
            is_waiting: true,
            forth: VecDeque::new(),
            back: VecDeque::new(),
            is_client_gone: false,
            is_server_gone: false,
            is_end_told: false,
            is_read_refused: false,
        });
        at
    }

    // The sender.

    /// One turn of the sender, in the order that the outbox documents.
    fn sender_turns(&mut self, bytes: usize) {
        let now = self.now();
        for at in 0..self.wires.len() {
            self.read(at, bytes, now);
        }
        if !self.holds_connects {
            for (key, to) in std::mem::take(&mut self.connecting) {
                self.answer_attempt(key, to, now);
            }
        }
        for at in 0..self.wires.len() {
            self.write(at, bytes, now);
        }
        self.take_steps(now, bytes);
        self.outbox.deadlines_reached(now);
        self.take_steps(now, bytes);
        self.outbox.turn_ended();
        self.report_late(now);
        assert!(!self.outbox.has_steps(), "late reports change nothing");
        self.wires.retain(|wire| {
            let is_held = wire.client.is_some() || !wire.is_client_gone;
            is_held || wire.server.is_some() || wire.is_waiting
        });
        while let Some((id, outcome)) = self.outbox.next_outcome() {
            let posted = &mut self.posted[self.by_id[&id]];
            *self.counts.entry(outcome.code()).or_default() += 1;
            let accepted_as = match &outcome {
                SendOutcome::Accepted { id } => id.clone(),
                _ => None,
            };
            let before = posted.told.replace((outcome.code(), accepted_as));
            assert!(before.is_none(), "told twice: {before:?}, then {outcome}");
        }
        let untold = self.posted.iter().filter(|posted| posted.told.is_none());
        assert_eq!(untold.clone().count(), self.outbox.outstanding());
        for posted in untold {
            assert!(posted.deadline > now.mono, "its time is over and nothing was told");
        }
        if let Some(deadline) = self.outbox.next_deadline() {
            assert!(deadline > now.mono, "what was due has been dealt with");
            assert_eq!(self.outbox.next_deadline(), Some(deadline), "asking changes nothing");
        }
    }

    fn read(&mut self, at: usize, bytes: usize, now: Now) {
        let wire = &mut self.wires[at];
        let Some(key) = wire.client else { return };
        if wire.back.is_empty() && wire.is_server_gone {
            self.outbox.ended(key, now);
        } else if !wire.back.is_empty() {
            let Some(mut space) = self.outbox.recv_space(key) else { return };
            assert!(!space.is_empty(), "a read into nothing looks like the end");
            let n = bytes.min(space.len()).min(wire.back.len());
            for (to, from) in space.iter_mut().zip(wire.back.drain(..n)) {
                *to = from;
            }
            self.attempts[wire.receiver] = 0;
            space.received(n, now);
        }
    }

    /// Reads first, and writes if nothing is left to read.
    fn write(&mut self, at: usize, bytes: usize, now: Now) {
        let Some(key) = self.wires[at].client.filter(|key| !self.outbox.output(*key).is_empty()) else {
            return;
        };
        if !self.wires[at].back.is_empty() {
            self.read(at, bytes, now);
        }
        let (output, wire) = (self.outbox.output(key), &mut self.wires[at]);
        if output.is_empty() || !wire.back.is_empty() {
            return;
        }
        if wire.is_server_gone {
            return self.outbox.output_failed(key);
        }
        let n = bytes.min(output.len()).min(self.pipe_bytes.saturating_sub(wire.forth.len()));
        if n > 0 {
            wire.forth.extend(&output[..n]);
            self.outbox.sent(key, n);
        }
    }

    fn take_steps(&mut self, now: Now, bytes: usize) {
        let mut count = 0;
        while let Some((key, step)) = self.outbox.next_step() {
            count += 1;
            assert!(count < 10_000, "the steps never end");
            match step {
                LinkStep::Connect => {
                    let target = self.outbox.target(key);
                    let to = (0..RECEIVERS).find(|at| path(*at) == target).expect("a target of ours");
                    let is_open = self.wires.iter().any(|w| w.client.is_some() && w.receiver == to);
                    let is_asked = self.connecting.iter().any(|(_, other)| *other == to);
                    assert!(!is_open && !is_asked, "one connection for a receiver");
                    self.attempts[to] += 1;
                    assert!(self.attempts[to] <= 4, "it spins");
                    if self.holds_connects {
                        self.connecting.push((key, to));
                    } else {
                        self.answer_attempt(key, to, now);
                    }
                }
                LinkStep::Write => {
                    let at = self.wires.iter().position(|wire| wire.client == Some(key));
                    self.write(at.expect("a stream of ours"), bytes, now);
                }
                LinkStep::Close => {
                    if let Some(at) = self.connecting.iter().position(|(other, _)| *other == key) {
                        self.connecting.remove(at);
                    } else {
                        let wire = self.wires.iter_mut().find(|wire| wire.client == Some(key));
                        let wire = wire.expect("a stream of ours");
                        (wire.client, wire.is_client_gone) = (None, true);
                    }
                    self.stale.push_back(key);
                }
            }
        }
    }

    fn answer_attempt(&mut self, key: ConnKey, to: usize, now: Now) {
        let receiver = &self.receivers[to];
        if receiver.is_down || receiver.is_full {
            let error = if receiver.is_down { other_error() } else { busy_error() };
            self.outbox.connect_failed(key, &error, now);
            self.stale.push_back(key);
        } else {
            let is_old = std::mem::take(&mut self.uses_old_token) && !self.outbox.is_token_refused(key);
            let token = if is_old { &receiver.old_token } else { &receiver.token }.clone();
            let at = self.connect(to, Some(key));
            self.wires[at].back.extend(self.speaks_first.take().unwrap_or_default().bytes());
            // A shell that remembers tokens, or one that read the file just before it changed.
            if is_old && key.index().is_multiple_of(2) {
                self.outbox.connected_as_before(key, token, now);
            } else {
                self.outbox.connected(key, token, now);
            }
        }
    }

    /// All that can be reported of streams that are gone.
    fn report_late(&mut self, now: Now) {
        while self.stale.len() > 8 {
            self.stale.pop_front();
        }
        for key in &self.stale {
            assert!(self.outbox.recv_space(*key).is_none() && self.outbox.output(*key).is_empty());
            self.outbox.sent(*key, 7);
            self.outbox.output_failed(*key);
            self.outbox.ended(*key, now);
            self.outbox.connected(*key, token(0, 0), now);
            self.outbox.connect_failed(*key, &other_error(), now);
        }
    }

    // A receiver.

    /// One turn of a receiver, in the order that the endpoint documents.
    fn receiver_turns(&mut self, which: usize, bytes: usize) {
        let now = self.now();
        let endpoint = &mut self.receivers[which].endpoint;
        endpoint.work(now);
        for wire in self.wires.iter_mut().filter(|wire| wire.receiver == which) {
            let Some(key) = wire.server else { continue };
            let is_over = wire.forth.is_empty();
            if wire.is_read_refused || (is_over && (!wire.is_client_gone || wire.is_end_told)) {
                continue;
            }
            let Some(mut space) = endpoint.recv_space(key, now) else {
                wire.is_read_refused = true;
                continue;
            };
            let n = bytes.min(space.len()).min(wire.forth.len());
            for (to, from) in space.iter_mut().zip(wire.forth.drain(..n)) {
                *to = from;
            }
            space.received(n);
            if is_over {
                wire.is_end_told = true;
                endpoint.output_failed(key);
                endpoint.end_of_input(key, now);
            }
        }
        for at in 0..self.wires.len() {
            if self.wires[at].receiver == which {
                self.answer(at, now);
            }
        }
        self.take_receiver_steps(which, now);
        while self.receivers[which].endpoint.can_accept() {
            let waits = |wire: &&mut Wire| wire.receiver == which && wire.is_waiting;
            let Some(wire) = self.wires.iter_mut().find(waits) else { break };
            wire.is_waiting = false;
            let peer = PeerIdentity::unix(OWNER, None);
            wire.server = self.receivers[which].endpoint.accepted(peer, now);
        }
        self.receivers[which].endpoint.deadlines_reached(now);
        self.take_receiver_steps(which, now);
        self.receivers[which].endpoint.turn_ended();
    }

    fn answer(&mut self, at: usize, now: Now) {
        let wire = &mut self.wires[at];
        let Some(key) = wire.server else { return };
        let endpoint = &mut self.receivers[wire.receiver].endpoint;
        let output = endpoint.output(key);
        if output.is_empty() {
            return;
        }
        if wire.is_client_gone {
            return endpoint.output_failed(key);
        }
        // Squatters read their answers.
        let room = if wire.client.is_none() { usize::MAX } else { self.pipe_bytes };
        let n = output.len().min(room.saturating_sub(wire.back.len()));
        if n > 0 {
            wire.back.extend(&output[..n]);
            endpoint.sent(key, n, now);
        }
    }

    fn take_receiver_steps(&mut self, which: usize, now: Now) {
        while let Some((key, step)) = self.receivers[which].endpoint.next_step() {
            let is_it = |wire: &Wire| wire.receiver == which && wire.server == Some(key);
            let Some(at) = self.wires.iter().position(is_it) else { continue };
            match step {
                Step::Write => self.answer(at, now),
                Step::Read => self.wires[at].is_read_refused = false,
                Step::ShutWrite => {}
                Step::Close(_) => {
                    let wire = &mut self.wires[at];
                    (wire.server, wire.is_server_gone) = (None, true);
                    wire.is_client_gone |= wire.client.is_none();
                    wire.forth.clear();
                }
            }
        }
    }

    /// Ends all faults and runs until it is idle; then compares outcomes and inboxes. Returns the outcomes.
    pub fn finish(mut self) -> Counts {
        for at in 0..RECEIVERS {
            (self.receivers[at].is_down, self.receivers[at].is_full) = (false, false);
        }
        self.holds_connects = false;
        for wire in self.wires.iter_mut().filter(|wire| wire.client.is_none()) {
            wire.is_client_gone = true;
        }
        for round in 0.. {
            self.sender_turns(usize::MAX);
            for at in 0..RECEIVERS {
                self.receiver_turns(at, usize::MAX);
                self.drain(at);
            }
            let is_read = |wire: &Wire| wire.forth.is_empty() && !wire.is_waiting;
            let is_idle = |receiver: &Receiver| !receiver.endpoint.has_work();
            let is_at_rest = self.wires.iter().all(is_read) && self.receivers.iter().all(is_idle);
            if self.outbox.outstanding() == 0 && is_at_rest {
                break;
            }
            assert!(round < 20_000, "it never becomes idle: {:?}", self.outbox);
            self.advance(1);
        }
        for (at, receiver) in self.receivers.iter().enumerate() {
            let mut last = None;
            for (life, id, label) in &receiver.inbox {
                let posted = &self.posted[*label];
                assert_eq!(posted.receiver, at, "{label} is in another's inbox");
                // An unknown message may be in an abandoned connection, and be read late.
                if posted.told.as_ref().is_some_and(|(code, _)| *code == "unknown") {
                    continue;
                }
                assert!(last < Some(*label), "{label} ({id} of server {life}) comes behind {last:?}");
                last = Some(*label);
            }
        }
        for (label, posted) in self.posted.iter().enumerate() {
            let (code, accepted_as) = posted.told.as_ref().expect("each is told");
            let inbox = &self.receivers[posted.receiver].inbox;
            let found: Vec<_> = inbox.iter().filter(|(_, _, other)| *other == label).collect();
            assert!(found.len() <= 1, "{label} is there twice: {found:?}");
            match *code {
                "accepted" if posted.is_ping => assert_eq!(*accepted_as, None),
                "accepted" => {
                    let (_, id, _) = found.first().unwrap_or_else(|| panic!("{label} is not in the inbox"));
                    assert_eq!(accepted_as.as_ref(), Some(id), "{label}");
                }
                "unknown" => *self.counts.entry("unknown, and there").or_default() += found.len(),
                _ => assert!(found.is_empty(), "{label} was {code}, and is in the inbox"),
            }
        }
        self.counts
    }
}
