//! Text of another program on a terminal: no command lets it control the terminal or hide text.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::util::{CONTROLS, Ended, Fake, Home, Process, WATCHDOG, read_line};

fn controls() -> String {
    CONTROLS.iter().collect()
}

/// Runs `udsmsg` with stdout and stderr on one terminal; what the terminal shows, with plain line ends.
fn shown(home: &Home, args: &[&str]) -> (Ended, String) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = home.udsmsg(args);
    command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave).stdin(Stdio::null());
    let process = Process::spawn_as_is(command, WATCHDOG);
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let mut screen = File::from(pty.master);
    // The end of a terminal is read as an error.
    while let Ok(n @ 1..) = screen.read(&mut chunk) {
        bytes.extend(&chunk[..n]);
    }
    (process.end(), String::from_utf8(bytes).unwrap().replace("\r\n", "\n"))
}

#[track_caller]
fn assert_harmless(what: &str, text: &str, must_show: &str) {
    assert!(!text.contains(CONTROLS), "{what}: {text:?}");
    assert!(text.contains(must_show), "{what}: {must_show:?} is not in {text:?}");
}

#[test]
fn receipts_and_pongs_are_escaped() {
    let home = Home::new();
    let fake = Fake::start(&home, |mut stream, _, _| {
        read_line(&stream);
        let answer =
            json!({"type": "response", "data": "ok", "meta": {"id": format!("uds-{}-1", controls())}});
        let _ = writeln!(stream, "{answer}");
    });
    home.publish(&fake.socket);
    let commands: [&[&str]; 4] = [
        &["send", &fake.socket, "text", "x"],
        &["send", "--json", &fake.socket, "text", "x"],
        &["ping", &fake.socket],
        &["ping", "--count=2", "--interval=0", &fake.socket],
    ];
    for args in commands {
        let (ended, text) = shown(&home, args);
        ended.assert_code(0);
        assert_harmless(&format!("{args:?}"), &text, if args[0] == "send" { "uds-" } else { "pong" });
    }
    // The reason of a refusal comes from another program too.
    let fake = Fake::start_at(&home, "refusing", |mut stream, _, _| {
        read_line(&stream);
        let _ = writeln!(stream, "{}", json!({"type": "error", "data": format!("no{}way", controls())}));
    });
    home.publish(&fake.socket);
    for args in [
        &["send", &fake.socket, "text", "x"][..],
        &["ping", &fake.socket],
        &["ping", "--count=2", "--interval=0", &fake.socket],
    ] {
        let (ended, text) = shown(&home, args);
        ended.assert_code(1);
        assert_harmless(&format!("{args:?}"), &text, "way");
    }
}

#[test]
fn lists_of_peers_and_files_are_escaped() {
    let home = Home::new();
    // No directory has such a name: the path is only printed.
    home.publish(&format!("{}/{}x", home.path().display(), controls()));
    for args in [
        &["peers"][..],
        &["peers", "--json"],
        &["sweep"],
        &["sweep", "--json"],
        &["doctor"],
        &["doctor", "--json"],
    ] {
        let (_, text) = shown(&home, args);
        assert_harmless(&format!("{args:?}"), &text, if args[0] == "doctor" { "capabilities" } else { "/" });
        if args.contains(&"--json") {
            for line in text.lines() {
                let _: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            }
        }
    }
}

/// The line that arrives has white space that JSON allows and terminals obey; the line that is printed has
/// none.
#[test]
fn answer_to_a_question_is_one_escaped_line() {
    for (is_terminal, json) in [(true, true), (true, false), (false, false)] {
        let home = Home::new();
        let mut serve = home.serve(&[]);
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut command = home.udsmsg(&["send", "--wait-reply", "--timeout=15"]);
        command.args(json.then_some("--json")).args([&serve.socket, "query", "?"]).stderr(Stdio::piped());
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut screen = File::from(pty.master);
        if is_terminal {
            command.stdout(pty.slave);
        } else {
            command.stdout(writer);
        }
        let process = Process::spawn_as_is(command, WATCHDOG);
        let question = serve.entry().json();
        let asker = question["from"].as_str().unwrap();
        let data = format!("yes{}no", controls());
        let meta = json!({"authToken": home.token(asker), "inReplyTo": question["meta"]["queryId"]});
        // Unescaped where JSON allows it: everything except the control characters below U+0020.
        let line = format!("{{\r\"type\":\r\"response\",\r\"data\":{},\"meta\":{meta}\r}}\n", json!(data));
        let mut peer = UnixStream::connect(asker).unwrap();
        peer.write_all(line.as_bytes()).unwrap();
        let ended = process.end();
        ended.assert_code(0);
        let mut bytes = Vec::new();
        if is_terminal {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut chunk) {
                bytes.extend(&chunk[..n]);
            }
        } else {
            reader.read_to_end(&mut bytes).unwrap();
        }
        let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
        assert_eq!(text.lines().count(), 1, "{text:?}");
        if is_terminal {
            assert_harmless("the answer", &text, "yes");
        } else {
            // For a program too, control characters are escaped.
            assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
        }
        if json || !is_terminal {
            let answer: Value = serde_json::from_str(text.trim_end()).unwrap();
            assert_eq!(answer["data"], data.as_str());
        }
        serve.stop().assert_clean(0);
    }
}
