//! Lines: where they end, how long they may be, and what follows a bad one.

use crate::util::conversation::{Case, Expect, ExpectEnd, Inbox, check, send};
use crate::util::sim::Sim;
use crate::util::{error, fill, ok, ping, pong, sim, stored, text, text_of_line};

const LIMIT: usize = 65_536;

fn too_long() -> String {
    error("NDJSON frame exceeded 65536 bytes ($N)")
}

#[test]
fn short_conversations_get_the_expected_answers() {
    let mut crlf = text("crlf");
    crlf.splice(crlf.len() - 1.., *b"\r\n");
    check(&[
        Case::new("one message", vec![send(text("a")), Expect(ok(1)), Inbox(vec![stored("a")])]),
        Case::new(
            "several in one write, answered in order",
            vec![
                send([text("a"), ping(), text("b")].concat()),
                Expect(ok(1)),
                Expect(pong()),
                Expect(ok(2)),
                Inbox(vec![stored("a"), stored("b")]),
            ],
        ),
        Case::new(
            "blank lines are skipped",
            vec![send([b"\n \t\r\n\r\n".to_vec(), text("a"), b"\n\n".to_vec()].concat()), Expect(ok(1))],
        ),
        Case::new(
            "a CR before the newline is white space",
            vec![send(crlf), Expect(ok(1)), Inbox(vec![stored("crlf")])],
        ),
        Case::new(
            "white space round a message is not stored",
            vec![send([b" \t".to_vec(), text("a")].concat()), Expect(ok(1)), Inbox(vec![stored("a")])],
        ),
        Case::new(
            "a form feed is no white space",
            vec![send(b"\x0c\n"), Expect(error("invalid frame")), ExpectEnd],
        ),
        Case::new("a NUL is no white space", vec![send(b"\0\n"), Expect(error("invalid frame")), ExpectEnd]),
        Case::new(
            "nothing after a fatal frame is processed, not even in the same write",
            vec![
                send([text("a"), b"{\n".to_vec(), text("b"), ping()].concat()),
                Expect(ok(1)),
                Expect(error("invalid frame")),
                ExpectEnd,
                send(text("c")),
                Inbox(vec![stored("a")]),
            ],
        ),
        Case::new(
            "nor after a wrong token",
            vec![
                send([b"{\"type\":\"text\"}\n".to_vec(), text("b")].concat()),
                Expect(error("unauthorized")),
                ExpectEnd,
                Inbox(vec![]),
            ],
        ),
        Case::new(
            "a small limit holds to the byte",
            vec![
                send(text_of_line(200)),
                Expect(ok(1)),
                send([text_of_line(200), text_of_line(201)].concat()),
                Expect(ok(2)),
                Expect(error("NDJSON frame exceeded 200 bytes (201)")),
                ExpectEnd,
            ],
        )
        .with(|limits| limits.frame_bytes_max = 200),
        Case::new(
            "a small limit holds for an unfinished line",
            vec![send(vec![b' '; 201]), Expect(error("NDJSON frame exceeded 200 bytes (201)")), ExpectEnd],
        )
        .with(|limits| limits.frame_bytes_max = 200),
    ]);
}

#[test]
fn frame_at_the_limit_is_accepted_and_one_byte_more_is_refused() {
    check(&[
        Case::new("finished, at the limit", vec![send(text_of_line(LIMIT)), Expect(ok(1))]),
        Case::new(
            "finished, one more",
            vec![send(text_of_line(LIMIT + 1)), Expect(too_long()), ExpectEnd, Inbox(vec![])],
        ),
        Case::new(
            "unfinished at the limit waits; one more does not",
            vec![send(vec![b' '; LIMIT]), send(" "), Expect(too_long()), ExpectEnd],
        ),
        Case::new(
            "unfinished at the limit, then its newline",
            vec![send(vec![b' '; LIMIT]), send("\n"), send(text("a")), Expect(ok(1))],
        ),
        Case::new(
            "good frames before an over-long one are answered first",
            vec![
                send([text("a"), text("b"), vec![b'x'; LIMIT + 1]].concat()),
                Expect(ok(1)),
                Expect(ok(2)),
                Expect(too_long()),
                ExpectEnd,
                Inbox(vec![stored("a"), stored("b")]),
            ],
        ),
        Case::new(
            "too long is said before the token is looked at",
            vec![send([vec![b'{'; LIMIT + 1], b"\n".to_vec()].concat()), Expect(too_long()), ExpectEnd],
        ),
    ]);
}

#[test]
fn size_reported_for_an_over_long_frame_is_between_limit_and_frame() {
    for size in [LIMIT + 1, LIMIT + 2, 100_000, 300_000] {
        let mut sim = Sim::new(|_| ());
        let peer = sim.join();
        let answer = sim.ask(peer, &[vec![b'x'; size], b"\n".to_vec()].concat());
        let (_, figure) = answer.split_once('(').unwrap();
        let figure: usize = figure.split_once(')').unwrap().0.parse().unwrap();
        assert!(figure > LIMIT && figure <= size, "{figure} of {size}");
    }
}

/// Large and small frames in reads of many sizes: the buffer is moved and filled in all its states.
#[test]
fn frames_of_mixed_sizes_arrive_whole_with_any_read_size() {
    for read_max in [1_000, 4_096, 30_001, 65_536, 65_537, usize::MAX] {
        let mut sim = Sim::new(|limits| limits.inbox_bytes_max = 16 << 20);
        sim.read_max = read_max;
        let peer = sim.join();
        let sizes = [LIMIT, 150, LIMIT - 1, 32_768, 32_769, 40_000, 151, LIMIT, LIMIT];
        for size in sizes {
            sim.send(peer, &text_of_line(size));
        }
        sim.run();
        let answers = sim.take(peer);
        assert_eq!(answers.lines().count(), sizes.len(), "reads of {read_max}: {answers}");
        let token_part = r#","meta":{"authToken":""}"#.len() + 64;
        let stored: Vec<usize> = sim.drain().iter().map(String::len).collect();
        assert_eq!(stored, sizes.map(|size| size - token_part), "reads of {read_max}");
    }
}

/// A long conversation under random short reads and writes gives the same answers as without them.
#[test]
fn short_reads_and_writes_change_no_answer() {
    for seed in 0..20 * crate::util::scale() as u64 {
        let mut sim = Sim::new(|_| ());
        sim.faults = Some(crate::util::Dice::new(seed));
        let peer = sim.join();
        let mut expected = Vec::new();
        for round in 0..20 {
            let line = text(&"y".repeat(round * 37));
            sim.send(peer, &line);
            expected.push(stored(&"y".repeat(round * 37)));
            sim.send(peer, &ping());
        }
        sim.run();
        let answers = sim.take(peer);
        for (at, line) in answers.lines().enumerate() {
            let pattern = if at % 2 == 0 { ok(at / 2 + 1) } else { pong().replace("$PATH", sim::PATH) };
            assert!(crate::util::matches(&pattern, line), "seed {seed}, answer {at}: {line}");
        }
        assert_eq!(answers.lines().count(), 40, "seed {seed}");
        assert_eq!(sim.drain(), expected, "seed {seed}");
    }
    assert!(!fill(b"$TOKEN", "x", "").is_empty());
}
