//! Any stream in any pieces comes out as a naive splitter cuts it, and is refused where that finds a line
//! too long.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use udsmsg::parts::{FrameOutcome, Framer, Ring};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    limit: u8,
    /// Room in the ring beyond the least that is needed.
    extra: u8,
    /// The sizes of the reads, over and over; none is empty.
    reads: Vec<u8>,
    /// Ask whether there is work before taking it out.
    ask: bool,
    stream: &'a [u8],
}

fuzz_target!(|input: Input| {
    let limit = usize::from(input.limit);
    let mut expected = input.stream.split(|byte| *byte == b'\n');
    let mut ring = Ring::new(limit + 1 + usize::from(input.extra)).unwrap();
    let mut framer = Framer::new(limit);
    let mut reads = input.reads.iter().map(|read| usize::from(*read) + 1).cycle();
    let mut rest = input.stream;
    while !rest.is_empty() {
        let spare = ring.spare_mut();
        let n = spare.len().min(rest.len()).min(reads.next().unwrap_or(1));
        assert!(n > 0, "a full ring holds a frame or is refused");
        let (chunk, behind) = rest.split_at(n);
        spare[..n].copy_from_slice(chunk);
        ring.filled(n);
        rest = behind;
        loop {
            let ready = input.ask.then(|| framer.look_for_frame(&ring));
            let outcome = framer.next_frame(&mut ring);
            assert!(ready.is_none_or(|ready| ready == (outcome != FrameOutcome::NeedMore)));
            match outcome {
                FrameOutcome::Frame(frame) => {
                    assert!(frame.len() <= limit);
                    assert_eq!(Some(frame), expected.next());
                }
                FrameOutcome::NeedMore => break,
                FrameOutcome::TooLong { seen } => {
                    assert_eq!(seen, limit + 1);
                    assert!(expected.next().is_some_and(|line| line.len() >= seen));
                    return;
                }
            }
        }
    }
    // What follows the last newline is what waits.
    let tail = expected.next().unwrap();
    assert_eq!((ring.view(), expected.next()), (tail, None));
    assert!(tail.len() <= limit);
});
