//! All connections of one address, its inbox and its timers: the whole protocol without I/O.

mod actions;
mod admission;
mod connection;
mod process;
mod rate_limit;
mod recv_space;
mod turn;

use std::fmt::{self, Write as _};

pub use self::actions::Step;
use self::actions::{Actions, Entry};
use self::admission::Admission;
use self::connection::{Connection, Due};
use self::process::Scope;
use self::rate_limit::RateLimiter;
pub use self::recv_space::RecvSpace;
use self::turn::Turns;
use super::auth::AuthToken;
use super::buffers::BufferPool;
use super::error::{Error, ErrorKind};
use super::inbox::{Batch, Inbox};
use super::json;
use super::limits::Limits;
use super::output::SpareOutputs;
use super::ring::Ring;
use super::slots::{ConnKey, Slots};
use super::stats::{ConnectionStats, Stats};
use super::time::{Latest, Mono, Now, Wall};
use super::wheel::Wheel;

/// Bytes of a socket path or pipe name; both are far shorter on every platform.
const PATH_BYTES_MAX: usize = 512;

/// The sans-IO core of one address.
///
/// Memory: `unfinished_bytes_max` and one frame for input, one and a half `output_bytes_max` per client for
/// answers, the inbox twice while a batch is held, and a few hundred bytes per connection. Every method is
/// O(1) or linear in the bytes it is given, unless it says otherwise.
///
/// # Driving it
///
/// [`Endpoint`] opens nothing and reads no clock. The host does this, turn after turn:
///
/// 1. [`work`](Endpoint::work): lines that a budget left over in an earlier turn.
/// 2. For each connection that can be read: [`recv_space`](Endpoint::recv_space), read into it,
///    [`received`](RecvSpace::received); at end of input [`end_of_input`](Endpoint::end_of_input).
/// 3. Do what [`next_step`](Endpoint::next_step) says until it says nothing more, and call
///    [`sent`](Endpoint::sent) for what was written. A connection whose stream takes nothing now is written
///    again when it can be.
/// 4. [`accepted`](Endpoint::accepted) for each new connection of a trusted peer.
/// 5. [`deadlines_reached`](Endpoint::deadlines_reached), then step 3 again.
/// 6. [`turn_ended`](Endpoint::turn_ended); [`drain_into`](Endpoint::drain_into) whenever the owner likes.
/// 7. Wait until something is ready or [`next_deadline`](Endpoint::next_deadline); not at all if
///    [`has_work`](Endpoint::has_work).
///
/// In that order a late host never times out a peer whose data is waiting: bytes that arrived in time are
/// read before timeouts are enforced, however late the turn. Where the stream may hold more than one read
/// took, the timeout waits for the next turn.
///
/// Time never steps back: a `now` before one that was given counts as that one.
pub struct Endpoint {
    limits: Limits,
    auth_token: AuthToken,
    /// The own path as a JSON string, quotes included.
    path_json: String,
    answer_bytes_max: usize,
    slots: Slots<Connection>,
    admission: Admission,
    turns: Turns,
    actions: Actions,
    wheel: Wheel,
    buffers: BufferPool,
    spare_outputs: SpareOutputs,
    inbox: Inbox,
    rates: RateLimiter,
    stamp: Stamp,
    latest: Latest,
    /// What is counted as it happens; the rest is known elsewhere.
    stats: Stats,
}

/// The text of the turn's wall time, formatted when it is first needed.
#[derive(Default)]
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

/// The deadline of a connection, for the wheel.
fn deadline(slots: &Slots<Connection>, limits: &Limits, key: ConnKey) -> Option<Mono> {
    slots.get(key)?.next_deadline(limits).map(|(at, _)| at)
}

fn slots_max(limits: &Limits) -> usize {
    2 * limits.clients_max + limits.turn_accepts_max
}

impl Endpoint {
    /// An endpoint for the socket at `path` whose senders must show `auth_token`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`] if `limits` do not pass [`Limits::check`], [`ErrorKind::InvalidAddress`]
    /// if `path` is longer than 512 bytes, [`ErrorKind::OutOfMemory`] if the inbox, the slots, the timers or
    /// the queues cannot be reserved.
    pub fn new(path: &str, auth_token: AuthToken, limits: Limits) -> Result<Self, Error> {
        limits.check()?;
        if path.len() > PATH_BYTES_MAX {
            let sentence = format!("a path of {} bytes is longer than {PATH_BYTES_MAX}", path.len());
            return Err(Error::new(ErrorKind::InvalidAddress, sentence));
        }
        let path_json = json::quote(path);
        // The longest pong and the longest response, whichever is longer; ids have at most 20 digits.
        let answer_bytes_max = path_json.len() + 128;
        let slots_max = slots_max(&limits);
        let rings_max = limits.unfinished_bytes_max / limits.frame_bytes_max + 1;
        Ok(Self {
            slots: Slots::new(slots_max)?,
            admission: Admission::new(slots_max)?,
            turns: Turns::new(slots_max)?,
            actions: Actions::new(slots_max + limits.clients_max)?,
            wheel: Wheel::new(slots_max)?,
            buffers: BufferPool::new(limits.frame_bytes_max + 1, rings_max).with_waiting(slots_max)?,
            spare_outputs: SpareOutputs::default(),
            inbox: Inbox::new(&limits)?,
            rates: RateLimiter::default(),
            stamp: Stamp::default(),
            latest: Latest::default(),
            stats: Stats::default(),
            limits,
            auth_token,
            path_json,
            answer_bytes_max,
        })
    }

    /// Indices of keys are below this: `clients_max` open ones, as many again that are closing, and those
    /// freed in this turn.
    pub fn slots_max(&self) -> usize {
        slots_max(&self.limits)
    }

    // Bytes come.

    /// The peer will send nothing more (a read of 0, or a reset). What it sent before is processed, its
    /// answers are written, an unfinished line is dropped, and then the connection ends.
    pub fn end_of_input(&mut self, key: ConnKey, now: Now) {
        let now = self.latest.or_later(now);
        if let Some(connection) = self.slots.get_mut(key) {
            connection.finish_input();
            self.process(key, Scope::Budget, now);
        }
        self.check_invariants();
    }

    /// Whether lines are left over for [`work`](Self::work), or there is a step to do: the next turn must not
    /// wait.
    pub fn has_work(&self) -> bool {
        !(self.turns.is_idle() && self.actions.is_empty())
    }

    /// Goes on with the connections whose lines were left over when their budget was spent, each once.
    pub fn work(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        for _ in 0..self.turns.ready_len() {
            let Some(key) = self.turns.next_ready() else { break };
            let Some(connection) = self.slots.get_mut(key) else { continue };
            Turns::dequeued(connection.share_mut());
            if connection.resume_in_turn() {
                self.process(key, Scope::Budget, now);
            }
        }
        self.check_invariants();
    }

    /// The connection whose lines were left over because its budget is spent, if no other one has work and no
    /// step is to be done for another one.
    pub fn only_busy(&self) -> Option<ConnKey> {
        let key = self.turns.only_one()?;
        let is_alone = self.slots.get(key)?.is_out_of_budget() && self.actions.are_only_of(key);
        is_alone.then_some(key)
    }

    /// Gives [`only_busy`](Self::only_busy) another budget in this turn, and takes that many lines of it.
    /// Before that a host makes sure that no other client waits.
    pub fn extend_turn(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        let Some(key) = self.only_busy() else { return };
        let Some(connection) = self.slots.get_mut(key) else { return };
        self.turns.extend(connection.share_mut());
        if connection.resume_in_turn() {
            self.process(key, Scope::Budget, now);
        }
        self.check_invariants();
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
        self.stats.count_written(n.min(connection.output().len()));
        if connection.sent(n, now.mono) {
            self.turns.enqueue(key, connection.share_mut());
        }
        self.settle(key);
        self.check_invariants();
    }

    /// The peer will read nothing more (a write failed). What it has sent is still processed; its answers are
    /// dropped.
    pub fn output_failed(&mut self, key: ConnKey) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        if connection.fail_output() {
            self.turns.enqueue(key, connection.share_mut());
        }
        self.settle(key);
        self.check_invariants();
    }

    /// What is to be done next, and with which connection. Do it, and ask again until there is nothing.
    pub fn next_step(&mut self) -> Option<(ConnKey, Step)> {
        let step = self.take_step();
        self.check_invariants();
        step
    }

    fn take_step(&mut self) -> Option<(ConnKey, Step)> {
        loop {
            let key = match self.actions.first() {
                Some(Entry::Connection(key)) => key,
                Some(Entry::Gone(key, reason)) => {
                    self.actions.pop();
                    return Some((key, Step::Close(reason)));
                }
                None => {
                    // The last output of each was offered to its stream: now those that are too many can go.
                    self.cut_off_closing();
                    if self.actions.is_empty() {
                        return None;
                    }
                    continue;
                }
            };
            let Some(connection) = self.slots.get_mut(key) else {
                self.actions.pop();
                continue;
            };
            if let Some(step) = connection.next_transfer() {
                return Some((key, step));
            }
            self.actions.pop_connection(connection.pending_mut());
            match connection.next_ending() {
                None => {}
                Some(Step::Close(reason)) => {
                    self.release(key, reason);
                    return Some((key, Step::Close(reason)));
                }
                Some(step) => {
                    self.admission.note_lingering(key, &self.slots);
                    return Some((key, step));
                }
            }
        }
    }

    // Time passes.

    /// The exact moment of the next deadline, if any. Nothing happens before it unless something arrives.
    /// Amortised O(1).
    pub fn next_deadline(&mut self) -> Option<Mono> {
        let (slots, limits) = (&self.slots, &self.limits);
        self.wheel.next_deadline(|key| deadline(slots, limits, key))
    }

    /// Enforces every timeout whose deadline has passed. Call it after everything that has arrived was read.
    pub fn deadlines_reached(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        loop {
            let (slots, limits) = (&self.slots, &self.limits);
            let Some(key) = self.wheel.next_expired(now.mono, |key| deadline(slots, limits, key)) else {
                break;
            };
            self.deadline_reached(key, now);
        }
        self.check_invariants();
    }

    fn deadline_reached(&mut self, key: ConnKey, now: Now) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        match connection.next_deadline(&self.limits).filter(|(at, _)| *at <= now.mono) {
            None => self.settle(key),
            Some((_, Due::Resume)) => {
                connection.rate_limit_ended();
                self.turns.enqueue(key, connection.share_mut());
                self.settle(key);
            }
            Some((_, Due::Close(reason))) if !connection.is_open() => self.remove(key, reason),
            // What it sent in time may be among the lines that were read and left over, or behind them in the
            // stream: all of that is looked at first.
            Some((_, Due::Close(reason))) => {
                if !self.process_early(key, now) && !self.pause_if_unread(key) {
                    self.close(key, reason, now);
                }
            }
        }
    }

    /// Suspends the timeouts of a connection until the next turn has read its stream once more, if that may
    /// hold more. `false`: there is no reason to.
    fn pause_if_unread(&mut self, key: ConnKey) -> bool {
        let Some(connection) = self.slots.get_mut(key).filter(|c| c.is_open()) else { return false };
        let is_paused = connection.pause_if_unread();
        if is_paused {
            // The next turn is due at once, and ends this.
            self.turns.enqueue(key, connection.share_mut());
            self.settle(key);
        }
        is_paused
    }

    /// The turn is over: slots freed in it may be used again, for no event of this turn can name them any
    /// more.
    pub fn turn_ended(&mut self) {
        self.turns.end();
        self.slots.release_retired();
        self.check_invariants();
        self.check_connections();
    }

    // What every part needs.

    /// After any change to a connection: gives back what it no longer needs, files its deadline, and queues
    /// it if there is something to do for the shell.
    fn settle(&mut self, key: ConnKey) {
        let Some(connection) = self.slots.get_mut(key) else { return };
        let ring = connection.take_spent_ring();
        self.spare_outputs.keep(connection.take_output_memory());
        connection.allow_refused_read();
        if let Some((deadline, _)) = connection.next_deadline(&self.limits) {
            self.wheel.schedule(key, deadline);
        }
        self.actions.enqueue(key, connection.pending_mut());
        connection.check_settled();
        self.give_back(ring);
    }

    /// Takes a buffer back, and lends it to the connection that has waited longest for one.
    fn give_back(&mut self, ring: Option<Ring>) {
        let Some(ring) = ring else { return };
        self.buffers.give_back(ring);
        let slots = &self.slots;
        let waits = |key| slots.get(key).is_some_and(Connection::waits_for_buffer);
        if let Some((key, ring)) = self.buffers.lend_to_waiting(waits)
            && let Some(connection) = self.slots.get_mut(key)
        {
            connection.reserve(ring);
            self.actions.enqueue(key, connection.pending_mut());
        }
    }

    /// Bounds that hold between any two calls. O(1).
    fn check_invariants(&self) {
        let (open, all) = (self.admission.open(), self.slots.len());
        debug_assert_eq!(self.admission.served(), all, "connections, {open} of them open");
        debug_assert!(all <= self.slots_max(), "{all} connections");
        debug_assert!(open <= self.limits.clients_max, "{open} clients");
        debug_assert!(self.buffers.lent() <= all, "{} buffers for {all} connections", self.buffers.lent());
    }

    /// The invariants of each connection. O(connections), in debug builds.
    fn check_connections(&self) {
        if cfg!(debug_assertions) {
            self.slots.iter().for_each(|(_, connection)| connection.check_settled());
            let open = self.slots.iter().filter(|(_, c)| c.is_open()).count();
            let lent = self.slots.iter().filter(|(_, c)| c.has_buffer()).count();
            debug_assert_eq!(open, self.admission.open(), "open connections");
            debug_assert_eq!(lent, self.buffers.lent(), "buffers that are lent");
        }
    }

    // The owner looks, and takes.

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.note_inbox(self.inbox.len(), self.inbox.bytes());
        Stats {
            clients: self.admission.open(),
            connections: self.admission.admitted(),
            messages: self.inbox.accepted(),
            ..stats
        }
    }

    /// Whether a connection is there and not closing.
    pub fn is_open(&self, key: ConnKey) -> bool {
        self.slots.get(key).is_some_and(Connection::is_open)
    }

    /// Every connection as it is now, in no order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionStats> {
        self.slots.iter().map(|(_, connection)| connection.stats())
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
        self.admission.open()
    }

    /// Swaps the waiting messages into `batch`, dropping what it held, and returns how many there are. O(1).
    pub fn drain_into(&mut self, batch: &mut Batch) -> usize {
        self.stats.note_inbox(self.inbox.len(), self.inbox.bytes());
        let drained = self.inbox.drain_into(batch);
        self.check_invariants();
        drained
    }

    /// The waiting messages in a batch of their own. Reusing one with [`drain_into`](Self::drain_into) saves
    /// memory.
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
            .field("clients", &self.admission.open())
            .field("inbox", &self.inbox.len())
            .finish_non_exhaustive()
    }
}
