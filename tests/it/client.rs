//! The blocking client on real sockets: with real servers, and with misbehaving ones.

use std::collections::HashMap;
#[cfg(unix)]
use std::io::BufReader;
use std::io::{Read, Write};
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
#[cfg(unix)]
use std::process::{Child, ChildStdout};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use udsmsg::os::{CapabilityDir, Random};
use udsmsg::peers::PeerState;
use udsmsg::{Address, Client, ErrorKind, Namespace, Outgoing, Peers, SendId, SendOutcome};

#[cfg(unix)]
use crate::util::machine;
use crate::util::real::{Home, PATIENCE, RawPeer, Real};
use crate::util::stream::{Listener, Stream, can_connect, full_listener, path_in};
use crate::util::thread_time::thread_time;
use crate::util::{ping, scale, watchdog, with_time_enough};

/// A user that is not us.
#[cfg(unix)]
const OTHER_UID: u32 = 65_534;

fn message(data: &str) -> Outgoing {
    Outgoing::new("text").with_text(data)
}

impl Home {
    fn client(&self) -> Client {
        Client::in_namespace(&Namespace::default(), &self.environment()).unwrap().with_timeout(PATIENCE)
    }

    /// Publishes a token for `name` as a server there would, and returns the address.
    pub fn publish(&self, name: &str) -> (Address, String) {
        let address = Address::from_path(&self.path_for(name)).unwrap();
        let mut random = Random::from_os().unwrap();
        let token = random.auth_token();
        let capabilities = CapabilityDir::of(&Namespace::default(), &self.environment()).unwrap();
        capabilities.publish(&address, &token, &mut random).unwrap();
        (address, token.expose().to_owned())
    }
}

/// A scripted server: `serve` is called with each accepted connection and its number.
struct Fake {
    address: Address,
    accepted: Arc<AtomicUsize>,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    fn start(home: &Home, serve: impl FnMut(usize, Stream) + Send + 'static) -> Self {
        let (address, _) = home.publish("fake.sock");
        let listener = Listener::bind(address.path()).unwrap();
        Self::listen(address, listener, serve)
    }

    fn listen(
        address: Address,
        listener: Listener,
        mut serve: impl FnMut(usize, Stream) + Send + 'static,
    ) -> Self {
        let (accepted, stops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_over) = (Arc::clone(&accepted), Arc::clone(&stops));
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs must not block the report of the test.
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                serve(count.fetch_add(1, Ordering::SeqCst), stream);
            }
        });
        Self { address, accepted, stops, thread: Some(thread) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        let _ = Stream::connect(self.address.path());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads one line; what there is at the end.
fn read_line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|n| n == 1) {
        line.push(byte[0]);
        if byte == *b"\n" {
            break;
        }
    }
    String::from_utf8(line).unwrap()
}

/// Reads one byte: a line as short as those here has arrived whole by then.
fn begin_line(stream: &mut impl Read) {
    stream.read_exact(&mut [0]).unwrap();
}

const OK: &[u8] = b"{\"type\":\"response\",\"data\":\"ok\",\"meta\":{\"id\":\"uds-1\"}}\n";

/// The outcome when a server ends at each point; its inbox is what it read whole.
#[test]
fn server_that_ends_at_any_point_gives_a_true_outcome() {
    let _watchdog = watchdog::watch("server_that_ends_at_any_point_gives_a_true_outcome");
    struct Case {
        name: &'static str,
        reads: usize,
        answers: usize,
        expected: &'static str,
    }
    let cases = [
        // Whether anything could be written depends on timing.
        Case { name: "after accept", reads: 0, answers: 0, expected: ": UDS socket ended before response" },
        Case {
            name: "after a part of the line",
            reads: 20,
            answers: 0,
            expected: "unknown: UDS socket ended",
        },
        Case { name: "after the line", reads: usize::MAX, answers: 0, expected: "unknown: UDS socket ended" },
        Case {
            name: "after one byte of the answer",
            reads: usize::MAX,
            answers: 1,
            expected: "unknown: UDS socket ended",
        },
        Case {
            name: "before the newline",
            reads: usize::MAX,
            answers: OK.len() - 1,
            expected: "unknown: UDS socket ended",
        },
        Case {
            name: "after the answer",
            reads: usize::MAX,
            answers: OK.len(),
            expected: "accepted: accepted as uds-1",
        },
        // The connection is reset with unread bytes; the answer has arrived all the same.
        Case {
            name: "after an early answer",
            reads: 20,
            answers: OK.len(),
            expected: "accepted: accepted as uds-1",
        },
    ];
    for Case { name, reads, answers, expected } in cases {
        let home = Home::new();
        let fake = Fake::start(&home, move |_, mut stream| {
            if reads == usize::MAX {
                assert!(read_line(&mut stream).ends_with('\n'));
            } else {
                let mut some = vec![0; reads];
                stream.read_exact(&mut some).unwrap();
            }
            stream.write_all(&OK[..answers]).unwrap();
        });
        let outcome = home.client().send(&fake.address, &message("a"));
        let told = format!("{}: {outcome}", outcome.code());
        let is_as_expected = match expected.strip_prefix(':') {
            Some(_) => told.contains(expected) && matches!(outcome.code(), "not_sent" | "unknown"),
            None => told.starts_with(expected),
        };
        assert!(is_as_expected, "{name}: {told}");
        assert_eq!(fake.accepted(), 1, "{name}: not sent again");
    }
}

/// A real server in its own process is killed with `SIGKILL` while many messages are in flight: accepted
/// messages were in its inbox; unsent and rejected ones were not.
#[test]
fn killed_server_gives_true_outcomes() {
    let _watchdog = watchdog::watch("killed_server_gives_true_outcomes");
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for round in 0..12 * scale() as u64 {
        let home = Home::new();
        let address = Address::from_path(&home.path_for("new/killed.sock")).unwrap();
        let log = home.path().join("log");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["client::killed_entry", "--exact", "--nocapture", "--test-threads=1"])
            .env("UDSMSG_KILLED", home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        while read_line(&mut out).trim() != "=> ready" {}
        let mut client = home.client();
        let mut labels = HashMap::new();
        for n in 0..400_u64 {
            labels.insert(client.start(&address, &message(&n.to_string())).unwrap(), n);
        }
        let mut told = HashMap::new();
        // Killed before any answer, or after some answers, and a little later.
        let at = if round % 4 == 0 { 0 } else { 40 * usize::try_from(round % 8).unwrap() };
        while told.len() < at
            && let Some((id, outcome)) = client.next_outcome().unwrap()
        {
            told.insert(labels[&id], outcome);
        }
        std::thread::sleep(Duration::from_micros(137 * (round % 5)));
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some((id, outcome)) = client.next_outcome().unwrap() {
            assert!(told.insert(labels[&id], outcome).is_none(), "reported twice");
        }
        // A byte for each message that was in the inbox at the end of a turn: at least so many were there.
        let there = std::fs::metadata(&log).unwrap().len();
        for n in 0..400_u64 {
            let outcome = &told[&n];
            *counts.entry(outcome.code()).or_default() += 1;
            let could_be = matches!(outcome.code(), "accepted" | "unknown");
            assert!(could_be || n >= there, "round {round}: {n} of {there} is there, and: {outcome}");
            if outcome.is_accepted() {
                // The id counts what was put in, so all before it were, and this is not another's answer.
                assert_eq!(outcome.to_string(), format!("accepted as uds-{}", n + 1), "round {round}");
            }
        }
    }
    eprintln!("{counts:?}");
}

/// The child: a server that notes in a file how many messages are in its inbox.
#[test]
#[allow(clippy::print_stdout, reason = "the child talks to its parent")]
fn killed_entry() {
    let Some(home) = std::env::var_os("UDSMSG_KILLED") else { return };
    let home = std::path::PathBuf::from(home);
    let environment = udsmsg::Environment::from_pairs([
        ("CLAUDE_CONFIG_DIR", home.join("config")),
        ("HOME", home.join("home")),
        ("USERPROFILE", home.join("home")),
        ("TMPDIR", home.join("t")),
    ]);
    let address = Address::from_path(&path_in(&home, "new/killed.sock")).unwrap();
    let mut server = udsmsg::Server::builder().environment(environment).address(address).start().unwrap();
    let mut log = std::fs::File::create(home.join("log")).unwrap();
    println!("\n=> ready");
    let mut noted = 0;
    loop {
        let _ = server.turn(None).unwrap();
        let len = server.inbox_len();
        log.write_all(&vec![b'.'; len - noted]).unwrap();
        noted = len;
    }
}

/// No server is there: each cause has its own error.
#[test]
fn absent_servers_give_not_sent() {
    let home = Home::new();
    let mut client = home.client();
    let absent = Address::from_path(&home.path_for("absent.sock")).unwrap();
    let dead = home.publish("dead.sock").0;
    drop(Listener::bind(dead.path()).unwrap());
    // A process that another test starts may hold a copy of the listener for a moment.
    while can_connect(dead.path().as_ref()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let none = home.publish("none.sock").0;
    let file = home.publish("file.sock").0;
    // No file can stand among the pipes.
    #[cfg(unix)]
    std::fs::write(file.path(), "x").unwrap();
    let long = Address::from_path(&home.path_for(&"x".repeat(250))).unwrap();
    for (target, kind) in [
        (absent, ErrorKind::CapabilityMissing),
        (dead, ErrorKind::NoSuchPeer),
        (none, ErrorKind::NoSuchPeer),
        (file, ErrorKind::NoSuchPeer),
        (long, ErrorKind::PathTooLong),
    ] {
        match client.send(&target, &message("a")) {
            SendOutcome::NotSent(error) => assert_eq!(error.kind(), kind, "{target:?}: {error}"),
            other => panic!("{target:?}: {other}"),
        }
    }
}

/// A client stays usable after any number of messages that cannot be sent.
#[test]
fn failed_sends_leave_the_client_usable() {
    let _watchdog = watchdog::watch("failed_sends_leave_the_client_usable");
    let real = Real::start(|_| ());
    let mut client = real.home.client();
    let absent = Address::from_path(&real.home.path_for("absent.sock")).unwrap();
    // Each look at a directory takes long under Wine.
    let attempts = if cfg!(windows) { 1_200 } else { 3_000 };
    for n in 0..attempts {
        match client.send(&absent, &message("a")) {
            SendOutcome::NotSent(error) if error.kind() == ErrorKind::CapabilityMissing => {}
            other => panic!("attempt {n}: {other}"),
        }
    }
    let address = Address::from_path(&real.path).unwrap();
    assert!(client.send(&address, &message("a")).is_accepted());
    for n in 0..attempts {
        let error = client.start(&absent, &message("a")).err().map(|error| error.kind());
        if error == Some(ErrorKind::OutboxFull) {
            while client.next_outcome().unwrap().is_some() {}
        } else {
            assert_eq!(error, None, "attempt {n}");
        }
    }
}

/// A message that cannot be sent has its outcome before the call returns; it is reported all the same.
#[test]
fn immediate_failures_are_reported() {
    let home = Home::new();
    let mut client = home.client();
    let absent = Address::from_path(&home.path_for("absent.sock")).unwrap();
    let started: Vec<SendId> = (0..3).map(|_| client.start(&absent, &message("a")).unwrap()).collect();
    assert_eq!(client.outstanding(), 3, "nothing was reported yet");
    for id in started {
        let (told, outcome) = client.next_outcome().unwrap().expect("each is reported");
        assert_eq!((told, outcome.code()), (id, "not_sent"));
    }
    assert!(client.next_outcome().unwrap().is_none() && client.outstanding() == 0);
}

/// Outcomes that were not taken yet do not keep `send` from getting its own.
#[test]
fn send_returns_its_own_outcome_while_others_are_pending() {
    let _watchdog = watchdog::watch("send_returns_its_own_outcome_while_others_are_pending");
    let home = Home::new();
    let fake = Fake::start(&home, |_, mut stream| {
        for _ in 0..2 {
            assert!(read_line(&mut stream).ends_with('\n'));
        }
        stream.write_all(OK).unwrap();
        // The second answer comes in a read of its own.
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(OK).unwrap();
        let _ = read_line(&mut stream);
    });
    let mut client = home.client();
    let first = client.start(&fake.address, &message("a")).unwrap();
    let (tell, told) = mpsc::channel();
    let address = fake.address.clone();
    std::thread::spawn(move || {
        let outcome = client.send(&address, &message("b"));
        let _ = tell.send((client, outcome));
    });
    let (mut client, outcome) = told.recv_timeout(PATIENCE / 2).expect("it is reported before its deadline");
    assert!(outcome.is_accepted(), "{outcome}");
    let (id, outcome) = client.next_outcome().unwrap().unwrap();
    assert!(id == first && outcome.is_accepted(), "{outcome}");
    assert!(client.next_outcome().unwrap().is_none());
}

/// A second answer to the first message arrives, and the server ends without an answer to the second message.
#[test]
fn answer_that_arrived_before_the_message_is_ignored() {
    let _watchdog = watchdog::watch("answer_that_arrived_before_the_message_is_ignored");
    for (last, expected) in [(&b""[..], "unknown: UDS socket ended"), (OK, "accepted: accepted as uds-1")] {
        let home = Home::new();
        let (go, goes) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let fake = Fake::start(&home, move |_, mut stream| {
            let _ = read_line(&mut stream);
            stream.write_all(OK).unwrap();
            goes.recv().unwrap();
            stream.write_all(OK).unwrap();
            tell.send(()).unwrap();
            let _ = read_line(&mut stream);
            stream.write_all(last).unwrap();
        });
        let mut client = home.client();
        assert!(client.send(&fake.address, &message("a")).is_accepted());
        go.send(()).unwrap();
        told.recv().unwrap();
        let outcome = client.send(&fake.address, &message("b"));
        let told = format!("{}: {outcome}", outcome.code());
        assert!(told.starts_with(expected), "{told}, expected {expected}");
    }
}

/// A host that starts messages and never takes outcomes gets an error.
#[test]
fn untaken_outcomes_are_bounded() {
    let home = Home::new();
    let mut client = home.client();
    let absent = Address::from_path(&home.path_for("absent.sock")).unwrap();
    let error =
        (0..10_000).find_map(|_| client.start(&absent, &message("a")).err()).expect("there is a bound");
    assert_eq!(error.kind(), ErrorKind::OutboxFull, "{error}");
    assert_eq!(client.outstanding(), 1_000);
    assert_eq!(client.send(&absent, &message("a")).code(), "not_sent");
    let _ = client.next_outcome().unwrap().unwrap();
    let _ = client.start(&absent, &message("a")).expect("there is room for one more");
}

#[test]
fn unusual_answers_give_true_outcomes() {
    let _watchdog = watchdog::watch("unusual_answers_give_true_outcomes");
    type Serve = fn(usize, Stream);
    let cases: [(&str, Serve, &str); 6] = [
        (
            "byte by byte",
            |_, mut stream| {
                let _ = read_line(&mut stream);
                for byte in OK {
                    stream.write_all(&[*byte]).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
                let _ = read_line(&mut stream);
            },
            "accepted: accepted as uds-1",
        ),
        (
            "byte by byte, and too slowly",
            |_, mut stream| {
                let _ = read_line(&mut stream);
                // It never comes to the end of its line.
                for byte in OK.trim_ascii_end().iter().chain(std::iter::repeat(&b' ')) {
                    if stream.write_all(&[*byte]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            },
            "unknown: Connection timed out",
        ),
        (
            "junk",
            |_, mut stream| {
                begin_line(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                let _ = read_line(&mut stream);
            },
            "unknown: Invalid UDS response frame",
        ),
        (
            "an over-long line",
            |_, mut stream| {
                begin_line(&mut stream);
                let _ = stream.write_all(&vec![b' '; 65_537]);
                let _ = read_line(&mut stream);
            },
            "unknown: UDS response frame exceeded size limit",
        ),
        (
            "no end of lines that are no answer",
            |_, mut stream| {
                begin_line(&mut stream);
                while stream.write_all(b"{\"type\":\"text\"}\n").is_ok() {}
            },
            "unknown: Connection timed out",
        ),
        (
            "nothing",
            |_, mut stream| {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
            },
            "unknown: Connection timed out",
        ),
    ];
    for (name, serve, expected) in cases {
        let home = Home::new();
        let fake = Fake::start(&home, serve);
        // A case without a deadline ends long before it, or the watchdog ends the test.
        let is_late = expected.contains("timed out");
        let timeout = Duration::from_millis(400);
        let first = if is_late { timeout } else { 1_000 * timeout };
        let mut attempts = 0;
        let told = with_time_enough(first, |timeout| {
            attempts += 1;
            let begin = Instant::now();
            let outcome = home.client().with_timeout(timeout).send(&fake.address, &message("a"));
            assert!(!is_late || begin.elapsed() >= timeout, "{name}: reported before its deadline");
            // On a busy machine the time may be over before the message is written.
            let is_too_early = is_late && outcome.code() == "not_sent";
            (!is_too_early).then(|| format!("{}: {outcome}", outcome.code()))
        });
        assert!(told.starts_with(expected), "{name}: {told}");
        assert!(fake.accepted() <= attempts, "{name}");
    }
}

/// A server of another user at our path gets no bytes.
#[test]
#[cfg(unix)] // Wine knows one user only, and enforces no access list.
fn server_of_another_user_gets_no_bytes() {
    let _watchdog = watchdog::watch("server_of_another_user_gets_no_bytes");
    if nix::unistd::geteuid().as_raw() != 0 {
        machine::skip("not root, so there is no second user");
        return;
    }
    let home = Home::open();
    let (address, token) = home.publish("shared/fake.sock");
    let shared = home.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    for (dir, mode) in [(home.path(), 0o711), (&shared, 0o777)] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut impostor = Impostor::start(address.path());
    for _ in 0..3 {
        match home.client().send(&address, &message("a secret")) {
            SendOutcome::NotSent(error) => {
                assert_eq!(error.kind(), ErrorKind::ForeignPeer, "{error}");
                assert!(
                    error.to_string().contains("65534") && !error.to_string().contains(&token),
                    "{error}"
                );
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(impostor.finish(), "3 connections, 0 bytes");
    // The same program under our own user does get the message: only the user makes the difference.
    std::fs::remove_file(address.path()).unwrap();
    let mut honest = Impostor::start_as(address.path(), 0);
    with_time_enough(Duration::from_millis(300), |timeout| {
        let outcome = home.client().with_timeout(timeout).send(&address, &message("a"));
        (outcome.code() == "unknown").then_some(())
    });
    let found = honest.finish();
    assert!(found.contains(" connections, ") && !found.ends_with(" 0 bytes"), "{found}");
}

/// This program as a child of another user, which listens and counts what it is sent.
#[cfg(unix)]
struct Impostor {
    process: Child,
    said: BufReader<ChildStdout>,
}

#[cfg(unix)]
impl Impostor {
    fn start(path: &str) -> Self {
        Self::start_as(path, OTHER_UID)
    }

    fn start_as(path: &str, uid: u32) -> Self {
        // It changes its user itself: the other user may not be able to walk to where this program lies.
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["client::impostor_entry", "--exact", "--nocapture", "--test-threads=1"]);
        command.env("UDSMSG_IMPOSTOR", path).env("UDSMSG_IMPOSTOR_UID", uid.to_string());
        let mut process =
            command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        while read_line(&mut said).trim() != "=> ready" {}
        Self { process, said }
    }

    /// Stops it and returns what it saw.
    fn finish(&mut self) -> String {
        drop(self.process.stdin.take());
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        self.process.wait().unwrap();
        let line = said.lines().find_map(|line| line.split_once("=> ")).expect("it says what it saw");
        line.1.to_owned()
    }
}

#[cfg(unix)]
impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[cfg(unix)]
#[allow(clippy::print_stdout, reason = "the child talks to its parent")]
fn impostor_entry() {
    let Some(path) = std::env::var_os("UDSMSG_IMPOSTOR") else { return };
    let uid: u32 = std::env::var("UDSMSG_IMPOSTOR_UID").unwrap().parse().unwrap();
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(uid.into()).unwrap();
    nix::unistd::setuid(uid.into()).unwrap();
    let listener = Listener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    println!("\n=> ready");
    const LAST: &[u8] = b"the last";
    let counting = std::thread::spawn(move || {
        let mut found = Vec::new();
        loop {
            let mut bytes = Vec::new();
            let _ = listener.accept().unwrap().0.read_to_end(&mut bytes);
            if bytes == LAST {
                break found;
            }
            found.push(bytes.len());
        }
    });
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
    // Connections are accepted in their order: behind this one there is none.
    Stream::connect(&path).unwrap().write_all(LAST).unwrap();
    let found = counting.join().unwrap();
    println!("\n=> {} connections, {} bytes", found.len(), found.iter().sum::<usize>());
}

#[test]
fn a_connection_is_kept_and_used_again() {
    let _watchdog = watchdog::watch("a_connection_is_kept_and_used_again");
    let home = Home::new();
    let fake = Fake::start(&home, |_, mut stream| {
        while read_line(&mut stream).ends_with('\n') {
            stream.write_all(OK).unwrap();
        }
    });
    let mut client = home.client();
    for _ in 0..200 {
        assert!(client.send(&fake.address, &message("a")).is_accepted());
    }
    assert_eq!(fake.accepted(), 1);
    let started: Vec<SendId> =
        (0..200).map(|_| client.start(&fake.address, &message("a")).unwrap()).collect();
    let told: Vec<SendId> = std::iter::from_fn(|| client.next_outcome().unwrap()).map(|(id, _)| id).collect();
    assert_eq!((told, fake.accepted()), (started, 1));
    drop(client);
    assert!(home.client().send(&fake.address, &message("a")).is_accepted());
    assert_eq!(fake.accepted(), 2);
}

/// The server closes after each answer: each message still arrives once, on its own connection.
#[test]
fn server_that_closes_after_each_answer_loses_no_message() {
    let _watchdog = watchdog::watch("server_that_closes_after_each_answer_loses_no_message");
    let home = Home::new();
    let fake = Fake::start(&home, |_, mut stream| {
        let _ = read_line(&mut stream);
        let _ = stream.write_all(OK);
    });
    let mut client = home.client();
    for n in 0..50 {
        let outcome = client.send(&fake.address, &message("a"));
        // Written before the end could be seen, it is unknown; it is never sent twice.
        assert!(matches!(outcome.code(), "accepted" | "unknown"), "{n}: {outcome}");
    }
    assert!(fake.accepted() <= 50, "{} connections for 50 messages", fake.accepted());
}

/// Beside one that has published and is not there.
#[test]
fn live_server_is_listed_as_live() {
    let _watchdog = watchdog::watch("live_server_is_listed_as_live");
    let real = Real::start(|_| ());
    let (absent, _) = real.home.publish("absent.sock");
    let peers = Peers::in_namespace(&Namespace::default(), &real.home.environment()).unwrap();
    let list = peers.with_timeout(PATIENCE).list().unwrap();
    let found: Vec<(PeerState, &str)> =
        list.peers.iter().map(|peer| (peer.state, peer.address.as_ref().unwrap().path())).collect();
    let live = real.path.to_str().unwrap();
    assert_eq!(found, [(PeerState::Live, live), (PeerState::Unknown, absent.path())]);
    assert!(list.is_complete && list.peers.iter().all(|peer| peer.pid() == Some(std::process::id())));
}

#[test]
fn restarted_server_is_reached_with_its_new_token() {
    let _watchdog = watchdog::watch("restarted_server_is_reached_with_its_new_token");
    let home = Home::new();
    let address = Address::from_path(&home.path_for("new/again.sock")).unwrap();
    let mut client = home.client();
    let mut tokens = Vec::new();
    for round in 1..=5_usize {
        let builder = udsmsg::Server::builder().environment(home.environment());
        let mut server = builder.address(address.clone()).start().unwrap();
        tokens.push(home.token_of(&server));
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::SeqCst) {
                    let _ = server.turn(Some(Duration::from_millis(5))).unwrap();
                }
                assert_eq!(server.drain().len(), 2, "round {round}");
                server.shutdown(Duration::ZERO).unwrap();
            });
            let outcomes = [client.send(&address, &message("a")), client.send(&address, &message("b"))];
            is_done.store(true, Ordering::SeqCst);
            for (outcome, id) in outcomes.iter().zip(["accepted as uds-1", "accepted as uds-2"]) {
                assert_eq!(outcome.to_string(), id, "round {round}");
            }
        });
        let gone = client.send(&address, &message("c"));
        assert_eq!(gone.code(), "not_sent", "round {round}: no server is there: {gone}");
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 5, "each start has its own token");
}

/// `connect` returns `EAGAIN` while the backlog is full: it is retried until the deadline, and no longer.
#[test]
fn full_backlog_is_retried() {
    let _watchdog = watchdog::watch("full_backlog_is_retried");
    let home = Home::new();
    let (address, _) = home.publish("full.sock");
    let (listener, squatter) = full_listener(address.path());
    let begin = (Instant::now(), thread_time());
    let timeout = Duration::from_millis(400);
    let outcome = home.client().with_timeout(timeout).send(&address, &message("a"));
    let SendOutcome::NotSent(error) = outcome else { panic!("{outcome}") };
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(begin.0.elapsed() >= timeout, "{:?}", begin.0.elapsed());
    let spent = thread_time() - begin.1;
    eprintln!("{spent:?} of processor time in {:?}", begin.0.elapsed());
    assert!(spent < timeout / 16, "it spins: {spent:?} of processor time in {timeout:?}");
    // There is room in time.
    let sender = std::thread::spawn(move || {
        let outcome = home.client().send(&address, &message("b"));
        (outcome, home, address)
    });
    std::thread::sleep(Duration::from_millis(100));
    drop(squatter);
    let (_squatter, _) = listener.accept().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    assert!(read_line(&mut stream).contains(r#""data":"b""#));
    stream.write_all(OK).unwrap();
    let (outcome, ..) = sender.join().unwrap();
    assert!(outcome.is_accepted(), "{outcome}");
}

/// A thousand at once, each with its own client, to a server with 128 slots: each is accepted or told that
/// the server is busy. A single client before a full server uses little processor time while it waits; what
/// each of the thousand uses is printed.
#[test]
fn thousand_simultaneous_senders_are_accepted_or_told_busy() {
    // Under Wine one process serves all pipes: of a thousand, 300 were served before their 45 s were over, and
    // some of the others had just written again.
    const SENDERS: usize = if cfg!(windows) { 200 } else { 1_000 };
    const HOLD: Duration = Duration::from_millis(100);
    let _watchdog = watchdog::watch("thousand_simultaneous_senders_are_accepted_or_told_busy");
    let real = Real::start(|_| ());
    let (address, home) = (Address::from_path(&real.path).unwrap(), &real.home);
    // What one message costs a client without competition.
    let alone = (0..100).map(|_| {
        let mut client = home.client();
        let begin = thread_time();
        assert!(client.ping(&address).is_accepted());
        thread_time() - begin
    });
    let alone = alone.sum::<Duration>() / 100;
    let full: Vec<RawPeer> = (0..128)
        .map(|_| {
            let mut peer = real.connect();
            peer.send(&ping());
            assert!(peer.line().unwrap().contains("pong"));
            peer
        })
        .collect();
    let refused = || real.with(|server| server.stats().closed.too_many_clients);
    let (took, spent) = with_time_enough(Duration::from_millis(400), |timeout| {
        let mut client = home.client().with_timeout(timeout);
        let begin = (Instant::now(), thread_time());
        let outcome = client.send(&address, &message("too many"));
        let spent = (begin.0.elapsed(), thread_time() - begin.1);
        matches!(outcome, SendOutcome::NotSent(error) if error.kind() == ErrorKind::Busy).then_some(spent)
    });
    // At most 7 attempts and one every 50 ms, each at up to four times the cost; a spinning client makes
    // thousands.
    let attempts = 7 + took.as_millis() / 50;
    eprintln!("{spent:?} of processor time in {took:?} before a full server");
    assert!(
        spent < 4 * alone * u32::try_from(attempts).unwrap(),
        "it uses too much processor time: {spent:?} in {took:?}"
    );
    drop(full);

    let together = Barrier::new(SENDERS);
    let refused_before = refused();
    let was_full = AtomicBool::new(false);
    let told: Vec<(usize, SendOutcome, Duration, Duration)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|n| {
                let (address, together, was_full) = (&address, &together, &was_full);
                let send = move || {
                    let mut client = home.client();
                    together.wait();
                    let begin = (Instant::now(), thread_time());
                    let outcome = client.send(address, &message(&n.to_string()));
                    let told = (n, outcome, begin.0.elapsed(), thread_time() - begin.1);
                    // It keeps its slot for a while, at least until another has been refused.
                    std::thread::sleep(HOLD);
                    while !was_full.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    told
                };
                std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, send).unwrap()
            })
            .collect();
        while refused() == refused_before {
            std::thread::sleep(Duration::from_millis(5));
        }
        was_full.store(true, Ordering::SeqCst);
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let found: Vec<usize> = real.with(|server| {
        let batch = server.drain();
        let data = |entry: udsmsg::InboxEntry<'_>| {
            entry.message().data().unwrap().text().unwrap().parse::<usize>().unwrap()
        };
        batch.iter().map(data).collect()
    });
    let mut there: HashMap<usize, usize> = HashMap::new();
    for n in &found {
        *there.entry(*n).or_default() += 1;
    }
    let mut accepted = 0;
    let (mut waited, mut burnt) = (Duration::ZERO, Duration::ZERO);
    for (n, outcome, took, cpu) in &told {
        match outcome {
            SendOutcome::Accepted { .. } => accepted += 1,
            SendOutcome::NotSent(error) if error.kind() == ErrorKind::Busy => {}
            other => panic!("{n} after {took:?}: {other}"),
        }
        assert_eq!(there.get(n).copied().unwrap_or(0), usize::from(outcome.is_accepted()), "{n}: {outcome}");
        waited += *took;
        burnt += *cpu;
    }
    let each = burnt / u32::try_from(SENDERS).unwrap();
    let ratio = each.as_secs_f64() / alone.as_secs_f64();
    let longest = told.iter().map(|(_, _, took, _)| *took).max().unwrap();
    let most = told.iter().map(|(.., cpu)| *cpu).max().unwrap();
    eprintln!(
        "{accepted} of {SENDERS} accepted, the last after {longest:?}; {each:?} of processor time each, \
         {most:?} at most, {ratio:.1} times that of one alone ({alone:?}); {waited:?} were waited altogether"
    );
    assert!(accepted > SENDERS / 10, "{accepted} of {SENDERS} were accepted");
}

/// Pipelined over one connection: exactly once, in order, no faster than the owner drains.
#[test]
fn pipelined_messages_arrive_exactly_once_and_in_order() {
    let _watchdog = watchdog::watch("pipelined_messages_arrive_exactly_once_and_in_order");
    let count = 10_000 * scale().min(10);
    let home = Home::new();
    let mut server = home.start(|_| ());
    let address = server.address().clone();
    let is_done = AtomicBool::new(false);
    let (found, told) = std::thread::scope(|scope| {
        let owner = scope.spawn(|| {
            let mut found: Vec<(String, usize)> = Vec::new();
            let mut batch = udsmsg::Batch::new();
            while !is_done.load(Ordering::SeqCst) {
                let _ = server.turn(Some(Duration::from_millis(20))).unwrap();
                server.drain_into(&mut batch);
                for entry in &batch {
                    let data = entry.message().data().unwrap().text().unwrap().parse().unwrap();
                    found.push((entry.id().to_string(), data));
                }
            }
            found
        });
        let mut client = home.client();
        let begin = Instant::now();
        let mut started = HashMap::new();
        let mut told: Vec<(String, usize)> = Vec::new();
        let mut take_outcome =
            |client: &mut Client, started: &HashMap<SendId, usize>| match client.next_outcome().unwrap() {
                Some((id, SendOutcome::Accepted { id: Some(name) })) => told.push((name, started[&id])),
                Some((_, other)) => panic!("{other}"),
                None => panic!("nothing is on its way"),
            };
        for n in 0..count {
            loop {
                match client.start(&address, &message(&n.to_string())) {
                    Ok(id) => {
                        assert!(started.insert(id, n).is_none(), "an id is given twice");
                        break;
                    }
                    Err(error) if error.kind() == ErrorKind::OutboxFull => {
                        take_outcome(&mut client, &started)
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        while client.outstanding() > 0 {
            take_outcome(&mut client, &started);
        }
        let took = begin.elapsed();
        eprintln!("{count} messages in {took:?}: {:.0} a second", count as f64 / took.as_secs_f64());
        is_done.store(true, Ordering::SeqCst);
        (owner.join().unwrap(), told)
    });
    let expected: Vec<(String, usize)> = (0..count).map(|n| (format!("uds-{}", n + 1), n)).collect();
    assert!(found == expected, "{} of {count} were found, or not in order", found.len());
    assert!(told == expected, "{} of {count} were told, or not in order", told.len());
}

/// A server that reads what has come when it is told to, and says how many lines that was.
#[cfg(unix)]
fn told_to_read(home: &Home) -> (Fake, mpsc::Sender<bool>, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel::<bool>();
    let (say, said) = mpsc::channel();
    let fake = Fake::start(home, move |_, mut stream| {
        // `true`: what comes next is waited for.
        while let Ok(waits) = told.recv() {
            stream.set_nonblocking(!waits).unwrap();
            let mut space = vec![0; 1 << 20];
            let n = stream.read(&mut space).unwrap_or(0);
            let text = String::from_utf8(space[..n].to_vec()).unwrap();
            for _ in text.lines() {
                let _ = stream.write_all(OK);
            }
            say.send(text).unwrap();
        }
    });
    (fake, tell, said)
}

/// The first message leaves at once; those that are started while it is unanswered leave together.
/// (On Windows one read of a pipe does not tell: the queue reads ahead, 4 KiB at first.)
#[cfg(unix)]
#[test]
fn messages_started_together_leave_together() {
    let _watchdog = watchdog::watch("messages_started_together_leave_together");
    let home = Home::new();
    let (fake, tell, said) = told_to_read(&home);
    let mut client = home.client();
    let mut started = vec![client.start(&fake.address, &message("0")).unwrap()];
    tell.send(true).unwrap();
    assert_eq!(said.recv().unwrap().lines().count(), 1);
    for n in 1..=40 {
        started.push(client.start(&fake.address, &message(&n.to_string())).unwrap());
    }
    tell.send(false).unwrap();
    assert_eq!(said.recv().unwrap(), "", "nothing is written before the client waits");
    // It takes the answer that is there.
    let mut told = vec![client.next_outcome().unwrap().unwrap()];
    tell.send(true).unwrap();
    let text = said.recv().unwrap();
    let data: Vec<String> = text
        .lines()
        .map(|line| udsmsg::Message::from_json(line).unwrap().data().unwrap().text().unwrap().into())
        .collect();
    assert_eq!(data, (1..=40).map(|n| n.to_string()).collect::<Vec<_>>(), "one write, in order");
    told.extend(std::iter::from_fn(|| client.next_outcome().unwrap()));
    assert!(told.iter().all(|(_, outcome)| outcome.is_accepted()));
    assert_eq!(told.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), started, "each is told once");
    drop(tell);
}

/// A client that never waits writes what has gathered. (As above.)
#[cfg(unix)]
#[test]
fn gathered_messages_leave_when_there_are_64_kib() {
    let _watchdog = watchdog::watch("gathered_messages_leave_when_there_are_64_kib");
    let home = Home::new();
    let (fake, tell, said) = told_to_read(&home);
    let mut client = home.client();
    let long = message(&"x".repeat(10_000));
    for (expected, count) in [(1, 1), (0, 6), (7, 1)] {
        (0..count).for_each(|_| _ = client.start(&fake.address, &long).unwrap());
        tell.send(expected > 0).unwrap();
        let mut lines = said.recv().unwrap().lines().count();
        // A long write can come in parts.
        while expected > 0 && lines < expected {
            tell.send(true).unwrap();
            lines += said.recv().unwrap().lines().count();
        }
        assert!(lines >= expected && (expected > 0 || lines == 0), "{lines} lines, expected {expected}");
    }
    drop((client, tell));
}

/// A program may start messages and end: what was started has left by then.
#[test]
fn dropped_client_has_written_what_was_started() {
    let _watchdog = watchdog::watch("dropped_client_has_written_what_was_started");
    let home = Home::new();
    let (say, said) = mpsc::channel();
    let fake = Fake::start(&home, move |_, mut stream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        say.send(text.lines().count()).unwrap();
    });
    let mut client = home.client();
    for n in 0..10 {
        let _ = client.start(&fake.address, &message(&n.to_string())).unwrap();
    }
    drop(client);
    assert_eq!(said.recv().unwrap(), 10);
}

/// A client that is kept does not need the capability file for another connection, until the server says that
/// the token is old. Then it is read once more, and the message arrives once.
#[test]
fn capability_is_remembered_until_the_token_is_refused() {
    let _watchdog = watchdog::watch("capability_is_remembered_until_the_token_is_refused");
    let home = Home::new();
    let (address, old) = home.publish("fake.sock");
    let listener = Listener::bind(address.path()).unwrap();
    let (say, said) = mpsc::channel();
    let (set, right) = mpsc::channel::<String>();
    set.send(old.clone()).unwrap();
    let mut token = String::new();
    let fake = Fake::listen(address, listener, move |_, mut stream| {
        let line = read_line(&mut stream);
        token = right.try_iter().last().unwrap_or_else(|| token.clone());
        let is_right = line.contains(&token);
        let no: &[u8] = b"{\"type\":\"error\",\"data\":\"unauthorized\"}\n";
        say.send((line.contains(&old), is_right)).unwrap();
        let _ = stream.write_all(if is_right { OK } else { no });
    });
    let mut client = home.client();
    // Each connection ends after its answer, and the client must have seen that before the next message.
    let send = |client: &mut Client| loop {
        let outcome = client.send(&fake.address, &message("a"));
        // Written before the end could be seen; it is never sent twice.
        if outcome.code() != "unknown" {
            break outcome;
        }
    };
    assert!(send(&mut client).is_accepted());
    let capabilities = CapabilityDir::of(&Namespace::default(), &home.environment()).unwrap();
    std::fs::remove_file(capabilities.path().join(CapabilityDir::file_name(&fake.address))).unwrap();
    assert!(send(&mut client).is_accepted(), "the file is not needed");
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(true, true); 2]);
    set.send(home.publish("fake.sock").1).unwrap();
    assert!(send(&mut client).is_accepted());
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(true, false), (false, true)], "it arrives once");
    // A token that is published and refused is no old one.
    set.send("of nothing that is published".to_owned()).unwrap();
    let refused = send(&mut client);
    assert_eq!(format!("{}: {refused}", refused.code()), "rejected: unauthorized");
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(false, false); 2]);
}
