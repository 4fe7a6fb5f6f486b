//! Buffers for input, on loan: [`BufferPool`] bounds the unfinished lines of all connections together.
//!
//! A connection holds a ring only while it has unfinished bytes. An idle one costs no buffer, and the ring that is used
//! next is the one still warm in cache.

use super::ring::Ring;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// Lends rings of one size, at most so many at once: the bound on the unfinished input of all connections
/// together.
#[derive(Debug)]
pub struct BufferPool {
    ring_bytes: usize,
    rings_max: usize,
    lent: usize,
    /// The one that came back last is at the end and goes out first.
    free: Vec<Ring>,
}

impl BufferPool {
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
