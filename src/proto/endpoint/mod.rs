//! All connections of one address, its inbox and its timers: the whole protocol without I/O.
//!
//! # Driving it
//!
//! [`Endpoint`] opens nothing and reads no clock. Whoever drives it does this, turn after turn:
//!
//! 1. [`work`](Endpoint::work): frames that a budget left over in an earlier turn.
//! 2. For each connection that can be read: [`recv_space`](Endpoint::recv_space), read into it,
//!    [`received`](Endpoint::received); at end of input [`end_of_input`](Endpoint::end_of_input).
//! 3. Do what [`next_step`](Endpoint::next_step) says until it says nothing more, and call [`sent`](Endpoint::sent)
//!    for what was written. A connection whose stream takes nothing now is written again when it can be.
//! 4. [`accepted`](Endpoint::accepted) for each new connection.
//! 5. [`deadlines_reached`](Endpoint::deadlines_reached), then step 3 again.
//! 6. [`turn_ended`](Endpoint::turn_ended); [`drain_into`](Endpoint::drain_into) whenever the owner likes.
//! 7. Wait until something is ready or [`next_deadline`](Endpoint::next_deadline); not at all if
//!    [`has_work`](Endpoint::has_work).
//!
//! That order is what makes deadlines judge peers and not a host that stayed away: bytes that arrived in time are
//! read before their sender is judged, however late the turn. Where the stream may hold more than one read took, the
//! timeout waits for the next turn.
//!
//! Time never steps back: a `now` before one that was given counts as that one.

mod connection;
mod rate_limit;

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use self::connection::{Connection, Ending, Env, Event};
use self::rate_limit::RateLimiter;
use super::auth::AuthToken;
use super::buffers::BufferPool;
use super::error::{CloseReason, Error, ErrorKind};
use super::inbox::{Batch, Inbox};
use super::limits::Limits;
use super::message::{self, Reply};
use super::peer::PeerIdentity;
use super::slots::{ConnKey, Slots};
use super::stats::{ConnectionStats, Stats};
use super::time::{Latest, Mono, Now, Wall};
use super::wheel::Wheel;

/// Bytes of a socket path or pipe name; both are far shorter on every platform.
const PATH_BYTES_MAX: usize = 512;

/// Buffers for output kept for the next connection that has something to say, and the size above which none is kept.
const SPARE_OUTPUTS_MAX: usize = 4;
const SPARE_OUTPUT_BYTES_MAX: usize = 16 << 10;

/// What is to be done with the stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Write [`Endpoint::output`] and report with [`Endpoint::sent`].
    Write,
    /// Reading was refused earlier (no `recv_space`) and is possible again.
    Read,
    /// Shut the write side down and go on reading until end of input.
    ShutWrite,
    /// Close the stream. The key is stale already.
    ///
    /// Read what is unread in it first, without waiting, and throw it away: closing a Unix socket with unread bytes resets
    /// the peer, and the peer loses the last lines that were written to it.
    Close(CloseReason),
}

/// The sans-IO core of one address. See the [module](self) for how to drive it.
///
/// Memory: `unfinished_bytes_max` and one frame for input, one and a half `output_bytes_max` per client for answers, the inbox
/// twice while a batch is held, and a few hundred bytes per connection. Every method is O(1) or linear in the bytes
/// it is given, unless it says otherwise.
pub struct Endpoint {
    limits: Limits,
    auth_token: AuthToken,
    owner: u32,
    /// The own path as a JSON string, quotes included.
    path_json: String,
    answer_bytes_max: usize,
    slots: Slots<Connection>,
    wheel: Wheel,
    rings: BufferPool,
    rings_max: usize,
    spare_outputs: Vec<Vec<u8>>,
    inbox: Inbox,
    /// Something was put into the inbox in this turn, so that its owner has not had a chance to drain it yet.
    has_enqueued: bool,
    /// Connections ever given a slot: the serial number of the newest.
    admitted: u64,
    /// Connections that are open; the others in `slots` are closing.
    open: usize,
    /// Connections with frames left over, in the order in which they go on.
    work: VecDeque<ConnKey>,
    /// Those of them that were served in this turn: when it is over they stand behind the others.
    spent: VecDeque<ConnKey>,
    /// The number of this turn; it wraps.
    turn: u32,
    /// Connections that wait for a ring, in the order in which they asked.
    starved: VecDeque<ConnKey>,
    /// Rings set aside for connections that waited.
    promised: usize,
    /// Connections for which there may be a step, and closings of connections that are gone already.
    steps: VecDeque<ConnKey>,
    gone: VecDeque<(ConnKey, CloseReason)>,
    /// Connections that are closing, in the order in which that began, and those of them that have been given everything
    /// and are read to their end. Keys of those that are gone may still stand in both.
    closing: VecDeque<ConnKey>,
    lingering: VecDeque<ConnKey>,
    stamp: Stamp,
    latest: Latest,
    rates: RateLimiter,
    /// What is counted as it happens; the rest is known elsewhere.
    stats: Stats,
    is_shut_down: bool,
}

/// How much of what a connection has sent is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The frames of one turn.
    Budget,
    /// Every whole frame in its ring: a timeout or an eviction is about to be enforced.
    Everything,
}

/// The text of the turn's wall time, formatted when it is first needed.
struct Stamp {
    wall: Option<Wall>,
    text: String,
}

impl Stamp {
    fn text(&mut self, wall: Wall) -> &str {
        if self.wall != Some(wall) {
            self.text.clear();
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{wall}");
            self.wall = Some(wall);
        }
        &self.text
    }
}

/// An empty queue with room for `capacity` entries.
fn queue<T>(capacity: usize) -> Result<VecDeque<T>, Error> {
    let mut queue = VecDeque::new();
    queue.try_reserve_exact(capacity).map_err(|refused| {
        Error::new(ErrorKind::OutOfMemory, format!("no memory for a queue of {capacity} connections"))
            .with_source(refused)
    })?;
    Ok(queue)
}

/// Puts `key` at the end of `queue`, in which keys of connections that are gone may still stand: they are thrown out when
/// there is no room. O(1), amortised: fewer connections are closing than there are slots.
fn enqueue(queue: &mut VecDeque<ConnKey>, key: ConnKey, slots: &Slots<Connection>) {
    if queue.len() == queue.capacity() {
        queue.retain(|key| slots.get(*key).is_some());
    }
    queue.push_back(key);
}

fn slots_max(limits: &Limits) -> usize {
    2 * limits.clients_max + limits.turn_accepts_max
}

impl Endpoint {
    /// An endpoint for the socket at `path`, owned by user id `owner`, whose senders must show `auth_token`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`] if `limits` do not pass [`Limits::check`], [`ErrorKind::InvalidAddress`] if `path`
    /// is longer than 512 bytes, [`ErrorKind::OutOfMemory`] if the inbox, the slots, the timers or the queues cannot be
    /// reserved.
    pub fn new(path: &str, owner: u32, auth_token: AuthToken, limits: Limits) -> Result<Self, Error> {
        limits.check()?;
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidAddress,
                format!("a path of {} bytes is longer than {PATH_BYTES_MAX}", path.len()),
            ));
        }
        let path_json = message::quoted(path);
        // The longest pong and the longest response, whichever is longer; ids have at most 20 digits.
        let answer_bytes_max = path_json.len() + 128;
        let slots_max = slots_max(&limits);
        let rings_max = limits.unfinished_bytes_max / limits.frame_bytes_max + 1;
        Ok(Self {
            slots: Slots::new(slots_max)?,
            wheel: Wheel::new(slots_max)?,
            rings: BufferPool::new(limits.frame_bytes_max + 1, rings_max),
            rings_max,
            inbox: Inbox::new(&limits)?,
            limits,
            auth_token,
            owner,
            path_json,
            answer_bytes_max,
            spare_outputs: Vec::new(),
            has_enqueued: false,
            admitted: 0,
            open: 0,
            work: queue(slots_max)?,
            spent: queue(slots_max)?,
            turn: 0,
            starved: queue(2 * slots_max)?,
            promised: 0,
            steps: queue(slots_max)?,
            gone: queue(slots_max)?,
            closing: queue(slots_max)?,
            lingering: queue(slots_max)?,
            stamp: Stamp { wall: None, text: String::new() },
            latest: Latest::default(),
            rates: RateLimiter::default(),
            stats: Stats::default(),
            is_shut_down: false,
        })
    }

    // Connections come.

    /// Whether [`accepted`](Self::accepted) has a slot left in this turn; if not, leave newcomers in the backlog.
    pub fn can_accept(&self) -> bool {
        !self.is_shut_down && self.slots.has_room()
    }

    /// Indices of keys are below this: `clients_max` open ones, as many again that are closing, and those freed in
    /// this turn.
    pub fn slots_max(&self) -> usize {
        slots_max(&self.limits)
    }

    /// A connection was made by `peer`. `None`: close it at once, without a word, since it belongs to another user
    /// or there is no slot even to refuse it politely.
    ///
    /// When `clients_max` are open, the newcomer takes the slot of the one that has been connected longest without
    /// authenticating, if that is at least `eviction_age`, those that never sent a byte first. What such a client has sent
    /// is processed before; one whose bytes were not read yet keeps its slot. Otherwise the key returned is that of a
    /// connection that is being refused. O(clients) then; otherwise O(1), and with `pid_rate_max` now and then
    /// O(processes).
    ///
    /// Every refused one is told why if its steps are done before the turn ends, after each or after all of them.
    pub fn accepted(&mut self, peer: PeerIdentity, now: Now) -> Option<ConnKey> {
        let now = self.latest.or_later(now);
        if !peer.is_trusted_by(self.owner) {
            self.stats.strangers += 1;
            tracing::warn!(uid = peer.uid, pid = peer.pid, "connection of another user refused");
            return None;
        }
        if !self.can_accept() {
            return None;
        }
        let is_refused = !self.make_room(now);
        self.admitted += 1;
        self.rates.prune(self.slots_max(), now.mono);
        let key = self.slots.insert(Connection::new(peer, self.admitted, &self.limits, now.mono))?;
        self.open += 1;
        self.stats.clients_peak = self.stats.clients_peak.max(self.open.min(self.limits.clients_max));
        tracing::debug!(index = key.index(), uid = peer.uid, pid = peer.pid, "client connected");
        if is_refused {
            self.close(key, CloseReason::TooManyClients, now);
        } else {
            self.settle(key);
        }
        Some(key)
    }

    /// Sees to it that a newcomer finds room, at the cost of a client that is silent. `false`: there is none.
    fn make_room(&mut self, now: Now) -> bool {
        while self.open >= self.limits.clients_max {
            let Some(victim) = self.find_victim(now.mono) else { return false };
            if !self.look_at_everything(victim, now) {
                self.close(victim, CloseReason::TooManyClients, now);
            }
        }
        true
    }

    /// The client that makes room for a newcomer, if one has to; none whose bytes were not read yet.
    fn find_victim(&self, now: Mono) -> Option<ConnKey> {
        self.slots
            .iter()
            .filter(|(_, c)| c.is_open() && !c.is_authenticated() && !c.is_deferred && !c.may_be_behind())
            .filter(|(_, c)| now.since(c.accepted_at()) >= self.limits.eviction_age)
            .min_by_key(|(_, c)| (c.has_spoken(), c.serial()))
            .map(|(key, _)| key)
    }

    /// Takes up all that a connection has sent and that was read and left over, which is one ring at most. `false`: there
    /// was nothing.
    fn look_at_everything(&mut self, key: ConnKey, now: Now) -> bool {
        let Some(connection) = self.slots.get_mut(key) else { return false };
        if !connection.is_in_work && !connection.is_throttled() {
            return false;
        }
        connection.is_in_work = false;
        connection.end_throttle();
        self.process(key, Work::Everything, now);
        true
    }

    // Bytes come.

    /// Space for the next read of a connection, at most `turn_bytes_max`, or one frame where it is about to be judged.
    /// `None`: do not read now; [`Step::Read`] will say when to try again. Follow it with
    /// [`received`](Self::received), be it with 0 bytes: until then the space stays lent, whatever else is called.
    pub fn recv_space(&mut self, key: ConnKey, now: Now) -> Option<&mut [u8]> {
        let now = self.latest.or_later(now);
        let read_max = self.slots.get(key)?.read_max(&self.limits, now.mono);
        self.lend_space(key, read_max)
    }

    /// Space for the input of a connection, at most `max` bytes.
    fn lend_space(&mut self, key: ConnKey, max: usize) -> Option<&mut [u8]> {
        let free = self.rings_max - self.rings.lent();
        let connection = self.slots.get_mut(key)?;
        if connection.is_input_finished() {
            return None;
        }
        if connection.is_stalled() || connection.is_throttled() || connection.is_in_work {
            connection.refuse_read();
            return None;
        }
        if !connection.has_ring() {
            if std::mem::take(&mut connection.has_promise) {
                self.promised -= 1;
            } else if free <= self.promised {
                return self.starve(key);
            }
            connection.is_starved = false;
        }
        // The pool was asked; only memory can be refused now. The borrow checker wants the question put twice.
        if connection.recv_space(&mut self.rings, max).is_none() {
            tracing::error!(index = key.index(), "no memory for an input buffer");
            self.remove(key, CloseReason::PeerGone);
            return None;
        }
        self.slots.get_mut(key)?.recv_space(&mut self.rings, max)
    }

    /// Puts a connection in the queue for a ring.
    fn starve(&mut self, key: ConnKey) -> Option<&mut [u8]> {
        let connection = self.slots.get_mut(key)?;
        connection.refuse_read();
        if !connection.is_starved {
            connection.is_starved = true;
            // Those that went away while they waited leave their keys behind.
            if self.starved.len() >= 2 * self.slots.len() {
                let slots = &self.slots;
                self.starved.retain(|key| slots.get(*key).is_some());
            }
            self.starved.push_back(key);
        }
        None
    }

    /// `n` bytes were read into the space lent by [`recv_space`](Self::recv_space). A stale key is ignored.
    ///
    /// # Panics
    ///
    /// If `n` is more than was lent: those bytes would be lost.
    pub fn received(&mut self, key: ConnKey, n: usize, now: Now) {
        let now = self.latest.or_later(now);
        if let Some(connection) = self.slots.get_mut(key) {
            connection.received(n, now.mono);
            self.stats.bytes_read += n as u64;
            self.process(key, Work::Budget, now);
        }
    }

    /// For hosts whose reads are completed elsewhere: copies as much of `bytes` as there is space for, `turn_bytes_max`
    /// or not, and returns how much that was. What is left must be offered again after [`Step::Read`].
    pub fn received_bytes(&mut self, key: ConnKey, bytes: &[u8], now: Now) -> usize {
        let now = self.latest.or_later(now);
        let Some(space) = self.lend_space(key, usize::MAX) else { return 0 };
        let n = space.len().min(bytes.len());
        for (to, from) in space.iter_mut().zip(bytes) {
            *to = *from;
        }
        if n < bytes.len()
            && let Some(connection) = self.slots.get_mut(key)
        {
            connection.refuse_read();
        }
        self.received(key, n, now);
        n
    }

    /// The peer will send nothing more (a read of 0, or a reset). What it sent before is processed, it gets the answers
    /// that it is owed, an unfinished line is dropped, and then the connection ends.
    pub fn end_of_input(&mut self, key: ConnKey, now: Now) {
        let now = self.latest.or_later(now);
        if let Some(connection) = self.slots.get_mut(key) {
            connection.finish_input();
            self.process(key, Work::Budget, now);
        }
    }

    /// Whether frames are left over for [`work`](Self::work), or there is a step to do: the next turn must not wait.
    pub fn has_work(&self) -> bool {
        !(self.work.is_empty() && self.spent.is_empty() && self.steps.is_empty() && self.gone.is_empty())
    }

    /// Goes on with the connections whose frames were left over when their budget was spent, each once.
    pub fn work(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        for _ in 0..self.work.len() {
            let Some(key) = self.work.pop_front() else { break };
            if let Some(connection) = self.slots.get_mut(key).filter(|c| c.is_in_work) {
                connection.is_in_work = false;
                connection.end_put_off();
                self.process(key, Work::Budget, now);
            }
        }
    }

    /// Takes up to a budget of frames out of what a connection has sent. This is the landing of the two stairs: what
    /// a peer wants is decided here, and nowhere else.
    ///
    /// A message that finds the inbox full is refused only if nothing was put into it in this turn. Otherwise it waits
    /// for the next one, so that an owner who drains after every turn never has a message refused. Its sender keeps its
    /// place ahead of those that were served in this turn, and its timeouts are suspended meanwhile.
    fn process(&mut self, key: ConnKey, work: Work, now: Now) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if !connection.is_open() {
            // What it sends is thrown away.
            return self.settle(key);
        }
        let env = Env {
            limits: &self.limits,
            auth_token: &self.auth_token,
            answer_bytes_max: self.answer_bytes_max,
        };
        connection.lend_output_memory(&mut self.spare_outputs);
        let peer = connection.peer();
        let mut fatal = None;
        // What was left over and what is read anew are one budget.
        let budget = match work {
            Work::Budget => self.limits.turn_frames_max.saturating_sub(connection.frames_in(self.turn)),
            Work::Everything => usize::MAX,
        };
        let (mut taken, mut is_deferred) = (0, false);
        let mut has_line_reserved = connection.has_line_reserved;
        while taken < budget && fatal.is_none() && !connection.is_paused() {
            if self.has_enqueued
                && connection.next_frame_len().is_some_and(|len| !self.inbox.has_room(peer.pid, len))
            {
                is_deferred = true;
                break;
            }
            // Before it is judged for not having authenticated, a client may show what it has sent.
            let is_paced =
                self.limits.pid_rate_max > 0 && (work == Work::Budget || connection.is_authenticated());
            if is_paced && !has_line_reserved && connection.has_leftover() {
                has_line_reserved = true;
                if let Err(until) = self.rates.take(peer.pid, self.limits.pid_rate_max, now.mono) {
                    connection.throttle(until);
                    self.stats.throttled += 1;
                    break;
                }
            }
            let Some(event) = connection.next_event(&env, now.mono) else { break };
            taken += 1;
            // A blank line leaves what is reserved to the next one.
            has_line_reserved &= !is_paced || matches!(event, Event::Blank);
            let reply = match event {
                Event::Blank => continue,
                Event::Deliver(message) => match self.inbox.push(message, peer, now.wall) {
                    Ok(id) => {
                        self.has_enqueued = true;
                        Reply::Response { number: id.number() }
                    }
                    Err(_full) => {
                        fatal = Some(CloseReason::InboxFull);
                        continue;
                    }
                },
                Event::Ping => {
                    self.stats.pings += 1;
                    Reply::Pong { from_json: &self.path_json }
                }
                Event::Fatal(reason) => {
                    fatal = Some(reason);
                    continue;
                }
            };
            if !connection.reply(&reply, self.stamp.text(now.wall), &env) {
                // Without memory for an answer there is none for an error line either.
                connection.drop_output();
                fatal = Some(CloseReason::PeerGone);
            }
        }
        connection.has_line_reserved = has_line_reserved;
        let is_paused = connection.is_paused();
        let has_leftover = is_paused || ((is_deferred || taken == budget) && connection.has_leftover());
        connection.taken_up(taken, self.turn, now.mono);
        connection.is_deferred = is_deferred && has_leftover && !is_paused;
        if fatal.is_none() && !has_leftover && connection.is_input_finished() {
            fatal = Some(if connection.is_output_dead() {
                CloseReason::PeerGone
            } else {
                CloseReason::PeerFinished
            });
        }
        if !has_leftover {
            connection.note_unfinished(now.mono);
        } else if !is_paused {
            self.put_in_line(key);
        }
        match fatal {
            Some(reason) => self.close(key, reason, now),
            None => self.settle(key),
        }
    }

    /// Has the next turn go on with a connection. One that was served in this turn stands behind those that were not.
    fn put_in_line(&mut self, key: ConnKey) {
        let Some(connection) = self.slots.get_mut(key).filter(|c| !c.is_in_work) else { return };
        connection.is_in_work = true;
        let was_served = connection.frames_in(self.turn) > 0;
        let line = if was_served { &mut self.spent } else { &mut self.work };
        line.push_back(key);
    }

    // Bytes go.

    /// Answers not yet written; empty for a stale key.
    pub fn output(&self, key: ConnKey) -> &[u8] {
        self.slots.get(key).map(Connection::output).unwrap_or_default()
    }

    /// The first `n` bytes of [`output`](Self::output) were written.
    pub fn sent(&mut self, key: ConnKey, n: usize, now: Now) {
        let now = self.latest.or_later(now);
        let Some(connection) = self.slots.get_mut(key) else { return };
        let was_stalled = connection.is_stalled();
        self.stats.bytes_written += n.min(connection.output().len()) as u64;
        connection.sent(n, now.mono);
        self.unstall(key, was_stalled);
    }

    /// The peer will read nothing more (a write failed). What it has sent is still processed; its answers are dropped.
    pub fn output_failed(&mut self, key: ConnKey) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        let was_stalled = connection.is_stalled();
        connection.drop_output();
        self.unstall(key, was_stalled);
    }

    /// After output went away: a connection that was stalled by it goes on where it stopped.
    fn unstall(&mut self, key: ConnKey, was_stalled: bool) {
        if was_stalled && self.slots.get(key).is_some_and(|c| !c.is_stalled()) {
            self.put_in_line(key);
        }
        self.settle(key);
    }

    /// The stream of this connection broke in a way that leaves nothing to read or to write: it is forgotten.
    pub fn broken(&mut self, key: ConnKey) {
        self.remove(key, CloseReason::PeerGone);
    }

    /// What is to be done next, and with which connection. Do it, and ask again until there is nothing.
    pub fn next_step(&mut self) -> Option<(ConnKey, Step)> {
        loop {
            if let Some((key, reason)) = self.gone.pop_front() {
                return Some((key, Step::Close(reason)));
            }
            let Some(&key) = self.steps.front() else {
                // Each last line has been offered to its stream: now those that are too many can go.
                self.cut_off_closing();
                if self.gone.is_empty() {
                    return None;
                }
                continue;
            };
            let Some(connection) = self.slots.get_mut(key) else {
                self.steps.pop_front();
                continue;
            };
            if std::mem::take(&mut connection.has_news) && !connection.output().is_empty() {
                return Some((key, Step::Write));
            }
            if std::mem::take(&mut connection.has_resumed) {
                return Some((key, Step::Read));
            }
            connection.is_in_steps = false;
            self.steps.pop_front();
            match connection.next_ending() {
                Ending::NotYet => {}
                Ending::ShutWrite => {
                    enqueue(&mut self.lingering, key, &self.slots);
                    return Some((key, Step::ShutWrite));
                }
                Ending::Close(reason) => {
                    // `gone` reports it when asked again.
                    self.remove(key, reason);
                }
            }
        }
    }

    // Time passes.

    /// The exact moment of the next deadline, if any. Nothing happens before it unless something arrives. Amortised O(1).
    pub fn next_deadline(&mut self) -> Option<Mono> {
        let (slots, limits) = (&self.slots, &self.limits);
        self.wheel.next_deadline(|key| slots.get(key).and_then(|c| c.deadline(limits)))
    }

    /// Judges every connection whose deadline has passed. Call it after everything that has arrived was read.
    pub fn deadlines_reached(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        loop {
            let (slots, limits) = (&self.slots, &self.limits);
            let truth = |key| slots.get(key).and_then(|c: &Connection| c.deadline(limits));
            let Some(key) = self.wheel.next_expired(now.mono, truth) else { break };
            let Some(connection) = self.slots.get_mut(key) else { continue };
            if connection.is_open() && connection.resumes(now.mono) {
                self.put_in_line(key);
                self.settle(key);
                continue;
            }
            match connection.expired(&self.limits, now.mono) {
                Some(reason) if !connection.is_open() => self.remove(key, reason),
                // What it sent in time may be among the frames that were read and left over, or behind them in the
                // stream: all of that is looked at first.
                Some(reason) => {
                    if self.look_at_everything(key, now) {
                        continue;
                    }
                    if !self.put_off(key) {
                        self.close(key, reason, now);
                    }
                }
                None => self.settle(key),
            }
        }
    }

    /// Suspends the timeouts of a connection until the next turn has read its stream once more, if that may hold more.
    /// `false`: there is no reason to.
    fn put_off(&mut self, key: ConnKey) -> bool {
        let Some(connection) = self.slots.get_mut(key).filter(|c| !c.is_in_work) else { return false };
        if !connection.put_off() {
            return false;
        }
        // The next turn is due at once, and ends this.
        self.put_in_line(key);
        self.settle(key);
        true
    }

    /// The turn is over: slots freed in it may be used again, for no event of this turn can name them any more.
    pub fn turn_ended(&mut self) {
        self.has_enqueued = false;
        self.turn = self.turn.wrapping_add(1);
        self.work.append(&mut self.spent);
        self.slots.iter().for_each(|(_, connection)| connection.check_invariants());
        self.slots.release_retired();
    }

    // Connections go.

    /// Stops: nothing more is accepted or processed, what is owed is flushed within `closing_timeout`. No farewell.
    pub fn shutdown(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        self.is_shut_down = true;
        let keys: Vec<ConnKey> = self.slots.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, CloseReason::ShutDown, now);
        }
    }

    /// Begins the end of an open connection. If too many are closing already, the oldest of them is cut off.
    fn close(&mut self, key: ConnKey, reason: CloseReason, now: Now) {
        let Some(connection) = self.slots.get_mut(key).filter(|c| c.is_open()) else { return };
        let ts = self.stamp.text(now.wall);
        connection.lend_output_memory(&mut self.spare_outputs);
        connection.close(reason, ts, &self.limits, now.mono);
        let had_promise = std::mem::take(&mut connection.has_promise);
        connection.is_starved = false;
        if connection.is_read_refused {
            // It may be read to its end now, whatever it was refused for.
            connection.is_read_refused = false;
            connection.has_resumed = true;
        }
        self.open -= 1;
        if had_promise {
            self.promised -= 1;
            self.feed_starved();
        }
        tracing::debug!(index = key.index(), ?reason, "closing connection");
        enqueue(&mut self.closing, key, &self.slots);
        self.cut_off_closing();
        self.settle(key);
    }

    /// Cuts off those of the closing connections that are more than may be: first those that have been given everything,
    /// then the oldest, but none whose last line the shell has not been told to write. Amortised O(1).
    fn cut_off_closing(&mut self) {
        while self.slots.len() - self.open > self.limits.clients_max {
            let Some((key, reason)) = self.next_to_cut_off() else { break };
            self.remove(key, reason);
        }
    }

    /// The closing connection that is cut off next. Keys of those that are gone are dropped from the queues on the way.
    fn next_to_cut_off(&mut self) -> Option<(ConnKey, CloseReason)> {
        for queue in [&mut self.lingering, &mut self.closing] {
            while let Some(&key) = queue.front() {
                match self.slots.get(key) {
                    Some(connection) if connection.has_news => return None,
                    Some(connection) => return Some((key, connection.closing()?)),
                    None => queue.pop_front(),
                };
            }
        }
        None
    }

    /// Forgets a connection and has its stream closed.
    fn remove(&mut self, key: ConnKey, reason: CloseReason) {
        let Some(mut connection) = self.slots.retire(key) else { return };
        if connection.is_open() {
            self.open -= 1;
        }
        if connection.has_promise {
            self.promised -= 1;
        }
        self.wheel.cancel(key);
        connection.drop_output();
        if let Some(ring) = connection.take_ring() {
            self.rings.give_back(ring);
        }
        self.keep_output_memory(connection.take_output_memory());
        self.feed_starved();
        self.gone.push_back((key, reason));
        self.stats.closed.count(reason);
        tracing::debug!(index = key.index(), ?reason, "connection closed");
    }

    fn keep_output_memory(&mut self, memory: Option<Vec<u8>>) {
        if let Some(memory) = memory
            && memory.capacity() <= SPARE_OUTPUT_BYTES_MAX
            && self.spare_outputs.len() < SPARE_OUTPUTS_MAX
        {
            self.spare_outputs.push(memory);
        }
    }

    /// After any change to a connection: gives back what it no longer needs, files its deadline, and queues it if
    /// there is something to do for the shell.
    fn settle(&mut self, key: ConnKey) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        let ring = connection.take_spent_ring();
        let output = connection.take_output_memory();
        if connection.is_read_refused
            && !connection.is_starved
            && !connection.is_stalled()
            && !connection.is_throttled()
            && !connection.is_in_work
        {
            connection.is_read_refused = false;
            connection.has_resumed = true;
        }
        if let Some(deadline) = connection.deadline(&self.limits) {
            self.wheel.schedule(key, deadline);
        }
        if (connection.has_news || connection.has_resumed || !connection.is_open()) && !connection.is_in_steps
        {
            connection.is_in_steps = true;
            self.steps.push_back(key);
        }
        connection.check_invariants();
        self.keep_output_memory(output);
        if let Some(ring) = ring {
            self.rings.give_back(ring);
            self.feed_starved();
        }
    }

    /// Sets free rings aside for those that have waited longest.
    fn feed_starved(&mut self) {
        while self.rings_max - self.rings.lent() > self.promised
            && let Some(key) = self.starved.pop_front()
        {
            if let Some(connection) = self.slots.get_mut(key).filter(|c| c.is_starved && !c.has_promise) {
                connection.has_promise = true;
                self.promised += 1;
                connection.is_read_refused = false;
                connection.has_resumed = true;
                if !connection.is_in_steps {
                    connection.is_in_steps = true;
                    self.steps.push_back(key);
                }
            }
        }
    }

    // The owner looks, and takes.

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        Stats {
            clients: self.open,
            connections: self.admitted,
            messages: self.inbox.accepted(),
            inbox_entries: self.inbox.len(),
            inbox_entries_peak: self.stats.inbox_entries_peak.max(self.inbox.len()),
            inbox_bytes: self.inbox.bytes(),
            inbox_bytes_peak: self.stats.inbox_bytes_peak.max(self.inbox.bytes()),
            ..self.stats
        }
    }

    /// Whether a connection is there and not on its way out.
    pub fn is_open(&self, key: ConnKey) -> bool {
        self.slots.get(key).is_some_and(Connection::is_open)
    }

    /// Every connection as it stands, in no order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionStats> {
        self.slots.iter().map(|(_, connection)| connection.stats())
    }

    /// The inbox only grows until it is drained, so that is when it stands highest.
    fn note_peaks(&mut self) {
        self.stats.inbox_entries_peak = self.stats.inbox_entries_peak.max(self.inbox.len());
        self.stats.inbox_bytes_peak = self.stats.inbox_bytes_peak.max(self.inbox.bytes());
    }

    /// Messages waiting for the owner.
    pub fn inbox_len(&self) -> usize {
        self.inbox.len()
    }

    /// Messages accepted since the start: the number of the newest id.
    pub fn accepted_total(&self) -> u64 {
        self.inbox.accepted()
    }

    /// Connections that are open, those that are closing not counted.
    pub fn clients(&self) -> usize {
        self.open
    }

    /// Swaps the waiting messages into `batch`, dropping what it held, and returns how many there are. O(1).
    pub fn drain_into(&mut self, batch: &mut Batch) -> usize {
        self.note_peaks();
        self.inbox.drain_into(batch)
    }

    /// The waiting messages in a batch of their own. Reusing one with [`drain_into`](Self::drain_into) saves memory.
    pub fn drain(&mut self) -> Batch {
        let mut batch = Batch::new();
        self.drain_into(&mut batch);
        batch
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("path", &self.path_json)
            .field("clients", &self.open)
            .field("inbox", &self.inbox.len())
            .finish_non_exhaustive()
    }
}
