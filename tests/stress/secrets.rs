//! The token is in no output: not in what is printed or logged at any level, not in a child's environment.

use std::fmt::Debug;
use std::io::{BufReader, Read, Write as _};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use udsmsg::os::{CapabilityDir, Random};
use udsmsg::parts::{AuthToken, BufferPool, Framer, Reply, Request, Ring, json};
use udsmsg::peers::ProcessIdentity;
use udsmsg::{
    Address, Batch, Client, Endpoint, Environment, Limits, Location, Message, Namespace, Outgoing, Server,
};

use super::alone;
use super::host::{listen, part, plays, rest, say, token_of};
use super::util::real::{Home, PATIENCE, RawPeer};
use super::util::{fill, ping, text, text_of_line, trace};

fn show(what: &impl Debug) {
    eprintln!("{what:?}\n{what:#?}");
}

/// Turns `server` on this thread until `done`, which is called after every turn.
fn turn_until(server: &mut Server, mut done: impl FnMut(&mut Server) -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !done(server) {
        assert!(Instant::now() < patience, "it never comes to that");
        show(&server.turn(Some(Duration::from_millis(2))).unwrap());
    }
}

/// What a peer gets until the end, or until it has `lines`.
fn answers(server: &mut Server, peer: &RawPeer, lines: usize) -> String {
    peer.stream.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    turn_until(server, |_| {
        let mut space = [0; 4096];
        let is_end = match (&peer.stream).read(&mut space) {
            Ok(n) => {
                got.extend_from_slice(&space[..n]);
                n == 0
            }
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        is_end || got.iter().filter(|byte| **byte == b'\n').count() >= lines
    });
    String::from_utf8(got).unwrap()
}

/// The part: a server and clients that run into every refusal and error, and print everything that can be
/// printed.
#[test]
fn entry() {
    if !plays("secrets::entry") {
        return;
    }
    trace::print_if_asked();
    let environment = Environment::from_process();
    let mut limits = Limits::default();
    limits.clients_max = 4;
    limits.inbox_entries_max = 3;
    limits.auth_timeout = Duration::from_millis(100);
    limits.idle_timeout = Duration::from_millis(150);
    limits.output_timeout = Duration::from_millis(50);
    let builder = Server::builder().environment(environment.clone()).limits(limits.clone());
    show(&builder);
    show(&limits);
    let mut server = builder.start().unwrap();
    let path = server.address().path().to_owned();
    say(&path);
    // The parent reads the capability now.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let capabilities = CapabilityDir::of(&Namespace::default(), &environment).unwrap();
    let capability = capabilities.read(server.address()).unwrap();
    let token = capability.auth_token.clone();
    show(&(&environment, &capabilities, &capability, &token, server.child_env(), server.waker()));
    refusals(&mut server, token.expose());
    client(&mut server, &environment);
    between_servers(&mut server, &environment);
    parts(&token, &path, limits);
    // The environment of a child.
    let child =
        std::process::Command::new("env").envs(server.child_env()).stdin(Stdio::null()).output().unwrap();
    std::io::stderr().write_all(&child.stdout).unwrap();
    show(&server);
    std::fs::remove_file(&path).unwrap();
    server.rebind().unwrap();
    let mut turns = 0;
    server
        .run(|server| {
            turns += 1;
            let _ = server.waker().wake();
            if turns < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    server.shutdown(Duration::from_millis(100)).unwrap();
    show(&server);
    show(&server.rebind());
    say("done");
}

/// Every way in which a connection can end, with the token in as many places as it fits.
fn refusals(server: &mut Server, token: &str) {
    let path = server.address().path().to_owned();
    let connect = || RawPeer::connect(Path::new(&path), token);
    let mut batch = Batch::new();
    let mut accepted = connect();
    accepted.send(&text("hello"));
    assert!(answers(server, &accepted, 1).contains("uds-1"));
    server.connections().for_each(|connection| show(&connection));
    for (line, reason) in [
        (text("$TOKEN$TOKEN").strip_suffix(b"}\n").unwrap().to_vec(), "invalid frame"),
        (b"{\"type\":7,\"meta\":{\"authToken\":\"$TOKEN\"}}".to_vec(), "invalid frame"),
        (b"{\"type\":\"text\",\"meta\":{\"authToken\":\"x$TOKEN\"}}".to_vec(), "unauthorized"),
        (b"{\"type\":\"text\",\"from\":\"$TOKEN\",\"$TOKEN\":\"$TOKEN\"}".to_vec(), "unauthorized"),
        (b"{\"meta\":{\"authToken\":\"$TOKEN\",\"authToken\":\"$TOKEN\"}}".to_vec(), "invalid frame"),
        (text_of_line(65_537).strip_suffix(b"\n").unwrap().to_vec(), "NDJSON"),
        (b"$TOKEN\xff".to_vec(), "invalid frame"),
    ] {
        let mut peer = connect();
        peer.send(&[line, b"\n".to_vec()].concat());
        let got = answers(server, &peer, 1);
        assert!(got.contains(reason), "{reason}: {got}");
    }
    // The inbox is full, all slots are taken, and idle clients time out.
    let mut sender = connect();
    sender.send(&text("x").repeat(5));
    assert!(answers(server, &sender, 3).contains("inbox full"));
    server.drain_into(&mut batch);
    show(&batch);
    for entry in &batch {
        show(&(entry, entry.id(), entry.peer(), entry.message(), entry.message().data().is_some()));
    }
    let others: Vec<RawPeer> = (0..6).map(|_| connect()).collect();
    let mut idle = connect();
    turn_until(server, |server| server.stats().closed.too_many_clients > 0);
    drop(others);
    turn_until(server, |server| server.stats().clients == 0);
    idle = {
        drop(idle);
        connect()
    };
    let silent = connect();
    idle.send(&ping());
    assert!(answers(server, &silent, 2).contains("authentication timeout"));
    assert!(answers(server, &idle, 2).contains("idle timeout"));
    let stuck = connect();
    stuck.stream.set_nonblocking(true).unwrap();
    let burst = fill(&ping().repeat(1_000), token, &path);
    let mut written = 0;
    turn_until(server, |server| {
        if let Ok(n) = (&stuck.stream).write(&burst[written % burst.len()..]) {
            written += n;
        }
        server.stats().closed.output_stalled > 0
    });
    let (one, _other) = UnixStream::pair().unwrap();
    server.adopt_stream(one).unwrap();
    show(&server.stats());
    show(server);
}

/// A blocking client on a thread, with every outcome.
fn client(server: &mut Server, environment: &Environment) {
    let address = server.address().clone();
    let environment = environment.clone();
    let client = std::thread::spawn(move || {
        let mut client = Client::in_namespace(&Namespace::default(), &environment)
            .unwrap()
            .with_timeout(Duration::from_secs(2))
            .with_from(address.clone());
        let message = Outgoing::new("text").with_text("hi").with_meta(&serde_json::json!({"a": 1})).unwrap();
        show(&message);
        show(&client.send(&address, &message));
        show(&client.ping(&address));
        show(&client.send(&address, &Outgoing::new("text").with_text(&"x".repeat(70_000))));
        let nowhere = Address::from_path("/nowhere/at/all.sock").unwrap();
        show(&client.send(&nowhere, &message));
        show(&client.start(&address, &message));
        show(&client.next_outcome());
        show(&client);
    });
    let mut batch = Batch::new();
    turn_until(server, |server| {
        server.drain_into(&mut batch);
        client.is_finished()
    });
    client.join().unwrap();
}

/// Sending from a server to itself, a question and its answer, and to an absent receiver.
fn between_servers(server: &mut Server, environment: &Environment) {
    let soon = Duration::from_millis(300);
    let own = server.address().clone();
    show(&server.send(&own, &Outgoing::new("text"), soon));
    show(&server.query(&own, Outgoing::new("query").with_text("?"), soon));
    let gone = Location::draw(&Namespace::default(), environment, &mut Random::from_os().unwrap()).unwrap();
    show(&server.send(gone.address(), &Outgoing::new("text"), soon));
    show(&gone);
    let mut batch = Batch::new();
    turn_until(server, |server| {
        while let Some(event) = server.next_event() {
            show(&event);
        }
        if server.drain_into(&mut batch) > 0 {
            for entry in &batch {
                show(&server.take_answered(&entry));
                show(&server.reply(&entry, Outgoing::new("response"), soon));
            }
        }
        server.outstanding() == 0
    });
}

/// The parts of the core as values: what they hold may be a line with a token in it.
fn parts(token: &AuthToken, path: &str, limits: Limits) {
    let line = fill(&text("parts"), token.expose(), path);
    show(&Endpoint::new(path, token.clone(), limits).unwrap());
    let mut ring = Ring::new(1 << 12).unwrap();
    ring.spare_mut()[..line.len()].copy_from_slice(&line);
    ring.filled(line.len());
    let mut framer = Framer::new(1 << 12);
    show(&framer);
    show(&ring);
    show(&framer.next_frame(&mut ring));
    show(&ring);
    let mut pool = BufferPool::new(1 << 12, 1);
    let mut lent = pool.lend().unwrap();
    lent.spare_mut()[..line.len()].copy_from_slice(&line);
    lent.filled(line.len());
    pool.give_back(lent);
    show(&pool);
    let line = line.strip_suffix(b"\n").unwrap();
    show(&Request::from_line(line, token));
    show(&Request::from_line(line, &AuthToken::from_bytes([0; 32])));
    show(&json::scan(std::str::from_utf8(line).unwrap()));
    show(&json::scan(&format!("{{\"a\":{}", token.expose())));
    show(&Message::from_json(std::str::from_utf8(line).unwrap()));
    show(&Reply::Error { text: "x" });
    show(&AuthToken::parse(&format!("{}f", token.expose())));
    show(&AuthToken::parse(&token.expose().to_uppercase()));
    show(&Address::parse(&format!("uds:/a#token={}", token.expose())));
    show(&Outgoing::new("text").with_meta(&serde_json::json!({"authToken": token.expose()})));
    show(&ProcessIdentity::current());
}

/// Whether a part of the token that is long enough to matter is in `text`, as text or as a list of its bytes.
fn leaks(text: &str, token: &str) -> Option<String> {
    for at in 0..=token.len() - 16 {
        let part = &token[at..at + 16];
        let bytes: Vec<String> = part.bytes().map(|byte| byte.to_string()).collect();
        let hex: Vec<String> = part.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [part.to_owned(), part.to_uppercase(), bytes.join(", "), bytes.join(",\n"), hex.join("")]
        {
            if let Some(found) = text.find(&form) {
                return Some(
                    text[text[..found].rfind('\n').map_or(0, |at| at + 1)..].chars().take(60).collect(),
                );
            }
        }
    }
    None
}

#[test]
fn token_is_in_no_output() {
    let _alone = alone("token_is_in_no_output");
    let home = Home::new();
    let mut command = part("secrets::entry", &home);
    let mut process = command.env("UDSMSG_TEST_TRACE", "1").stderr(Stdio::piped()).spawn().unwrap();
    let errors = process.stderr.take().unwrap();
    let errors = std::thread::spawn(move || rest(errors));
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let path = listen(&mut lines);
    let token = token_of(&home, Path::new(&path));
    assert_eq!(token.len(), 64);
    let proc = |name: &str| std::fs::read(format!("/proc/{}/{name}", process.id())).unwrap();
    let public = String::from_utf8_lossy(&[proc("environ"), proc("cmdline")].concat()).into_owned();
    process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let output = rest(&mut lines);
    let errors = errors.join().unwrap();
    assert!(process.wait().unwrap().success(), "{errors}");
    assert!(output.contains("=> done"), "{output}");
    // Proves that the search works, and that there was something to search.
    assert!(leaks(&format!("a {token} b"), &token).is_some());
    assert!(leaks(&format!("{:?}", token.as_bytes()), &token).is_some());
    assert!(leaks(&format!("{:#?}", token.as_bytes()).replace(' ', ""), &token).is_some());
    assert!(errors.lines().filter(|line| line.starts_with("DEBUG udsmsg")).count() > 30, "{errors}");
    for (name, text) in [("stdout", &output), ("stderr", &errors), ("environment and arguments", &public)] {
        let dense = text.replace(' ', "");
        let found = leaks(text, &token).or_else(|| leaks(&dense, &token));
        println!("{name}: {} bytes searched for the token", text.len());
        assert!(found.is_none(), "the token is in {name}: {found:?} …");
    }
}
