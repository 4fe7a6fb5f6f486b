//! The cost of waiting, and progress during a flood.

use std::io::{ErrorKind, Read, Write};
#[cfg(unix)]
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(unix)]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use udsmsg::{Limits, Server, Waker};

use super::ways::{Hosted, all};
use crate::util::real::{Home, RawPeer};
use crate::util::stream::Stream;
use crate::util::thread_time::thread_time;
use crate::util::{ping, scale, text, watchdog, with_time_enough};

const NEVER: Duration = Duration::from_secs(1_000);

/// A peer that takes its answer is no reason to wake up. (On Windows each write has an event when it has
/// finished, and there is no descriptor to look at.)
#[cfg(unix)]
#[test]
fn answers_that_are_taken_cause_no_wakeups() {
    let _watchdog = watchdog::watch("answers_that_are_taken_cause_no_wakeups");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let mut peer = RawPeer::connect(Path::new(server.address().path()), &home.token_of(&server));
    for n in 0..100 {
        peer.send(&ping());
        let mut turns = 0;
        while server.stats().pings < n + 1 {
            let _ = server.turn(None).unwrap();
            turns += 1;
        }
        assert!(turns <= 2, "{turns} turns for ping {n}");
        assert!(peer.line().unwrap().contains("pong"));
        let mut fds = [PollFd::new(server.event_queue().unwrap(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0), "it would wake up after answer {n}");
    }
}

/// A hundred authenticated clients that send nothing: the host does not wake up, although the deadlines of
/// their authentication pass.
#[test]
fn idle_clients_cause_no_wakeups() {
    let _watchdog = watchdog::watch("idle_clients_cause_no_wakeups");
    let mut hosts = Vec::new();
    for way in all().into_iter().filter(|way| way.waits) {
        // All must have authenticated, and the host be asleep again, before a deadline passes.
        hosts.push(with_time_enough(Duration::from_millis(500), |auth_timeout| {
            let begun = Instant::now();
            let host = Hosted::start(&way, |l| (l.auth_timeout, l.idle_timeout) = (auth_timeout, NEVER));
            let mut peers: Vec<RawPeer> = (0..100).map(|_| host.connect()).collect();
            for peer in &mut peers {
                peer.send(&ping());
            }
            let known =
                peers.iter_mut().filter_map(RawPeer::line).filter(|line| line.contains("pong")).count();
            let turns = host.turns_once_asleep();
            let all_passed = Instant::now() + auth_timeout;
            (known == 100 && begun.elapsed() < auth_timeout).then_some((way, host, peers, turns, all_passed))
        }));
    }
    let all_passed = hosts.iter().map(|(.., all_passed)| *all_passed).max().unwrap();
    std::thread::sleep(all_passed.saturating_duration_since(Instant::now()));
    std::thread::sleep(Duration::from_secs(scale().min(10) as u64));
    for (way, host, peers, before, _) in &mut hosts {
        assert_eq!(host.turns() - *before, 0, "{} woke up for nothing", way.name);
        peers[0].send(&ping());
        assert!(peers[0].line().unwrap().contains("pong"), "{} is awake", way.name);
    }
}

const FLOODERS: usize = 3;
const QUIET: usize = 3;

/// Half of the clients flood, the others send one ping at a time: with one frame per turn, all make progress.
#[test]
fn all_clients_progress_with_a_budget_of_one_frame() {
    let _watchdog = watchdog::watch("all_clients_progress_with_a_budget_of_one_frame");
    for way in all().into_iter().filter(|way| way.waits) {
        let host = Hosted::start(&way, |l| l.turn_frames_max = 1);
        let is_over = AtomicBool::new(false);
        let is_over = &is_over;
        let answered: Vec<usize> = std::thread::scope(|scope| {
            let floods: Vec<_> = (0..FLOODERS)
                .map(|_| {
                    let mut peer = host.connect();
                    let lines = peer.fill(&text("f").repeat(50));
                    let mut stream = peer.stream.try_clone().unwrap();
                    scope.spawn(move || {
                        // At least once, so that there is something to answer.
                        while stream.write_all(&lines).is_ok() && !is_over.load(Ordering::Relaxed) {}
                    });
                    scope.spawn(move || {
                        let mut answered = 0;
                        // At least one answer, however busy the machine is; the watchdog ends a hang.
                        while (answered == 0 || !is_over.load(Ordering::Relaxed)) && peer.line().is_some() {
                            answered += 1;
                        }
                        // So that its writer ends, too.
                        let _ = peer.stream.shutdown(std::net::Shutdown::Both);
                        answered
                    })
                })
                .collect();
            let quiet: Vec<_> = (0..QUIET)
                .map(|_| {
                    let mut peer = host.connect();
                    scope.spawn(move || {
                        for _ in 0..30 {
                            peer.send(&ping());
                            assert!(peer.line().unwrap().contains("pong"));
                        }
                    })
                })
                .collect();
            for quiet in quiet {
                quiet.join().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            floods.into_iter().map(|flood| flood.join().unwrap()).collect()
        });
        assert!(answered.iter().all(|answered| *answered > 0), "{}: {answered:?}", way.name);
    }
}

/// Each client gets its turn, however old it is and however much it sent.
#[test]
fn floods_share_evenly_with_a_budget_of_one_frame() {
    let _watchdog = watchdog::watch("floods_share_evenly_with_a_budget_of_one_frame");
    const EACH: usize = 200;
    let home = Home::new();
    let mut server = home.start(|l| l.turn_frames_max = 1);
    let token = home.token_of(&server);
    let mut peers: Vec<RawPeer> =
        (0..4).map(|_| RawPeer::connect(server.address().path().as_ref(), &token)).collect();
    for peer in &mut peers {
        peer.send(&text("f").repeat(EACH));
        peer.stream.set_nonblocking(true).unwrap();
    }
    let mut answered = [0; 4];
    let mut space = vec![0; 1 << 16];
    while answered != [EACH; 4] {
        let _ = server.turn(Some(Duration::from_secs(5))).unwrap();
        server.drain();
        for (answered, peer) in answered.iter_mut().zip(&mut peers) {
            if let Ok(n) = peer.stream.read(&mut space) {
                *answered += space[..n].iter().filter(|byte| **byte == b'\n').count();
            }
        }
        let (least, most) = (answered.iter().min().unwrap(), answered.iter().max().unwrap());
        assert!(most - least <= 2, "{answered:?}");
    }
}

/// Budgets that one turn gives to a client while no other one waits.
const BUDGETS_ALONE: usize = 4;

/// While two clients flood, a turn takes one budget of each; while one does, four. It reports that more is
/// left.
#[test]
fn a_turn_keeps_to_its_budget() {
    let _watchdog = watchdog::watch("a_turn_keeps_to_its_budget");
    for budget in [1, 3, 128] {
        let home = Home::new();
        let mut server = home.start(|l: &mut Limits| l.turn_frames_max = budget);
        let token = home.token_of(&server);
        let mut peer = RawPeer::connect(server.address().path().as_ref(), &token);
        peer.send(&text("a").repeat(300));
        let (mut taken, mut most, mut turns) = (0, 0, 0);
        while taken < 300 {
            let turn = server.turn(Some(Duration::from_secs(5))).unwrap();
            server.drain();
            taken += turn.enqueued;
            most = most.max(turn.enqueued);
            turns += usize::from(turn.enqueued > 0);
            let is_due = server.next_timeout() == Some(Duration::ZERO);
            assert!(is_due == turn.more, "`next_timeout` says the same as `more`");
            assert!(turn.more || taken == 0 || taken == 300, "{taken} taken, the rest is with us");
        }
        let most_allowed = BUDGETS_ALONE * budget;
        assert!(most <= most_allowed, "{most} in one turn with a budget of {budget}");
        assert!(turns >= 300 / most_allowed, "{turns} turns");
    }
}

/// Two clients that both have lines left over get one budget each in a turn.
#[test]
fn a_turn_gives_one_budget_to_each_of_two_floods() {
    let _watchdog = watchdog::watch("a_turn_gives_one_budget_to_each_of_two_floods");
    let home = Home::new();
    let mut server = home.start(|l: &mut Limits| l.turn_frames_max = 3);
    let token = home.token_of(&server);
    let mut peers: Vec<RawPeer> =
        (0..2).map(|_| RawPeer::connect(server.address().path().as_ref(), &token)).collect();
    // Both are read before either is flooded, so that the first turn of the flood sees both.
    for peer in &mut peers {
        peer.send(&text("a"));
    }
    let mut taken = 0;
    while taken < 2 {
        taken += server.turn(Some(Duration::from_secs(5))).unwrap().enqueued;
    }
    for peer in &mut peers {
        peer.send(&text("a").repeat(30));
    }
    let mut each_turn = Vec::new();
    while each_turn.iter().sum::<usize>() < 60 {
        each_turn.push(server.turn(Some(Duration::from_secs(5))).unwrap().enqueued);
        server.drain();
    }
    each_turn.retain(|&enqueued| enqueued > 0);
    assert!(each_turn.iter().all(|&enqueued| enqueued <= 6), "{each_turn:?}");
    assert!(each_turn.len() >= 10, "{each_turn:?}");
}

/// The same with more than one read can take: what was left over and what is read anew are one budget.
#[test]
fn a_turn_keeps_to_its_budget_in_a_long_flood() {
    let _watchdog = watchdog::watch("a_turn_keeps_to_its_budget_in_a_long_flood");
    const MESSAGES: usize = 5_000;
    for budget in [1, 3, 128] {
        let home = Home::new();
        let mut server = home.start(|l| l.turn_frames_max = budget);
        let mut peer = RawPeer::connect(server.address().path().as_ref(), &home.token_of(&server));
        let bytes = peer.fill(&text("a").repeat(MESSAGES));
        let mut stream = peer.stream.try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&bytes));
        std::thread::spawn(move || while peer.line().is_some() {});
        let (mut taken, mut most) = (0, 0);
        while taken < MESSAGES {
            let turn = server.turn(Some(Duration::from_secs(5))).unwrap();
            server.drain();
            taken += turn.enqueued;
            most = most.max(turn.enqueued);
        }
        assert!(most <= BUDGETS_ALONE * budget, "{most} in one turn with a budget of {budget}");
    }
}

fn median_round_trip(busy_poll: Duration, client_spins: bool, rounds: usize) -> Duration {
    let home = Home::new();
    let mut server = Server::builder().environment(home.environment()).busy_poll(busy_poll).start().unwrap();
    let token = home.token_of(&server);
    let mut stream = Stream::connect(server.address().path()).unwrap();
    let line = crate::util::fill(&ping(), &token, "");
    let waker = server.waker();
    let thread = std::thread::spawn(move || {
        server.run(|_| std::ops::ControlFlow::Continue(())).unwrap();
    });
    stream.set_nonblocking(client_spins).unwrap();
    let mut answer = [0; 1_024];
    let mut took: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            stream.write_all(&line).unwrap();
            let n = loop {
                match stream.read(&mut answer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                    result => break result.unwrap(),
                }
            };
            assert!(answer[..n].ends_with(b"\n"));
            begun.elapsed()
        })
        .collect();
    waker.ask_to_stop().unwrap();
    thread.join().unwrap();
    took.sort();
    took[rounds / 2]
}

/// The saving depends on the machine and its load: the figures are printed (`--nocapture`), not asserted.
#[test]
fn busy_polling_works() {
    let _watchdog = watchdog::watch("busy_polling_works");
    let rounds = 300 * scale().min(100);
    let budget = Duration::from_micros(100);
    for client_spins in [false, true] {
        let asleep = median_round_trip(Duration::ZERO, client_spins, rounds);
        let busy = median_round_trip(budget, client_spins, rounds);
        let client = if client_spins { "spins" } else { "sleeps" };
        eprintln!(
            "median round trip, client {client}: {asleep:?} asleep, {busy:?} busy-polling for {budget:?}"
        );
    }
}

/// A budget is for each wait, not for ever: an idle server sleeps.
#[test]
fn busy_polling_ends() {
    let _watchdog = watchdog::watch("busy_polling_ends");
    let home = Home::new();
    // Far beyond what is allowed.
    let builder = Server::builder().environment(home.environment()).busy_poll(Duration::from_secs(1_000));
    let mut server = builder.start().unwrap();
    // A pipe says that it is watched.
    let _ = server.process().unwrap();
    let asleep = Duration::from_millis(200);
    let spent = thread_time();
    let begun = Instant::now();
    let _ = server.turn(Some(asleep)).unwrap();
    assert!(begun.elapsed() >= asleep, "it waits to the end");
    let spent = thread_time() - spent;
    assert!(spent < asleep / 2, "{spent:?} of {asleep:?} busy");
}

/// Checked by the compiler: `Server` may move between threads and is not shared.
trait IsNotSync<Marker> {
    fn check() {}
}
impl<T: ?Sized> IsNotSync<()> for T {}
struct IsSync;
/// A second implementation for every `Sync` type: if `Server` were `Sync`, `check` would be ambiguous and
/// nothing would compile.
impl<T: ?Sized + Sync> IsNotSync<IsSync> for T {}

#[test]
fn server_is_send_but_not_sync_and_waker_is_both() {
    fn goes_anywhere<T: Clone + Send + Sync + 'static>() {}
    fn is_send<T: Send + 'static>() {}
    goes_anywhere::<Waker>();
    is_send::<Server>();
    <Server as IsNotSync<_>>::check();
}
