//! Where received bytes wait: [`Ring`], a bounded buffer that is always contiguous, and the [`RingPool`] that
//! lends them.
//!
//! A frame must be contiguous to be parsed in place, so nothing wraps round: when the room behind the waiting
//! bytes runs out, they are moved to the front. That is at most one unfinished frame if complete ones are
//! consumed first, and each frame is moved at most once.
//!
//! A connection holds a ring only while it has unfinished bytes. An idle one costs no buffer, and the ring
//! that is used next is the one still warm in cache.

use std::fmt;

use super::error::{Error, ErrorKind};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// A bounded buffer of bytes: filled at one end, consumed at the other, contiguous in between.
///
/// Invariant, checked after every change: `head <= tail <= capacity`. Bytes wait in `head..tail`; what lies
/// before is spent, what lies behind is spare and holds whatever was there before.
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
    /// [`ErrorKind::OutOfMemory`] if the memory cannot be had.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        Self::try_new(capacity).ok_or_else(|| {
            Error::new(ErrorKind::OutOfMemory, format!("no memory for a buffer of {capacity} bytes"))
        })
    }

    fn try_new(capacity: usize) -> Option<Self> {
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
    /// Moves the waiting bytes to the front, so that all that is not in use is offered: the rest of an unfinished frame
    /// has to fit into one read. O(1), or O([`len`](Ring::len)) when it moves: once for each frame at most.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        if self.head > 0 {
            self.bytes.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
        self.check();
        self.bytes.get_mut(self.tail..).unwrap_or_default()
    }

    /// The first `n` bytes of what [`Ring::spare_mut`] gave last now hold data.
    ///
    /// # Panics
    ///
    /// If `n` is more than that: the caller claims bytes that cannot have come.
    pub fn filled(&mut self, n: usize) {
        assert!(n <= self.capacity() - self.tail, "filled({n}) beyond the spare room");
        self.tail += n;
        self.check();
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
        self.check();
        self.bytes.get(taken).unwrap_or_default()
    }

    fn clear(&mut self) {
        (self.head, self.tail) = (0, 0);
    }

    fn check(&self) {
        debug_assert!(self.head <= self.tail && self.tail <= self.capacity(), "{}..{}", self.head, self.tail);
    }
}

/// Shows how full it is: what came from a peer, tokens and all, does not belong in logs.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} of {} bytes)", self.len(), self.capacity())
    }
}

/// Lends rings of one size, at most so many at once: the bound on the unfinished input of all connections
/// together.
#[derive(Debug)]
pub struct RingPool {
    ring_bytes: usize,
    rings_max: usize,
    lent: usize,
    /// The one that came back last is at the end and goes out first.
    free: Vec<Ring>,
}

impl RingPool {
    /// How many free rings are kept for the next borrower; further ones give their memory back.
    ///
    /// Reading borrows one ring at a time, so one would do; the others spare connections whose frames arrive
    /// in pieces an allocation each.
    pub const FREE_MAX: usize = 4;

    /// A pool that lends at most `rings_max` rings of `ring_bytes` each. Allocates nothing yet.
    pub fn new(ring_bytes: usize, rings_max: usize) -> Self {
        Self { ring_bytes, rings_max, lent: 0, free: Vec::new() }
    }

    /// An empty ring; `None` if all are out or memory is refused. O(1), or O(`ring_bytes`) if it must be
    /// made.
    ///
    /// A ring that is dropped instead of given back counts as lent for ever.
    pub fn lend(&mut self) -> Option<Ring> {
        if self.lent >= self.rings_max {
            return None;
        }
        let ring = match self.free.pop() {
            Some(ring) => ring,
            None => Ring::try_new(self.ring_bytes)?,
        };
        self.lent += 1;
        Some(ring)
    }

    /// Takes back a ring of this pool, with what is in it. O(1).
    pub fn give_back(&mut self, mut ring: Ring) {
        debug_assert!(self.lent > 0 && ring.capacity() == self.ring_bytes, "this ring is not from here");
        self.lent = self.lent.saturating_sub(1);
        if self.free.len() < Self::FREE_MAX {
            ring.clear();
            self.free.push(ring);
        }
    }

    /// How many rings are out.
    pub fn lent(&self) -> usize {
        self.lent
    }
}
