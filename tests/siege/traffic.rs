//! One that sends as fast as it can, and the others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::host::{Host, ask, is_pong};
use super::measure::percentile;
use super::util::real::RawPeer;
use super::util::text;
use super::{alone, times};

/// Lines of one client that one turn handles: a budget for what was left over, and none for a read in the same turn.
const TURN_FRAMES_MAX: usize = 128;

/// Sends `burst` over and over while `goes` says so.
fn flood(mut stream: &UnixStream, burst: &[u8], goes: &AtomicBool, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        if goes.load(Ordering::Relaxed) {
            stream.write_all(burst).unwrap();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One ping from each, one after another.
fn round(quiet: &mut [RawPeer]) -> Vec<Duration> {
    let one = |peer: &mut RawPeer| {
        let begun = Instant::now();
        assert!(is_pong(&ask(peer)));
        begun.elapsed()
    };
    quiet.iter_mut().map(one).collect()
}

/// 127 quiet clients ping, with and without a flooder, in turns: rounds of both follow each other, so that whatever else
/// the machine does hits both alike.
///
/// The flooder, the server and the client that measures share the processors, so part of what is measured is their
/// scheduling. The bound of the protocol's figure, twice the unloaded value, is therefore printed and not asserted; what is
/// asserted is that a quiet client waits for about one turn, never for the flood.
#[test]
fn a_flooder_costs_quiet_clients_a_turn() {
    let _alone = alone("a_flooder_costs_quiet_clients_a_turn");
    let mut host = Host::start(&[]);
    assert_eq!(host.tell("drain"), "ok");
    let mut quiet: Vec<RawPeer> = (0..127).map(|_| host.connect_known()).collect();
    let flooder = host.connect_known();
    let burst = host.fill(&text("flood")).repeat(300);
    let (goes, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let rounds = times(15, 150);
    let (mut calm, mut loaded) = (Vec::new(), Vec::new());
    let mut flood_time = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&flooder.stream, &burst, &goes, &is_over));
        scope.spawn(|| {
            let mut scrap = vec![0; 1 << 16];
            while (&flooder.stream).read(&mut scrap).is_ok_and(|n| n > 0) {}
        });
        for _ in 0..rounds {
            for is_loaded in [false, true] {
                let before = host.figure("messages");
                goes.store(is_loaded, Ordering::Relaxed);
                // Until what is on its way has settled, or has begun.
                if is_loaded {
                    host.wait_for("messages", |messages| messages > before + 1_000);
                } else {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let begun = Instant::now();
                let mut waits = round(&mut quiet);
                waits.extend(round(&mut quiet));
                if is_loaded {
                    flood_time += begun.elapsed();
                }
                let figures = [50, 99].map(|percent| percentile(&mut waits, percent));
                if is_loaded { &mut loaded } else { &mut calm }.push(figures);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        goes.store(false, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        flooder.stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let median = |of: &[[Duration; 2]], at: usize| {
        let mut column: Vec<Duration> = of.iter().map(|figures| figures[at]).collect();
        percentile(&mut column, 50)
    };
    let (calm_p50, calm_p99) = (median(&calm, 0), median(&calm, 1));
    let (loaded_p50, loaded_p99) = (median(&loaded, 0), median(&loaded, 1));
    let ratio = loaded_p99.as_secs_f64() / calm_p99.as_secs_f64();
    let (turn_max, messages) = (host.figure("turn_max"), host.figure("messages"));
    println!(
        "127 quiet clients, medians of {rounds} rounds: unloaded p50 {calm_p50:?} p99 {calm_p99:?}, beside a flooder \
         p50 {loaded_p50:?} p99 {loaded_p99:?}: {ratio:.1} times; {messages} messages of the flood, at most {turn_max} \
         in a turn, {flood_time:?} of measuring beside it"
    );
    assert!(turn_max <= 2 * TURN_FRAMES_MAX, "{turn_max} lines of one client in one turn");
    assert!(loaded_p99 <= 20 * calm_p99, "{ratio:.1} times the unloaded p99");
}
