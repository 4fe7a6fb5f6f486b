//! `Outbox` and two `Endpoint`s under any list of operations: messages are sent while connections are cut at
//! any byte, receivers are killed, full or busy, and time passes.
//!
//! The world is that of the random test, `tests/it/util/outbox_sim.rs`. At the end each accepted message is
//! in an inbox, no rejected or unsent one is, each outcome was reported once, and no message is there twice
//! or out of order.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/util/outbox_sim.rs"]
mod outbox_sim;

/// Six bytes for the limits, three for each operation: nothing stands in between, so that inputs mix well.
#[derive(Debug)]
struct Input {
    limits: [u8; 6],
    operations: Vec<outbox_sim::Op>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let limits = u.arbitrary()?;
        let rest = u.bytes(u.len())?;
        let operation = |bytes: &[u8]| outbox_sim::Op::from_bytes([bytes[0], bytes[1], bytes[2]]);
        Ok(Self { limits, operations: rest.chunks_exact(3).map(operation).collect() })
    }
}

fuzz_target!(|input: Input| {
    let mut world = outbox_sim::World::new(input.limits);
    for operation in &input.operations {
        world.apply(*operation);
    }
    world.finish();
});
