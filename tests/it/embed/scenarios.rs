//! One table of scenarios, run in every way to host a server: the same happens in all of them.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use udsmsg::{Address, Limits, Outgoing};

use super::ways::{Hosted, all};
use crate::util::real::RawPeer;
use crate::util::stream::can_connect;
use crate::util::{error, in_json, matches, ok, ping, pong, stored, text, watchdog, with_time_enough};

const SHORT: Duration = Duration::from_millis(100);
/// Longer than the watchdog waits.
const LONG: Duration = Duration::from_secs(1_000);

/// What is done, and what is expected.
struct Scenario {
    name: &'static str,
    limits: fn(&mut Limits),
    play: fn(&mut Hosted, &mut Vec<String>),
    expected: Vec<String>,
    /// It has a part that the core alone does not have.
    needs_server: bool,
}

fn scenario(
    name: &'static str,
    play: fn(&mut Hosted, &mut Vec<String>),
    expected: impl IntoIterator<Item = String>,
) -> Scenario {
    let expected = expected.into_iter().collect();
    Scenario { name, limits: |_| (), play, expected, needs_server: false }
}

impl Scenario {
    fn with(mut self, limits: fn(&mut Limits)) -> Self {
        self.limits = limits;
        self
    }

    fn for_servers(mut self) -> Self {
        self.needs_server = true;
        self
    }
}

fn line(peer: &mut RawPeer) -> String {
    peer.line().unwrap_or_else(|| "(end)".to_owned())
}

fn end() -> String {
    "(end)".to_owned()
}

fn seen_line(line: &str) -> String {
    line.to_owned()
}

/// Reads the next line, which a deadline sends that began after `begun`. The virtual clock tests that it is
/// not late.
fn seen_at_deadline(begun: Instant, peer: &mut RawPeer, seen: &mut Vec<String>) {
    seen.push(line(peer));
    let took = begun.elapsed();
    assert!(took >= SHORT, "{took:?} for a deadline of {SHORT:?}");
}

fn delivered(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    peer.send(&[text("a"), text("b")].concat());
    seen.extend([line(&mut peer), line(&mut peer), host.delivered(), host.delivered()]);
    peer.send(&text("c"));
    seen.extend([line(&mut peer), host.delivered()]);
}

fn pinged(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    for _ in 0..2 {
        peer.send(&ping());
        seen.push(line(&mut peer));
    }
    seen.push(format!("{} delivered", host.delivered_besides()));
}

fn unauthorized(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    peer.send(b"{\"type\":\"text\",\"data\":\"a\",\"meta\":{\"authToken\":\"x\"}}\n");
    seen.extend([line(&mut peer), line(&mut peer)]);
}

fn silent(host: &mut Hosted, seen: &mut Vec<String>) {
    let begun = Instant::now();
    let mut peer = host.connect();
    seen_at_deadline(begun, &mut peer, seen);
    seen.push(line(&mut peer));
}

fn idle(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    let begun = Instant::now();
    peer.send(&ping());
    seen.push(line(&mut peer));
    seen_at_deadline(begun, &mut peer, seen);
    seen.push(line(&mut peer));
}

fn dripping(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    peer.send(&ping());
    seen.push(line(&mut peer));
    let begun = Instant::now();
    peer.send(b"{");
    seen_at_deadline(begun, &mut peer, seen);
}

#[cfg(unix)]
fn half_closed(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    peer.send(&text("a"));
    peer.half_close();
    seen.extend([line(&mut peer), line(&mut peer), host.delivered()]);
}

const FLOOD: usize = 2_000;

fn flood(host: &mut Hosted, seen: &mut Vec<String>) {
    let (mut flooder, mut quiet) = (host.connect(), host.connect());
    let bytes = flooder.fill(&text("f").repeat(FLOOD));
    let mut stream = flooder.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || stream.write_all(&bytes).unwrap());
    let first = line(&mut flooder);
    quiet.send(&ping());
    seen.push(line(&mut quiet));
    let in_order = (2..=FLOOD).filter(|n| matches(&ok(*n), &line(&mut flooder))).count();
    writer.join().unwrap();
    let delivered = (0..FLOOD).filter(|_| host.delivered() == stored("f")).count();
    seen.extend([first, format!("{in_order} more answers in order, {delivered} delivered")]);
}

fn many_clients(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peers: Vec<RawPeer> = (0..40).map(|_| host.connect()).collect();
    for peer in &mut peers {
        peer.send(&ping());
    }
    let pongs = peers.iter_mut().map(line).filter(|answer| answer.contains("pong")).count();
    seen.push(format!("{pongs} pongs"));
}

fn send(host: &Hosted, target: &Address, timeout: Duration) {
    let target = target.clone();
    host.ask(move |guest| {
        let message = Outgoing::new("text").with_text("out");
        guest.server().send(&target, &message, timeout).unwrap();
    });
}

fn outbound(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut other = host.home.start(|_| ());
    for _ in 0..2 {
        send(host, other.address(), LONG);
        let told = loop {
            let _ = other.turn(Some(Duration::from_millis(5))).unwrap();
            if let Some(told) = host.told_so_far() {
                break told;
            }
        };
        let batch = other.drain();
        let from = batch.iter().next().unwrap().message().from().map(|from| from.into_owned());
        seen.extend([told, format!("from us: {}", from.as_deref().map(Path::new) == Some(&host.path))]);
    }
}

fn outbound_to_nowhere(host: &mut Hosted, seen: &mut Vec<String>) {
    let nowhere = Address::from_path(&host.home.path_for("nowhere.sock")).unwrap();
    send(host, &nowhere, LONG);
    seen.push(host.told().split(':').next().unwrap().to_owned());
}

/// The other accepts connections, but never turns: only a deadline ends this.
fn outbound_to_the_deaf(host: &mut Hosted, seen: &mut Vec<String>) {
    let deaf = host.home.start(|_| ());
    // On a busy machine the time may be over before anything is written.
    let told = || Some(host.told().split(':').next().unwrap().to_owned()).filter(|code| code != "not_sent");
    seen.push(with_time_enough(SHORT, |timeout| {
        send(host, deaf.address(), timeout);
        told()
    }));
    let [first, second] = with_time_enough(SHORT, |timeout| {
        let target = deaf.address().clone();
        host.ask(move |guest| {
            guest.server().query(&target, Outgoing::new("query"), timeout).unwrap();
        });
        Some([told()?, told()?])
    });
    seen.extend([first.clone().min(second.clone()), first.max(second)]);
}

#[cfg(unix)]
fn adopted(host: &mut Hosted, seen: &mut Vec<String>) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut peer = RawPeer::adopt(theirs, &host.path, &host.token);
    // Before it is adopted.
    peer.send(&text("a"));
    host.ask(move |guest| guest.server().adopt_stream(ours).unwrap());
    seen.extend([line(&mut peer), host.delivered()]);
    peer.send(&ping());
    seen.push(line(&mut peer));
}

/// A stop while more answers are pending than the kernel takes.
fn stopped(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut peer = host.connect();
    let lines = peer.fill(&text("s").repeat(100));
    peer.stream.set_nonblocking(true).unwrap();
    // Until the host has had turns in which it took nothing: its answers wait.
    let (mut at, mut delivered, mut idle_turns) = (0, 0, 0);
    while idle_turns < 5 {
        let written = peer.stream.write(&lines[at..]).unwrap_or(0);
        at = (at + written) % lines.len();
        host.sync();
        let more = host.delivered_besides();
        delivered += more;
        idle_turns = if written + more == 0 { idle_turns + 1 } else { 0 };
    }
    peer.stream.set_nonblocking(false).unwrap();
    host.ask(|guest| guest.shutdown(LONG));
    while can_connect(&host.path) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The end comes with the last answer, not when the grace is over.
    let mut answers = 0;
    while let Some(line) = peer.line() {
        assert!(line.contains("\"ok\""), "{line}");
        answers += 1;
    }
    host.sync();
    let all = delivered + host.delivered_besides();
    seen.extend([format!("many: {}", answers > 1_000), format!("all answered: {}", answers == all)]);
}

/// Messages in flight get their outcome.
fn stopped_while_sending(host: &mut Hosted, seen: &mut Vec<String>) {
    let mut other = host.home.start(|_| ());
    let target = other.address().clone();
    host.ask(move |guest| {
        let message = Outgoing::new("text").with_text("last words");
        guest.server().send(&target, &message, LONG).unwrap();
        guest.shutdown(LONG);
    });
    seen.push(loop {
        let _ = other.turn(Some(Duration::from_millis(5))).unwrap();
        if let Some(told) = host.told_so_far() {
            break told;
        }
    });
}

fn asked_to_stop(host: &mut Hosted, seen: &mut Vec<String>) {
    let waker = host.waker.clone().unwrap();
    let from_elsewhere = waker.clone();
    std::thread::spawn(move || from_elsewhere.ask_to_stop()).join().unwrap().unwrap();
    host.join();
    seen.push(seen_line("the loop has ended"));
    seen.push(format!("connect: {}", can_connect(&host.path)));
    // A process that another test starts may hold copies of all descriptors for a moment.
    while waker.wake().is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    seen.push(format!("wake: {:?}", waker.wake().map_err(|error| error.kind())));
}

fn table() -> Vec<Scenario> {
    let told_and_from = || [seen_line("accepted: accepted as uds-$N"), seen_line("from us: true")];
    vec![
        scenario("accept, deliver", delivered, [ok(1), ok(2), stored("a"), stored("b"), ok(3), stored("c")]),
        scenario("ping", pinged, [pong(), pong(), seen_line("0 delivered")]),
        scenario("unauthorized", unauthorized, [error("unauthorized"), end()]),
        scenario("authentication timeout", silent, [error("authentication timeout"), end()])
            .with(|l| l.auth_timeout = SHORT),
        scenario("idle timeout", idle, [pong(), error("idle timeout"), end()])
            .with(|l| l.idle_timeout = SHORT),
        scenario("frame timeout", dripping, [pong(), error("idle timeout")])
            .with(|l| l.frame_timeout = SHORT),
        // A pipe has none.
        #[cfg(unix)]
        scenario("half-close", half_closed, [ok(1), end(), stored("a")]),
        scenario(
            "a flood and a small budget",
            flood,
            [pong(), ok(1), seen_line("1999 more answers in order, 2000 delivered")],
        )
        .with(|l| l.turn_frames_max = 4),
        scenario("40 clients, let in one by one", many_clients, [seen_line("40 pongs")])
            .with(|l| l.turn_accepts_max = 1),
        scenario("outbound", outbound, [told_and_from(), told_and_from()].concat()).for_servers(),
        scenario("outbound to nowhere", outbound_to_nowhere, [seen_line("not_sent")]).for_servers(),
        scenario(
            "outbound to the deaf",
            outbound_to_the_deaf,
            [seen_line("unknown"), seen_line("unanswered"), seen_line("unknown")],
        )
        .for_servers(),
        // Pipes cannot be handed over.
        #[cfg(unix)]
        scenario("an adopted stream", adopted, [ok(1), stored("a"), pong()]).for_servers(),
        scenario("stop", stopped, [seen_line("many: true"), seen_line("all answered: true")]).with(|l| {
            l.closing_timeout = LONG;
            l.output_timeout = LONG;
        }),
        scenario("stop while sending", stopped_while_sending, [seen_line("accepted: accepted as uds-1")])
            .for_servers(),
        scenario(
            "asked to stop",
            asked_to_stop,
            [seen_line("the loop has ended"), seen_line("connect: false"), seen_line("wake: Err(Io)")],
        )
        .for_servers(),
    ]
}

/// Every scenario in every way. One thread for each way, or the deadlines would add up.
#[test]
fn every_way_of_hosting_gives_the_same_results() {
    let _watchdog = watchdog::watch("every_way_of_hosting_gives_the_same_results");
    let only = std::env::var("UDSMSG_TEST_WAY").ok();
    std::thread::scope(|scope| {
        for way in all() {
            if only.as_ref().is_some_and(|only| *only != way.name) {
                continue;
            }
            let named = std::thread::Builder::new().name(way.name.to_owned());
            let in_this_way = move || {
                for scenario in table() {
                    if scenario.needs_server && !way.has_server {
                        continue;
                    }
                    let mut host = Hosted::start(&way, scenario.limits);
                    let mut seen = Vec::new();
                    (scenario.play)(&mut host, &mut seen);
                    let place = format!("{}, in {}", scenario.name, way.name);
                    assert_eq!(seen.len(), scenario.expected.len(), "{place}: {seen:#?}");
                    for (expected, seen) in scenario.expected.iter().zip(&seen) {
                        let expected = expected.replace("$PATH", &in_json(&host.path));
                        assert!(matches(&expected, seen), "{place}: expected {expected}, saw {seen}");
                    }
                }
            };
            named.spawn_scoped(scope, in_this_way).unwrap();
        }
    });
}
