//! Slow peers, and jumps of the clock.

use std::time::{Duration, Instant};

use udsmsg::Limits;
use udsmsg::parts::{CloseReason, Mono};

use super::alone;
use super::host::{Host, ask, is_pong};
use super::util::sim::{Id, Sim};
use super::util::{error, matches, ping, scale, text, with_time_enough};

/// 128 silent clients take all slots, and other clients are still served.
#[test]
fn silent_clients_do_not_block_others_and_are_closed_in_time() {
    let _alone = alone("silent_clients_do_not_block_others_and_are_closed_in_time");
    // A busy machine may need longer than that until the real ones are served; then nothing is shown.
    with_time_enough(Duration::from_secs(2), silent_clients);
}

fn silent_clients(auth_timeout: Duration) -> Option<()> {
    let limit = usize::try_from(auth_timeout.as_millis()).unwrap();
    let mut host = Host::start(&[("auth_timeout", limit)]);
    let all = Instant::now();
    let mut silent: Vec<_> = (0..128)
        .map(|_| {
            let begun = Instant::now();
            (host.connect(), begun)
        })
        .collect();
    // All are connected, and old enough to be evicted.
    while host.figure("connections") < 128 {}
    std::thread::sleep(Duration::from_millis(150));
    let mut served = Vec::new();
    let mut inside = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let mut real = host.connect();
        let answer = ask(&mut real);
        served.push(begun.elapsed());
        if all.elapsed() >= auth_timeout {
            return None;
        }
        assert!(is_pong(&answer), "a real client is served");
        inside.push(real);
    }
    // Five of them were evicted; the others have their two seconds.
    let mut ended: Vec<Duration> = Vec::new();
    let mut evicted = 0;
    for (peer, connected) in &mut silent {
        let line = peer.line().expect("they are told why");
        assert_eq!(peer.line(), None);
        if matches(&error("too many clients"), &line) {
            evicted += 1;
        } else {
            assert!(matches(&error("authentication timeout"), &line), "{line}");
            ended.push(connected.elapsed());
        }
    }
    let (slowest, first, last) =
        (served.iter().max().unwrap(), ended.iter().min().unwrap(), ended.iter().max().unwrap());
    println!(
        "128 silent clients: a real one served within {slowest:?}, silent ones closed after \
         {first:?} to {last:?}"
    );
    assert_eq!((evicted, ended.len()), (5, 123));
    // They were read one after another, so none seems earlier than it was.
    assert!(*first >= auth_timeout, "{first:?}");
    Some(())
}

/// One byte a second keeps a client from being idle, but a line has a timeout of its own.
#[test]
fn client_that_sends_a_byte_each_second_is_closed_at_thirty_seconds() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join_known();
    for second in 0..30 {
        assert!(sim.is_open(peer), "after {second} s");
        sim.send_raw(peer, b" ");
        sim.advance(999);
        assert!(sim.is_open(peer), "after {second}.999 s");
        sim.advance(1);
    }
    sim.expect_error(peer, "idle timeout");
    assert_eq!(sim.closed(peer), Some(CloseReason::FrameTimeout));
}

/// The same on a real socket: 30 s at full scale, 1.5 s in short.
#[test]
fn slow_line_on_a_real_socket_is_closed_in_time() {
    let _alone = alone("slow_line_on_a_real_socket_is_closed_in_time");
    let limit = if scale() < 50 { Duration::from_millis(1_500) } else { Limits::default().frame_timeout };
    let host = Host::start(&[("frame_timeout", usize::try_from(limit.as_millis()).unwrap())]);
    let mut peer = host.connect_known();
    peer.stream.set_read_timeout(Some(limit / 30)).unwrap();
    let begun = Instant::now();
    let mut lines = String::new();
    loop {
        peer.send(b" ");
        let mut space = [0; 1024];
        match std::io::Read::read(&mut peer.stream, &mut space) {
            Ok(0) => break,
            Ok(n) => lines.push_str(std::str::from_utf8(&space[..n]).unwrap()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let took = begun.elapsed();
    println!("a byte each {:?}: closed after {took:?}", limit / 30);
    assert!(matches(&error("idle timeout"), lines.trim_end()), "{lines}");
    // The virtual clock above tests that it is not late; a connection kept open too long would run into the
    // watchdog.
    assert!(took >= limit, "{took:?}");
}

/// Clients in every state, and then the clock is an hour ahead: each timeout is enforced once, by what was
/// sent before.
#[test]
fn clock_jump_of_an_hour_takes_one_pass() {
    const HOUR: u64 = 3_600_000;
    let mut sim = Sim::new(|_| ());
    let group = |sim: &mut Sim, n: usize| -> Vec<Id> { (0..n).map(|_| sim.join_known()).collect() };
    let idle = group(&mut sim, 20);
    let dripping = group(&mut sim, 20);
    let stuck = group(&mut sim, 20);
    let in_time = group(&mut sim, 20);
    let silent: Vec<Id> = (0..20).map(|_| sim.join()).collect();
    for &peer in &dripping {
        sim.send_raw(peer, b"{");
    }
    for &peer in &stuck {
        sim.peer(peer).room = 0;
        sim.send(peer, &ping().repeat(1_000));
    }
    sim.run();
    for &peer in &in_time {
        sim.send(peer, &text("in time"));
    }
    let turns = sim.turns;
    sim.host_away(HOUR);
    sim.turn();
    for &peer in &idle {
        sim.expect_error(peer, "idle timeout");
    }
    for &peer in &dripping {
        sim.expect_error(peer, "idle timeout");
    }
    for &peer in &silent {
        sim.expect_error(peer, "authentication timeout");
    }
    assert!(stuck.iter().all(|peer| sim.closed(*peer) == Some(CloseReason::OutputStalled)));
    assert!(in_time.iter().all(|peer| sim.is_open(*peer) && sim.unread(*peer) == 0));
    assert_eq!(sim.endpoint.clients(), 20, "those who sent in time are there");
    assert_eq!(sim.drain().len(), 20);
    assert!(!sim.endpoint.has_work(), "nothing is left to do");
    let now = sim.now().mono;
    let next = sim.endpoint.next_deadline().unwrap();
    assert_eq!(next, now.plus(Duration::from_secs(30)), "the next to be done is half a minute away");
    // Nothing happens for half a minute; then the others are closed, in one turn.
    sim.advance(29_999);
    assert_eq!(sim.endpoint.clients(), 20);
    sim.advance(1);
    assert_eq!(sim.endpoint.clients(), 0);
    assert_eq!(sim.endpoint.next_deadline(), None);
    let turns = sim.turns - turns;
    println!(
        "the clock jumped by an hour: 80 of 100 clients closed in 1 turn, {turns} turns until all had gone"
    );
    assert!(turns <= 8, "{turns} turns");

    // Back to the origin, which a monotonic clock never does: no timeout is early, and nothing spins.
    let mut sim = Sim::new(|_| ());
    sim.host_away(HOUR);
    let peer = sim.join_known();
    let late = sim.now();
    let early = udsmsg::parts::Now { mono: Mono::after_origin(Duration::ZERO), wall: late.wall };
    sim.endpoint.deadlines_reached(early);
    assert!(sim.endpoint.next_step().is_none());
    assert_eq!(sim.endpoint.next_deadline(), Some(late.mono.plus(Duration::from_secs(30))));
    assert!(sim.is_open(peer));
}

/// A process that uses up its rate cannot keep an unauthenticated client paused without a timeout; the first
/// message of a paused client is processed before its timeout is enforced.
#[test]
fn client_paused_by_its_rate_must_still_authenticate() {
    let mut sim = Sim::new(|l| l.pid_lines_per_second_max = 10);
    let [busy, blank, honest] = [sim.join_known(), sim.join(), sim.join()];
    sim.send(busy, &ping().repeat(500));
    sim.run();
    sim.send(blank, &b"\n".repeat(60_000));
    sim.send(honest, &ping());
    sim.advance(10_000);
    assert!(sim.is_open(busy));
    sim.expect_error(blank, "authentication timeout");
    assert!(sim.take(honest).contains("pong") && sim.is_open(honest));
}

/// A client that sent and vanished is not kept for as long as its lines would take at its rate.
#[test]
fn paused_client_that_vanished_frees_its_slot() {
    let mut sim = Sim::new(|l| l.pid_lines_per_second_max = 10);
    let peer = sim.join_known();
    sim.send(peer, &b"\n".repeat(60_000));
    sim.run();
    sim.vanish(peer);
    sim.advance(60_000);
    assert_eq!(sim.endpoint.clients(), 0, "a minute later it still has its slot");
}
