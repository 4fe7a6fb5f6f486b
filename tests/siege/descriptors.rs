//! What peers can make a server keep open.

use std::io::{BufReader, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use udsmsg::{Client, Environment, ErrorKind, Namespace, Outgoing, SendOutcome, Server};

use super::host::{Host, ask, is_pong, listen, part, plays, say};
use super::measure::{Hiccups, kib};
use super::util::real::{Home, RawPeer};
use super::util::{ping, text};
use super::{alone, times};

/// 200 want in where there is room for 4 more: the server waits for a free descriptor without spinning, and goes on with
/// those it has.
#[test]
fn running_out_of_descriptors_is_waited_out() {
    const ROOM: usize = 8;
    const SERVED: usize = 4;
    let _alone = alone("running_out_of_descriptors_is_waited_out");
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
    // The first of them fill the table; nobody is refused for it.
    for peer in &mut waiting[..ROOM - SERVED] {
        assert!(is_pong(&peer.line()));
    }
    std::thread::sleep(Duration::from_millis(100));
    let inside = host.figure("clients");
    assert!(
        (ROOM..=ROOM + 1).contains(&inside),
        "{inside} clients, one more if the count of descriptors was one short"
    );
    let window = Duration::from_millis(1_000 * u64::try_from(times(2, 10)).unwrap());
    let (begun, cpu) = (Instant::now(), host.cpu());
    while begun.elapsed() < window {
        std::thread::sleep(window / 4);
        for peer in &mut served {
            assert!(is_pong(&ask(peer)), "who is served stays served");
        }
    }
    let spent = host.cpu() - cpu;
    assert_eq!(host.figure("clients"), inside);

    let hiccups = Hiccups::watch();
    let mut resumed = Vec::new();
    let mut inside: Vec<RawPeer> = waiting.drain(..inside - SERVED).collect();
    for mut next in waiting.drain(..10) {
        drop(inside.pop());
        let begun = Instant::now();
        assert!(is_pong(&next.line()));
        resumed.push(begun.elapsed());
        inside.push(next);
    }
    let slack = hiccups.slack();
    let longest = resumed.iter().max().unwrap();
    println!(
        "no descriptor left for {window:?} with {} connectors waiting: {spent:?} of processor time; accepting resumed \
         within {longest:?} of a free one (slack {slack:?})",
        waiting.len()
    );
    assert!(spent <= window / 50, "{spent:?} in {window:?}");
    assert!(*longest <= Duration::from_millis(100) + slack, "{longest:?}");
    for peer in &mut served {
        assert!(is_pong(&ask(peer)));
    }
}

/// Connections come and go, each in its own rude way; slots are used again all the time, and nobody gets what was meant
/// for the one before.
#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let _alone = alone("connections_that_come_and_go_leave_nothing_behind");
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
            // One that stays to see that it is served, in a slot that was just left in some other way.
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
        "{cycles} connections came and went in {took:?} ({cpu:?} of the server): {left} descriptors left, {} of memory, \
         {connections} connections and {pings} pings counted",
        kib(grown)
    );
    assert_eq!(left, 0);
    assert!(grown <= 1 << 20, "{}", kib(grown));
    // Every seventh cycle makes two.
    let all = warm + cycles;
    assert_eq!(connections, 1 + all + (0..all).filter(|number| number % 7 == 6).count());
    assert_eq!(host.figure("auth"), 0, "nobody was left to a deadline");
}

/// Sends `bytes` with `count` copies of a descriptor.
fn send_with(stream: &UnixStream, bytes: &[u8], count: usize) {
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = vec![file.as_raw_fd(); count];
    let rights = [ControlMessage::ScmRights(&fds)];
    let sent =
        sendmsg::<()>(stream.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn descriptors_that_a_peer_sends_along_do_not_get_in() {
    let _alone = alone("descriptors_that_a_peer_sends_along_do_not_get_in");
    let mut host = Host::start(&[]);
    assert_eq!(host.tell("drain"), "ok");
    let mut peer = host.connect_known();
    let before = host.descriptors();
    let line = peer.fill(&text("with a gift"));
    let rounds = times(200, 10_000);
    for round in 0..rounds {
        // With a whole line, and with the two halves of one.
        send_with(&peer.stream, &line, 8);
        assert!(peer.line().unwrap().contains("uds-"), "round {round}");
        send_with(&peer.stream, &line[..20], 100);
        peer.stream.write_all(&line[20..]).unwrap();
        assert!(peer.line().unwrap().contains("uds-"), "round {round}");
        if round % 50 == 0 {
            assert_eq!(host.descriptors(), before, "round {round}");
        }
    }
    assert_eq!(host.descriptors(), before);
    println!("{} descriptors sent along: none got in", 109 * rounds);
}

/// The kernel ends a read behind bytes that came with descriptors, though there is more: a short read proves nothing then,
/// and no further event tells of what is left.
#[test]
fn bytes_behind_descriptors_are_read_too() {
    let _alone = alone("bytes_behind_descriptors_are_read_too");
    let host = Host::start(&[]);
    let signal = |signal| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(host.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    for pieces in [[20, 60], [0, 0], [1, 2]] {
        let mut peer = host.connect_known();
        peer.stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let line = peer.fill(&text("in pieces"));
        // All of it is there before the server looks.
        signal(nix::sys::signal::SIGSTOP);
        let [first, second] = pieces;
        if second > 0 {
            send_with(&peer.stream, &line[..first], 1);
            send_with(&peer.stream, &line[first..second], 2);
        }
        peer.stream.write_all(&line[second..]).unwrap();
        signal(nix::sys::signal::SIGCONT);
        assert!(peer.line().unwrap().contains("uds-"), "pieces of {pieces:?}");
    }
}

/// The part: a client that is not allowed to wait, because `poll` takes no more descriptors than a process may have, and is
/// then allowed again.
#[test]
fn waiter() {
    if !plays("descriptors::waiter") {
        return;
    }
    let environment = Environment::from_process();
    let server = Server::builder().environment(environment.clone()).start().unwrap();
    let client = Client::in_namespace(&Namespace::default(), &environment).unwrap();
    let mut client = client.with_timeout(Duration::from_millis(300));
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
fn a_client_that_cannot_wait_says_so_and_forgets_nothing() {
    let _alone = alone("a_client_that_cannot_wait_says_so_and_forgets_nothing");
    let home = Home::new();
    let mut process = part("descriptors::waiter", &home).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    assert_eq!(listen(&mut lines), "done");
    assert!(process.wait().unwrap().success());
}
