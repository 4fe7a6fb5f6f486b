//! Slots for connections: [`Slots`] holds each value under a [`ConnKey`] that finds no later value.
//!
//! An index alone is not an identity: it is used again, and what still carries it (a poll token, a timer, a
//! reply in a host's hand) would reach another connection. So a key is an index and a generation, and both
//! must match.
//!
//! A poll token has room for the index only. Therefore the index of a connection that is
//! [retired](Slots::retire) stays occupied until [`Slots::release_retired`], which is called once the events
//! of the turn have been dealt with.

use std::collections::VecDeque;

use slab::Slab;

use super::error::Error;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// The identity of one connection: slot index and generation.
///
/// Keys of one [`Slots`] differ until 2^32 values have been inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey {
    index: u32,
    generation: u32,
}

impl ConnKey {
    pub(super) const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    pub(super) const fn generation(self) -> u32 {
        self.generation
    }

    /// The slot: below the capacity of the [`Slots`] that made this key, and used again after it. For poll
    /// tokens.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// An empty queue with room for `capacity` keys, or entries about them.
pub(super) fn queue<T>(capacity: usize) -> Result<VecDeque<T>, Error> {
    let mut queue = VecDeque::new();
    queue.try_reserve_exact(capacity).map_err(|refused| {
        Error::no_memory(format_args!("a queue of {capacity} connections")).with_source(refused)
    })?;
    Ok(queue)
}

/// Values for which a set that grows asks for memory at first.
const SLOTS_MIN: usize = 4;

/// A bounded set of values, each found in O(1) by the key it was inserted under and by no other.
///
/// Every operation is O(1) unless it says otherwise; none allocates after [`Slots::new`]. The slot freed last
/// is used next. Those of an outbox that grows allocate when there are more values than ever before.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Slab<Slot<T>>,
    capacity: usize,
    /// Of the next value that is inserted.
    generation: u32,
    /// Indices that stay occupied until the turn ends.
    retired: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// `None` once it is retired.
    value: Option<T>,
}

impl<T> Slots<T> {
    /// An empty set of at most `capacity` values. Reserves memory for all of them, and touches none of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) if that memory cannot be had, or `capacity`
    /// is beyond what 32 bits can count.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let mut retired = Vec::new();
        // A slab aborts where memory is refused, so as much is asked for first in a way that can fail: an
        // entry is a slot and at most a word.
        let mut probe = Vec::<(usize, Slot<T>)>::new();
        if u32::try_from(capacity).is_err()
            || probe.try_reserve_exact(capacity).is_err()
            || retired.try_reserve_exact(capacity).is_err()
        {
            return Err(Error::no_memory(format_args!("{capacity} slots: set lower limits")));
        }
        drop(probe);
        Ok(Self { slots: Slab::with_capacity(capacity), capacity, generation: 0, retired })
    }

    /// The same without that memory: it is asked for as more values come.
    pub(super) fn growing(capacity: usize) -> Self {
        Self { slots: Slab::new(), capacity, generation: 0, retired: Vec::new() }
    }

    /// Asks for memory for more values, if there is none for another one. `false`: it cannot be had.
    fn grow(&mut self) -> bool {
        let (len, reserved) = (self.slots.len(), self.slots.capacity());
        if len < reserved {
            return true;
        }
        let more = len.max(SLOTS_MIN).min(self.capacity - len);
        // As in `new`.
        let mut probe = Vec::<(usize, Slot<T>)>::new();
        if probe.try_reserve_exact(len + more).is_err() || self.retired.try_reserve(len + more).is_err() {
            return false;
        }
        drop(probe);
        self.slots.reserve_exact(more);
        true
    }

    /// Stores `value` and gives its key; `None`, and `value` dropped, if no index is free, or there is no
    /// memory for one more.
    ///
    /// Where the value must not be lost, ask [`Slots::has_room`] first.
    pub fn insert(&mut self, value: T) -> Option<ConnKey> {
        if !self.has_room() || !self.grow() {
            return None;
        }
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        let index = u32::try_from(self.slots.insert(Slot { generation, value: Some(value) })).ok()?;
        self.check_invariants();
        Some(ConnKey::new(index, generation))
    }

    /// The value inserted under `key`, unless it was removed.
    pub fn get(&self, key: ConnKey) -> Option<&T> {
        self.slots.get(key.index()).filter(|slot| slot.generation == key.generation)?.value.as_ref()
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: ConnKey) -> Option<&mut T> {
        self.slots.get_mut(key.index()).filter(|slot| slot.generation == key.generation)?.value.as_mut()
    }

    /// Takes the value out; from now on `key` finds nothing. Its index can be used again at once: for keys
    /// whose index no poll event carries.
    pub fn remove(&mut self, key: ConnKey) -> Option<T> {
        self.get(key)?;
        let value = self.slots.try_remove(key.index())?.value;
        self.check_invariants();
        value
    }

    /// Takes the value out; from now on `key` finds nothing. Its index stays occupied until
    /// [`Slots::release_retired`].
    pub(crate) fn retire(&mut self, key: ConnKey) -> Option<T> {
        self.get(key)?;
        let value = self.slots.get_mut(key.index())?.value.take();
        self.retired.push(key.index);
        self.check_invariants();
        value
    }

    /// Lets the indices of retired values be used again. Call it when no poll event of this turn is left.
    /// O(retired values).
    pub(crate) fn release_retired(&mut self) {
        for index in self.retired.drain(..) {
            self.slots.try_remove(index as usize);
        }
        self.check_invariants();
    }

    /// How many values there are. Retired indices do not count.
    pub fn len(&self) -> usize {
        self.slots.len() - self.retired.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an index is free: [`Slots::insert`] would succeed now, given memory.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.capacity
    }

    /// For how many values there is memory.
    pub(super) fn reserved(&self) -> usize {
        self.slots.capacity()
    }

    /// Every value with its key, by index. O(the most values there ever were at once).
    pub fn iter(&self) -> impl Iterator<Item = (ConnKey, &T)> {
        self.slots.iter().filter_map(|(index, slot)| {
            let key = ConnKey::new(u32::try_from(index).ok()?, slot.generation);
            Some((key, slot.value.as_ref()?))
        })
    }

    /// Each entry is a value or retired, and there are no more entries than memory was reserved for. O(1).
    fn check_invariants(&self) {
        debug_assert!(self.slots.len() <= self.capacity, "more than {} entries", self.capacity);
        debug_assert!(self.retired.len() <= self.slots.len(), "more retired entries than entries");
        debug_assert!(
            self.retired.last().is_none_or(|index| {
                self.slots.get(*index as usize).is_some_and(|slot| slot.value.is_none())
            }),
            "a retired entry has a value or is free"
        );
    }
}
