//! Rings lent from a pool behave as queues, and the pool lends no more than it may.
#![no_main]

use std::collections::VecDeque;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use udsmsg::parts::{BufferPool, Ring};

#[derive(Arbitrary, Debug)]
enum Op<'a> {
    Lend,
    GiveBack {
        which: u8,
    },
    /// As much of the bytes as fits.
    Fill {
        which: u8,
        bytes: &'a [u8],
    },
    /// At most so many of what waits.
    Consume {
        which: u8,
        n: u8,
    },
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    ring_bytes: u8,
    rings_max: u8,
    ops: Vec<Op<'a>>,
}

type Lent = Vec<(Ring, VecDeque<u8>)>;

fn pick(lent: &mut Lent, which: u8) -> Option<(usize, &mut (Ring, VecDeque<u8>))> {
    let index = usize::from(which).checked_rem(lent.len())?;
    Some((index, &mut lent[index]))
}

fuzz_target!(|input: Input| {
    let (ring_bytes, rings_max) = (usize::from(input.ring_bytes), usize::from(input.rings_max % 8));
    let mut pool = BufferPool::new(ring_bytes, rings_max);
    let mut lent = Lent::new();
    for op in input.ops {
        match op {
            Op::Lend => match pool.lend() {
                Some(ring) => lent.push((ring, VecDeque::new())),
                None => assert_eq!(lent.len(), rings_max),
            },
            Op::GiveBack { which } => {
                if let Some((index, _)) = pick(&mut lent, which) {
                    pool.give_back(lent.swap_remove(index).0);
                }
            }
            Op::Fill { which, bytes } => {
                if let Some((_, (ring, model))) = pick(&mut lent, which) {
                    let spare = ring.spare_mut();
                    assert!(spare.len() * 2 >= ring_bytes - model.len());
                    let n = spare.len().min(bytes.len());
                    spare[..n].copy_from_slice(&bytes[..n]);
                    ring.filled(n);
                    model.extend(&bytes[..n]);
                }
            }
            Op::Consume { which, n } => {
                if let Some((_, (ring, model))) = pick(&mut lent, which) {
                    let n = usize::from(n).min(model.len());
                    assert_eq!(ring.consume(n), model.drain(..n).collect::<Vec<_>>());
                }
            }
        }
        assert_eq!(pool.lent(), lent.len());
        assert!(lent.len() <= rings_max);
        for (ring, model) in &mut lent {
            assert_eq!(ring.view(), model.make_contiguous());
            assert_eq!(
                (ring.len(), ring.is_empty(), ring.capacity()),
                (model.len(), model.is_empty(), ring_bytes)
            );
        }
    }
});
