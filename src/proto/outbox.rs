//! Messages on their way to other servers: the rules of sending, without I/O.
//!
//! Where [`Endpoint`](super::endpoint::Endpoint) holds what others send to us, [`Outbox`] holds what we send to them: one
//! *link* for each receiver, its messages in order, at most one connection under it. It decides what may be written
//! when, whose answer is whose, what can be sent again without being sent twice, and what became of each message.
//!
//! ```text
//!   send ──► waiting ──► in flight ──► Accepted · Rejected · Unknown
//!               │  ▲         │
//!               │  └─────────┘ the receiver never had the whole line
//!               └──► NotSent
//! ```
//!
//! # Driving it
//!
//! [`LinkStep::Connect`] comes with a key that names the new attempt and the stream that it leads to, and nothing else:
//! not the receiver, and not the stream before. Whatever is reported for a stream that is closed or replaced changes
//! nothing, however late the report is.
//!
//! 1. For each stream that can be read: [`recv_space`](Outbox::recv_space), [`received`](Outbox::received); at its end
//!    [`ended`](Outbox::ended).
//! 2. Do what [`next_step`](Outbox::next_step) says until it says nothing more: [`LinkStep::Connect`] is answered, now or
//!    in a later turn, with [`connected`](Outbox::connected) or [`connect_failed`](Outbox::connect_failed),
//!    [`LinkStep::Write`] with [`sent`](Outbox::sent) or [`output_failed`](Outbox::output_failed). A stream that takes
//!    only a part is written again when it can be.
//! 3. [`deadlines_reached`](Outbox::deadlines_reached), step 2 again, [`turn_ended`](Outbox::turn_ended).
//! 4. [`next_outcome`](Outbox::next_outcome) until there is none; wait until [`next_deadline`](Outbox::next_deadline),
//!    not at all if [`has_steps`](Outbox::has_steps).
//!
//! Read each stream before you write to it, a new one too, and write only when nothing is left to read. Bytes that were
//! there before a line was written whole are no answer to it, and only the order of the reports tells which were there.
//! An error line that has come also explains why a write fails.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use super::auth::AuthToken;
use super::error::{CloseReason, Error, ErrorKind};
use super::framer::{FrameOutcome, Framer};
use super::limits::Limits;
use super::message::{Answer, Outgoing};
use super::ring::Ring;
use super::slots::{ConnKey, Slots};
use super::time::{Latest, Mono, Now};
use super::wheel::Wheel;

/// Waiting between two attempts while a receiver is busy: doubles from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Names one message that was given to an [`Outbox`]; no two are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SendId(ConnKey);

/// What became of one message. There is no success that could be mistaken for another.
#[derive(Debug)]
#[must_use]
pub enum SendOutcome {
    /// It is in the receiver's inbox (or, for a ping, the receiver is alive).
    Accepted {
        /// The receiver's name for it, as `uds-7`. A pong has none, and some receivers give none.
        id: Option<String>,
    },
    /// The receiver said no, and why. It is not in the inbox.
    Rejected {
        /// The receiver's reason.
        reason: String,
    },
    /// It never reached the receiver whole. Sending it again cannot send it twice.
    NotSent(Error),
    /// It was written, and no answer came that could be understood. It may be in the inbox or not.
    Unknown(Error),
}

impl SendOutcome {
    /// Whether the receiver said yes.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// A stable, machine-readable word: `accepted`, `rejected`, `not_sent` or `unknown`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Rejected { .. } => "rejected",
            Self::NotSent(_) => "not_sent",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// One sentence for people, beginning with the words that scripts may know from other senders.
impl fmt::Display for SendOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { id: Some(id) } => write!(f, "accepted as {id}"),
            Self::Accepted { id: None } => f.write_str("accepted"),
            Self::Rejected { reason } => f.write_str(reason),
            Self::NotSent(error) => write!(f, "{error} (not sent)"),
            Self::Unknown(error) => {
                write!(f, "{error} (the message was written; whether it arrived is unknown)")
            }
        }
    }
}

/// What is to be done for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum LinkStep {
    /// Look up the capability of [`Outbox::target`], connect, and make sure who is there before the token leaves. The key
    /// is new; it names this attempt and the stream that comes of it.
    Connect,
    /// Write [`Outbox::output`].
    Write,
    /// Close the stream, or give up the attempt to connect. The key is stale already.
    Close,
}

/// One message that has no outcome yet.
struct Outstanding {
    link: ConnKey,
    /// The whole line, its newline included and its token blank.
    line: Vec<u8>,
    deadline: Mono,
}

/// A message that was given to a connection.
struct InFlight {
    message: ConnKey,
    /// Where its line ends among all bytes that were ever put into the output, and how long it is.
    end: u64,
    len: u64,
    /// How many bytes had been received when its line was written whole, if it was: an answer to it begins there at the
    /// earliest.
    answers_from: Option<u64>,
}

/// Whether a connection can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Open,
    /// A line was given up in its middle, and nothing may complete it. Answers to the lines before it still come.
    Abandoned,
    /// The stream takes nothing more; the reason may be waiting to be read.
    Failed,
}

/// A connection to a receiver.
struct Wire {
    key: ConnKey,
    auth_token: AuthToken,
    framer: Framer,
    ring: Ring,
    /// Bytes ever received.
    received_total: u64,
    output: Vec<u8>,
    /// Bytes of `output` that were written.
    sent: usize,
    /// Bytes ever put into `output`, and ever written.
    queued_total: u64,
    sent_total: u64,
    state: Output,
    /// There is output that was not announced yet.
    has_news: bool,
    /// Messages whose answers have not come, in order. Those that expired stay: their answers come.
    in_flight: VecDeque<InFlight>,
    /// The receiver has answered something: it is one, and it took our token.
    has_answered: bool,
}

/// Where the connection of a link stands.
enum State {
    /// There is none, and none is needed.
    Idle,
    /// One is to be made at the next step.
    Wanted,
    /// The shell was asked to make one and has not said yet what came of it.
    Connecting(ConnKey),
    /// The receiver was busy: one is to be made at that time.
    BackingOff { until: Mono },
    /// There is one.
    Open(Box<Wire>),
}

/// One receiver and what is meant for it.
struct Link {
    target: Box<str>,
    /// Messages not yet given to a connection, in order. Keys of those that expired may still stand here.
    waiting: VecDeque<ConnKey>,
    state: State,
    pause: Duration,
    /// How the last attempt found the receiver busy, if it did: what a message that waited in vain is told.
    busy: Option<Busy>,
    is_in_steps: bool,
}

/// Messages on their way, the connections under them, and what became of them. See the [module](self).
///
/// Bounded by `outbox_entries_max`, `outbox_bytes_max`, `receivers_max` and `in_flight_max` of [`Limits`]. Every method
/// is O(1) or linear in the bytes or messages that it moves. A `now` before one that was given already counts as that
/// one.
pub struct Outbox {
    limits: Limits,
    latest: Latest,
    messages: Slots<Outstanding>,
    bytes: usize,
    message_wheel: Wheel,
    links: Slots<Link>,
    link_wheel: Wheel,
    by_target: HashMap<Box<str>, ConnKey>,
    /// The link of each connection, and of each attempt to make one. Their keys are all that a shell sees.
    wires: Slots<ConnKey>,
    /// Links for which there may be a step.
    steps: VecDeque<ConnKey>,
    /// Links that want a connection when the turn is over: all keys for connections were used in it.
    parked: VecDeque<ConnKey>,
    /// Connections that are to be closed.
    closed: VecDeque<ConnKey>,
    outcomes: VecDeque<(SendId, SendOutcome)>,
}

impl Outbox {
    /// An empty outbox within `limits`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`] if `limits` do not pass [`Limits::check`], [`ErrorKind::OutOfMemory`].
    pub fn new(limits: Limits) -> Result<Self, Error> {
        limits.check()?;
        let (messages_max, links_max) = (limits.outbox_entries_max, limits.receivers_max);
        Ok(Self {
            latest: Latest::default(),
            messages: Slots::new(messages_max)?,
            bytes: 0,
            message_wheel: Wheel::new(messages_max)?,
            links: Slots::new(links_max)?,
            link_wheel: Wheel::new(links_max)?,
            by_target: HashMap::new(),
            // Keys freed in a turn rest until its end, so there are more than can be in use.
            wires: Slots::new(2 * links_max)?,
            steps: VecDeque::new(),
            parked: VecDeque::new(),
            closed: VecDeque::new(),
            outcomes: VecDeque::new(),
            limits,
        })
    }

    /// Indices of the keys that come with steps are below this.
    pub fn slots_max(&self) -> usize {
        2 * self.limits.receivers_max
    }

    /// Takes a message for the server at the socket path `target`, to be delivered within `timeout`. What becomes of it
    /// is told once by [`next_outcome`](Self::next_outcome). Messages to one receiver go in order.
    ///
    /// `from` is the own socket path, if there is one; it and the time of `now` are put in where the message has none.
    ///
    /// # Errors
    ///
    /// Nothing was taken: [`ErrorKind::MessageTooLarge`] or [`ErrorKind::InvalidMessage`] as [`Outgoing::encode`] says,
    /// or [`ErrorKind::OutboxFull`] if too much is on its way already. A message counts until its outcome is taken.
    pub fn send(
        &mut self,
        target: &str,
        message: &Outgoing,
        from: Option<&str>,
        timeout: Duration,
        now: Now,
    ) -> Result<SendId, Error> {
        let now = self.latest.or_later(now);
        let ts = now.wall.to_string();
        let line =
            message.encode(&AuthToken::from_bytes([0; 32]), from, Some(&ts), self.limits.frame_bytes_max)?;
        if self.messages.len() + self.outcomes.len() >= self.limits.outbox_entries_max
            || line.len() > self.limits.outbox_bytes_max - self.bytes
        {
            let sentence = format!(
                "{} messages of {} bytes are on their way already, and the outcomes of {} others were not taken; \
                 take the outcomes",
                self.messages.len(),
                self.bytes,
                self.outcomes.len()
            );
            return Err(Error::new(ErrorKind::OutboxFull, sentence));
        }
        let link = self.link_to(target)?;
        let deadline = now.mono.plus(timeout);
        let bytes = line.len();
        let key = self
            .messages
            .insert(Outstanding { link, line, deadline })
            .ok_or_else(|| Error::new(ErrorKind::OutboxFull, "no slot is free for another message"))?;
        self.bytes += bytes;
        self.message_wheel.schedule(key, deadline);
        let messages = &self.messages;
        if let Some(link) = self.links.get_mut(link) {
            // Those that expired behind one that did not would pile up.
            if link.waiting.len() >= 2 * self.limits.outbox_entries_max {
                link.waiting.retain(|message| messages.get(*message).is_some());
            }
            link.waiting.push_back(key);
        }
        self.advance(link);
        self.check_invariants();
        Ok(SendId(key))
    }

    /// Messages that have no outcome yet.
    pub fn outstanding(&self) -> usize {
        self.messages.len()
    }

    /// The link to a receiver, made if need be.
    fn link_to(&mut self, target: &str) -> Result<ConnKey, Error> {
        if let Some(key) = self.by_target.get(target) {
            return Ok(*key);
        }
        if self.by_target.len() >= self.limits.receivers_max {
            let idle = self.links.iter().find(|(_, link)| link.is_idle()).map(|(key, _)| key);
            if let Some(idle) = idle {
                self.forget(idle);
            }
        }
        let link = Link {
            target: target.into(),
            waiting: VecDeque::new(),
            state: State::Idle,
            pause: BACKOFF.0,
            busy: None,
            is_in_steps: false,
        };
        if self.by_target.len() < self.limits.receivers_max
            && let Some(key) = self.links.insert(link)
        {
            self.by_target.insert(target.into(), key);
            return Ok(key);
        }
        let sentence = format!(
            "messages for {} receivers are on their way already; wait for their outcomes",
            self.by_target.len()
        );
        Err(Error::new(ErrorKind::OutboxFull, sentence))
    }

    // Steps.

    /// What is to be done next, and for which stream. Do it, and ask again until there is nothing.
    pub fn next_step(&mut self) -> Option<(ConnKey, LinkStep)> {
        loop {
            if let Some(key) = self.closed.pop_front() {
                return Some((key, LinkStep::Close));
            }
            let key = self.steps.pop_front()?;
            let Some(link) = self.links.get_mut(key) else { continue };
            link.is_in_steps = false;
            match &mut link.state {
                State::Wanted => {
                    if let Some(wire) = self.wires.insert(key) {
                        link.state = State::Connecting(wire);
                        return Some((wire, LinkStep::Connect));
                    }
                    link.is_in_steps = true;
                    self.parked.push_back(key);
                }
                State::Open(wire) => {
                    if std::mem::take(&mut wire.has_news) && !wire.output().is_empty() {
                        return Some((wire.key, LinkStep::Write));
                    }
                }
                State::Idle | State::Connecting(_) | State::BackingOff { .. } => {}
            }
        }
    }

    /// Whether [`next_step`](Self::next_step) may have something to say.
    pub fn has_steps(&self) -> bool {
        !self.steps.is_empty() || !self.closed.is_empty()
    }

    /// The socket path of the receiver that a key leads to; empty for a stale key.
    pub fn target(&self, key: ConnKey) -> &str {
        let link = self.wires.get(key).and_then(|link| self.links.get(*link));
        link.map(|link| &*link.target).unwrap_or_default()
    }

    /// The link for which the attempt `key` is being made.
    fn connecting(&self, key: ConnKey) -> Option<ConnKey> {
        let link = *self.wires.get(key)?;
        matches!(self.links.get(link)?.state, State::Connecting(_)).then_some(link)
    }

    /// The connection was made, its other end is to be trusted, and `auth_token` is what it asks for.
    pub fn connected(&mut self, key: ConnKey, auth_token: AuthToken, now: Now) {
        let now = self.latest.or_later(now);
        let Some(link) = self.connecting(key) else { return };
        match Ring::new(self.limits.frame_bytes_max + 1) {
            Ok(ring) => {
                let framer = Framer::new(self.limits.frame_bytes_max);
                if let Some(link) = self.links.get_mut(link) {
                    link.state = State::Open(Box::new(Wire::new(key, auth_token, framer, ring)));
                }
                self.advance(link);
            }
            Err(error) => {
                self.close(link);
                self.attempt_failed(link, &error, now);
            }
        }
        self.check_invariants();
    }

    /// The connection was not made, and there is no stream. [`ErrorKind::Busy`] is tried again while the messages have
    /// time; anything else is the end of all that wait.
    ///
    /// The index of `key` can come again in the next step: nothing may be registered under it any more.
    pub fn connect_failed(&mut self, key: ConnKey, error: &Error, now: Now) {
        let now = self.latest.or_later(now);
        let Some(link) = self.connecting(key) else { return };
        self.wires.remove(key);
        if let Some(link) = self.links.get_mut(link) {
            link.state = State::Idle;
        }
        self.attempt_failed(link, error, now);
        self.check_invariants();
    }

    /// What waits is told so, or waits longer if the receiver is busy.
    fn attempt_failed(&mut self, key: ConnKey, error: &Error, now: Now) {
        if error.kind() == ErrorKind::Busy {
            return self.back_off(key, Busy::Backlog, now);
        }
        let Some(link) = self.links.get_mut(key) else { return };
        for message in std::mem::take(&mut link.waiting) {
            self.finish(message, SendOutcome::NotSent(error.restated()));
        }
        self.advance(key);
    }

    /// The receiver is busy: the next attempt is made after a while.
    fn back_off(&mut self, key: ConnKey, busy: Busy, now: Now) {
        let Some(link) = self.links.get_mut(key) else { return };
        let until = now.mono.plus(link.pause);
        link.pause = (link.pause * 2).min(BACKOFF.1);
        link.busy = Some(busy);
        link.state = State::BackingOff { until };
        self.link_wheel.schedule(key, until);
        self.advance(key);
    }

    /// Lets a link do what it can: wants a connection, fills its output, or is forgotten when nothing is left.
    fn advance(&mut self, key: ConnKey) {
        let messages = &self.messages;
        let Some(link) = self.links.get_mut(key) else { return };
        while link.waiting.front().is_some_and(|message| messages.get(*message).is_none()) {
            link.waiting.pop_front();
        }
        match &mut link.state {
            State::Open(wire) => {
                while wire.state == Output::Open
                    && wire.in_flight.len() < self.limits.in_flight_max
                    && wire.output.len() - wire.sent < self.limits.frame_bytes_max
                    && let Some(key) = link.waiting.pop_front()
                {
                    let Some(message) = messages.get(key) else { continue };
                    wire.push(key, &message.line);
                }
                if !wire.has_news {
                    return;
                }
            }
            // No message needs the connection that was to be made.
            _ if link.waiting.is_empty() => return self.forget(key),
            State::Idle => link.state = State::Wanted,
            State::Wanted => {}
            State::Connecting(_) | State::BackingOff { .. } => return,
        }
        if !link.is_in_steps {
            link.is_in_steps = true;
            self.steps.push_back(key);
        }
    }

    // Bytes.

    /// Bytes to be written; empty for a stale key or if there are none.
    pub fn output(&self, key: ConnKey) -> &[u8] {
        let link = self.wires.get(key).and_then(|link| self.links.get(*link));
        match link.map(|link| &link.state) {
            Some(State::Open(wire)) => wire.output(),
            _ => &[],
        }
    }

    /// The first `n` bytes of [`output`](Self::output) were written.
    pub fn sent(&mut self, key: ConnKey, n: usize) {
        let Some(link) = self.wires.get(key).copied() else { return };
        if let Some(wire) = self.wire(link) {
            wire.written(n);
            self.advance(link);
        }
        self.check_invariants();
    }

    /// Nothing more can be written. The connection is read to its end: that says why.
    pub fn output_failed(&mut self, key: ConnKey) {
        let Some(link) = self.wires.get(key).copied() else { return };
        if let Some(wire) = self.wire(link)
            && wire.state == Output::Open
        {
            wire.state = Output::Failed;
        }
    }

    /// Space for the next read, at most one frame; `None` for a stale key.
    pub fn recv_space(&mut self, key: ConnKey) -> Option<&mut [u8]> {
        let link = *self.wires.get(key)?;
        self.wire(link).map(|wire| wire.ring.spare_mut())
    }

    /// `n` bytes were read into the space lent by [`recv_space`](Self::recv_space): answers are given to the messages
    /// that they belong to.
    pub fn received(&mut self, key: ConnKey, n: usize, now: Now) {
        let now = self.latest.or_later(now);
        let Some(link) = self.wires.get(key).copied() else { return };
        if let Some(wire) = self.wire(link) {
            wire.ring.filled(n);
            wire.received_total += n as u64;
        }
        while let Some(wire) = self.wire(link) {
            match wire.next_answer() {
                Ok(Some(Heard::Yes { id, start })) => self.accepted(link, id, start),
                Ok(Some(Heard::No { reason })) => self.refused(link, reason, now),
                Ok(None) => {
                    self.settle(link);
                    break;
                }
                Err(error) => self.cut(link, &error, now),
            }
        }
        self.check_invariants();
    }

    /// A yes came whose first byte was the byte `start` of the connection: it is the answer to the oldest message, if
    /// that had been written whole. What no message asked for is skipped.
    fn accepted(&mut self, key: ConnKey, id: Option<String>, start: u64) {
        let Some(link) = self.links.get_mut(key) else { return };
        let State::Open(wire) = &mut link.state else { return };
        let is_answer = |oldest: &InFlight| oldest.answers_from.is_some_and(|from| start >= from);
        if wire.in_flight.front().is_some_and(is_answer)
            && let Some(InFlight { message, .. }) = wire.in_flight.pop_front()
        {
            wire.has_answered = true;
            link.pause = BACKOFF.0;
            link.busy = None;
            self.finish(message, SendOutcome::Accepted { id });
        }
    }

    /// The connection has ended.
    pub fn ended(&mut self, key: ConnKey, now: Now) {
        let now = self.latest.or_later(now);
        let Some(link) = self.wires.get(key).copied() else { return };
        self.cut(link, &Error::new(ErrorKind::Io, "UDS socket ended before response"), now);
        self.check_invariants();
    }

    /// An error line came: it is the answer to the oldest message, and the end of the connection.
    fn refused(&mut self, key: ConnKey, reason: String, now: Now) {
        let Some(wire) = self.wire(key) else { return };
        // These are said to a connection, not to a message: nothing that is in flight on it was looked at. That a
        // connection was idle too long is no news of a message only if it had been of use before.
        let is = |said: CloseReason| said.wire_text().is_some_and(|text| text == reason);
        if is(CloseReason::TooManyClients) || (wire.has_answered && is(CloseReason::IdleTimeout)) {
            self.requeue(key);
            self.close(key);
            return self.back_off(key, Busy::Clients, now);
        }
        let sent_total = wire.sent_total;
        let is_begun = |oldest: &mut InFlight| oldest.end - oldest.len < sent_total;
        let Some(InFlight { message, .. }) = wire.in_flight.pop_front_if(is_begun) else {
            // It was said before any byte of a message was written, so it is no answer to one.
            let sentence = format!("the receiver refused the connection: {reason:?}");
            return self.cut(key, &Error::new(ErrorKind::Io, sentence), now);
        };
        wire.has_answered = true;
        self.finish(message, SendOutcome::Rejected { reason });
        let error = Error::new(ErrorKind::Io, "the receiver rejected an earlier message and closed");
        self.cut(key, &error, now);
    }

    /// The connection is of no use any more.
    fn cut(&mut self, key: ConnKey, error: &Error, now: Now) {
        // A receiver that never answered anything is not tried again with what is left.
        let Some(Wire { has_answered: tries_again, .. }) = self.wire(key) else { return };
        let tries_again = *tries_again;
        self.drop_wire(key, error);
        if tries_again {
            self.advance(key);
        } else {
            self.attempt_failed(key, error, now);
        }
    }

    /// Takes the connection from a link. What was written whole may have arrived; what was not did not, and waits again.
    fn drop_wire(&mut self, key: ConnKey, error: &Error) {
        while let Some(wire) = self.wire(key)
            && let Some(InFlight { message, .. }) = wire.in_flight.pop_front_if(|oldest| oldest.is_whole())
        {
            self.finish(message, SendOutcome::Unknown(error.restated()));
        }
        self.requeue(key);
        self.close(key);
    }

    /// Puts messages in flight back in front of those that wait.
    fn requeue(&mut self, key: ConnKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        let State::Open(wire) = &mut link.state else { return };
        while let Some(InFlight { message, .. }) = wire.in_flight.pop_back() {
            if self.messages.get(message).is_some() {
                link.waiting.push_front(message);
            }
        }
    }

    /// The rest of a line that was written partly will not be written, and nothing can be written behind a part of a line.
    /// So what was not written whole waits for another connection; the lines before it still get their answers here.
    fn abandon(&mut self, key: ConnKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        let State::Open(wire) = &mut link.state else { return };
        wire.state = Output::Abandoned;
        while let Some(InFlight { message, .. }) = wire.in_flight.pop_back_if(|last| !last.is_whole()) {
            if self.messages.get(message).is_some() {
                link.waiting.push_front(message);
            }
        }
    }

    /// Has the stream of a link closed, or the attempt to make one given up.
    fn close(&mut self, key: ConnKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        let wire = match &link.state {
            State::Open(wire) => wire.key,
            State::Connecting(wire) => *wire,
            State::Idle | State::Wanted | State::BackingOff { .. } => return,
        };
        link.state = State::Idle;
        self.wires.retire(wire);
        self.closed.push_back(wire);
    }

    /// Drops a link for which nothing is left to do.
    fn forget(&mut self, key: ConnKey) {
        self.close(key);
        if let Some(link) = self.links.remove(key) {
            self.by_target.remove(&link.target);
            self.link_wheel.cancel(key);
        }
    }

    // Time.

    /// The exact moment of the next deadline, if any.
    pub fn next_deadline(&mut self) -> Option<Mono> {
        let (messages, links) = (&self.messages, &self.links);
        let message = self.message_wheel.next_deadline(|key| messages.get(key).map(|m| m.deadline));
        let link = self.link_wheel.next_deadline(|key| links.get(key).and_then(Link::wakes_at));
        [message, link].into_iter().flatten().min()
    }

    /// Tries again where it is time, and gives up the messages whose time is over.
    pub fn deadlines_reached(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        loop {
            let links = &self.links;
            let truth = |key| links.get(key).and_then(Link::wakes_at);
            let Some(key) = self.link_wheel.next_expired(now.mono, truth) else { break };
            if let Some(link) = self.links.get_mut(key) {
                link.state = State::Idle;
                self.advance(key);
            }
        }
        loop {
            let messages = &self.messages;
            let truth = |key| messages.get(key).map(|m: &Outstanding| m.deadline);
            let Some(key) = self.message_wheel.next_expired(now.mono, truth) else { break };
            self.expire(key);
        }
        self.check_invariants();
    }

    /// The time of one message is over. Each has its own: the others go on.
    fn expire(&mut self, message: ConnKey) {
        let Some(key) = self.messages.get(message).map(|m| m.link) else { return };
        let Some(link) = self.links.get_mut(key) else {
            return self.finish(message, SendOutcome::NotSent(timed_out()));
        };
        let State::Open(wire) = &mut link.state else {
            let error = link.busy.map_or_else(timed_out, |busy| busy.error(&link.target));
            self.finish(message, SendOutcome::NotSent(error));
            return self.advance(key);
        };
        match wire.progress(message) {
            // Its answer may still come and must not be taken for another's, so its place is kept.
            Progress::Whole => self.finish(message, SendOutcome::Unknown(timed_out())),
            Progress::Part => {
                self.finish(message, SendOutcome::NotSent(timed_out()));
                self.abandon(key);
            }
            Progress::Nothing => {
                wire.withdraw(message);
                self.finish(message, SendOutcome::NotSent(timed_out()));
            }
        }
        self.settle(key);
    }

    /// Goes on, with another connection if no message waits for an answer from this one.
    ///
    /// That cannot go on without end: each time at least one message has got its outcome.
    fn settle(&mut self, key: ConnKey) {
        self.advance(key);
        let messages = &self.messages;
        let Some(State::Open(wire)) = self.links.get(key).map(|link| &link.state) else { return };
        let is_dead = |flying: &InFlight| messages.get(flying.message).is_none();
        let is_deserted = !wire.in_flight.is_empty() || wire.state == Output::Abandoned;
        if is_deserted && wire.in_flight.iter().all(is_dead) {
            self.drop_wire(key, &timed_out());
            self.advance(key);
        }
    }

    /// The turn is over: keys freed in it may be used again.
    pub fn turn_ended(&mut self) {
        self.wires.release_retired();
        self.steps.append(&mut self.parked);
        self.check_invariants();
    }

    fn check_invariants(&self) {
        debug_assert!(self.messages.len() + self.outcomes.len() <= self.limits.outbox_entries_max);
        debug_assert!(self.bytes <= self.limits.outbox_bytes_max, "{} bytes", self.bytes);
        debug_assert_eq!(self.links.len(), self.by_target.len(), "one link for each receiver");
        debug_assert!(self.wires.len() <= self.links.len(), "one connection at most for each link");
    }

    // Outcomes.

    /// What became of one message; each is told once.
    pub fn next_outcome(&mut self) -> Option<(SendId, SendOutcome)> {
        self.outcomes.pop_front()
    }

    fn finish(&mut self, message: ConnKey, outcome: SendOutcome) {
        if let Some(gone) = self.messages.remove(message) {
            self.bytes -= gone.line.len();
            self.message_wheel.cancel(message);
            self.outcomes.push_back((SendId(message), outcome));
        }
    }

    /// The connection of a link.
    fn wire(&mut self, key: ConnKey) -> Option<&mut Wire> {
        match &mut self.links.get_mut(key)?.state {
            State::Open(wire) => Some(wire),
            _ => None,
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("outstanding", &self.messages.len())
            .field("receivers", &self.by_target.len())
            .finish_non_exhaustive()
    }
}

fn timed_out() -> Error {
    Error::new(ErrorKind::TimedOut, "Connection timed out")
}

/// Why a receiver took nothing.
#[derive(Clone, Copy)]
enum Busy {
    /// It had no time to accept.
    Backlog,
    /// It said that it has too many clients.
    Clients,
}

impl Busy {
    /// What a message is told that waited for it in vain.
    fn error(self, target: &str) -> Error {
        let (text, what) = match self {
            Self::Backlog => ("Connection timed out".into(), "had a full backlog"),
            Self::Clients => (CloseReason::TooManyClients.wire_text().unwrap_or_default(), "was busy"),
        };
        Error::new(ErrorKind::Busy, format!("{text}: {target:?} {what} all the time"))
    }
}

impl Link {
    /// Nothing waits and nothing is in flight.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && match &self.state {
                State::Idle => true,
                State::Open(wire) => wire.in_flight.is_empty(),
                State::Wanted | State::Connecting(_) | State::BackingOff { .. } => false,
            }
    }

    fn wakes_at(&self) -> Option<Mono> {
        match self.state {
            State::BackingOff { until } => Some(until),
            _ => None,
        }
    }
}

/// An answer that means something to us.
enum Heard {
    Yes {
        id: Option<String>,
        /// The byte of the connection that it began with.
        start: u64,
    },
    No {
        reason: String,
    },
}

/// How much of a line was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Nothing,
    Part,
    Whole,
}

impl InFlight {
    fn is_whole(&self) -> bool {
        self.answers_from.is_some()
    }
}

impl Wire {
    fn new(key: ConnKey, auth_token: AuthToken, framer: Framer, ring: Ring) -> Self {
        Self {
            key,
            auth_token,
            framer,
            ring,
            received_total: 0,
            output: Vec::new(),
            sent: 0,
            queued_total: 0,
            sent_total: 0,
            state: Output::Open,
            has_news: false,
            in_flight: VecDeque::new(),
            has_answered: false,
        }
    }

    fn output(&self) -> &[u8] {
        match self.state {
            Output::Open => self.output.get(self.sent..).unwrap_or_default(),
            Output::Abandoned | Output::Failed => &[],
        }
    }

    /// Puts a line behind the others, with the token that this connection asks for.
    fn push(&mut self, message: ConnKey, line: &[u8]) {
        let start = self.output.len();
        self.output.extend_from_slice(line);
        if let Some(line) = self.output.get_mut(start..) {
            Outgoing::set_auth_token(line, &self.auth_token);
        }
        let len = line.len() as u64;
        self.queued_total += len;
        self.in_flight.push_back(InFlight { message, end: self.queued_total, len, answers_from: None });
        self.has_news = true;
    }

    /// The first `n` bytes of the output were written.
    fn written(&mut self, n: usize) {
        let n = n.min(self.output().len());
        self.sent += n;
        self.sent_total += n as u64;
        // Each byte is moved at most once, and what was written is no more than what was not.
        if 2 * self.sent >= self.output.len() {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        let (sent_total, received_total) = (self.sent_total, self.received_total);
        let is_new = |flying: &&mut InFlight| !flying.is_whole();
        for flying in self.in_flight.iter_mut().rev().take_while(is_new) {
            if flying.end <= sent_total {
                flying.answers_from = Some(received_total);
            }
        }
    }

    fn progress(&self, message: ConnKey) -> Progress {
        match self.in_flight.iter().find(|flying| flying.message == message) {
            Some(flying) if flying.is_whole() => Progress::Whole,
            Some(flying) if flying.end - flying.len < self.sent_total => Progress::Part,
            _ => Progress::Nothing,
        }
    }

    /// Takes back the line of `message`, if it is here; none of it was written.
    fn withdraw(&mut self, message: ConnKey) {
        let Some(at) = self.in_flight.iter().position(|flying| flying.message == message) else { return };
        let Some(InFlight { end, len, .. }) = self.in_flight.remove(at) else { return };
        let before = usize::try_from(end - len - self.sent_total).unwrap_or(usize::MAX);
        let from = self.sent.saturating_add(before).min(self.output.len());
        let to = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(self.output.len());
        self.output.drain(from..to);
        self.queued_total -= len;
        for flying in self.in_flight.range_mut(at..) {
            flying.end -= len;
        }
    }

    /// The next answer that has come; an error if what came is none.
    fn next_answer(&mut self) -> Result<Option<Heard>, Error> {
        loop {
            let start = self.received_total - self.ring.len() as u64;
            let line = match self.framer.next_frame(&mut self.ring) {
                FrameOutcome::Frame(line) => line,
                FrameOutcome::NeedMore => return Ok(None),
                FrameOutcome::TooLong { .. } => {
                    return Err(Error::new(
                        ErrorKind::InvalidMessage,
                        "UDS response frame exceeded size limit",
                    ));
                }
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let invalid = |cause| {
                Error::new(ErrorKind::InvalidMessage, "Invalid UDS response frame").with_source(cause)
            };
            match Answer::from_line(line).map_err(invalid)? {
                Answer::Accepted { id } => return Ok(Some(Heard::Yes { id, start })),
                Answer::Pong => return Ok(Some(Heard::Yes { id: None, start })),
                Answer::Rejected { reason } => {
                    let told = reason.filter(|reason| !reason.is_empty());
                    let reason = told.map_or_else(|| "UDS receiver rejected message".to_owned(), Into::into);
                    return Ok(Some(Heard::No { reason }));
                }
                Answer::Other => {}
            }
        }
    }
}
