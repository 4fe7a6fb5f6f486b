//! The wheel against a map of deadlines, with every link checked after every step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::error::ErrorKind;
use super::super::test_scale::cases;
use super::*;

const KEYS: u32 = 12;
const SLOT: u64 = 1 << SLOT_SHIFT;
const LAP: u64 = SLOT * SLOTS as u64;
const HOUR: u64 = 3_600_000_000_000;

/// The wheel, and what the owner of the deadlines knows.
struct Pair {
    wheel: Wheel,
    /// By index: the key scheduled last and its true deadline.
    truth: BTreeMap<usize, (ConnKey, u64)>,
    now: u64,
}

impl Pair {
    fn new() -> Self {
        Self { wheel: Wheel::new(KEYS as usize).unwrap(), truth: BTreeMap::new(), now: 0 }
    }

    fn schedule(&mut self, key: ConnKey, deadline: u64) {
        self.truth.insert(key.index(), (key, deadline));
        self.wheel.schedule(key, Mono::from_nanos(deadline));
        self.check();
    }

    /// Only the owner learns of it.
    fn postpone(&mut self, index: usize, deadline: u64) {
        self.truth.entry(index).and_modify(|(_, truth)| *truth = deadline.max(*truth));
    }

    fn cancel(&mut self, key: ConnKey) {
        self.truth.retain(|_, (other, _)| *other != key);
        self.wheel.cancel(key);
        self.check();
    }

    fn next_deadline(&mut self) -> Option<u64> {
        let truth = &self.truth;
        let answer = self.wheel.next_deadline(|key| lookup(truth, key)).map(Mono::as_nanos);
        self.check();
        assert_eq!(answer, self.truth.values().map(|(_, deadline)| *deadline).min());
        let mut asked = 0;
        let truth = &self.truth;
        let again = self.wheel.next_deadline(|key| {
            asked += 1;
            lookup(truth, key)
        });
        assert_eq!(again.map(Mono::as_nanos), answer);
        assert_eq!(asked, usize::from(answer.is_some()), "asking twice costs one look");
        answer
    }

    /// At most `count` keys, each checked to be due; if there were fewer, that none is left.
    fn expire(&mut self, now: u64, count: usize) -> Vec<ConnKey> {
        self.now = now.max(self.now);
        let mut expired = Vec::new();
        while expired.len() < count {
            let truth = &self.truth;
            let Some(key) = self.wheel.next_expired(Mono::from_nanos(now), |key| lookup(truth, key)) else {
                assert!(self.truth.values().all(|(_, deadline)| *deadline > self.now), "one was forgotten");
                break;
            };
            let (known, deadline) = self.truth.remove(&key.index()).expect("a key that was cancelled");
            assert_eq!(known, key);
            assert!(deadline <= self.now, "{deadline} has not come");
            expired.push(key);
            self.check();
        }
        self.check();
        expired
    }

    /// Links, order and bits agree, nothing is filed in the wrong list or too late, and nothing is missing.
    fn check(&self) {
        let wheel = &self.wheel;
        let mut filed_keys = 0;
        for list in 0..LISTS {
            let (mut at, mut count) = (list, 0);
            loop {
                let next = wheel.node(at).next as usize;
                assert_eq!(wheel.node(next).prev as usize, at);
                if next == list {
                    break;
                }
                let Node { key, filed, .. } = wheel.node(next);
                assert_eq!(node_of(key), next);
                if list == DUE {
                    assert!(filed <= wheel.reached);
                } else {
                    assert!(filed > wheel.reached);
                    assert_eq!(slot_of(tick_of(filed)), list);
                    assert!(at == list || wheel.node(at).filed <= filed, "out of order");
                }
                if let Some(truth) = lookup(&self.truth, key) {
                    assert!(filed <= truth, "filed later than the truth");
                    filed_keys += 1;
                }
                (at, count) = (next, count + 1);
            }
            assert_eq!(wheel.occupied[list / 64] >> (list % 64) & 1 == 1, count > 0, "bit {list}");
        }
        assert_eq!(filed_keys, self.truth.len());
    }
}

fn lookup(truth: &BTreeMap<usize, (ConnKey, u64)>, key: ConnKey) -> Option<Mono> {
    truth
        .get(&key.index())
        .filter(|(known, _)| *known == key)
        .map(|(_, deadline)| Mono::from_nanos(*deadline))
}

#[derive(Clone, Debug)]
enum Op {
    Schedule(ConnKey, When),
    Postpone(usize, When),
    Cancel(ConnKey),
    /// The owner forgets the key and does not say so.
    Forget(usize),
    Ask,
    Expire(When, usize),
}

/// A time as seen from now.
#[derive(Clone, Debug)]
enum When {
    Ago(u64),
    In(u64),
    Absolute(u64),
}

impl When {
    fn from(&self, now: u64) -> u64 {
        match *self {
            Self::Ago(span) => now.saturating_sub(span),
            Self::In(span) => now.saturating_add(span),
            Self::Absolute(time) => time,
        }
    }
}

fn when() -> impl Strategy<Value = When> {
    let edge =
        |unit: u64| (0_u64..4, 0_u64..3).prop_map(move |(n, off)| When::In((n * unit + off).max(1) - 1));
    prop_oneof![
        2 => (0..2 * SLOT).prop_map(When::In),
        2 => (0..3 * LAP).prop_map(When::In),
        2 => edge(SLOT),
        2 => edge(LAP),
        1 => edge(HOUR),
        1 => (0..2 * LAP).prop_map(When::Ago),
        1 => prop::sample::select(vec![0, 1, u64::MAX - 1, u64::MAX]).prop_map(When::Absolute),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = || (0..KEYS, 0_u32..3).prop_map(|(index, generation)| ConnKey::new(index, generation));
    let jump = prop_oneof![
        4 => (0..2 * SLOT).prop_map(When::In),
        4 => (0..LAP).prop_map(When::In),
        1 => (0..2 * HOUR).prop_map(When::In),
        1 => (0..LAP).prop_map(When::Ago),
    ];
    prop_oneof![
        5 => (key(), when()).prop_map(|(key, when)| Op::Schedule(key, when)),
        3 => (0..KEYS as usize, when()).prop_map(|(index, when)| Op::Postpone(index, when)),
        1 => key().prop_map(Op::Cancel),
        1 => (0..KEYS as usize).prop_map(Op::Forget),
        3 => Just(Op::Ask),
        3 => (jump, 1_usize..2 * KEYS as usize).prop_map(|(when, count)| Op::Expire(when, count)),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn behaves_as_a_map_of_deadlines(ops in prop::collection::vec(op(), 0..150)) {
        let mut pair = Pair::new();
        for op in ops {
            match op {
                Op::Schedule(key, when) => pair.schedule(key, when.from(pair.now)),
                Op::Postpone(index, when) => pair.postpone(index, when.from(pair.now)),
                Op::Cancel(key) => pair.cancel(key),
                Op::Forget(index) => drop(pair.truth.remove(&index)),
                Op::Ask => drop(pair.next_deadline()),
                Op::Expire(when, count) => drop(pair.expire(when.from(pair.now), count)),
            }
        }
        pair.next_deadline();
        pair.expire(u64::MAX, usize::MAX);
        prop_assert_eq!(pair.next_deadline(), None);
    }
}

/// One key, from each of these times on: not expired a nanosecond before its deadline, and expired at it.
#[test]
fn expires_to_the_nanosecond() {
    let starts = [0, 1, SLOT - 1, SLOT, LAP - 1, LAP, HOUR];
    let spans = [1, SLOT - 1, SLOT, SLOT + 1, LAP - SLOT, LAP - 1, LAP, LAP + 1, 7 * LAP, HOUR, u64::MAX];
    for start in starts {
        for span in spans {
            let mut pair = Pair::new();
            pair.expire(start, 1);
            let (key, deadline) = (ConnKey::new(0, 0), start.saturating_add(span));
            pair.schedule(key, deadline);
            assert_eq!(pair.next_deadline(), Some(deadline));
            assert_eq!(pair.expire(deadline - 1, 1), [], "{start} + {span}");
            assert_eq!(pair.next_deadline(), Some(deadline));
            assert_eq!(pair.expire(deadline, 1), [key], "{start} + {span}");
            assert_eq!(pair.next_deadline(), None);
        }
    }
}

#[test]
fn a_deadline_in_the_past_expires_at_once() {
    for now in [0, 1, SLOT, LAP + 5, u64::MAX] {
        for deadline in [0, now / 2, now.saturating_sub(1), now] {
            let mut pair = Pair::new();
            pair.expire(now, 1);
            let key = ConnKey::new(3, 1);
            pair.schedule(key, deadline);
            assert_eq!(pair.next_deadline(), Some(deadline));
            assert_eq!(pair.expire(now, 2), [key], "{deadline} at {now}");
        }
    }
}

#[test]
fn postponing_costs_the_wheel_nothing_until_it_is_asked() {
    let mut pair = Pair::new();
    let key = ConnKey::new(0, 0);
    pair.schedule(key, SLOT);
    for _ in 0..1000 {
        pair.postpone(0, 20 * SLOT + 7);
        pair.wheel.schedule(key, Mono::from_nanos(20 * SLOT + 7));
    }
    assert_eq!(pair.wheel.node(node_of(key)).filed, Mono::from_nanos(SLOT));
    assert_eq!(pair.next_deadline(), Some(20 * SLOT + 7));
    assert_eq!(pair.wheel.node(node_of(key)).filed, Mono::from_nanos(20 * SLOT + 7));
}

#[test]
fn a_stale_key_neither_cancels_nor_expires_its_successor() {
    let mut pair = Pair::new();
    let (old, new) = (ConnKey::new(5, 0), ConnKey::new(5, 1));
    pair.schedule(old, SLOT);
    pair.schedule(new, LAP);
    pair.cancel(old);
    assert_eq!(pair.next_deadline(), Some(LAP));
    assert_eq!(pair.expire(LAP - 1, 2), []);
    assert_eq!(pair.expire(LAP, 2), [new]);
}

/// After hours away each entry is looked at once, and the wheel is ready for what comes.
#[test]
fn a_jump_is_one_pass() {
    let mut pair = Pair::new();
    for index in 0..KEYS {
        pair.schedule(ConnKey::new(index, 0), u64::from(index) * LAP / 3);
    }
    let mut asked = 0;
    let truth = &pair.truth;
    let mut popped = 0;
    let now = Mono::from_nanos(5 * HOUR);
    while pair
        .wheel
        .next_expired(now, |key| {
            asked += 1;
            lookup(truth, key)
        })
        .is_some()
    {
        popped += 1;
    }
    assert_eq!((popped, asked), (KEYS, KEYS));
    (pair.truth, pair.now) = (BTreeMap::new(), 5 * HOUR);
    pair.schedule(ConnKey::new(0, 1), 5 * HOUR + 1);
    assert_eq!(pair.next_deadline(), Some(5 * HOUR + 1));
}

/// A host that takes some of what is due and then asks how long it may wait is told: not at all.
#[test]
fn what_is_due_and_left_is_the_next_deadline() {
    let mut pair = Pair::new();
    for index in 0..4 {
        pair.schedule(ConnKey::new(index, 0), u64::from(index) + 1);
    }
    assert_eq!(pair.expire(SLOT, 2).len(), 2);
    assert!(pair.next_deadline().is_some_and(|deadline| deadline <= 4));
    pair.truth.values_mut().for_each(|(_, deadline)| *deadline = LAP);
    assert_eq!(pair.next_deadline(), Some(LAP));

    // Also if it has moved, and is still due.
    pair.schedule(ConnKey::new(0, 0), 15);
    pair.schedule(ConnKey::new(1, 0), 3);
    pair.postpone(1, 7);
    assert_eq!(pair.next_deadline(), Some(7));
}

/// Even before the owner has changed what it knows.
#[test]
fn what_was_taken_out_is_no_deadline() {
    let mut wheel = Wheel::new(1).unwrap();
    let (key, deadline) = (ConnKey::new(0, 0), Mono::from_nanos(5));
    for expire in [false, true] {
        wheel.schedule(key, deadline);
        assert_eq!(wheel.next_deadline(|_| Some(deadline)), Some(deadline));
        if expire {
            assert_eq!(wheel.next_expired(deadline, |_| Some(deadline)), Some(key));
        } else {
            wheel.cancel(key);
        }
        assert_eq!(wheel.next_deadline(|_| Some(deadline)), None);
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    for capacity in [usize::MAX, u32::MAX as usize] {
        assert_eq!(Wheel::new(capacity).unwrap_err().kind(), ErrorKind::OutOfMemory, "{capacity}");
    }
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_key_beyond_the_capacity_is_the_callers_error() {
    Pair::new().wheel.schedule(ConnKey::new(KEYS, 0), Mono::default());
}
