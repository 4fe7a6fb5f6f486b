//! Where received bytes wait: [`Ring`], a bounded buffer that is always contiguous.
//!
//! A frame must be contiguous to be parsed in place, so nothing wraps round: when the room behind the waiting
//! bytes runs out, they are moved to the front. That is at most one unfinished frame if complete ones are
//! consumed first, and each frame is moved at most once.

use std::fmt;

use super::error::Error;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// A bounded buffer of bytes: filled at one end, consumed at the other, contiguous in between.
///
/// Invariant, checked after every change: `head <= tail <= capacity`. Bytes wait in `head..tail`; what lies
/// before is spent, what lies behind is spare and holds what was there before.
pub struct Ring {
    /// Its length is the capacity and never changes.
    bytes: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Ring {
    /// An empty ring of `capacity` bytes that belongs to no pool. O(capacity): the memory is zeroed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if the memory cannot be had.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::try_new(capacity).ok_or_else(|| Error::no_memory(format_args!("a buffer of {capacity} bytes")))
    }

    pub(super) fn try_new(capacity: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(capacity).ok()?;
        bytes.resize(capacity, 0);
        Some(Self { bytes, head: 0, tail: 0 })
    }

    /// How many bytes fit.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// The bytes that wait, oldest first.
    pub fn view(&self) -> &[u8] {
        self.bytes.get(self.head..self.tail).unwrap_or_default()
    }

    /// Where the next bytes go; empty only if the ring is full. Say with [`Ring::filled`] how many came.
    ///
    /// Moves the waiting bytes to the front, so that all that is not in use is offered: the rest of an
    /// unfinished frame has to fit into one read. O(1), or O([`len`](Ring::len)) when it moves: once for each
    /// frame at most.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        if self.head > 0 {
            self.bytes.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        self.check_invariants();
        self.bytes.get_mut(self.tail..).unwrap_or_default()
    }

    /// What [`Ring::spare_mut`] gave last.
    pub(super) fn spare(&self) -> &[u8] {
        self.bytes.get(self.tail..).unwrap_or_default()
    }

    /// The first `n` bytes of what [`Ring::spare_mut`] gave last now hold data.
    ///
    /// # Panics
    ///
    /// If `n` is more than that: the caller claims bytes that cannot have come.
    pub fn filled(&mut self, n: usize) {
        assert!(n <= self.capacity() - self.tail, "filled({n}) beyond the spare room");
        self.tail += n;
        self.check_invariants();
    }

    /// Takes the oldest `n` bytes and shows them for the last time: they stay in place until
    /// [`Ring::spare_mut`]. O(1).
    ///
    /// # Panics
    ///
    /// If fewer than `n` bytes wait.
    pub fn consume(&mut self, n: usize) -> &[u8] {
        assert!(n <= self.len(), "consume({n}) of {} bytes", self.len());
        let taken = self.head..self.head + n;
        self.head = taken.end;
        if self.head == self.tail {
            // Nothing is left to move: the whole capacity is spare again.
            self.clear();
        }
        self.check_invariants();
        self.bytes.get(taken).unwrap_or_default()
    }

    /// Throws away what waits.
    pub(super) fn clear(&mut self) {
        (self.head, self.tail) = (0, 0);
        self.check_invariants();
    }

    fn check_invariants(&self) {
        debug_assert!(self.head <= self.tail && self.tail <= self.capacity(), "{}..{}", self.head, self.tail);
    }
}

/// Shows how full it is: what came from a peer, tokens and all, does not belong in logs.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} of {} bytes)", self.len(), self.capacity())
    }
}
