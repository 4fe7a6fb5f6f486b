//! The pool against a count.

use super::*;

fn fill(ring: &mut Ring, n: usize) {
    ring.spare_mut()[..n].fill(1);
    ring.filled(n);
}

#[test]
fn a_pool_lends_so_many_and_no_more() {
    let mut pool = BufferPool::new(8, 2);
    let (first, second) = (pool.lend().unwrap(), pool.lend().unwrap());
    assert_eq!(pool.lent(), 2);
    assert!(pool.lend().is_none());
    pool.give_back(first);
    assert_eq!(pool.lent(), 1);
    assert!(pool.lend().is_some());
    pool.give_back(second);
    assert!(BufferPool::new(8, 0).lend().is_none());
}

#[test]
fn the_ring_that_came_back_last_goes_out_first_and_empty() {
    let mut pool = BufferPool::new(8, 3);
    let mut rings: Vec<_> = (0..3).map(|_| pool.lend().unwrap()).collect();
    rings.iter_mut().for_each(|ring| fill(ring, 5));
    let order: Vec<_> = rings.iter().map(|ring| ring.view().as_ptr()).collect();
    rings.into_iter().for_each(|ring| pool.give_back(ring));
    for expected in order.into_iter().rev() {
        let mut ring = pool.lend().unwrap();
        assert!(ring.is_empty());
        assert_eq!(ring.spare_mut().as_ptr(), expected);
        assert_eq!(ring.spare_mut().len(), 8);
    }
}

#[test]
fn a_pool_keeps_only_a_few() {
    let mut pool = BufferPool::new(8, 10);
    let rings: Vec<_> = (0..10).map(|_| pool.lend().unwrap()).collect();
    rings.into_iter().for_each(|ring| pool.give_back(ring));
    assert_eq!((pool.free.len(), pool.lent()), (BufferPool::FREE_MAX, 0));
}

#[test]
fn refused_memory_is_no_loan() {
    let mut pool = BufferPool::new(usize::MAX, 2);
    assert!(pool.lend().is_none());
    assert_eq!(pool.lent(), 0);
}
