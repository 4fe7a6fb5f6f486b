//! Limits per process: two real processes at one server.

use std::io::{BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use super::alone;
use super::host::{Host, ask, is_pong, listen, part, plays, say};
use super::util::real::RawPeer;
use super::util::{ping, text};

/// Another process with a connection to the same server.
struct Other {
    process: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Other {
    fn start(host: &Host) -> Self {
        let mut command = part("processes::entry", &host.home);
        let mut process = command.env("STRESS_SOCKET", &host.path).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut other = Self { process, input, lines: BufReader::new(output) };
        assert_eq!(listen(&mut other.lines), "connected");
        other
    }

    fn begin(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }

    fn says(&mut self) -> usize {
        listen(&mut self.lines).parse().unwrap()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The part: `text N` sends up to N messages one after another until one is refused and prints how many were
/// accepted; `ping N` sends N pings at once and prints the milliseconds until all were answered.
#[test]
fn entry() {
    if !plays("processes::entry") {
        return;
    }
    let path = std::path::PathBuf::from(std::env::var_os("STRESS_SOCKET").unwrap());
    let environment = udsmsg::Environment::from_process();
    let capabilities = udsmsg::os::CapabilityDir::of(&udsmsg::Namespace::default(), &environment);
    let address = udsmsg::Address::from_path(&path).unwrap();
    let token = capabilities.unwrap().read(&address).unwrap().auth_token;
    let mut peer = RawPeer::connect(&path, token.expose());
    assert!(is_pong(&ask(&mut peer)));
    say("connected");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (what, count) = line.split_once(' ').unwrap();
        let count: usize = count.parse().unwrap();
        if what == "text" {
            let mut taken = 0;
            for _ in 0..count {
                peer.send(&text("sender"));
                let answer = peer.line().unwrap();
                if answer.contains("inbox full") {
                    break;
                }
                taken += 1;
            }
            say(taken);
        } else {
            let begun = Instant::now();
            peer.send(&ping().repeat(count));
            assert!((0..count).all(|_| is_pong(&peer.line())));
            say(begun.elapsed().as_millis());
        }
    }
}

#[test]
fn one_process_fills_its_share_of_the_inbox_and_no_more() {
    let _alone = alone("one_process_fills_its_share_of_the_inbox_and_no_more");
    let mut host = Host::start(&[("inbox_entries_max", 100), ("inbox_share_percent_max", 60)]);
    let mut sender = Other::start(&host);
    let mut again = Other::start(&host);
    sender.begin("text 1000");
    assert_eq!(sender.says(), 60);
    // One process has one share, over any number of connections; the rest is for a third.
    let mut ours = 0;
    for _ in 0..2 {
        let mut peer = host.connect();
        while ours < 30 {
            peer.send(&text("modest"));
            assert!(peer.line().unwrap().contains("uds-"));
            ours += 1;
        }
    }
    again.begin("text 1000");
    assert_eq!(again.says(), 10, "the whole is still a bound");
    assert_eq!(host.tell("hold"), "100");
    let mut peer = host.connect();
    peer.send(&text("after the owner took it"));
    assert!(peer.line().unwrap().contains("uds-101"));
    println!("one process of three filled 60 of 100, ours put 30 in, the third the 10 that were left");
}

#[test]
fn one_process_sends_at_its_rate_and_delays_no_other() {
    const RATE: usize = 100;
    let _alone = alone("one_process_sends_at_its_rate_and_delays_no_other");
    /// For these it needs more time than the watchdog has.
    const ENDLESS: usize = 10_000;
    let mut host = Host::start(&[("pid_lines_per_second_max", RATE)]);
    let mut fast = Other::start(&host);
    fast.begin("ping 200");
    let took = Duration::from_millis(fast.says() as u64);
    let before = host.figure("throttled");
    let mut peer = host.connect_known();
    fast.begin(&format!("ping {ENDLESS}"));
    host.wait_for("throttled", |throttled| throttled > before);
    let pings = host.figure("pings");
    let mut waits = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        assert!(is_pong(&ask(&mut peer)));
        waits.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    let of_the_fast = host.figure("pings") - pings - 20;
    let longest = waits.iter().max().unwrap();
    let (throttled, cpu) = (host.figure("throttled"), host.cpu());
    println!(
        "200 pings at once, {RATE} a second allowed: answered in {took:?}, paused {throttled} times, \
         {cpu:?} of processor time since the start; a ping of another process took {longest:?} at most"
    );
    // The first second's worth goes at once, the rest at the rate.
    assert!(took >= Duration::from_millis(950), "{took:?}");
    // None of ours waited until the other was through.
    assert!(of_the_fast < ENDLESS / 2, "{of_the_fast} of {ENDLESS} of the other came first");
}
