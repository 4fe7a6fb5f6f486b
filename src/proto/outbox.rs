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
//! 1. Do what [`next_step`](Outbox::next_step) says until it says nothing more: [`LinkStep::Connect`] is answered with
//!    [`connected`](Outbox::connected) or [`connect_failed`](Outbox::connect_failed), [`LinkStep::Write`] with
//!    [`sent`](Outbox::sent) or [`output_failed`](Outbox::output_failed).
//! 2. For each link that can be read: [`recv_space`](Outbox::recv_space), [`received`](Outbox::received); at its end
//!    [`ended`](Outbox::ended). Read before you write: an answer that has come explains why a write fails.
//! 3. [`deadlines_reached`](Outbox::deadlines_reached), step 1 again, [`turn_ended`](Outbox::turn_ended).
//! 4. [`next_outcome`](Outbox::next_outcome) until there is none; wait until [`next_deadline`](Outbox::next_deadline).

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
use super::time::{Mono, Now};
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
    /// Look up the capability of [`Outbox::target`], connect, and make sure who is there before the token leaves.
    Connect,
    /// Write [`Outbox::output`].
    Write,
    /// Close the stream.
    Close,
}

/// One message that has no outcome yet.
struct Outstanding {
    link: ConnKey,
    /// The whole line, its newline included and its token blank.
    line: Vec<u8>,
    deadline: Mono,
}

/// A connection to a receiver.
struct Wire {
    auth_token: AuthToken,
    framer: Framer,
    ring: Ring,
    output: Vec<u8>,
    /// Bytes of `output` that were written.
    sent: usize,
    /// Bytes ever put into `output`, and ever written.
    queued_total: u64,
    sent_total: u64,
    /// Messages whose answers are due, in order, and where their lines end. Those that expired stay: their answers come.
    in_flight: VecDeque<(ConnKey, u64)>,
    /// The receiver has answered something: it is one, and it took our token.
    has_answered: bool,
    /// Nothing more can be written; the reason may be waiting to be read.
    is_output_dead: bool,
}

/// Where the connection of a link stands.
enum State {
    /// There is none, and none is needed.
    Idle,
    /// One is to be made at the next step.
    Wanted,
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
    has_news: bool,
    /// A connection that the shell still has is to be closed.
    must_close: bool,
}

/// Messages on their way, the connections under them, and what became of them. See the [module](self).
///
/// Bounded by `outbox_entries_max`, `outbox_bytes_max`, `receivers_max` and `in_flight_max` of [`Limits`]. Every method
/// is O(1) or linear in the bytes or messages that it moves.
pub struct Outbox {
    limits: Limits,
    messages: Slots<Outstanding>,
    bytes: usize,
    message_wheel: Wheel,
    links: Slots<Link>,
    link_wheel: Wheel,
    by_target: HashMap<Box<str>, ConnKey>,
    steps: VecDeque<ConnKey>,
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
        // Keys freed in a turn rest until its end, so there are a few more than can be in use.
        let (messages_max, links_max) = (2 * limits.outbox_entries_max, 2 * limits.receivers_max);
        Ok(Self {
            messages: Slots::new(messages_max)?,
            bytes: 0,
            message_wheel: Wheel::new(messages_max)?,
            links: Slots::new(links_max)?,
            link_wheel: Wheel::new(links_max)?,
            by_target: HashMap::new(),
            steps: VecDeque::new(),
            closed: VecDeque::new(),
            outcomes: VecDeque::new(),
            limits,
        })
    }

    /// Indices of link keys are below this.
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
    /// or [`ErrorKind::OutboxFull`] if too much is on its way already.
    pub fn send(
        &mut self,
        target: &str,
        message: &Outgoing,
        from: Option<&str>,
        timeout: Duration,
        now: Now,
    ) -> Result<SendId, Error> {
        let ts = now.wall.to_string();
        let line =
            message.encode(&AuthToken::from_bytes([0; 32]), from, Some(&ts), self.limits.frame_bytes_max)?;
        if self.messages.len() >= self.limits.outbox_entries_max
            || line.len() > self.limits.outbox_bytes_max - self.bytes
            || !self.messages.has_room()
        {
            let sentence = format!(
                "{} messages of {} bytes are on their way already; wait for their outcomes",
                self.messages.len(),
                self.bytes
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
        if let Some(link) = self.links.get_mut(link) {
            link.waiting.push_back(key);
        }
        self.advance(link);
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
            has_news: false,
            must_close: false,
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

    /// What is to be done next, and for which link. Do it, and ask again until there is nothing.
    pub fn next_step(&mut self) -> Option<(ConnKey, LinkStep)> {
        loop {
            if let Some(key) = self.closed.pop_front() {
                return Some((key, LinkStep::Close));
            }
            let key = *self.steps.front()?;
            let Some(link) = self.links.get_mut(key) else {
                self.steps.pop_front();
                continue;
            };
            if std::mem::take(&mut link.must_close) {
                if link.is_idle() {
                    self.forget(key);
                }
                return Some((key, LinkStep::Close));
            }
            link.is_in_steps = false;
            self.steps.pop_front();
            let has_news = std::mem::take(&mut link.has_news);
            match &link.state {
                State::Wanted => return Some((key, LinkStep::Connect)),
                State::Open(wire) if has_news && !wire.output().is_empty() => {
                    return Some((key, LinkStep::Write));
                }
                _ => {}
            }
        }
    }

    /// Whether [`next_step`](Self::next_step) may have something to say.
    pub fn has_steps(&self) -> bool {
        !self.steps.is_empty() || !self.closed.is_empty()
    }

    /// The socket path of the receiver of a link; empty for a stale key.
    pub fn target(&self, key: ConnKey) -> &str {
        self.links.get(key).map(|link| &*link.target).unwrap_or_default()
    }

    /// The connection was made, its other end is to be trusted, and `auth_token` is what it asks for.
    pub fn connected(&mut self, key: ConnKey, auth_token: AuthToken, now: Now) {
        let ring = match Ring::new(self.limits.frame_bytes_max + 1) {
            Ok(ring) => ring,
            Err(error) => {
                if let Some(link) = self.links.get_mut(key) {
                    link.must_close = true;
                }
                return self.connect_failed(key, &error, now);
            }
        };
        if let Some(link) = self.links.get_mut(key) {
            link.state = State::Open(Box::new(Wire {
                auth_token,
                framer: Framer::new(self.limits.frame_bytes_max),
                ring,
                output: Vec::new(),
                sent: 0,
                queued_total: 0,
                sent_total: 0,
                in_flight: VecDeque::new(),
                has_answered: false,
                is_output_dead: false,
            }));
            self.advance(key);
        }
    }

    /// The connection was not made. [`ErrorKind::Busy`] is tried again while the messages have time; anything else is
    /// the end of all that wait.
    pub fn connect_failed(&mut self, key: ConnKey, error: &Error, now: Now) {
        if error.kind() == ErrorKind::Busy {
            return self.back_off(key, Busy::Backlog, now);
        }
        let Some(link) = self.links.get_mut(key) else { return };
        link.state = State::Idle;
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
    }

    /// Lets a link do what it can: wants a connection, fills its output, or is forgotten when nothing is left.
    fn advance(&mut self, key: ConnKey) {
        let messages = &self.messages;
        let Some(link) = self.links.get_mut(key) else { return };
        while link.waiting.front().is_some_and(|message| messages.get(*message).is_none()) {
            link.waiting.pop_front();
        }
        match &mut link.state {
            State::Idle if link.waiting.is_empty() && !link.must_close => return self.forget(key),
            State::Idle if !link.waiting.is_empty() => link.state = State::Wanted,
            State::Open(wire) => {
                while wire.in_flight.len() < self.limits.in_flight_max
                    && wire.output.len() - wire.sent < self.limits.frame_bytes_max
                    && let Some(key) = link.waiting.pop_front()
                {
                    let Some(message) = messages.get(key) else { continue };
                    wire.push(key, &message.line);
                    link.has_news = true;
                }
            }
            _ => {}
        }
        if !link.is_in_steps {
            link.is_in_steps = true;
            self.steps.push_back(key);
        }
    }

    // Bytes.

    /// Bytes to be written; empty for a stale key or if there are none.
    pub fn output(&self, key: ConnKey) -> &[u8] {
        match self.links.get(key).map(|link| &link.state) {
            Some(State::Open(wire)) => wire.output(),
            _ => &[],
        }
    }

    /// The first `n` bytes of [`output`](Self::output) were written.
    pub fn sent(&mut self, key: ConnKey, n: usize) {
        if let Some(wire) = self.wire(key) {
            let n = n.min(wire.output.len() - wire.sent);
            wire.sent += n;
            wire.sent_total += n as u64;
            // Each byte is moved at most once, and what was written is no more than what was not.
            if 2 * wire.sent >= wire.output.len() {
                wire.output.drain(..wire.sent);
                wire.sent = 0;
            }
            self.advance(key);
        }
    }

    /// Nothing more can be written. The connection is read to its end: that says why.
    pub fn output_failed(&mut self, key: ConnKey) {
        if let Some(wire) = self.wire(key) {
            wire.is_output_dead = true;
        }
    }

    /// Space for the next read, at most one frame; `None` for a stale key.
    pub fn recv_space(&mut self, key: ConnKey) -> Option<&mut [u8]> {
        self.wire(key).map(|wire| wire.ring.spare_mut())
    }

    /// `n` bytes were read into the space lent by [`recv_space`](Self::recv_space): answers are given to the messages
    /// that they belong to.
    pub fn received(&mut self, key: ConnKey, n: usize, now: Now) {
        if let Some(wire) = self.wire(key) {
            wire.ring.filled(n);
        }
        loop {
            let Some(wire) = self.wire(key) else { return };
            let answer = match wire.next_answer() {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(error) => return self.cut(key, &error, now),
            };
            match answer {
                Heard::Yes { id } => {
                    if wire.in_flight.front().is_some_and(|(_, end)| *end > wire.sent_total) {
                        let sentence = "the receiver answered before it had the whole message";
                        return self.cut(key, &Error::new(ErrorKind::InvalidMessage, sentence), now);
                    }
                    // What nobody asked for is skipped.
                    if let Some((message, _)) = wire.in_flight.pop_front() {
                        wire.has_answered = true;
                        self.finish(message, SendOutcome::Accepted { id });
                    }
                    if let Some(link) = self.links.get_mut(key) {
                        link.pause = BACKOFF.0;
                        link.busy = None;
                    }
                }
                Heard::No { reason } => return self.refused(key, reason, now),
            }
        }
        self.advance(key);
        self.cut_if_deserted(key, now);
    }

    /// The connection has ended.
    pub fn ended(&mut self, key: ConnKey, now: Now) {
        self.cut(key, &Error::new(ErrorKind::Io, "UDS socket ended before response"), now);
    }

    /// An error line came: it is the answer to the oldest message, and the end of the connection.
    fn refused(&mut self, key: ConnKey, reason: String, now: Now) {
        // These are said to a connection, not to a message: nothing that is in flight on it was looked at. That a
        // connection was idle too long is no news of a message only if it had been of use before.
        let has_answered = self.wire(key).is_some_and(|wire| wire.has_answered);
        let is = |said: CloseReason| said.wire_text().is_some_and(|text| text == reason);
        if is(CloseReason::TooManyClients) || (has_answered && is(CloseReason::IdleTimeout)) {
            self.requeue(key);
            self.close(key);
            return if self.links.get(key).is_some_and(|link| !link.waiting.is_empty()) {
                self.back_off(key, Busy::Clients, now)
            } else {
                self.advance(key)
            };
        }
        if let Some(wire) = self.wire(key)
            && let Some((message, _)) = wire.in_flight.pop_front()
        {
            wire.has_answered = true;
            self.finish(message, SendOutcome::Rejected { reason });
        }
        let error = Error::new(ErrorKind::Io, "the receiver rejected an earlier message and closed");
        self.cut(key, &error, now);
    }

    /// The connection is of no use any more. What was written whole may have arrived; what was not did not.
    fn cut(&mut self, key: ConnKey, error: &Error, now: Now) {
        let Some(wire) = self.wire(key) else { return };
        // A receiver that never answered anything is not tried again with what is left.
        let tries_again = wire.has_answered;
        let sent_total = wire.sent_total;
        let written = std::mem::take(&mut wire.in_flight);
        wire.in_flight = written.iter().copied().filter(|(_, end)| *end > sent_total).collect();
        for (message, _) in written.iter().filter(|(_, end)| *end <= sent_total) {
            self.finish(*message, SendOutcome::Unknown(error.restated()));
        }
        self.requeue(key);
        self.close(key);
        if tries_again {
            self.advance(key);
        } else {
            self.connect_failed(key, error, now);
        }
    }

    /// Puts messages in flight back in front of those that wait.
    fn requeue(&mut self, key: ConnKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        let State::Open(wire) = &mut link.state else { return };
        while let Some((message, _)) = wire.in_flight.pop_back() {
            if self.messages.get(message).is_some() {
                link.waiting.push_front(message);
            }
        }
    }

    /// Has the stream of a link closed.
    fn close(&mut self, key: ConnKey) {
        if let Some(link) = self.links.get_mut(key)
            && let State::Open(_) = link.state
        {
            link.state = State::Idle;
            link.must_close = true;
            link.has_news = false;
            if !link.is_in_steps {
                link.is_in_steps = true;
                self.steps.push_back(key);
            }
        }
    }

    /// Drops a link for which nothing is left to do.
    fn forget(&mut self, key: ConnKey) {
        if let Some(link) = self.links.remove(key) {
            self.by_target.remove(&link.target);
            self.link_wheel.cancel(key);
            if link.must_close || matches!(link.state, State::Open(_)) {
                self.closed.push_back(key);
            }
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
            self.expire(key, now);
        }
    }

    /// The time of one message is over.
    fn expire(&mut self, message: ConnKey, now: Now) {
        let Some((key, len)) = self.messages.get(message).map(|m| (m.link, m.line.len() as u64)) else {
            return;
        };
        let Some(link) = self.links.get_mut(key) else {
            return self.finish(message, SendOutcome::NotSent(timed_out()));
        };
        let busy = link.busy;
        let State::Open(wire) = &mut link.state else {
            let error = busy.map_or_else(timed_out, |busy| busy.error(&link.target));
            self.finish(message, SendOutcome::NotSent(error));
            return self.advance(key);
        };
        let sent_total = wire.sent_total;
        match wire.in_flight.iter().find(|(other, _)| *other == message) {
            // Its answer may still come and must not be taken for another's, so its place is kept.
            Some((_, end)) if *end <= sent_total => {
                self.finish(message, SendOutcome::Unknown(timed_out()));
                self.cut_if_deserted(key, now);
            }
            // Not a byte of it was written: it is taken back, and the others go on.
            Some((_, end)) if *end - len >= sent_total => {
                wire.withdraw(message, len);
                self.finish(message, SendOutcome::NotSent(timed_out()));
                self.advance(key);
            }
            // Its line must never become whole after it was said not to be sent.
            Some(_) => {
                self.finish(message, SendOutcome::NotSent(timed_out()));
                self.cut(key, &timed_out(), now);
            }
            None => {
                self.finish(message, SendOutcome::NotSent(timed_out()));
                self.advance(key);
            }
        }
    }

    /// Nobody waits for the answers that are due any more: the connection goes.
    fn cut_if_deserted(&mut self, key: ConnKey, now: Now) {
        let messages = &self.messages;
        let is_deserted = match self.links.get(key).map(|link| &link.state) {
            Some(State::Open(wire)) => {
                !wire.in_flight.is_empty() && wire.in_flight.iter().all(|(m, _)| messages.get(*m).is_none())
            }
            _ => false,
        };
        if is_deserted {
            self.cut(key, &timed_out(), now);
        }
    }

    /// The turn is over: keys freed in it may be used again.
    pub fn turn_ended(&mut self) {
        self.messages.release_retired();
        self.links.release_retired();
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
                State::Wanted | State::BackingOff { .. } => false,
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
    Yes { id: Option<String> },
    No { reason: String },
}

impl Wire {
    fn output(&self) -> &[u8] {
        if self.is_output_dead { &[] } else { self.output.get(self.sent..).unwrap_or_default() }
    }

    /// Puts a line behind the others, with the token that this connection asks for.
    fn push(&mut self, message: ConnKey, line: &[u8]) {
        let start = self.output.len();
        self.output.extend_from_slice(line);
        if let Some(line) = self.output.get_mut(start..) {
            Outgoing::set_auth_token(line, &self.auth_token);
        }
        self.queued_total += line.len() as u64;
        self.in_flight.push_back((message, self.queued_total));
    }

    /// Takes back the line of `message`, `len` bytes, of which none was written.
    fn withdraw(&mut self, message: ConnKey, len: u64) {
        let Some(at) = self.in_flight.iter().position(|(other, _)| *other == message) else { return };
        let Some((_, end)) = self.in_flight.remove(at) else { return };
        let before = usize::try_from(end - len - self.sent_total).unwrap_or(usize::MAX);
        let from = self.sent.saturating_add(before).min(self.output.len());
        let to = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(self.output.len());
        self.output.drain(from..to);
        self.queued_total -= len;
        for (_, end) in self.in_flight.range_mut(at..) {
            *end -= len;
        }
    }

    /// The next answer that has come; an error if what came is none.
    fn next_answer(&mut self) -> Result<Option<Heard>, Error> {
        loop {
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
                Answer::Accepted { id } => return Ok(Some(Heard::Yes { id })),
                Answer::Pong => return Ok(Some(Heard::Yes { id: None })),
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
