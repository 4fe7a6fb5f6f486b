//! `udsmsg send --wait-reply`: a question, and the message that answers it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[cfg(unix)]
use crate::interop::node_server;
use crate::system::{self, NOWHERE};
use crate::util::{Home, Process, WATCHDOG, exists};

// Node for Windows is not here.
#[cfg(unix)]
#[test]
fn question_prints_the_answer_of_a_node_server() {
    let home = Home::new();
    let mut theirs = node_server(&home);
    let socket = theirs.socket.clone();
    let before = home.traces();
    for question in ["what?", "zażółć 🎉"] {
        let ended = home.run(&["send", "--wait-reply", &socket, "query", question]);
        let answer: Value = serde_json::from_str(&ended.assert_code(0).stdout).unwrap();
        assert_eq!(ended.stderr, "");
        let asked: Value = serde_json::from_str(&theirs.line()).unwrap();
        let asked = &asked["message"];
        assert_eq!((&asked["type"], &asked["data"]), (&json!("query"), &json!(question)));
        assert_eq!((&answer["type"], &answer["data"]), (&json!("response"), &json!(question.to_uppercase())));
        assert_eq!(answer["meta"], json!({"inReplyTo": asked["meta"]["queryId"], "hops": 1}));
        // The inbox existed until the answer had its acknowledgement.
        let acknowledged: Value = serde_json::from_str(&theirs.line()).unwrap();
        assert_eq!(acknowledged["told"]["data"], "ok", "{acknowledged}");
        assert!(!exists(asked["from"].as_str().unwrap()));
    }
    assert_eq!(home.traces(), before);
}

#[test]
fn question_without_an_answer_times_out_and_leaves_no_files() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let before = home.traces();
    let begun = Instant::now();
    let ended = home.run(&["send", "--wait-reply", "--timeout", "3", &serve.socket, "query", "?"]);
    let took = begun.elapsed();
    ended.assert_refused("no answer came within 3 s; the question was accepted as uds-1");
    assert!(took >= Duration::from_secs(3), "{took:?}");
    let message = serve.entry().json();
    assert!(message["meta"]["queryId"].is_string() && message["from"].is_string(), "{message}");
    assert_eq!(home.traces(), before);

    let ended = home.run(&["send", "--wait-reply", NOWHERE, "query", "?"]);
    ended.assert_refused("Cannot send UDS message without auth token");
    assert_eq!(home.traces(), before);
    serve.stop().assert_clean(0);
}

/// No inbox is made for the answer to a question that cannot be asked.
#[test]
fn question_to_a_target_without_a_capability_makes_no_files() {
    let home = Home::new();
    let before = home.snapshot();
    let ended = home.run(&["send", "--wait-reply", NOWHERE, "query", "?"]);
    ended.assert_refused("Cannot send UDS message without auth token");
    let long = format!("{NOWHERE}{}", "x".repeat(300));
    home.run(&["send", "--wait-reply", &long, "query", "?"]).assert_refused(&long.len().to_string());
    assert_eq!(home.snapshot(), before);
}

#[test]
fn unrelated_message_is_dropped_and_a_signal_ends_the_wait() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let before = home.traces();
    let process =
        Process::spawn(home.udsmsg(&["send", "--wait-reply", "--timeout=50", &serve.socket, "query", "?"]));
    let asker = serve.entry().json()["from"].as_str().unwrap().to_owned();
    home.run(&["send", &asker, "response", "of my own accord"]).assert_code(0);
    assert!(process.is_running());
    process.ask_to_stop();
    let begun = Instant::now();
    let ended = process.end();
    assert!(system::is_stopped(ended.status) && ended.stdout.is_empty(), "{ended:?}");
    assert!(ended.stderr.contains("interrupted; the question was accepted as uds-1"), "{ended:?}");
    assert!(ended.stderr.contains("no answer; it is dropped"), "{ended:?}");
    assert!(begun.elapsed() < WATCHDOG / 4);
    assert_eq!(home.traces(), before);
    serve.stop().assert_clean(0);
}

/// An answer that was acknowledged is printed, even if the stop afterwards fails.
// A pipe stands in no directory, so no lock delays a stop.
#[cfg(unix)]
#[test]
fn answer_is_printed_even_if_the_stop_fails() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let process =
        Process::spawn(home.udsmsg(&["send", "--wait-reply", "--timeout=50", &serve.socket, "query", "?"]));
    let question = serve.entry().json();
    let asker = question["from"].as_str().unwrap();
    // The stop needs the lock on the directory to remove its files, and this test holds it.
    let lock = fs::File::open(Path::new(asker).parent().unwrap()).unwrap();
    lock.lock().unwrap();
    let meta = json!({"authToken": home.token(asker), "inReplyTo": question["meta"]["queryId"]});
    let mut stream = system::connect(asker).unwrap();
    writeln!(stream, "{}", json!({"type": "response", "data": "yes", "meta": meta})).unwrap();
    let ended = process.end();
    assert!(ended.stdout.contains("\"yes\""), "{ended:?}");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("try again"), "{ended:?}");
    drop(lock);
    serve.stop().assert_clean(0);
}
