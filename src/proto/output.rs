//! Where bytes wait to be written: [`Output`], one buffer that is appended to at one end and written from the
//! other.
//!
//! A peer that always leaves something unread must not cost more with time, so what was written is thrown
//! away: [`Output::reserve`] moves the pending bytes to the front once enough lies before them. The memory of
//! an emptied buffer can be taken out and lent to another connection ([`SpareOutputs`]).

use std::ops::Range;

/// Pending bytes, contiguous, oldest first.
///
/// Invariant, checked after every change: `sent <= bytes.len()`, and `sent` is 0 if nothing is pending.
#[derive(Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// How many of them were written.
    sent: usize,
}

impl Output {
    /// The bytes that wait to be written.
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `additional` bytes, of which `pending_max` bytes may wait at once. `false`: there is no
    /// memory.
    ///
    /// Amortised O(`additional`): at least one byte was written for each two that are moved, and memory grows
    /// by doubling. It never holds more than one and a half times `pending_max`, unless that many bytes are
    /// asked for.
    #[must_use]
    pub(crate) fn reserve(&mut self, additional: usize, pending_max: usize) -> bool {
        let fits = |bytes: &Vec<u8>| bytes.capacity() - bytes.len() >= additional;
        if fits(&self.bytes) {
            return true;
        }
        let bytes_max = pending_max.saturating_add(pending_max / 2);
        let is_worth_it = self.sent >= self.len() / 2;
        if is_worth_it || self.bytes.len().saturating_add(additional) > bytes_max {
            self.compact();
        }
        if fits(&self.bytes) {
            return true;
        }
        let needed = self.bytes.len().saturating_add(additional);
        let target = needed.max(self.bytes.capacity().saturating_mul(2).min(bytes_max));
        self.bytes.try_reserve_exact(target - self.bytes.len()).is_ok()
    }

    /// Has `write` put bytes behind the others. There must be room: see [`Self::reserve`].
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        debug_assert!(before <= self.bytes.len(), "bytes are only added");
        self.check_invariants();
    }

    /// The oldest `n` bytes were written; all of them, if there are fewer. O(1).
    pub(crate) fn advance(&mut self, n: usize) {
        self.sent += n.min(self.len());
        if self.sent == self.bytes.len() {
            self.clear();
        }
        self.check_invariants();
    }

    /// Takes back the pending bytes in `range`, counted from the oldest.
    pub(crate) fn remove(&mut self, range: Range<usize>) {
        let start = self.sent.saturating_add(range.start).min(self.bytes.len());
        let end = self.sent.saturating_add(range.end).clamp(start, self.bytes.len());
        self.bytes.drain(start..end);
        if self.is_empty() {
            self.clear();
        }
        self.check_invariants();
    }

    /// Drops what is pending.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.check_invariants();
    }

    /// The memory, if nothing is pending.
    pub(crate) fn take_memory(&mut self) -> Option<Vec<u8>> {
        (self.is_empty() && self.bytes.capacity() > 0).then(|| std::mem::take(&mut self.bytes))
    }

    /// Takes memory from `spare`, if it has none of its own.
    pub(crate) fn lend_memory(&mut self, spare: &mut SpareOutputs) {
        if self.bytes.capacity() == 0
            && let Some(memory) = spare.0.pop()
        {
            debug_assert!(memory.is_empty(), "memory is lent empty");
            self.bytes = memory;
        }
    }

    /// Moves the pending bytes to the front.
    fn compact(&mut self) {
        self.bytes.drain(..self.sent);
        self.sent = 0;
        self.check_invariants();
    }

    fn check_invariants(&self) {
        debug_assert!(self.sent <= self.bytes.len(), "{} of {} bytes sent", self.sent, self.bytes.len());
        debug_assert!(self.sent == 0 || !self.is_empty(), "an empty buffer starts anew");
    }
}

/// The memory of emptied buffers, kept for the next connections that have something to say.
#[derive(Default)]
pub(crate) struct SpareOutputs(Vec<Vec<u8>>);

impl SpareOutputs {
    /// How many are kept.
    const COUNT_MAX: usize = 4;
    /// How large each may be.
    const BYTES_MAX: usize = 16 << 10;

    /// Keeps `memory`, if it is not too large and not too many are kept.
    pub(crate) fn keep(&mut self, memory: Option<Vec<u8>>) {
        if let Some(memory) = memory
            && memory.capacity() <= Self::BYTES_MAX
            && self.0.len() < Self::COUNT_MAX
        {
            self.0.push(memory);
        }
    }
}
