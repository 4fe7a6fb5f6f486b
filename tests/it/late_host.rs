//! A late host never times out a peer whose data is waiting.

use udsmsg::parts::CloseReason;

use crate::util::sim::{Id, Sim};
use crate::util::{ping, text, text_of_line};

/// How long the host is away, in milliseconds.
const AWAY: [u64; 2] = [3_000, 40_000];

#[test]
fn first_message_that_arrived_in_time_counts() {
    for away in AWAY {
        let mut sim = Sim::new(|_| ());
        let (in_time, silent) = (sim.join(), sim.join());
        sim.send(in_time, &text("a"));
        sim.host_away(away);
        sim.run();
        assert!(sim.take(in_time).contains("uds-1"), "{away} ms");
        assert!(sim.is_open(in_time));
        sim.expect_error(silent, "authentication timeout");
    }
}

#[test]
fn auth_timeout_of_a_waiting_client_starts_at_accept() {
    for away in AWAY {
        let mut sim = Sim::new(|_| ());
        sim.run();
        let silent = sim.connect();
        let eager = sim.connect();
        sim.send(eager, &text("a"));
        sim.host_away(away);
        sim.run();
        assert!(sim.take(eager).contains("uds-1"));
        assert!(sim.is_open(silent));
        sim.advance(1_999);
        assert!(sim.is_open(silent));
        sim.advance(1);
        sim.expect_error(silent, "authentication timeout");
    }
}

#[test]
fn any_waiting_byte_keeps_a_client_from_being_idle() {
    let mut sim = Sim::new(|_| ());
    let (blank, silent) = (sim.join_known(), sim.join_known());
    sim.advance(20_000);
    sim.send(blank, b"\n");
    sim.host_away(40_000);
    sim.run();
    assert!(sim.is_open(blank));
    sim.expect_error(silent, "idle timeout");
    assert_eq!(sim.closed(silent), Some(CloseReason::IdleTimeout));
    sim.advance(29_999);
    assert!(sim.is_open(blank));
    sim.advance(1);
    sim.expect_error(blank, "idle timeout");
}

#[test]
fn a_frame_whose_rest_came_in_time_counts() {
    let mut sim = Sim::new(|_| ());
    let (in_time, dripping) = (sim.join_known(), sim.join_known());
    let line = text("a");
    sim.send(in_time, &line[..10]);
    sim.send(dripping, &line[..10]);
    sim.run();
    sim.send(in_time, &line[10..]);
    sim.send(dripping, &line[10..11]);
    sim.host_away(40_000);
    sim.run();
    assert!(sim.take(in_time).contains("uds-1"));
    sim.expect_error(dripping, "idle timeout");
}

/// The same with every size of what is already there and of what is still to come.
#[test]
fn a_large_frame_whose_rest_came_in_time_counts() {
    for before in [0, 1_000, 20_000, 30_000, 40_000, 60_000] {
        for frame in [1_000, 30_000, 50_000, 65_536] {
            for begun in [1, 500, frame / 2, frame] {
                let mut sim = Sim::new(|_| ());
                let peer = sim.join_known();
                let line = crate::util::fill(&text_of_line(frame), crate::util::sim::token().expose(), "");
                // Lines processed before leave the buffer's beginning used.
                let mut first = vec![b' '; before];
                first.push(b'\n');
                first.extend_from_slice(&line[..begun]);
                sim.send_raw(peer, &first);
                sim.run();
                assert_eq!(sim.unread(peer), 0);
                sim.send_raw(peer, &line[begun..]);
                sim.host_away(40_000);
                sim.run();
                let answer = sim.take(peer);
                assert!(
                    answer.contains("uds-1"),
                    "{before} bytes before, {begun} of {frame} begun, the rest sent at once, late: {answer}"
                );
            }
        }
    }
}

#[test]
fn answers_that_were_taken_meanwhile_count() {
    let mut sim = Sim::new(|_| ());
    let (taker, other) = (sim.join(), sim.join());
    for peer in [taker, other] {
        sim.peer(peer).room = 0;
        sim.send(peer, &ping().repeat(1_000));
    }
    sim.run();
    sim.host_away(40_000);
    sim.peer(taker).room = usize::MAX;
    sim.run();
    assert_eq!(sim.take(taker).lines().count(), 1_000);
    assert!(sim.is_open(taker));
    assert_eq!(sim.closed(other), Some(CloseReason::OutputStalled));
}

#[test]
fn error_line_taken_meanwhile_ends_the_connection_normally() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    sim.peer(peer).room = 0;
    sim.send(peer, b"{\n");
    sim.run();
    sim.host_away(40_000);
    sim.peer(peer).room = 1_000;
    sim.run();
    sim.expect_error(peer, "invalid frame");
    assert_eq!(sim.closed(peer), Some(CloseReason::InvalidFrame));
}

#[test]
fn clients_with_waiting_data_are_not_evicted_for_newcomers() {
    for away in AWAY {
        let mut sim = Sim::new(|_| ());
        let clients: Vec<Id> = (0..128).map(|_| sim.connect()).collect();
        sim.run();
        for &peer in &clients {
            sim.send(peer, &text("a"));
        }
        let newcomers: Vec<Id> = (0..50).map(|_| sim.connect()).collect();
        sim.host_away(away);
        sim.run();
        for peer in clients {
            assert!(sim.take(peer).contains("\"ok\""));
            assert!(sim.is_open(peer));
        }
        for peer in newcomers {
            sim.expect_error(peer, "too many clients");
        }
    }
}

#[test]
fn clients_that_connected_meanwhile_are_served_while_slots_last() {
    for away in AWAY {
        let mut sim = Sim::new(|_| ());
        let peers: Vec<Id> = (0..128).map(|_| sim.connect()).collect();
        for &peer in &peers {
            sim.send(peer, &text("a"));
        }
        sim.host_away(away);
        sim.run();
        for peer in peers {
            assert!(sim.take(peer).contains("\"ok\""));
        }
        assert_eq!(sim.drain().len(), 128);
    }
}

/// Frames that a budget left over have been read already: they count as received.
#[test]
fn a_first_message_behind_a_budget_of_blank_lines_counts() {
    for blank_lines in [1, 127, 128, 255, 256, 1_000] {
        let mut sim = Sim::new(|_| ());
        let peer = sim.join();
        sim.send(peer, &vec![b'\n'; blank_lines]);
        sim.send(peer, &text("a"));
        sim.host_away(3_000);
        sim.run();
        let answer = sim.take(peer);
        assert!(answer.contains("uds-1"), "behind {blank_lines} blank lines, all sent at once: {answer}");
    }
}

/// Lines left over by a budget count as received, and so does what is waiting in the socket behind them.
#[test]
fn data_behind_lines_left_by_a_budget_counts() {
    type Prepare = fn(&mut Sim, Id) -> usize;
    let cases: [(&str, Prepare); 3] = [
        ("a sender that wrote all and went", |sim, peer| {
            sim.send(peer, &text("m").repeat(900));
            sim.vanish(peer);
            900
        }),
        ("blank lines, then a message", |sim, peer| {
            sim.send_raw(peer, &vec![b'\n'; 20_000]);
            sim.send(peer, &text("m"));
            1
        }),
        ("one that takes no answers", |sim, peer| {
            sim.peer(peer).room = 0;
            sim.send(peer, &text("m").repeat(300));
            300
        }),
    ];
    for (name, prepare) in cases {
        for away in [0, 31_000] {
            let mut sim = Sim::new(|_| ());
            let peer = sim.join_known();
            let sent = prepare(&mut sim, peer);
            sim.turn();
            let mut taken = sim.drain().len();
            sim.host_away(away);
            for _ in 0..2_000 {
                sim.turn();
                taken += sim.drain().len();
            }
            assert_eq!(taken, sent, "{name}, away for {away} ms: {:?}", sim.closed(peer));
        }
    }
}

/// The same when a rate leaves lines over.
#[test]
fn data_behind_lines_left_by_a_rate_counts() {
    let mut sim = Sim::new(|l| {
        l.pid_lines_per_second_max = 1;
        l.auth_timeout = std::time::Duration::from_secs(1_000);
    });
    let peers: Vec<Id> = (0..60).map(|_| sim.join()).collect();
    for &peer in &peers {
        sim.send(peer, &text("a"));
    }
    sim.advance(25_000);
    for &peer in &peers {
        sim.send(peer, &text("b"));
    }
    for _ in 0..400 {
        sim.advance(500);
    }
    for &peer in &peers {
        assert_eq!(sim.take(peer).matches("uds-").count(), 2, "{:?}", sim.closed(peer));
    }
}

/// A client that waits for inbox space is neither timed out nor evicted for a newcomer.
#[test]
fn waiting_for_inbox_space_suspends_timeouts_and_eviction() {
    for (clients, newcomers, away) in [(100, 0, 3_000), (128, 50, 150)] {
        let mut sim = Sim::new(|_| ());
        let peers: Vec<Id> = (0..clients).map(|_| sim.connect()).collect();
        sim.run();
        sim.advance(away.min(150));
        for &peer in &peers {
            sim.send(peer, &text("m").repeat(16));
        }
        for _ in 0..newcomers {
            sim.connect();
        }
        sim.host_away(away);
        let mut taken = 0;
        for _ in 0..20 {
            sim.turn();
            taken += sim.drain().len();
        }
        for &peer in &peers {
            let answers = sim.take(peer);
            assert!(!answers.contains("error"), "{clients} clients: {answers}");
        }
        assert_eq!(taken, 16 * clients);
    }
    let mut sim = Sim::new(|l| l.inbox_entries_max = 1);
    let (first, second) = (sim.join_known(), sim.join_known());
    let line = text("b");
    sim.send(second, &line[..10]);
    sim.run();
    sim.send(second, &line[10..]);
    sim.send(first, &text("a"));
    sim.host_away(31_000);
    for expected in ["a", "b"] {
        sim.turn();
        assert_eq!(sim.drain(), [crate::util::stored(expected)]);
    }
}

/// One write may take less than what was held back for the peer while the host was away.
#[test]
fn held_back_answers_are_written_first() {
    for away in [0, 31_000] {
        let mut sim = Sim::new(|l| l.output_bytes_max = 1 << 20);
        let (reader, stuck) = (sim.join_known(), sim.join_known());
        for peer in [reader, stuck] {
            sim.peer(peer).room = 200_000;
            sim.send(peer, &ping().repeat(16_000));
        }
        sim.run();
        assert!(sim.unread(reader) > 0, "it reached its bound");
        sim.host_away(20_000);
        sim.run();
        sim.take(reader);
        sim.host_away(away.max(10_000));
        for _ in 0..4_000 {
            sim.turn();
            sim.take(reader);
        }
        assert!(sim.is_open(reader), "away for {away} ms: {:?}", sim.closed(reader));
        assert_eq!(sim.closed(stuck), Some(CloseReason::OutputStalled));
    }
}
