//! The framer yields the same lines for every split of the input, and enforces the limit exactly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests may fail loudly")]

use proptest::prelude::*;
use udsmsg::parts::{FrameOutcome, Framer, Ring};

/// The lines of one connection's input, and the end of it.
#[derive(Debug, PartialEq, Eq)]
struct Lines {
    frames: Vec<Vec<u8>>,
    /// Of the line that was refused.
    seen: Option<usize>,
}

/// The rule in its simplest form.
fn expected(stream: &[u8], limit: usize) -> Lines {
    let mut lines: Vec<_> = stream.split(|byte| *byte == b'\n').collect();
    let good = lines.iter().take_while(|line| line.len() <= limit).count();
    let seen = (good < lines.len()).then_some(limit + 1);
    // What follows the last newline is no frame.
    lines.truncate(good.min(lines.len() - 1));
    Lines { frames: lines.into_iter().map(<[u8]>::to_vec).collect(), seen }
}

/// Feeds the chunks to a framer in a ring of `limit + 1 + extra` bytes, taking out what there is after each.
fn framed<'c>(chunks: impl IntoIterator<Item = &'c [u8]>, limit: usize, extra: usize) -> Lines {
    let mut ring = Ring::new(limit + 1 + extra).unwrap();
    let mut framer = Framer::new(limit);
    let mut frames = Vec::new();
    for mut chunk in chunks {
        while !chunk.is_empty() {
            let spare = ring.spare_mut();
            let n = spare.len().min(chunk.len());
            assert!(n > 0, "a full ring holds a frame or is refused");
            spare[..n].copy_from_slice(&chunk[..n]);
            ring.filled(n);
            chunk = &chunk[n..];
            loop {
                let ready = framer.look_for_frame(&ring);
                let outcome = framer.next_frame(&mut ring);
                assert_eq!(ready, outcome != FrameOutcome::NeedMore);
                match outcome {
                    FrameOutcome::Frame(frame) => frames.push(frame.to_vec()),
                    FrameOutcome::NeedMore => break,
                    FrameOutcome::TooLong { seen } => return Lines { frames, seen: Some(seen) },
                }
            }
        }
    }
    Lines { frames, seen: None }
}

const STREAMS: [&[u8]; 9] = [
    b"",
    b"\n",
    b"abc",
    b"abc\n",
    b"\n\n\n",
    b"a\nbb\n\nccc\nd",
    b"\r\n \r\n\t\n",
    b"\xff\x00\n\xc3\n\xa9",
    b"aaaaaaaaaaa\nb\n",
];

#[test]
fn every_split_gives_the_same_lines() {
    for stream in STREAMS {
        for limit in 0..=stream.len() {
            let expected = expected(stream, limit);
            for cuts in 0..1_u32 << stream.len().saturating_sub(1) {
                let mut chunks = Vec::new();
                let mut start = 0;
                for end in 1..=stream.len() {
                    if end == stream.len() || cuts >> (end - 1) & 1 == 1 {
                        chunks.push(&stream[start..end]);
                        start = end;
                    }
                }
                assert_eq!(framed(chunks.iter().copied(), limit, 0), expected, "{chunks:?}, limit {limit}");
            }
        }
    }
}

#[test]
fn the_limit_is_the_last_length_allowed() {
    let limit = 8;
    let (fits, too_long) = (b"12345678".as_slice(), b"123456789".as_slice());
    let whole = |line: &[u8]| [line, b"\n"].concat();
    let table = [
        ("finished, at the limit", whole(fits), 1, None),
        ("unfinished, at the limit", fits.to_vec(), 0, None),
        ("finished, one more", whole(too_long), 0, Some(9)),
        ("unfinished, one more", too_long.to_vec(), 0, Some(9)),
        ("good ones before it", [whole(fits), whole(b""), too_long.to_vec()].concat(), 2, Some(9)),
        ("good ones behind it", [whole(too_long), whole(fits)].concat(), 0, Some(9)),
    ];
    for (what, stream, frames, seen) in table {
        for extra in [0, 1, 100] {
            for chunk in 1..=stream.len() {
                let lines = framed(stream.chunks(chunk), limit, extra);
                assert_eq!(
                    (lines.frames.len(), lines.seen),
                    (frames, seen),
                    "{what}, by {chunk}, {extra} more"
                );
            }
        }
    }
}

#[test]
fn no_line_follows_one_that_is_too_long() {
    let mut ring = Ring::new(16).unwrap();
    let mut framer = Framer::new(3);
    ring.spare_mut()[..8].copy_from_slice(b"toolong\n");
    ring.filled(8);
    for _ in 0..3 {
        assert!(framer.look_for_frame(&ring));
        assert_eq!(framer.next_frame(&mut ring), FrameOutcome::TooLong { seen: 4 });
    }
    ring.consume(8);
    ring.spare_mut()[..3].copy_from_slice(b"ok\n");
    ring.filled(3);
    assert_eq!(framer.next_frame(&mut ring), FrameOutcome::TooLong { seen: 4 });
}

#[test]
fn empty_ring_can_replace_an_empty_ring() {
    let mut framer = Framer::new(7);
    for _ in 0..3 {
        let mut ring = Ring::new(8).unwrap();
        ring.spare_mut()[..3].copy_from_slice(b"ab\n");
        ring.filled(3);
        assert_eq!(framer.next_frame(&mut ring), FrameOutcome::Frame(b"ab"));
        assert_eq!(framer.next_frame(&mut ring), FrameOutcome::NeedMore);
        assert!(ring.is_empty());
    }
}

fn scaled(count: u32) -> ProptestConfig {
    let scale = std::env::var("UDSMSG_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1);
    ProptestConfig::with_cases(count.saturating_mul(scale))
}

proptest! {
    #![proptest_config(scaled(256))]

    #[test]
    fn any_stream_in_any_pieces(
        stream in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), any::<u8>()], 0..600),
        pieces in prop::collection::vec(1_usize..50, 0..100),
        limit in 0_usize..40,
        extra in 0_usize..80,
    ) {
        let mut rest = stream.as_slice();
        let mut chunks: Vec<_> = pieces
            .iter()
            .map(|piece| {
                let (chunk, behind) = rest.split_at((*piece).min(rest.len()));
                rest = behind;
                chunk
            })
            .collect();
        chunks.push(rest);
        prop_assert_eq!(framed(chunks, limit, extra), expected(&stream, limit));
    }
}
