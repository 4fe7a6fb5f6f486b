//! The outbox: what becomes of messages, on a virtual clock.

use crate::util::courier::{Counts, Op, World};
use crate::util::{Dice, scale};

/// Never accepted unless it is in the inbox, never refused or not sent if it is; each told once, nothing twice, all in
/// order: whatever is cut, killed, full or late.
#[test]
fn outcomes_are_true_whatever_fails() {
    let mut total = Counts::new();
    for seed in 0..150 * scale() as u64 {
        let mut dice = Dice::new(seed);
        let mut bytes = || u8::try_from(dice.below(256)).unwrap();
        let mut world = World::new(std::array::from_fn(|_| bytes()));
        let ops: Vec<Op> = (0..300).map(|_| Op::from_bytes(std::array::from_fn(|_| bytes()))).collect();
        let run = std::panic::AssertUnwindSafe(|| {
            for op in &ops {
                world.apply(*op);
            }
            world.finish()
        });
        let counts = std::panic::catch_unwind(run).unwrap_or_else(|cause| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause)
        });
        for (code, count) in counts {
            *total.entry(code).or_default() += count;
        }
    }
    eprintln!("{total:?}");
    for code in ["accepted", "rejected", "not_sent", "unknown", "unknown, and there"] {
        assert!(total.get(code).is_some_and(|count| *count > 100), "too few are {code}: {total:?}");
    }
}
