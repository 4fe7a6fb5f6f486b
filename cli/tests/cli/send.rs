//! `udsmsg send` and `udsmsg ping` by their contract, with a real server and with scripted ones.

use std::fs;
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::system::{NOWHERE, Stream};
use crate::util::{FRAME_BYTES_MAX, Fake, Home, Process, empty_text_len, read_line, read_to_end};

const OK: &str = r#"{"type":"response","data":"ok","ts":"2026-11-22T10:00:00.000Z","meta":{"id":"far-7"}}"#;

#[test]
fn data_arrives_unchanged() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let uds = format!("uds:{}", serve.socket);
    let table: [(&[&str], &str, &str); 23] = [
        (&["text", "hello"], "text", "hello"),
        (&["text", ""], "text", ""),
        (&["text", " "], "text", " "),
        (&["text", "-"], "text", "-"),
        (&["text", "-x"], "text", "-x"),
        (&["text", "-1"], "text", "-1"),
        (&["text", "-h"], "text", "-h"),
        (&["text", "-V"], "text", "-V"),
        (&["text", "--"], "text", "--"),
        (&["text", "--json"], "text", "--json"),
        (&["text", "--help"], "text", "--help"),
        (&["text", "--version"], "text", "--version"),
        (&["text", "--namespace"], "text", "--namespace"),
        (&["text", "--namespace=x"], "text", "--namespace=x"),
        (&["text", "--no-such-flag"], "text", "--no-such-flag"),
        (&["text", "--", "--help"], "text", "--help"),
        (&["text", "help"], "text", "help"),
        (&["text", "zażółć gęślą jaźń 日本語 🎉"], "text", "zażółć gęślą jaźń 日本語 🎉"),
        (
            &["text", "two\nlines\r\n\ttab \u{1} \u{7f} \u{2028} \"quoted\" back\\slash"],
            "text",
            "two\nlines\r\n\ttab \u{1} \u{7f} \u{2028} \"quoted\" back\\slash",
        ),
        (&["notification", "{\"json\":1e400}"], "notification", "{\"json\":1e400}"),
        (&["query", "?"], "query", "?"),
        (&["x-own/ünïcode", "own types pass"], "x-own/ünïcode", "own types pass"),
        (&["", "even none"], "", "even none"),
    ];
    for (number, (words, kind, data)) in table.into_iter().enumerate() {
        // With and without the prefix, in turn.
        let target = if number % 2 == 0 { &serve.socket } else { &uds };
        let mut args = vec!["send", target];
        args.extend(words);
        let ended = home.run(&args);
        ended.assert_code(0);
        let id = format!("uds-{}", number + 1);
        let receipt: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{words:?}: {ended:?}"));
        assert_eq!((&receipt["event"], &receipt["id"]), (&json!("accepted"), &json!(id)), "{words:?}");
        assert_eq!((ended.stdout.lines().count(), ended.stderr.as_str()), (1, ""), "{words:?}");
        let entry = serve.entry();
        assert_eq!(entry.id, id);
        let message = entry.json();
        assert_eq!((&message["type"], &message["data"]), (&json!(kind), &json!(data)));
        // There is no `from` that was not asked for, and `meta` is removed with the token.
        let keys: Vec<&str> = message.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["data", "ts", "type"]);
        assert_ts(message["ts"].as_str().unwrap());
    }
    serve.stop().assert_clean(0);
}

/// RFC 3339 in UTC with milliseconds.
#[track_caller]
fn assert_ts(ts: &str) {
    let shape: String = ts.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{ts}");
}

/// Everything else ends with another exit status.
#[test]
fn only_a_delivery_or_a_request_for_help_exits_with_0() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let socket = &serve.socket;
    let table: [(&[&str], i32); 13] = [
        (&["--help"], 0),
        (&["send", "--help"], 0),
        (&["ping", "-h"], 0),
        (&["--version"], 0),
        (&[], 2),
        (&["send"], 2),
        (&["send", socket], 2),
        (&["send", socket, "text"], 2),
        (&["send", socket, "text", "two", "words"], 2),
        (&["send", socket, "text", "--", "two", "words"], 2),
        (&["send", socket, "text", "--", "--", "x"], 2),
        (&["ping"], 2),
        (&["ping", socket, "x"], 2),
    ];
    for (args, code) in table {
        let ended = home.run(args);
        ended.assert_code(code);
        assert_eq!(ended.stdout.is_empty(), code != 0, "{args:?}: {ended:?}");
        assert_eq!(ended.stderr.is_empty(), code == 0, "{args:?}: {ended:?}");
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

// A command line of Windows has no room for that; `--stdin` is tested everywhere.
#[cfg(unix)]
#[test]
fn data_up_to_the_frame_limit_is_sent() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let room = FRAME_BYTES_MAX - empty_text_len();
    home.run(&["send", &serve.socket, "text", &"x".repeat(room)]).assert_code(0);
    assert_eq!(serve.entry().json()["data"].as_str().unwrap().len(), room);
    // The limit counts bytes, not characters, and escapes as they are written.
    let (one_more, wide, far) = (room + 1, room / 2 + 1, 120_000);
    for (data, len) in [
        ("x".repeat(one_more), empty_text_len() + one_more),
        ("ü".repeat(wide), empty_text_len() + 2 * wide),
        ("\"".repeat(wide), empty_text_len() + 2 * wide),
        ("x".repeat(far), empty_text_len() + far),
    ] {
        let ended = home.run(&["send", &serve.socket, "text", &data]);
        ended.assert_refused(&len.to_string());
        ended.assert_refused(&FRAME_BYTES_MAX.to_string());
        ended.assert_refused("not sent");
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

#[test]
fn ping_leaves_the_inbox_empty() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    for target in [serve.socket.clone(), format!("uds:{}", serve.socket)] {
        let ended = home.run(&["ping", &target]);
        let pong: Value = serde_json::from_str(&ended.assert_code(0).stdout).unwrap();
        assert_eq!((&pong["event"], &pong["socket"]), (&json!("pong"), &json!(serve.socket)));
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

#[test]
fn invalid_targets_are_refused() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let socket = &serve.socket;
    let long = format!("{NOWHERE}{}", "x".repeat(300));
    let mut table = vec![
        (format!("{socket}#token=secret"), "must not include an inline auth token"),
        (format!("uds:{socket}#token=secret"), "must not include an inline auth token"),
        ("#token=secret".to_owned(), "must not include an inline auth token"),
        (String::new(), "empty"),
        ("uds:".to_owned(), "empty"),
        // Exactly one `uds:` is taken off.
        (format!("uds:uds:{socket}"), if cfg!(unix) { "without auth token" } else { "pipe" }),
        (long.clone(), "at most"),
    ];
    if cfg!(unix) {
        table.push((format!("/tmp/{}", "x".repeat(103)), "108 bytes"));
        // A path is taken as it is given.
        table.push((socket.replacen("/t/", "//t/", 1), "Cannot send UDS message without auth token"));
    } else {
        for target in [r"\\host\pipe\x", r"C:\pipe\x", r"\\.\pipe\a\b", r"\\?\pipe\x", "s"] {
            table.push((target.to_owned(), "pipe"));
        }
    }
    for (target, why) in table {
        for args in [&["send", &target, "text", "x"][..], &["ping", &target]] {
            let ended = home.run(args);
            ended.assert_refused(why);
            assert!(!ended.stderr.contains("secret"), "{ended:?}");
        }
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

#[test]
fn invalid_capability_prevents_a_connection() {
    let home = Home::new();
    let fake = Fake::start(&home, |stream, _, _| drop(stream));
    let token = "ab".repeat(32);
    let good = json!({"socketPath": fake.socket, "authToken": token}).to_string();
    let file = home.capability_file(&fake.socket);
    let padded = |len: usize| format!("{good}{}", " ".repeat(len - good.len()));
    type Prepare<'a> = &'a dyn Fn();
    let write = |contents: &str| home.write_capability(&fake.socket, contents);
    let table: &[(&str, Prepare<'_>)] = &[
        ("no directory", &|| {}),
        ("no file", &|| write("")),
        ("no object", &|| write(&format!("\"{token}\""))),
        ("half a file", &|| write(good.strip_suffix('}').unwrap())),
        ("another path", &|| write(&good.replace("s\"}", "t\"}"))),
        ("no token", &|| write(&good.replace("authToken", "token"))),
        ("no hex digits", &|| write(&good.replace(&token, &"zz".repeat(32)))),
        ("too short a token", &|| write(&good.replace(&token, &"ab".repeat(31)))),
        #[cfg(unix)]
        ("readable for the group", &|| {
            write(&good);
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("4,097 bytes", &|| write(&padded(4_097))),
        #[cfg(unix)]
        ("a link", &|| symlink(home.path().join("real"), &file).unwrap()),
        #[cfg(unix)]
        ("a FIFO", &|| {
            nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap()
        }),
    ];
    for (name, prepare) in table {
        prepare();
        if *name == "no file" {
            fs::remove_file(&file).unwrap();
        }
        for args in [&["send", &fake.socket, "text", "x"][..], &["ping", &fake.socket]] {
            let ended = home.run(args);
            assert!(
                ended.stderr.starts_with("Cannot send UDS message without auth token"),
                "{name}: {ended:?}"
            );
            ended.assert_refused("Cannot send UDS message without auth token");
            assert!(!ended.stderr.contains(&token), "{name}: {ended:?}");
        }
        // The target of the link is a valid file.
        fs::write(home.path().join("real"), &good).unwrap();
        let _ = fs::remove_file(&file);
    }
    assert_eq!(fake.connections(), 0);
    // Unknown keys are ignored, and 4 KiB are allowed.
    let more = good.replacen('{', r#"{"pid":"none","more":[1],"#, 1);
    write(&format!("{more}{}", " ".repeat(4_096 - more.len())));
    home.run(&["ping", &fake.socket]).assert_refused("UDS socket ended before response");
    assert_eq!(fake.connections(), 1);
}

/// A name, what a scripted server writes after it has read the message, and the result of the command: the id
/// of its receipt, or the text on stderr.
type Scripted = (&'static str, Vec<u8>, Result<Value, &'static str>);

fn scripts() -> Vec<Scripted> {
    let line = |text: &str| format!("{text}\n").into_bytes();
    let mut at_limit = r#"{"type":"response","data":""#.to_owned();
    at_limit.push_str(&"x".repeat(FRAME_BYTES_MAX - at_limit.len() - 2));
    at_limit.push_str("\"}");
    assert_eq!(at_limit.len(), FRAME_BYTES_MAX);
    let long = "x".repeat(FRAME_BYTES_MAX + 1);
    vec![
        ("a receipt", line(OK), Ok(json!("far-7"))),
        ("a receipt without an id", line(r#"{"type":"response"}"#), Ok(Value::Null)),
        ("an id that is no text", line(r#"{"type":"response","meta":{"id":7}}"#), Ok(Value::Null)),
        ("a receipt with \\r\\n", line(&format!("{OK}\r")), Ok(json!("far-7"))),
        ("a pong", line(r#"{"type":"pong","from":"/x"}"#), Ok(Value::Null)),
        ("blank lines first", line(&format!("\n \t\r\n{OK}")), Ok(json!("far-7"))),
        (
            "other types first",
            line(&format!("{{\"type\":\"text\"}}\n{{}}\n{{\"type\":3}}\n{OK}")),
            Ok(json!("far-7")),
        ),
        ("an error behind the receipt", line(&format!("{OK}\n{{\"type\":\"error\"}}")), Ok(json!("far-7"))),
        ("escaped keys", line(r#"{"\u0074ype":"r\u0065sponse"}"#), Ok(Value::Null)),
        ("a line at the limit", line(&at_limit), Ok(Value::Null)),
        ("an error with data", line(r#"{"type":"error","data":"inbox full"}"#), Err("inbox full")),
        ("an error of its own", line(r#"{"type":"error","data":"no, thank you"}"#), Err("no, thank you")),
        (
            "an error with other data",
            line(r#"{"type":"error","data":{"code":1e400}}"#),
            Err(r#"{"code":1e400}"#),
        ),
        ("an error without data", line(r#"{"type":"error"}"#), Err("UDS receiver rejected message")),
        ("an error with null", line(r#"{"type":"error","data":null}"#), Err("UDS receiver rejected message")),
        (
            "an error with nothing",
            line(r#"{"type":"error","data":""}"#),
            Err("UDS receiver rejected message"),
        ),
        (
            "an error before the receipt",
            line(&format!("{{\"type\":\"error\"}}\n{OK}")),
            Err("UDS receiver rejected message"),
        ),
        ("no JSON", line("HTTP/1.1 400 Bad Request"), Err("Invalid UDS response frame")),
        ("no object", line("[1]"), Err("Invalid UDS response frame")),
        ("a text", line(r#""response""#), Err("Invalid UDS response frame")),
        ("null", line("null"), Err("Invalid UDS response frame")),
        ("half an object", line(r#"{"type":"response""#), Err("Invalid UDS response frame")),
        (
            "no UTF-8",
            b"{\"type\":\"response\",\"data\":\"\xff\"}\n".to_vec(),
            Err("Invalid UDS response frame"),
        ),
        ("a line over the limit", line(&long), Err("UDS response frame exceeded size limit")),
        ("a tail over the limit", long.clone().into_bytes(), Err("UDS response frame exceeded size limit")),
        ("an end", Vec::new(), Err("UDS socket ended before response")),
        ("an end in the middle", OK.as_bytes().to_vec(), Err("UDS socket ended before response")),
        ("an end behind others", line(r#"{"type":"text"}"#), Err("UDS socket ended before response")),
    ]
}

#[test]
fn answer_decides_receipt_reason_and_status() {
    for verb in ["send", "ping"] {
        for (name, answer, expected) in scripts() {
            let home = Home::new();
            let fake = Fake::start(&home, move |mut stream, _, received| {
                let _ = received.send(read_line(&stream));
                let _ = stream.write_all(&answer);
            });
            let token = home.publish(&fake.socket);
            let args = ["send", &fake.socket, "text", "x"];
            let ended = if verb == "send" { home.run(&args) } else { home.run(&["ping", &fake.socket]) };
            match expected {
                Ok(id) => {
                    ended.assert_code(0);
                    assert_eq!(ended.stderr, "", "{verb}: {name}");
                    let receipt: Value = serde_json::from_str(&ended.stdout).unwrap();
                    if verb == "send" {
                        assert_eq!(receipt["id"], id, "{name}: {ended:?}");
                    }
                }
                Err(text) => {
                    assert!(
                        ended.stderr.starts_with(text),
                        "{verb}: {name}: {text:?} does not begin {ended:?}"
                    );
                    ended.assert_refused(text);
                }
            }
            assert!(!ended.stdout.contains(&token) && !ended.stderr.contains(&token), "{verb}: {name}");
            assert_eq!(fake.connections(), 1, "{verb}: {name}");

            // What went out, key by key.
            let sent = fake.received();
            let message: Value = serde_json::from_str(&sent).unwrap();
            assert_ts(message["ts"].as_str().unwrap());
            let ts = &message["ts"];
            let expected = match verb {
                "send" => {
                    format!(r#"{{"type":"text","data":"x","ts":{ts},"meta":{{"authToken":"{token}"}}}}"#)
                }
                _ => format!(r#"{{"type":"ping","ts":{ts},"meta":{{"authToken":"{token}"}}}}"#),
            };
            assert_eq!(sent, expected);
        }
    }
}

#[test]
fn answer_sent_byte_by_byte_is_read() {
    let home = Home::new();
    let fake = Fake::start(&home, |mut stream, _, _| {
        read_line(&stream);
        for byte in format!("{{\"type\":\"text\"}}\n{OK}\n").bytes() {
            stream.write_all(&[byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    home.publish(&fake.socket);
    let ended = home.run(&["send", &fake.socket, "text", "x"]);
    assert!(ended.assert_code(0).stdout.contains("far-7"));
}

#[test]
fn full_server_is_tried_again() {
    for reads_first in [false, true] {
        let home = Home::new();
        let fake = Fake::start(&home, move |mut stream, number, _| {
            if reads_first || number == 3 {
                read_line(&stream);
            }
            let answer = if number < 3 { r#"{"type":"error","data":"too many clients"}"# } else { OK };
            let _ = stream.write_all(format!("{answer}\n").as_bytes());
        });
        home.publish(&fake.socket);
        let ended = home.run(&["send", &fake.socket, "text", "x"]);
        assert!(ended.assert_code(0).stdout.contains("far-7"));
        assert_eq!(fake.connections(), 4);
    }
}

/// The server refuses with a reason before it has read the message, which is larger than a socket buffer.
#[test]
fn refusal_in_the_middle_of_a_message_is_reported() {
    let home = Home::new();
    let fake = Fake::start(&home, |mut stream, _, _| {
        let _ = stream.write_all(b"{\"type\":\"error\",\"data\":\"authentication timeout\"}\n");
    });
    home.publish(&fake.socket);
    for data in ["x", &"x".repeat(60_000)] {
        let ended = home.run(&["send", &fake.socket, "text", data]);
        ended.assert_refused("authentication timeout");
    }
}

/// All cases that need the whole time, at the same time.
#[test]
fn commands_time_out_after_five_seconds() {
    type Script = fn(Stream, usize);
    let silent: Script = |stream, _| read_to_end(&stream);
    let chatty: Script = |mut stream, _| {
        read_line(&stream);
        while stream.write_all(b"{\"type\":\"text\"}\n").is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
    };
    let full: Script = |mut stream, _| {
        let _ = stream.write_all(b"{\"type\":\"error\",\"data\":\"too many clients\"}\n");
    };
    let table: [(&str, Script, &str, &str); 4] = [
        ("silence", silent, "send", "Connection timed out"),
        ("silence", silent, "ping", "Connection timed out"),
        ("other types for ever", chatty, "send", "Connection timed out"),
        ("full for ever", full, "send", "too many clients"),
    ];
    thread::scope(|scope| {
        // On Windows the refusal is read after the line was written, because the queue reads ahead: a deadline in
        // between makes it "unknown".
        let rows = table.into_iter().filter(|(name, ..)| !cfg!(windows) || *name != "full for ever");
        for (name, script, verb, text) in rows {
            scope.spawn(move || {
                let home = Home::new();
                let fake = Fake::start(&home, move |stream, number, _| script(stream, number));
                home.publish(&fake.socket);
                let begun = Instant::now();
                let args = [verb, &fake.socket, "text", "x"];
                let ended = home.run(if verb == "ping" { args.get(..2).unwrap() } else { &args });
                let took = begun.elapsed();
                assert!(ended.stderr.starts_with(text), "{verb} {name}: {ended:?}");
                ended.assert_refused(text);
                let generous = Duration::from_millis(4_500)..Duration::from_secs(30);
                assert!(generous.contains(&took), "{verb} {name} took {took:?}");
                // Only a message that certainly has not arrived is called "not sent".
                assert_eq!(ended.stderr.contains("not sent"), text == "too many clients", "{ended:?}");
            });
        }
    });
}

/// The text of another program cannot control the terminal.
#[test]
fn refusal_reasons_are_escaped() {
    let home = Home::new();
    let fake = Fake::start(&home, |mut stream, _, _| {
        read_line(&stream);
        let _ = stream.write_all(br#"{"type":"error","data":"\u001b[2Jgone\r\nfine\u202e\u0000"}"#);
        let _ = stream.write_all(b"\n");
    });
    home.publish(&fake.socket);
    let ended = home.run(&["send", &fake.socket, "text", "x"]);
    ended.assert_code(1);
    let line = ended.stderr.strip_suffix('\n').unwrap();
    assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{ended:?}");
    assert!(line.contains("gone") && line.contains("fine"), "{ended:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn token_is_not_in_arguments_environment_or_output() {
    let home = Home::new();
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let fake = Fake::start(&home, move |mut stream, _, received| {
        let _ = received.send(read_line(&stream));
        let _ = held.lock().unwrap().recv();
        let _ = stream.write_all(format!("{OK}\n").as_bytes());
    });
    let token = home.publish(&fake.socket);
    let process = Process::spawn(home.udsmsg(&["send", &fake.socket, "text", "x"]));
    assert!(fake.received().contains(&token));
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", process.pid())).unwrap();
        assert!(!bytes.is_empty() && !String::from_utf8_lossy(&bytes).contains(&token), "{file}");
    }
    let_go.send(()).unwrap();
    let ended = process.end();
    ended.assert_code(0);
    assert!(!ended.stdout.contains(&token) && !ended.stderr.contains(&token), "{ended:?}");
}

/// A target that cannot be reached leaves no files.
#[test]
fn client_makes_no_files() {
    let home = Home::new();
    let before = home.snapshot();
    home.run(&["send", &format!("uds:{NOWHERE}"), "text", "x"]).assert_code(1);
    home.run(&["ping", NOWHERE]).assert_code(1);
    assert_eq!(home.snapshot(), before);
    assert!(!Path::new(&home.config()).exists());
}
