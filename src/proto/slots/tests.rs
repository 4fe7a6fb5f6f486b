//! Slots against a map of every key ever made.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::error::ErrorKind;
use super::super::test_scale::cases;
use super::*;

#[derive(Clone, Debug)]
enum Op {
    Insert(u32),
    /// Of any key ever made, so mostly stale ones.
    Remove(Index),
    RemoveNewest,
    Retire(Index),
    RetireNewest,
    Change(Index, u32),
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<u32>().prop_map(Op::Insert),
        1 => any::<Index>().prop_map(Op::Remove),
        1 => Just(Op::RemoveNewest),
        1 => any::<Index>().prop_map(Op::Retire),
        1 => Just(Op::RetireNewest),
        1 => (any::<Index>(), any::<u32>()).prop_map(|(key, value)| Op::Change(key, value)),
        1 => Just(Op::Release),
    ]
}

#[derive(Default)]
struct Model {
    live: HashMap<ConnKey, u32>,
    made: Vec<ConnKey>,
    retired: HashSet<usize>,
}

impl Model {
    fn remove(&mut self, slots: &mut Slots<u32>, key: ConnKey) {
        assert_eq!(slots.remove(key), self.live.remove(&key));
    }

    fn retire(&mut self, slots: &mut Slots<u32>, key: ConnKey) {
        let expected = self.live.remove(&key);
        if expected.is_some() {
            self.retired.insert(key.index());
        }
        assert_eq!(slots.retire(key), expected);
    }

    fn apply(&mut self, slots: &mut Slots<u32>, op: &Op, capacity: usize) {
        match op {
            Op::Insert(value) => match slots.insert(*value) {
                Some(key) => {
                    assert!(key.index() < capacity);
                    assert!(!self.made.contains(&key), "{key:?} was used before");
                    assert!(!self.retired.contains(&key.index()), "{key:?} is retired");
                    assert!(self.live.keys().all(|other| other.index() != key.index()), "{key:?} is taken");
                    self.live.insert(key, *value);
                    self.made.push(key);
                }
                None => {
                    assert_eq!(self.live.len() + self.retired.len(), capacity, "refused with room")
                }
            },
            Op::Remove(which) if !self.made.is_empty() => {
                let key = *which.get(&self.made);
                self.remove(slots, key);
            }
            Op::RemoveNewest => {
                if let Some(key) = self.made.last().copied() {
                    self.remove(slots, key);
                }
            }
            Op::Retire(which) if !self.made.is_empty() => {
                let key = *which.get(&self.made);
                self.retire(slots, key);
            }
            Op::RetireNewest => {
                if let Some(key) = self.made.last().copied() {
                    self.retire(slots, key);
                }
            }
            Op::Change(which, value) if !self.made.is_empty() => {
                let key = *which.get(&self.made);
                assert_eq!(
                    slots.get_mut(key).map(|old| *old = *value).is_some(),
                    self.live.contains_key(&key)
                );
                self.live.entry(key).and_modify(|old| *old = *value);
            }
            Op::Release => {
                slots.release_retired();
                self.retired.clear();
            }
            Op::Remove(_) | Op::Retire(_) | Op::Change(..) => {}
        }
    }

    fn compare(&self, slots: &Slots<u32>, capacity: usize) {
        assert_eq!((slots.len(), slots.is_empty()), (self.live.len(), self.live.is_empty()));
        assert_eq!(slots.has_room(), self.live.len() + self.retired.len() < capacity);
        for key in &self.made {
            assert_eq!(slots.get(*key), self.live.get(key));
        }
        let listed: Vec<_> = slots.iter().map(|(key, value)| (key, *value)).collect();
        assert!(listed.is_sorted_by_key(|(key, _)| key.index()));
        assert_eq!(listed.into_iter().collect::<HashMap<_, _>>(), self.live);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn behaves_as_a_map_of_keys(capacity in 0_usize..9, ops in prop::collection::vec(op(), 0..120)) {
        let mut slots = Slots::new(capacity).unwrap();
        let mut model = Model::default();
        for op in &ops {
            model.apply(&mut slots, op, capacity);
            model.compare(&slots, capacity);
        }
    }
}

#[test]
fn a_stale_key_does_not_find_the_successor() {
    let mut slots = Slots::new(1).unwrap();
    let first = slots.insert("first").unwrap();
    assert_eq!(slots.retire(first), Some("first"));
    assert_eq!(slots.insert("too soon"), None);
    slots.release_retired();
    let second = slots.insert("second").unwrap();
    assert_eq!(first.index(), second.index());
    assert_eq!(slots.get(first), None);
    assert_eq!(slots.get_mut(first), None);
    assert_eq!(slots.remove(first), None);
    assert_eq!(slots.get(second), Some(&"second"));
    assert_eq!(slots.remove(second), Some("second"));
    assert_ne!(slots.insert("at once"), Some(second));
}

#[test]
fn generations_wrap_without_a_panic() {
    let mut slots = Slots::new(1).unwrap();
    slots.generation = u32::MAX;
    let last = slots.insert(()).unwrap();
    slots.remove(last);
    assert_ne!(slots.insert(()), Some(last));
    assert_eq!(slots.get(last), None);
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    for capacity in [usize::MAX, u32::MAX as usize] {
        let refused = Slots::<[u8; 1 << 40]>::new(capacity).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::OutOfMemory), "{capacity}");
    }
    assert_eq!(Slots::<()>::new(usize::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
}
