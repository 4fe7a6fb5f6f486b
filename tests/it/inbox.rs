//! What the owner gets, and how much of it fits.

use udsmsg::{Batch, PeerIdentity};

use crate::util::conversation::{Case, Expect, ExpectEnd, Inbox, accepted, check, send};
use crate::util::sim::{OWNER, Sim};
use crate::util::{error, ok, ping, pong, stored, text, text_stored_as};
#[cfg(feature = "server")]
use crate::util::{real::Real, watchdog};

#[test]
fn the_token_is_cut_out_and_nothing_else_is_changed() {
    check(&[
        accepted(
            "meta goes if it is left empty",
            r#"{"type":"text","meta":{"authToken":"$TOKEN"},"data":"a"}"#,
            r#"{"type":"text","data":"a"}"#,
        ),
        accepted(
            "meta alone in front",
            r#"{"meta":{"authToken":"$TOKEN"},"type":"text"}"#,
            r#"{"type":"text"}"#,
        ),
        accepted(
            "the token is first in meta",
            r#"{"type":"text","meta":{"authToken":"$TOKEN","hops":1}}"#,
            r#"{"type":"text","meta":{"hops":1}}"#,
        ),
        accepted(
            "the token is last in meta",
            r#"{"type":"text","meta":{"hops":1,"authToken":"$TOKEN"}}"#,
            r#"{"type":"text","meta":{"hops":1}}"#,
        ),
        accepted(
            "the token is in the middle",
            r#"{"type":"text","meta":{"a":1,"authToken":"$TOKEN","b":2}}"#,
            r#"{"type":"text","meta":{"a":1,"b":2}}"#,
        ),
        accepted(
            "unknown keys are kept",
            r#"{"type":"new","x":[1,{"authToken":"y"}],"meta":{"authToken":"$TOKEN"}}"#,
            r#"{"type":"new","x":[1,{"authToken":"y"}]}"#,
        ),
        accepted(
            "escapes and numbers stay as they were written",
            r#"{"type":"text","data":"\u0041\/","n":1.50e+2,"meta":{"authToken":"$TOKEN"}}"#,
            r#"{"type":"text","data":"\u0041\/","n":1.50e+2}"#,
        ),
    ]);
}

#[test]
fn ids_count_accepted_messages_but_not_pings() {
    check(&[Case::new(
        "pings between messages",
        vec![
            send(ping()),
            Expect(pong()),
            send([text("a"), ping(), text("b")].concat()),
            Expect(ok(1)),
            Expect(pong()),
            Expect(ok(2)),
            Inbox(vec![stored("a"), stored("b")]),
            send(text("c")),
            Expect(ok(3)),
            Inbox(vec![stored("c")]),
        ],
    )]);
}

#[test]
fn full_inbox_closes_the_sender_and_keeps_entries() {
    check(&[Case::new(
        "two fit",
        vec![
            send([text("a"), text("b"), text("c"), text("d")].concat()),
            Expect(ok(1)),
            Expect(ok(2)),
            Expect(error("inbox full")),
            ExpectEnd,
            Inbox(vec![stored("a"), stored("b")]),
        ],
    )
    .with(|limits| limits.inbox_entries_max = 2)]);
}

#[test]
fn a_thousand_entries_fit_and_one_more_does_not() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    for number in 1..=1000 {
        assert!(sim.ask(peer, &text("n")).contains(&format!("\"uds-{number}\"")));
    }
    assert!(sim.ask(peer, &ping()).contains("pong"), "a ping needs no room");
    sim.send(peer, &text("n"));
    sim.run();
    sim.expect_error(peer, "inbox full");
    assert_eq!(sim.drain().len(), 1000);
    let next = sim.join();
    assert!(sim.ask(next, &text("n")).contains("\"uds-1001\""), "a refused message has no number");
}

#[test]
fn sixty_four_messages_of_32768_bytes_fit_exactly_and_one_more_byte_does_not() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    for _ in 0..63 {
        assert!(sim.ask(peer, &text_stored_as(32_768)).contains("\"ok\""));
    }
    let other = sim.join();
    sim.send(other, &text_stored_as(32_769));
    sim.run();
    sim.expect_error(other, "inbox full");
    assert!(sim.ask(peer, &text_stored_as(32_768)).contains("\"uds-64\""), "what fits still gets in");
    sim.send(peer, &text(""));
    sim.run();
    sim.expect_error(peer, "inbox full");
    let stored = sim.drain();
    assert_eq!(stored.iter().map(String::len).sum::<usize>(), 2_097_152);
    assert!(stored.iter().all(|json| json.len() == 32_768));
}

#[test]
fn a_message_larger_than_the_whole_inbox_is_refused() {
    let mut sim = Sim::new(|limits| limits.inbox_bytes_max = 100);
    let peer = sim.join();
    assert!(sim.ask(peer, &text_stored_as(100)).contains("uds-1"));
    sim.drain();
    sim.send(peer, &text_stored_as(101));
    sim.run();
    sim.expect_error(peer, "inbox full");
}

#[test]
fn entries_hold_sender_content_and_time() {
    let mut sim = Sim::new(|_| ());
    let root = sim.connect_as(PeerIdentity::unix(0, None));
    let known = sim.join();
    sim.advance(1_234);
    let meta = r#"{"hops":2,"authToken":"$TOKEN"}"#;
    let query = r#"{"type":"query","data":"a\ud83d\ude00","from":"/x","ts":"then","meta":"#;
    sim.send(known, format!("{query}{meta}}}\n").as_bytes());
    sim.run();
    sim.send(root, &text("from root"));
    sim.run();
    let sent_at = sim.now().wall;
    let batch = sim.endpoint.drain();
    // The endpoint can be used while entries are held.
    sim.advance(5);
    assert!(sim.ask(known, &text("meanwhile")).contains("uds-3"));
    let entries: Vec<_> = batch.iter().collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].id().to_string(), "uds-1");
    assert_eq!(entries[0].id().number(), 1);
    assert_eq!(entries[0].received_at(), sent_at);
    assert_eq!(entries[0].peer(), PeerIdentity::unix(OWNER, Some(77)));
    assert_eq!(entries[1].peer(), PeerIdentity::unix(0, None));
    let message = entries[0].message();
    assert_eq!(message.kind(), "query");
    assert_eq!(message.data().unwrap().text().unwrap(), "a\u{1f600}");
    assert_eq!(message.from().unwrap(), "/x");
    assert_eq!(message.ts().unwrap(), "then");
    assert_eq!(message.meta(), Some(r#"{"hops":2}"#));
    assert_eq!(entries[1].message().data().unwrap().json(), r#""from root""#);
    assert_eq!(entries[1].message().meta(), None);
}

#[test]
fn a_batch_is_filled_again_and_emptied_by_an_empty_inbox() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    let mut batch = Batch::new();
    for round in 1..=5_u64 {
        for _ in 0..round {
            sim.ask(peer, &text("n"));
        }
        assert_eq!(sim.endpoint.inbox_len() as u64, round);
        assert_eq!(sim.endpoint.drain_into(&mut batch) as u64, round);
        assert_eq!(sim.endpoint.inbox_len(), 0);
        let ids: Vec<u64> = batch.iter().map(|entry| entry.id().number()).collect();
        let first = round * (round - 1) / 2 + 1;
        assert_eq!(ids, (first..first + round).collect::<Vec<_>>());
    }
    assert_eq!(sim.endpoint.drain_into(&mut batch), 0);
    assert!(batch.is_empty());
    assert_eq!(sim.endpoint.accepted_total(), 15);
}

#[test]
#[cfg(feature = "server")]
fn a_batch_of_a_real_server_outlives_turns() {
    let _watchdog = watchdog::watch("a_batch_of_a_real_server_outlives_turns");
    let real = Real::start(|_| ());
    let mut peer = real.connect();
    peer.send(&text("a"));
    assert!(peer.line().unwrap().contains("uds-1"));
    let batch = real.with(udsmsg::Server::drain);
    peer.send(&text("b"));
    assert!(peer.line().unwrap().contains("uds-2"));
    let entry = batch.iter().next().unwrap();
    assert_eq!(entry.message().json(), stored("a"));
    assert_eq!(entry.peer().pid(), Some(std::process::id()));
    assert_eq!(real.drain(), [stored("b")]);
}

/// An owner that drains after every turn never has a message refused, however much arrives at once; one that
/// does not drain has it refused in the next turn.
#[test]
fn message_that_does_not_fit_waits_one_turn_for_a_drain() {
    for drains in [true, false] {
        let mut sim = Sim::new(|l| {
            l.inbox_entries_max = 10;
            l.turn_frames_max = 8;
        });
        let peers: Vec<_> = (0..4).map(|_| sim.join()).collect();
        for peer in &peers {
            sim.send(*peer, &text("x").repeat(8));
        }
        for _ in 0..8 {
            sim.turn();
            if drains {
                sim.endpoint.drain();
            }
        }
        let refused = peers.iter().filter(|peer| sim.take(**peer).contains("inbox full")).count();
        assert_eq!(refused, if drains { 0 } else { 3 });
        assert_eq!(sim.endpoint.accepted_total(), if drains { 32 } else { 10 });
    }
}
