//! One that sends as fast as it can, and the others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::host::{Host, ask, is_pong};
use super::measure::percentile;
use super::util::real::RawPeer;
use super::util::text;
use super::{alone, measure, times};

/// Lines of one client that one turn handles.
const TURN_FRAMES_MAX: usize = 16;

/// Fills up what the server has still to read of the flood, and takes what it has answered, without waiting for either.
struct Flood {
    stream: UnixStream,
    burst: Vec<u8>,
    at: usize,
}

impl Flood {
    fn top_up(&mut self) {
        let mut scrap = [0; 1 << 16];
        while self.stream.read(&mut scrap).is_ok_and(|n| n > 0) {}
        while let Ok(n) = self.stream.write(&self.burst[self.at..]) {
            self.at = (self.at + n) % self.burst.len();
        }
    }
}

/// One ping from each, one after another, each in the middle of the flood if there is one.
fn round(quiet: &mut [RawPeer], mut flood: Option<&mut Flood>) -> Vec<Duration> {
    let one = |peer: &mut RawPeer| {
        if let Some(flood) = &mut flood {
            flood.top_up();
        }
        let begun = Instant::now();
        assert!(is_pong(&ask(peer)));
        begun.elapsed()
    };
    quiet.iter_mut().map(one).collect()
}

/// 127 quiet clients ping, with and without a flooder, in turns: rounds of both follow each other, so that whatever else
/// the machine does hits both alike. One thread is all the clients, so that none but the server competes with it; it sees
/// to it that at each ping there is more of the flood than the server takes in several turns.
///
/// Of the rounds of each kind the lower quartile counts: what else runs on the machine can only make a round worse.
///
/// The clients and the server have a processor each: on one, it is the system's scheduler that says how long one client in
/// a hundred waits.
#[test]
fn a_flooder_costs_quiet_clients_a_turn() {
    let _alone = alone("a_flooder_costs_quiet_clients_a_turn");
    let mut host = Host::start(&[]);
    assert_eq!(host.tell("drain"), "ok");
    let mut quiet: Vec<RawPeer> = (0..127).map(|_| host.connect_known()).collect();
    let processors = measure::processors();
    if let [own, other, ..] = processors[..] {
        measure::keep_apart(own, host.pid(), other);
    }
    let stream = host.connect_known().stream;
    stream.set_nonblocking(true).unwrap();
    let mut flood = Flood { stream, burst: host.fill(&text("flood")).repeat(300), at: 0 };
    let rounds = times(15, 150);
    let (mut calm, mut loaded) = (Vec::new(), Vec::new());
    let (mut flood_time, mut flood_lines) = (Duration::ZERO, 0);
    let figures = |mut waits: Vec<Duration>| [50, 99].map(|percent| percentile(&mut waits, percent));
    for _ in 0..rounds {
        calm.push(figures([round(&mut quiet, None), round(&mut quiet, None)].concat()));
        let (before, begun) = (host.figure("messages"), Instant::now());
        loaded.push(figures(
            [round(&mut quiet, Some(&mut flood)), round(&mut quiet, Some(&mut flood))].concat(),
        ));
        flood_time += begun.elapsed();
        flood_lines += host.figure("messages") - before;
        // The flood runs dry.
        flood.at = settle(&mut host, &mut flood);
    }
    let typical = |of: &[[Duration; 2]], at: usize| {
        let mut column: Vec<Duration> = of.iter().map(|figures| figures[at]).collect();
        percentile(&mut column, 25)
    };
    let (calm_p50, calm_p99) = (typical(&calm, 0), typical(&calm, 1));
    let (loaded_p50, loaded_p99) = (typical(&loaded, 0), typical(&loaded, 1));
    let ratio = loaded_p99.as_secs_f64() / calm_p99.as_secs_f64();
    let turn_max = host.figure("turn_max");
    println!(
        "127 quiet clients, lower quartiles of {rounds} rounds: unloaded p50 {calm_p50:?} p99 {calm_p99:?}, beside a flooder \
         p50 {loaded_p50:?} p99 {loaded_p99:?}: {ratio:.1} times; {flood_lines} lines of the flood in {flood_time:?}, at \
         most {turn_max} in a turn"
    );
    assert!(flood_lines > rounds * 127 * TURN_FRAMES_MAX, "there was a flood");
    assert!(turn_max <= TURN_FRAMES_MAX + 127, "{turn_max} lines of one client in one turn");
    let budget = flood_time * u32::try_from(TURN_FRAMES_MAX).unwrap() / u32::try_from(flood_lines).unwrap();
    println!("a budget of the flood takes {budget:?}, on {} processors", processors.len());
    // Without optimisation a turn takes ten times as long, and an unloaded ping, which is made of system calls, does not.
    let turns = if cfg!(debug_assertions) { 3 * budget } else { Duration::ZERO };
    assert!(loaded_p50 <= 2 * calm_p50 + turns, "p50 {loaded_p50:?}");
    if processors.len() > 1 {
        assert!(loaded_p99 <= 2 * calm_p99 + turns, "p99 {loaded_p99:?}");
    } else {
        println!("on one processor the 99th percentile is the scheduler's and is not asserted");
    }
}

/// Waits until the server has read all of the flood; where in the burst it stands.
fn settle(host: &mut Host, flood: &mut Flood) -> usize {
    let mut seen = 0;
    loop {
        let mut scrap = [0; 1 << 16];
        while flood.stream.read(&mut scrap).is_ok_and(|n| n > 0) {}
        let messages = host.figure("messages");
        if messages == seen {
            return flood.at;
        }
        seen = messages;
        std::thread::sleep(Duration::from_millis(2));
    }
}
