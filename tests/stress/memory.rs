//! Memory that peers can make a server use.

use std::time::Duration;

use super::host::{Host, ask, is_pong};
use super::measure::{kib, thread_cpu};
use super::util::sim::{Sim, token};
use super::util::{error, fill, ping};
use super::{alone, times};

/// One client sends pings and never reads: its memory is constant, and it is closed.
#[test]
fn unread_answers_take_constant_memory() {
    const BOUND: usize = 256 << 10;
    let _alone = alone("unread_answers_take_constant_memory");
    let mut host = Host::start(&[]);
    let mut quiet = host.connect_known();
    // The memory of a first large read and a first long answer is allocated before.
    quiet.send(&ping().repeat(500));
    assert_eq!((0..500).filter(|_| is_pong(&quiet.line())).count(), 500);
    let before = host.memory();

    let burst = host.fill(&ping()).repeat(100);
    let client = host.connect();
    let written = host.stuff(&[&client.stream], &burst, usize::MAX) / (burst.len() / 100);
    let grown = host.memory().saturating_sub(before);
    let answered = host.figure("pings") - 501;
    println!("never read: {written} pings taken, {answered} answered, {} of memory", kib(grown));
    assert!(written < 1_000_000, "reading stops");
    assert!(is_pong(&ask(&mut quiet)));
    assert!(grown <= BOUND, "{} for one client that never reads", kib(grown));

    // Again and again: each is closed when its answers were left unread for too long.
    let mut host = Host::start(&[("output_timeout", 20)]);
    let quiet = host.connect_known();
    let burst = host.fill(&ping()).repeat(100);
    // Until the server closes it: a client that leaves by itself is another case.
    let one_that_never_reads = |host: &mut Host| {
        let stalled = host.figure("stalled");
        let client = host.connect();
        host.stuff(&[&client.stream], &burst, usize::MAX);
        host.wait_for("stalled", |now| now > stalled);
    };
    one_that_never_reads(&mut host);
    let before = host.memory();
    let (goal, mut peak, mut clients) = (times(20_000, 1_000_000), 0, 0);
    while host.figure("pings") < goal {
        one_that_never_reads(&mut host);
        peak = peak.max(host.memory().saturating_sub(before));
        clients += 1;
    }
    let (pings, stalled) = (host.figure("pings"), host.figure("stalled"));
    println!("never read: {pings} pings answered to {clients} clients, {} of memory", kib(peak));
    assert_eq!(stalled, clients + 1, "each was closed for it");
    assert!(peak <= BOUND, "{} for clients that never read", kib(peak));
    drop(quiet);
}

/// 128 of them at once: the sum of what the limits allow each, as documented in README.
#[test]
fn unread_answers_in_all_slots_take_memory_within_the_limits() {
    let _alone = alone("unread_answers_in_all_slots_take_memory_within_the_limits");
    let mut host = Host::start(&[("output_timeout", 1_000_000)]);
    drop(host.connect_known());
    let before = host.memory();
    let burst = host.fill(&ping()).repeat(100);
    let clients: Vec<_> = (0..128).map(|_| host.connect_known()).collect();
    let streams: Vec<_> = clients.iter().map(|peer| &peer.stream).collect();
    let written = host.stuff(&streams, &burst, usize::MAX);
    assert!(written < 128 << 20, "reading stops");
    let grown = host.memory().saturating_sub(before);
    println!("128 clients that never read: {} of memory", kib(grown));
    // Input and output of each, and what growing the buffers of each leaves to the allocator.
    assert!(grown <= (8 + 8 + 6) << 20, "{}", kib(grown));
}

/// The most expensive JSON for a reader that builds trees, and for one that keeps a record for each message.
#[test]
fn inbox_full_of_nested_json_takes_only_its_bytes() {
    const LIMIT: usize = 2 << 20;
    let _alone = alone("inbox_full_of_nested_json_takes_only_its_bytes");
    let filled = |unit: &str, len: usize| {
        let units = (len - 120) / (unit.len() + 1);
        let data = format!("[{}1]", format!("{unit},").repeat(units));
        format!("{{\"type\":\"x\",\"meta\":{{\"authToken\":\"$TOKEN\"}},\"data\":{data}}}\n").into_bytes()
    };
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let shapes = [
        ("empty arrays", filled("[]", 65_000)),
        ("small objects", filled(r#"{"":0}"#, 65_000)),
        ("deep arrays", filled(&deep, 65_000)),
        ("escapes", filled(r#""\u0000\ud83d""#, 65_000)),
        ("numbers, 1,000 messages", filled("1e9", 2_160)),
    ];
    for (name, line) in shapes {
        let mut host = Host::start(&[]);
        let mut quiet = host.connect_known();
        quiet.send(&ping().repeat(500));
        assert_eq!((0..500).filter(|_| is_pong(&quiet.line())).count(), 500);
        let before = host.memory();
        let fill_up = || {
            let mut peer = host.connect();
            let mut taken = 0;
            loop {
                peer.send(&line);
                let answer = peer.line().unwrap();
                if answer.contains("inbox full") {
                    return taken;
                }
                assert!(answer.contains("uds-"), "{answer}");
                taken += 1;
            }
        };
        let taken = fill_up();
        let bytes = taken * (line.len() - 100);
        assert!(bytes > LIMIT * 9 / 10 || taken == 1_000, "{taken} of {} bytes", line.len());
        let grown = host.memory().saturating_sub(before);
        // The owner drains and keeps the batch: the inbox fills up once more.
        host.tell("hold");
        let mut peer = host.connect();
        for _ in 0..taken {
            peer.send(&line);
            assert!(peer.line().unwrap().contains("uds-"));
        }
        let held = host.memory().saturating_sub(before);
        println!("{name}: {taken} messages, {}; with a batch as large held, {}", kib(grown), kib(held));
        assert!(held <= 3 * LIMIT, "{name}: {} for an inbox of {}", kib(held), kib(LIMIT));
    }
}

/// It is refused where it becomes too deep, without recursion.
#[test]
fn a_line_of_opening_brackets_is_refused_on_a_small_stack_at_once() {
    let _alone = alone("a_line_of_opening_brackets");
    let deep = |unit: &str| unit.repeat(65_536 / unit.len());
    let lines = [
        ("[", deep("[")),
        (r#"{"":"#, deep(r#"{"":"#)),
        ("[ after the token", {
            let head = fill(br#"{"meta":{"authToken":"$TOKEN"},"data":"#, token().expose(), "");
            let head = String::from_utf8(head).unwrap();
            let brackets = "[".repeat(65_536 - head.len());
            head + &brackets
        }),
    ];
    let small = std::thread::Builder::new().stack_size(256 << 10);
    // What a line of that length costs that is read to its end.
    let harmless = format!("{{\"type\":\"text\",\"data\":[1{}]}}", ",1".repeat(65_000 / 2));
    let thread = small.spawn(move || {
        let mut reference = Duration::MAX;
        for (name, line) in [("a harmless line", harmless)].into_iter().chain(lines) {
            let is_harmless = name == "a harmless line";
            let reason = if is_harmless { "unauthorized" } else { "invalid frame" };
            let mut best = Duration::MAX;
            for _ in 0..5 {
                let mut sim = Sim::new(|_| ());
                let peer = sim.join();
                sim.send_raw(peer, line.as_bytes());
                sim.turn();
                let (key, now) = (sim.key(peer), sim.now());
                let begun = thread_cpu();
                assert_eq!(sim.endpoint.received_bytes(key, b"\n", now), 1);
                best = best.min(thread_cpu() - begun);
                sim.run();
                assert!(super::util::matches(&error(reason), sim.take(peer).trim_end()));
            }
            println!("{} bytes of {name}: {reason} in {best:?} of processor time", line.len());
            if is_harmless {
                reference = best;
            }
            assert!(is_harmless || best <= reference / 10, "{name}: {best:?}, a harmless line {reference:?}");
        }
    });
    thread.unwrap().join().unwrap();
}
