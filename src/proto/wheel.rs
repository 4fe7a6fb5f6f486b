//! When something must happen: [`Wheel`], a hashed timer wheel over [`ConnKey`]s that is re-armed lazily and
//! still exact.
//!
//! Deadlines move with every message and hardly ever expire. So the owner keeps the true deadline of each key
//! as a plain value and the wheel only remembers the time a key was *filed* at, which is never later than the
//! truth. Moving a deadline away costs the owner one store and the wheel nothing: the entry is found stale
//! when its time is near, and filed anew. The next deadline that it gives is a true one, to the
//! nanosecond, so nothing wakes in vain.
//!
//! One level of 256 slots. A slot is 2^27 ns wide (134 ms), not 128 ms, so that a shift finds it where a
//! division would; one lap is 34.4 s, which holds every default timeout. A deadline beyond a lap is filed in
//! its slot all the same. Within a slot the entries are in order, so those of later laps are at its end and
//! not in the way.
//!
//! There is no tick: the wheel compares with the time it is given, which may jump.

use std::mem;
use std::ops::Range;

use super::error::Error;
use super::slots::ConnKey;
use super::time::Mono;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// The width of a slot in nanoseconds, as a power of two.
const SLOT_SHIFT: u32 = 27;
const SLOTS: usize = 256;
/// The list after those of the slots: all that is filed at or before `reached`.
const DUE: usize = SLOTS;
const LISTS: usize = SLOTS + 1;

/// At most one deadline for each key. The owner's `truth` says what the deadline of a key is now.
///
/// Nothing allocates after [`Wheel::new`], but for the wheels of an outbox that grows.
///
/// Each operation is about keys from one [`Slots`](super::slots::Slots). Of two keys with the same index the
/// wheel holds the one scheduled last.
#[derive(Debug)]
pub struct Wheel {
    /// The heads of the lists, then one node for each key index. Every list is a circle through its head; a
    /// node that is in no list is a circle of its own. Slots are in the order of `filed`, `DUE` in none.
    nodes: Vec<Node>,
    /// One bit for each list that is not empty.
    occupied: [u64; LISTS.div_ceil(64)],
    /// The latest time that [`Wheel::next_expired`] was given. All that is filed up to it is in the list
    /// `DUE`.
    reached: Mono,
    /// The earliest true deadline, as long as `truth` confirms it.
    earliest: Option<(ConnKey, Mono)>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    next: u32,
    prev: u32,
    key: ConnKey,
    filed: Mono,
}

impl Wheel {
    /// An empty wheel for keys whose index is below `capacity`: 24 bytes for each, and 6 KiB.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if that memory cannot be had, or `capacity`
    /// is beyond what 32 bits can count.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let refused = || Error::no_memory(format_args!("{capacity} timers: allow fewer clients"));
        let mut nodes = Vec::new();
        let count = u32::try_from(capacity.saturating_add(LISTS)).map_err(|_| refused())?;
        nodes.try_reserve_exact(count as usize).map_err(|_| refused())?;
        let vacant = ConnKey::new(0, 0);
        nodes.extend((0..count).map(|at| Node { next: at, prev: at, key: vacant, filed: Mono::default() }));
        Ok(Self { nodes, occupied: Default::default(), reached: Mono::default(), earliest: None })
    }

    /// Makes room for keys whose index is below `capacity`, if there is none. `false`: there is no memory.
    #[must_use]
    pub(super) fn make_room(&mut self, capacity: usize) -> bool {
        let Ok(count) = u32::try_from(capacity.saturating_add(LISTS)) else { return false };
        let (from, more) = (link(self.nodes.len()), (count as usize).saturating_sub(self.nodes.len()));
        if self.nodes.try_reserve(more).is_err() {
            return false;
        }
        let vacant = ConnKey::new(0, 0);
        let nodes = (from..count).map(|at| Node { next: at, prev: at, key: vacant, filed: Mono::default() });
        self.nodes.extend(nodes);
        true
    }

    /// Sees to it that `key` is looked at by `deadline`.
    ///
    /// Call it when a key gets a deadline and whenever its deadline becomes earlier. When it becomes later
    /// this changes nothing and need not be called.
    ///
    /// O(1) if it changes nothing, or if no later deadline is filed in the same slot: so it is for timeouts
    /// of one length. Otherwise one step for each that is: those of the same 134 ms, and of later laps.
    ///
    /// # Panics
    ///
    /// If the index of `key` is not below the capacity.
    pub fn schedule(&mut self, key: ConnKey, deadline: Mono) {
        let at = node_of(key);
        if self.holds(key) && self.node(at).filed <= deadline {
            return;
        }
        self.unlink(at);
        self.node_mut(at).key = key;
        self.file(at, deadline);
        if self.earliest.is_some_and(|(_, earliest)| deadline < earliest) {
            self.earliest = Some((key, deadline));
        }
        self.check_invariants();
    }

    /// Forgets `key`. O(1).
    pub fn cancel(&mut self, key: ConnKey) {
        if self.holds(key) {
            self.unlink(node_of(key));
        }
        self.check_invariants();
    }

    /// The earliest true deadline; `None` if there is none. Keys that `truth` knows nothing of are dropped.
    ///
    /// One look while the deadline it gave last still holds. Otherwise each stale entry in the way is filed
    /// anew, at the cost of [`Wheel::schedule`]: the calls to it that were saved have paid for that. Where
    /// nothing is filed within a lap, every occupied slot is looked at each time, 256 at most. If
    /// [`Wheel::next_expired`] was not asked to the end, all that is left due is looked at.
    pub fn next_deadline(&mut self, mut truth: impl FnMut(ConnKey) -> Option<Mono>) -> Option<Mono> {
        if self.is_empty() {
            return None;
        }
        // Mostly it has moved since: then it is filed anew at once.
        if let Some((key, deadline)) = self.earliest
            && self.holds(key)
            && self.confirm(node_of(key), &mut truth) == Some(deadline)
        {
            return Some(deadline);
        }
        self.earliest = None;
        while self.earliest.is_none() {
            let list = self.first_list()?;
            let mut next = self.first_in(list);
            while let Some(at) = next {
                // A slot is in order: if its first is true, that is the earliest. What is due is in none.
                next = if list == DUE { self.after(at, list) } else { None };
                let key = self.node(at).key;
                if let Some(deadline) = self.confirm(at, &mut truth)
                    && self.earliest.is_none_or(|(_, earliest)| deadline < earliest)
                {
                    self.earliest = Some((key, deadline));
                }
            }
        }
        self.check_invariants();
        self.earliest.map(|(_, deadline)| deadline)
    }

    /// Takes out one key whose true deadline is `now` or earlier; `None` if there is no more. In no exact
    /// order. A key that lives on with another deadline must be scheduled again.
    ///
    /// Keys filed that early whose truth is later are filed anew, those that `truth` knows nothing of are
    /// dropped. A `now` before one that was given already counts as that one.
    ///
    /// One look before the deadline that [`Wheel::next_deadline`] gave last. Then one for each key returned,
    /// dropped or filed anew, and for each slot since the last `now`: 256 at most, however far that is away.
    pub fn next_expired(
        &mut self,
        now: Mono,
        mut truth: impl FnMut(ConnKey) -> Option<Mono>,
    ) -> Option<ConnKey> {
        let now = now.max(self.reached);
        // No slot holds anything that is filed before the earliest deadline.
        if self.is_empty() || self.earliest.is_some_and(|(_, earliest)| now < earliest) {
            self.reached = now;
            return None;
        }
        self.reach(now);
        while let Some(at) = self.first_in(DUE) {
            if self.confirm(at, &mut truth).is_some() {
                self.unlink(at);
                self.check_invariants();
                return Some(self.node(at).key);
            }
        }
        self.check_invariants();
        None
    }

    /// Moves all that is filed at or before `now` to the list `DUE`.
    fn reach(&mut self, now: Mono) {
        let (from, to) = (tick_of(self.reached), tick_of(now));
        self.reached = now;
        let mut ahead = 0;
        // A lap passes every slot.
        let end = slot_of((to - from).min(SLOTS as u64 - 1)) + 1;
        while let Some((distance, slot)) = self.next_occupied(slot_of(from), ahead..end) {
            ahead = distance + 1;
            while let Some(at) = self.first_in(slot) {
                let filed = self.node(at).filed;
                if filed > now {
                    break;
                }
                self.unlink(at);
                self.file(at, filed);
            }
        }
    }

    /// `DUE` unless that is empty, else the slot that holds the entry filed earliest.
    ///
    /// That is the first in the order of the coming lap whose first entry lies in that lap; if there is none,
    /// the one whose first entry is the earliest.
    fn first_list(&self) -> Option<usize> {
        if self.first_in(DUE).is_some() {
            return Some(DUE);
        }
        let lap = tick_of(self.reached);
        let (mut first, mut ahead) = (None, 0);
        while let Some((distance, slot)) = self.next_occupied(slot_of(lap), ahead..SLOTS) {
            ahead = distance + 1;
            let filed = self.first_in(slot).map(|at| self.node(at).filed)?;
            if tick_of(filed) - lap < SLOTS as u64 {
                return Some(slot);
            }
            if first.is_none_or(|(earliest, _)| filed < earliest) {
                first = Some((filed, slot));
            }
        }
        first.map(|(_, slot)| slot)
    }

    /// The true deadline of the node, if that is when it is filed, or is due like it. Otherwise it is stale:
    /// it is filed anew, or dropped if there is no truth.
    fn confirm(&mut self, at: usize, truth: &mut impl FnMut(ConnKey) -> Option<Mono>) -> Option<Mono> {
        let Node { key, filed, .. } = self.node(at);
        let deadline = truth(key);
        if deadline.is_some_and(|deadline| deadline <= filed.max(self.reached)) {
            return deadline;
        }
        self.unlink(at);
        self.file(at, deadline?);
        None
    }

    /// Puts the node, which must be in no list, into the list of `filed`: behind all that is due, or in its
    /// place in a slot.
    ///
    /// That place is searched from the end. Deadlines are mostly set in the order they come in, so it is
    /// near.
    fn file(&mut self, at: usize, filed: Mono) {
        let head = if filed <= self.reached { DUE } else { slot_of(tick_of(filed)) };
        let mut prev = self.node(head).prev as usize;
        while head != DUE && prev != head && self.node(prev).filed > filed {
            prev = self.node(prev).prev as usize;
        }
        let next = mem::replace(&mut self.node_mut(prev).next, link(at));
        self.node_mut(next as usize).prev = link(at);
        let node = self.node_mut(at);
        (node.prev, node.next, node.filed) = (link(prev), next, filed);
        self.set_occupied(head, true);
    }

    /// Takes the node out of the list it is in, if it is in one.
    fn unlink(&mut self, at: usize) {
        let Node { next, prev, .. } = self.node(at);
        self.node_mut(prev as usize).next = next;
        self.node_mut(next as usize).prev = prev;
        let node = self.node_mut(at);
        (node.next, node.prev) = (link(at), link(at));
        // What is left alone is a head, or the node itself if it was in no list.
        if next == prev && (next as usize) < LISTS {
            self.set_occupied(next as usize, false);
        }
    }

    /// The list of what is due and the slot of the present, in debug builds; every list in white-box tests.
    fn check_invariants(&self) {
        if cfg!(test) {
            (0..LISTS).for_each(|list| self.check_list(list));
        } else if cfg!(debug_assertions) {
            self.check_list(DUE);
            self.check_list(slot_of(tick_of(self.reached)));
        }
    }

    fn check_list(&self, list: usize) {
        let is_occupied = self.occupied.get(list / 64).is_some_and(|word| word >> (list % 64) & 1 == 1);
        debug_assert_eq!(is_occupied, self.first_in(list).is_some(), "list {list} is said to be occupied");
        if let Some(first) = self.first_in(list).map(|at| self.node(at)) {
            debug_assert!(first.prev == link(list), "list {list} is no circle");
            debug_assert!(list == DUE || first.filed > self.reached, "list {list} holds what is due");
        }
        if cfg!(test) {
            let mut next = self.first_in(list);
            while let Some(at) = next {
                next = self.after(at, list);
                let follows = next.is_none_or(|next| self.node(at).filed <= self.node(next).filed);
                debug_assert!(list == DUE || follows, "list {list} is not in order");
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.occupied.iter().all(|word| *word == 0)
    }

    /// The first occupied slot whose distance from `start` is in `ahead`, with that distance.
    fn next_occupied(&self, start: usize, ahead: Range<usize>) -> Option<(usize, usize)> {
        let Range { start: mut ahead, end } = ahead;
        while ahead < end {
            let slot = (start + ahead) % SLOTS;
            let bits = self.occupied.get(slot / 64).copied().unwrap_or(0) >> (slot % 64);
            if bits != 0 {
                // Behind the end of the lap lies what was before `ahead`.
                let skipped = bits.trailing_zeros() as usize;
                return (ahead + skipped < end).then_some((ahead + skipped, slot + skipped));
            }
            ahead += 64 - slot % 64;
        }
        None
    }

    fn holds(&self, key: ConnKey) -> bool {
        let at = node_of(key);
        self.nodes.get(at).is_some_and(|node| node.key == key && node.next != link(at))
    }

    fn first_in(&self, list: usize) -> Option<usize> {
        self.after(list, list)
    }

    /// The node after `at` in `list`.
    fn after(&self, at: usize, list: usize) -> Option<usize> {
        let next = self.node(at).next as usize;
        (next != list).then_some(next)
    }

    fn set_occupied(&mut self, list: usize, occupied: bool) {
        if let Some(word) = self.occupied.get_mut(list / 64) {
            *word = *word & !(1 << (list % 64)) | u64::from(occupied) << (list % 64);
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "links are made here alone; a key beyond capacity must be loud"
    )]
    fn node(&self, at: usize) -> Node {
        self.nodes[at]
    }

    #[expect(clippy::indexing_slicing, reason = "as for `node`")]
    fn node_mut(&mut self, at: usize) -> &mut Node {
        &mut self.nodes[at]
    }
}

/// Where the node of `key` is.
fn node_of(key: ConnKey) -> usize {
    key.index() + LISTS
}

/// A node's place as it is written in links: [`Wheel::new`] made sure that it fits.
#[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 nodes")]
fn link(at: usize) -> u32 {
    at as u32
}

/// Slot widths since the origin.
fn tick_of(time: Mono) -> u64 {
    time.as_nanos() >> SLOT_SHIFT
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below 256")]
fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}
