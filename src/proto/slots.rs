//! Who is who: [`Slots`] holds one value per connection under a [`ConnKey`] that no successor ever answers
//! to.
//!
//! An index alone is not an identity: it is reused, and what still carries it (a poll token, a timer, a reply
//! in a host's hand) would reach a stranger. So a key is an index and a generation, and both must match.
//!
//! A poll token has room for the index only. Therefore an index whose value was removed is *retired*: it
//! stays unused until [`Slots::release_retired`], which is called once the events of the turn have been dealt
//! with.
//!
//! This is a slab of its own because memory is asked for once and may be refused, and because of the retired
//! ones.

use std::mem;

use super::error::{Error, ErrorKind};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// The identity of one connection: which slot, and the how-manieth life of that slot.
///
/// Keys differ until one slot has been used 2^32 times.
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

    /// The slot: below the capacity of the [`Slots`] that made this key, and reused after it. For poll
    /// tokens.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// A bounded set of values, each found in O(1) by the key it was inserted under and by no other.
///
/// Every operation is O(1); none allocates after [`Slots::new`]. The slot freed last is used next.
#[derive(Debug)]
pub struct Slots<T> {
    /// Grows to `capacity` as slots are first used, within memory reserved at the start.
    slots: Vec<Slot<T>>,
    capacity: usize,
    live: usize,
    /// Vacant slots that may be used, chained by [`State::Vacant`].
    free: Option<u32>,
    retired: Retired,
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the value that is here, or of the next one to come.
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Live(T),
    Vacant { next: Option<u32> },
}

/// Vacant slots that must rest until the end of the turn: a chain that can be put before the free one in
/// O(1).
#[derive(Debug, Default)]
struct Retired {
    first: Option<u32>,
    last: Option<u32>,
}

impl<T> Slots<T> {
    /// An empty set of at most `capacity` values. Reserves memory for all of them, and touches none of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`] if that memory cannot be had, or `capacity` is beyond what 32 bits can
    /// count.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let mut slots = Vec::new();
        if u32::try_from(capacity).is_err() || slots.try_reserve_exact(capacity).is_err() {
            let sentence = format!("no memory for {capacity} connections: allow fewer clients");
            return Err(Error::new(ErrorKind::OutOfMemory, sentence));
        }
        Ok(Self { slots, capacity, live: 0, free: None, retired: Retired::default() })
    }

    /// Takes `value` in and says under which key; `None`, and `value` dropped, if no index is free.
    ///
    /// Where the value must not be lost, ask [`Slots::has_room`] first.
    pub fn insert(&mut self, value: T) -> Option<ConnKey> {
        let key = match self.free {
            Some(index) => {
                let slot = self.slots.get_mut(index as usize)?;
                let State::Vacant { next } = mem::replace(&mut slot.state, State::Live(value)) else {
                    debug_assert!(false, "a free slot is vacant");
                    return None;
                };
                self.free = next;
                ConnKey::new(index, slot.generation)
            }
            None if self.slots.len() < self.capacity => {
                let index = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot { generation: 0, state: State::Live(value) });
                ConnKey::new(index, 0)
            }
            None => return None,
        };
        self.live += 1;
        Some(key)
    }

    /// The value inserted under `key`, unless it was removed.
    pub fn get(&self, key: ConnKey) -> Option<&T> {
        match self.slots.get(key.index()) {
            Some(Slot { generation, state: State::Live(value) }) if *generation == key.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: ConnKey) -> Option<&mut T> {
        match self.slots.get_mut(key.index()) {
            Some(Slot { generation, state: State::Live(value) }) if *generation == key.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// Takes the value out; from now on `key` finds nothing. Its index rests until
    /// [`Slots::release_retired`].
    pub fn remove(&mut self, key: ConnKey) -> Option<T> {
        let value = self.vacate(key, self.retired.first)?;
        self.retired.first = Some(key.index);
        self.retired.last.get_or_insert(key.index);
        Some(value)
    }

    /// The same for a key whose index no poll event carries: it can be used again at once.
    pub fn remove_now(&mut self, key: ConnKey) -> Option<T> {
        let value = self.vacate(key, self.free)?;
        self.free = Some(key.index);
        Some(value)
    }

    /// Takes the value out of its slot, which goes in front of `next` in a chain of vacant ones.
    fn vacate(&mut self, key: ConnKey, next: Option<u32>) -> Option<T> {
        self.get(key)?;
        let slot = self.slots.get_mut(key.index())?;
        let state = mem::replace(&mut slot.state, State::Vacant { next });
        slot.generation = slot.generation.wrapping_add(1);
        self.live -= 1;
        match state {
            State::Live(value) => Some(value),
            State::Vacant { .. } => None,
        }
    }

    /// Lets the indices of removed values be used again. Call it when no poll event of this turn is left.
    pub fn release_retired(&mut self) {
        let Retired { first, last } = mem::take(&mut self.retired);
        let Some(slot) = last.and_then(|index| self.slots.get_mut(index as usize)) else { return };
        slot.state = State::Vacant { next: self.free };
        self.free = first;
    }

    /// How many values there are. Retired indices do not count.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Whether [`Slots::insert`] would succeed now.
    pub fn has_room(&self) -> bool {
        self.free.is_some() || self.slots.len() < self.capacity
    }

    /// The key of the value that is at `index` now: what a poll token means in the turn it was reported.
    pub fn key_at(&self, index: usize) -> Option<ConnKey> {
        match self.slots.get(index)? {
            Slot { generation, state: State::Live(_) } => {
                Some(ConnKey::new(u32::try_from(index).ok()?, *generation))
            }
            Slot { state: State::Vacant { .. }, .. } => None,
        }
    }

    /// Every value with its key, by index. O(the most values there ever were at once).
    pub fn iter(&self) -> impl Iterator<Item = (ConnKey, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| match &slot.state {
            State::Live(value) => Some((ConnKey::new(index, slot.generation), value)),
            State::Vacant { .. } => None,
        })
    }
}
