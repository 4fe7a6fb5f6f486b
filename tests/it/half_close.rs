//! Clients that half-close.

use udsmsg::parts::CloseReason;

use crate::util::conversation::{Case, Expect, ExpectEnd, HalfClose, Inbox, check, send};
use crate::util::sim::Sim;
use crate::util::{error, ok, ping, pong, stored, text};
#[cfg(feature = "server")]
use crate::util::{real::Real, watchdog};

#[test]
fn half_closed_client_gets_pending_answers_and_then_the_end() {
    check(&[
        Case::new("nothing was sent", vec![HalfClose, ExpectEnd]),
        Case::new(
            "three answers",
            vec![
                send([text("a"), ping(), text("b")].concat()),
                HalfClose,
                Expect(ok(1)),
                Expect(pong()),
                Expect(ok(2)),
                ExpectEnd,
                Inbox(vec![stored("a"), stored("b")]),
            ],
        ),
        Case::new(
            "an unfinished line is dropped without an answer",
            vec![
                send([text("a"), b"{\"type\":\"text\"".to_vec()].concat()),
                HalfClose,
                Expect(ok(1)),
                ExpectEnd,
                Inbox(vec![stored("a")]),
            ],
        ),
        Case::new(
            "even one that would be a message if it had its newline",
            vec![
                send({
                    let mut line = text("a");
                    line.pop();
                    line
                }),
                HalfClose,
                ExpectEnd,
                Inbox(vec![]),
            ],
        ),
        Case::new("an error, too", vec![send("x\n"), HalfClose, Expect(error("invalid frame")), ExpectEnd]),
    ]);
}

#[test]
fn more_answers_than_fit_are_delivered_as_the_client_takes_them() {
    let mut sim = Sim::new(|limits| limits.output_bytes_max = 4_096);
    let peer = sim.join();
    sim.peer(peer).room = 1_000;
    for _ in 0..500 {
        sim.send(peer, &ping());
    }
    sim.half_close(peer);
    let mut taken = 0;
    let mut answers = String::new();
    for _ in 0..10_000 {
        sim.run();
        answers.push_str(&sim.take(peer));
        if answers.len() == taken && sim.closed(peer).is_some() {
            break;
        }
        taken = answers.len();
    }
    assert_eq!(answers.lines().count(), 500);
    assert_eq!(sim.closed(peer), Some(CloseReason::PeerFinished));
}

#[test]
fn frames_of_a_vanished_sender_are_processed() {
    let mut sim = Sim::new(|limits| limits.turn_frames_max = 10);
    let peer = sim.join();
    for _ in 0..300 {
        sim.send(peer, &text("a"));
    }
    sim.vanish(peer);
    sim.run();
    assert_eq!(sim.drain().len(), 300);
    assert_eq!(sim.closed(peer), Some(CloseReason::PeerGone));
}

#[test]
#[cfg(feature = "server")]
fn frames_of_a_vanished_sender_arrive_on_a_real_socket() {
    let _watchdog = watchdog::watch("frames of a sender that is gone");
    let real = Real::start(|_| ());
    for round in 1..=20_usize {
        let mut peer = real.connect();
        let lines: Vec<u8> = (0..40).flat_map(|_| text("a")).collect();
        peer.send(&lines);
        drop(peer);
        let mut count = 0;
        while count < 40 {
            count += real.drain().len();
        }
        assert_eq!(count, 40, "round {round}");
    }
}

#[test]
fn half_closed_client_that_reads_no_answers_is_cut_off() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    sim.peer(peer).room = 0;
    sim.send(peer, &ping());
    sim.half_close(peer);
    sim.run();
    sim.advance(999);
    assert_eq!(sim.closed(peer), None);
    sim.advance(1);
    assert_eq!(sim.closed(peer), Some(CloseReason::PeerFinished));
}
