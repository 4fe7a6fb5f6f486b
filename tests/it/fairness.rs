//! One turn serves every client, also during a flood; old keys reach no connection.

use udsmsg::parts::CloseReason;

use crate::util::sim::{Id, Sim};
use crate::util::{ping, text};

#[test]
fn flooder_with_a_full_budget_delays_no_other_client() {
    let mut sim = Sim::new(|l| {
        l.inbox_entries_max = 1 << 20;
        l.inbox_bytes_max = 1 << 28;
    });
    let flooder = sim.join_known();
    let quiet: Vec<Id> = (0..20).map(|_| sim.join_known()).collect();
    let flood = text("f").repeat(500);
    for round in 0..50 {
        if sim.unread(flooder) < 100_000 {
            sim.send(flooder, &flood);
        }
        for &peer in &quiet {
            sim.send(peer, &ping());
        }
        sim.turn();
        for &peer in &quiet {
            assert!(sim.take(peer).contains("pong"), "round {round}: answered in the same turn");
        }
        let in_this_turn = sim.drain().len();
        assert!((1..=16).contains(&in_this_turn), "round {round}: {in_this_turn} of the flood");
        sim.take(flooder);
    }
}

#[test]
fn flooders_share_evenly() {
    let mut sim = Sim::new(|l| {
        l.inbox_entries_max = 1 << 20;
        l.inbox_bytes_max = 1 << 28;
    });
    let flooders: Vec<Id> = (0..5).map(|_| sim.join_known()).collect();
    for &peer in &flooders {
        sim.send(peer, &text("f").repeat(5_000));
    }
    let mut answers = vec![0_usize; flooders.len()];
    for _ in 0..10 {
        sim.turn();
        for (at, &peer) in flooders.iter().enumerate() {
            answers[at] += sim.take(peer).lines().count();
        }
    }
    let (least, most) = (answers.iter().min().unwrap(), answers.iter().max().unwrap());
    assert!(*least > 0 && most <= &(least * 2), "{answers:?}");
}

/// An inbox smaller than one turn's budget of all clients: a client that finds it full in one turn is first
/// in the next.
#[test]
fn flooders_share_an_inbox_that_one_turn_fills() {
    let mut sim = Sim::new(|l| l.inbox_entries_max = 100);
    let flooders: Vec<Id> = (0..10).map(|_| sim.join_known()).collect();
    let flood = text("f").repeat(1_000);
    let mut answers = vec![0_usize; flooders.len()];
    for _ in 0..20 {
        for (at, &peer) in flooders.iter().enumerate() {
            if sim.unread(peer) < 100_000 {
                sim.send(peer, &flood);
            }
            answers[at] += sim.take(peer).lines().count();
        }
        sim.turn();
        sim.drain();
    }
    let (least, most) = (answers.iter().min().unwrap(), answers.iter().max().unwrap());
    assert!(*least > 0 && most <= &(least * 2), "{answers:?}");
}

#[test]
fn deadlines_of_others_expire_during_a_flood() {
    let mut sim = Sim::new(|l| {
        l.inbox_entries_max = 1 << 20;
        l.inbox_bytes_max = 1 << 28;
    });
    let flooder = sim.join_known();
    let silent = sim.join();
    sim.send(flooder, &text("f").repeat(5_000));
    sim.host_away(2_000);
    sim.turn();
    assert!(sim.endpoint.has_work());
    sim.expect_error(silent, "authentication timeout");
}

#[test]
fn stale_keys_do_nothing() {
    let mut sim = Sim::new(|l| l.clients_max = 1);
    let gone = sim.join_known();
    let stale = sim.key(gone);
    sim.half_close(gone);
    sim.run();
    assert_eq!(sim.closed(gone), Some(CloseReason::PeerFinished));
    let here = sim.join_known();
    let key = sim.key(here);
    assert_eq!(key.index(), stale.index(), "the slot is used again");
    assert_ne!(key, stale);
    let now = sim.now();
    let line = crate::util::fill(&text("a"), crate::util::sim::token().expose(), "");
    assert!(sim.endpoint.recv_space(stale, now).is_none());
    assert_eq!(sim.endpoint.received_bytes(stale, &line, now), 0);
    sim.endpoint.end_of_input(stale, now);
    sim.endpoint.output_failed(stale);
    sim.endpoint.sent(stale, 10, now);
    sim.endpoint.broken(stale);
    assert!(sim.endpoint.output(stale).is_empty());
    sim.run();
    assert_eq!(sim.endpoint.clients(), 1);
    assert!(sim.ask(here, &ping()).contains("pong"));
}

#[test]
fn slot_is_reused_only_after_its_turn() {
    let mut sim = Sim::new(|l| l.clients_max = 2);
    let peer = sim.join_known();
    let key = sim.key(peer);
    let now = sim.now();
    sim.endpoint.broken(key);
    let identity = udsmsg::PeerIdentity::unix(0, None);
    let next = sim.endpoint.accepted(identity, now).unwrap();
    assert_ne!(next.index(), key.index(), "events of this turn may still name the old index");
    sim.endpoint.turn_ended();
    let third = sim.endpoint.accepted(identity, now).unwrap();
    assert_eq!(third.index(), key.index());
    assert_ne!(third, key);
}

/// Random clients under faults: each gets exactly the answers to its lines.
#[test]
fn random_clients_under_faults_get_exactly_their_answers() {
    for seed in 0..10 * crate::util::scale() as u64 {
        let mut dice = crate::util::Dice::new(seed);
        let mut sim = Sim::new(|l| {
            l.frame_bytes_max = 300;
            l.unfinished_bytes_max = 900;
            l.output_bytes_max = 4_096;
            l.turn_frames_max = 5;
            l.turn_bytes_max = 400;
            l.inbox_entries_max = 1 << 20;
            l.inbox_bytes_max = 1 << 28;
        });
        sim.faults = Some(crate::util::Dice::new(!seed));
        let peers: Vec<Id> = (0..12).map(|_| sim.join_known()).collect();
        let mut backlog: Vec<Vec<u8>> = vec![Vec::new(); peers.len()];
        let mut expected = vec![0_usize; peers.len()];
        let mut answered = vec![0_usize; peers.len()];
        let mut sent = 0;
        for _ in 0..400 {
            let at = dice.below(peers.len());
            match dice.below(5) {
                0 | 1 => {
                    let line = if dice.below(2) == 0 { text("m") } else { ping() };
                    sent += usize::from(line == text("m"));
                    expected[at] += 1;
                    let line = crate::util::fill(&line, crate::util::sim::token().expose(), "");
                    backlog[at].extend(line);
                }
                2 => {
                    let n = dice.below(backlog[at].len() + 1);
                    let piece: Vec<u8> = backlog[at].drain(..n).collect();
                    sim.send_raw(peers[at], &piece);
                }
                3 => sim.peer(peers[at]).room = dice.below(400),
                _ => answered[at] += sim.take(peers[at]).matches('\n').count(),
            }
            sim.turn();
        }
        for (at, &peer) in peers.iter().enumerate() {
            sim.peer(peer).room = usize::MAX;
            sim.send_raw(peer, &std::mem::take(&mut backlog[at]));
        }
        sim.run();
        for (at, &peer) in peers.iter().enumerate() {
            answered[at] += sim.take(peer).matches('\n').count();
        }
        assert_eq!(answered, expected, "seed {seed}");
        assert_eq!(sim.drain().len(), sent, "seed {seed}");
    }
}
