//! Every field of `Limits`, at the limit and one beyond, on the virtual clock.

use std::time::Duration;

use udsmsg::parts::{AuthToken, CloseReason, LinkStep, Now, Outbox};
use udsmsg::{ErrorKind, Limits, Outgoing, PeerIdentity};

use crate::util::conversation::{Advance, Case, Expect, ExpectEnd, Inbox, check, send};
use crate::util::sim::{Id, OWNER, PATH, Sim};
use crate::util::{error, ok, ping, pong, stored, text, text_of_line, text_stored_as};

/// Which test here covers which field. A field of `Limits` that is missing here fails a test below.
const WATCHED: [(&str, fn()); 21] = [
    ("frame_bytes_max", frame_bytes_max),
    ("inbox_entries_max", inbox_entries_max),
    ("inbox_bytes_max", inbox_bytes_max),
    ("clients_max", clients_max),
    ("unfinished_bytes_max", unfinished_bytes_max),
    ("output_bytes_max", output_bytes_max),
    ("inbox_share_percent_max", inbox_share_percent_max),
    ("pid_lines_per_second_max", pid_lines_per_second_max),
    ("outbox_entries_max", outbox_entries_max),
    ("outbox_bytes_max", outbox_bytes_max),
    ("receivers_max", receivers_max),
    ("in_flight_max", in_flight_max),
    ("auth_timeout", auth_timeout),
    ("idle_timeout", idle_timeout),
    ("frame_timeout", frame_timeout),
    ("output_timeout", output_timeout),
    ("closing_timeout", closing_timeout),
    ("eviction_age", eviction_age),
    ("turn_frames_max", turn_frames_max),
    ("turn_bytes_max", turn_bytes_max),
    ("turn_accepts_max", turn_accepts_max),
];

#[test]
fn every_field_is_watched() {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/proto/limits.rs")).unwrap();
    let (_, body) = source.split_once("pub struct Limits {").expect("the struct is there");
    let (body, _) = body.split_once("\n}").unwrap();
    let fields: Vec<&str> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        fields,
        WATCHED.map(|(name, _)| name),
        "each field of Limits needs a test of its name in this file"
    );
}

#[test]
fn the_defaults_are_those_of_the_protocol() {
    let limits = Limits::default();
    assert_eq!(limits.frame_bytes_max, 65_536);
    assert_eq!(limits.inbox_entries_max, 1_000);
    assert_eq!(limits.inbox_bytes_max, 2_097_152);
    assert_eq!(limits.clients_max, 128);
    assert_eq!(limits.unfinished_bytes_max, 8 << 20);
    assert_eq!(limits.output_bytes_max, 64 << 10);
    assert_eq!(limits.auth_timeout, Duration::from_secs(2));
    assert_eq!(limits.idle_timeout, Duration::from_secs(30));
    assert_eq!(limits.frame_timeout, Duration::from_secs(30));
    assert_eq!(limits.output_timeout, Duration::from_secs(30));
    assert_eq!(limits.closing_timeout, Duration::from_secs(1));
    assert_eq!(limits.eviction_age, Duration::from_millis(100));
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    type Tweak = fn(&mut Limits);
    let refused: [(&str, Tweak); 21] = [
        ("frame_bytes_max", |l| l.frame_bytes_max = 0),
        ("frame_bytes_max", |l| l.frame_bytes_max = (16 << 20) + 1),
        ("inbox_entries_max", |l| l.inbox_entries_max = 0),
        ("inbox_bytes_max", |l| l.inbox_bytes_max = (1 << 30) + 1),
        ("clients_max", |l| l.clients_max = 0),
        ("clients_max", |l| l.clients_max = 65_537),
        ("output_bytes_max", |l| l.output_bytes_max = 4_095),
        ("turn_frames_max", |l| l.turn_frames_max = 0),
        ("turn_bytes_max", |l| l.turn_bytes_max = 0),
        ("turn_accepts_max", |l| l.turn_accepts_max = 0),
        ("inbox_share_percent_max", |l| l.inbox_share_percent_max = 0),
        ("inbox_share_percent_max", |l| l.inbox_share_percent_max = 101),
        ("pid_lines_per_second_max", |l| l.pid_lines_per_second_max = 1_000_000_001),
        ("outbox_entries_max", |l| l.outbox_entries_max = 0),
        ("outbox_bytes_max", |l| l.outbox_bytes_max = (1 << 30) + 1),
        ("receivers_max", |l| l.receivers_max = 65_537),
        ("in_flight_max", |l| l.in_flight_max = 0),
        ("auth_timeout", |l| l.auth_timeout = Duration::ZERO),
        ("idle_timeout", |l| l.idle_timeout = Duration::ZERO),
        ("output_timeout", |l| l.output_timeout = Duration::ZERO),
        ("closing_timeout", |l| l.closing_timeout = Duration::ZERO),
    ];
    for (name, tweak) in refused {
        let mut limits = Limits::default();
        tweak(&mut limits);
        let refusal = limits.check().unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::InvalidLimit);
        assert!(refusal.to_string().starts_with(name), "{refusal}");
    }
    let mut limits = Limits::default();
    (limits.frame_bytes_max, limits.unfinished_bytes_max, limits.output_bytes_max) = (1, 0, 4_096);
    (limits.clients_max, limits.inbox_entries_max, limits.inbox_bytes_max) = (1, 1, 1);
    limits.eviction_age = Duration::ZERO;
    limits.check().unwrap();
}

#[test]
fn unlimited_timeouts_do_not_overflow() {
    let mut sim = Sim::new(|l| {
        l.auth_timeout = Duration::MAX;
        l.idle_timeout = Duration::MAX;
        l.frame_timeout = Duration::MAX;
    });
    let peer = sim.join();
    sim.advance(u64::from(u32::MAX));
    assert!(sim.ask(peer, &ping()).contains("pong"));
}

#[test]
fn frame_bytes_max() {
    for limit in [150, 1_000, 65_536, 200_000] {
        let mut sim = Sim::new(|l| l.frame_bytes_max = limit);
        let peer = sim.join();
        assert!(sim.ask(peer, &text_of_line(limit)).contains("uds-1"), "{limit}");
        sim.send(peer, &text_of_line(limit + 1));
        sim.run();
        sim.expect_error(peer, &format!("NDJSON frame exceeded {limit} bytes ($N)"));
    }
}

#[test]
fn inbox_entries_max() {
    for limit in [1, 7] {
        let mut sim = Sim::new(|l| l.inbox_entries_max = limit);
        let peer = sim.join();
        for _ in 0..limit {
            assert!(sim.ask(peer, &text("a")).contains("\"ok\""));
        }
        sim.send(peer, &text("a"));
        sim.run();
        sim.expect_error(peer, "inbox full");
        assert_eq!(sim.drain().len(), limit);
    }
}

#[test]
fn inbox_bytes_max() {
    for limit in [100, 1_000] {
        for beyond in [0, 1] {
            let mut sim = Sim::new(|l| l.inbox_bytes_max = limit);
            let peer = sim.join();
            assert!(sim.ask(peer, &text_stored_as(50)).contains("uds-1"));
            let answer = sim.ask(peer, &text_stored_as(limit - 50 + beyond));
            assert_eq!(answer.contains("inbox full"), beyond == 1, "{limit} and {beyond}: {answer}");
        }
    }
}

/// A newcomer, whether it was accepted, and which peers were evicted for it.
fn newcomer(sim: &mut Sim, others: &[Id]) -> (bool, Vec<usize>) {
    let id = sim.join();
    let is_in = sim.is_open(id) && !sim.peer(id).is_write_shut;
    if !is_in {
        sim.expect_error(id, "too many clients");
    }
    let gone = |at: &usize| sim.peer(others[*at]).is_write_shut || sim.closed(others[*at]).is_some();
    (is_in, (0..others.len()).filter(gone).collect())
}

#[test]
fn clients_max() {
    let mut sim = Sim::new(|_| ());
    let peers: Vec<Id> = (0..128).map(|_| sim.connect()).collect();
    sim.run();
    for &peer in &peers {
        assert!(sim.ask(peer, &ping()).contains("pong"));
    }
    sim.advance(1_000);
    assert_eq!(sim.endpoint.clients(), 128);
    assert_eq!(newcomer(&mut sim, &peers), (false, vec![]), "no authenticated client is evicted");
    assert!(peers.iter().all(|peer| sim.is_open(*peer)));
    sim.half_close(peers[5]);
    sim.run();
    assert_eq!(newcomer(&mut sim, &peers), (true, vec![5]), "a free slot is free");
    assert_eq!(sim.endpoint.clients(), 128);

    // The limit is the field's, not the default's.
    let mut sim = Sim::new(|l| l.clients_max = 3);
    let peers: Vec<Id> = (0..3).map(|_| sim.join_known()).collect();
    assert_eq!(newcomer(&mut sim, &peers), (false, vec![]));
    assert_eq!(sim.endpoint.clients(), 3);
}

#[test]
fn many_refusals_at_once_send_error_lines_and_are_bounded() {
    let mut sim = Sim::new(|l| l.clients_max = 4);
    let known: Vec<Id> = (0..4).map(|_| sim.join_known()).collect();
    // As many as may be closing, and more: the oldest of those is cut off.
    let refused: Vec<Id> = (0..40).map(|_| sim.connect()).collect();
    sim.run();
    for id in refused {
        sim.expect_error(id, "too many clients");
    }
    sim.advance(1_000);
    assert_eq!(sim.endpoint.clients(), 4);
    for id in known {
        assert!(sim.ask(id, &ping()).contains("pong"));
    }
}

#[test]
fn eviction_age() {
    // Age of the oldest, which peers have sent something, which have authenticated, which is evicted; none:
    // the newcomer.
    type Case = (u64, &'static [usize], &'static [usize], Option<usize>);
    let cases: [Case; 7] = [
        (99, &[], &[], None),
        (100, &[], &[], Some(0)),
        (100, &[0], &[], Some(1)),
        (100, &[0, 1, 2], &[], Some(0)),
        (100, &[1, 2], &[0], Some(1)),
        (100, &[], &[0, 1], Some(2)),
        (5_000_000, &[], &[0, 1, 2], None),
    ];
    for (age, spoken, known, victim) in cases {
        let mut sim = Sim::new(|l| {
            l.clients_max = 3;
            l.auth_timeout = Duration::from_secs(1_000_000);
            l.idle_timeout = Duration::from_secs(1_000_000);
            l.frame_timeout = Duration::from_secs(1_000_000);
        });
        let peers: Vec<Id> = (0..3).map(|_| sim.join()).collect();
        for &at in spoken {
            sim.send(peers[at], b"{");
        }
        for &at in known {
            sim.send(peers[at], &ping());
        }
        sim.run();
        for &at in known {
            sim.take(peers[at]);
        }
        sim.advance(age);
        let expected = (victim.is_some(), victim.into_iter().collect::<Vec<_>>());
        assert_eq!(newcomer(&mut sim, &peers), expected, "{age} ms, spoken {spoken:?}, known {known:?}");
        if let Some(at) = victim {
            sim.expect_error(peers[at], "too many clients");
        }
    }
    let mut sim = Sim::new(|l| {
        l.clients_max = 1;
        l.eviction_age = Duration::from_millis(700);
    });
    let first = sim.join();
    sim.advance(699);
    assert_eq!(newcomer(&mut sim, &[first]), (false, vec![]));
    sim.advance(1);
    assert_eq!(newcomer(&mut sim, &[first]), (true, vec![0]));
}

#[test]
fn unfinished_bytes_max() {
    // Room for two frames, and one more for reading: three clients may be in the middle of a line.
    let mut sim = Sim::new(|l| {
        l.frame_bytes_max = 1_000;
        l.unfinished_bytes_max = 2_000;
    });
    let half = text("half");
    let (first, second) = half.split_at(20);
    let known: Vec<Id> = (0..6).map(|_| sim.join_known()).collect();
    let newcomers: Vec<Id> = (0..2).map(|_| sim.join()).collect();
    for &peer in &known[..3] {
        sim.send(peer, first);
    }
    sim.run();
    assert!(known[..3].iter().all(|peer| sim.unread(*peer) == 0));
    for &peer in known[3..].iter().chain(&newcomers) {
        sim.send(peer, &text("waits"));
    }
    sim.run();
    assert!(known[3..].iter().chain(&newcomers).all(|peer| sim.unread(*peer) > 0), "they wait unread");
    // No input buffer for them yet: timeouts are suspended.
    sim.advance(29_999);
    assert!(known.iter().chain(&newcomers).all(|peer| sim.is_open(*peer)));
    assert!(sim.drain().is_empty());
    sim.send(known[1], second);
    sim.run();
    assert_eq!(sim.drain().len(), 6, "one buffer serves all that waited");
    for &peer in known[3..].iter().chain(&newcomers) {
        assert!(sim.take(peer).contains("\"ok\""));
    }
    // Timeouts are enforced for those that held a buffer without finishing their line.
    sim.advance(1);
    for &peer in &[known[0], known[2]] {
        sim.expect_error(peer, "idle timeout");
    }
    assert!(sim.is_open(known[1]));

    // With no room at all, one buffer is left for reading, and the others wait for it.
    let mut sim = Sim::new(|l| l.unfinished_bytes_max = 0);
    let (a, b) = (sim.join_known(), sim.join_known());
    sim.send(a, first);
    sim.run();
    sim.send(b, &text("b"));
    sim.run();
    assert!(sim.unread(b) > 0);
    sim.vanish(a);
    sim.run();
    assert!(sim.take(b).contains("uds-1"), "the buffer of one that is gone is free");
}

#[test]
fn output_bytes_max() {
    for limit in [4_096, 65_536] {
        let mut sim = Sim::new(|l| l.output_bytes_max = limit);
        let peer = sim.join();
        sim.peer(peer).room = 0;
        let lines: Vec<u8> = (0..3_000).flat_map(|_| ping()).collect();
        sim.send(peer, &lines);
        sim.run();
        let key = sim.key(peer);
        let held = sim.endpoint.output(key).len();
        assert!(held <= limit && held + 300 > limit, "{held} of {limit}");
        let unread = sim.unread(peer);
        assert!(unread > 0, "reading stops at the bound");
        let line = crate::util::fill(&ping(), crate::util::sim::token().expose(), PATH).len();
        sim.send(peer, &ping());
        sim.run();
        assert_eq!((sim.endpoint.output(key).len(), sim.unread(peer)), (held, unread + line));
        sim.peer(peer).room = usize::MAX;
        sim.run();
        assert_eq!(sim.take(peer).lines().count(), 3_001, "all are answered once they are taken");
    }
}

#[test]
fn an_error_line_fits_beyond_the_output_bound() {
    let mut sim = Sim::new(|l| l.output_bytes_max = 4_096);
    let peer = sim.join();
    sim.peer(peer).room = 0;
    // As many pings as leave no room for another answer, and a bad frame behind them.
    let answer = pong().replace("$PATH", PATH).len() + 21 + 1;
    let count = (4_096 - (PATH.len() + 2 + 128)) / answer + 1;
    sim.send(peer, &ping().repeat(count));
    sim.run();
    sim.send(peer, b"{\n");
    sim.run();
    sim.peer(peer).room = usize::MAX;
    sim.run();
    let answers = sim.take(peer);
    assert_eq!(answers.lines().count(), count + 1);
    assert!(answers.lines().last().unwrap().contains("invalid frame"));
}

#[test]
fn auth_timeout() {
    let timeout = || Expect(error("authentication timeout"));
    check(&[
        Case::new("silence", vec![Advance(1_999), Advance(1), timeout(), ExpectEnd]),
        Case::new(
            "blank lines and half a frame do not count",
            vec![send("\n\n"), Advance(1_000), send("{"), Advance(999), Advance(1), timeout(), ExpectEnd],
        ),
        Case::new(
            "just in time",
            vec![Advance(1_999), send(ping()), Expect(pong()), Advance(10_000), send(ping()), Expect(pong())],
        ),
        Case::new(
            "just in time, then idle",
            vec![
                Advance(1_999),
                send(text("a")),
                Expect(ok(1)),
                Advance(29_999),
                send(ping()),
                Expect(pong()),
            ],
        ),
    ]);
    for ms in [1, 300] {
        let mut sim = Sim::new(|l| l.auth_timeout = Duration::from_millis(ms));
        let peer = sim.join();
        sim.advance(ms - 1);
        assert!(sim.is_open(peer));
        sim.advance(1);
        sim.expect_error(peer, "authentication timeout");
        assert_eq!(sim.closed(peer), Some(CloseReason::AuthTimeout));
    }
}

#[test]
fn idle_timeout() {
    let timeout = || Expect(error("idle timeout"));
    check(&[
        Case::new(
            "silence",
            vec![send(ping()), Expect(pong()), Advance(29_999), Advance(1), timeout(), ExpectEnd],
        ),
        Case::new(
            "a blank line re-arms it",
            vec![
                send(ping()),
                Expect(pong()),
                Advance(29_999),
                send("\n"),
                Advance(29_999),
                send("\n"),
                Advance(29_999),
                Advance(1),
                timeout(),
                ExpectEnd,
            ],
        ),
        Case::new(
            "half a frame re-arms it",
            vec![
                send(text("a")),
                Expect(ok(1)),
                Advance(29_000),
                send("{"),
                Advance(29_000),
                send("}\n"),
                Expect(error("unauthorized")),
                ExpectEnd,
            ],
        ),
    ]);
    // What the peer takes counts as well.
    let mut sim = Sim::new(|l| l.idle_timeout = Duration::from_secs(5));
    let peer = sim.join_known();
    sim.peer(peer).room = 0;
    sim.send(peer, &ping());
    sim.advance(4_000);
    sim.peer(peer).room = 10;
    sim.advance(4_000);
    assert!(sim.is_open(peer));
    sim.take_some(peer, 10);
    sim.advance(4_999);
    assert!(sim.is_open(peer));
    sim.take(peer);
    sim.advance(4_999);
    assert!(sim.is_open(peer));
    sim.peer(peer).room = usize::MAX;
    sim.advance(5_001);
    assert!(sim.take(peer).contains("idle timeout"));
}

#[test]
fn frame_timeout() {
    let timeout = || Expect(error("idle timeout"));
    let mut steps = vec![send(ping()), Expect(pong())];
    for _ in 0..29 {
        steps.extend([send(" "), Advance(1_000)]);
    }
    steps.extend([Advance(999), send(" ")]);
    let mut late = steps.clone();
    late.extend([Advance(1), timeout(), ExpectEnd, Inbox(vec![])]);
    steps.extend([
        send(text("a")),
        Expect(ok(1)),
        Inbox(vec![stored("a")]),
        Advance(10_000),
        send(ping()),
        Expect(pong()),
    ]);
    check(&[Case::new("dripping, one too late", late), Case::new("dripping, just in time", steps)]);
    // The timeout starts with the first byte of the line, not with earlier bytes.
    let mut sim = Sim::new(|l| l.frame_timeout = Duration::from_secs(3));
    let peer = sim.join_known();
    sim.advance(2_000);
    sim.send(peer, &[ping(), b"{".to_vec()].concat());
    sim.advance(2_999);
    assert_eq!(sim.take(peer).lines().count(), 1);
    assert!(sim.is_open(peer));
    sim.advance(1);
    sim.expect_error(peer, "idle timeout");
    assert_eq!(sim.closed(peer), Some(CloseReason::FrameTimeout));
}

#[test]
fn output_timeout() {
    let stalled = |tweak: fn(&mut Limits)| {
        let mut sim = Sim::new(tweak);
        let peer = sim.join();
        sim.peer(peer).room = 100;
        sim.send(peer, &ping().repeat(1_500));
        sim.run();
        (sim, peer)
    };
    let (mut sim, peer) = stalled(|_| ());
    sim.advance(29_999);
    assert!(sim.is_open(peer));
    sim.advance(1);
    assert_eq!(sim.closed(peer), Some(CloseReason::OutputStalled));

    // Taking a little now and then is not taking all of it.
    let (mut sim, peer) = stalled(|_| ());
    for _ in 0..29 {
        sim.take(peer);
        sim.advance(1_000);
    }
    sim.advance(999);
    assert!(sim.is_open(peer));
    sim.advance(1);
    assert_eq!(sim.closed(peer), Some(CloseReason::OutputStalled));

    // Taking all of it in time is.
    let (mut sim, peer) = stalled(|_| ());
    sim.advance(29_999);
    let mut answers = sim.take(peer);
    sim.peer(peer).room = usize::MAX;
    sim.run();
    sim.advance(29_999);
    answers.push_str(&sim.take(peer));
    assert_eq!(answers.lines().count(), 1_500);
    assert!(sim.is_open(peer));

    let (mut sim, peer) = stalled(|l| l.output_timeout = Duration::from_millis(40));
    sim.advance(39);
    assert!(sim.is_open(peer));
    sim.advance(1);
    assert_eq!(sim.closed(peer), Some(CloseReason::OutputStalled));
}

#[test]
fn closing_timeout() {
    for (ms, tweak) in
        [(1_000, (|_| ()) as fn(&mut Limits)), (5, |l| l.closing_timeout = Duration::from_millis(5))]
    {
        // The error line is not taken.
        let mut sim = Sim::new(tweak);
        let peer = sim.join();
        sim.peer(peer).room = 0;
        sim.send(peer, b"{\n");
        sim.run();
        sim.advance(ms - 1);
        assert!(sim.is_open(peer));
        sim.advance(1);
        assert_eq!(sim.closed(peer), Some(CloseReason::InvalidFrame));

        // The error line is read, but the peer goes on sending: it is read until the same timeout.
        let mut sim = Sim::new(tweak);
        let peer = sim.join();
        sim.send(peer, b"{\n");
        sim.run();
        sim.expect_error(peer, "invalid frame");
        assert!(sim.peer(peer).is_write_shut && sim.is_open(peer));
        sim.advance(ms - 1);
        sim.send(peer, &ping());
        sim.run();
        assert!(sim.is_open(peer) && sim.unread(peer) == 0);
        sim.advance(1);
        assert_eq!(sim.closed(peer), Some(CloseReason::InvalidFrame));
        assert!(sim.take(peer).is_empty());

        // It stops sending: nothing is left to wait for.
        let mut sim = Sim::new(tweak);
        let peer = sim.join();
        sim.send(peer, b"{\n");
        sim.half_close(peer);
        sim.run();
        assert_eq!(sim.closed(peer), Some(CloseReason::InvalidFrame));
    }
}

#[test]
fn turn_frames_max() {
    for (limit, tweak) in
        [(16, (|_| ()) as fn(&mut Limits)), (1, |l| l.turn_frames_max = 1), (10, |l| l.turn_frames_max = 10)]
    {
        for beyond in [0, 1] {
            let mut sim = Sim::new(tweak);
            let peer = sim.join();
            sim.send(peer, &text("a").repeat(limit + beyond));
            sim.turn();
            assert_eq!(sim.endpoint.inbox_len(), limit, "one budget in a turn, in any order of its parts");
            sim.run();
            assert_eq!(sim.endpoint.inbox_len(), limit + beyond);
            assert!(!sim.endpoint.has_work());
        }
        let mut sim = Sim::new(tweak);
        let peer = sim.join();
        let now = sim.now();
        let key = sim.key(peer);
        let lines = crate::util::fill(&text("a").repeat(limit + 1), crate::util::sim::token().expose(), PATH);
        assert_eq!(sim.endpoint.received_bytes(key, &lines, now), lines.len());
        assert_eq!(sim.endpoint.inbox_len(), limit, "one budget at a time");
        assert!(sim.endpoint.has_work());
        assert!(sim.endpoint.recv_space(key, now).is_none(), "no more is read before that is done");
        sim.endpoint.work(now);
        assert_eq!(sim.endpoint.inbox_len(), limit, "not in this turn");
        sim.endpoint.turn_ended();
        sim.endpoint.work(now);
        assert_eq!(sim.endpoint.inbox_len(), limit + 1);
    }
}

/// The size of one read. A client whose deadline has expired is read whole, because its message may be
/// waiting.
#[test]
fn turn_bytes_max() {
    for (limit, tweak) in [
        (16_384, (|_| ()) as fn(&mut Limits)),
        (1, |l| l.turn_bytes_max = 1),
        (300, |l| l.turn_bytes_max = 300),
    ] {
        for beyond in [0, 1] {
            let mut sim = Sim::new(tweak);
            let peer = sim.join_known();
            sim.send(peer, &text_of_line(limit.max(200) - 1 + beyond));
            let sent = sim.unread(peer);
            sim.turn();
            assert_eq!(sent - sim.unread(peer), limit.min(sent));
            assert_eq!(sim.endpoint.inbox_len(), usize::from(sent <= limit));
            sim.run();
            assert_eq!(sim.endpoint.inbox_len(), 1);
        }
        let mut sim = Sim::new(tweak);
        let (newcomer_peer, known) = (sim.join(), sim.join_known());
        for peer in [newcomer_peer, known] {
            sim.send(peer, &text_of_line(65_536));
        }
        sim.turn();
        assert_eq!(sim.unread(newcomer_peer), 0, "it has not authenticated yet");
        assert_eq!(sim.unread(known), 65_537 - limit);
        sim.host_away(30_000);
        sim.turn();
        assert_eq!(sim.unread(known), 0, "its time is up");
        assert_eq!(sim.endpoint.inbox_len(), 2);
    }
}

#[test]
fn blank_lines_count_against_the_budget() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    let (now, key) = (sim.now(), sim.key(peer));
    assert_eq!(sim.endpoint.received_bytes(key, &[b'\n'; 17], now), 17);
    assert!(sim.endpoint.has_work());
    sim.endpoint.turn_ended();
    sim.endpoint.work(now);
    assert!(!sim.endpoint.has_work());
}

/// The endpoint leaves the count to its host but keeps enough slots: all clients, as many closing ones, and
/// as many freed in one turn never collide.
#[test]
fn turn_accepts_max() {
    let mut sim = Sim::new(|l| {
        l.clients_max = 10;
        l.turn_accepts_max = 5;
    });
    assert_eq!(sim.endpoint.slots_max(), 2 * 10 + 5);
    let refused: Vec<Id> = (0..12).map(|_| sim.connect()).collect();
    sim.turn();
    assert_eq!(sim.endpoint.clients(), 5);
    sim.turn();
    assert_eq!(sim.endpoint.clients(), 10);
    sim.run();
    sim.expect_error(refused[10], "too many clients");
    sim.expect_error(refused[11], "too many clients");
    for _ in 0..100 {
        for _ in 0..5 {
            sim.connect();
        }
        sim.turn();
        assert!(sim.endpoint.can_accept(), "a newcomer is at least refused with an error line");
    }
}

/// An outbox with these limits.
fn outbox(tweak: impl FnOnce(&mut Limits)) -> Outbox {
    let mut limits = Limits::default();
    tweak(&mut limits);
    Outbox::new(limits).unwrap()
}

fn put(outbox: &mut Outbox, target: &str, len: usize) -> Option<ErrorKind> {
    let message = Outgoing::new("text").with_text(&"x".repeat(len));
    outbox.send(target, &message, None, Duration::from_secs(5), Now::default()).err().map(|e| e.kind())
}

#[test]
fn outbox_entries_max() {
    let mut outbox = outbox(|l| l.outbox_entries_max = 3);
    let told = [0; 4].map(|len| put(&mut outbox, "/a", len));
    assert_eq!(told, [None, None, None, Some(ErrorKind::OutboxFull)]);
}

#[test]
fn outbox_bytes_max() {
    let line =
        r#"{"type":"text","data":"","ts":"1970-01-01T00:00:00.000Z","meta":{"authToken":""}}"#.len() + 64 + 1;
    for (beyond, told) in [(0, None), (1, Some(ErrorKind::OutboxFull))] {
        let mut outbox = outbox(|l| l.outbox_bytes_max = 2 * line + 100);
        assert_eq!(put(&mut outbox, "/a", 50), None);
        assert_eq!(put(&mut outbox, "/a", 50 + beyond), told);
    }
}

#[test]
fn receivers_max() {
    let mut outbox = outbox(|l| l.receivers_max = 2);
    let told = ["/a", "/b", "/a", "/c"].map(|target| put(&mut outbox, target, 0));
    assert_eq!(told, [None, None, None, Some(ErrorKind::OutboxFull)]);
}

#[test]
fn in_flight_max() {
    let mut outbox = outbox(|l| l.in_flight_max = 2);
    for _ in 0..3 {
        assert_eq!(put(&mut outbox, "/a", 0), None);
    }
    let now = Now::default();
    let Some((key, LinkStep::Connect)) = outbox.next_step() else { panic!("a connect step was expected") };
    outbox.connected(key, AuthToken::from_bytes([7; 32]), now);
    let lines = |outbox: &Outbox| outbox.output(key).iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines(&outbox), 2);
    outbox.sent(key, outbox.output(key).len());
    assert_eq!(lines(&outbox), 0, "two are in flight");
    let answer = b"{\"type\":\"response\"}\n";
    let mut space = outbox.recv_space(key).unwrap();
    space[..answer.len()].copy_from_slice(answer);
    space.received(answer.len(), now);
    assert_eq!(lines(&outbox), 1, "one was answered, and one more may go");
}

/// Lets `pid` in.
fn join_as(sim: &mut Sim, pid: u32) -> Id {
    let id = sim.connect_as(PeerIdentity::unix(OWNER, Some(pid)));
    sim.run();
    id
}

#[test]
fn inbox_share_percent_max() {
    // By count: 4 of 10. By bytes: 40 % of 1,000.
    for (entries, bytes, len, fit) in [(10, 1 << 20, 0, 4), (1_000, 1_000, 100 - stored("").len(), 4)] {
        let mut sim = Sim::new(|l| {
            l.inbox_share_percent_max = 40;
            (l.inbox_entries_max, l.inbox_bytes_max) = (entries, bytes);
        });
        let [sender, other, again] = [1, 2, 1].map(|pid| join_as(&mut sim, pid));
        let message = text(&"x".repeat(len));
        for _ in 0..fit {
            assert!(sim.ask(sender, &message).contains("uds-"));
        }
        assert!(sim.ask(other, &message).contains("uds-"), "the rest is for others");
        assert!(sim.ask(sender, &message).contains("inbox full"));
        assert!(sim.ask(again, &message).contains("inbox full"), "another connection of the same process");
        sim.drain();
        let back = join_as(&mut sim, 1);
        assert!(sim.ask(back, &message).contains("uds-"), "what was drained no longer counts");
    }
}

#[test]
fn pid_lines_per_second_max() {
    let mut sim = Sim::new(|l| l.pid_lines_per_second_max = 10);
    let [fast, same, other] = [1, 1, 2].map(|pid| join_as(&mut sim, pid));
    sim.send(fast, &ping().repeat(15));
    sim.run();
    let answered = |sim: &mut Sim, id| sim.take(id).matches("pong").count();
    assert_eq!(answered(&mut sim, fast), 10, "one second's worth at once");
    assert!(sim.ask(other, &ping()).contains("pong"), "others are not delayed");
    sim.send(same, &ping());
    sim.run();
    assert_eq!(answered(&mut sim, same), 0, "another connection of the same process");
    for _ in 0..6 {
        sim.advance(99);
        assert_eq!(answered(&mut sim, fast) + answered(&mut sim, same), 0);
        sim.advance(1);
        assert_eq!(answered(&mut sim, fast) + answered(&mut sim, same), 1, "one each tenth of a second");
    }
    // A pause causes no timeout, and no message is lost or refused.
    sim.send(fast, &text("last"));
    sim.half_close(fast);
    sim.advance(5_000);
    assert!(sim.take(fast).contains("uds-1"));
    assert_eq!(sim.closed(fast), Some(CloseReason::PeerFinished));
}
