//! What a command prints before a signal ends it, and that the signal does end it: a shell that runs commands
//! in a loop leaves the loop if SIGINT ended one, and goes on if it exited.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::util::{Ended, Fake, Home, Peer, Process, WATCHDOG, exists, full_pipe, read_line, read_to_end};

const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

#[track_caller]
fn assert_ended_by(signal: Signal, ended: &Ended) {
    assert_eq!(ended.status.signal(), Some(signal as i32), "{ended:?}");
}

fn last_line(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{text:?}"))).unwrap()
}

#[test]
fn interrupted_ping_prints_its_summary_and_ends_by_the_signal() {
    for signal in ENDING {
        // The signal comes while `ping` waits for the third answer, or between two questions.
        for answers in [2, usize::MAX] {
            let home = Home::new();
            let fake = Fake::start(&home, move |mut stream, _, _| {
                for _ in 0..answers {
                    if read_line(&stream).is_empty() || stream.write_all(b"{\"type\":\"pong\"}\n").is_err() {
                        return;
                    }
                }
                read_to_end(&stream);
            });
            home.publish(&fake.socket);
            let interval = if answers == 2 { "--interval=0" } else { "--interval=3600" };
            let mut process = Process::spawn(home.udsmsg(&[
                "ping",
                "--count=1000",
                interval,
                "--timeout=3600",
                &fake.socket,
            ]));
            let mut out = BufReader::new(process.take_stdout());
            let pongs = answers.min(2).min(if answers == 2 { 2 } else { 1 });
            for _ in 0..pongs {
                out.read_line(&mut String::new()).unwrap();
            }
            process.signal(signal);
            let rest: Vec<String> = out.lines().map(Result::unwrap).collect();
            let ended = process.end();
            assert_ended_by(signal, &ended);
            assert_eq!(rest.len(), 1, "{rest:?}");
            let summary = last_line(&rest[0]);
            assert_eq!(
                (&summary["event"], &summary["received"]),
                (&json!("summary"), &json!(pongs)),
                "{rest:?}"
            );
        }
    }
}

#[test]
fn interrupted_ndjson_reports_each_line_and_ends_by_the_signal() {
    for signal in ENDING {
        let home = Home::new();
        let fake = Fake::start(&home, |mut stream, _, received| {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for number in 0..3 {
                let Some(Ok(line)) = lines.next() else { return };
                received.send(line).unwrap();
                if number == 0 {
                    stream
                        .write_all(b"{\"type\":\"response\",\"data\":\"ok\",\"meta\":{\"id\":\"uds-1\"}}\n")
                        .unwrap();
                }
            }
            read_to_end(&stream);
        });
        home.publish(&fake.socket);
        let mut command = home.udsmsg(&["send", "--ndjson", "--timeout=3600", &fake.socket]);
        command.stdin(Stdio::piped());
        let mut process = Process::spawn(command);
        let mut input = process.take_stdin();
        let mut out = BufReader::new(process.take_stdout());
        let mut first = String::new();
        let line = |number: u32| format!("{{\"type\":\"text\",\"data\":\"{number}\"}}\n");
        input.write_all(line(1).as_bytes()).unwrap();
        out.read_line(&mut first).unwrap();
        // In one write, so that both are on their way.
        input.write_all((line(2) + &line(3)).as_bytes()).unwrap();
        for number in 1..=3 {
            assert!(fake.received().contains(&format!("\"{number}\"")));
        }
        process.signal(signal);
        let mut printed = first;
        out.read_to_string(&mut printed).unwrap();
        let ended = process.end();
        assert_ended_by(signal, &ended);
        let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let reported: Vec<(&str, u64)> =
            lines.iter().filter_map(|line| Some((line["event"].as_str()?, line["line"].as_u64()?))).collect();
        assert_eq!(reported, [("accepted", 1), ("unknown", 2), ("unknown", 3)], "{ended:?}");
        let summary = last_line(&printed);
        assert_eq!((&summary["accepted"], &summary["unknown"]), (&json!(1), &json!(2)), "{ended:?}");
    }
}

#[test]
fn interrupted_question_leaves_no_files_and_ends_by_the_signal() {
    for signal in ENDING {
        let home = Home::new();
        let mut serve = home.serve(&[]);
        let before = home.traces();
        let args = ["send", "--wait-reply", "--timeout=3600", &serve.socket, "query", "?"];
        let process = Process::spawn(home.udsmsg(&args));
        serve.entry();
        process.signal(signal);
        let ended = process.end();
        assert_ended_by(signal, &ended);
        assert!(ended.stderr.contains("interrupted; "), "{ended:?}");
        assert_eq!((ended.stdout.as_str(), home.traces()), ("", before));
        serve.stop().assert_clean(0);
    }
}

#[test]
fn full_stdout_does_not_delay_the_end_by_a_signal() {
    for args in
        [&["ping", "--count=1000", "--interval=0"][..], &["send", "--ndjson"], &["send", "--wait-reply"]]
    {
        let home = Home::new();
        let (_reader, writer, _) = full_pipe();
        let mut serve = home.serve(&[]);
        let answer = if args[0] == "ping" { "pong" } else { "response" };
        let fake = Fake::start(&home, move |mut stream, _, received| {
            received.send(read_line(&stream)).unwrap();
            let _ = writeln!(stream, "{{\"type\":\"{answer}\"}}");
            read_to_end(&stream);
        });
        home.publish(&fake.socket);
        let is_question = args.contains(&"--wait-reply");
        let target = if is_question { &serve.socket } else { &fake.socket };
        let mut command = home.udsmsg(args);
        command.arg(target).args(is_question.then_some(["query", "?"]).into_iter().flatten());
        command.stdin(Stdio::piped()).stdout(writer);
        let mut process = Process::spawn_as_is(command, WATCHDOG);
        let mut input = process.take_stdin();
        if is_question {
            // The answer has arrived, so the command prints it now or soon.
            let question = serve.entry().json();
            let asker = question["from"].as_str().unwrap();
            let mut peer = Peer::connect(asker, &home.token(asker));
            let query = &question["meta"]["queryId"];
            let meta = json!({"authToken": "TOKEN", "inReplyTo": query});
            peer.ask(&json!({"type": "response", "data": "yes", "meta": meta}).to_string());
            // The inbox has stopped.
            while exists(asker) {
                std::thread::sleep(Duration::from_millis(5));
            }
        } else {
            let _ = writeln!(input, "{{\"type\":\"text\"}}");
            fake.received();
        }
        process.ask_to_stop();
        assert_eq!(process.wait().signal(), Some(Signal::SIGTERM as i32), "{args:?}");
        serve.stop().assert_clean(0);
    }
}
