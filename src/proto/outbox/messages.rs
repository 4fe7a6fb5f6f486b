//! Messages that have no outcome yet, and outcomes that were not taken yet: what the limits of the outbox
//! count.

use std::collections::VecDeque;
use std::fmt;

use crate::proto::error::{Error, ErrorKind};
use crate::proto::limits::Limits;
use crate::proto::slots::{ConnKey, Slots};
use crate::proto::time::Mono;
use crate::proto::wheel::Wheel;

/// Names one message that was given to an [`Outbox`](super::Outbox); no two are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SendId(pub(super) ConnKey);

/// What became of one message. There is no success that could be mistaken for another.
#[derive(Debug)]
#[must_use]
pub enum SendOutcome {
    /// It is in the receiver's inbox (or, for a ping, the receiver is alive).
    Accepted {
        /// The receiver's name for it, as `uds-7`. A pong has none, and some receivers give none.
        id: Option<String>,
    },
    /// The receiver refused it, and said why. It is not in the inbox.
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
    /// Whether the receiver accepted it.
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

/// One message that has no outcome yet.
pub(super) struct Outstanding {
    pub(super) link: ConnKey,
    /// The whole line, with its newline and a blank token.
    pub(super) line: Vec<u8>,
    deadline: Mono,
}

/// All messages of an outbox until the owner has taken their outcomes.
///
/// Bounded by `outbox_entries_max` and `outbox_bytes_max` of [`Limits`].
pub(super) struct Messages {
    entries_max: usize,
    bytes_max: usize,
    outstanding: Slots<Outstanding>,
    /// Bytes of all their lines.
    bytes: usize,
    wheel: Wheel,
    outcomes: VecDeque<(SendId, SendOutcome)>,
}

impl Messages {
    /// None, with the memory of `outstanding` for them.
    pub(super) fn new(limits: &Limits, outstanding: Slots<Outstanding>) -> Result<Self, Error> {
        Ok(Self {
            entries_max: limits.outbox_entries_max,
            bytes_max: limits.outbox_bytes_max,
            bytes: 0,
            wheel: Wheel::new(outstanding.reserved())?,
            outstanding,
            outcomes: VecDeque::new(),
        })
    }

    /// Fails if there is no room for another line of `len` bytes.
    pub(super) fn check_room(&self, len: usize) -> Result<(), Error> {
        if self.outstanding.len() + self.outcomes.len() < self.entries_max
            && len <= self.bytes_max - self.bytes
        {
            return Ok(());
        }
        let sentence = format!(
            "{} messages of {} bytes are on their way already, and the outcomes of {} others were not taken; \
             take the outcomes",
            self.outstanding.len(),
            self.bytes,
            self.outcomes.len()
        );
        Err(Error::new(ErrorKind::OutboxFull, sentence))
    }

    /// Stores the line of a message for `link`; `None` if there is no room for it.
    pub(super) fn insert(&mut self, link: ConnKey, line: Vec<u8>, deadline: Mono) -> Option<ConnKey> {
        let len = line.len();
        let key = self.outstanding.insert(Outstanding { link, line, deadline })?;
        if !self.wheel.make_room(key.index() + 1) {
            self.outstanding.remove(key);
            return None;
        }
        self.bytes += len;
        self.wheel.schedule(key, deadline);
        self.check_invariants();
        Some(key)
    }

    /// How many have no outcome yet.
    pub(super) fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Bytes of their lines.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a message has no outcome yet.
    pub(super) fn is_outstanding(&self, message: ConnKey) -> bool {
        self.outstanding.get(message).is_some()
    }

    /// A message that has no outcome yet.
    pub(super) fn get(&self, message: ConnKey) -> Option<&Outstanding> {
        self.outstanding.get(message)
    }

    /// Gives a message its outcome, unless it has one already.
    pub(super) fn finish(&mut self, message: ConnKey, outcome: SendOutcome) {
        if let Some(finished) = self.outstanding.remove(message) {
            self.bytes -= finished.line.len();
            self.wheel.cancel(message);
            self.outcomes.push_back((SendId(message), outcome));
        }
        self.check_invariants();
    }

    /// Takes the oldest outcome.
    pub(super) fn next_outcome(&mut self) -> Option<(SendId, SendOutcome)> {
        let next = self.outcomes.pop_front();
        self.check_invariants();
        next
    }

    /// The earliest deadline of a message.
    pub(super) fn next_deadline(&mut self) -> Option<Mono> {
        let outstanding = &self.outstanding;
        self.wheel.next_deadline(|key| outstanding.get(key).map(|message| message.deadline))
    }

    /// A message whose deadline has passed. It must be given its outcome.
    pub(super) fn next_expired(&mut self, now: Mono) -> Option<ConnKey> {
        let outstanding = &self.outstanding;
        self.wheel.next_expired(now, |key| outstanding.get(key).map(|message| message.deadline))
    }

    pub(super) fn check_invariants(&self) {
        debug_assert!(
            self.outstanding.len() + self.outcomes.len() <= self.entries_max,
            "{} messages and {} outcomes",
            self.outstanding.len(),
            self.outcomes.len()
        );
        debug_assert!(self.bytes <= self.bytes_max, "{} bytes", self.bytes);
        debug_assert!(self.bytes > 0 || self.outstanding.is_empty(), "a message without bytes");
    }
}
