//! The ring against a queue.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::error::ErrorKind;
use super::super::test_scale::cases;
use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// As much of this as fits.
    Fill(Vec<u8>),
    /// That share of what waits.
    Consume(f64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Op::Fill),
        prop_oneof![Just(1.0), 0.0..=1.0].prop_map(Op::Consume),
    ]
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn behaves_as_a_queue(capacity in 0_usize..40, ops in prop::collection::vec(op(), 0..100)) {
        let mut ring = Ring::new(capacity).unwrap();
        let mut model = VecDeque::new();
        for op in ops {
            match op {
                Op::Fill(bytes) => {
                    let spare = ring.spare_mut();
                    let n = spare.len().min(bytes.len());
                    prop_assert!(spare.len() * 2 >= capacity - model.len(), "half of what is not in use");
                    spare[..n].copy_from_slice(&bytes[..n]);
                    ring.filled(n);
                    model.extend(&bytes[..n]);
                }
                Op::Consume(share) => {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        clippy::cast_precision_loss,
                        reason = "a share of at most 40"
                    )]
                    let n = (model.len() as f64 * share) as usize;
                    prop_assert_eq!(ring.consume(n), model.drain(..n).collect::<Vec<u8>>());
                }
            }
            prop_assert_eq!(ring.view(), model.make_contiguous());
            prop_assert_eq!((ring.len(), ring.is_empty()), (model.len(), model.is_empty()));
            prop_assert_eq!(ring.capacity(), capacity);
        }
    }
}

fn fill(ring: &mut Ring, n: usize) {
    ring.spare_mut()[..n].fill(b'x');
    ring.filled(n);
}

#[test]
fn a_frame_is_moved_once_at_most() {
    let mut ring = Ring::new(16).unwrap();
    fill(&mut ring, 8);
    ring.consume(5);
    let mut moves = 0;
    while ring.len() < 16 {
        let before = ring.view().as_ptr();
        fill(&mut ring, 1);
        moves += usize::from(ring.view().as_ptr() != before);
    }
    assert_eq!(moves, 1);
    assert!(ring.spare_mut().is_empty(), "a full ring has no room");
}

#[test]
fn an_emptied_ring_offers_all_without_moving() {
    let mut ring = Ring::new(16).unwrap();
    fill(&mut ring, 16);
    assert_eq!(ring.consume(16), [b'x'; 16]);
    assert_eq!((ring.head, ring.tail, ring.spare_mut().len()), (0, 0, 16));
}

#[test]
#[should_panic(expected = "beyond the spare room")]
fn more_than_the_spare_room_cannot_be_filled() {
    let mut ring = Ring::new(4).unwrap();
    fill(&mut ring, 3);
    ring.filled(2);
}

#[test]
#[should_panic(expected = "consume(4) of 3 bytes")]
fn more_than_what_waits_cannot_be_consumed() {
    let mut ring = Ring::new(4).unwrap();
    fill(&mut ring, 3);
    ring.consume(4);
}

#[test]
fn refused_memory_is_an_error() {
    assert_eq!(Ring::new(usize::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
}
