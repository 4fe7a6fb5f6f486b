//! One peer as a state machine: its unfinished input, its unread answers, its deadlines, and how it ends.
//!
//! No I/O and no inbox: [`Connection::next_request`] says what the peer asks for, the endpoint decides, and
//! [`Connection::reply`] or [`Connection::close`] carry the decision out.
//!
//! ```text
//!            lines                a refused line, a deadline,
//!            answers              end of input, eviction, stop
//!   accepted ───────► Open ─────────────────────────────► Flushing ─────► Lingering ───► gone
//!                      no line is processed from here on: ───┘ output is     │
//!                      written; then the write side is shut ─────────────────┘ and a peer that may still be
//!                      sending is read to its end (which is thrown away), so that it can read its error line
//!                      instead of being cut off in the middle of a write. Others skip Lingering.
//! ```

use std::mem;
use std::time::Duration;

use super::actions::{Pending, Step};
use super::turn::Share;
use crate::proto::auth::AuthToken;
use crate::proto::buffers::BufferPool;
use crate::proto::error::CloseReason;
use crate::proto::framer::{FrameOutcome, Framer};
use crate::proto::limits::Limits;
use crate::proto::message::{Reply, Request};
use crate::proto::output::{Output, SpareOutputs};
use crate::proto::peer::PeerIdentity;
use crate::proto::ring::Ring;
use crate::proto::stats::ConnectionStats;
use crate::proto::time::Mono;

/// Room beyond the output bound: the longest error line is far below this.
const ERROR_LINE_MAX: usize = 256;

/// Bytes that a client may send before it authenticates and have them read before it times out, however late
/// the host: more than the buffer of a socket holds by default. Beyond, it cannot put its timeout off by
/// sending.
const UNPROVEN_BYTES_MAX: u32 = 512 << 10;

/// Where a connection is on its way from accept to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Lines are taken and answered.
    Open,
    /// Nothing more is taken; pending output is written until the deadline.
    Flushing { reason: CloseReason, deadline: Mono },
    /// Everything is written and the write side is shut; it is read to its end until the deadline.
    Lingering { reason: CloseReason, deadline: Mono },
}

/// Why an open connection is neither read nor processed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Lines are left over: until the next turn.
    NextTurn,
    /// The next line found no room in the inbox: until the next turn, before which the owner can drain.
    /// Timeouts are suspended.
    InboxFull,
    /// Its timeout has come and its stream may hold more: until the next turn, which reads it first. Timeouts
    /// are suspended.
    Unread,
    /// Its unread answers have reached the bound: until all of them are taken.
    OutputFull { since: Mono },
    /// Its process has sent faster than it may.
    RateLimited { until: Mono },
}

impl Pause {
    /// Whether the connection goes on by itself in the next turn.
    pub(super) fn ends_next_turn(self) -> bool {
        matches!(self, Self::NextTurn | Self::InboxFull | Self::Unread)
    }
}

/// The memory for what a peer sends.
enum InputBuffer {
    /// There is no unfinished line.
    None,
    /// Every buffer is in use, and this connection waits for one. Timeouts are suspended.
    Waiting,
    /// It waited and was lent this one, and has not been read since. Timeouts are suspended.
    Reserved(Ring),
    /// A buffer, which is read into.
    Held(Ring),
}

/// What is known of a peer that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It never sent a byte.
    Silent,
    /// It has sent so many bytes, and not the token.
    Unauthenticated { bytes_read: u32 },
    /// It has shown the token.
    Authenticated,
}

/// What is known of the bytes in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// None were left when it was last read.
    Drained,
    /// The last read filled all the space that it was lent: there may be more.
    MayHoldMore,
    /// The same, and the shell wanted to read and was refused. It is told when it can.
    Refused,
    /// The peer will send nothing more.
    Finished,
}

/// Whether a connection can be read now.
pub(super) enum Readiness {
    /// It has a buffer.
    Ready,
    /// It is paused, finished, or waits for a buffer already.
    Refused,
    /// It waits for a buffer from now on.
    Waits,
    /// There is no memory for a buffer.
    OutOfMemory,
}

/// What a deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its process may send again.
    Resume,
    /// It is closed for this reason.
    Close(CloseReason),
}

/// The state of one peer.
pub(super) struct Connection {
    peer: PeerIdentity,
    /// Grows with every connection: tells which came first.
    serial: u64,
    accepted_at: Mono,
    phase: Phase,
    standing: Standing,
    pause: Option<Pause>,
    stream: Stream,
    input: InputBuffer,
    framer: Framer,
    /// The last byte in either direction, or the last line that was taken: while lines were left over nothing
    /// was read.
    active_at: Mono,
    /// When the first byte of the unfinished line came.
    line_begun_at: Option<Mono>,
    /// The next line has been counted against the rate of its process, and was not taken yet.
    is_line_counted: bool,
    output: Output,
    /// A write failed: nothing is written any more.
    is_output_failed: bool,
    pending: Pending,
    share: Share,
}

impl Connection {
    pub(super) fn new(peer: PeerIdentity, serial: u64, limits: &Limits, now: Mono) -> Self {
        Self {
            peer,
            serial,
            accepted_at: now,
            phase: Phase::Open,
            standing: Standing::Silent,
            pause: None,
            stream: Stream::Drained,
            input: InputBuffer::None,
            framer: Framer::new(limits.frame_bytes_max),
            active_at: now,
            line_begun_at: None,
            is_line_counted: false,
            output: Output::default(),
            is_output_failed: false,
            pending: Pending::default(),
            share: Share::default(),
        }
    }

    // What others ask.

    pub(super) fn peer(&self) -> PeerIdentity {
        self.peer
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.standing == Standing::Authenticated
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Whether it waits for a buffer to read into.
    pub(super) fn waits_for_buffer(&self) -> bool {
        matches!(self.input, InputBuffer::Waiting)
    }

    /// Whether it was lent a buffer.
    pub(super) fn has_buffer(&self) -> bool {
        matches!(self.input, InputBuffer::Reserved(_) | InputBuffer::Held(_))
    }

    /// Why this connection is closing, if it is.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Open => None,
            Phase::Flushing { reason, .. } | Phase::Lingering { reason, .. } => Some(reason),
        }
    }

    /// Whether it may make room for a newcomer, and if so its place in the order in which that happens: those
    /// that never sent a byte come first, then the oldest. It may not while bytes of it are unread or wait
    /// for the inbox.
    pub(super) fn eviction_rank(&self, limits: &Limits, now: Mono) -> Option<(bool, u64)> {
        let may_be_evicted = self.is_open()
            && !self.is_authenticated()
            && self.pause != Some(Pause::InboxFull)
            && !self.may_be_behind()
            && now.since(self.accepted_at) >= limits.eviction_age;
        may_be_evicted.then_some((self.standing != Standing::Silent, self.serial))
    }

    pub(super) fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            peer: self.peer,
            accepted_at: self.accepted_at,
            active_at: self.active_at,
            is_authenticated: self.is_authenticated(),
            is_closing: !self.is_open(),
            unfinished_bytes: self.ring().map_or(0, Ring::len),
            unread_bytes: self.output.len(),
        }
    }

    // Bytes come.

    /// Sees to it that there is a buffer to read into, if it may be read now.
    pub(super) fn prepare_read(&mut self, buffers: &mut BufferPool) -> Readiness {
        if self.stream == Stream::Finished {
            return Readiness::Refused;
        }
        if self.is_paused() {
            self.refuse_read();
            return Readiness::Refused;
        }
        let lent = match &self.input {
            InputBuffer::Held(_) => return Readiness::Ready,
            InputBuffer::None | InputBuffer::Waiting if buffers.is_exhausted() => {
                self.refuse_read();
                let before = mem::replace(&mut self.input, InputBuffer::Waiting);
                let waits_already = matches!(before, InputBuffer::Waiting);
                return if waits_already { Readiness::Refused } else { Readiness::Waits };
            }
            InputBuffer::None | InputBuffer::Waiting => buffers.lend(),
            InputBuffer::Reserved(_) => self.take_reserved(),
        };
        let Some(ring) = lent else { return Readiness::OutOfMemory };
        self.input = InputBuffer::Held(ring);
        Readiness::Ready
    }

    /// The buffer to read into, if there is one.
    pub(super) fn ring(&self) -> Option<&Ring> {
        match &self.input {
            InputBuffer::Held(ring) => Some(ring),
            _ => None,
        }
    }

    /// The same, to read into it. [`Self::received`] says what came.
    pub(super) fn ring_mut(&mut self) -> Option<&mut Ring> {
        match &mut self.input {
            InputBuffer::Held(ring) => Some(ring),
            _ => None,
        }
    }

    /// How much space the next read may use. Before a connection is closed for a timeout its line is read
    /// whole.
    pub(super) fn read_max(&self, limits: &Limits, now: Mono) -> usize {
        let is_due = || self.next_deadline(limits).is_some_and(|(deadline, _)| deadline <= now);
        if self.is_authenticated() && !is_due() { limits.turn_bytes_max } else { usize::MAX }
    }

    /// The shell wanted to read and must not now; it is told when it can.
    pub(super) fn refuse_read(&mut self) {
        if self.stream != Stream::Finished {
            self.stream = Stream::Refused;
        }
    }

    /// A read that was refused is possible again, if there is no pause and the connection does not wait for a
    /// buffer.
    pub(super) fn allow_refused_read(&mut self) {
        if self.stream == Stream::Refused && !self.is_paused() && !self.waits_for_buffer() {
            self.stream = Stream::MayHoldMore;
            self.pending.insert(Pending::READ);
        }
    }

    /// The buffer that this connection has waited for.
    pub(super) fn reserve(&mut self, ring: Ring) {
        debug_assert!(self.waits_for_buffer(), "a buffer is reserved only for one that waits");
        self.input = InputBuffer::Reserved(ring);
        self.allow_refused_read();
        self.check_invariants();
    }

    /// `n` bytes were read into the buffer, where there was space for `space`.
    pub(super) fn received(&mut self, n: usize, space: usize, now: Mono) {
        let is_open = self.is_open();
        if let Some(ring) = self.ring_mut() {
            ring.filled(n);
            if !is_open {
                ring.clear();
            }
        }
        if matches!(self.stream, Stream::Drained | Stream::MayHoldMore) {
            self.stream = if n > 0 && n == space { Stream::MayHoldMore } else { Stream::Drained };
        }
        if n > 0 {
            self.active_at = now;
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            match &mut self.standing {
                Standing::Silent => self.standing = Standing::Unauthenticated { bytes_read: n },
                Standing::Unauthenticated { bytes_read } => *bytes_read = bytes_read.saturating_add(n),
                Standing::Authenticated => {}
            }
        }
        self.check_invariants();
    }

    /// The peer will send nothing more. What it sent before is still processed.
    pub(super) fn finish_input(&mut self) {
        self.stream = Stream::Finished;
    }

    /// Why it is closed now that every whole line has been taken, if its input is finished.
    pub(super) fn finished(&self) -> Option<CloseReason> {
        (self.stream == Stream::Finished).then_some(if self.is_output_failed {
            CloseReason::PeerGone
        } else {
            CloseReason::PeerFinished
        })
    }

    /// Whether the stream may hold bytes that came in time and were not read yet.
    fn may_be_behind(&self) -> bool {
        let is_trusted_to_send = match self.standing {
            Standing::Silent | Standing::Authenticated => true,
            Standing::Unauthenticated { bytes_read } => bytes_read <= UNPROVEN_BYTES_MAX,
        };
        matches!(self.input, InputBuffer::Waiting | InputBuffer::Reserved(_))
            || self.pause == Some(Pause::Unread)
            || matches!(self.stream, Stream::MayHoldMore | Stream::Refused) && is_trusted_to_send
    }

    /// Suspends its timeouts until the next turn, if the stream may hold more. `false`: there is no reason
    /// to. Where a connection is paused because its answers are unread, what it sends does not matter.
    pub(super) fn pause_if_unread(&mut self) -> bool {
        let is_unread = !self.is_paused() && self.may_be_behind();
        if is_unread {
            self.pause = Some(Pause::Unread);
        }
        if matches!(self.stream, Stream::MayHoldMore) {
            self.stream = Stream::Drained;
        }
        self.check_invariants();
        is_unread
    }

    // Lines are taken.

    pub(super) fn pause(&mut self, pause: Pause) {
        debug_assert!(self.is_open() && !self.is_paused(), "{pause:?} on top of {:?}", self.pause);
        self.pause = Some(pause);
        self.check_invariants();
    }

    /// A turn has come to a connection that was queued for one: whether it goes on.
    pub(super) fn resume_in_turn(&mut self) -> bool {
        self.pause.take_if(|pause| pause.ends_next_turn()).is_some()
    }

    /// Whether lines were left over because the budget of a turn was spent.
    pub(super) fn is_out_of_budget(&self) -> bool {
        matches!(self.pause, Some(Pause::NextTurn))
    }

    /// Whether lines were left over that are looked at before it is closed. Its pause ends.
    pub(super) fn resume_early(&mut self) -> bool {
        let has_lines = |pause: &mut Pause| !matches!(pause, Pause::OutputFull { .. });
        self.pause.take_if(has_lines).is_some()
    }

    /// Its process may send again: it goes on in the next turn.
    pub(super) fn rate_limit_ended(&mut self) {
        debug_assert!(matches!(self.pause, Some(Pause::RateLimited { .. })), "{:?}", self.pause);
        self.pause = Some(Pause::NextTurn);
    }

    /// Whether its unread answers leave no room for another one, of at most `answer_bytes_max`.
    pub(super) fn is_output_full(&self, answer_bytes_max: usize, limits: &Limits) -> bool {
        let is_full = self.output.len() + answer_bytes_max > limits.output_bytes_max;
        is_full && !self.is_output_failed && self.ring().is_some()
    }

    /// Takes the next line out of the buffer and says what it asks for; `None` if there is no whole line.
    pub(super) fn next_request(&mut self, limits: &Limits, auth_token: &AuthToken) -> Option<Request<'_>> {
        let InputBuffer::Held(ring) = &mut self.input else { return None };
        match self.framer.next_frame(ring) {
            FrameOutcome::NeedMore => None,
            FrameOutcome::TooLong { seen } => {
                let limit = limits.frame_bytes_max;
                Some(Request::Refuse(CloseReason::FrameTooLong { seen, limit }))
            }
            FrameOutcome::Frame(line) => {
                self.line_begun_at = None;
                let (request, is_authenticated) = Request::from_line(line, auth_token);
                if is_authenticated {
                    self.standing = Standing::Authenticated;
                }
                Some(request)
            }
        }
    }

    /// The length of the next line, if it is whole.
    pub(super) fn next_line_len(&mut self) -> Option<usize> {
        let InputBuffer::Held(ring) = &self.input else { return None };
        self.framer.ready_len(ring)
    }

    /// Searches the buffer: whether [`Self::next_request`] would find something in it.
    pub(super) fn look_for_line(&mut self) -> bool {
        let InputBuffer::Held(ring) = &self.input else { return false };
        self.framer.look_for_frame(ring)
    }

    /// Counts the next line with `count`, if there is one that was not counted.
    pub(super) fn count_line<E>(&mut self, count: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if self.is_line_counted || !self.look_for_line() {
            return Ok(());
        }
        self.is_line_counted = true;
        count()
    }

    /// A line that was counted has been taken.
    pub(super) fn counted_line_taken(&mut self) {
        self.is_line_counted = false;
    }

    pub(super) fn share_mut(&mut self) -> &mut Share {
        &mut self.share
    }

    /// Lines of it were taken. It was not silent as long as they lay here.
    pub(super) fn lines_taken(&mut self, now: Mono) {
        self.active_at = now;
    }

    /// Every whole line was taken: from when the unfinished one, if there is one, has its time.
    pub(super) fn note_unfinished(&mut self, now: Mono) {
        if self.ring().is_some_and(|ring| !ring.is_empty()) {
            self.line_begun_at.get_or_insert(now);
        }
        self.check_invariants();
    }

    // Bytes go.

    /// Answers not yet written.
    pub(super) fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// Puts an answer of at most `answer_bytes_max` behind the others. `false`: there is no memory for it.
    #[must_use]
    pub(super) fn reply(
        &mut self,
        reply: &Reply<'_>,
        ts: &str,
        answer_bytes_max: usize,
        limits: &Limits,
    ) -> bool {
        if self.is_output_failed {
            return true;
        }
        if !self.output.reserve(answer_bytes_max, limits.output_bytes_max) {
            return false;
        }
        self.output.append(|bytes| reply.encode(ts, bytes));
        self.pending.insert(Pending::WRITE);
        self.check_invariants();
        true
    }

    /// The peer will read nothing more: unread answers are dropped. Whether it goes on in the next turn
    /// because of that.
    pub(super) fn fail_output(&mut self) -> bool {
        self.is_output_failed = true;
        self.output.clear();
        self.resume_if_all_taken()
    }

    /// `n` bytes of [`Self::output`] were written. Whether it goes on in the next turn because of that.
    pub(super) fn sent(&mut self, n: usize, now: Mono) -> bool {
        self.output.advance(n);
        if n > 0 {
            self.active_at = now;
        }
        self.output.is_empty() && self.resume_if_all_taken()
    }

    fn resume_if_all_taken(&mut self) -> bool {
        let was_full = matches!(self.pause, Some(Pause::OutputFull { .. }));
        if was_full {
            self.pause = Some(Pause::NextTurn);
        }
        self.check_invariants();
        was_full
    }

    // Memory goes back.

    /// The buffer, if nothing in it is wanted any more.
    pub(super) fn take_spent_ring(&mut self) -> Option<Ring> {
        let is_spent = self.ring()?.is_empty() || !self.is_open();
        if is_spent { self.take_ring() } else { None }
    }

    /// The buffer that was set aside for it, if that is so.
    pub(super) fn take_reserved(&mut self) -> Option<Ring> {
        if matches!(self.input, InputBuffer::Reserved(_)) { self.take_ring() } else { None }
    }

    fn take_ring(&mut self) -> Option<Ring> {
        match mem::replace(&mut self.input, InputBuffer::None) {
            InputBuffer::Held(ring) | InputBuffer::Reserved(ring) => Some(ring),
            InputBuffer::None | InputBuffer::Waiting => None,
        }
    }

    /// The memory for output, if nothing is in it.
    pub(super) fn take_output_memory(&mut self) -> Option<Vec<u8>> {
        self.output.take_memory()
    }

    /// Takes used memory for output, if it has none of its own.
    pub(super) fn lend_output_memory(&mut self, spare: &mut SpareOutputs) {
        self.output.lend_memory(spare);
    }

    // It ends.

    /// Begins the end: nothing more is processed, the error line for `reason` is put behind the answers, and
    /// all of that has to be taken within the closing timeout.
    pub(super) fn close(&mut self, reason: CloseReason, ts: &str, limits: &Limits, now: Mono) {
        debug_assert!(self.is_open(), "closed twice");
        self.phase = Phase::Flushing { reason, deadline: now.plus(limits.closing_timeout) };
        self.pause = None;
        self.line_begun_at = None;
        if reason == CloseReason::OutputStalled {
            self.fail_output();
        }
        if let Some(text) = reason.wire_text().filter(|_| !self.is_output_failed)
            && self.output.reserve(ERROR_LINE_MAX, limits.output_bytes_max + ERROR_LINE_MAX)
        {
            self.output.append(|bytes| Reply::Error { text: &text }.encode(ts, bytes));
            self.pending.insert(Pending::WRITE);
        }
        self.check_invariants();
    }

    /// The connection is gone: its buffer, and its memory for output.
    pub(super) fn into_memory(mut self) -> (Option<Ring>, Option<Vec<u8>>) {
        self.output.clear();
        (self.take_ring(), self.output.take_memory())
    }

    /// The pending actions, with what the present state adds to them.
    pub(super) fn pending_mut(&mut self) -> &mut Pending {
        if !self.is_open() {
            self.pending.insert(Pending::END);
        }
        &mut self.pending
    }

    /// Whether the shell has not been told of its last output.
    pub(super) fn has_news(&self) -> bool {
        self.pending.contains(Pending::WRITE)
    }

    /// The next write or read that the shell has to be told of, if there is one.
    pub(super) fn next_transfer(&mut self) -> Option<Step> {
        if self.pending.take(Pending::WRITE) && !self.output.is_empty() {
            return Some(Step::Write);
        }
        self.pending.take(Pending::READ).then_some(Step::Read)
    }

    /// How the stream goes on now that the shell has been told of its output; begins to linger where that is
    /// the answer.
    pub(super) fn next_ending(&mut self) -> Option<Step> {
        let reason = self.close_reason().filter(|_| self.output.is_empty())?;
        // A peer that was silent cannot lose its last line by a write that fails; one that was sending can.
        let may_be_sending = matches!(
            reason,
            CloseReason::InvalidFrame
                | CloseReason::Unauthorized
                | CloseReason::InboxFull
                | CloseReason::TooManyClients
                | CloseReason::FrameTooLong { .. }
        );
        if self.stream == Stream::Finished || self.is_output_failed || !may_be_sending {
            return Some(Step::Close(reason));
        }
        let Phase::Flushing { deadline, .. } = self.phase else { return None };
        self.phase = Phase::Lingering { reason, deadline };
        self.check_invariants();
        Some(Step::ShutWrite)
    }

    // Time passes.

    /// The next deadline and what it means; `None` while timeouts are suspended.
    pub(super) fn next_deadline(&self, limits: &Limits) -> Option<(Mono, Due)> {
        if let Phase::Flushing { reason, deadline } | Phase::Lingering { reason, deadline } = self.phase {
            return Some((deadline, Due::Close(reason)));
        }
        if matches!(self.input, InputBuffer::Waiting | InputBuffer::Reserved(_)) {
            return None;
        }
        match self.pause {
            Some(Pause::InboxFull | Pause::Unread) => None,
            Some(Pause::OutputFull { since }) => {
                // Nothing is read meanwhile: it was active when it last took something. If it did so in this
                // turn, there may be more that it could not be offered before; the next turn, which is due at
                // once, will tell.
                let after_last = self.active_at.plus(Duration::from_nanos(1));
                let deadline = since.plus(limits.output_timeout).max(after_last);
                Some((deadline, Due::Close(CloseReason::OutputStalled)))
            }
            // That it is paused is the server's choice; it still has to authenticate in time.
            Some(Pause::RateLimited { until }) => match self.auth_deadline(limits) {
                Some(at) if at < until => Some((at, Due::Close(CloseReason::AuthTimeout))),
                _ => Some((until, Due::Resume)),
            },
            Some(Pause::NextTurn) | None => {
                let mut next = (self.active_at.plus(limits.idle_timeout), CloseReason::IdleTimeout);
                let line_deadline = self.line_begun_at.map(|begun_at| begun_at.plus(limits.frame_timeout));
                if let Some(at) = line_deadline.filter(|at| *at <= next.0) {
                    next = (at, CloseReason::FrameTimeout);
                }
                if let Some(at) = self.auth_deadline(limits).filter(|at| *at <= next.0) {
                    next = (at, CloseReason::AuthTimeout);
                }
                Some((next.0, Due::Close(next.1)))
            }
        }
    }

    /// When it must have authenticated, if it has not.
    fn auth_deadline(&self, limits: &Limits) -> Option<Mono> {
        (!self.is_authenticated()).then(|| self.accepted_at.plus(limits.auth_timeout))
    }

    /// What the types do not say. Called after each change.
    fn check_invariants(&self) {
        debug_assert!(self.is_open() || self.pause.is_none(), "closing, and paused: {:?}", self.pause);
        debug_assert!(self.is_open() || self.line_begun_at.is_none(), "closing, and in a line");
        debug_assert!(!self.is_output_failed || self.output.is_empty(), "output for a stream that failed");
        debug_assert!(
            self.standing != Standing::Silent || self.ring().is_none_or(Ring::is_empty),
            "bytes of a silent peer"
        );
    }

    /// The same, and what holds once the endpoint has looked at the changes.
    pub(super) fn check_settled(&self) {
        self.check_invariants();
        debug_assert!(
            self.stream != Stream::Refused || self.is_paused() || self.waits_for_buffer(),
            "a read is refused without a reason"
        );
        debug_assert!(!self.pending.is_forgotten(), "actions that are not queued: {:?}", self.pending);
    }
}
