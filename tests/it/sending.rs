//! Sending from inside the loop, and conversations.

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::Duration;

use udsmsg::parts::{Mono, Queries};
use udsmsg::{Address, Batch, ErrorKind, Message, Outgoing, SendOutcome, Server, ServerEvent};

use crate::util::real::{Home, PATIENCE};
use crate::util::stream::{Listener, Stream};
use crate::util::{watchdog, with_time_enough};

const SOON: Option<Duration> = Some(Duration::from_millis(1));
const TIMEOUT: Duration = PATIENCE;

fn pair() -> (Home, Server, Server) {
    let home = Home::new();
    let (a, b) = (home.start(|_| ()), home.start(|_| ()));
    (home, a, b)
}

fn text(text: &str) -> Outgoing {
    Outgoing::new("text").with_text(text)
}

/// Turns both until `done` returns true.
fn turn_both(a: &mut Server, b: &mut Server, mut done: impl FnMut(&mut Server, &mut Server) -> bool) {
    while !done(a, b) {
        let _ = a.turn(SOON).unwrap();
        let _ = b.turn(SOON).unwrap();
    }
}

/// Two servers in one thread that send to each other all the time: neither waits for the other.
#[test]
fn two_servers_in_one_thread_send_to_each_other() {
    let _watchdog = watchdog::watch("two_servers_in_one_thread_send_to_each_other");
    let (_home, mut a, mut b) = pair();
    let (to_a, to_b) = (a.address().clone(), b.address().clone());
    const EACH: usize = 2_000;
    let mut started = [0; 2];
    let mut told = [0; 2];
    let mut seen: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    let mut batch = Batch::new();
    while told != [EACH; 2] {
        for (at, (server, target)) in [(&mut a, &to_b), (&mut b, &to_a)].into_iter().enumerate() {
            while started[at] < EACH && server.send(target, &text(&started[at].to_string()), TIMEOUT).is_ok()
            {
                started[at] += 1;
            }
            let _ = server.turn(SOON).unwrap();
            server.drain_into(&mut batch);
            for entry in &batch {
                assert_eq!(entry.message().from().as_deref(), Some(target.path()));
                seen[at].push(entry.message().data().unwrap().text().unwrap().into_owned());
            }
            while let Some(event) = server.next_event() {
                let ServerEvent::Sent { outcome: SendOutcome::Accepted { id }, query: None, .. } = event
                else {
                    panic!("{event:?}");
                };
                told[at] += 1;
                assert_eq!(id, Some(format!("uds-{}", told[at])));
            }
        }
    }
    let expected: Vec<String> = (0..EACH).map(|n| n.to_string()).collect();
    assert!(seen.iter().all(|seen| *seen == expected), "in order, each once");
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

#[test]
fn absent_receiver_gives_not_sent_and_the_loop_continues() {
    let _watchdog = watchdog::watch("absent_receiver_gives_not_sent_and_the_loop_continues");
    let (home, mut a, b) = pair();
    let gone = b.address().clone();
    drop(b);
    let nowhere = Address::from_path(&home.path_for("nowhere.sock")).unwrap();
    for target in [&gone, &nowhere] {
        let sent = a.send(target, &text("x"), TIMEOUT).unwrap();
        assert!(a.next_timeout() == Some(Duration::ZERO), "there is something to do");
        let _ = a.turn(None).unwrap();
        match a.next_event() {
            Some(ServerEvent::Sent { id, outcome: SendOutcome::NotSent(error), .. }) => {
                assert_eq!((id, error.kind()), (sent, ErrorKind::CapabilityMissing));
            }
            other => panic!("{other:?}"),
        }
    }
    let too_long = Address::from_path(&home.path_for(&"x".repeat(250))).unwrap();
    assert_eq!(a.send(&too_long, &text("x"), TIMEOUT).unwrap_err().kind(), ErrorKind::PathTooLong);
    let too_large = a.send(&gone, &text(&"x".repeat(65_536)), TIMEOUT).unwrap_err();
    assert_eq!(too_large.kind(), ErrorKind::MessageTooLarge);
}

/// A question, its answer, a second answer to it, and one that comes too late.
#[test]
fn a_question_is_answered_once() {
    let _watchdog = watchdog::watch("a_question_is_answered_once");
    let (_home, mut a, mut b) = pair();
    let to_b = b.address().clone();
    let query = a.query(&to_b, Outgoing::new("query").with_text("why?"), TIMEOUT).unwrap();
    let mut asked = Batch::new();
    turn_both(&mut a, &mut b, |_, b| b.drain_into(&mut asked) == 1);
    let question = asked.iter().next().unwrap();
    assert_eq!(b.take_answered(&question), None, "it answers no question");
    for answer in ["because", "and because"] {
        b.reply(&question, Outgoing::new("response").with_text(answer), TIMEOUT).unwrap();
    }
    turn_both(&mut a, &mut b, |a, b| a.inbox_len() == 2 && b.outstanding() == 0);
    let answers = a.drain();
    let told: Vec<_> = answers.iter().map(|entry| a.take_answered(&entry)).collect();
    assert_eq!(told, [Some(query), None]);
    let first = answers.iter().next().unwrap().message();
    assert!(first.meta().unwrap().ends_with(r#","hops":1}"#), "{first:?}");
    assert!(matches!(a.next_event(), Some(ServerEvent::Sent { query: Some(q), .. }) if q == query));
    assert!(a.next_event().is_none());
}

#[test]
fn unanswered_question_is_reported_and_a_late_answer_is_ignored() {
    let _watchdog = watchdog::watch("a_question_that_nobody_answers_in_time_is_told");
    let (_home, mut a, mut b) = pair();
    let to_b = b.address().clone();
    let mut asked = Batch::new();
    // On a busy machine the time may be over before anything is sent.
    let query = with_time_enough(Duration::from_millis(50), |timeout| {
        let query = a.query(&to_b, Outgoing::new("query"), timeout).unwrap();
        let mut is_late = false;
        turn_both(&mut a, &mut b, |a, b| {
            is_late |=
                matches!(a.next_event(), Some(ServerEvent::Sent { outcome: SendOutcome::NotSent(_), .. }));
            is_late || b.drain_into(&mut asked) == 1
        });
        (!is_late).then_some(query)
    });
    loop {
        let _ = a.turn(None).unwrap();
        match a.next_event() {
            Some(ServerEvent::Unanswered { query: late }) => break assert_eq!(late, query),
            Some(ServerEvent::Sent { outcome, .. }) => assert!(outcome.is_accepted(), "{outcome}"),
            None => {}
        }
    }
    b.reply(&asked.iter().next().unwrap(), Outgoing::new("response"), TIMEOUT).unwrap();
    turn_both(&mut a, &mut b, |a, _| a.inbox_len() == 1);
    let late = a.drain();
    assert_eq!(a.take_answered(&late.iter().next().unwrap()), None);
}

/// A question that was not sent is closed with its message.
#[test]
fn unsent_question_is_closed_with_its_message() {
    let _watchdog = watchdog::watch("unsent_question_is_closed_with_its_message");
    let (home, mut a, _b) = pair();
    let nowhere = Address::from_path(&home.path_for("nowhere.sock")).unwrap();
    let query = a.query(&nowhere, Outgoing::new("query"), Duration::from_millis(20)).unwrap();
    let _ = a.turn(SOON).unwrap();
    assert!(matches!(a.next_event(), Some(ServerEvent::Sent { query: Some(q), .. }) if q == query));
    assert!(a.next_timeout() > Some(Duration::from_secs(1)), "nothing is due for it");
}

/// Two programs that answer every message stop by themselves.
#[test]
fn answers_to_answers_end_after_eight() {
    let _watchdog = watchdog::watch("answers_to_answers_end_after_eight");
    let (_home, mut a, mut b) = pair();
    let to_b = b.address().clone();
    a.send(&to_b, &text("ping-pong"), TIMEOUT).unwrap();
    let mut answers = 0;
    let refused = 'over: loop {
        for server in [&mut a, &mut b] {
            let _ = server.turn(SOON).unwrap();
            for entry in &server.drain() {
                match server.reply(&entry, text("again"), TIMEOUT) {
                    Ok(_) => answers += 1,
                    Err(error) => break 'over error,
                }
            }
        }
    };
    assert_eq!((answers, refused.kind()), (8, ErrorKind::TooManyHops));
}

/// The target of a reply is checked, because `from` is only a claim.
#[test]
#[cfg(unix)] // No link and no file can stand among the pipes.
fn reply_goes_only_to_a_socket_of_the_same_user() {
    let _watchdog = watchdog::watch("reply_goes_only_to_a_socket_of_the_same_user");
    let (home, mut a, mut b) = pair();
    let real = a.address().path().to_owned();
    let link = home.path_for("link.sock");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (link, file) = (link.to_str().unwrap(), file.to_str().unwrap());
    let cases = [
        (real.as_str(), None),
        (link, Some(ErrorKind::NoSuchPeer)),
        (file, Some(ErrorKind::NoSuchPeer)),
        ("/nowhere/at/all", Some(ErrorKind::NoSuchPeer)),
        ("relative.sock", Some(ErrorKind::InvalidAddress)),
        ("", Some(ErrorKind::InvalidAddress)),
    ];
    let to_b = b.address().clone();
    for (from, expected) in cases {
        a.send(&to_b, &text("x").with_from(from), TIMEOUT).unwrap();
        turn_both(&mut a, &mut b, |_, b| b.inbox_len() == 1);
        let batch = b.drain();
        let told = b.reply(&batch.iter().next().unwrap(), text("y"), TIMEOUT);
        assert_eq!(told.err().map(|error| error.kind()), expected, "{from:?}");
    }
}

/// The keys that the scanner finds in `meta` decide; a value of a wrong type counts as absent.
#[test]
fn invalid_meta_values_do_not_hide_the_others() {
    let cases = [
        (r#"{"type":"a"}"#, Ok(r#""meta":{"hops":1,"#)),
        (r#"{"type":"a","meta":{"queryId":"q"}}"#, Ok(r#""meta":{"inReplyTo":"q","hops":1,"#)),
        (r#"{"type":"a","meta":{"queryId":7,"hops":"x"}}"#, Ok(r#""meta":{"hops":1,"#)),
        (r#"{"type":"a","meta":{"queryId":"q","queryId":"r"}}"#, Ok(r#""meta":{"hops":1,"#)),
        (r#"{"type":"a","meta":["q","r",3]}"#, Ok(r#""meta":{"hops":1,"#)),
        (r#"{"type":"a","meta":{"hops":7,"queryId":"\u0071\n"}}"#, Ok(r#""inReplyTo":"q\n","hops":8,"#)),
        (r#"{"type":"a","meta":{"hops":8}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":18446744073709551615}}"#, Err(ErrorKind::TooManyHops)),
        // A number that is no small integer is beyond the limit, and of several the largest counts.
        (r#"{"type":"a","meta":{"hops":7}}"#, Ok(r#""meta":{"hops":8,"#)),
        (r#"{"type":"a","meta":{"hops":7.0}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":1e23}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":1e0}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":-1}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":99999999999999999999999}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":5,"hops":3}}"#, Ok(r#""meta":{"hops":6,"#)),
        (r#"{"type":"a","meta":{"hops":8,"h\u006fps":0}}"#, Err(ErrorKind::TooManyHops)),
        (r#"{"type":"a","meta":{"hops":1,"hops":7.5,"hops":"x"}}"#, Err(ErrorKind::TooManyHops)),
        // What the scanner accepts hides nothing: a lone surrogate in a key, a number beyond every type.
        (r#"{"type":"a","meta":{"\ud83d":1,"hops":8}}"#, Err(ErrorKind::TooManyHops)),
        (
            r#"{"type":"a","meta":{"x":{"\udc00":[1e999]},"hops":2,"queryId":"q"}}"#,
            Ok(r#""inReplyTo":"q","hops":3,"#),
        ),
        (r#"{"type":"a","meta":{"\ud83d":1,"quer\u0079Id":"q"}}"#, Ok(r#""inReplyTo":"q","hops":1,"#)),
        (r#"{"type":"a","meta":{"queryId":"q","queryId":7}}"#, Ok(r#""meta":{"hops":1,"#)),
    ];
    for (received, expected) in cases {
        let message = Message::from_json(received).unwrap();
        let reply = Outgoing::new("response").in_reply_to(&message).map_err(|error| error.kind());
        match (reply, expected) {
            (Ok(reply), Ok(part)) => {
                let token = udsmsg::parts::AuthToken::from_bytes([1; 32]);
                let line = String::from_utf8(reply.encode(&token, None, None, 65_536).unwrap()).unwrap();
                assert!(line.contains(part), "{received}: {line}");
            }
            (reply, expected) => assert_eq!(reply.err(), expected.err(), "{received}"),
        }
    }
    let message = Message::from_json(r#"{"type":"a"}"#).unwrap();
    let taken = Outgoing::new("response").with_meta(&serde_json::json!({"hops": 1})).unwrap();
    assert_eq!(taken.in_reply_to(&message).unwrap_err().kind(), ErrorKind::InvalidMessage);
}

/// The sender of a question finds the answer with any other keys in `meta`, unless it names two questions.
#[test]
fn answer_is_found_behind_an_invalid_key() {
    let mut queries = Queries::new(4, "me").unwrap();
    let mut ask = || {
        let (id, question) = queries.ask(text("?"), Mono::from_nanos(1)).unwrap();
        let token = udsmsg::parts::AuthToken::from_bytes([1; 32]);
        let line = String::from_utf8(question.encode(&token, None, None, 65_536).unwrap()).unwrap();
        let (_, rest) = line.split_once(r#""queryId":""#).unwrap();
        (id, rest.split_once('"').unwrap().0.to_owned())
    };
    let [(first, first_text), (second, second_text)] = [ask(), ask()];
    let mut answered = |meta: String| {
        let line = format!(r#"{{"type":"response","meta":{{{meta}}}}}"#);
        queries.take_answered(&Message::from_json(&line).unwrap())
    };
    let twice = format!(r#""inReplyTo":"{first_text}","inReplyTo":"{second_text}""#);
    assert_eq!(answered(twice), None);
    assert_eq!(answered(format!(r#""\ud83d":0,"inReplyTo":"{first_text}""#)), Some(first));
    assert_eq!(answered(format!(r#""hops":1e999,"\u0069nReplyTo":"{second_text}""#)), Some(second));

    // A question and an answer can be made where such a key is there already.
    let raw = serde_json::value::RawValue::from_string(r#"{"\ud83d":0}"#.to_owned()).unwrap();
    let invalid = text("?").with_meta(&raw).unwrap();
    queries.ask(invalid.clone(), Mono::from_nanos(1)).unwrap();
    let received = Message::from_json(r#"{"type":"a"}"#).unwrap();
    invalid.in_reply_to(&received).unwrap();
}

/// Any number of questions can be asked and answered between two turns; none has the id of another.
#[test]
fn answered_questions_do_not_count_in_the_same_turn() {
    let mut queries = Queries::new(2, "me").unwrap();
    let mut ids = std::collections::HashSet::new();
    for n in 0..100 {
        let (id, _) = queries.ask(text("?"), Mono::from_nanos(n)).unwrap_or_else(|e| panic!("{n}: {e}"));
        assert!(ids.insert(id) && queries.close(id), "question {n}");
        assert!(!queries.close(id), "a question is closed once");
    }
}

/// A second answer to the first message arrives, and the receiver ends without an answer to the second
/// message.
#[test]
fn link_ignores_an_answer_that_arrived_before_the_message() {
    let _watchdog = watchdog::watch("link_ignores_an_answer_that_arrived_before_the_message");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let (target, _) = home.publish("receiver.sock");
    let listener = Listener::bind(target.path()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let answer = b"{\"type\":\"response\"}\n";
    let next_outcome = |server: &mut Server| loop {
        let _ = server.turn(SOON).unwrap();
        if let Some(ServerEvent::Sent { outcome, .. }) = server.next_event() {
            return outcome;
        }
    };
    let read_line = |server: &mut Server, stream: &Stream| {
        let mut line = String::new();
        while !line.ends_with('\n') {
            let _ = server.turn(SOON).unwrap();
            // What is there is read, and a part of a line is kept.
            let _ = BufReader::new(stream).read_line(&mut line);
        }
    };

    server.send(&target, &text("a"), TIMEOUT).unwrap();
    let mut stream = loop {
        let _ = server.turn(SOON).unwrap();
        if let Ok((stream, _)) = listener.accept() {
            break stream;
        }
    };
    stream.set_nonblocking(true).unwrap();
    read_line(&mut server, &stream);
    stream.write_all(answer).unwrap();
    assert!(next_outcome(&mut server).is_accepted());

    stream.write_all(answer).unwrap();
    server.send(&target, &text("b"), TIMEOUT).unwrap();
    read_line(&mut server, &stream);
    drop(stream);
    let outcome = next_outcome(&mut server);
    assert_eq!(outcome.code(), "unknown", "{outcome}");
    assert!(outcome.to_string().starts_with("UDS socket ended"), "{outcome}");
}

/// An owner that takes no outcomes gets an error; outcomes are not kept without limit.
#[test]
fn untaken_outcomes_fill_the_outbox() {
    const MAX: usize = 3;
    let _watchdog = watchdog::watch("untaken_outcomes_fill_the_outbox");
    let home = Home::new();
    let mut server = home.start(|l| l.outbox_entries_max = MAX);
    let nowhere = Address::from_path(&home.path_for("nowhere.sock")).unwrap();
    for _ in 0..MAX {
        server.send(&nowhere, &text("a"), TIMEOUT).unwrap();
        let _ = server.turn(SOON).unwrap();
    }
    assert_eq!(server.outstanding(), 0, "each has its outcome");
    let refused = server.send(&nowhere, &text("a"), TIMEOUT).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutboxFull, "{refused}");
    assert!(matches!(server.next_event(), Some(ServerEvent::Sent { outcome: SendOutcome::NotSent(_), .. })));
    server.send(&nowhere, &text("a"), TIMEOUT).unwrap();
}
