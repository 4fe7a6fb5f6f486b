//! One peer as a state machine: its unfinished input, its unread answers, its deadlines, and how it ends.
//!
//! No I/O and no inbox: [`Connection::next_event`] says what the peer wants, the endpoint decides, and
//! [`Connection::reply`] or [`Connection::close`] carry the decision out.
//!
//! ```text
//!            frames                 a fatal frame, a deadline,
//!            answers                end of input, eviction, stop
//!   accepted ───────► Open ──────────────────────────────────────► Closing ───► gone
//!                      no frame is processed from here on: ────────┘   │
//!                      output is flushed, then the write side is shut; a peer that may still be
//!                      sending is read to its end (and not listened to), so that it can read its
//!                      error line instead of being cut off in the middle of a write.
//! ```

use std::time::Duration;

use crate::proto::auth::AuthToken;
use crate::proto::buffers::BufferPool;
use crate::proto::error::CloseReason;
use crate::proto::framer::{FrameOutcome, Framer};
use crate::proto::limits::Limits;
use crate::proto::message::{Reply, Request};
use crate::proto::output::Output;
use crate::proto::peer::PeerIdentity;
use crate::proto::ring::Ring;
use crate::proto::scan::Redacted;
use crate::proto::stats::ConnectionStats;
use crate::proto::time::Mono;

/// Room beyond the output bound: the longest error line is far below this.
const ERROR_LINE_MAX: usize = 256;

/// Bytes that a client may send before it authenticates and have them read before it times out, however late the host:
/// more than the buffer of a socket holds by default. Beyond, it cannot put its timeout off by sending.
const UNPROVEN_BYTES_MAX: u32 = 512 << 10;

/// What a connection needs to know of its surroundings to judge a frame.
pub(crate) struct Env<'e> {
    pub(crate) limits: &'e Limits,
    pub(crate) auth_token: &'e AuthToken,
    /// Bytes of the longest answer that is no error: no frame is taken up unless this much room is left for output.
    pub(crate) answer_bytes_max: usize,
}

/// What the next frame of a peer asks for.
pub(crate) enum Event<'f> {
    /// A blank line: nothing, but it counts as work.
    Blank,
    /// A message for the inbox.
    Deliver(Redacted<'f>),
    /// To be told that somebody is there.
    Ping,
    /// Something fatal.
    Fatal(CloseReason),
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Frames are taken and answered.
    Open,
    /// Nothing more is taken; what is owed is flushed until the deadline.
    Closing { reason: CloseReason, deadline: Mono, is_write_shut: bool },
}

/// Why nothing is read from a peer or processed for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// Its unread answers have reached the bound: until all are taken.
    OutputFull { since: Mono },
    /// It has sent faster than it may.
    RateLimited { until: Mono },
}

/// What has to be done with the stream of a connection, besides writing its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing yet.
    NotYet,
    /// Everything is written: shut the write side and go on reading.
    ShutWrite,
    /// Close it.
    Close(CloseReason),
}

/// The state of one peer.
pub(crate) struct Connection {
    peer: PeerIdentity,
    /// Grows with every connection: who came first.
    serial: u64,
    accepted_at: Mono,
    phase: Phase,
    is_authenticated: bool,
    /// Whether it ever sent a byte.
    has_spoken: bool,
    /// The last byte in either direction, or the last line that was taken up: while some were left over nothing was read.
    active_at: Mono,
    /// When the first byte of the unfinished line came.
    frame_begun_at: Option<Mono>,
    paused: Option<Pause>,
    /// A line of it has been counted against its rate, and was not taken yet.
    pub(crate) has_line_reserved: bool,
    /// The last read was refused or filled all the space that it was lent: the stream may hold more.
    may_have_unread: bool,
    /// Bytes read before it authenticated.
    unproven_bytes: u32,
    /// Its timeouts are suspended until the next turn, which reads the stream once more.
    is_put_off: bool,
    /// It waits unread for a buffer: its silence is not its fault.
    pub(crate) is_starved: bool,
    /// A buffer has been set aside for it.
    pub(crate) has_promise: bool,
    /// The shell wanted to read and could not; it is told when it can.
    pub(crate) is_read_refused: bool,
    /// It stands in the endpoint's list of connections with frames left over.
    pub(crate) is_in_work: bool,
    /// What it has sent waits there for room in the inbox: neither its silence nor that it has not authenticated is its
    /// fault.
    pub(crate) is_deferred: bool,
    /// The turn in which lines were last taken from it, and how many in that turn.
    turn: u32,
    turn_frames: u32,
    /// It stands in the endpoint's list of connections with something for the shell to do.
    pub(crate) is_in_steps: bool,
    /// There are answers that the shell has not been told of.
    pub(crate) has_news: bool,
    /// The shell is to be told that it can read again.
    pub(crate) has_resumed: bool,
    is_input_finished: bool,
    is_output_dead: bool,
    framer: Framer,
    ring: Option<Ring>,
    /// Bytes of the ring that are lent to a read whose result is not known yet.
    lent: u32,
    output: Output,
}

impl Connection {
    pub(crate) fn new(peer: PeerIdentity, serial: u64, limits: &Limits, now: Mono) -> Self {
        Self {
            peer,
            serial,
            accepted_at: now,
            phase: Phase::Open,
            is_authenticated: false,
            has_spoken: false,
            active_at: now,
            frame_begun_at: None,
            paused: None,
            has_line_reserved: false,
            may_have_unread: false,
            unproven_bytes: 0,
            is_put_off: false,
            is_starved: false,
            has_promise: false,
            is_read_refused: false,
            is_in_work: false,
            is_deferred: false,
            turn: 0,
            turn_frames: 0,
            is_in_steps: false,
            has_news: false,
            has_resumed: false,
            is_input_finished: false,
            is_output_dead: false,
            framer: Framer::new(limits.frame_bytes_max),
            ring: None,
            lent: 0,
            output: Output::default(),
        }
    }

    pub(crate) fn peer(&self) -> PeerIdentity {
        self.peer
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn accepted_at(&self) -> Mono {
        self.accepted_at
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    pub(crate) fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether nothing is read from it or processed for now.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(crate) fn is_stalled(&self) -> bool {
        matches!(self.paused, Some(Pause::OutputFull { .. }))
    }

    pub(crate) fn is_throttled(&self) -> bool {
        matches!(self.paused, Some(Pause::RateLimited { .. }))
    }

    /// Nothing more is taken from it until then.
    pub(crate) fn throttle(&mut self, until: Mono) {
        self.paused = Some(Pause::RateLimited { until });
    }

    /// It is throttled no longer, whatever was said.
    pub(crate) fn end_throttle(&mut self) {
        self.paused.take_if(|pause| matches!(pause, Pause::RateLimited { .. }));
    }

    /// It has room for answers again.
    fn end_stall(&mut self) {
        self.paused.take_if(|pause| matches!(pause, Pause::OutputFull { .. }));
    }

    /// Whether it was throttled until now, and is no longer.
    pub(crate) fn resumes(&mut self, now: Mono) -> bool {
        self.paused.take_if(|pause| matches!(pause, Pause::RateLimited { until } if *until <= now)).is_some()
    }

    /// How it stands.
    pub(crate) fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            peer: self.peer,
            accepted_at: self.accepted_at,
            active_at: self.active_at,
            is_authenticated: self.is_authenticated,
            is_closing: !self.is_open(),
            unfinished_bytes: self.ring.as_ref().map_or(0, Ring::len),
            unread_bytes: self.output.len(),
        }
    }

    pub(crate) fn is_input_finished(&self) -> bool {
        self.is_input_finished
    }

    pub(crate) fn is_output_dead(&self) -> bool {
        self.is_output_dead
    }

    pub(crate) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Answers not yet written.
    pub(crate) fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// At most `max` bytes of space for the next read: in the ring it holds, or in one lent by `rings`; `None` if none is
    /// free. The ring stays here until [`Self::received`] says what became of it.
    pub(crate) fn recv_space(&mut self, rings: &mut BufferPool, max: usize) -> Option<&mut [u8]> {
        if self.ring.is_none() {
            self.ring = Some(rings.lend()?);
        }
        let space = self.ring.as_mut()?.spare_mut();
        let n = space.len().min(max);
        self.lent = self.lent.max(u32::try_from(n).unwrap_or(u32::MAX));
        space.get_mut(..n)
    }

    /// The shell wanted to read and must not now; it is told when it can.
    pub(crate) fn refuse_read(&mut self) {
        self.is_read_refused = true;
        self.may_have_unread = true;
    }

    /// How much of that space the next read may use. What counts against a peer when it is judged has to be read whole.
    pub(crate) fn read_max(&self, limits: &Limits, now: Mono) -> usize {
        let is_due = self.deadline(limits).is_some_and(|deadline| deadline <= now);
        if self.is_authenticated && !is_due { limits.turn_bytes_max } else { usize::MAX }
    }

    /// `n` bytes were put into the space lent by [`Self::recv_space`].
    pub(crate) fn received(&mut self, n: usize, now: Mono) {
        let lent = std::mem::take(&mut self.lent) as usize;
        assert!(n <= lent, "received({n}) of {lent} bytes lent");
        self.may_have_unread = n > 0 && n == lent;
        if !self.is_authenticated {
            self.unproven_bytes = self.unproven_bytes.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        }
        if n > 0 {
            self.has_spoken = true;
            self.active_at = now;
        }
        let is_open = self.is_open();
        if let Some(ring) = &mut self.ring {
            ring.filled(n);
            if !is_open {
                ring.consume(ring.len());
            }
        }
    }

    /// The peer will send nothing more. What it sent before is still processed.
    pub(crate) fn finish_input(&mut self) {
        self.is_input_finished = true;
        self.may_have_unread = false;
    }

    /// Whether the stream may hold bytes that came in time and were not read yet.
    pub(crate) fn may_be_behind(&self) -> bool {
        self.is_starved
            || self.is_put_off
            || self.may_have_unread && (self.is_authenticated || self.unproven_bytes <= UNPROVEN_BYTES_MAX)
    }

    /// Suspends its timeouts until the next turn, if the stream may hold more. `false`: there is no reason to; what it sends
    /// does not matter where it is its answers that are unread.
    pub(crate) fn put_off(&mut self) -> bool {
        self.is_put_off = !self.is_stalled() && self.may_be_behind();
        self.may_have_unread = false;
        self.is_put_off
    }

    /// The next turn has begun.
    pub(crate) fn end_put_off(&mut self) {
        self.is_put_off = false;
    }

    /// The peer will read nothing more: what it is owed is dropped.
    pub(crate) fn drop_output(&mut self) {
        self.is_output_dead = true;
        self.output.clear();
        self.end_stall();
    }

    /// `n` bytes of [`Self::output`] were written.
    pub(crate) fn sent(&mut self, n: usize, now: Mono) {
        self.output.advance(n);
        if n > 0 {
            self.active_at = now;
        }
        if self.output.is_empty() {
            self.end_stall();
        }
    }

    /// Takes the next frame out of the ring and says what it asks for; `None` if there is no whole frame, or no room
    /// for an answer, or the connection is closing.
    pub(crate) fn next_event(&mut self, env: &Env<'_>, now: Mono) -> Option<Event<'_>> {
        if !self.is_open() || self.is_paused() {
            return None;
        }
        let ring = self.ring.as_mut()?;
        if !self.is_output_dead && self.output.len() + env.answer_bytes_max > env.limits.output_bytes_max {
            self.paused = Some(Pause::OutputFull { since: now });
            return None;
        }
        let line = match self.framer.next_frame(ring) {
            FrameOutcome::Frame(line) => line,
            FrameOutcome::NeedMore => return None,
            FrameOutcome::TooLong { seen } => {
                return Some(Event::Fatal(CloseReason::FrameTooLong {
                    seen,
                    limit: env.limits.frame_bytes_max,
                }));
            }
        };
        self.frame_begun_at = None;
        let (request, is_authenticated) = Request::from_line(line, env.auth_token);
        self.is_authenticated |= is_authenticated;
        Some(match request {
            Request::Blank => Event::Blank,
            Request::Deliver(message) => Event::Deliver(message),
            Request::Ping => Event::Ping,
            Request::Refuse(reason) => Event::Fatal(reason),
        })
    }

    /// Lines taken from it in turn number `turn`.
    pub(crate) fn frames_in(&self, turn: u32) -> usize {
        if self.turn == turn { self.turn_frames as usize } else { 0 }
    }

    /// Lines of it were taken up. It was not silent as long as they lay here.
    pub(crate) fn taken_up(&mut self, lines: usize, turn: u32, now: Mono) {
        let frames = self.frames_in(turn).saturating_add(lines);
        (self.turn, self.turn_frames) = (turn, u32::try_from(frames).unwrap_or(u32::MAX));
        if lines > 0 {
            self.active_at = now;
        }
    }

    /// After all whole frames were taken: from when the unfinished one, if there is one, has its time.
    pub(crate) fn note_unfinished(&mut self, now: Mono) {
        if self.ring.as_ref().is_some_and(|ring| !ring.is_empty()) {
            self.frame_begun_at.get_or_insert(now);
        }
    }

    /// Whether there is something in the ring that [`Self::next_event`] has not seen.
    pub(crate) fn has_leftover(&mut self) -> bool {
        self.ring.as_ref().is_some_and(|ring| self.framer.is_ready(ring))
    }

    /// The length of the next frame, if it is whole.
    pub(crate) fn next_frame_len(&mut self) -> Option<usize> {
        self.ring.as_ref().and_then(|ring| self.framer.ready_len(ring))
    }

    /// Puts an answer behind the others. `false`: there is no memory for it.
    #[must_use]
    pub(crate) fn reply(&mut self, reply: &Reply<'_>, ts: &str, env: &Env<'_>) -> bool {
        if self.is_output_dead {
            return true;
        }
        if !self.output.reserve(env.answer_bytes_max, env.limits.output_bytes_max) {
            return false;
        }
        self.output.append(|bytes| reply.encode(ts, bytes));
        self.has_news = true;
        true
    }

    /// Begins the end: nothing more is processed, the error line for `reason` is put behind the answers, and all that
    /// is owed has to be taken within the closing timeout.
    pub(crate) fn close(&mut self, reason: CloseReason, ts: &str, limits: &Limits, now: Mono) {
        if !self.is_open() {
            return;
        }
        self.phase =
            Phase::Closing { reason, deadline: now.plus(limits.closing_timeout), is_write_shut: false };
        self.paused = None;
        self.frame_begun_at = None;
        if reason == CloseReason::OutputStalled {
            self.drop_output();
        }
        if let Some(text) = reason.wire_text().filter(|_| !self.is_output_dead)
            && self.output.reserve(ERROR_LINE_MAX, limits.output_bytes_max + ERROR_LINE_MAX)
        {
            self.output.append(|bytes| Reply::Error { text: &text }.encode(ts, bytes));
            self.has_news = true;
        }
    }

    /// The ring, if nothing in it is wanted any more.
    pub(crate) fn take_spent_ring(&mut self) -> Option<Ring> {
        let is_wanted = self.is_open() && self.ring.as_ref().is_some_and(|ring| !ring.is_empty());
        let is_spent = self.lent == 0 && !is_wanted;
        self.ring.take_if(|_| is_spent)
    }

    /// The ring, whatever is in it.
    pub(crate) fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// The memory for output, if nothing is in it.
    pub(crate) fn take_output_memory(&mut self) -> Option<Vec<u8>> {
        self.output.take_memory()
    }

    /// Takes used memory for output, if it has none of its own.
    pub(crate) fn lend_output_memory(&mut self, spare: &mut Vec<Vec<u8>>) {
        self.output.lend_memory(spare);
    }

    /// What is to be done with the stream now that its output has been looked at; marks the write side as shut.
    pub(crate) fn next_ending(&mut self) -> Ending {
        let Phase::Closing { reason, is_write_shut, .. } = &mut self.phase else { return Ending::NotYet };
        if !self.output.is_empty() {
            return Ending::NotYet;
        }
        // A peer that was silent cannot lose its last line by a write that fails; one that was talking can.
        let may_be_sending = matches!(
            reason,
            CloseReason::InvalidFrame
                | CloseReason::Unauthorized
                | CloseReason::InboxFull
                | CloseReason::TooManyClients
                | CloseReason::FrameTooLong { .. }
        );
        if self.is_input_finished || self.is_output_dead || !may_be_sending {
            return Ending::Close(*reason);
        }
        if *is_write_shut {
            return Ending::NotYet;
        }
        *is_write_shut = true;
        Ending::ShutWrite
    }

    /// Why this connection is closing, if it is.
    pub(crate) fn closing(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Open => None,
            Phase::Closing { reason, .. } => Some(reason),
        }
    }

    /// The earliest moment at which its silence has to be judged; `None` while only we are to blame for it.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Mono> {
        if let Phase::Closing { deadline, .. } = self.phase {
            return Some(deadline);
        }
        if self.is_starved || self.is_deferred || self.is_put_off {
            return None;
        }
        match self.paused {
            Some(Pause::OutputFull { since }) => {
                // Nothing is read meanwhile: it was active when it last took something. If it did so in this turn, there may
                // be more that it could not be offered before; the next turn, which is due at once, will tell.
                let after_last = self.active_at.plus(Duration::from_nanos(1));
                return Some(since.plus(limits.output_timeout).max(after_last));
            }
            // That it is paused is our doing; that it has not authenticated may still be its own.
            Some(Pause::RateLimited { until }) => {
                return [Some(until), self.auth_deadline(limits)].into_iter().flatten().min();
            }
            None => {}
        }
        let idle_deadline = self.active_at.plus(limits.idle_timeout);
        let frame_deadline = self.frame_deadline(limits);
        [Some(idle_deadline), self.auth_deadline(limits), frame_deadline].into_iter().flatten().min()
    }

    /// When it must have authenticated, if it has not.
    fn auth_deadline(&self, limits: &Limits) -> Option<Mono> {
        (!self.is_authenticated).then(|| self.accepted_at.plus(limits.auth_timeout))
    }

    /// When its unfinished line must be whole, if there is one.
    fn frame_deadline(&self, limits: &Limits) -> Option<Mono> {
        self.frame_begun_at.map(|begun_at| begun_at.plus(limits.frame_timeout))
    }

    /// Which of its deadlines has passed at `now`; the reason to close it with.
    pub(crate) fn expired(&self, limits: &Limits, now: Mono) -> Option<CloseReason> {
        if self.deadline(limits).is_none_or(|deadline| deadline > now) {
            return None;
        }
        Some(if let Some(reason) = self.closing() {
            reason
        } else if self.is_stalled() {
            CloseReason::OutputStalled
        } else if self.auth_deadline(limits).is_some_and(|deadline| deadline <= now) {
            CloseReason::AuthTimeout
        } else if self.frame_deadline(limits).is_some_and(|deadline| deadline <= now) {
            CloseReason::FrameTimeout
        } else {
            CloseReason::IdleTimeout
        })
    }

    /// What the types do not say yet. Called after each change.
    pub(crate) fn check_invariants(&self) {
        debug_assert!(self.paused.is_none() || !self.is_in_work, "{:?} and in the next turn", self.paused);
        debug_assert!(!self.is_deferred || self.is_in_work || !self.is_open(), "waits for the inbox nowhere");
        debug_assert!(
            !self.is_put_off || self.is_in_work && !self.is_deferred || !self.is_open(),
            "put off, and idle"
        );
        debug_assert!(!self.has_promise || self.is_starved, "reserved for one that does not wait");
        debug_assert!(!self.is_starved || self.ring.is_none(), "waits for a ring, and has one");
        debug_assert!(self.lent == 0 || self.ring.is_some(), "lent without a ring");
        debug_assert!(
            !self.is_read_refused || self.may_have_unread || self.is_input_finished,
            "refused, and read"
        );
        debug_assert!(
            self.is_authenticated || self.has_spoken == (self.unproven_bytes > 0),
            "silent, and read"
        );
        debug_assert!(self.is_open() || self.paused.is_none(), "closing, and paused");
        debug_assert!(self.has_spoken || self.ring.as_ref().is_none_or(Ring::is_empty), "silent, and sent");
        debug_assert!(self.frame_begun_at.is_none() || self.is_open(), "closing, and in a line");
        debug_assert!(
            !self.is_read_refused || self.is_starved || self.paused.is_some() || self.is_in_work,
            "refused for no reason"
        );
    }
}
