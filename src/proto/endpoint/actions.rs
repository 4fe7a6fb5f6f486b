//! What the shell must do: one set of pending actions for each connection, and one queue of connections that
//! have any.

use std::collections::VecDeque;

use crate::proto::error::{CloseReason, Error};
use crate::proto::slots::{ConnKey, queue};

/// What is to be done with the stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Write [`Endpoint::output`](super::Endpoint::output) and report with
    /// [`Endpoint::sent`](super::Endpoint::sent).
    Write,
    /// Reading was refused earlier (no `recv_space`) and is possible again.
    Read,
    /// Shut the write side down and go on reading until end of input.
    ShutWrite,
    /// Close the stream. The key is stale already.
    ///
    /// Read what is unread in it first, without waiting, and throw it away: closing a Unix socket with unread
    /// bytes resets the peer, and the peer loses the last lines that were written to it.
    Close(CloseReason),
}

/// The set of actions of one connection that the shell has not been told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending(u8);

impl Pending {
    /// There is output that was not there before.
    pub(super) const WRITE: Self = Self(1);
    /// A read that was refused is possible again.
    pub(super) const READ: Self = Self(2);
    /// The connection is on its way out: once its output is written, its stream is shut or closed.
    pub(super) const END: Self = Self(4);
    /// Its key stands in the queue.
    const QUEUED: Self = Self(8);

    /// Puts `action` into the set.
    pub(super) fn insert(&mut self, action: Self) {
        self.0 |= action.0;
    }

    /// Whether `action` is in the set.
    pub(super) fn contains(self, action: Self) -> bool {
        self.0 & action.0 != 0
    }

    /// Takes `action` out of the set; whether it was there.
    pub(super) fn take(&mut self, action: Self) -> bool {
        let was_there = self.contains(action);
        self.0 &= !action.0;
        was_there
    }

    /// Whether it has an action and no place in the queue.
    pub(super) fn is_forgotten(self) -> bool {
        self.0 != 0 && !self.contains(Self::QUEUED)
    }
}

/// An entry of the queue.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// A connection with pending actions. It may be gone.
    Connection(ConnKey),
    /// A connection that is gone: its stream is to be closed.
    Gone(ConnKey, CloseReason),
}

/// The queue of what the shell has to be told.
pub(super) struct Actions(VecDeque<Entry>);

impl Actions {
    /// An empty queue with room for `capacity` entries.
    pub(super) fn new(capacity: usize) -> Result<Self, Error> {
        Ok(Self(queue(capacity)?))
    }

    /// Queues a connection that has pending actions.
    pub(super) fn enqueue(&mut self, key: ConnKey, pending: &mut Pending) {
        if pending.is_forgotten() {
            pending.insert(Pending::QUEUED);
            self.0.push_back(Entry::Connection(key));
        }
    }

    /// Queues the end of the stream of a connection that is gone.
    pub(super) fn close(&mut self, key: ConnKey, reason: CloseReason) {
        self.0.push_back(Entry::Gone(key, reason));
    }

    /// The entry that is next. It stays until [`Self::pop`].
    pub(super) fn first(&self) -> Option<Entry> {
        self.0.front().copied()
    }

    /// Takes the first entry out.
    pub(super) fn pop(&mut self) {
        self.0.pop_front();
    }

    /// Takes the first entry out and empties `pending`, the set of its connection.
    pub(super) fn pop_connection(&mut self, pending: &mut Pending) {
        debug_assert!(pending.contains(Pending::QUEUED), "taken out of a queue without being in it");
        *pending = Pending::default();
        self.pop();
    }

    /// Whether nothing is to be told but of this connection.
    pub(super) fn are_only_of(&self, key: ConnKey) -> bool {
        self.0.iter().all(|entry| matches!(entry, Entry::Connection(other) if *other == key))
    }

    /// Whether there is nothing to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
