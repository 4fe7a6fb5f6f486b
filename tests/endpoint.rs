//! Faults of the core that were found and must not return, each on a virtual clock. They need no operating
//! system, so they run without any feature too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "tests may panic, and their helpers are not an interface"
)]

#[path = "it/util/mod.rs"]
#[allow(dead_code, reason = "what other tests need of it")]
mod util;

#[cfg(target_os = "linux")]
use std::time::Duration;

use udsmsg::parts::{CloseReason, ConnKey, Mono, Now, Step};
use udsmsg::{PeerIdentity, Wall};

use util::sim::{Id, OWNER, Sim, token};
use util::{fill, ping, text, text_stored_as};

fn join_as(sim: &mut Sim, pid: u32) -> Id {
    let id = sim.connect_as(PeerIdentity::unix(OWNER, Some(pid)));
    sim.run();
    id
}

fn at(millis: u64) -> Now {
    Now { mono: Mono::from_nanos(millis * 1_000_000), wall: Wall::from_millis(1_795_341_600_000 + millis) }
}

fn line(template: &[u8]) -> Vec<u8> {
    fill(template, token().expose(), util::sim::PATH)
}

/// Does every step of the endpoint, for streams that accept all bytes; returns what was written to which
/// stream and which were closed.
#[derive(Default)]
struct Streams {
    written: Vec<(ConnKey, String)>,
    closed: Vec<(ConnKey, CloseReason)>,
}

impl Streams {
    fn take_steps(&mut self, endpoint: &mut udsmsg::Endpoint, now: Now) {
        while let Some((key, step)) = endpoint.next_step() {
            match step {
                Step::Write => {
                    let output = String::from_utf8(endpoint.output(key).to_vec()).unwrap();
                    endpoint.sent(key, output.len(), now);
                    self.written.push((key, output));
                }
                Step::Read | Step::ShutWrite => {}
                Step::Close(reason) => self.closed.push((key, reason)),
            }
        }
    }
}

// A small inbox.

/// How many messages of each of `senders` are accepted in each of `turns`, while all of them always have
/// more.
fn accepted_each_turn(entries_max: usize, budget: usize, senders: usize, turns: usize) -> Vec<Vec<usize>> {
    let mut sim = Sim::new(|l| {
        l.inbox_entries_max = entries_max;
        l.turn_frames_max = budget;
    });
    let senders: Vec<Id> = (0..senders).map(|_| sim.join_known()).collect();
    let flood = text("f").repeat(200);
    let mut accepted = Vec::new();
    for _ in 0..turns {
        for &id in &senders {
            if sim.unread(id) < 20_000 {
                sim.send(id, &flood);
            }
        }
        sim.turn();
        sim.drain();
        accepted.push(senders.iter().map(|&id| sim.take(id).lines().count()).collect());
    }
    accepted
}

#[test]
fn a_small_inbox_is_shared_evenly() {
    let accepted = accepted_each_turn(10, 16, 10, 20);
    let total: Vec<usize> = (0..10).map(|at| accepted.iter().map(|turn| turn[at]).sum()).collect();
    assert_eq!(total, [20; 10]);
}

#[test]
fn a_sender_waits_for_a_small_inbox_no_longer_than_once_round() {
    let (budget, senders) = (16, 10);
    for entries_max in 1..=2 * budget {
        let accepted = accepted_each_turn(entries_max, budget, senders, 60);
        for at in 0..senders {
            let waits: Vec<usize> = accepted.split(|turn| turn[at] > 0).map(<[Vec<usize>]>::len).collect();
            let longest = waits.iter().max().unwrap();
            assert!(*longest < senders, "{entries_max} entries: sender {at} waits {longest} turns");
        }
    }
}

#[test]
fn one_small_message_waits_for_a_small_inbox_no_longer_than_once_round() {
    for entries_max in 1..=32 {
        let mut sim = Sim::new(|l| l.inbox_entries_max = entries_max);
        let flooders: Vec<Id> = (0..10).map(|_| sim.join_known()).collect();
        let single = sim.join_known();
        let flood = text("f").repeat(200);
        let turn = |sim: &mut Sim| {
            for &id in &flooders {
                if sim.unread(id) < 20_000 {
                    sim.send(id, &flood);
                }
                sim.take(id);
            }
            sim.turn();
            sim.drain();
        };
        for _ in 0..20 {
            turn(&mut sim);
        }
        for _ in 0..10 {
            sim.send(single, &text("p"));
            let mut turns = 0;
            while sim.take(single).is_empty() {
                turn(&mut sim);
                turns += 1;
                assert!(turns <= 11 + 1, "{entries_max} entries: it still waits after {turns} turns");
            }
        }
    }
}

// Timeouts and evictions by a late host.

/// 33 blank lines at 1.0 s and one turn; a message at 1.5 s; the host is back at 2.5 s.
#[test]
fn message_unread_behind_blank_lines_keeps_its_connection() {
    for blank_lines in [15, 16, 17, 31, 32, 33, 100, 1_000, 60_000] {
        let mut sim = Sim::new(|_| ());
        let peer = sim.join();
        sim.host_away(1_000);
        sim.send(peer, &vec![b'\n'; blank_lines]);
        sim.turn();
        sim.host_away(500);
        sim.send(peer, &text("a"));
        sim.host_away(1_000);
        sim.run();
        let answer = sim.take(peer);
        assert!(answer.contains("uds-1"), "behind {blank_lines} blank lines: {answer}");
        assert!(sim.is_open(peer));
    }
}

/// More blank lines than one buffer holds, and then the message, all of it sent in time.
#[test]
fn message_behind_more_than_a_buffer_keeps_its_connection() {
    for blank_lines in [65_536, 65_537, 65_538, 130_000, 200_000] {
        let mut sim = Sim::new(|_| ());
        let peer = sim.join();
        sim.send(peer, &vec![b'\n'; blank_lines]);
        sim.send(peer, &text("a"));
        sim.host_away(40_000);
        sim.run();
        let answer = sim.take(peer);
        assert!(answer.contains("uds-1"), "behind {blank_lines} blank lines: {answer}");
    }
}

/// Endless blank lines do not postpone the timeout without limit, whether the host is late or not.
#[test]
fn endless_blank_lines_end_with_the_authentication_timeout() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    for _ in 0..10_000 {
        if !sim.is_open(peer) || sim.closed(peer).is_some() || sim.endpoint.clients() == 0 {
            break;
        }
        if sim.unread(peer) < 200_000 {
            sim.send(peer, &vec![b'\n'; 200_000]);
        }
        sim.turn();
        sim.host_away(1);
    }
    sim.expect_error(peer, "authentication timeout");
    assert!(sim.now().mono <= at(2_100).mono, "it was postponed until {:?}", sim.now().mono);
}

#[test]
fn a_client_whose_message_waits_behind_blank_lines_is_not_evicted() {
    for (blank_lines, turns) in [(33, 1), (33, 2), (10_000, 1)] {
        let mut sim = Sim::new(|l| l.clients_max = 1);
        let peer = sim.join();
        sim.host_away(100);
        sim.send(peer, &vec![b'\n'; blank_lines]);
        if turns == 1 {
            sim.send(peer, &text("a"));
        }
        for turn in 0..turns {
            if turn + 1 == turns {
                sim.send(peer, &text("b"));
                let _newcomer = sim.connect();
            }
            sim.turn();
        }
        sim.run();
        let answer = sim.take(peer);
        assert!(answer.contains("uds-1") && sim.is_open(peer), "behind {blank_lines} blank lines: {answer}");
    }
}

#[test]
fn a_client_whose_message_waits_for_its_rate_is_not_evicted() {
    let mut sim = Sim::new(|l| {
        l.clients_max = 2;
        l.pid_lines_per_second_max = 10;
    });
    let (busy, peer) = (join_as(&mut sim, 1), join_as(&mut sim, 1));
    sim.send(busy, &ping().repeat(100));
    sim.run();
    sim.send(peer, &ping());
    sim.run();
    sim.host_away(150);
    let newcomer = sim.connect_as(PeerIdentity::unix(OWNER, Some(2)));
    sim.run();
    assert!(sim.is_open(peer), "it was evicted although its message had been read");
    sim.expect_error(newcomer, "too many clients");
    sim.advance(1_000);
    assert!(sim.take(peer).contains("pong"));
}

#[test]
fn a_client_that_was_never_read_for_lack_of_a_buffer_is_not_evicted() {
    let mut sim = Sim::new(|l| {
        l.clients_max = 2;
        l.unfinished_bytes_max = 0;
    });
    let (holder, peer) = (sim.join_known(), sim.join());
    sim.send(holder, &ping()[..5]);
    sim.run();
    sim.send(peer, &text("a"));
    sim.run();
    sim.host_away(500);
    let newcomer = sim.connect();
    sim.run();
    sim.expect_error(newcomer, "too many clients");
    sim.send(holder, &ping()[5..]);
    sim.run();
    let answer = sim.take(peer);
    assert!(answer.contains("uds-1") && sim.is_open(peer), "{answer}");
}

// Shares.

/// A message of any legal size fits the share of a process that holds nothing.
#[test]
fn one_message_of_any_size_fits_an_empty_share() {
    for share in [1, 2, 3] {
        let mut sim = Sim::new(|l| l.inbox_share_percent_max = share);
        let peer = join_as(&mut sim, 1);
        for stored in [30_000, 60_000, 65_400] {
            let answer = sim.ask(peer, &text_stored_as(stored));
            assert!(answer.contains("\"ok\""), "{stored} bytes into {share} percent: {answer}");
            sim.drain();
        }
    }
}

#[test]
fn a_small_share_is_filled_in_each_turn() {
    for (share, expected) in [(1, 26), (2, 13), (3, 9), (4, 7), (100, 1)] {
        let mut sim = Sim::new(|l| {
            l.inbox_share_percent_max = share;
            l.turn_frames_max = 256;
        });
        let peer = join_as(&mut sim, 1);
        sim.send(peer, &text("x").repeat(256));
        let (mut turns, mut answers) = (0, 0);
        while answers < 256 {
            sim.turn();
            sim.drain();
            answers += sim.take(peer).lines().count();
            turns += 1;
            assert!(turns < 1_000);
        }
        assert_eq!(turns, expected, "a share of {share} percent");
    }
}

// Time.

#[test]
fn time_that_steps_back_counts_as_standing_still() {
    let watch = util::watchdog::watch("time_that_steps_back_counts_as_standing_still");
    let mut sim = Sim::new(|_| ());
    let endpoint = &mut sim.endpoint;
    let peer = PeerIdentity::unix(OWNER, None);
    endpoint.deadlines_reached(at(100_000));
    let key = endpoint.accepted(peer, at(50_000)).unwrap();
    endpoint.deadlines_reached(at(50_000));
    endpoint.turn_ended();
    assert_eq!(endpoint.next_deadline(), Some(at(102_000).mono), "from the latest time that was given");
    assert_eq!(endpoint.received_bytes(key, &line(&ping()), at(10)), line(&ping()).len());
    endpoint.deadlines_reached(at(20));
    assert_eq!(endpoint.next_deadline(), Some(at(130_000).mono));
    endpoint.sent(key, usize::MAX, at(30));
    endpoint.end_of_input(key, at(40));
    endpoint.shutdown(at(0));
    let mut streams = Streams::default();
    streams.take_steps(endpoint, at(60));
    endpoint.deadlines_reached(at(70));
    assert_eq!(streams.closed, [(key, CloseReason::PeerFinished)]);
    drop(watch);
}

// Refusals.

/// In both orders of calls: steps after each accept, or after all accepts of one turn.
#[test]
fn every_refused_connection_gets_an_error_line() {
    for steps_after_each in [true, false] {
        for newcomers in [3, 6, 64] {
            let mut sim = Sim::new(|l| l.clients_max = 2);
            let _house = [sim.join_known(), sim.join_known()];
            let (endpoint, now) = (&mut sim.endpoint, at(0));
            let mut streams = Streams::default();
            for turn in 0..3 {
                let mut refused = Vec::new();
                for _ in 0..newcomers {
                    assert!(endpoint.can_accept());
                    let peer = PeerIdentity::unix(OWNER, None);
                    refused.push(endpoint.accepted(peer, now).unwrap());
                    if steps_after_each {
                        streams.take_steps(endpoint, now);
                    }
                }
                endpoint.deadlines_reached(now);
                streams.take_steps(endpoint, now);
                endpoint.turn_ended();
                for key in &refused {
                    let told = streams
                        .written
                        .iter()
                        .filter(|(to, line)| to == key && line.contains("too many clients"));
                    assert_eq!(told.count(), 1, "turn {turn}, {newcomers} newcomers: {key:?}");
                }
                let lingering = endpoint.connections().filter(|c| c.is_closing).count();
                assert!(lingering <= 2, "{lingering} linger");
                assert!(!endpoint.has_work(), "everything was done");
            }
        }
    }
}

// A rate.

#[test]
fn connections_of_one_process_take_turns_at_its_rate() {
    for flooders in [1, 2, 5] {
        let mut sim = Sim::new(|l| l.pid_lines_per_second_max = 10);
        let single = join_as(&mut sim, 1);
        let flooders: Vec<Id> = (0..flooders).map(|_| join_as(&mut sim, 1)).collect();
        let mut waited = Vec::new();
        let mut asked_at = None;
        for tick in 0..2_000_u64 {
            for &id in &flooders {
                if sim.unread(id) < 4_000 {
                    sim.send(id, &ping().repeat(100));
                }
                sim.take(id);
            }
            match asked_at {
                None => {
                    sim.send(single, &ping());
                    asked_at = Some(tick);
                }
                Some(since) => {
                    if sim.take(single).contains("pong") {
                        waited.push(tick - since);
                        asked_at = None;
                    }
                }
            }
            sim.advance(10);
        }
        // One line each tenth of a second; each of the others has one line ahead of it, and one may be its
        // own.
        let (longest, allowed) = (waited.iter().max().copied(), 10 * (flooders.len() as u64 + 2));
        assert!(
            longest.is_some_and(|l| l <= allowed),
            "{longest:?} of {allowed} ticks, {} flooders",
            flooders.len()
        );
        assert!(waited.len() as u64 >= 2_000 / (allowed + 10), "{} answers", waited.len());
    }
}

/// The end of its input does not lift the rate.
#[test]
fn a_paused_client_that_finishes_sending_still_keeps_to_its_rate() {
    let mut sim = Sim::new(|l| l.pid_lines_per_second_max = 10);
    let peer = join_as(&mut sim, 1);
    sim.send(peer, &ping().repeat(12));
    sim.run();
    assert_eq!(sim.take(peer).lines().count(), 10);
    let (key, now) = (sim.key(peer), sim.now());
    sim.endpoint.end_of_input(key, now);
    sim.run();
    assert_eq!(sim.take(peer).lines().count(), 0);
    sim.advance(100);
    assert_eq!(sim.take(peer).lines().count(), 1);
    sim.advance(100);
    assert_eq!(sim.take(peer).lines().count(), 1);
    assert_eq!(sim.closed(peer), Some(CloseReason::PeerFinished));
}

// What a host does.

/// Of what lies in the space only the bytes that were reported count.
#[test]
fn bytes_put_into_a_space_count_as_far_as_they_are_reported() {
    let bytes = line(&text("a"));
    for reported in [0, 1, bytes.len() - 1, bytes.len()] {
        let mut sim = Sim::new(|_| ());
        let peer = sim.join();
        let key = sim.key(peer);
        let endpoint = &mut sim.endpoint;
        let mut space = endpoint.recv_space(key, at(0)).unwrap();
        space[..bytes.len()].copy_from_slice(&bytes);
        assert_eq!(&space[..bytes.len()], &bytes);
        space.received(reported);
        assert_eq!(endpoint.stats().bytes_read, reported as u64);
        assert_eq!(endpoint.inbox_len(), usize::from(reported == bytes.len()), "{reported} bytes reported");
        let rest = &bytes[reported..];
        assert_eq!(endpoint.received_bytes(key, rest, at(0)), rest.len());
        assert_eq!(endpoint.inbox_len(), 1, "{reported} bytes reported");
    }
}

#[test]
fn dropped_space_loses_no_bytes_and_no_buffer() {
    let bytes = line(&text("a"));
    for already in [0, 10] {
        // There is one buffer for both.
        let mut sim = Sim::new(|l| l.unfinished_bytes_max = 0);
        let (peer, other) = (sim.join(), sim.join());
        let (key, other) = (sim.key(peer), sim.key(other));
        let endpoint = &mut sim.endpoint;
        assert_eq!(endpoint.received_bytes(key, &bytes[..already], at(0)), already);
        endpoint.recv_space(key, at(0)).unwrap().fill(b'x');
        assert_eq!(endpoint.stats().bytes_read, already as u64);
        assert_eq!(endpoint.recv_space(other, at(0)).is_some(), already == 0, "a buffer with nothing in it");
        let rest = &bytes[already..];
        assert_eq!(endpoint.received_bytes(key, rest, at(0)), rest.len());
        assert_eq!(endpoint.inbox_len(), 1, "{already} bytes before");
    }
}

/// A drop says nothing about the stream: where that may hold more, the timeout waits for one turn, and else
/// it does not.
#[test]
fn dropped_space_leaves_the_timeouts_as_they_are() {
    for (may_hold_more, turns_before_the_end) in [(false, 0), (true, 1)] {
        let mut sim = Sim::new(|_| ());
        let peer = sim.join_known();
        let (key, begun) = (sim.key(peer), sim.now());
        let endpoint = &mut sim.endpoint;
        let mut space = endpoint.recv_space(key, begun).unwrap();
        space.fill(b' ');
        let n = if may_hold_more { space.len() } else { 1 };
        space.received(n);
        let late = Now { mono: begun.mono.plus(udsmsg::Limits::default().idle_timeout), ..begun };
        let mut turns = 0;
        while endpoint.is_open(key) {
            endpoint.work(late);
            drop(endpoint.recv_space(key, late).unwrap());
            endpoint.deadlines_reached(late);
            turns += usize::from(endpoint.is_open(key));
            endpoint.turn_ended();
        }
        assert_eq!(turns, turns_before_the_end, "may hold more: {may_hold_more}");
    }
}

#[test]
fn excessive_write_report_counts_as_all() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    let key = sim.key(peer);
    let endpoint = &mut sim.endpoint;
    endpoint.received_bytes(key, &line(&ping()), at(0));
    endpoint.sent(key, 1, at(0));
    let left = endpoint.output(key).len() as u64;
    endpoint.sent(key, usize::MAX, at(0));
    assert!(endpoint.output(key).is_empty());
    endpoint.sent(key, usize::MAX, at(0));
    assert_eq!(endpoint.stats().bytes_written, left + 1);
}

#[test]
fn step_pending_between_turns_is_announced() {
    let mut sim = Sim::new(|_| ());
    let peer = sim.join_known();
    let key = sim.key(peer);
    let endpoint = &mut sim.endpoint;
    assert!(!endpoint.has_work());
    endpoint.broken(key);
    assert!(endpoint.has_work(), "there is a stream to close");
    assert_eq!(endpoint.next_step(), Some((key, Step::Close(CloseReason::PeerGone))));
    assert_eq!(endpoint.next_step(), None);
    assert!(!endpoint.has_work());
}

/// A turn can be extended while one client alone is out of its budget; not if another one is too, nor for a
/// client that waits for something else.
#[test]
fn turn_is_extended_for_a_client_that_is_alone() {
    let lines = |n: usize| line(&text("a").repeat(n));
    // How many lines two clients send, the room in the inbox, and what the turn and its extension take.
    let cases = [
        ((40, 0), 1_000, 16, 16),
        ((20, 0), 1_000, 16, 4),
        ((16, 0), 1_000, 16, 0),
        ((40, 16), 1_000, 32, 0),
        ((40, 40), 1_000, 32, 0),
        ((40, 0), 10, 10, 0),
    ];
    for ((first, second), room, taken, more) in cases {
        let mut sim = Sim::new(|l| l.inbox_entries_max = room);
        let peers = [sim.join_known(), sim.join_known()].map(|peer| sim.key(peer));
        let endpoint = &mut sim.endpoint;
        endpoint.turn_ended();
        for (key, n) in peers.into_iter().zip([first, second]) {
            endpoint.received_bytes(key, &lines(n), at(0));
        }
        assert_eq!(endpoint.inbox_len(), taken, "{first} and {second} lines");
        assert_eq!(endpoint.only_busy(), (more > 0).then_some(peers[0]), "{first} and {second} lines");
        endpoint.extend_turn(at(0));
        assert_eq!(endpoint.inbox_len(), taken + more, "{first} and {second} lines");
        // Nothing is lost, and the next turn goes on.
        endpoint.turn_ended();
        endpoint.work(at(0));
        assert_eq!(endpoint.inbox_len() > taken + more, first + second > taken + more && room > 10);
    }
}

// Many.

/// Processor time of this thread to stop an endpoint with `clients` served and as many refused connections
/// that linger.
#[cfg(target_os = "linux")]
fn cost_of_lingering(clients: usize) -> Duration {
    let mut limits = udsmsg::Limits::default();
    limits.clients_max = clients;
    let mut endpoint = udsmsg::Endpoint::new("/s", token(), limits).unwrap();
    let peer = PeerIdentity::unix(OWNER, None);
    let mut streams = Streams::default();
    // As many as may are refused and linger, and as many are served.
    for _ in 0..2 {
        for _ in 0..clients {
            while !endpoint.can_accept() {
                endpoint.turn_ended();
            }
            endpoint.accepted(peer, at(0)).unwrap();
            streams.take_steps(&mut endpoint, at(0));
        }
        endpoint.turn_ended();
    }
    assert_eq!(endpoint.clients(), clients);
    let lingering = endpoint.connections().filter(|c| c.is_closing).count();
    assert_eq!(lingering, clients);
    let begun = cpu_time();
    endpoint.shutdown(at(0));
    streams.take_steps(&mut endpoint, at(0));
    endpoint.turn_ended();
    cpu_time() - begun
}

#[cfg(target_os = "linux")]
fn cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Four times as many cost about four times as much; a quadratic stop costs sixteen times as much.
#[cfg(target_os = "linux")]
#[test]
fn a_stop_with_many_lingering_is_linear() {
    let cost = |clients| (0..3).map(|_| cost_of_lingering(clients)).min().unwrap();
    let (few, many) = (cost(512), cost(2_048));
    assert!(many < few * 9, "512 clients cost {few:?}, 2,048 cost {many:?}");
}
