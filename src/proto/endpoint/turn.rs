//! Scheduling: how many lines of a connection one turn takes, and whose turn is next.

use std::collections::VecDeque;

use crate::proto::error::Error;
use crate::proto::slots::{ConnKey, queue};

/// What turns record about one connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Share {
    /// The turn in which lines were last taken, and how many in that turn.
    turn: u32,
    lines: u32,
    /// Its key stands in one of the queues of [`Turns`].
    is_queued: bool,
}

/// The order in which connections with lines left over go on.
pub(super) struct Turns {
    /// The number of this turn. It wraps.
    number: u32,
    /// Connections that go on in the next turn, or in this one if [`Self::next_ready`] has not given them
    /// yet.
    ready: VecDeque<ConnKey>,
    /// Connections of which lines were taken in this turn: in the next one they come after the others.
    next: VecDeque<ConnKey>,
    /// A message was put into the inbox in this turn, so its owner has not had a chance to drain it.
    has_enqueued: bool,
}

impl Turns {
    /// The first turn, with room for `capacity` connections.
    pub(super) fn new(capacity: usize) -> Result<Self, Error> {
        let (ready, next) = (queue(capacity)?, queue(capacity)?);
        Ok(Self { number: 0, ready, next, has_enqueued: false })
    }

    /// How many of `max` lines a turn may still take from a connection.
    pub(super) fn lines_left(&self, share: &Share, max: usize) -> usize {
        max.saturating_sub(self.taken(share) as usize)
    }

    /// How many were taken in this turn.
    fn taken(&self, share: &Share) -> u32 {
        if share.turn == self.number { share.lines } else { 0 }
    }

    /// `lines` lines of a connection were taken.
    pub(super) fn note_taken(&self, share: &mut Share, lines: usize) {
        share.lines = self.taken(share).saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        share.turn = self.number;
    }

    /// A message was put into the inbox.
    pub(super) fn note_enqueued(&mut self) {
        self.has_enqueued = true;
    }

    /// Whether a message was put into the inbox in this turn.
    pub(super) fn has_enqueued(&self) -> bool {
        self.has_enqueued
    }

    /// Lets a connection go on in the next turn. One that was served in this turn comes after those that were
    /// not.
    pub(super) fn enqueue(&mut self, key: ConnKey, share: &mut Share) {
        if share.is_queued {
            return;
        }
        share.is_queued = true;
        let queue = if self.taken(share) > 0 { &mut self.next } else { &mut self.ready };
        queue.push_back(key);
    }

    /// How many keys [`Self::next_ready`] has to give in this turn, if it is asked now.
    pub(super) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The connection that goes on next. It may be gone, or have gone on already.
    pub(super) fn next_ready(&mut self) -> Option<ConnKey> {
        self.ready.pop_front()
    }

    /// The key of this connection was taken out of the queue.
    pub(super) fn dequeued(share: &mut Share) {
        debug_assert!(share.is_queued, "given without being queued");
        share.is_queued = false;
    }

    /// The connection that waits for its next turn, if it is the only one that waits.
    pub(super) fn only_one(&self) -> Option<ConnKey> {
        self.next.front().copied().filter(|_| self.ready.is_empty() && self.next.len() == 1)
    }

    /// Gives [`Self::only_one`] another budget in this turn.
    pub(super) fn extend(&mut self, share: &mut Share) {
        self.next.clear();
        Self::dequeued(share);
        share.lines = 0;
    }

    /// Whether no connection waits for a turn.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.next.is_empty()
    }

    /// Begins the next turn.
    pub(super) fn end(&mut self) {
        self.number = self.number.wrapping_add(1);
        self.has_enqueued = false;
        if !self.next.is_empty() {
            self.ready.append(&mut self.next);
        }
    }
}
