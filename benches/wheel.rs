//! The cost of timers: per message, per turn, and when many expire at once.
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion};
use udsmsg::parts::{ConnKey, Mono, Slots, Wheel};

const IDLE: Duration = Duration::from_secs(30);
/// Between two messages of different clients.
const STEP: Duration = Duration::from_micros(50);

/// `count` clients, the deadline of each one `STEP` after that of the one before.
struct Clients {
    wheel: Wheel,
    truth: Slots<Mono>,
    keys: Vec<ConnKey>,
    now: Mono,
    turns: usize,
}

impl Clients {
    fn new(count: usize, timeout: Duration) -> Self {
        let mut wheel = Wheel::new(count).unwrap();
        let mut truth = Slots::new(count).unwrap();
        let mut now = Mono::default();
        let keys = (0..count)
            .map(|_| {
                now = now.plus(STEP);
                let key = truth.insert(now.plus(timeout)).unwrap();
                wheel.schedule(key, now.plus(timeout));
                key
            })
            .collect();
        Self { wheel, truth, keys, now, turns: 0 }
    }

    /// A turn in which the client that has been silent longest sends a message: the worst case for the wheel.
    fn turn(&mut self, timeout: Duration) -> Option<Mono> {
        self.now = self.now.plus(STEP);
        let key = self.keys.get(self.turns % self.keys.len()).copied().unwrap();
        self.turns += 1;
        *self.truth.get_mut(key).unwrap() = self.now.plus(timeout);
        let truth = &self.truth;
        assert!(self.wheel.next_expired(self.now, |key| truth.get(key).copied()).is_none());
        self.wheel.next_deadline(|key| truth.get(key).copied())
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn_with_one_message");
    for (name, timeout) in [("idle_30s", IDLE), ("idle_10min", IDLE * 20)] {
        for count in [1, 128, 4096, 65_536] {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                let mut clients = Clients::new(count, timeout);
                b.iter(|| black_box(clients.turn(timeout)));
            });
        }
    }
    group.finish();

    c.bench_function("next_deadline_asked_again", |b| {
        let mut clients = Clients::new(128, IDLE);
        let truth = &clients.truth;
        b.iter(|| black_box(clients.wheel.next_deadline(|key| truth.get(key).copied())));
    });

    c.bench_function("schedule_and_cancel", |b| {
        let mut clients = Clients::new(128, IDLE);
        let key = clients.keys.first().copied().unwrap();
        b.iter(|| {
            clients.wheel.cancel(black_box(key));
            clients.wheel.schedule(key, clients.now);
        });
    });

    let mut group = c.benchmark_group("expire_all_after_an_hour");
    for count in [128, 65_536] {
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_batched_ref(
                || Clients::new(count, IDLE),
                |clients| {
                    let truth = &clients.truth;
                    let now = clients.now.plus(Duration::from_secs(3600));
                    while clients.wheel.next_expired(now, |key| truth.get(key).copied()).is_some() {}
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}
