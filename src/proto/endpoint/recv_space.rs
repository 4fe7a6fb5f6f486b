//! How bytes come in: space is lent to one read, and what it put there is processed.

use std::ops::{Deref, DerefMut};

use super::Endpoint;
use super::connection::{Connection, Readiness};
use super::process::Scope;
use crate::proto::error::CloseReason;
use crate::proto::ring::Ring;
use crate::proto::slots::ConnKey;
use crate::proto::time::Now;

/// Space for one read of a connection, lent by [`Endpoint::recv_space`]: read into it, and say with
/// [`received`](Self::received) how many bytes came.
///
/// Dropped without that, nothing was read, and nothing is known of what is left in the stream.
#[must_use]
pub struct RecvSpace<'e> {
    endpoint: &'e mut Endpoint,
    key: ConnKey,
    len: usize,
    now: Now,
    /// What [`Self::received`] was told.
    received: Option<usize>,
}

impl RecvSpace<'_> {
    /// The first `n` bytes of the space were read: takes the lines that they complete. 0 if there was nothing
    /// to read, or the stream has ended.
    ///
    /// An `n` beyond the space is a mistake of the host: it counts as all of the space, and panics in a debug
    /// build.
    pub fn received(mut self, n: usize) {
        debug_assert!(n <= self.len, "received({n}) of {} bytes of space", self.len);
        // The drop that follows does the rest.
        self.received = Some(n.min(self.len));
    }
}

impl Deref for RecvSpace<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let ring = self.endpoint.slots.get(self.key).and_then(Connection::ring);
        ring.and_then(|ring| ring.spare().get(..self.len)).unwrap_or_default()
    }
}

impl DerefMut for RecvSpace<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let ring = self.endpoint.slots.get_mut(self.key).and_then(Connection::ring_mut);
        ring.and_then(|ring| ring.spare_mut().get_mut(..self.len)).unwrap_or_default()
    }
}

impl Drop for RecvSpace<'_> {
    fn drop(&mut self) {
        let Self { ref mut endpoint, key, len, now, received } = *self;
        if let (Some(n), Some(connection)) = (received, endpoint.slots.get_mut(key)) {
            connection.received(n, len, now.mono);
            endpoint.stats.count_read(n);
            endpoint.process(key, Scope::Budget, now);
        } else {
            endpoint.settle(key);
        }
        endpoint.check_invariants();
    }
}

/// Shows how long it is: what lies there came from a peer, and does not belong in logs.
impl std::fmt::Debug for RecvSpace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecvSpace({} bytes)", self.len)
    }
}

impl Endpoint {
    /// Space for the next read of a connection, at most `turn_bytes_max`, or the rest of a line where it has
    /// not authenticated or its timeout is about to be enforced. `None`: do not read now;
    /// [`Step::Read`](super::Step::Read) will say when to try again.
    pub fn recv_space(&mut self, key: ConnKey, now: Now) -> Option<RecvSpace<'_>> {
        let now = self.latest.or_later(now);
        let read_max = self.slots.get(key)?.read_max(&self.limits, now.mono);
        self.lend_space(key, read_max, now)
    }

    /// For hosts whose reads are completed elsewhere: copies as much of `bytes` as there is space for,
    /// `turn_bytes_max` or not, and returns how much that was. What is left must be offered again after
    /// [`Step::Read`](super::Step::Read).
    pub fn received_bytes(&mut self, key: ConnKey, bytes: &[u8], now: Now) -> usize {
        let now = self.latest.or_later(now);
        let Some(mut space) = self.lend_space(key, usize::MAX, now) else { return 0 };
        let n = space.len().min(bytes.len());
        if let (Some(to), Some(from)) = (space.get_mut(..n), bytes.get(..n)) {
            to.copy_from_slice(from);
        }
        if n < bytes.len()
            && let Some(connection) = space.endpoint.slots.get_mut(key)
        {
            connection.refuse_read();
        }
        space.received(n);
        n
    }

    /// Space for the input of a connection, at most `max` bytes.
    fn lend_space(&mut self, key: ConnKey, max: usize, now: Now) -> Option<RecvSpace<'_>> {
        let connection = self.slots.get_mut(key)?;
        match connection.prepare_read(&mut self.buffers) {
            Readiness::Ready => {
                let len = connection.ring_mut().map(Ring::spare_mut)?.len().min(max);
                return Some(RecvSpace { endpoint: self, key, len, now, received: None });
            }
            Readiness::Refused => {}
            Readiness::Waits => {
                let slots = &self.slots;
                self.buffers.wait(key, |key| slots.get(key).is_some_and(Connection::waits_for_buffer));
            }
            Readiness::OutOfMemory => {
                tracing::error!(index = key.index(), "no memory for an input buffer");
                self.remove(key, CloseReason::PeerGone);
            }
        }
        self.check_invariants();
        None
    }
}
