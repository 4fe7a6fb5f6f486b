//! One test for each bug that was found, in the order in which they were found.

use udsmsg::parts::CloseReason;

use crate::util::sim::Sim;
use crate::util::{ping, text};

/// The ring offered only the space behind the unfinished frame, not all free space. So the one read of a late
/// turn did not get the whole rest, and the frame counted as unfinished.
#[test]
fn one_read_offers_room_for_the_rest_of_any_frame() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join_known();
    let (now, key) = (sim.now(), sim.key(peer));
    let mut first = vec![b' '; 30_000];
    first.extend(b"\n{");
    assert_eq!(sim.endpoint.received_bytes(key, &first, now), first.len());
    sim.host_away(30_000);
    let now = sim.now();
    let space = sim.endpoint.recv_space(key, now).unwrap().len();
    assert!(space >= 65_536, "room for {space} bytes, and 65,536 may be missing");
}

/// A buffer reserved for a connection that is then closed goes to the next waiting one at once.
#[test]
fn reserved_buffer_of_a_closed_connection_goes_to_the_next() {
    let mut sim = Sim::new(|l| {
        l.unfinished_bytes_max = 0;
        l.clients_max = 3;
    });
    let holder = sim.join_known();
    let waits_first = sim.join();
    let waits_next = sim.join_known();
    sim.send(holder, &ping()[..5]);
    sim.run();
    sim.send(waits_first, b"{");
    sim.run();
    sim.send(waits_next, &text("a"));
    sim.run();
    // The stream of the first waiting connection breaks in the turn in which the buffer is returned and
    // reserved for it.
    sim.send(holder, &ping()[5..]);
    sim.turn();
    let key = sim.key(waits_first);
    sim.endpoint.broken(key);
    sim.run();
    assert!(sim.take(holder).contains("pong"));
    assert_eq!(sim.closed(waits_first), Some(CloseReason::PeerGone));
    assert!(sim.take(waits_next).contains("uds-1"), "it waits although a buffer is free");
}

/// A closing connection without an input buffer gets one when it is free, so that it can be read to its end.
#[test]
fn closing_connection_without_a_buffer_is_read_when_one_is_free() {
    let mut sim = Sim::new(|l| l.unfinished_bytes_max = 0);
    let closing = sim.join();
    let holder = sim.join_known();
    sim.send(closing, b"{\n");
    sim.run();
    sim.expect_error(closing, "invalid frame");
    sim.send(holder, b" ");
    sim.run();
    sim.send(closing, &vec![b'x'; 1_000]);
    sim.half_close(closing);
    sim.run();
    sim.send(holder, &ping());
    sim.run();
    assert!(sim.take(holder).contains("pong"));
    assert_eq!(sim.closed(closing), Some(CloseReason::InvalidFrame), "nothing keeps it from being read");
}

/// When too many connections are closing, the one that has been closing longest is cut off, not the oldest
/// one: refused connections that linger must not cost a served client its answers.
#[test]
fn refused_connections_that_linger_do_not_cut_off_a_served_client() {
    let mut sim = Sim::new(|l| l.clients_max = 2);
    let served = sim.join_known();
    let other = sim.join_known();
    // They are refused and linger.
    let lingering: Vec<_> = (0..2).map(|_| sim.join()).collect();
    for &id in &lingering {
        sim.expect_error(id, "too many clients");
    }
    sim.peer(served).room = 0;
    sim.send(served, &text("a"));
    sim.half_close(served);
    sim.run();
    sim.peer(served).room = usize::MAX;
    sim.run();
    assert!(sim.take(served).contains("uds-1"), "its answer was dropped");
    assert_eq!(sim.closed(served), Some(CloseReason::PeerFinished));
    assert!(sim.ask(other, &ping()).contains("pong"));
}

/// The outcome of a message that failed while it was started was never reported.
#[test]
#[cfg(feature = "server")]
fn immediate_outcome_is_reported() {
    let home = crate::util::real::Home::new();
    let mut client =
        udsmsg::Client::in_namespace(&udsmsg::Namespace::default(), &home.environment()).unwrap();
    let nowhere = udsmsg::Address::from_path(&home.path_for("nowhere.sock")).unwrap();
    for _ in 0..if cfg!(windows) { 1_200 } else { 3_000 } {
        let id = client.start(&nowhere, &udsmsg::Outgoing::new("text")).unwrap();
        let told = client.next_outcome().unwrap();
        assert!(matches!(&told, Some((told, udsmsg::SendOutcome::NotSent(_))) if *told == id), "{told:?}");
    }
    assert!(client.next_outcome().unwrap().is_none());
}

/// Of two closing connections with answers to deliver, the one that had just finished was cut off instead of
/// the older one if both had begun at the same clock reading.
#[test]
fn too_many_closing_connections_cut_off_the_oldest() {
    let mut sim = Sim::new(|l| l.clients_max = 2);
    let (oldest, other) = (sim.join_known(), sim.join());
    sim.peer(oldest).room = 10;
    sim.send(oldest, &text("a"));
    let refused: Vec<_> = (0..2)
        .map(|_| {
            let id = sim.connect();
            sim.peer(id).room = 0;
            id
        })
        .collect();
    sim.turn();
    sim.peer(oldest).room = usize::MAX;
    sim.half_close(oldest);
    sim.half_close(other);
    sim.turn();
    assert!(sim.take(oldest).contains("uds-1"), "it finished and was there to take its answer");
    for id in refused {
        assert_eq!(sim.closed(id), Some(CloseReason::TooManyClients), "{id:?} was closing before");
    }
}

/// The input of a closing connection is discarded. The framer, which had searched its beginning, was asked
/// for the rest when the inbox was full.
#[test]
fn closing_connection_yields_no_frames() {
    let mut sim = Sim::new(|l| l.inbox_entries_max = 1);
    let (busy, closing) = (sim.join_known(), sim.join_known());
    sim.peer(closing).room = 0;
    sim.send(closing, b"{\"");
    sim.advance(29_000);
    sim.send(busy, b"\n");
    sim.advance(1_000);
    assert_eq!(sim.endpoint.clients(), 1, "one is closing");
    sim.send(busy, &text("a"));
    sim.send(closing, b"more");
    sim.turn();
    assert!(sim.take(busy).contains("uds-1"));
    assert_eq!(sim.unread(closing), 0);
}

/// When the endpoint took only part of the input, it never asked for the rest.
#[test]
fn partly_taken_input_asks_for_the_rest() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join_known();
    let (now, key) = (sim.now(), sim.key(peer));
    let line = crate::util::fill(&text(&"x".repeat(60_000)), crate::util::sim::token().expose(), "");
    let bytes = line.repeat(2);
    let taken = sim.endpoint.received_bytes(key, &bytes, now);
    assert!(taken < bytes.len());
    let steps: Vec<_> = std::iter::from_fn(|| sim.endpoint.next_step()).collect();
    assert!(steps.contains(&(key, udsmsg::parts::Step::Read)), "{steps:?}");
    assert_eq!(sim.endpoint.received_bytes(key, &bytes[taken..], now), bytes.len() - taken);
    assert_eq!(sim.endpoint.inbox_len(), 2);
}

/// An inbox share was rounded down to zero messages.
#[test]
fn small_inbox_share_holds_one_message() {
    let mut sim = Sim::new(|l| {
        l.inbox_entries_max = 10;
        l.inbox_share_percent_max = 5;
    });
    let peer = sim.join_known();
    assert!(sim.ask(peer, &text("a")).contains("uds-1"));
    assert!(sim.ask(peer, &text("b")).contains("inbox full"));
}
