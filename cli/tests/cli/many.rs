//! `udsmsg send` without TARGET or DATA among its arguments, and `--ndjson`: many messages over one
//! connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[cfg(unix)]
use crate::interop::node_server;
use crate::system::NOWHERE;
use crate::util::{
    Ended, FRAME_BYTES_MAX, Fake, Home, Peer, Process, Serve, WATCHDOG, empty_text_len, parsed, read_to_end,
    scale, text_line,
};

const VARIABLE: &str = "CLAUDE_CODE_MESSAGING_SOCKET";

/// The summary, as accepted, rejected, not sent, unknown, bad lines.
#[track_caller]
fn counts(ended: &Ended) -> [u64; 5] {
    let lines = parsed(&ended.stdout);
    let summary = lines.last().unwrap_or_else(|| panic!("{ended:?}"));
    assert_eq!(summary["event"], "summary", "{ended:?}");
    ["accepted", "rejected", "notSent", "unknown", "badLines"].map(|name| summary[name].as_u64().unwrap())
}

#[test]
fn words_and_variables_choose_target_type_and_data() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let socket = serve.socket.clone();
    home.private("d");
    let wrong = "/nowhere/parent.sock";
    // The variable, the words, and the type and data that arrive; `None` if the command is not understood.
    type Row<'a> = (&'a str, &'a [&'a str], Option<(&'a str, &'a str)>);
    let table: [Row<'_>; 21] = [
        (&socket, &["text", "to the parent"], Some(("text", "to the parent"))),
        (&socket, &["text", "two words"], Some(("text", "two words"))),
        (&socket, &["text", ""], Some(("text", ""))),
        (&socket, &["text", "-"], Some(("text", "-"))),
        (&socket, &["text", "--", "--help"], Some(("text", "--help"))),
        (&socket, &["text", "/a/path"], Some(("text", "/a/path"))),
        (&format!("uds:{socket}"), &["own", "with a scheme"], Some(("own", "with a scheme"))),
        (&socket, &["--stdin", "text"], Some(("text", "from stdin\n"))),
        // A TARGET among the words wins over the variable.
        (wrong, &[&socket, "text", "given"], Some(("text", "given"))),
        (wrong, &[&socket, "a/b", "given"], Some(("a/b", "given"))),
        (wrong, &["--stdin", &socket, "text"], Some(("text", "from stdin\n"))),
        (
            wrong,
            &[&socket, "--json", "text", "an option before the type"],
            Some(("text", "an option before the type")),
        ),
        // DATA was forgotten, or the variable that held TARGET is empty.
        (&socket, &[&socket, "text"], None),
        (&socket, &["uds:s", "text"], None),
        (&socket, &["d/s", "text"], None),
        (&socket, &["", "text"], None),
        (&socket, &["text"], None),
        (&socket, &["--stdin", &socket], None),
        (&socket, &["--stdin", &socket, "text", "and data"], None),
        ("", &["text", "no parent"], None),
        ("", &["--stdin", "text"], None),
    ];
    for (variable, words, arrives) in table {
        let input = home.path().join("input");
        std::fs::write(&input, "from stdin\n").unwrap();
        let mut command = home.udsmsg(&[&["send"], words].concat());
        command.env(VARIABLE, variable).stdin(std::fs::File::open(&input).unwrap());
        let ended = Process::spawn(command).end();
        match arrives {
            Some((kind, data)) => {
                ended.assert_code(0);
                let message = serve.entry().json();
                assert_eq!((&message["type"], &message["data"]), (&json!(kind), &json!(data)), "{words:?}");
            }
            None => {
                ended.assert_code(2);
                assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{words:?}: {ended:?}");
            }
        }
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

// Pipes are no files.
#[cfg(unix)]
#[test]
fn socket_name_in_the_place_of_type_is_taken_for_a_target() {
    let home = Home::new();
    let serve = home.serve(&[]);
    let name = "plain-name";
    let _listener = std::os::unix::net::UnixListener::bind(home.path().join(name)).unwrap();
    let mut command = home.udsmsg(&["send", name, "text"]);
    command.env(VARIABLE, &serve.socket);
    Process::spawn(command).end().assert_code(2);
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

#[test]
fn each_namespace_has_its_own_variable() {
    let home = Home::new();
    let serve = home.serve(&[]);
    let mut command = home.udsmsg(&["ping", "--namespace", "my-app"]);
    command.env(VARIABLE, &serve.socket).env("MY_APP_MESSAGING_SOCKET", NOWHERE);
    Process::spawn(command).end().assert_refused("Cannot send UDS message without auth token");
    let mut command = home.udsmsg(&["ping"]);
    command.env(VARIABLE, &serve.socket);
    Process::spawn(command).end().assert_code(0);
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

#[test]
fn stdin_is_sent_unchanged_or_refused() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let room = FRAME_BYTES_MAX - empty_text_len();
    for text in ["", "\n", "no newline", "two\nlines\r\n\0", "zażółć 🎉", &"x".repeat(room)] {
        home.run_with(&["send", "--stdin", &serve.socket, "text"], text).assert_code(0);
        assert_eq!(serve.entry().json()["data"], text);
    }
    let table: [(Vec<u8>, &str); 4] = [
        (vec![b'x'; room + 1], "65537 bytes"),
        (vec![b'x'; FRAME_BYTES_MAX], "the limit is 65536 bytes"),
        (vec![b'x'; FRAME_BYTES_MAX + 1], "standard input: it is longer than the 65536 bytes"),
        (b"broken \xff".to_vec(), "not UTF-8"),
    ];
    for (input, why) in table {
        let ended = home.run_with(&["send", "--stdin", &serve.socket, "text"], input);
        ended.assert_refused(why);
        ended.assert_refused("not sent");
    }
    #[cfg(unix)]
    refuses_bad_descriptors(&home, &serve.socket);
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

/// Descriptors that cannot be read, and one without an end.
#[cfg(unix)]
fn refuses_bad_descriptors(home: &Home, socket: &str) {
    // A standard input that cannot be read is not an empty text.
    for args in [&["send", "--stdin", socket, "text"][..], &["send", "--ndjson", socket]] {
        let mut command = home.udsmsg(args);
        command.stdin(std::fs::File::options().write(true).open("/dev/null").unwrap());
        let ended = Process::spawn(command).end();
        ended.assert_code(1);
        assert!(ended.stderr.contains("cannot read standard input: "), "{args:?}: {ended:?}");
    }
    // An endless input is read only up to the limit.
    let endless = std::fs::File::open("/dev/zero").unwrap();
    let mut command = home.udsmsg(&["send", "--stdin", socket, "text"]);
    command.stdin(endless);
    Process::spawn(command).end().assert_refused("standard input: it is longer");
}

#[test]
fn ndjson_messages_arrive_exactly_once_and_in_order() {
    let total = 5_000 * scale();
    let limit = WATCHDOG * u32::try_from(scale()).unwrap();
    let home = Home::new();
    let mut serve = Serve::start_within(home.serve_command(&[]), limit);
    let input: String =
        (1..=total).map(|number| format!("{{\"type\":\"text\",\"data\":\"{number}\"}}\n")).collect();
    let path = home.path().join("input");
    std::fs::write(&path, input).unwrap();
    let mut command = home.udsmsg(&["send", "--ndjson", &serve.socket]);
    command.stdin(std::fs::File::open(path).unwrap());
    let mut sender = Process::spawn_within(command, limit);
    let receipts = BufReader::new(sender.take_stdout());
    let printed = std::thread::scope(|scope| {
        let arrived = scope.spawn(|| {
            for number in 1..=total {
                let entry = serve.entry();
                assert_eq!(entry.id, format!("uds-{number}"));
                assert_eq!(entry.json()["data"], number.to_string());
                assert_eq!(entry.id, format!("uds-{number}"));
                assert_eq!(entry.json()["data"], number.to_string());
            }
        });
        let printed: Vec<Value> =
            receipts.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        arrived.join().unwrap();
        printed
    });
    assert_eq!(printed.len(), total + 1);
    for (number, receipt) in (1..=total).zip(&printed) {
        assert_eq!(*receipt, json!({"event": "accepted", "line": number, "id": format!("uds-{number}")}));
    }
    assert_eq!(printed.last().unwrap()["accepted"], total);
    sender.end().assert_code(0);
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

// Node for Windows is not here.
#[cfg(unix)]
#[test]
fn ndjson_messages_reach_a_node_server() {
    let home = Home::new();
    let mut server = node_server(&home);
    let socket = server.socket.clone();
    let total = 1_000;
    let input: String = (1..=total)
        .map(|n| json!({"type": "own", "data": {"n": n}, "meta": {"x": [n]}}).to_string() + "\n")
        .collect();
    let ended = home.run_with(&["send", "--ndjson", &socket], input);
    assert_eq!(counts(ended.assert_code(0)), [total, 0, 0, 0, 0]);
    for number in 1..=total {
        let arrived: Value = serde_json::from_str(&server.line()).unwrap();
        assert_eq!(arrived["id"], format!("uds-{number}"));
        assert_eq!(
            (&arrived["message"]["data"], &arrived["message"]["meta"]),
            (&json!({"n": number}), &json!({"x": [number]}))
        );
    }
}

/// A line, and the message that arrives or the reason in its receipt; a blank line has neither.
type Line = (Vec<u8>, Result<&'static str, &'static str>);

fn lines_and_results() -> Vec<Line> {
    let long = format!(r#"{{"type":"text","data":"{}"}}"#, "x".repeat(FRAME_BYTES_MAX));
    // It fits into a line only without the token.
    let wide = format!(r#"{{"type":"text","data":"{}"}}"#, "x".repeat(FRAME_BYTES_MAX - 40));
    let deep = format!(r#"{{"type":"text","data":{}{}}}"#, "[".repeat(127), "]".repeat(127));
    vec![
        (br#"{"type":"text"}"#.to_vec(), Ok(r#"{"type":"text"}"#)),
        (b"".to_vec(), Ok("")),
        (b" \t\r".to_vec(), Ok("")),
        (
            br#"{"type":"text","data":null,"ts":null,"from":null}"#.to_vec(),
            Ok(r#"{"type":"text","data":null}"#),
        ),
        (
            br#" { "data" : [ 1e400 , {} ] , "type" : "own" } "#.to_vec(),
            Ok(r#"{"type":"own","data":[ 1e400 , {} ]}"#),
        ),
        (br#"{"type":"text","data":"\ud83d"}"#.to_vec(), Ok(r#"{"type":"text","data":"\ud83d"}"#)),
        (
            br#"{"type":"a","from":"/x.sock","ts":"then","meta":{"hops":2},"data":"d"}"#.to_vec(),
            Ok(r#"{"type":"a","data":"d","from":"/x.sock","ts":"then","meta":{"hops":2}}"#),
        ),
        (br#"{"\u0074ype":"t\u0065xt"}"#.to_vec(), Ok(r#"{"type":"text"}"#)),
        (br#"{"type":"crlf"}"#.to_vec(), Ok(r#"{"type":"crlf"}"#)),
        (b"nonsense".to_vec(), Err("not JSON")),
        (b"{".to_vec(), Err("")),
        (b"[]".to_vec(), Err("object")),
        (b"null".to_vec(), Err("object")),
        (b"{}".to_vec(), Err("`type` must be a string")),
        (br#"{"type":7}"#.to_vec(), Err("`type` must be a string")),
        (br#"{"type":"a","ts":7}"#.to_vec(), Err("strings or null")),
        (br#"{"type":"a","from":[]}"#.to_vec(), Err("strings or null")),
        (br#"{"type":"a","type":"b"}"#.to_vec(), Err("")),
        (br#"{"type":"a","meta":[]}"#.to_vec(), Err("`meta` must be a JSON object")),
        (br#"{"type":"a","meta":{"authToken":"SECRET"}}"#.to_vec(), Err("authToken")),
        (br#"{"type":"a","body":1}"#.to_vec(), Err("\"body\" is none of")),
        (b"{\"type\":\"\xff\"}".to_vec(), Err("UTF-8")),
        (deep.into_bytes(), Err("")),
        (long.into_bytes(), Err("65561 bytes")),
        (wide.into_bytes(), Err("limit is 65536 bytes")),
        // The last line, without its newline.
        (br#"{"type":"last"}"#.to_vec(), Ok(r#"{"type":"last"}"#)),
    ]
}

#[test]
fn bad_lines_are_reported_by_number_and_the_rest_is_sent() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let table = lines_and_results();
    let input: Vec<u8> = table.iter().map(|(line, _)| &line[..]).collect::<Vec<_>>().join(&b"\n"[..]);
    let ended = home.run_with(&["send", "--ndjson", &serve.socket], input);
    ended.assert_code(1);
    let receipts = parsed(&ended.stdout);
    let mut number = 0;
    for (line, (text, expected)) in (1..).zip(table) {
        let receipt = receipts.iter().find(|receipt| receipt["line"] == line);
        let text = String::from_utf8_lossy(text.get(..60).unwrap_or(&text)).into_owned();
        match (expected, receipt) {
            (Ok(""), None) => {}
            (Ok(arrives), Some(receipt)) if !arrives.is_empty() => {
                number += 1;
                assert_eq!(
                    (&receipt["event"], &receipt["id"]),
                    (&json!("accepted"), &json!(format!("uds-{number}"))),
                    "{text}"
                );
                let entry = serve.entry();
                // A time is added if there is none.
                let message = entry.message.get();
                let without_ts = match message.split_once(",\"ts\":\"") {
                    Some((head, tail)) if !arrives.contains("\"ts\"") => {
                        format!("{head}{}", tail.split_once('"').unwrap().1)
                    }
                    _ => message.to_owned(),
                };
                assert_eq!(without_ts, arrives, "{text}");
            }
            (Err(why), Some(receipt)) => {
                let event = receipt["event"].as_str().unwrap();
                assert!(
                    event == "bad_line" || (event == "not_sent" && (line == 23 || line == 25)),
                    "{text}: {receipt}"
                );
                assert!(receipt["reason"].as_str().unwrap().contains(why), "{text}: {receipt}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let [accepted, _, not_sent, _, bad_lines] = counts(&ended);
    assert_eq!((accepted, not_sent + bad_lines), (8, 16), "{ended:?}");
    assert!(ended.stderr.contains("not everything was accepted: 8 accepted"), "{ended:?}");
    assert!(!ended.stdout.contains("SECRET") && !ended.stderr.contains("SECRET"));
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

const OK: &str = "{\"type\":\"response\",\"meta\":{\"id\":\"far\"}}\n";
const REFUSAL: &str = "{\"type\":\"error\",\"data\":\"inbox full\"}\n";
const TWO: &str = "{\"type\":\"text\",\"data\":\"1\"}\n{\"type\":\"text\",\"data\":\"2\"}\n";

/// A message that may be in the inbox or not is worse than one that certainly is not.
#[test]
fn worst_outcome_decides_the_exit_status() {
    type Row = (&'static [&'static str], &'static [&'static str], i32, [u64; 5]);
    let table: [Row; 5] = [
        (&[], &[OK, OK], 0, [2, 0, 0, 0, 0]),
        // The connection is closed after the refusal, so the second message was certainly not processed.
        (&[], &[OK, REFUSAL], 1, [1, 1, 0, 0, 0]),
        (&[], &[OK], 3, [1, 0, 0, 1, 0]),
        (&[], &[], 3, [0, 0, 0, 2, 0]),
        (&["--timeout=3"], &["{\"type\":\"text\"}\n", "wait"], 3, [0, 0, 0, 2, 0]),
    ];
    for (options, answers, code, expected) in table {
        let home = Home::new();
        let fake = Fake::start(&home, move |mut stream, _, _| {
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            for _ in 0..2 {
                let _ = lines.read_line(&mut String::new());
            }
            for answer in answers {
                if *answer == "wait" {
                    read_to_end(&stream);
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        home.publish(&fake.socket);
        let ended = home.run_with(&[&["send", "--ndjson"], options, &[&fake.socket]].concat(), TWO);
        ended.assert_code(code);
        assert_eq!(counts(&ended), expected, "{answers:?}: {ended:?}");
    }
    let home = Home::new();
    home.publish(NOWHERE);
    let ended = home.run_with(&["send", "--ndjson", NOWHERE], TWO);
    assert_eq!(counts(ended.assert_code(1)), [0, 0, 2, 0, 0]);
    assert_eq!(parsed(&ended.stdout).first().unwrap()["code"], "no_such_peer");
    // Wine takes milliseconds to say that there is no such pipe.
    let pairs = if cfg!(unix) { 3_000 } else { 300 };
    let ended = home.run_with(&["send", "--ndjson", NOWHERE], TWO.repeat(pairs));
    assert_eq!(counts(ended.assert_code(1)), [0, 0, 2 * pairs as u64, 0, 0]);
    assert!(!ended.stdout.contains("outbox_full"));
    let ended = home.run_with(&["send", "--ndjson", NOWHERE], "");
    assert_eq!(counts(ended.assert_code(0)), [0; 5]);
    home.run_with(&["send", "--ndjson", NOWHERE, "text", "x"], "").assert_code(2);
    home.run_with(&["send", "--ndjson", "--stdin", NOWHERE], "").assert_code(2);
    home.run_with(&["send", "--ndjson", "--wait-reply", NOWHERE], "").assert_code(2);
    home.run_with(&["send", "--ndjson"], TWO).assert_code(2);
}

/// Also where there is no line, or none for long.
#[test]
fn ndjson_to_a_target_without_a_capability_is_refused_before_a_line_is_read() {
    let home = Home::new();
    let long = format!("{NOWHERE}{}", "x".repeat(300));
    let len = long.len().to_string();
    for (target, why) in [(NOWHERE, "Cannot send UDS message without auth token"), (&long, &len)] {
        for input in ["", TWO] {
            home.run_with(&["send", "--ndjson", target], input).assert_refused(why);
        }
        let (process, stdin) = pipes(home.udsmsg(&["send", "--ndjson", target]));
        process.end().assert_refused(why);
        drop(stdin);
    }
}

#[test]
fn timeout_option_sets_the_timeout() {
    let home = Home::new();
    let fake = Fake::start(&home, |stream, _, _| read_to_end(&stream));
    home.publish(&fake.socket);
    // Longer than the 5 s that it would be otherwise.
    std::thread::scope(|scope| {
        for args in [
            vec!["send", "--timeout", "6.5", &fake.socket, "text", "x"],
            vec!["ping", "--timeout=6.5", &fake.socket],
        ] {
            let home = &home;
            scope.spawn(move || {
                let begun = Instant::now();
                home.run(&args).assert_refused("Connection timed out");
                assert!(begun.elapsed() >= Duration::from_millis(6_500), "{:?}", begun.elapsed());
            });
        }
    });
    for seconds in ["0", "-1", "", "x", "nan", "inf", "1e3", "86401", "0.0"] {
        home.run(&["send", &format!("--timeout={seconds}"), &fake.socket, "text", "x"]).assert_code(2);
    }
}

fn pipes(mut command: Command) -> (Process, std::process::ChildStdin) {
    command.stdin(Stdio::piped());
    let process = Process::spawn(command);
    let stdin = process.take_stdin();
    (process, stdin)
}

/// A receipt is printed when the message has its outcome, not when the input ends.
#[test]
fn receipts_are_printed_while_input_continues() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    let (mut process, mut stdin) = pipes(home.udsmsg(&["send", "--ndjson", &serve.socket]));
    let mut receipts = BufReader::new(process.take_stdout());
    for number in 1..=5 {
        // In two pieces: half a line is not sent.
        stdin.write_all(b"{\"type\":").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        stdin.write_all(b"\"text\"}\n").unwrap();
        let mut line = String::new();
        receipts.read_line(&mut line).unwrap();
        let receipt: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&receipt["line"], &receipt["id"]), (&json!(number), &json!(format!("uds-{number}"))));
    }
    // A closed stdout ends the command, and is no success.
    drop(receipts);
    if cfg!(windows) {
        // It is noticed at the next line.
        stdin.write_all(b"{\"type\":\"text\"}\n").unwrap();
    }
    let begun = Instant::now();
    let ended = process.end();
    assert_ne!(ended.status.code(), Some(0));
    assert!(ended.status.code().is_some() && begun.elapsed() < WATCHDOG / 4, "{ended:?}");
    drop(stdin);
    serve.stop().assert_clean(0);
}

#[cfg(target_os = "linux")]
#[test]
fn ndjson_memory_is_bounded_for_every_input() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    let limit_kib = 24 * 1024;
    // One endless line, and many messages whose receipts are not read.
    let (process, mut stdin) = pipes(home.udsmsg(&["send", "--ndjson", "--timeout=50", &serve.socket]));
    let chunk = vec![b'x'; 1 << 20];
    (0..64).for_each(|_| stdin.write_all(&chunk).unwrap());
    stdin.write_all(b"\n{\"type\":\"text\"}\n").unwrap();
    assert!(process.peak_kib() < limit_kib, "{} KiB", process.peak_kib());
    drop(stdin);
    let ended = process.end();
    assert_eq!(counts(ended.assert_code(1)), [1, 0, 0, 0, 1]);
    assert!(ended.stdout.contains(&format!("it is {} bytes long", 64 << 20)), "{ended:?}");

    let (process, mut stdin) = pipes(home.udsmsg(&["send", "--ndjson", "--timeout=50", &serve.socket]));
    let line = [&b"{\"type\":\""[..], &[b'y'; 1_000], b"\"}\n"].concat();
    let fed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&fed);
    let feeder = std::thread::spawn(move || {
        (0..60_000)
            .take_while(|_| stdin.write_all(&line).is_ok())
            .inspect(|_| _ = counter.fetch_add(1, Ordering::SeqCst))
            .count()
    });
    // Until it comes to rest.
    let (mut before, mut still_looks) = (0, 0);
    while still_looks < 4 {
        std::thread::sleep(Duration::from_millis(250));
        let now = fed.load(Ordering::SeqCst);
        still_looks = if now == before && now > 0 { still_looks + 1 } else { 0 };
        before = now;
    }
    assert!(before < 60_000, "it took all input, although the receipts are not read");
    assert!(process.peak_kib() < limit_kib, "{} KiB", process.peak_kib());
    let ended = process.end();
    assert_eq!(feeder.join().unwrap(), 60_000);
    assert_eq!(counts(ended.assert_code(0)), [60_000, 0, 0, 0, 0]);
    serve.stop().assert_clean(0);
}

/// A person sees a summary at the end, failures on stderr, and no receipts.
// Terminals are those of Unix.
#[cfg(unix)]
#[test]
fn terminal_gets_progress_and_a_summary() {
    use std::fs::File;

    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    let pty = nix::pty::openpty(None, None).unwrap();
    let input = home.path().join("input");
    std::fs::write(&input, format!("{TWO}nonsense\n")).unwrap();
    let mut command = home.udsmsg(&["send", "--ndjson", &serve.socket]);
    command.stdin(File::open(&input).unwrap()).stdout(pty.slave).stderr(Stdio::piped());
    let process = Process::spawn_as_is(command, WATCHDOG);
    let mut screen = String::new();
    BufReader::new(File::from(pty.master)).read_line(&mut screen).unwrap();
    let ended = process.end();
    ended.assert_code(1);
    assert!(screen.contains("2 accepted, 1 bad lines in "), "{screen:?}");
    assert!(ended.stderr.starts_with("line 3: this is not JSON"), "{ended:?}");
    serve.stop().assert_clean(0);
}

/// The reader of stdout is always a little behind.
#[cfg(target_os = "linux")]
#[test]
fn serve_memory_is_bounded_behind_a_slow_reader() {
    let home = Home::new();
    let socket = home.socket("d/s");
    let mut process = Process::spawn(home.serve_command(&["--socket", &socket]));
    let mut out = process.take_stdout();
    let read = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let (counter, refusals) = (Arc::clone(&read), Arc::clone(&refused));
    let reader = std::thread::spawn(move || {
        let mut chunk = vec![0; 65_536];
        let mut since = 0;
        while let Ok(n @ 1..) = out.read(&mut chunk) {
            counter.fetch_add(n, Ordering::SeqCst);
            since += n;
            if since > 1 << 16 {
                since = 0;
                std::thread::sleep(Duration::from_millis(5));
                // However slow the machine, all buffers are full once.
                while refusals.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    });
    while home.traces().len() < 2 || read.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let token = home.token(&socket);
    let line = text_line(&"z".repeat(60_000));
    let mut peer = Peer::connect(&socket, &token);
    while read.load(Ordering::SeqCst) < 32 << 20 {
        if peer.ask(&line)["data"] != "ok" {
            refused.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            peer = Peer::connect(&socket, &token);
        }
    }
    assert!(process.peak_kib() < 32 * 1024, "{} KiB", process.peak_kib());
    process.ask_to_stop();
    let status = process.wait();
    assert!(status.code().is_some(), "{status:?}");
    reader.join().unwrap();
}
