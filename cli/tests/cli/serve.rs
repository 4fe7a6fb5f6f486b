//! `udsmsg serve` by its contract.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
#[cfg(unix)]
use std::os::unix::fs::{PermissionsExt, symlink};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::system;
use crate::util::{Home, Peer, Process, Serve, WATCHDOG, exists, private_dir, scale, text_line};
#[cfg(unix)]
use crate::util::{PING_LINE, mode, token_in};

#[test]
fn first_line_has_exactly_three_keys() {
    let home = Home::new();
    // On Windows the backslashes are in front.
    let own = home.socket(if cfg!(unix) { "own/sock \"ü\" \\ 1" } else { "sock \"ü\" 1" });
    for args in [&[][..], &["--socket", &own], &["--json"], &["--quiet"], &["--no-drain"]] {
        let serve = home.serve(args);
        let socket = Value::from(serve.socket.clone()).to_string();
        let address = Value::from(format!("uds:{}", serve.socket)).to_string();
        let expected = format!(r#"{{"event":"listening","socket":{socket},"address":{address}}}"#);
        assert_eq!(serve.first_line, expected, "{args:?}");
        if args.first() == Some(&"--socket") {
            assert_eq!(serve.socket, own);
        }
        serve.stop().assert_clean(0);
    }
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn default_path_names_the_process_and_is_private() {
    let home = Home::new();
    let serve = home.serve(&[]);
    let shared = home.tmp().join("claude-code-socks");
    let rest = Path::new(&serve.socket).strip_prefix(&shared).unwrap().to_str().unwrap();
    let (own, name) = rest.split_once('/').unwrap();
    let (pid, nonce) = own.split_once('-').unwrap();
    assert_eq!((pid, name), (serve.pid().to_string().as_str(), "messaging.sock"));
    let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    assert!(nonce.len() == 32 && is_hex(nonce), "{nonce}");

    let own = shared.join(own);
    let capability = home.capability_file(&serve.socket);
    for (path, expected) in [
        (shared.as_path(), 0o700),
        (&own, 0o700),
        (Path::new(&serve.socket), 0o600),
        (&home.config(), 0o700),
        (&home.capability_dir(), 0o700),
        (&capability, 0o600),
    ] {
        assert_eq!(mode(path), expected, "{path:?} has mode {:o}", mode(path));
    }
    let token = home.token(&serve.socket);
    assert!(token.len() == 64 && is_hex(&token), "the token is 64 hex digits");
    let published = fs::read_dir(home.capability_dir()).unwrap().count();
    assert_eq!(published, 1, "the capability file is alone in its directory");

    let socket = serve.socket.clone();
    serve.stop().assert_clean(0);
    for gone in [Path::new(&socket), &own, &capability] {
        assert!(!exists(gone), "{gone:?} was left behind");
    }
    assert!(exists(&shared), "the directory that is shared with others stays");
    assert!(exists(home.capability_dir()));
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn given_path_gets_private_parents_and_a_new_token_at_each_start() {
    let home = Home::new();
    let socket = home.path().join("a/b/c/s.sock").to_str().unwrap().to_owned();
    let mut tokens = BTreeSet::new();
    for _ in 0..3 {
        let serve = home.serve(&["--socket", &socket]);
        for dir in ["a", "a/b", "a/b/c"] {
            assert_eq!(mode(&home.path().join(dir)), 0o700, "{dir}");
        }
        assert_eq!(mode(Path::new(&socket)), 0o600);
        assert!(tokens.insert(home.token(&socket)), "a token was used twice");
        serve.stop().assert_clean(0);
        home.assert_released(&socket);
    }
}

/// The name of the capability file is the hash of the path as it was given, so neither side may normalise a
/// path.
// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn paths_are_taken_literally() {
    let home = Home::new();
    home.private("d");
    for socket in ["s.sock", "./s.sock", "d/s.sock", "d//./s.sock", "d/../d/s.sock"] {
        let serve = home.serve(&["--socket", socket]);
        assert_eq!(serve.socket, socket);
        let address = format!("uds:{socket}");
        home.run(&["send", &address, "text", socket]).assert_code(0);
        home.run(&["ping", home.path().join(socket).to_str().unwrap()]).assert_refused("without auth token");
        let stopped = serve.stop();
        assert_eq!(stopped.assert_clean(0).entries.len(), 1);
        assert!(!exists(home.path().join(socket)) && !exists(home.capability_file(socket)));
    }
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn names_follow_the_environment() {
    let home = Home::new();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    private_dir(Path::new(&path("xdg")));
    /// Variables, arguments, the directory of the capability, the directory of the sockets.
    type Row<'a> = (&'a [(&'a str, String)], &'a [&'a str], &'a str, &'a str);
    let table: [Row<'_>; 5] = [
        (&[("CLAUDE_CONFIG_DIR", path("c1"))], &[], "c1", "t/claude-code-socks"),
        (&[], &[], ".claude", "t/claude-code-socks"),
        (&[("CLAUDE_CONFIG_DIR", String::new())], &[], ".claude", "t/claude-code-socks"),
        (&[("MY_APP_CONFIG_DIR", path("c2"))], &["--namespace", "my-app"], "c2", "t/my-app-socks"),
        (&[("XDG_CONFIG_HOME", path("xdg"))], &["--namespace", "my-app"], "xdg/my-app", "t/my-app-socks"),
    ];
    for (variables, args, config, sockets) in table {
        let mut command = home.serve_command(args);
        command.env_remove("CLAUDE_CONFIG_DIR").envs(variables.iter().cloned());
        let serve = Serve::start(command);
        let file = home
            .path()
            .join(config)
            .join("messaging-capabilities")
            .join(home.capability_file(&serve.socket).file_name().unwrap());
        let token = token_in(&file, &serve.socket);
        assert!(Path::new(&serve.socket).starts_with(home.path().join(sockets)), "{}", serve.socket);
        serve.peer(&token).ping();
        serve.stop().assert_clean(0);
        assert!(!exists(&file));
    }
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn too_long_tmpdir_is_unused_and_reported() {
    for has_runtime_dir in [false, true] {
        let home = Home::new();
        let base = home.path().to_str().unwrap().to_owned();
        let long = format!("{base}/{}", "x".repeat(60 - base.len() - 1));
        assert_eq!(long.len(), 60);
        private_dir(Path::new(&long));
        let runtime = home.private("run");
        let mut command = home.serve_command(&[]);
        command.env("TMPDIR", &long);
        if has_runtime_dir {
            command.env("XDG_RUNTIME_DIR", &runtime);
        }
        let serve = Serve::start(command);
        let socket = serve.socket.clone();
        assert!(socket.len() < 108, "{socket}");
        assert_eq!(Path::new(&socket).starts_with(&runtime), has_runtime_dir, "{socket}");
        let dir = Path::new(&socket).parent().unwrap().to_owned();
        assert_eq!(mode(&dir), 0o700);
        serve.peer(&home.token(&socket)).ping();
        let stopped = serve.stop();
        stopped.assert_clean(0);
        assert!(stopped.ended.stderr.contains("at most 107 fit"), "{stopped:?}");
        assert!(!exists(&dir), "{dir:?} was left behind");
        assert_eq!(
            fs::read_dir(&long).unwrap().count(),
            0,
            "nothing was made in the $TMPDIR that is not used"
        );
    }
}

/// A line that is sent, with `TOKEN` for the token, and the message that is printed for it.
const UNCHANGED: [(&str, &str); 14] = [
    (r#"{"type":"text","data":"hi","meta":{"authToken":"TOKEN"}}"#, r#"{"type":"text","data":"hi"}"#),
    (r#"{"meta":{"authToken":"TOKEN"},"type":"text"}"#, r#"{"type":"text"}"#),
    (r#"{"type":"q","data":1e400,"meta":{"authToken":"TOKEN"}}"#, r#"{"type":"q","data":1e400}"#),
    (
        r#"{"type":"q","data":[123456789012345678901234567890,-0.0,1E+2],"meta":{"authToken":"TOKEN"}}"#,
        r#"{"type":"q","data":[123456789012345678901234567890,-0.0,1E+2]}"#,
    ),
    (
        r#"{"type":"text","data":"zażółć 日本 🎉 \u2028 \ud83d","meta":{"authToken":"TOKEN"}}"#,
        r#"{"type":"text","data":"zażółć 日本 🎉 \u2028 \ud83d"}"#,
    ),
    (
        r#"{"\u0074ype":"te\u0078t","data":"\"\\\/\b\n\u001b[31m","meta":{"\u0061uthToken":"TOKEN"}}"#,
        r#"{"\u0074ype":"te\u0078t","data":"\"\\\/\b\n\u001b[31m"}"#,
    ),
    (
        r#"{"type":"text","meta":{"authToken":"TOKEN","queryId":"q1"}}"#,
        r#"{"type":"text","meta":{"queryId":"q1"}}"#,
    ),
    (
        r#"{"type":"text","meta":{"queryId":"q1","authToken":"TOKEN","hops":3}}"#,
        r#"{"type":"text","meta":{"queryId":"q1","hops":3}}"#,
    ),
    (
        r#"{"type":"x","from":"/a/b.sock","ts":null,"more":{"a":[],"a":{}},"meta":{"authToken":"TOKEN"}}"#,
        r#"{"type":"x","from":"/a/b.sock","ts":null,"more":{"a":[],"a":{}}}"#,
    ),
    (r#"{"type":"","data":null,"meta":{"authToken":"TOKEN"}}"#, r#"{"type":"","data":null}"#),
    (r#"{"type":"response","data":"ok","meta":{"authToken":"TOKEN"}}"#, r#"{"type":"response","data":"ok"}"#),
    (r#"{"type":"error","data":{"a":1},"meta":{"authToken":"TOKEN"}}"#, r#"{"type":"error","data":{"a":1}}"#),
    (r#"{ "type" : "text" , "data" : [ 1 ,	2 ] }"#, ""),
    (r#"{"type":"pong","meta":{"authToken":"TOKEN"}}"#, r#"{"type":"pong"}"#),
];

#[test]
fn messages_are_printed_byte_for_byte() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let token = home.token(&serve.socket);
    let mut number = 0;
    for (sent, printed) in UNCHANGED {
        let mut peer = serve.peer(&token);
        let before = SystemTime::now();
        let answer = peer.ask(sent);
        if printed.is_empty() {
            assert_eq!(answer["data"], "unauthorized", "{sent}");
            continue;
        }
        number += 1;
        let id = format!("uds-{number}");
        assert_eq!(answer["meta"]["id"], *id, "{sent}: {answer}");
        let entry = serve.entry();
        assert_eq!(entry.message.get(), printed);
        assert_eq!((entry.id, entry.status.as_str()), (id, "processed"));
        let millis = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let within = millis(before)..=millis(SystemTime::now());
        assert!(
            within.contains(&u128::from(entry.received_at)),
            "{} is not in {within:?}",
            entry.received_at
        );
    }
    serve.stop().assert_clean(0);
}

#[test]
fn entry_lines_start_with_the_contract_keys_and_hold_no_token() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let token = home.token(&serve.socket);
    serve.peer(&token).send_text("x");
    let stopped = serve.stop();
    let line = &stopped.assert_clean(0).ended.stdout;
    let rest = line.strip_prefix(r#"{"id":"uds-1","message":{"type":"text","data":"x"},"receivedAt":"#);
    let rest = rest.unwrap_or_else(|| panic!("{line}")).trim_start_matches(|c: char| c.is_ascii_digit());
    assert!(rest.starts_with(r#","status":"processed""#), "{line}");
    assert!(!line.contains(&token));
}

#[test]
fn quiet_option_drains_and_prints_nothing() {
    let home = Home::new();
    let mut serve = home.serve(&["--quiet"]);
    let token = home.token(&serve.socket);
    let mut peer = serve.peer(&token);
    // More than the inbox holds: without draining, some would be refused.
    for number in 1..=1_200 {
        assert_eq!(peer.send_text("x"), format!("uds-{number}"));
    }
    serve.assert_prints_nothing_for(Duration::from_millis(100));
    let stopped = serve.stop();
    assert_eq!(stopped.assert_clean(0).ended.stdout, "");
}

#[test]
fn no_drain_prints_at_sigusr1_and_at_the_stop() {
    let home = Home::new();
    let mut serve = home.serve(&["--no-drain"]);
    let token = home.token(&serve.socket);
    let mut peer = serve.peer(&token);
    peer.send_text("one");
    peer.send_text("two");
    serve.assert_prints_nothing_for(Duration::from_millis(200));
    serve.ask_for_messages();
    assert_eq!(serve.entry().json()["data"], "one");
    assert_eq!(serve.entry().json()["data"], "two");
    peer.send_text("three");
    serve.assert_prints_nothing_for(Duration::from_millis(200));
    let stopped = serve.stop();
    let left: Vec<_> = stopped.assert_clean(0).entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(left, ["uds-3"]);
}

#[test]
fn sigusr2_prints_a_summary_on_stderr() {
    let home = Home::new();
    let serve = home.serve(&[]);
    let mut peer = serve.peer(&home.token(&serve.socket));
    peer.send_text("one");
    let mut bad = serve.peer(&home.token(&serve.socket));
    assert_eq!(bad.ask("{")["data"], "invalid frame");
    assert_eq!(bad.read(), "");
    drop(bad);
    peer.send_text("after it went");
    // Its end is counted in one of these turns at the latest.
    (0..3).for_each(|_| peer.ping());
    serve.ask_for_summary();
    if cfg!(unix) {
        // A turn handles signals before messages: after this answer the summary is written.
        peer.send_text("two");
    }
    let stopped = serve.stop();
    assert_eq!(stopped.entries.len(), if cfg!(unix) { 3 } else { 2 });
    let line =
        stopped.ended.stderr.lines().find(|line| line.contains("summary")).expect("a summary on stderr");
    let summary: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&summary["messages"], &summary["clientsPeak"]), (&2.into(), &2.into()), "{summary}");
    assert_eq!(summary["closed"]["invalidFrame"], 1, "{summary}");
}

#[test]
fn no_drain_refuses_messages_beyond_the_inbox_and_keeps_the_rest() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let mut peer = serve.peer(&home.token(&serve.socket));
    for number in 1..=1_000 {
        assert_eq!(peer.send_text("x"), format!("uds-{number}"));
    }
    assert_eq!(peer.ask(&text_line("y"))["data"], "inbox full");
    assert_eq!(peer.read(), "", "the connection is closed");
    let stopped = serve.stop();
    assert_eq!(stopped.assert_clean(0).entries.len(), 1_000);
}

#[test]
fn no_drain_remembers_sigusr1_while_stdout_is_behind() {
    let home = Home::new();
    let mut serve = home.serve(&["--no-drain"]);
    let token = home.token(&serve.socket);
    let mut peer = serve.peer(&token);
    let data = "x".repeat(60_000);
    for _ in 0..30 {
        peer.send_text(&data);
    }
    serve.ask_for_messages();
    // The messages are drained once the inbox takes as many again.
    for _ in 0..30 {
        let begun = Instant::now();
        loop {
            let answer = peer.ask(&text_line(&data));
            if answer["data"] == "ok" {
                break;
            }
            assert!(begun.elapsed() < WATCHDOG, "{answer}");
            thread::sleep(Duration::from_millis(10));
            peer = serve.peer(&token);
        }
    }
    serve.ask_for_messages();
    // The signal is handled before a ping that was sent after it is answered.
    peer.ping();
    peer.ping();
    for number in 1..=60 {
        assert_eq!(serve.entry().id, format!("uds-{number}"));
    }
    serve.stop().assert_clean(0);
}

#[test]
fn max_clients_option_limits_clients() {
    let home = Home::new();
    let serve = home.serve(&["--max-clients", "2"]);
    let token = home.token(&serve.socket);
    let (mut first, mut second) = (serve.peer(&token), serve.peer(&token));
    first.ping();
    second.ping();
    let mut third = serve.peer(&token);
    let answer: Value = serde_json::from_str(&third.read()).unwrap();
    assert_eq!((&answer["type"], &answer["data"]), (&json!("error"), &json!("too many clients")));
    assert_eq!(third.read(), "");
    first.ping();
    // The command waits for a slot, within its deadline.
    let process = Process::spawn(home.udsmsg(&["send", "--timeout=50", &serve.socket, "text", "patient"]));
    thread::sleep(Duration::from_millis(300));
    drop(second);
    process.end().assert_code(0);
    let stopped = serve.stop();
    assert_eq!(stopped.assert_clean(0).entries.len(), 1);
}

#[test]
fn stop_signals_stop_cleanly() {
    for signal in system::STOPS {
        let home = Home::new();
        let serve = home.serve(&[]);
        let token = home.token(&serve.socket);
        let socket = serve.socket.clone();
        // Idle clients, authenticated or not, do not delay the stop.
        let mut idle = serve.peer(&token);
        idle.ping();
        let silent = serve.peer(&token);
        let stopped = serve.stop_by(signal);
        stopped.assert_clean(0);
        assert_eq!(stopped.ended.stderr, "");
        home.assert_released(&socket);
        assert_eq!(idle.read(), "", "a stop sends no line");
        drop(silent);
    }
}

// A pipe of the tests cannot be written without waiting.
#[cfg(unix)]
#[test]
fn client_that_reads_no_answers_does_not_delay_the_stop() {
    let home = Home::new();
    let serve = home.serve(&[]);
    let socket = serve.socket.clone();
    let token = home.token(&socket);
    let mut other = serve.peer(&token);
    other.ping();
    let unread = serve.peer(&token);
    unread.stream().set_nonblocking(true).unwrap();
    let ping = format!("{}\n", PING_LINE.replace("TOKEN", &token)).repeat(100);
    // Until both directions are full, and stay full.
    let mut refusals = 0;
    while refusals < 20 {
        if unread.stream().write(ping.as_bytes()).is_err() {
            refusals += 1;
            // The server has had a turn meanwhile.
            other.ping();
        }
    }
    other.ping();
    serve.stop().assert_clean(0);
    home.assert_released(&socket);
}

#[test]
fn signal_right_after_the_first_line_stops_cleanly() {
    for _ in 0..10 * scale() {
        let home = Home::new();
        let serve = home.serve(&[]);
        let socket = serve.socket.clone();
        serve.stop_as_is().assert_clean(0);
        home.assert_released(&socket);
    }
}

/// Clients write without waiting during the stop: every message that was answered is printed.
#[test]
fn acknowledged_messages_are_printed_by_a_stop() {
    for round in 0..3 * scale() {
        let home = Home::new();
        let serve = home.serve(&[]);
        let token = home.token(&serve.socket);
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let (socket, token) = (serve.socket.clone(), token.clone());
                thread::spawn(move || {
                    let Ok(stream) = system::connect(&socket) else { return Vec::new() };
                    let mut writer = stream.try_clone().unwrap();
                    let line = format!("{}\n", text_line(&number.to_string()).replace("TOKEN", &token));
                    thread::spawn(move || while writer.write_all(line.as_bytes()).is_ok() {});
                    let mut ids = Vec::new();
                    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(stream));
                    while let Some(Ok(answer)) = answers.next() {
                        // The end may cut the last line.
                        let Ok(answer) = serde_json::from_str::<Value>(&answer) else { break };
                        if answer["data"] != "ok" {
                            break;
                        }
                        ids.push(answer["meta"]["id"].as_str().unwrap().to_owned());
                    }
                    ids
                })
            })
            .collect();
        let mut serve = serve;
        let mut printed: BTreeSet<String> = (0..50 * (round + 1)).map(|_| serve.entry().id).collect();
        let stopped = serve.stop();
        stopped.assert_clean(0);
        let before = printed.len() + stopped.entries.len();
        printed.extend(stopped.entries.iter().map(|entry| entry.id.clone()));
        assert_eq!(printed.len(), before, "an id was printed twice");
        let mut answered = 0;
        for client in clients {
            for id in client.join().unwrap() {
                assert!(printed.contains(&id), "{id} was answered and not printed");
                answered += 1;
            }
        }
        assert!(answered > 0);
    }
}

// On Windows a closed stdout is noticed at the next line.
#[cfg(unix)]
#[test]
fn closed_stdout_stops_cleanly_with_exit_1() {
    for args in [&[][..], &["--no-drain"]] {
        for sends in [false, true] {
            let home = Home::new();
            let mut serve = home.serve(args);
            let socket = serve.socket.clone();
            let mut peer = serve.peer(&home.token(&socket));
            peer.ping();
            serve.close_stdout();
            if sends {
                let line = text_line("unread").replace("TOKEN", "no matter what");
                let _ = peer.stream().write_all(line.as_bytes());
            }
            serve.end().assert_clean(1);
            home.assert_released(&socket);
        }
    }
}

/// The reader of stdout goes away while messages wait for it.
#[test]
fn stdout_closed_with_a_backlog_stops_cleanly_with_exit_1() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let socket = serve.socket.clone();
    let mut peer = serve.peer(&home.token(&socket));
    for _ in 0..10 {
        peer.send_text(&"x".repeat(60_000));
    }
    serve.close_stdout();
    serve.end().assert_clean(1);
    home.assert_released(&socket);
}

#[cfg(target_os = "linux")]
#[test]
fn failing_stdout_stops_with_a_reason() {
    let home = Home::new();
    let mut command = home.serve_command(&["--json"]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.stdout(full).stderr(Stdio::piped());
    let ended = Process::spawn_as_is(command, WATCHDOG).end();
    ended.assert_code(1);
    assert!(ended.stderr.contains("No space left on device"), "{ended:?}");
    assert_eq!(fs::read_dir(home.capability_dir()).unwrap().count(), 0);
}

#[test]
fn unread_stdout_does_not_block_clients() {
    let home = Home::new();
    let serve = home.serve(&[]);
    let socket = serve.socket.clone();
    let token = home.token(&socket);
    let data = text_line(&"x".repeat(60_000));
    let mut peer = serve.peer(&token);
    let mut accepted = 0;
    let mut was_full = false;
    // The pipe, the printer and the inbox together hold far less than this.
    for _ in 0..200 {
        let answer = peer.ask(&data);
        match answer["data"].as_str() {
            Some("ok") => accepted += 1,
            Some("inbox full") => {
                was_full = true;
                break;
            }
            _ => panic!("{answer}"),
        }
    }
    assert!(was_full && accepted > 30, "memory is bounded: {accepted} messages of 60,000 bytes were taken");
    for _ in 0..20 {
        serve.peer(&token).ping();
    }
    home.run(&["ping", &socket]).assert_code(0);
    let stopped = serve.stop_as_is();
    stopped.assert_clean(1);
    assert!(stopped.ended.stderr.contains("not printed"), "{stopped:?}");
    home.assert_released(&socket);
}

#[test]
fn late_reader_gets_every_message() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let mut peer = serve.peer(&home.token(&serve.socket));
    let data = "x".repeat(60_000);
    let total = 40;
    for _ in 0..total {
        peer.send_text(&data);
    }
    for number in 1..=total {
        assert_eq!(serve.entry().id, format!("uds-{number}"));
    }
    // The server is in its ordinary state again.
    assert_eq!(peer.send_text("after"), format!("uds-{}", total + 1));
    assert_eq!(serve.entry().json()["data"], "after");
    serve.stop().assert_clean(0);
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn refused_starts_say_why_and_change_no_files() {
    let home = Home::new();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let dir = home.private("d");
    let live = UnixListener::bind(path("d/live")).unwrap();
    fs::write(path("d/file"), "precious").unwrap();
    private_dir(Path::new(&path("d/dir")));
    symlink(path("d/nowhere"), path("d/link")).unwrap();
    nix::unistd::mkfifo(dir.join("fifo").as_path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let open = home.private("open");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(&dir, path("linked")).unwrap();
    let fill = |len: usize| format!("{}/{}", path("d"), "n".repeat(len - path("d").len() - 1));
    let table = [
        (fill(108), "108 bytes long and at most 107 fit"),
        (path("open/s"), "0755"),
        (path("linked/s"), "link"),
        (path("d/file"), "regular file"),
        (path("d/dir"), "directory"),
        (path("d/fifo"), "FIFO"),
        (path("d/link"), "link"),
        (path("d/live"), "live server"),
        (path("d/file/s"), "not a directory"),
        (format!("{}#token=abc", path("d/s")), "must not include an inline auth token"),
    ];
    let before = home.snapshot();
    for (socket, why) in &table {
        let ended = home.run(&["serve", "--socket", socket]);
        ended.assert_code(1);
        assert_eq!(ended.stdout, "", "{socket}");
        assert!(
            ended.stderr.to_lowercase().contains(&why.to_lowercase()),
            "{socket}: {why:?} is not in {ended:?}"
        );
        assert!(!ended.stderr.contains("abc"), "the inline token is repeated: {ended:?}");
        assert_eq!(home.snapshot(), before, "{socket}: {ended:?}");
    }
    drop(live);
    // One byte less fits.
    let serve = home.serve(&["--socket", &fill(107)]);
    serve.stop().assert_clean(0);
}

/// Neither a shared directory nor a working directory is to be changed for a socket.
// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn refused_start_suggests_a_private_subdirectory() {
    let home = Home::new();
    let shared = home.private("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let work = home.private("work");
    fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).unwrap();
    for (command, socket) in [("serve", shared.join("s")), ("serve", "s".into()), ("run", "./s".into())] {
        let dir = if socket.is_absolute() { &shared } else { &work };
        let mut start = home.udsmsg(&[command, "--socket", socket.to_str().unwrap()]);
        start.args((command == "run").then_some("true")).current_dir(&work);
        let ended = Process::spawn(start).end();
        let own = dir.join(format!("udsmsg-{}", nix::unistd::geteuid()));
        ended.assert_refused(&format!("mkdir -m 700 {}", own.display()));
        assert!(!ended.stderr.contains("chmod"), "{ended:?}");
        private_dir(&own);
        let serve = home.serve(&["--socket", own.join("s").to_str().unwrap()]);
        serve.stop().assert_clean(0);
    }
}

#[test]
fn every_command_removes_the_address_prefix_once() {
    let home = Home::new();
    let socket = home.socket("d/s");
    let address = format!("uds:{socket}");
    let serve = home.serve(&["--socket", &address]);
    assert_eq!(serve.socket, socket);
    for args in [&["ping", &address][..], &["ping", &socket], &["send", &address, "text", "x"]] {
        home.run(args).assert_code(0);
    }
    home.run_with(&["send", "--ndjson", &address], "{\"type\":\"text\"}\n").assert_code(0);
    // As a parent's address, which the variable may hold in both forms.
    for parent in [&socket, &address] {
        for args in [&["ping"][..], &["send", "text", "x"], &["doctor"]] {
            let mut command = home.udsmsg(args);
            command.env("CLAUDE_CODE_MESSAGING_SOCKET", parent);
            Process::spawn(command).end().assert_code(0);
        }
    }
    serve.stop().assert_clean(0);
    let shell = if cfg!(unix) {
        ["sh", "-c", "echo $CLAUDE_CODE_MESSAGING_SOCKET"]
    } else {
        ["cmd", "/c", "echo %CLAUDE_CODE_MESSAGING_SOCKET%"]
    };
    let ended = home.run(&[&["run", "--socket", &address][..], &shell].concat());
    assert!(ended.assert_code(0).stdout.lines().any(|line| line == socket), "{ended:?}");
    if cfg!(windows) {
        home.run(&["serve", "--socket", &format!("uds:{address}")]).assert_refused("pipe");
        return;
    }
    let twice = home.serve(&["--socket", &format!("uds:{address}")]);
    assert_eq!(twice.socket, address);
    twice.stop().assert_clean(0);
}

#[test]
fn second_start_on_a_live_path_is_refused() {
    let home = Home::new();
    let socket = home.socket("d/s");
    let serve = home.serve(&["--socket", &socket]);
    let token = home.token(&socket);
    let before = home.snapshot();
    for _ in 0..3 {
        let ended = home.run(&["serve", "--socket", &socket]);
        ended.assert_refused("live server");
        assert!(ended.stderr.contains(&serve.pid().to_string()), "{ended:?}");
    }
    assert_eq!(home.snapshot(), before);
    assert_eq!(home.token(&socket), token);
    home.run(&["send", &socket, "text", "still here"]).assert_code(0);
    assert_eq!(serve.stop().assert_clean(0).entries.len(), 1);
}

#[test]
fn start_that_cannot_publish_leaves_no_files() {
    let home = Home::new();
    private_dir(&home.config());
    fs::write(home.capability_dir(), "not a directory").unwrap();
    let socket = home.socket("d/s");
    let before = home.snapshot();
    home.run(&["serve", "--socket", &socket]).assert_refused("messaging-capabilities");
    assert!(home.snapshot().keys().eq(before.keys()));
    let ended = home.run(&["serve"]);
    ended.assert_refused("messaging-capabilities");
    assert!(home.snapshot().keys().eq(before.keys()));
    assert_eq!(fs::read_to_string(home.capability_dir()).unwrap(), "not a directory");
}

#[test]
fn killed_server_is_replaced() {
    let home = Home::new();
    let socket = home.socket("d/s");
    let serve = home.serve(&["--socket", &socket]);
    let token = home.token(&socket);
    serve.kill();
    drop(serve);
    assert!(exists(home.capability_file(&socket)), "a killed server cannot remove anything");
    let ended = home.run(&["send", &socket, "text", "anybody?"]);
    ended.assert_refused(&format!("{socket:?}"));
    let serve = home.serve(&["--socket", &socket]);
    assert_ne!(home.token(&socket), token);
    home.run(&["send", &socket, "text", "hello"]).assert_code(0);
    assert_eq!(serve.stop().assert_clean(0).entries.len(), 1);
}

#[test]
fn impossible_arguments_are_refused() {
    let home = Home::new();
    let table = [
        ("--max-clients=0", 1),
        ("--max-clients=-1", 2),
        ("--max-clients=many", 2),
        ("--max-clients=99999999999999999999999", 2),
        ("--socket=", 1),
    ];
    for (arg, code) in table {
        let ended = home.run(&["serve", arg]);
        ended.assert_code(code);
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{ended:?}");
    }
    for namespace in ["", "Upper", "a/b", "..", "1a"] {
        home.run(&["serve", "--namespace", namespace]).assert_refused("namespace");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn serve_is_one_thread_in_the_started_process() {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

    let home = Home::new();
    let serve = home.serve(&[]);
    let token = home.token(&serve.socket);
    let peer = serve.peer(&token);
    let vouched = getsockopt(peer.stream(), PeerCredentials).unwrap();
    assert_eq!(vouched.pid().to_string(), serve.pid().to_string());
    let file = fs::read_to_string(home.capability_file(&serve.socket)).unwrap();
    let capability: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(capability["pid"], serve.pid());
    let tasks = fs::read_dir(format!("/proc/{}/task", serve.pid())).unwrap().count();
    assert_eq!(tasks, 1, "it is one thread");
    assert!(serve.is_running());

    // Other users can read the arguments, and the environment reaches children.
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", serve.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(&token), "{file}");
    }
    let stopped = serve.stop();
    assert!(!stopped.ended.stdout.contains(&token) && !stopped.ended.stderr.contains(&token));
}

/// The text of another program cannot control the terminal.
// Terminals are those of Unix.
#[cfg(unix)]
#[test]
fn terminal_gets_sentences_unless_json_is_asked_for() {
    use std::io::{BufRead, BufReader};

    for is_json in [false, true] {
        let home = Home::new();
        let pty = nix::pty::openpty(None, None).unwrap();
        let path = home.socket("d/s");
        let mut command = home.serve_command(&["--socket", &path]);
        command.args(is_json.then_some("--json")).stdout(pty.slave).stderr(Stdio::piped());
        let process = Process::spawn_as_is(command, WATCHDOG);
        let mut screen = BufReader::new(fs::File::from(pty.master));
        let mut line = || {
            let mut line = String::new();
            screen.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let first = line();
        let token = home.token(&path);
        Peer::connect(&path, &token).send_text("red \u{1b}[31m\r\nfake \u{202e}");
        let second = line();
        if is_json {
            assert!(first.starts_with(r#"{"event":"listening""#), "{first}");
            assert!(second.starts_with(r#"{"id":"uds-1","message":"#), "{second}");
        } else {
            assert_eq!(first, format!("listening at uds:{path}"));
            assert!(
                second.starts_with("uds-1  text") && second.ends_with(r"[31m\u{d}\u{a}fake \u{202e}"),
                "{second}"
            );
        }
        assert!(!second.contains('\u{1b}'), "{second}");
        process.ask_to_stop();
        process.end().assert_code(0);
    }
}

/// As many messages at once as the inbox holds, so that none may be refused.
#[test]
fn every_message_of_fifty_clients_arrives_exactly_once() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let token = home.token(&serve.socket);
    for round in 0..scale() {
        let clients: Vec<_> = (0..50)
            .map(|client| {
                let (socket, token) = (serve.socket.clone(), token.clone());
                thread::spawn(move || {
                    let mut peer = Peer::connect(&socket, &token);
                    // All messages first, then the end of the input.
                    let names: Vec<String> = (0..20).map(|number| format!("{client}-{number}")).collect();
                    for name in &names {
                        peer.write(&text_line(name));
                    }
                    peer.end_writing();
                    let answers: Vec<(String, String)> = names
                        .into_iter()
                        .map(|name| {
                            let answer: Value = serde_json::from_str(&peer.read()).unwrap();
                            let id = answer["meta"]["id"].as_str();
                            (id.unwrap_or_else(|| panic!("{answer}")).to_owned(), name)
                        })
                        .collect();
                    if cfg!(unix) {
                        assert_eq!(peer.read(), "", "the end comes after the last answer");
                    }
                    answers
                })
            })
            .collect();
        let answered: BTreeMap<String, String> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let printed: Vec<(String, String)> = (0..1_000)
            .map(|_| serve.entry())
            .map(|entry| (entry.id.clone(), entry.json()["data"].as_str().unwrap().to_owned()))
            .collect();
        let in_order: Vec<String> =
            (1..=1_000).map(|number| format!("uds-{}", 1_000 * round + number)).collect();
        assert_eq!(printed.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), in_order);
        assert_eq!(printed.into_iter().collect::<BTreeMap<_, _>>(), answered);
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

/// More messages than one turn handles, and more answers than may be unread.
// A pipe has no half-close.
#[cfg(unix)]
#[test]
fn half_closed_client_gets_every_answer() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let mut peer = serve.peer(&home.token(&serve.socket));
    let mut writer = peer.twin();
    let total = 900;
    let sender = thread::spawn(move || {
        (0..total).for_each(|_| writer.write(&text_line("x")));
        writer.end_writing();
    });
    // Long enough for the server to reach its limit, and then the end of the input.
    thread::sleep(Duration::from_millis(300));
    for number in 1..=total {
        let answer: Value = serde_json::from_str(&peer.read()).unwrap();
        assert_eq!(answer["meta"]["id"], format!("uds-{number}"), "{answer}");
    }
    assert_eq!(peer.read(), "");
    sender.join().unwrap();
    assert_eq!(serve.stop().assert_clean(0).entries.len(), total);
}

/// An owner that drains after every turn has room for every message: no client reads `inbox full`.
#[test]
fn bursts_are_accepted_while_the_owner_drains() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    let token = home.token(&serve.socket);
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let mut peer = serve.peer(&token);
            thread::spawn(move || {
                let line = text_line("x");
                (0..200).for_each(|_| peer.write(&line));
                let answers: Vec<Value> = (0..200)
                    .map(|_| peer.read())
                    .map_while(|answer| serde_json::from_str(&answer).ok())
                    .collect();
                answers.iter().filter(|answer| answer["data"] == "ok").count()
            })
        })
        .collect();
    let accepted: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(accepted, [200; 50]);
}

/// The reader of stdout is behind when the stop begins, and goes on reading.
#[test]
fn slow_reader_gets_every_message_within_the_time_of_a_stop() {
    // Three quarters of the time that a stop has; less where a busy machine alone needs more than the rest.
    let paces = [1_350, 1_000, 500, 0];
    assert!(
        paces.into_iter().map(Duration::from_millis).any(reads_everything),
        "the machine is too busy to tell"
    );
}

/// Reads for `pace` while it stops; false if it took too long to show anything.
fn reads_everything(pace: Duration) -> bool {
    let home = Home::new();
    let mut process = Process::spawn(home.serve_command(&[]));
    let mut out = BufReader::with_capacity(1, process.take_stdout());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    let first: Value = serde_json::from_str(&first).unwrap();
    let socket = first["socket"].as_str().unwrap();
    let line = text_line(&"x".repeat(30_000)).replace("TOKEN", &home.token(socket));
    let mut stream = BufReader::new(system::connect(socket).unwrap());
    let mut accepted = 0;
    loop {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        if !answer.contains("\"ok\"") {
            break;
        }
        accepted += 1;
    }
    drop(stream);
    process.ask_to_stop();
    let begun = Instant::now();
    let bytes = accepted * 30_000;
    let (mut read, mut scrap) = (Vec::new(), vec![0; 16_384]);
    loop {
        let n = out.get_mut().read(&mut scrap).unwrap();
        if n == 0 {
            break;
        }
        read.extend_from_slice(&scrap[..n]);
        let due = pace.mul_f64(read.len() as f64 / bytes as f64);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let took = begun.elapsed();
    let ended = process.end();
    if took > Duration::from_millis(1_800) {
        return false;
    }
    ended.assert_code(0);
    assert_eq!(read.iter().filter(|byte| **byte == b'\n').count(), accepted, "{ended:?}");
    true
}

/// Some readers take a carriage return for the end of a line.
#[test]
fn carriage_return_in_a_message_is_printed_as_a_space() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let mut peer = serve.peer(&home.token(&serve.socket));
    peer.ask("{\"type\":\"text\",\"x\":\r{\"a\":\"\\r\"}\r,\"meta\":{\"authToken\":\"TOKEN\"}}");
    let line = serve.line();
    assert!(!line.contains('\r'), "{line:?}");
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["message"], json!({"type": "text", "x": {"a": "\r"}}));
    serve.stop().assert_clean(0);
}

/// The parent process may have blocked the signals that stop `serve`.
// Windows has no signals.
#[cfg(unix)]
#[test]
fn inherited_blocked_signals_stop_serve() {
    const BLOCK: &str = "\
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
";
    let home = Home::new();
    let mut command = home.command("python3");
    command.args(["-c", BLOCK, env!("CARGO_BIN_EXE_udsmsg"), "serve"]);
    Serve::start(command).stop().assert_clean(0);
}

#[test]
fn empty_path_is_refused() {
    let home = Home::new();
    home.run(&["serve", "--socket", ""]).assert_refused("empty");
}

/// More signals than one turn takes must not leave the loop awake for ever.
// Windows has no signals.
#[cfg(unix)]
#[test]
fn burst_of_signals_does_not_keep_serve_awake() {
    let home = Home::new();
    let mut command = home.serve_command(&[]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut serve = Process::spawn_as_is(command, WATCHDOG);
    let mut stdout = BufReader::new(serve.take_stdout());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    let burst = Instant::now();
    while burst.elapsed() < Duration::from_millis(500) {
        serve.ask_for_summary();
    }
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", serve.pid())).unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    };
    // On a busy machine the last of them are taken later.
    let spent = |_| {
        let before = cpu();
        thread::sleep(Duration::from_millis(400));
        cpu() - before
    };
    let least = (0..20).map(spent).find(|spent| *spent < Duration::from_millis(100));
    assert!(least.is_some(), "awake with nothing to do");
    serve.ask_to_stop();
    assert!(serve.end().status.success());
}

/// What stands in for signals, at the edges.
#[cfg(windows)]
#[test]
fn other_lines_on_stdin_are_complaints_and_its_end_means_nothing() {
    let home = Home::new();
    let mut serve = home.serve(&["--no-drain"]);
    let mut peer = serve.peer(&home.token(&serve.socket));
    peer.send_text("one");
    let mut stdin = serve.take_stdin();
    stdin.write_all(format!("DRAIN\n\n{}\n drain ", "drain".repeat(100)).as_bytes()).unwrap();
    // The last line needs no newline.
    drop(stdin);
    assert_eq!(serve.entry().id, "uds-1");
    peer.ping();
    assert!(serve.is_running());
    let stopped = serve.stop();
    let complaints = stopped.assert_clean(0).ended.stderr.matches("neither `drain` nor `stats`").count();
    assert_eq!(complaints, 2, "{stopped:?}");
}
