//! One connection to a receiver: lines that are being written, messages whose answers have not come, answers
//! read.

use std::collections::VecDeque;

use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::framer::{FrameOutcome, Framer};
use crate::proto::limits::Limits;
use crate::proto::message::{Answer, Outgoing};
use crate::proto::output::Output;
use crate::proto::ring::Ring;
use crate::proto::slots::ConnKey;

/// Bytes of the first input buffer of a connection: the answers to a few messages.
const INPUT_MIN: usize = 2 << 10;

/// A connection to a receiver.
pub(super) struct Wire {
    pub(super) key: ConnKey,
    auth_token: AuthToken,
    token_age: TokenAge,
    framer: Framer,
    ring: Ring,
    /// Bytes of the largest input buffer.
    input_max: usize,
    /// Bytes ever received.
    received_total: u64,
    /// Empty once nothing more may be written.
    output: Output,
    /// Bytes of the output ever written.
    sent_total: u64,
    write_side: WriteSide,
    /// Messages whose answers have not come, in order. Those that expired stay: their answers come.
    in_flight: VecDeque<InFlight>,
    /// The receiver has answered something: it is a server, and it took our token.
    pub(super) has_answered: bool,
}

/// When the token of a connection was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenAge {
    /// For this connection.
    New,
    /// For an earlier one: the receiver may have another one by now.
    Old,
}

/// Whether a connection can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// A line was given up in its middle, and nothing may complete it. Answers to the lines before it still
    /// come.
    Abandoned,
    /// The stream takes nothing more; the reason may be waiting to be read.
    Failed,
}

/// A message that was given to a connection.
struct InFlight {
    message: ConnKey,
    /// Where its line ends among all bytes ever written or to be written, and how long it is.
    end: u64,
    len: u64,
    /// How many bytes had been received when its line was written whole, if it was: an answer to it begins
    /// there at the earliest.
    answers_from: Option<u64>,
}

impl InFlight {
    fn is_whole(&self) -> bool {
        self.answers_from.is_some()
    }

    /// Whether any byte of its line was written.
    fn is_begun(&self, sent_total: u64) -> bool {
        self.end - self.len < sent_total
    }
}

/// How much of a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Nothing,
    Part,
    Whole,
}

impl Wire {
    /// The connection `key`, whose receiver asks for `auth_token`. Fails if there is no memory for an input
    /// buffer.
    pub(super) fn new(
        key: ConnKey,
        auth_token: AuthToken,
        token_age: TokenAge,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let input_max = limits.frame_bytes_max + 1;
        Ok(Self {
            key,
            auth_token,
            token_age,
            framer: Framer::new(limits.frame_bytes_max),
            ring: Ring::new(input_max.min(INPUT_MIN))?,
            input_max,
            received_total: 0,
            output: Output::default(),
            sent_total: 0,
            write_side: WriteSide::Open,
            in_flight: VecDeque::new(),
            has_answered: false,
        })
    }

    /// Whether a refusal of its token may mean that this is an old one: no message was accepted with it.
    pub(super) fn may_have_old_token(&self) -> bool {
        self.token_age == TokenAge::Old && !self.has_answered
    }

    // Lines go.

    /// Whether another line may be put in.
    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.write_side == WriteSide::Open
            && self.in_flight.len() < limits.in_flight_max
            && self.output.len() < limits.frame_bytes_max
    }

    /// Puts a line behind the others, with the token that this connection asks for. `false`: there is no
    /// memory.
    #[must_use]
    pub(super) fn push(&mut self, message: ConnKey, line: &[u8], limits: &Limits) -> bool {
        debug_assert!(self.has_room(limits), "there is room for a line");
        if !self.output.reserve(line.len(), limits.frame_bytes_max.saturating_mul(2)) {
            return false;
        }
        let auth_token = &self.auth_token;
        self.output.append(|bytes| {
            let start = bytes.len();
            bytes.extend_from_slice(line);
            Outgoing::set_auth_token(bytes.get_mut(start..).unwrap_or_default(), auth_token);
        });
        let end = self.sent_total + self.output.len() as u64;
        self.in_flight.push_back(InFlight { message, end, len: line.len() as u64, answers_from: None });
        self.check_invariants();
        true
    }

    /// Bytes to be written.
    pub(super) fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// The first `n` bytes of the output were written.
    pub(super) fn sent(&mut self, n: usize) {
        let n = n.min(self.output.len());
        self.output.advance(n);
        self.sent_total += n as u64;
        let (sent_total, received_total) = (self.sent_total, self.received_total);
        let is_partial = |flying: &&mut InFlight| !flying.is_whole();
        for flying in self.in_flight.iter_mut().rev().take_while(is_partial) {
            if flying.end <= sent_total {
                flying.answers_from = Some(received_total);
            }
        }
        self.check_invariants();
    }

    pub(super) fn progress(&self, message: ConnKey) -> Progress {
        match self.in_flight.iter().find(|flying| flying.message == message) {
            Some(flying) if flying.is_whole() => Progress::Whole,
            Some(flying) if flying.is_begun(self.sent_total) => Progress::Part,
            _ => Progress::Nothing,
        }
    }

    /// Takes back the line of `message`, if it is here; none of it was written.
    pub(super) fn withdraw(&mut self, message: ConnKey) {
        let Some(at) = self.in_flight.iter().position(|flying| flying.message == message) else { return };
        let Some(InFlight { end, len, .. }) = self.in_flight.remove(at) else { return };
        let place = |at: u64| usize::try_from(at - self.sent_total).unwrap_or(usize::MAX);
        let (start, end) = (place(end - len), place(end));
        if self.write_side == WriteSide::Open {
            self.output.remove(start..end);
        }
        for flying in self.in_flight.range_mut(at..) {
            flying.end -= len;
        }
        self.check_invariants();
    }

    /// Nothing more is written, because a line was given up in its middle. Takes the messages whose lines
    /// were not written whole, the newest first.
    pub(super) fn abandon_output(&mut self) -> impl Iterator<Item = ConnKey> + use<> {
        self.write_side = WriteSide::Abandoned;
        self.output.clear();
        let unwritten = self.in_flight.split_off(self.in_flight.partition_point(InFlight::is_whole));
        self.check_invariants();
        unwritten.into_iter().rev().map(|flying| flying.message)
    }

    /// The stream takes nothing more.
    pub(super) fn output_failed(&mut self) {
        if self.write_side == WriteSide::Open {
            self.write_side = WriteSide::Failed;
            self.output.clear();
        }
        self.check_invariants();
    }

    // Answers come.

    /// Space for the next read.
    pub(super) fn recv_space_mut(&mut self) -> &mut [u8] {
        self.ring.spare_mut()
    }

    /// The same, to be looked at.
    pub(super) fn recv_space(&self) -> &[u8] {
        self.ring.spare()
    }

    /// `n` bytes were read into that space. If they fill it, there is more space for those to come; an error
    /// if there is no memory for that.
    pub(super) fn received(&mut self, n: usize) -> Result<(), Error> {
        self.ring.filled(n);
        self.received_total += n as u64;
        let (len, capacity) = (self.ring.len(), self.ring.capacity());
        if len == capacity && capacity < self.input_max {
            let mut larger = Ring::new(self.input_max.min(4 * capacity))?;
            if let Some(space) = larger.spare_mut().get_mut(..len) {
                space.copy_from_slice(self.ring.view());
            }
            larger.filled(len);
            self.ring = larger;
        }
        self.check_invariants();
        Ok(())
    }

    /// The next line that has come, and the byte of the connection that it began with; an error if it is no
    /// answer.
    pub(super) fn next_answer(&mut self) -> Result<Option<(Answer<'_>, u64)>, Error> {
        let start = self.received_total - self.ring.len() as u64;
        let line = match self.framer.next_frame(&mut self.ring) {
            FrameOutcome::Frame(line) => line,
            FrameOutcome::NeedMore => return Ok(None),
            FrameOutcome::TooLong { .. } => {
                let sentence = "UDS response frame exceeded size limit";
                return Err(Error::new(ErrorKind::InvalidMessage, sentence));
            }
        };
        if line.trim_ascii().is_empty() {
            return Ok(Some((Answer::Other, start)));
        }
        let answer = Answer::from_line(line).map_err(|cause| {
            Error::new(ErrorKind::InvalidMessage, "Invalid UDS response frame").with_source(cause)
        })?;
        Ok(Some((answer, start)))
    }

    /// Takes the oldest message, if a yes that began at byte `start` is the answer to it: its line had been
    /// written whole before. A yes that answers no message is skipped.
    pub(super) fn take_accepted(&mut self, start: u64) -> Option<ConnKey> {
        let is_answered = |oldest: &mut InFlight| oldest.answers_from.is_some_and(|from| start >= from);
        let oldest = self.in_flight.pop_front_if(is_answered)?;
        self.has_answered = true;
        self.check_invariants();
        Some(oldest.message)
    }

    /// Takes the oldest message, if a refusal can be the answer to it: some of its line was written. The
    /// refusal ends the connection.
    pub(super) fn take_rejected(&mut self) -> Option<ConnKey> {
        let sent_total = self.sent_total;
        let oldest = self.in_flight.pop_front_if(|oldest| oldest.is_begun(sent_total))?;
        self.has_answered = true;
        self.output_failed();
        Some(oldest.message)
    }

    // Messages without an answer.

    /// Takes the oldest message, if its line was written whole.
    pub(super) fn take_whole(&mut self) -> Option<ConnKey> {
        let oldest = self.in_flight.pop_front_if(|oldest| oldest.is_whole())?;
        self.check_invariants();
        Some(oldest.message)
    }

    /// All messages that are left, the newest first.
    pub(super) fn into_messages(self) -> impl Iterator<Item = ConnKey> {
        self.in_flight.into_iter().rev().map(|flying| flying.message)
    }

    /// Whether every message in flight has got its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether the connection is of no more use: it was given up or has messages in flight, and none of them
    /// `is_outstanding`.
    pub(super) fn is_deserted(&self, is_outstanding: impl Fn(ConnKey) -> bool) -> bool {
        (!self.is_idle() || self.write_side == WriteSide::Abandoned)
            && !self.in_flight.iter().any(|flying| is_outstanding(flying.message))
    }

    /// The output is the lines in flight from the byte that is written next, and empty once it is closed.
    /// O(1).
    fn check_invariants(&self) {
        match (self.write_side, self.in_flight.back()) {
            (WriteSide::Open, Some(newest)) => {
                debug_assert_eq!(
                    newest.end,
                    self.sent_total + self.output.len() as u64,
                    "the last line ends it"
                );
                debug_assert_eq!(
                    newest.is_whole(),
                    self.output.is_empty(),
                    "a line is whole when it is written"
                );
            }
            (WriteSide::Open | WriteSide::Abandoned | WriteSide::Failed, _) => {
                debug_assert!(self.output.is_empty(), "output that belongs to no line");
            }
        }
        if let (Some(oldest), Some(newest)) = (self.in_flight.front(), self.in_flight.back()) {
            debug_assert!(oldest.is_whole() || !newest.is_whole(), "lines are written in order");
            debug_assert!(oldest.end <= newest.end, "lines stand in order");
        }
        debug_assert!(self.ring.len() as u64 <= self.received_total, "bytes that did not come");
    }
}
