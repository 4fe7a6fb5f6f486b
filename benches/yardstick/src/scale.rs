//! Whether a message costs more where there are more connections, and a turn where there are more timers.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use udsmsg::parts::{ConnKey, Mono, Slots, Wheel};

use crate::figures::{Figures, median};
use crate::load::{self, Connections};
use crate::process::{Server, cpu};

pub const CONNECTIONS: &[usize] = &[1, 10, 100, 1_000, 10_000];
pub const TIMERS: &[usize] = &[10, 100, 1_000, 10_000, 100_000, 1_000_000];

const ROUNDS: usize = 3;
const MESSAGES: usize = 20_000;

pub fn run(figures: &mut Figures) -> Result<()> {
    figures.forget("scale");
    // A descriptor for each connection at either end.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    for &connections in CONNECTIONS {
        if connections as u64 + 100 > most {
            println!("{connections} connections are left out: a process may have {most} descriptors only");
            continue;
        }
        let max_clients = (connections + 10).to_string();
        let ours = Server::tool(&[], &["--max-clients", &max_clients])?;
        let floor = Server::own("floor")?;
        for (name, server) in [("udsmsg", &ours), ("floor", &floor)] {
            measure(figures, name, server, connections)?;
        }
    }
    for &timers in TIMERS {
        let cost =
            Timers::new(timers).context("no room for so many timers")?.turns(300_000).unwrap_or(f64::NAN);
        println!("{timers:9} timers       {cost:7.1} ns a turn");
        figures.set(format!("scale.timers.{timers}"), cost * 1e-3);
    }
    Ok(())
}

fn measure(figures: &mut Figures, name: &str, server: &Server, connections: usize) -> Result<()> {
    let line = load::text(&server.token);
    // Warm, so that only connections add to the memory.
    Connections::open(&server.socket, 1, 64, &line)?.run(MESSAGES)?;
    let before = server.resident()?;
    let mut all = Connections::open(&server.socket, connections, 1, &line)?;
    let bytes = (server.resident()? - before) / connections as f64;
    let mut costs = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = cpu(server.pid())?;
        all.one_by_one(MESSAGES)?;
        let between = cpu(server.pid())?;
        all.run(MESSAGES)?;
        let end = cpu(server.pid())?;
        costs.0.push((between - start).as_secs_f64() * 1e6 / MESSAGES as f64);
        costs.1.push((end - between).as_secs_f64() * 1e6 / MESSAGES as f64);
    }
    let (one, wave) = (median(costs.0), median(costs.1));
    println!(
        "{connections:9} connections  {name:8} {one:7.3} µs one by one, {wave:7.3} all at once, {bytes:.0} bytes each"
    );
    figures.set(format!("scale.one.{connections}.{name}"), one);
    figures.set(format!("scale.wave.{connections}.{name}"), wave);
    figures.set(format!("scale.bytes.{connections}.{name}"), bytes);
    Ok(())
}

const IDLE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_micros(50);

/// One idle timeout a client, the deadline of each a step after that of the one before.
struct Timers {
    wheel: Wheel,
    truth: Slots<Mono>,
    keys: Vec<ConnKey>,
    now: Mono,
}

impl Timers {
    fn new(count: usize) -> Option<Self> {
        let (mut wheel, mut truth) = (Wheel::new(count).ok()?, Slots::new(count).ok()?);
        let mut now = Mono::default();
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            now = now.plus(STEP.min(IDLE / u32::try_from(count).ok()?));
            let key = truth.insert(now.plus(IDLE))?;
            wheel.schedule(key, now.plus(IDLE));
            keys.push(key);
        }
        Some(Self { wheel, truth, keys, now })
    }

    /// Turns in each of which the client that has been silent longest sends a message; ns a turn.
    fn turns(&mut self, count: usize) -> Option<f64> {
        let step = STEP.min(IDLE / u32::try_from(self.keys.len()).ok()?);
        let start = Instant::now();
        for turn in 0..count {
            self.now = self.now.plus(step);
            *self.truth.get_mut(self.keys[turn % self.keys.len()])? = self.now.plus(IDLE);
            let truth = &self.truth;
            while self.wheel.next_expired(self.now, |key| truth.get(key).copied()).is_some() {}
            black_box(self.wheel.next_deadline(|key| truth.get(key).copied()));
        }
        Some(start.elapsed().as_secs_f64() * 1e9 / count as f64)
    }
}
