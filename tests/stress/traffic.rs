//! One client that floods, and the others.

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

/// Fills up what the server has still to read of the flood, and takes what it has answered, without waiting
/// for either.
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

/// All of `quiet` and the flood write while the server stands still: how many lines of the flood it takes
/// before it has served all of `quiet`, and how many altogether.
fn lines_of_the_flood(host: &mut Host, quiet: &mut [RawPeer], flood: &mut Flood) -> (usize, usize) {
    settle(host, flood);
    let before = host.figure("messages");
    host.stand_still();
    flood.top_up();
    quiet.iter_mut().for_each(|peer| peer.send(&text("quiet")));
    host.go_on();
    // Messages are numbered as they are taken.
    let number = |answer: String| -> usize {
        let (_, number) = answer.split_once("uds-").expect("it is accepted");
        number.split_once('"').unwrap().0.parse().unwrap()
    };
    let last = quiet.iter_mut().map(|peer| number(peer.line().unwrap())).max().unwrap();
    settle(host, flood);
    (last - before - quiet.len(), host.figure("messages") - before - quiet.len())
}

/// 127 quiet clients beside one that floods: it uses its budget of a turn, and then they are served.
#[test]
fn flooder_delays_quiet_clients_by_one_turn() {
    let _alone = alone("flooder_delays_quiet_clients_by_one_turn");
    let mut host = Host::start(&[]);
    assert_eq!(host.tell("drain"), "ok");
    let mut quiet: Vec<RawPeer> = (0..127).map(|_| host.connect_known()).collect();
    let stream = host.connect_known().stream;
    stream.set_nonblocking(true).unwrap();
    let mut flood = Flood { stream, burst: host.fill(&text("flood")).repeat(300), at: 0 };
    let rounds = times(20, 200);
    let (mut most_ahead, mut least) = (0, usize::MAX);
    for _ in 0..rounds {
        let (ahead, all) = lines_of_the_flood(&mut host, &mut quiet, &mut flood);
        (most_ahead, least) = (most_ahead.max(ahead), least.min(all));
    }
    let turn_max = host.figure("turn_max");
    println!(
        "127 quiet clients and a flood of at least {least} lines: at most {most_ahead} lines of it were \
         taken before all of the quiet ones were served, at most {turn_max} lines in a turn; {rounds} rounds"
    );
    assert!(least > 50 * TURN_FRAMES_MAX, "there was a flood");
    // The turn in which it was stopped, and the one in which the quiet ones are seen.
    assert!(most_ahead <= 2 * TURN_FRAMES_MAX, "{most_ahead} lines came first");
    assert!(turn_max <= TURN_FRAMES_MAX + 127, "{turn_max} lines of one client in one turn");
}

/// 127 quiet clients ping, with and without a flooder, in alternate rounds, so that other load of the machine
/// affects both alike. One thread plays all clients, so that only the server competes with it; it keeps more
/// of the flood waiting at each ping than the server takes in several turns.
///
/// Of the rounds of each kind the lower quartile counts, because other load can only make a round slower. The
/// latency depends on the machine, so the figures are printed, not asserted.
///
/// The clients and the server have a processor each: on one processor the scheduler would decide how long one
/// client in a hundred waits.
#[test]
fn how_long_quiet_clients_wait_beside_a_flooder() {
    let _alone = alone("how_long_quiet_clients_wait_beside_a_flooder");
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
    let begun = Instant::now();
    while calm.len() < rounds && (calm.is_empty() || begun.elapsed() < Duration::from_secs(20)) {
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
        "127 quiet clients, lower quartiles of {} rounds: unloaded p50 {calm_p50:?} p99 {calm_p99:?}, \
         beside a flooder p50 {loaded_p50:?} p99 {loaded_p99:?}: {ratio:.1} times; {flood_lines} lines of \
         the flood in {flood_time:?}, at most {turn_max} in a turn",
        calm.len()
    );
    assert!(flood_lines > calm.len() * 127, "there was a flood");
    let budget = flood_time * u32::try_from(TURN_FRAMES_MAX).unwrap() / u32::try_from(flood_lines).unwrap();
    println!("a budget of the flood takes {budget:?}, on {} processors", processors.len());
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
