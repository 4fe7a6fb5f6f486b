//! Descriptors that peers can make a server keep open.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use udsmsg::{Client, Environment, ErrorKind, Namespace, Outgoing, SendOutcome, Server};

use super::host::{Host, ask, is_pong, listen, part, plays, rest, say};
use super::measure::kib;
use super::util::real::{Home, RawPeer};
use super::util::rights::{can_be_refused, send_with};
use super::util::{ping, text, trace};
use super::{alone, times};

/// 200 clients connect where there is room for 4 more: the server waits for a free descriptor without
/// spinning, and goes on with those it has.
#[test]
fn server_without_free_descriptors_waits_and_recovers() {
    const ROOM: usize = 8;
    const SERVED: usize = 4;
    let _alone = alone("server_without_free_descriptors_waits_and_recovers");
    let mut host = Host::start(&[]);
    host.tell(&format!("nofile {ROOM}"));
    let mut served: Vec<RawPeer> = (0..SERVED).map(|_| host.connect_known()).collect();
    let mut waiting: Vec<RawPeer> = (0..200)
        .map(|_| {
            let mut peer = host.connect();
            peer.send(&ping());
            peer
        })
        .collect();
    // The first of them fill the table; none is refused for it.
    for peer in &mut waiting[..ROOM - SERVED] {
        assert!(is_pong(&peer.line()));
    }
    host.wait_for("clients", |clients| clients >= ROOM);
    let window = Duration::from_millis(1_000 * u64::try_from(times(2, 10)).unwrap());
    let (begun, cpu) = (Instant::now(), host.cpu());
    while begun.elapsed() < window {
        std::thread::sleep(window / 4);
        for peer in &mut served {
            assert!(is_pong(&ask(peer)), "who is served stays served");
        }
    }
    let spent = host.cpu() - cpu;
    let inside = host.figure("clients");
    assert!(
        (ROOM..=ROOM + 1).contains(&inside),
        "{inside} clients, one more if the count of descriptors was one short"
    );

    let mut resumed = Vec::new();
    let mut inside: Vec<RawPeer> = waiting.drain(..inside - SERVED).collect();
    for mut next in waiting.drain(..10) {
        drop(inside.pop());
        let begun = Instant::now();
        assert!(is_pong(&next.line()));
        resumed.push(begun.elapsed());
        inside.push(next);
    }
    let longest = resumed.iter().max().unwrap();
    println!(
        "no descriptor left for {window:?} with {} connectors waiting: {spent:?} of processor time; \
         accepting resumed within {longest:?} of a free one",
        waiting.len()
    );
    assert!(spent <= window / 50, "{spent:?} in {window:?}");
    for peer in &mut served {
        assert!(is_pong(&ask(peer)));
    }
}

/// Connections come and go, each ending in its own way; slots are reused all the time, and no client gets
/// bytes of the one before.
#[test]
fn short_connections_leak_nothing() {
    let _alone = alone("short_connections_leak_nothing");
    let mut host = Host::start(&[]);
    assert_eq!(host.tell("drain"), "ok");
    let mut steady = host.connect_known();
    let (ping, message, half) = (host.fill(&ping()), host.fill(&text("m")), host.fill(&text("half")));
    let path = host.path.clone();
    let token = host.token.clone();
    let mut cycle = move |number: usize| {
        let mut stream = UnixStream::connect(&path).unwrap();
        match number % 7 {
            0 => {}
            1 => drop(stream.write_all(&half[..half.len() / 2])),
            2 => drop(stream.write_all(&ping)),
            3 => drop(stream.write_all(b"nonsense\n")),
            4 => drop(stream.write_all(&message)),
            5 => drop(stream.shutdown(std::net::Shutdown::Write)),
            // One that stays to check that it is served, in a slot that was just freed in another way.
            _ => {
                let mut peer = RawPeer::connect(&path, &token);
                assert!(is_pong(&ask(&mut peer)), "cycle {number}");
            }
        }
        if number.is_multiple_of(100) {
            assert!(is_pong(&ask(&mut steady)), "the one that stays, at cycle {number}");
        }
    };
    let warm = 2_000;
    (0..warm).for_each(&mut cycle);
    let descriptors = |host: &mut Host| {
        host.wait_for("clients", |clients| clients == 1);
        host.descriptors()
    };
    let open = descriptors(&mut host);
    let memory = host.memory();
    let cycles = times(10_000, 1_000_000);
    let cpu = host.cpu();
    let begun = Instant::now();
    (warm..warm + cycles).for_each(&mut cycle);
    let took = begun.elapsed();
    let cpu = host.cpu() - cpu;
    let left = descriptors(&mut host) as i64 - open as i64;
    let grown = host.memory().saturating_sub(memory);
    let (connections, pings) = (host.figure("connections"), host.figure("pings"));
    println!(
        "{cycles} connections came and went in {took:?} ({cpu:?} of the server): {left} descriptors left, \
         {} of memory, {connections} connections and {pings} pings counted",
        kib(grown)
    );
    assert_eq!(left, 0);
    assert!(grown <= 1 << 20, "{}", kib(grown));
    // Every seventh cycle makes two.
    let all = warm + cycles;
    assert_eq!(connections, 1 + all + (0..all).filter(|number| number % 7 == 6).count());
    assert_eq!(host.figure("auth"), 0, "no connection was left to a timeout");
}

/// Where the kernel can refuse them (Linux 6.16), the sender gets an error; elsewhere the read discards them.
#[test]
fn descriptors_sent_by_a_peer_are_not_received() {
    let name = "descriptors_sent_by_a_peer_are_not_received";
    let _alone = alone(name);
    let mut host = Host::start(&[]);
    assert_eq!(host.tell("drain"), "ok");
    let mut peer = host.connect_known();
    let before = host.descriptors();
    let line = peer.fill(&text("with a gift"));
    let gift = File::open("/dev/null").unwrap();
    let is_refused = can_be_refused();
    let send = |peer: &mut RawPeer, bytes: &[u8], count| {
        let sent = send_with(&peer.stream, bytes, &gift, count);
        assert_eq!(sent, if is_refused { Err(Errno::EPERM) } else { Ok(bytes.len()) });
        if is_refused {
            peer.stream.write_all(bytes).unwrap();
        }
    };
    let rounds = times(200, 10_000);
    for round in 0..rounds {
        // With a whole line, and with the two halves of one.
        send(&mut peer, &line, 8);
        assert!(peer.line().unwrap().contains("uds-"), "round {round}");
        send(&mut peer, &line[..20], 100);
        peer.stream.write_all(&line[20..]).unwrap();
        assert!(peer.line().unwrap().contains("uds-"), "round {round}");
        if round % 50 == 0 {
            assert_eq!(host.descriptors(), before, "round {round}");
        }
    }
    assert_eq!(host.descriptors(), before);
    let how = if is_refused { "refused" } else { "thrown away" };
    println!("{} descriptors sent along: all {how}", 108 * rounds);
}

/// The kernel ends a read behind bytes that came with descriptors, though more follow: a short read proves
/// nothing then, and no further event reports the rest. Where descriptors are refused, they can only have
/// arrived before: here, before the stream was adopted.
#[test]
fn bytes_behind_descriptors_are_read_too() {
    let _alone = alone("bytes_behind_descriptors_are_read_too");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let (path, token) = (Path::new(server.address().path()).to_owned(), home.token_of(&server));
    let gift = File::open("/dev/null").unwrap();
    for pieces in [[20, 60], [0, 0], [1, 2]] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut peer = RawPeer::adopt(theirs, &path, &token);
        let line = peer.fill(&text("in pieces"));
        let [first, second] = pieces;
        if second > 0 {
            send_with(&peer.stream, &line[..first], &gift, 1).unwrap();
            send_with(&peer.stream, &line[first..second], &gift, 2).unwrap();
        }
        peer.stream.write_all(&line[second..]).unwrap();
        // All of it has arrived before the server looks, so no turn has to wait.
        server.adopt_stream(ours).unwrap();
        for _ in 0..10 {
            let _ = server.turn(Some(Duration::ZERO)).unwrap();
        }
        peer.stream.set_nonblocking(true).unwrap();
        assert!(peer.line().unwrap().contains("uds-"), "pieces of {pieces:?}");
    }
}

/// The part: a server that a system call filter forbids to accept, for ten pauses.
#[test]
fn forbidden() {
    if !plays("descriptors::forbidden") {
        return;
    }
    trace::print_if_asked();
    let environment = Environment::from_process();
    let mut server = Server::builder().environment(environment).start().unwrap();
    let path = Path::new(server.address().path()).to_owned();
    let turn = |server: &mut Server| {
        for _ in 0..10 {
            let _ = server.turn(Some(Duration::ZERO)).unwrap();
        }
    };
    let mut served = RawPeer::connect(&path, "it needs none");
    turn(&mut server);
    let Some(filter) = no_accept() else {
        say("skipped");
        return;
    };
    seccompiler::apply_filter(&filter).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    const PAUSE: Duration = Duration::from_millis(50);
    let (begun, mut turns) = (Instant::now(), 0);
    while begun.elapsed() < 10 * PAUSE {
        let _ = server.turn(None).unwrap();
        turns += 1;
    }
    // A turn at the end of each pause, and some more for what else may end a wait. A slow machine makes
    // fewer.
    let pauses = begun.elapsed().div_duration_f64(PAUSE);
    assert!(f64::from(turns) <= 2.0 * pauses + 10.0, "{turns} turns in {pauses} pauses");
    // Connected clients are still served.
    served.stream.write_all(b"{\n").unwrap();
    turn(&mut server);
    assert!(served.line().unwrap().contains("invalid frame"));
    say(format_args!("{turns} turns in {pauses:.1} pauses"));
}

/// A filter that answers `accept4` with EPERM; `None` where there is none for this machine.
fn no_accept() -> Option<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().ok()?;
    let calls = BTreeMap::from([(libc::SYS_accept4, Vec::new())]);
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap());
    SeccompFilter::new(calls, SeccompAction::Allow, refuse, arch).ok()?.try_into().ok()
}

/// A system that forbids a server to accept (a security module, a system call filter) is asked again now and
/// then, not all the time, and that is reported once.
#[test]
fn refused_accept_is_paused_and_reported_once() {
    let name = "refused_accept_is_paused_and_reported_once";
    let _alone = alone(name);
    let home = Home::new();
    let mut part = part("descriptors::forbidden", &home);
    let mut process = part.env("UDSMSG_TEST_TRACE", "1").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let said = listen(&mut lines);
    let traced = rest(process.stderr.take().unwrap());
    assert!(process.wait().unwrap().success(), "{traced}");
    if said == "skipped" {
        super::util::machine::skip("no filter of system calls for this machine");
        return;
    }
    let reports = traced.matches("cannot accept for now").count();
    println!("accepting is forbidden: {said}, reported {reports} times");
    assert_eq!(reports, 1, "{traced}");
}

/// The part: a client that is not allowed to wait, because `poll` takes no more descriptors than a process
/// may have, and is then allowed again.
#[test]
fn waiter() {
    if !plays("descriptors::waiter") {
        return;
    }
    let environment = Environment::from_process();
    let server = Server::builder().environment(environment.clone()).start().unwrap();
    let client = Client::in_namespace(&Namespace::default(), &environment).unwrap();
    let mut client = client.with_timeout(Duration::from_secs(3));
    let id = client.start(server.address(), &Outgoing::new("ping")).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let refused = client.next_outcome().expect_err("nothing can be waited for");
    assert_eq!((refused.kind(), client.outstanding()), (ErrorKind::Io, 1), "{refused}");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let (told, outcome) = client.next_outcome().unwrap().expect("it is still on its way");
    assert!(told == id && matches!(outcome, SendOutcome::Unknown(_)), "{outcome}");
    assert!(client.next_outcome().unwrap().is_none());
    say("done");
}

#[test]
fn client_that_cannot_poll_reports_it_and_keeps_its_messages() {
    let _alone = alone("client_that_cannot_poll_reports_it_and_keeps_its_messages");
    let home = Home::new();
    let mut process = part("descriptors::waiter", &home).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    assert_eq!(listen(&mut lines), "done");
    assert!(process.wait().unwrap().success());
}
