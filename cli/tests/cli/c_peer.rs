//! The same protocol from another language, over pipes: `tests/c/peer.c` as client and as server.
//!
//! `UDSMSG_C_PEER` names the program; `.ci/run windows` builds it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use udsmsg::{Address, Client, Environment, ErrorKind, Namespace, Outgoing, SendOutcome, Server};

use crate::machine::with_time_enough;
use crate::system;
use crate::util::{
    Ended, FRAME_BYTES_MAX, Home, PING_LINE, Peer, Process, Serve, WATCHDOG, exists, parsed, text_line,
};

/// Texts with what has to be escaped, in JSON and on a command line.
const TEXTS: [&str; 6] = ["hello", "", "-x", "zażółć 日本 🎉", r#""\"\\" \"#, "a\tb\u{1}\r\nc"];

/// The program in C. Without it the test is skipped, and says so.
#[track_caller]
fn c_peer() -> Option<String> {
    let peer = std::env::var("UDSMSG_C_PEER").ok();
    if peer.is_none() {
        crate::machine::skip("UDSMSG_C_PEER does not name the peer in C (`.ci/run windows` builds it)");
    }
    peer
}

#[track_caller]
fn run(home: &Home, peer: &str, args: &[&str]) -> Ended {
    let mut command = home.command(peer);
    command.args(args);
    Process::spawn(command).end()
}

/// The lines that the client in C printed.
fn lines(ended: &Ended) -> Vec<&str> {
    ended.stdout.lines().collect()
}

/// A running server in C.
fn c_server(home: &Home, peer: &str) -> Serve {
    let socket = home.socket("theirs");
    let mut command = home.command(peer);
    command.args(["serve", &socket]).stdin(Stdio::piped());
    let server = Serve::start(command);
    assert_eq!(server.socket, socket);
    server
}

/// Our client and the address of a server in C.
fn client_of(home: &Home, server: &Serve) -> (Client, Address) {
    let environment = Environment::from_pairs([("CLAUDE_CONFIG_DIR", home.config())]);
    let client = Client::in_namespace(&Namespace::default(), &environment).unwrap().with_timeout(WATCHDOG);
    (client, Address::parse(&server.socket).unwrap())
}

fn text(data: &str) -> Outgoing {
    Outgoing::new("text").with_text(data)
}

/// The id in the answer to an accepted message.
#[track_caller]
fn accepted(outcome: SendOutcome) -> String {
    match outcome {
        SendOutcome::Accepted { id } => id.unwrap(),
        other => panic!("{other}"),
    }
}

#[track_caller]
fn assert_printed(server: &mut Serve, number: usize, data: &str) {
    let line: Value = serde_json::from_str(&server.line()).unwrap();
    assert_eq!(line, json!({"id": format!("uds-{number}"), "type": "text", "data": data}));
}

/// Takes connections until the pipe has none to give.
fn take_all(socket: &str) -> Vec<std::fs::File> {
    const PIPE_BUSY: i32 = 231;
    let open = || std::fs::File::options().read(true).write(true).open(socket);
    let mut taken = Vec::new();
    loop {
        match open() {
            Ok(pipe) => taken.push(pipe),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(PIPE_BUSY), "{error}");
                return taken;
            }
        }
    }
}

#[test]
fn c_client_delivers_messages_in_order() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let uds = format!("uds:{}", serve.socket);
    let numbered: Vec<String> = (0..50).map(|number| format!("number {number}")).collect();
    let texts = TEXTS.into_iter().chain(numbered.iter().map(String::as_str));
    let args: Vec<&str> = ["send", &uds, "text"].into_iter().chain(texts.clone()).collect();
    let answers = parsed(&run(&home, &peer, &args).assert_code(0).stdout);
    assert_eq!(answers.len(), texts.clone().count());
    for ((data, answer), number) in texts.zip(answers).zip(1..) {
        let id = format!("uds-{number}");
        assert_eq!((&answer["data"], &answer["meta"]), (&json!("ok"), &json!({"id": id})));
        let entry = serve.entry();
        assert_eq!((&entry.id, &entry.json()["data"]), (&id, &json!(data)));
        assert_eq!(entry.json().get("meta"), None, "only the token was in `meta`");
    }
    let pong = parsed(&run(&home, &peer, &["send", &uds, "ping", ""]).assert_code(0).stdout);
    assert_eq!((&pong[0]["type"], &pong[0]["from"]), (&json!("pong"), &json!(serve.socket)));
    serve.stop().assert_clean(0);
}

#[test]
fn c_client_with_a_wrong_token_reads_why_and_the_end() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let serve = home.serve(&[]);
    let ended = run(&home, &peer, &["wrong", &serve.socket, "text", "a", "b", "c"]);
    let [why, "(end)"] = lines(ended.assert_code(1))[..] else { panic!("{ended:?}") };
    let why: Value = serde_json::from_str(why).unwrap();
    assert_eq!((&why["type"], &why["data"]), (&json!("error"), &json!("unauthorized")));
    assert_eq!(serve.stop().assert_clean(0).entries.len(), 0);
}

#[test]
fn c_client_with_too_long_a_line_reads_why_and_the_end() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let serve = home.serve(&[]);
    let ended = run(&home, &peer, &["long", &serve.socket]);
    let [why, "(end)"] = lines(ended.assert_code(1))[..] else { panic!("{ended:?}") };
    let why: Value = serde_json::from_str(why).unwrap();
    assert!(why["data"].as_str().unwrap().starts_with("NDJSON frame exceeded 65536 bytes ("), "{why}");
    serve.stop().assert_clean(0);
}

#[test]
fn message_of_a_c_client_that_has_gone_is_accepted() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let ended = run(&home, &peer, &["leave", &serve.socket, "text", "first", "second"]);
    assert_eq!(ended.assert_code(0).stdout, "");
    assert_eq!(serve.entry().json()["data"], "first");
    assert_eq!(serve.entry().json()["data"], "second");
    serve.stop().assert_clean(0);
}

#[test]
fn c_client_waits_for_a_busy_pipe() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let environment = Environment::from_pairs([("CLAUDE_CONFIG_DIR", home.config())]);
    let mut server = Server::builder().environment(environment).start().unwrap();
    let socket = server.address().path().to_owned();
    // The server takes no turn, so it accepts none of these, and no more come.
    let taken = take_all(&socket);
    let mut command = home.command(&peer);
    command.args(["send", &socket, "text", "after all"]);
    let mut client = Process::spawn(command);
    let mut out = BufReader::new(client.take_stdout());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "(busy)");

    while client.is_running() {
        let _ = server.turn(Some(Duration::from_millis(20))).unwrap();
    }
    let data: Vec<_> = server.drain().iter().map(|entry| entry.message().json().to_owned()).collect();
    assert!(data.len() == 1 && data[0].contains("after all"), "{data:?}");
    line.clear();
    out.read_to_string(&mut line).unwrap();
    assert!(line.contains(r#""data":"ok""#), "{line}");
    client.end().assert_code(0);
    drop(taken);
    server.shutdown(Duration::ZERO).unwrap();
}

#[test]
fn c_server_answers_our_client_and_the_tool() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let mut server = c_server(&home, &peer);
    let (mut client, target) = client_of(&home, &server);
    for (data, number) in TEXTS.into_iter().zip(1..) {
        assert_eq!(accepted(client.send(&target, &text(data))), format!("uds-{number}"));
        assert_printed(&mut server, number, data);
    }
    assert!(client.ping(&target).is_accepted());

    let many: Vec<String> = (0..100).map(|number| format!("number {number}")).collect();
    let begun: Vec<_> = many.iter().map(|data| client.start(&target, &text(data)).unwrap()).collect();
    for ((data, begun), number) in many.iter().zip(begun).zip(TEXTS.len() + 1..) {
        let (id, outcome) = client.next_outcome().unwrap().unwrap();
        assert_eq!((id, accepted(outcome)), (begun, format!("uds-{number}")));
        assert_printed(&mut server, number, data);
    }

    // It serves one client at a time.
    drop(client);
    let next = TEXTS.len() + many.len() + 1;
    let receipt = parsed(&home.run(&["send", &server.socket, "text", "x"]).assert_code(0).stdout);
    assert_eq!(receipt[0]["id"], format!("uds-{next}"));
    assert_printed(&mut server, next, "x");
    let pong = parsed(&home.run(&["ping", &server.socket]).assert_code(0).stdout);
    assert_eq!(pong[0]["event"], "pong");
}

#[test]
fn our_client_reads_why_a_c_server_refuses_its_token() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let server = c_server(&home, &peer);
    let (mut client, target) = client_of(&home, &server);
    home.publish(&server.socket);
    match client.send(&target, &text("x")) {
        SendOutcome::Rejected { reason } => assert_eq!(reason, "unauthorized"),
        other => panic!("{other}"),
    }
    home.run(&["send", &server.socket, "text", "x"]).assert_refused("unauthorized");
}

#[test]
fn c_server_says_why_it_closes_and_serves_the_next_client() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let mut server = c_server(&home, &peer);
    let token = home.token(&server.socket);
    let too_long = "x".repeat(2 * FRAME_BYTES_MAX);
    for (line, why) in [
        (&*too_long, "NDJSON frame exceeded 65536 bytes (65537)"),
        (r#"{"type":"text","meta":{"authToken":"TOKEN"}"#, "invalid frame"),
        (r#"{"type":"text","meta":{"authToken":"TOKEn"}}"#, "unauthorized"),
        (r#"{"type":"text","data":"\"authToken\":\"TOKEN\"","authToken":"TOKEN"}"#, "unauthorized"),
        (r#"{"meta":{"authToken":"TOKEN"}}"#, "invalid frame"),
    ] {
        let mut stream = BufReader::new(system::connect(&server.socket).unwrap());
        // It closes before it has read all.
        let _ = stream.get_mut().write_all(format!("{}\n", line.replace("TOKEN", &token)).as_bytes());
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        let error: Value = serde_json::from_str(&rest).unwrap_or_else(|_| panic!("{rest:?}"));
        assert_eq!((&error["type"], &error["data"]), (&json!("error"), &json!(why)));
    }

    // One that goes right after it has written.
    Peer::connect(&server.socket, &token).write(&text_line("gone"));
    assert_printed(&mut server, 1, "gone");
    let mut next = Peer::connect(&server.socket, &token);
    assert_eq!(next.ask(PING_LINE)["from"], *server.socket);
    assert_eq!(next.send_text("stays"), "uds-2");
    assert_printed(&mut server, 2, "stays");
}

#[test]
fn our_client_tries_again_while_a_c_server_is_busy() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let mut server = c_server(&home, &peer);
    // It serves one client, and the next one has its only free instance.
    let first = system::connect(&server.socket).unwrap();
    let second = system::connect(&server.socket).unwrap();
    let (client, target) = with_time_enough(Duration::from_millis(200), |limit| {
        let (client, target) = client_of(&home, &server);
        let mut client = client.with_timeout(limit);
        match client.send(&target, &text("x")) {
            SendOutcome::NotSent(error) if error.kind() == ErrorKind::Busy => Some((client, target)),
            SendOutcome::NotSent(error) if error.kind() == ErrorKind::TimedOut => None,
            other => panic!("{other}"),
        }
    });

    let mut client = client.with_timeout(WATCHDOG);
    let id = client.start(&target, &text("after all")).unwrap();
    drop((first, second));
    let (sent, outcome) = client.next_outcome().unwrap().unwrap();
    assert_eq!((sent, accepted(outcome)), (id, "uds-1".to_owned()));
    assert_printed(&mut server, 1, "after all");
}

#[test]
fn c_server_takes_away_its_name_at_the_end_of_its_input() {
    let Some(peer) = c_peer() else { return };
    let home = Home::new();
    let server = c_server(&home, &peer);
    let (mut client, target) = client_of(&home, &server);
    let (socket, file) = (server.socket.clone(), home.capability_file(&server.socket));
    assert!(exists(&file));
    drop(server.take_stdin());
    server.end().assert_clean(0);
    home.assert_released(&socket);
    match client.send(&target, &text("x")) {
        SendOutcome::NotSent(error) => assert_eq!(error.kind(), ErrorKind::CapabilityMissing, "{error}"),
        other => panic!("{other}"),
    }
}
