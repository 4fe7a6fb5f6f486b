//! The cost of framing: lines of usual and of greatest length, in whole reads and byte by byte.
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use udsmsg::parts::{BufferPool, FrameOutcome, Framer, Ring};

const LIMIT: usize = 65_536;

/// Feeds `stream` in reads of at most `read` bytes; how many frames there were.
fn frames(framer: &mut Framer, ring: &mut Ring, stream: &[u8], read: usize) -> usize {
    let mut rest = stream;
    let mut count = 0;
    while !rest.is_empty() {
        let spare = ring.spare_mut();
        let n = spare.len().min(rest.len()).min(read);
        let (chunk, behind) = rest.split_at(n);
        spare.get_mut(..n).unwrap().copy_from_slice(chunk);
        ring.filled(n);
        rest = behind;
        while let FrameOutcome::Frame(frame) = framer.next_frame(ring) {
            black_box(frame);
            count += 1;
        }
    }
    count
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    for (length, read) in [(330, LIMIT + 1), (330, 1000), (LIMIT, LIMIT + 1), (LIMIT, 4096), (LIMIT, 1)] {
        let line = [vec![b'x'; length], vec![b'\n']].concat();
        let lines = (1 << 20) / line.len();
        let stream = line.repeat(lines);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(BenchmarkId::new(format!("{length}_bytes"), format!("by_{read}")), |b| {
            let (mut framer, mut ring) = (Framer::new(LIMIT), Ring::new(LIMIT + 1).unwrap());
            b.iter(|| assert_eq!(frames(&mut framer, &mut ring, black_box(&stream), read), lines));
        });
    }
    group.finish();

    c.bench_function("lend_and_give_back", |b| {
        let mut pool = BufferPool::new(LIMIT + 1, 128);
        b.iter(|| {
            let ring = pool.lend().unwrap();
            pool.give_back(black_box(ring));
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}
