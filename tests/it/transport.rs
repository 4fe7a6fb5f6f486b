//! Uses of a socket beside writing bytes: passing descriptors, urgent data, and a listener shared with others
//! and shut down by them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use mio::{Events, Poll};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use udsmsg::os::{CapabilityDir, Random};
use udsmsg::{Address, Client, ErrorKind, Namespace, Outgoing, SendOutcome, Server, ServerEvent};

use crate::util::real::{Home, RawPeer};
use crate::util::rights::{self, send_urgent, send_with};
use crate::util::{error, machine, matches, ok, text, watchdog};

/// What has been sent is there at once: nothing has to be waited for.
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);
/// More turns than any test here needs.
const TURNS: usize = 20;
/// Longer than a watchdog.
const LONG: Duration = Duration::from_secs(100);
const ANSWER: &[u8] = b"{\"type\":\"response\",\"data\":\"ok\",\"meta\":{\"id\":\"uds-1\"}}\n";

fn turn(server: &mut Server) {
    for _ in 0..TURNS {
        let _ = server.turn(AT_ONCE).unwrap();
    }
}

fn path_of(server: &Server) -> PathBuf {
    PathBuf::from(server.address().path())
}

fn connect(home: &Home, server: &Server) -> RawPeer {
    RawPeer::connect(&path_of(server), &home.token_of(server))
}

/// A listener as a service manager makes it, in a private directory.
fn listener(home: &Home) -> UnixListener {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let dir = home.path().join("given");
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let path = dir.join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    listener
}

fn adopting(home: &Home, listener: UnixListener) -> Result<Server, udsmsg::Error> {
    Server::builder().environment(home.environment()).listener(listener).start()
}

/// A socket that clients take for a server's.
fn fake(home: &Home) -> (Address, UnixListener) {
    let address = Address::from_path(&home.path().join("fake.sock")).unwrap();
    let mut random = Random::from_os().unwrap();
    let capabilities = CapabilityDir::of(&Namespace::default(), &home.environment()).unwrap();
    capabilities.publish(&address, &random.auth_token(), &mut random).unwrap();
    let listener = UnixListener::bind(address.path()).unwrap();
    (address, listener)
}

fn client(home: &Home) -> Client {
    Client::in_namespace(&Namespace::default(), &home.environment()).unwrap().with_timeout(LONG)
}

/// The last close of a passed descriptor happens in the thread that reads it, and can take any time. So
/// descriptors are refused, and the sender gets an error.
#[test]
#[cfg(target_os = "linux")]
fn descriptor_that_lingers_does_not_hold_a_server() {
    let name = "descriptor_that_lingers_does_not_hold_a_server";
    let _watchdog = watchdog::watch(name);
    if !rights::can_be_refused() {
        return;
    }
    let (full, _other) = rights::lingering();
    let home = Home::new();
    let mut server = home.start(|_| ());
    let given = Home::new();
    let listener = listener(&given);
    let waiting = UnixStream::connect(listener.local_addr().unwrap().as_pathname().unwrap()).unwrap();
    let mut adopter = adopting(&given, listener).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.adopt_stream(ours).unwrap();

    let token = home.token_of(&server);
    let backlog = connect(&home, &server);
    assert_eq!(send_with(&backlog.stream, b" ", &full, 1), Err(Errno::EPERM), "not accepted yet");
    let accepted = connect(&home, &server);
    turn(&mut server);
    turn(&mut adopter);
    let adopted = RawPeer::adopt(theirs, &path_of(&server), &token);
    let inherited = connect(&given, &adopter);
    let waited = RawPeer::adopt(waiting, &path_of(&adopter), &given.token_of(&adopter));
    turn(&mut adopter);
    let peers = [
        ("in the backlog", backlog),
        ("accepted", accepted),
        ("adopted", adopted),
        ("accepted from an adopted listener", inherited),
        ("waiting when its listener was adopted", waited),
    ];
    for (how, mut peer) in peers {
        assert_eq!(send_with(&peer.stream, b" ", &full, 1), Err(Errno::EPERM), "{how}");
        // It is served like any other.
        peer.send(&text("a"));
        turn(&mut server);
        turn(&mut adopter);
        assert!(peer.line().unwrap().contains("uds-"), "{how}");
    }
    // A socket without the option accepts them: the test tests the option.
    let (one, other) = UnixStream::pair().unwrap();
    assert_eq!(send_with(&one, b" ", &std::io::stdin(), 1), Ok(1));
    drop(other);
}

/// The same from a server to its clients: to the blocking one, and to a server that sends.
#[test]
#[cfg(target_os = "linux")]
fn descriptor_that_lingers_does_not_hold_a_client() {
    let name = "descriptor_that_lingers_does_not_hold_a_client";
    let _watchdog = watchdog::watch(name);
    if !rights::can_be_refused() {
        return;
    }
    let home = Home::new();
    let (address, listener) = fake(&home);
    let hostile = std::thread::spawn(move || {
        let (full, _other) = rights::lingering();
        let mut refused = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            refused.push(send_with(&stream, b" ", &full, 1));
            stream.write_all(ANSWER).unwrap();
        }
        refused
    });
    let outcome = client(&home).send(&address, &Outgoing::new("text"));
    assert!(matches!(outcome, SendOutcome::Accepted { .. }), "{outcome}");
    let mut server = home.start(|_| ());
    server.send(&address, &Outgoing::new("text"), LONG).unwrap();
    let event = loop {
        let _ = server.turn(None).unwrap();
        if let Some(event) = server.next_event() {
            break event;
        }
    };
    assert!(matches!(event, ServerEvent::Sent { outcome: SendOutcome::Accepted { .. }, .. }), "{event:?}");
    assert_eq!(hostile.join().unwrap(), [Err(Errno::EPERM); 2]);
}

/// Sends a line with urgent data between its bytes. The events of the kernel, or further reads, yield the
/// rest.
fn in_pieces(stream: &UnixStream, line: &[u8], cuts: &[usize]) -> bool {
    let mut from = 0;
    for &cut in cuts {
        (&*stream).write_all(&line[from..cut]).unwrap();
        if !send_urgent(stream, b'!') {
            return false;
        }
        from = cut;
    }
    (&*stream).write_all(&line[from..]).unwrap();
    true
}

/// A read ends before urgent data although more follows, and no further event reports that.
#[test]
fn line_split_around_urgent_data_is_answered() {
    let name = "line_split_around_urgent_data_is_answered";
    let _watchdog = watchdog::watch(name);
    let home = Home::new();
    let mut server = home.start(|_| ());
    // The end of the line is urgent data only where nothing of the line is lost with it.
    for (number, (cuts, is_known)) in [(15, true), (15, false), (1, true), (0, true)].into_iter().enumerate()
    {
        let mut peer = connect(&home, &server);
        turn(&mut server);
        let line = peer.fill(&text("a"));
        if is_known {
            // The data of the first event is read in one turn: only its own event reports the next.
            peer.stream.write_all(b"\n").unwrap();
            turn(&mut server);
        }
        if !in_pieces(&peer.stream, &line, &[cuts]) {
            crate::util::machine::skip("there is no urgent data on Unix sockets here");
            return;
        }
        turn(&mut server);
        peer.stream.set_nonblocking(true).unwrap();
        let mut answer = vec![0; 4_096];
        let n = peer.stream.read(&mut answer);
        let n = n.unwrap_or_else(|error| panic!("cut at {cuts}: the line was not read: {error}"));
        let answer = String::from_utf8(answer[..n].to_vec()).unwrap();
        assert!(matches(&ok(number + 1), answer.trim_end()), "cut at {cuts}: {answer}");
    }
}

/// The event reported plain bytes, and urgent data arrived before the read.
#[test]
fn urgent_data_between_an_event_and_its_read_loses_nothing() {
    let name = "urgent_data_between_an_event_and_its_read_loses_nothing";
    let _watchdog = watchdog::watch(name);
    let home = Home::new();
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(64);
    let mut server = Server::builder().environment(home.environment()).start_in(poll.registry(), 0).unwrap();
    let mut peer = connect(&home, &server);
    let mut hand_over = |server: &mut Server| {
        poll.poll(&mut events, AT_ONCE).unwrap();
        for event in &events {
            assert!(server.on_event(event));
        }
    };
    for number in 1..=3 {
        let line = peer.fill(&text("a"));
        for _ in 0..TURNS {
            hand_over(&mut server);
            let _ = server.turn(None).unwrap();
        }
        peer.stream.write_all(&line[..15]).unwrap();
        hand_over(&mut server);
        // In one step or in two, with the rest behind it or without.
        if !send_urgent(&peer.stream, b'!') {
            crate::util::machine::skip("there is no urgent data on Unix sockets here");
            return;
        }
        peer.stream.write_all(&line[15..30]).unwrap();
        if number > 1 {
            let _ = server.turn(None).unwrap();
        }
        if number > 2 {
            hand_over(&mut server);
        }
        in_pieces(&peer.stream, &line[30..], &[1, 2, 20]);
        for _ in 0..TURNS {
            hand_over(&mut server);
            let _ = server.turn(None).unwrap();
        }
        // Of several urgent bytes only the last is one: the others are bytes of the line, which is no line
        // then.
        peer.stream.set_nonblocking(true).unwrap();
        let mut answer = [0; 4_096];
        let n = peer.stream.read(&mut answer);
        let n = n.unwrap_or_else(|error| panic!("round {number}: the line was not read: {error}"));
        let answer = String::from_utf8(answer[..n].to_vec()).unwrap();
        assert!(matches(&error("invalid frame"), answer.trim_end()), "round {number}: {answer}");
        peer = connect(&home, &server);
    }
}

/// The same for answers: to a server that sends, and to the blocking client.
#[test]
fn answer_split_around_urgent_data_is_read() {
    let name = "answer_split_around_urgent_data_is_read";
    let _watchdog = watchdog::watch(name);
    let home = Home::new();
    let (address, listener) = fake(&home);
    let (asked, is_urgent) = mpsc::channel();
    let fake = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        asked.send(in_pieces(&stream, ANSWER, &[15])).unwrap();
        (stream, listener)
    });
    let outcome = client(&home).send(&address, &Outgoing::new("text"));
    if !is_urgent.recv().unwrap() {
        crate::util::machine::skip("there is no urgent data on Unix sockets here");
        return;
    }
    assert!(matches!(outcome, SendOutcome::Accepted { .. }), "{outcome}");
    let (_stream, listener) = fake.join().unwrap();

    let mut server = home.start(|_| ());
    let id = server.send(&address, &Outgoing::new("text"), LONG).unwrap();
    turn(&mut server);
    let (stream, _) = listener.accept().unwrap();
    BufReader::new(&stream).read_line(&mut String::new()).unwrap();
    assert!(in_pieces(&stream, ANSWER, &[15]));
    turn(&mut server);
    let event = server.next_event();
    let Some(ServerEvent::Sent { id: told, outcome: SendOutcome::Accepted { .. }, .. }) = event else {
        panic!("the answer was not read: {event:?}");
    };
    assert_eq!(told, id);
}

/// Another holder of a listener can shut it down. Then no client can connect, and accept reports only that
/// none is waiting.
#[test]
#[cfg(target_os = "linux")]
fn shut_down_listener_is_reported_as_broken() {
    let _watchdog = watchdog::watch("shut_down_listener_is_reported_as_broken");
    for how in [Shutdown::Read, Shutdown::Both] {
        let home = Home::new();
        let given = listener(&home);
        let other = given.try_clone().unwrap();
        let mut server = adopting(&home, given).unwrap();
        let mut served = connect(&home, &server);
        turn(&mut server);
        let mut waiting = connect(&home, &server);
        shutdown(other.as_raw_fd(), how).unwrap();
        let broken = (0..TURNS).find_map(|_| server.turn(AT_ONCE).err());
        let broken = broken.unwrap_or_else(|| panic!("{how:?}: no turn reports it"));
        assert_eq!(broken.kind(), ErrorKind::Io);
        assert!(broken.to_string().contains("shut down"), "{broken}");
        assert!(!server.is_reachable());
        // It is reported once; connected clients and those in the backlog are served.
        turn(&mut server);
        for (number, peer) in [&mut served, &mut waiting].into_iter().enumerate() {
            peer.send(&text("a"));
            turn(&mut server);
            assert!(matches(&ok(number + 1), &peer.line().unwrap()), "{how:?}");
        }
        // The name can be taken again.
        server.rebind().unwrap();
        assert!(server.is_reachable());
        let mut next = connect(&home, &server);
        next.send(&text("a"));
        turn(&mut server);
        assert!(matches(&ok(3), &next.line().unwrap()), "{how:?}");
    }
}

/// The turn in which the listener breaks reports its new messages, and the next one reports the break.
#[test]
#[cfg(target_os = "linux")]
fn broken_listener_does_not_hide_what_a_turn_enqueued() {
    let _watchdog = watchdog::watch("broken_listener_does_not_hide_what_a_turn_enqueued");
    let home = Home::new();
    let given = listener(&home);
    let other = given.try_clone().unwrap();
    let mut server = adopting(&home, given).unwrap();
    let mut peer = connect(&home, &server);
    turn(&mut server);
    peer.send(&text("a"));
    shutdown(other.as_raw_fd(), Shutdown::Both).unwrap();
    let found = server.process().unwrap();
    assert_eq!((found.enqueued, found.more), (1, true));
    assert!(!server.is_reachable());
    assert_eq!(server.next_timeout(), Some(Duration::ZERO));
    assert_eq!(server.process().unwrap_err().kind(), ErrorKind::Io);
    assert!(!server.process().unwrap().more, "it is reported once");
    assert_eq!(server.inbox_len(), 1);
}

/// A listener that was shut down before cannot be adopted.
#[test]
#[cfg(target_os = "linux")]
fn listener_that_was_shut_down_before_is_refused() {
    for how in [Shutdown::Read, Shutdown::Both] {
        let home = Home::new();
        let given = listener(&home);
        shutdown(given.as_raw_fd(), how).unwrap();
        let refused = adopting(&home, given).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidListener, "{refused}");
        assert!(refused.to_string().contains("shut down"), "{refused}");
    }
}

/// It gets an error line, and the call returns an error.
#[test]
fn adopted_stream_that_finds_no_room_is_busy() {
    let _watchdog = watchdog::watch("adopted_stream_that_finds_no_room_is_busy");
    let home = Home::new();
    let mut server = home.start(|limits| limits.clients_max = 1);
    let mut first = connect(&home, &server);
    first.send(&text("a"));
    turn(&mut server);
    assert!(matches(&ok(1), &first.line().unwrap()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut second = RawPeer::adopt(theirs, &path_of(&server), &home.token_of(&server));
    let refused = server.adopt_stream(ours).expect_err("there is no room");
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    turn(&mut server);
    assert!(matches(&error("too many clients"), &second.line().unwrap()));
}

/// A child of the host must not hold a client's connection open.
#[test]
#[cfg(target_os = "linux")]
fn adopted_stream_is_closed_in_children() {
    let home = Home::new();
    let mut server = home.start(|_| ());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    fcntl(&ours, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let info = format!("/proc/self/fdinfo/{}", ours.as_raw_fd());
    server.adopt_stream(ours).unwrap();
    let info = std::fs::read_to_string(info).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
    assert!(flags & nix::libc::O_CLOEXEC != 0, "{flags:o}");
}

/// Root can open the way to its socket. A process of another user that connects then is closed at once, reads nothing
/// and is counted.
#[test]
fn client_of_another_user_is_closed_without_a_word() {
    use std::os::unix::fs::PermissionsExt;
    let _watchdog = watchdog::watch("client_of_another_user_is_closed_without_a_word");
    if nix::unistd::geteuid().as_raw() != 0 {
        machine::skip("not root, so there is no second user");
        return;
    }
    let home = Home::open();
    let directory = home.path().join("d");
    let path = directory.join("s.sock");
    let address = Address::from_path(&path).unwrap();
    let mut server = Server::builder().environment(home.environment()).address(address).start().unwrap();
    for (opened, mode) in [(home.path(), 0o711), (&directory, 0o711), (&path, 0o666)] {
        std::fs::set_permissions(opened, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["transport::stranger_entry", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("UDSMSG_STRANGER", &path).current_dir("/").stdout(std::process::Stdio::piped());
    let mut stranger = command.spawn().unwrap();
    while server.stats().strangers + server.stats().connections == 0 {
        let _ = server.turn(Some(LONG)).unwrap();
    }
    assert_eq!((server.stats().strangers, server.stats().connections), (1, 0));
    let mut said = String::new();
    stranger.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(stranger.wait().unwrap().success(), "{said}");
    assert!(said.contains("=> read 0 bytes"), "{said}");
}

#[test]
#[allow(clippy::print_stdout, reason = "the child talks to its parent")]
fn stranger_entry() {
    let Some(path) = std::env::var_os("UDSMSG_STRANGER") else { return };
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(65534.into()).unwrap();
    nix::unistd::setuid(65534.into()).unwrap();
    let mut bytes = Vec::new();
    let _ = UnixStream::connect(path).unwrap().read_to_end(&mut bytes);
    println!("\n=> read {} bytes", bytes.len());
}

/// Does `work` in a thread whose writes to sockets are refused with ENOBUFS; `None` where there is no filter
/// for this machine.
#[cfg(target_os = "linux")]
fn without_memory<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    use nix::libc;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let arch = std::env::consts::ARCH.try_into().ok()?;
    let calls = std::collections::BTreeMap::from([(libc::SYS_sendto, Vec::new())]);
    let refuse = SeccompAction::Errno(u32::try_from(libc::ENOBUFS).unwrap());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, refuse, arch).ok()?;
    let filter: BpfProgram = filter.try_into().ok()?;
    std::thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            work()
        });
        Some(filtered.join().unwrap())
    })
}

#[test]
#[cfg(target_os = "linux")]
fn server_writes_again_what_the_system_had_no_memory_for() {
    let name = "server_writes_again_what_the_system_had_no_memory_for";
    let _watchdog = watchdog::watch(name);
    let home = Home::new();
    let mut server = home.start(|_| ());
    let mut peer = connect(&home, &server);
    peer.send(&text("a"));
    let waits = without_memory(|| {
        turn(&mut server);
        server.next_timeout()
    });
    let Some(waits) = waits else {
        return machine::skip(&format!("{name}: no system call filter for this machine"));
    };
    let waits = waits.expect("a turn is due soon, though no event will come");
    assert!(!waits.is_zero() && waits <= Duration::from_millis(10), "{waits:?}");
    assert_eq!(server.inbox_len(), 1);
    // No event says that there is memory again.
    let _ = server.turn(None).unwrap();
    assert!(matches(&ok(1), &peer.line().unwrap()));
    assert!(server.next_timeout().is_none_or(|due| due > waits), "nothing is left to be written");
}

#[test]
#[cfg(target_os = "linux")]
fn client_writes_again_what_the_system_had_no_memory_for() {
    let name = "client_writes_again_what_the_system_had_no_memory_for";
    let _watchdog = watchdog::watch(name);
    let home = Home::new();
    let (address, listener) = fake(&home);
    let mut client = client(&home);
    let sent = without_memory(|| client.start(&address, &Outgoing::new("text")).unwrap());
    let Some(sent) = sent else {
        return machine::skip(&format!("{name}: no system call filter for this machine"));
    };
    let answers = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        stream.read_line(&mut String::new()).unwrap();
        stream.get_mut().write_all(ANSWER).unwrap();
    });
    let (id, outcome) = client.next_outcome().unwrap().unwrap();
    assert_eq!(id, sent);
    assert!(std::matches!(outcome, SendOutcome::Accepted { .. }), "{outcome:?}");
    answers.join().unwrap();
}
