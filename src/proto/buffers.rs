//! Buffers for input, on loan: [`BufferPool`] bounds the unfinished lines of all connections together.
//!
//! A connection holds a ring only while it has unfinished bytes. An idle one costs no buffer, and the ring
//! that is used next is the one still warm in cache.

use std::collections::VecDeque;

use super::error::Error;
use super::ring::Ring;
use super::slots::{ConnKey, queue};

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
    /// Connections that wait for a ring, in the order in which they asked. Keys of those that are gone may be
    /// among them.
    waiting: VecDeque<ConnKey>,
}

impl BufferPool {
    /// How many free rings are kept for the next borrower; further ones give their memory back.
    ///
    /// Reading borrows one ring at a time, so one would do; the others spare connections whose frames arrive
    /// in pieces an allocation each.
    pub(crate) const FREE_MAX: usize = 4;

    /// A pool that lends at most `rings_max` rings of `ring_bytes` each. Allocates nothing yet.
    pub fn new(ring_bytes: usize, rings_max: usize) -> Self {
        Self { ring_bytes, rings_max, lent: 0, free: Vec::new(), waiting: VecDeque::new() }
    }

    /// An empty ring; `None` if all are out or memory is refused. O(1), or O(`ring_bytes`) if it must be
    /// made.
    ///
    /// A ring that is dropped instead of given back counts as lent for ever.
    pub fn lend(&mut self) -> Option<Ring> {
        if self.is_exhausted() {
            return None;
        }
        let ring = match self.free.pop() {
            Some(ring) => ring,
            None => Ring::try_new(self.ring_bytes)?,
        };
        self.lent += 1;
        self.check_invariants();
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
        self.check_invariants();
    }

    /// How many rings are out.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Whether every ring is out.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.lent >= self.rings_max
    }

    /// Room for `connections` connections to wait, and for as many keys of those that are gone.
    pub(crate) fn with_waiting(mut self, connections: usize) -> Result<Self, Error> {
        self.waiting = queue(2 * connections)?;
        Ok(self)
    }

    /// Puts `key` at the end of those that wait; `waits` says who still does. Amortised O(1).
    pub(crate) fn wait(&mut self, key: ConnKey, mut waits: impl FnMut(ConnKey) -> bool) {
        debug_assert!(self.is_exhausted(), "there are rings to lend");
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|key| waits(*key));
        }
        self.waiting.push_back(key);
        self.check_invariants();
    }

    /// A ring for the connection that has waited longest; `waits` says who still does. `None` if none does or
    /// no ring is free. Call it whenever one was given back.
    pub(crate) fn lend_to_waiting(
        &mut self,
        mut waits: impl FnMut(ConnKey) -> bool,
    ) -> Option<(ConnKey, Ring)> {
        while !self.is_exhausted() {
            let key = self.waiting.pop_front()?;
            if !waits(key) {
                continue;
            }
            let Some(ring) = self.lend() else {
                self.waiting.push_front(key);
                return None;
            };
            return Some((key, ring));
        }
        None
    }

    fn check_invariants(&self) {
        debug_assert!(self.lent <= self.rings_max, "{} of {} rings lent", self.lent, self.rings_max);
        debug_assert!(self.free.len() <= Self::FREE_MAX, "{} rings kept", self.free.len());
        debug_assert!(self.free.iter().all(Ring::is_empty), "a ring is kept with bytes in it");
    }
}
