//! Messages on their way to other servers: the rules of sending, without I/O.
//!
//! Where [`Endpoint`](super::endpoint::Endpoint) holds what others send to us, [`Outbox`] holds what we send
//! to them: one *link* for each receiver, its messages in order, at most one connection under it. It decides
//! what may be written when, which answer belongs to which message, what can be sent again without being sent
//! twice, and the outcome of each message.
//!
//! ```text
//!   send ──► waiting ──► in flight ──► Accepted · Rejected · Unknown
//!               │  ▲         │
//!               │  └─────────┘ the receiver never had the whole line
//!               └──► NotSent
//! ```

mod link;
mod messages;
mod query;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use self::link::{Busy, Link, Need, timed_out};
use self::messages::Messages;
pub use self::messages::{SendId, SendOutcome};
pub use self::query::{Queries, QueryId};
use self::wire::{TokenAge, Wire};
use super::auth::AuthToken;
use super::error::{CloseReason, Error, ErrorKind};
use super::limits::Limits;
use super::message::{Answer, Outgoing};
use super::slots::{ConnKey, Slots};
use super::time::{Latest, Mono, Now};
use super::wheel::Wheel;

/// What is to be done for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum LinkStep {
    /// Look up the capability of [`Outbox::target`], connect, and check the identity of the other end before
    /// the token leaves. The key is new; it names this attempt and the stream that comes of it.
    Connect,
    /// Write [`Outbox::output`].
    Write,
    /// Close the stream, or give up the attempt to connect. The key is stale already.
    Close,
}

/// Messages on their way, the connections under them, and their outcomes.
///
/// Bounded by `outbox_entries_max`, `outbox_bytes_max`, `receivers_max` and `in_flight_max` of [`Limits`].
/// Every method is O(1) or linear in the bytes or messages that it moves, but for finding a receiver among
/// the others by its path. A `now` that is earlier than one
/// that was given before counts as that one.
///
/// # Driving it
///
/// [`LinkStep::Connect`] comes with a key that names the new attempt and the stream that it leads to, and
/// nothing else: not the receiver, and not the stream before. A report for a stream that is closed or
/// replaced changes nothing, however late it is.
///
/// 1. For each stream that can be read: [`recv_space`](Outbox::recv_space), read into it,
///    [`received`](LinkSpace::received); at its end [`ended`](Outbox::ended).
/// 2. Do what [`next_step`](Outbox::next_step) says until it says nothing more. [`LinkStep::Connect`] is
///    answered, now or in a later turn, with [`connected`](Outbox::connected) or
///    [`connect_failed`](Outbox::connect_failed), [`LinkStep::Write`] with [`sent`](Outbox::sent) or
///    [`output_failed`](Outbox::output_failed). A stream that takes only a part is written again when it can
///    be.
/// 3. [`deadlines_reached`](Outbox::deadlines_reached), step 2 again, [`turn_ended`](Outbox::turn_ended).
/// 4. [`next_outcome`](Outbox::next_outcome) until there is none; wait until
///    [`next_deadline`](Outbox::next_deadline), not at all if [`has_steps`](Outbox::has_steps).
///
/// Read each stream before you write to it, a new one too, and write only when nothing is left to read. Bytes
/// that were there before a line was written whole are no answer to it, and only the order of the reports
/// tells which were there. An error line that has come also explains why a write fails.
pub struct Outbox {
    limits: Limits,
    latest: Latest,
    messages: Messages,
    links: Slots<Link>,
    link_wheel: Wheel,
    by_target: BTreeMap<Box<str>, ConnKey>,
    /// The link of each connection, and of each attempt to make one. A shell sees only the keys of these.
    wires: Slots<ConnKey>,
    /// Links for which there may be a step.
    steps: VecDeque<ConnKey>,
    /// Links that want a connection when the turn is over: all keys for connections were used in it.
    parked: VecDeque<ConnKey>,
    /// Connections that are to be closed.
    closed: VecDeque<ConnKey>,
}

impl Outbox {
    /// An empty outbox within `limits`, with memory for as many messages and receivers as they allow.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`] if `limits` do not pass [`Limits::check`], [`ErrorKind::OutOfMemory`].
    pub fn new(limits: Limits) -> Result<Self, Error> {
        limits.check()?;
        let messages = Messages::new(&limits, Slots::new(limits.outbox_entries_max)?)?;
        let links = Slots::new(limits.receivers_max)?;
        // Keys retired in a turn stay occupied until its end, so there are more than can be in use.
        let wires = Slots::new(2 * limits.receivers_max)?;
        Self::empty(limits, messages, links, wires)
    }

    /// The same with memory for none: it is asked for as they come, and a message for which there is none is
    /// refused as if there were too many.
    ///
    /// # Errors
    ///
    /// As [`Outbox::new`].
    pub fn growing(limits: Limits) -> Result<Self, Error> {
        limits.check()?;
        let messages = Messages::new(&limits, Slots::growing(limits.outbox_entries_max))?;
        let (links, wires) = (Slots::growing(limits.receivers_max), Slots::growing(2 * limits.receivers_max));
        Self::empty(limits, messages, links, wires)
    }

    fn empty(
        limits: Limits,
        messages: Messages,
        links: Slots<Link>,
        wires: Slots<ConnKey>,
    ) -> Result<Self, Error> {
        Ok(Self {
            latest: Latest::default(),
            messages,
            link_wheel: Wheel::new(links.reserved())?,
            links,
            by_target: BTreeMap::new(),
            wires,
            steps: VecDeque::new(),
            parked: VecDeque::new(),
            closed: VecDeque::new(),
            limits,
        })
    }

    /// Indices of the keys that come with steps are below this.
    pub fn slots_max(&self) -> usize {
        2 * self.limits.receivers_max
    }

    /// Takes a message for the server at the socket path `target`, to be delivered within `timeout`.
    /// [`next_outcome`](Self::next_outcome) reports its outcome once. Messages to one receiver go in order.
    ///
    /// `from` is the own socket path, if there is one; it and the time of `now` are put in where the message
    /// has none.
    ///
    /// # Errors
    ///
    /// Nothing was taken: [`ErrorKind::MessageTooLarge`] or [`ErrorKind::InvalidMessage`] as
    /// [`Outgoing::encode`] says, or [`ErrorKind::OutboxFull`] if too much is on its way already. A message
    /// counts until its outcome is taken.
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
        let no_token = AuthToken::from_bytes([0; 32]);
        let line = message.encode(&no_token, from, Some(&ts), self.limits.frame_bytes_max)?;
        self.messages.check_room(line.len())?;
        let key = self.link_to(target)?;
        let message = self.messages.insert(key, line, now.mono.plus(timeout));
        if let (Some(message), Some(link)) = (message, self.links.get_mut(key)) {
            link.push(message, &self.messages, &self.limits);
        }
        self.advance(key);
        self.check_invariants();
        message
            .map(SendId)
            .ok_or_else(|| Error::new(ErrorKind::OutboxFull, "no slot is free for another message"))
    }

    /// Messages that have no outcome yet.
    pub fn outstanding(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of the lines of these messages.
    pub fn outstanding_bytes(&self) -> usize {
        self.messages.bytes()
    }

    /// The link to a receiver, made if need be.
    fn link_to(&mut self, target: &str) -> Result<ConnKey, Error> {
        if let Some(key) = self.by_target.get(target) {
            return Ok(*key);
        }
        if !self.links.has_room() {
            let idle = self.links.iter().find(|(_, link)| link.is_idle()).map(|(key, _)| key);
            if let Some(idle) = idle {
                self.forget(idle);
            }
        }
        let inserted = self.links.insert(Link::new(target));
        let Some(key) = inserted.filter(|key| self.link_wheel.make_room(key.index() + 1)) else {
            inserted.and_then(|key| self.links.remove(key));
            let sentence = format!(
                "messages for {} receivers are on their way already; wait for their outcomes",
                self.by_target.len()
            );
            return Err(Error::new(ErrorKind::OutboxFull, sentence));
        };
        self.by_target.insert(target.into(), key);
        Ok(key)
    }

    // Steps.

    /// What is to be done next, and for which stream. Do it, and ask again until there is nothing.
    pub fn next_step(&mut self) -> Option<(ConnKey, LinkStep)> {
        let closed = self.closed.pop_front().map(|wire| (wire, LinkStep::Close));
        let step = closed.or_else(|| self.next_link_step());
        self.check_invariants();
        step
    }

    fn next_link_step(&mut self) -> Option<(ConnKey, LinkStep)> {
        while let Some(key) = self.steps.pop_front() {
            let Some(link) = self.links.get_mut(key) else { continue };
            if !link.wants_connection() {
                if let Some(wire) = link.take_write() {
                    return Some((wire, LinkStep::Write));
                }
            } else if let Some(wire) = self.wires.insert(key) {
                link.take_connect(wire);
                return Some((wire, LinkStep::Connect));
            } else {
                self.parked.push_back(key);
            }
        }
        None
    }

    /// Whether [`next_step`](Self::next_step) may have something to say.
    pub fn has_steps(&self) -> bool {
        !self.steps.is_empty() || !self.closed.is_empty()
    }

    /// The link whose connection, or attempt to make one, a key names.
    fn link(&self, wire: ConnKey) -> Option<&Link> {
        self.links.get(*self.wires.get(wire)?)
    }

    /// The socket path of the receiver that a key leads to; empty for a stale key.
    pub fn target(&self, wire: ConnKey) -> &str {
        self.link(wire).map(|link| &*link.target).unwrap_or_default()
    }

    /// The link for which the attempt `wire` is being made.
    fn connecting(&self, wire: ConnKey) -> Option<ConnKey> {
        let key = *self.wires.get(wire)?;
        self.links.get(key)?.is_connecting().then_some(key)
    }

    /// Whether the receiver that a key leads to has refused the token that was given to
    /// [`connected_as_before`](Self::connected_as_before): then its capability is to be read again.
    pub fn is_token_refused(&self, wire: ConnKey) -> bool {
        self.link(wire).is_some_and(Link::is_token_refused)
    }

    /// The connection was made, its other end is to be trusted, and `auth_token` is what it asks for.
    pub fn connected(&mut self, wire: ConnKey, auth_token: AuthToken, now: Now) {
        self.open(wire, auth_token, TokenAge::New, now);
    }

    /// The same with a token that was read for an earlier connection. A receiver that has started anew has
    /// another one. If it refuses this one before it has answered anything, no message was taken: all wait
    /// for one more connection, for which [`is_token_refused`](Self::is_token_refused).
    pub fn connected_as_before(&mut self, wire: ConnKey, auth_token: AuthToken, now: Now) {
        self.open(wire, auth_token, TokenAge::Old, now);
    }

    fn open(&mut self, wire: ConnKey, auth_token: AuthToken, token_age: TokenAge, now: Now) {
        let now = self.latest.or_later(now);
        let Some(key) = self.connecting(wire) else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        match Wire::new(wire, auth_token, token_age, &self.limits) {
            Ok(wire) => {
                link.connected(wire);
                self.advance(key);
            }
            Err(error) => {
                self.disconnect(key);
                self.attempt_failed(key, &error, now);
            }
        }
        self.check_invariants();
    }

    /// The connection was not made, and there is no stream. After [`ErrorKind::Busy`] the outbox tries again
    /// while the messages have time; any other error ends all that wait.
    ///
    /// The index of `wire` can come again in the next step: nothing may be registered under it any more.
    pub fn connect_failed(&mut self, wire: ConnKey, error: &Error, now: Now) {
        let now = self.latest.or_later(now);
        let Some(key) = self.connecting(wire) else { return };
        if let Some(link) = self.links.get_mut(key) {
            link.disconnect(&self.messages);
        }
        self.wires.remove(wire);
        self.attempt_failed(key, error, now);
        self.check_invariants();
    }

    /// After a failed attempt, or a connection that was of no use: the messages that wait get the outcome
    /// *not sent*, or wait longer if the receiver is busy.
    fn attempt_failed(&mut self, key: ConnKey, error: &Error, now: Now) {
        if error.kind() == ErrorKind::Busy {
            return self.back_off(key, Busy::Backlog, now);
        }
        let Some(link) = self.links.get_mut(key) else { return };
        link.finish_waiting(&mut self.messages, error);
        self.advance(key);
    }

    /// The receiver is busy: the next attempt is made after a pause.
    fn back_off(&mut self, key: ConnKey, busy: Busy, now: Now) {
        let Some(link) = self.links.get_mut(key) else { return };
        let until = link.back_off(busy, now.mono);
        self.link_wheel.schedule(key, until);
        self.advance(key);
    }

    /// Lets a link do what it can, and forgets it if no message needs it.
    fn advance(&mut self, key: ConnKey) {
        match self.links.get_mut(key).map(|link| link.advance(&self.messages, &self.limits)) {
            None | Some(Need::Nothing) => {}
            Some(Need::Step) => self.steps.push_back(key),
            Some(Need::End) => self.forget(key),
        }
    }

    // Bytes.

    /// The connection that a key names, and its link.
    fn wire_mut(&mut self, wire: ConnKey) -> Option<(ConnKey, &mut Wire)> {
        let key = *self.wires.get(wire)?;
        Some((key, self.links.get_mut(key)?.wire_mut()?))
    }

    /// Bytes to be written; empty for a stale key or if there are none.
    pub fn output(&self, wire: ConnKey) -> &[u8] {
        self.link(wire).and_then(Link::wire).map(Wire::output).unwrap_or_default()
    }

    /// The first `n` bytes of [`output`](Self::output) were written.
    pub fn sent(&mut self, wire: ConnKey, n: usize) {
        if let Some((key, wire)) = self.wire_mut(wire) {
            wire.sent(n);
            self.advance(key);
        }
        self.check_invariants();
    }

    /// Nothing more can be written. The connection is read to its end, which may say why.
    pub fn output_failed(&mut self, wire: ConnKey) {
        if let Some((_, wire)) = self.wire_mut(wire) {
            wire.output_failed();
        }
        self.check_invariants();
    }

    /// Space for the next read, at most one frame; `None` for a stale key.
    pub fn recv_space(&mut self, wire: ConnKey) -> Option<LinkSpace<'_>> {
        self.wire_mut(wire)?.1.recv_space_mut();
        Some(LinkSpace { outbox: self, wire })
    }

    /// `n` bytes were read into the space for them: answers are given to the messages that they belong to.
    fn received(&mut self, wire: ConnKey, n: usize, now: Now) {
        let now = self.latest.or_later(now);
        let has_space = self.wire_mut(wire).map_or(Ok(()), |(_, wire)| wire.received(n));
        while let Some((key, open)) = self.wire_mut(wire) {
            match open.next_answer() {
                Ok(Some((Answer::Accepted { id }, start))) => self.accepted(key, id, start),
                Ok(Some((Answer::Pong, start))) => self.accepted(key, None, start),
                Ok(Some((Answer::Rejected { reason }, _))) => {
                    let given = reason.filter(|reason| !reason.is_empty());
                    let reason = given.map_or_else(|| "UDS receiver rejected message".to_owned(), Into::into);
                    self.rejected(key, reason, now);
                }
                Ok(Some((Answer::Other, _))) => {}
                Ok(None) => {
                    self.settle(key);
                    break;
                }
                Err(error) => self.cut(key, &error, now),
            }
        }
        if let (Err(error), Some((key, _))) = (has_space, self.wire_mut(wire)) {
            self.cut(key, &error, now);
        }
        self.check_invariants();
    }

    /// An acceptance came that began at byte `start` of the connection. One that answers no message is
    /// skipped.
    fn accepted(&mut self, key: ConnKey, id: Option<String>, start: u64) {
        if let Some(message) = self.links.get_mut(key).and_then(|link| link.accepted(start)) {
            self.messages.finish(message, SendOutcome::Accepted { id });
        }
    }

    /// An error line came: it is the answer to the oldest message, and the end of the connection.
    fn rejected(&mut self, key: ConnKey, reason: String, now: Now) {
        let Some(wire) = self.links.get_mut(key).and_then(Link::wire_mut) else { return };
        // These refuse a connection, not a message: nothing that is in flight on it was looked at. A
        // connection that was idle too long says nothing about a message only if it had been of use before.
        let is = |refusal: CloseReason| refusal.wire_text().is_some_and(|text| text == reason);
        if is(CloseReason::TooManyClients) || (wire.has_answered && is(CloseReason::IdleTimeout)) {
            self.disconnect(key);
            return self.back_off(key, Busy::Clients, now);
        }
        // Every line had this token, so none was taken, not even by a receiver that reads on after an error.
        if is(CloseReason::Unauthorized) && wire.may_have_old_token() {
            self.disconnect(key);
            if let Some(link) = self.links.get_mut(key) {
                link.token_refused();
            }
            return self.advance(key);
        }
        let Some(message) = wire.take_rejected() else {
            // It came before any byte of a message was written, so it is no answer to one.
            let sentence = format!("the receiver refused the connection: {reason:?}");
            return self.cut(key, &Error::new(ErrorKind::Io, sentence), now);
        };
        self.messages.finish(message, SendOutcome::Rejected { reason });
        let error = Error::new(ErrorKind::Io, "the receiver rejected an earlier message and closed");
        self.cut(key, &error, now);
    }

    /// The connection has ended.
    pub fn ended(&mut self, wire: ConnKey, now: Now) {
        let now = self.latest.or_later(now);
        if let Some((key, _)) = self.wire_mut(wire) {
            self.cut(key, &Error::new(ErrorKind::Io, "UDS socket ended before response"), now);
        }
        self.check_invariants();
    }

    /// The connection cannot be used any more.
    fn cut(&mut self, key: ConnKey, error: &Error, now: Now) {
        // The other messages are not tried again with a receiver that never answered anything.
        let Some(wire) = self.links.get(key).and_then(Link::wire) else { return };
        let tries_again = wire.has_answered;
        self.drop_wire(key, error);
        if tries_again {
            self.advance(key);
        } else {
            self.attempt_failed(key, error, now);
        }
    }

    /// Takes the connection from a link. Messages that were written whole may have arrived; the others did
    /// not, and wait again.
    fn drop_wire(&mut self, key: ConnKey, error: &Error) {
        if let Some(link) = self.links.get_mut(key) {
            link.finish_written(&mut self.messages, error);
        }
        self.disconnect(key);
    }

    /// Has the stream of a link closed, or the attempt to make one given up. Messages in flight wait again.
    fn disconnect(&mut self, key: ConnKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        if let Some(wire) = link.wire_key() {
            self.wires.retire(wire);
            self.closed.push_back(wire);
        }
        link.disconnect(&self.messages);
    }

    /// Drops a link that no message needs.
    fn forget(&mut self, key: ConnKey) {
        self.disconnect(key);
        if let Some(link) = self.links.remove(key) {
            self.by_target.remove(&link.target);
            self.link_wheel.cancel(key);
        }
    }

    // Time.

    /// The exact moment of the next deadline, if any.
    pub fn next_deadline(&mut self) -> Option<Mono> {
        let links = &self.links;
        let link = self.link_wheel.next_deadline(|key| links.get(key).and_then(Link::wakes_at));
        [self.messages.next_deadline(), link].into_iter().flatten().min()
    }

    /// Tries again where a pause is over, and ends the messages whose deadline has passed.
    pub fn deadlines_reached(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        loop {
            let links = &self.links;
            let truth = |key| links.get(key).and_then(Link::wakes_at);
            let Some(key) = self.link_wheel.next_expired(now.mono, truth) else { break };
            self.disconnect(key);
            self.advance(key);
        }
        while let Some(message) = self.messages.next_expired(now.mono) {
            self.expire(message);
        }
        self.check_invariants();
    }

    /// The deadline of one message has passed. Each has its own: the others go on.
    fn expire(&mut self, message: ConnKey) {
        let Some(key) = self.messages.get(message).map(|outstanding| outstanding.link) else { return };
        match self.links.get_mut(key) {
            Some(link) => link.expire(message, &mut self.messages),
            None => self.messages.finish(message, SendOutcome::NotSent(timed_out())),
        }
        self.settle(key);
    }

    /// Lets a link go on, with another connection if no message waits for an answer from this one.
    ///
    /// This cannot repeat without end: each time at least one message has got its outcome.
    fn settle(&mut self, key: ConnKey) {
        self.advance(key);
        if self.links.get(key).is_some_and(|link| link.is_deserted(&self.messages)) {
            self.drop_wire(key, &timed_out());
            self.advance(key);
        }
    }

    /// The turn is over: keys retired in it may be used again.
    pub fn turn_ended(&mut self) {
        self.wires.release_retired();
        if !self.parked.is_empty() {
            self.steps.append(&mut self.parked);
        }
        self.check_invariants();
        self.check_links();
    }

    /// The outcome of one message; each is reported once.
    pub fn next_outcome(&mut self) -> Option<(SendId, SendOutcome)> {
        let next = self.messages.next_outcome();
        self.check_invariants();
        next
    }

    /// O(1); the parts check themselves.
    fn check_invariants(&self) {
        self.messages.check_invariants();
        debug_assert_eq!(self.links.len(), self.by_target.len(), "one link for each receiver");
        debug_assert!(self.wires.len() <= self.links.len(), "at most one connection for each link");
    }

    /// The invariants of each link; each connection, and each attempt to make one, is that of its link.
    /// O(links), in debug builds.
    fn check_links(&self) {
        if cfg!(debug_assertions) {
            self.links.iter().for_each(|(_, link)| link.check_advanced());
            let named = self.links.iter().filter_map(|(key, link)| Some((key, link.wire_key()?)));
            let found = named.filter(|(key, wire)| self.wires.get(*wire) == Some(key)).count();
            debug_assert_eq!(found, self.wires.len(), "connections that belong to a link");
        }
    }
}

/// Space for one read of a connection, lent by [`Outbox::recv_space`]. Dropped without
/// [`received`](Self::received), nothing was read.
#[derive(Debug)]
#[must_use]
pub struct LinkSpace<'o> {
    outbox: &'o mut Outbox,
    wire: ConnKey,
}

impl LinkSpace<'_> {
    /// The first `n` bytes of the space were read.
    ///
    /// An `n` beyond the space is a mistake of the host: it counts as all of the space, and panics in a debug
    /// build.
    pub fn received(self, n: usize, now: Now) {
        debug_assert!(n <= self.len(), "received({n}) of {} bytes of space", self.len());
        let n = n.min(self.len());
        self.outbox.received(self.wire, n, now);
    }
}

impl Deref for LinkSpace<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.outbox.link(self.wire).and_then(Link::wire).map(Wire::recv_space).unwrap_or_default()
    }
}

impl DerefMut for LinkSpace<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.outbox.wire_mut(self.wire).map(|(_, wire)| wire.recv_space_mut()).unwrap_or_default()
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
