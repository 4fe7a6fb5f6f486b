//! The outbox: the outcomes of messages, on a virtual clock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use udsmsg::parts::{AuthToken, ConnKey, LinkStep, Mono, Now, Outbox};
use udsmsg::{Error, ErrorKind, Limits, Message, Outgoing, SendId, SendOutcome, Wall};

use crate::util::outbox_sim::{Counts, Op, World, busy_error, other_error};
use crate::util::{Dice, scale};

const A: &str = "/r/a";
const OK: &str = r#"{"type":"response","data":"ok","meta":{"id":"uds-1"}}"#;
const PONG: &str = r#"{"type":"pong","from":"/r/a"}"#;
const NO: &str = r#"{"type":"error","data":"inbox full"}"#;
const BUSY: &str = r#"{"type":"error","data":"too many clients"}"#;

/// The result of each attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectResult {
    Accepted,
    Busy,
    Failed,
}

/// A connection that the outbox made, as its receiver sees it.
struct Conn {
    key: ConnKey,
    target: String,
    token: AuthToken,
    /// All that was written, and how much more fits.
    written: Vec<u8>,
    room: usize,
    is_broken: bool,
    /// To be read by the outbox, and whether the end comes behind it.
    said: Vec<u8>,
    has_ended: bool,
    is_closed: bool,
}

/// An outbox, its clock, and scripted receivers.
struct Lab {
    outbox: Outbox,
    now: u64,
    connect_result: ConnectResult,
    /// Tokens are given as ones that were read for an earlier connection, unless the outbox wants a new one.
    remembers: bool,
    room: usize,
    conns: Vec<Conn>,
    /// When connecting was tried.
    attempts: Vec<Mono>,
    labels: HashMap<SendId, usize>,
    sent: usize,
    outcomes: BTreeMap<usize, (SendOutcome, Mono)>,
    read_max: usize,
}

impl Lab {
    fn new(tweak: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        tweak(&mut limits);
        Self {
            outbox: Outbox::new(limits).unwrap(),
            now: 0,
            connect_result: ConnectResult::Accepted,
            remembers: false,
            room: usize::MAX,
            conns: Vec::new(),
            attempts: Vec::new(),
            labels: HashMap::new(),
            sent: 0,
            outcomes: BTreeMap::new(),
            read_max: usize::MAX,
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Mono::from_nanos(self.now),
            wall: Wall::from_millis(1_795_341_600_000 + self.now / 1_000_000),
        }
    }

    /// Gives the outbox the message `data`; messages are counted from 0.
    fn try_send(&mut self, target: &str, data: &str, timeout_ms: u64) -> Result<usize, Error> {
        let message = Outgoing::new("text").with_text(data);
        let timeout = Duration::from_millis(timeout_ms);
        let id = self.outbox.send(target, &message, None, timeout, self.now())?;
        assert!(self.labels.insert(id, self.sent).is_none(), "an id is given twice");
        self.sent += 1;
        Ok(self.sent - 1)
    }

    fn send_to(&mut self, target: &str, timeout_ms: u64) -> usize {
        self.try_send(target, &self.sent.to_string(), timeout_ms).unwrap()
    }

    fn send(&mut self, timeout_ms: u64) -> usize {
        self.send_to(A, timeout_ms)
    }

    fn steps(&mut self) {
        for count in 0.. {
            assert!(count < 10_000, "the steps never end");
            let Some((key, step)) = self.outbox.next_step() else { break };
            let now = self.now();
            match step {
                LinkStep::Connect => self.connect(key, now),
                LinkStep::Write => self.write(self.at(key).expect("a link that is open")),
                LinkStep::Close => {
                    let at = self.at(key).expect("closed once");
                    self.conns[at].is_closed = true;
                }
            }
        }
    }

    fn connect(&mut self, key: ConnKey, now: Now) {
        assert_eq!(self.at(key), None, "at most one connection for a link");
        self.attempts.push(now.mono);
        match self.connect_result {
            ConnectResult::Busy => return self.outbox.connect_failed(key, &busy_error(), now),
            ConnectResult::Failed => return self.outbox.connect_failed(key, &other_error(), now),
            ConnectResult::Accepted => {}
        }
        let token = AuthToken::from_bytes([u8::try_from(self.conns.len() % 256).unwrap(); 32]);
        self.conns.push(Conn {
            key,
            target: self.outbox.target(key).to_owned(),
            token: token.clone(),
            written: Vec::new(),
            room: self.room,
            is_broken: false,
            said: Vec::new(),
            has_ended: false,
            is_closed: false,
        });
        if self.remembers && !self.outbox.is_token_refused(key) {
            self.outbox.connected_as_before(key, token, now);
        } else {
            self.outbox.connected(key, token, now);
        }
    }

    fn at(&self, key: ConnKey) -> Option<usize> {
        self.conns.iter().position(|conn| conn.key == key && !conn.is_closed)
    }

    fn write(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let output = self.outbox.output(conn.key);
        let n = conn.room.min(output.len());
        if conn.is_broken {
            self.outbox.output_failed(conn.key);
        } else if n > 0 {
            conn.written.extend_from_slice(&output[..n]);
            conn.room -= n;
            self.outbox.sent(conn.key, n);
        }
    }

    /// One turn as the outbox documents it.
    fn turn(&mut self) {
        let now = self.now();
        self.steps();
        for at in 0..self.conns.len() {
            self.read(at, now);
        }
        for at in 0..self.conns.len() {
            if !self.conns[at].is_closed {
                self.write(at);
            }
        }
        self.steps();
        self.outbox.deadlines_reached(now);
        self.steps();
        self.outbox.turn_ended();
        while let Some((id, outcome)) = self.outbox.next_outcome() {
            let label = self.labels[&id];
            let before = self.outcomes.insert(label, (outcome, now.mono));
            assert!(before.is_none(), "{label} is reported twice: {before:?}");
        }
        assert_eq!(self.outcomes.len() + self.outbox.outstanding(), self.sent, "reported exactly once");
        if let Some(deadline) = self.outbox.next_deadline() {
            assert!(deadline > now.mono, "what was due has been dealt with");
        }
    }

    fn read(&mut self, at: usize, now: Now) {
        let conn = &mut self.conns[at];
        while !conn.is_closed && !conn.said.is_empty() {
            let Some(mut space) = self.outbox.recv_space(conn.key) else { return };
            let n = space.len().min(conn.said.len()).min(self.read_max);
            assert!(n > 0, "a read into nothing looks like the end");
            for (to, from) in space.iter_mut().zip(conn.said.drain(..n)) {
                *to = from;
            }
            space.received(n, now);
        }
        if conn.has_ended && !conn.is_closed {
            self.outbox.ended(conn.key, now);
        }
    }

    /// Turns until nothing more is written.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let before = self.conns.iter().map(|conn| conn.written.len()).sum::<usize>();
            self.turn();
            if before == self.conns.iter().map(|conn| conn.written.len()).sum::<usize>() {
                return;
            }
        }
        panic!("it never becomes idle");
    }

    /// Time passes, with a turn at each deadline and at the end.
    fn advance(&mut self, ms: u64) {
        let end = self.now + ms * 1_000_000;
        self.run();
        while let Some(deadline) = self.outbox.next_deadline().filter(|at| at.as_nanos() <= end) {
            self.now = deadline.as_nanos();
            self.run();
        }
        self.now = end;
        self.run();
    }

    /// The receiver of connection `at` answers `line`.
    fn say(&mut self, at: usize, line: &str) {
        self.conns[at].said.extend_from_slice(line.as_bytes());
        self.conns[at].said.push(b'\n');
        self.run();
    }

    fn end(&mut self, at: usize) {
        self.conns[at].has_ended = true;
        self.run();
    }

    /// The data of the whole lines on connection `at`.
    fn got(&self, at: usize) -> Vec<String> {
        let conn = &self.conns[at];
        let text = std::str::from_utf8(&conn.written).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        let data = |line: &str| {
            let message = Message::from_json(line).unwrap();
            let meta = format!(r#"{{"authToken":"{}"}}"#, conn.token.expose());
            assert_eq!(message.meta(), Some(meta.as_str()), "the token of this connection");
            message.data().unwrap().text().unwrap().into_owned()
        };
        whole.lines().map(data).collect()
    }

    /// The outcome of a message: its code and its text; `-` if there is none yet.
    fn outcome(&self, label: usize) -> String {
        match self.outcomes.get(&label) {
            None => "-".to_owned(),
            Some((outcome, _)) => format!("{}: {outcome}", outcome.code()),
        }
    }

    /// The codes of all messages, in the order of their sending.
    fn codes(&self) -> String {
        let code = |label| self.outcomes.get(&label).map_or("-", |(outcome, _)| outcome.code());
        (0..self.sent).map(code).collect::<Vec<_>>().join(" ")
    }

    fn receivers(&self) -> usize {
        let shown = format!("{:?}", self.outbox);
        let (_, rest) = shown.split_once("receivers: ").unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    fn line_len(&self) -> usize {
        let message = Outgoing::new("text").with_text("0");
        let ts = self.now().wall.to_string();
        message.encode(&AuthToken::from_bytes([0; 32]), None, Some(&ts), 65_536).unwrap().len()
    }
}

fn lines(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}

/// One message, what its receiver answers, whether it ends, and the outcome after its 100 ms.
#[test]
fn answers_to_one_message_give_true_outcomes() {
    let rejected_without_data = "rejected: UDS receiver rejected message";
    let ended = "unknown: UDS socket ended before response (";
    let invalid = "unknown: Invalid UDS response frame";
    let too_long = "unknown: UDS response frame exceeded size limit (";
    let silent = "unknown: Connection timed out (";
    let other = r#"{"type":"text","data":"no answer"}"#;
    let cases: Vec<(&str, Vec<u8>, bool, &str)> = vec![
        ("accepted", lines(&[OK]), false, "accepted: accepted as uds-1"),
        ("and then the end", lines(&[OK]), true, "accepted: accepted as uds-1"),
        ("without an id", lines(&[r#"{"type":"response"}"#]), false, "accepted: accepted"),
        (
            "an id that is no string",
            lines(&[r#"{"type":"response","meta":{"id":7}}"#]),
            false,
            "accepted: accepted",
        ),
        (
            "an id behind a lone surrogate",
            lines(&[r#"{"type":"response","meta":{"\ud83d":1,"id":"uds-1"}}"#]),
            false,
            "accepted: accepted as uds-1",
        ),
        (
            "an answer that speaks of an error",
            lines(&[r#"{"type":"response","data":"error"}"#]),
            true,
            "accepted: accepted",
        ),
        ("with blanks", lines(&["", " \t\r", OK]), false, "accepted: accepted as uds-1"),
        ("with a carriage return", lines(&[&format!("{OK}\r")]), false, "accepted: accepted as uds-1"),
        ("a pong", lines(&[PONG]), false, "accepted: accepted"),
        ("rejected", lines(&[NO]), true, "rejected: inbox full"),
        ("rejected, and it stays", lines(&[NO]), false, "rejected: inbox full"),
        ("rejected without data", lines(&[r#"{"type":"error"}"#]), true, rejected_without_data),
        ("rejected with null", lines(&[r#"{"type":"error","data":null}"#]), true, rejected_without_data),
        ("rejected with JSON", lines(&[r#"{"type":"error","data":[1]}"#]), true, "rejected: [1]"),
        ("other types are skipped", lines(&[other, other, OK]), false, "accepted: accepted as uds-1"),
        ("a type that is none is skipped", lines(&["{}", OK]), false, "accepted: accepted as uds-1"),
        ("other types only", lines(&[other, other]), false, silent),
        ("other types, then the end", lines(&[other]), true, ended),
        ("no JSON", lines(&["ok"]), false, invalid),
        ("no object", lines(&["[1]"]), false, invalid),
        ("no UTF-8", b"{\"type\":\"\xff\"}\n".to_vec(), false, invalid),
        ("junk in front of the answer", lines(&["?", OK]), false, invalid),
        ("junk behind the answer", lines(&[OK, "?"]), false, "accepted: accepted as uds-1"),
        ("an over-long line", [b"{\"".to_vec(), vec![b'x'; 65_535]].concat(), false, too_long),
        ("and its newline", [vec![b' '; 65_537], lines(&[""])].concat(), false, too_long),
        (
            "the longest line there may be",
            [vec![b' '; 65_536 - OK.len()], lines(&[OK])].concat(),
            false,
            "accepted: accepted as uds-1",
        ),
        ("the end", vec![], true, ended),
        ("half an answer, then the end", OK.as_bytes().to_vec(), true, ended),
        ("half an answer", OK.as_bytes().to_vec(), false, silent),
        ("silence", vec![], false, silent),
    ];
    for (name, said, ends, expected) in cases {
        for read_max in [usize::MAX, 1, 7] {
            if read_max == 1 && said.len() > 1_000 {
                continue;
            }
            let mut lab = Lab::new(|_| ());
            lab.read_max = read_max;
            let label = lab.send(100);
            lab.run();
            assert_eq!(lab.got(0), ["0"], "{name}");
            assert_eq!(lab.outcome(label), "-", "{name}");
            lab.conns[0].said = said.clone();
            lab.run();
            lab.conns[0].has_ended = ends;
            lab.advance(99);
            if expected != silent {
                assert_ne!(lab.outcome(label), "-", "{name}: reported before its deadline");
            }
            lab.advance(1);
            let outcome = lab.outcome(label);
            assert!(outcome.starts_with(expected), "{name} ({read_max} bytes a read): {outcome}");
            assert_eq!(lab.conns.len(), 1, "{name}: not sent twice");
            let is_fine = expected.starts_with("accepted") && !ends && !name.starts_with("junk");
            assert_eq!(lab.conns[0].is_closed, !is_fine, "{name}: is its connection kept?");
            assert_eq!(lab.receivers(), usize::from(is_fine), "{name}");
        }
    }
}

/// Five messages, of which some fit into the connection; the answers of the receiver; the codes of all, and
/// what is sent again on a second connection, where all are accepted.
#[test]
fn answers_to_many_in_flight_give_true_outcomes() {
    struct Case {
        name: &'static str,
        /// Lines that can be written, in tenths.
        room: usize,
        said: &'static [&'static str],
        ends: bool,
        codes: &'static str,
        again: &'static [&'static str],
    }
    let case = |name, room, said, ends, codes, again| Case { name, room, said, ends, codes, again };
    let cases = [
        case("all accepted", 50, &[OK; 5], false, "accepted accepted accepted accepted accepted", &[]),
        case(
            "skipping what is no answer",
            50,
            &["{}", OK, "", OK, "{}", OK, OK, OK],
            false,
            "accepted accepted accepted accepted accepted",
            &[],
        ),
        case("the first is rejected", 50, &[NO], true, "rejected unknown unknown unknown unknown", &[]),
        case(
            "the third is rejected",
            50,
            &[OK, OK, NO],
            false,
            "accepted accepted rejected unknown unknown",
            &[],
        ),
        case(
            "what a refusal is followed by is nothing",
            50,
            &[OK, NO, OK, OK, OK],
            true,
            "accepted rejected unknown unknown unknown",
            &[],
        ),
        case(
            "rejected, and two were not written",
            30,
            &[OK, NO],
            true,
            "accepted rejected unknown accepted accepted",
            &["3", "4"],
        ),
        case(
            "rejected, and one was written partly",
            35,
            &[OK, NO],
            true,
            "accepted rejected unknown accepted accepted",
            &["3", "4"],
        ),
        case(
            "rejected, and all but the newline was written",
            39,
            &[NO],
            true,
            "rejected unknown unknown accepted accepted",
            &["3", "4"],
        ),
        case("the end behind two", 50, &[OK, OK], true, "accepted accepted unknown unknown unknown", &[]),
        case(
            "the end, and two were not written",
            30,
            &[OK],
            true,
            "accepted unknown unknown accepted accepted",
            &["3", "4"],
        ),
        case(
            "the end, and one was written partly",
            31,
            &[OK],
            true,
            "accepted unknown unknown accepted accepted",
            &["3", "4"],
        ),
        case(
            "the end of one that never answered",
            25,
            &[],
            true,
            "unknown unknown not_sent not_sent not_sent",
            &[],
        ),
        case("the end before a byte", 0, &[], true, "not_sent not_sent not_sent not_sent not_sent", &[]),
        case(
            "junk behind one",
            35,
            &[OK, "?"],
            false,
            "accepted unknown unknown accepted accepted",
            &["3", "4"],
        ),
        case("junk from the start", 35, &["?"], false, "unknown unknown unknown not_sent not_sent", &[]),
        case("silence", 35, &[], false, "unknown unknown unknown not_sent not_sent", &[]),
        case(
            "too many clients",
            50,
            &[BUSY],
            true,
            "accepted accepted accepted accepted accepted",
            &["0", "1", "2", "3", "4"],
        ),
        case(
            "too many clients, in the middle of a line",
            15,
            &[BUSY],
            true,
            "accepted accepted accepted accepted accepted",
            &["0", "1", "2", "3", "4"],
        ),
        case(
            "idle timeout in the middle of a line",
            25,
            &[OK, OK, r#"{"type":"error","data":"idle timeout"}"#],
            true,
            "accepted accepted accepted accepted accepted",
            &["2", "3", "4"],
        ),
        case(
            "authentication timeout: said to the message that came too late",
            5,
            &[r#"{"type":"error","data":"authentication timeout"}"#],
            true,
            "rejected accepted accepted accepted accepted",
            &["1", "2", "3", "4"],
        ),
        case(
            "idle timeout from the start is no news of a kept connection",
            5,
            &[r#"{"type":"error","data":"idle timeout"}"#],
            true,
            "rejected accepted accepted accepted accepted",
            &["1", "2", "3", "4"],
        ),
    ];
    for Case { name, room, said, ends, codes, again } in cases {
        for read_max in [usize::MAX, 1] {
            let mut lab = Lab::new(|_| ());
            lab.read_max = read_max;
            lab.room = match (lab.line_len(), room) {
                (len, 39) => 4 * len - 1,
                (len, room) => len * room / 10,
            };
            for _ in 0..5 {
                lab.send(100);
            }
            lab.run();
            lab.room = usize::MAX;
            lab.conns[0].said = lines(said);
            lab.run();
            lab.conns[0].has_ended = ends;
            lab.advance(50);
            if !again.is_empty() {
                assert_eq!(lab.got(1), again, "{name}");
                lab.conns[1].said = lines(&[OK; 5]);
            }
            lab.advance(49);
            lab.advance(1);
            assert_eq!(lab.codes(), codes, "{name}");
            assert_eq!(lab.conns.len(), 1 + usize::from(!again.is_empty()), "{name}");
        }
    }
}

#[test]
fn line_reported_not_sent_is_never_completed() {
    let len = Lab::new(|_| ()).line_len();
    for cut in 1..len {
        let mut lab = Lab::new(|_| ());
        lab.room = len + cut;
        for timeout in [200, 50, 200] {
            lab.send(timeout);
        }
        lab.run();
        lab.say(0, OK);
        lab.room = usize::MAX;
        lab.advance(49);
        assert_eq!(lab.codes(), "accepted - -");
        lab.advance(1);
        assert_eq!(lab.outcome(1), "not_sent: Connection timed out (not sent)");
        assert!(lab.conns[0].is_closed, "only the end keeps its line from being completed");
        lab.conns[0].room = usize::MAX;
        lab.run();
        assert_eq!(lab.conns[0].written.len(), len + cut);
        assert_eq!((lab.got(0), lab.got(1)), (vec!["0".to_owned()], vec!["2".to_owned()]));
    }
}

/// Attempts come after 1, 2, 4, 8, 16, 32 ms and then every 50, and stop with the last message.
#[test]
fn busy_receiver_is_retried_with_back_off_until_the_deadline() {
    let mut lab = Lab::new(|_| ());
    lab.connect_result = ConnectResult::Busy;
    let label = lab.send(1_000);
    lab.advance(5_000);
    let times: Vec<u64> = lab.attempts.iter().map(|at| at.as_nanos() / 1_000_000).collect();
    let mut expected = vec![0, 1, 3, 7, 15, 31, 63];
    expected.extend((113..1_000).step_by(50));
    assert_eq!(times, expected);
    let (outcome, at) = &lab.outcomes[&label];
    let SendOutcome::NotSent(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.kind(), at.as_nanos()), (ErrorKind::Busy, 1_000_000_000), "{error}");
    assert!(error.to_string().starts_with("Connection timed out"), "{error}");
    assert_eq!((lab.receivers(), lab.outbox.next_deadline()), (0, None));
}

#[test]
fn messages_for_a_busy_receiver_share_one_back_off() {
    let mut lab = Lab::new(|_| ());
    lab.connect_result = ConnectResult::Busy;
    for n in 0..500 {
        lab.send(300 + n);
        lab.run();
    }
    lab.advance(299);
    assert_eq!(lab.outcomes.len(), 0);
    assert!(lab.attempts.len() <= 13, "{} attempts", lab.attempts.len());
    lab.advance(200);
    assert_eq!(lab.outcomes.len(), 200);
    lab.connect_result = ConnectResult::Accepted;
    lab.advance(50);
    assert!(!lab.conns.is_empty(), "it is tried at least every 50 ms");
    let first: usize = lab.got(0)[0].parse().unwrap();
    assert!((200..=250).contains(&first), "{first} is the first that still has time");
    for (label, (outcome, at)) in lab.outcomes.range(..first) {
        assert_eq!(outcome.code(), "not_sent", "{label}");
        assert_eq!(at.as_nanos(), (300 + *label as u64) * 1_000_000, "{label}: to the nanosecond");
    }
}

#[test]
fn receiver_that_reports_busy_is_retried() {
    let reason = "too many clients";
    let said = format!(r#"{{"type":"error","data":"{reason}"}}"#);
    let mut lab = Lab::new(|_| ());
    let label = lab.send(1_000);
    for attempt in 0..8 {
        lab.run();
        assert_eq!(lab.got(attempt), ["0"], "{reason}");
        lab.say(attempt, &said);
        assert!(lab.conns[attempt].is_closed, "{reason}");
        let pause = lab.outbox.next_deadline().unwrap().since(lab.now().mono);
        let expected = Duration::from_millis([1, 2, 4, 8, 16, 32, 50, 50][attempt]);
        assert_eq!(pause, expected, "{reason}: the pause behind attempt {attempt}");
        lab.advance(u64::try_from(pause.as_millis()).unwrap());
    }
    lab.say(8, OK);
    assert_eq!(lab.outcome(label), "accepted: accepted as uds-1");
    // After an answer the receiver no longer counts as busy: the pause is short again.
    lab.send(1_000);
    lab.run();
    lab.say(8, &said);
    assert_eq!(lab.outbox.next_deadline().map(|at| at.since(lab.now().mono)), Some(Duration::from_millis(1)));
    lab.advance(1);
    assert_eq!(lab.got(9), ["1"], "{reason}");
    lab.advance(1_000);
    let outcome = lab.outcome(1);
    assert!(outcome.starts_with("unknown: Connection timed out"), "{reason}: {outcome}");
}

#[test]
fn other_connect_failures_are_reported_at_once() {
    let mut lab = Lab::new(|_| ());
    lab.connect_result = ConnectResult::Failed;
    for _ in 0..3 {
        lab.send(1_000);
    }
    lab.run();
    assert_eq!(lab.codes(), "not_sent not_sent not_sent");
    assert_eq!((lab.attempts.len(), lab.receivers(), lab.outbox.next_deadline()), (1, 0, None));
    lab.connect_result = ConnectResult::Accepted;
    lab.send(1_000);
    lab.run();
    assert_eq!(lab.got(0), ["3"], "the next one is tried for itself");
}

#[test]
fn late_answer_is_not_matched_to_a_later_message() {
    let mut lab = Lab::new(|_| ());
    for timeout in [10, 100, 100] {
        lab.send(timeout);
    }
    lab.advance(10);
    assert_eq!(lab.codes(), "unknown - -");
    lab.say(0, OK);
    assert_eq!(lab.codes(), "unknown - -", "that was the answer to the first");
    lab.say(0, OK);
    assert_eq!(lab.codes(), "unknown accepted -");
    lab.say(0, NO);
    assert_eq!(lab.codes(), "unknown accepted rejected");

    // A late refusal is not matched to a later message either.
    let mut lab = Lab::new(|_| ());
    for timeout in [10, 100] {
        lab.send(timeout);
    }
    lab.advance(10);
    lab.say(0, NO);
    assert_eq!(lab.codes(), "unknown unknown");

    // No message waits any more: the next one gets a new connection, on which no answer is late.
    let mut lab = Lab::new(|_| ());
    lab.send(10);
    lab.advance(10);
    assert!(lab.conns[0].is_closed);
    lab.send(10);
    lab.run();
    assert_eq!(lab.got(1), ["1"]);
    lab.say(1, OK);
    assert_eq!(lab.codes(), "unknown accepted");
}

/// An answer that has arrived at the deadline counts: a late host never times out an answer that is waiting.
#[test]
fn unread_answer_at_the_deadline_counts() {
    let mut lab = Lab::new(|_| ());
    lab.send(10);
    lab.run();
    lab.conns[0].said = lines(&[OK]);
    lab.now = 60_000_000_000;
    lab.turn();
    assert_eq!(lab.codes(), "accepted");
}

#[test]
fn kept_connection_that_ended_while_idle_is_replaced() {
    let idle = r#"{"type":"error","data":"idle timeout"}"#;
    for (name, said, is_seen, is_broken) in [
        ("seen", vec![], true, false),
        ("seen, with a reason", lines(&[idle]), true, false),
        ("found when writing", vec![], false, true),
        ("found when writing, with a reason", lines(&[idle]), false, true),
        ("with a reason, in the same turn", lines(&[idle]), false, false),
    ] {
        let mut lab = Lab::new(|_| ());
        lab.send(100);
        lab.run();
        lab.say(0, OK);
        assert!(!lab.conns[0].is_closed, "it is kept");
        if is_seen {
            lab.conns[0].said = said.clone();
            lab.end(0);
            assert!(lab.conns[0].is_closed);
            assert_eq!(lab.receivers(), 0, "{name}");
        }
        lab.conns[0].is_broken = is_broken;
        let label = lab.send(100);
        lab.steps();
        lab.conns[0].said = said;
        lab.conns[0].has_ended = true;
        lab.advance(1);
        assert_eq!(lab.conns.len(), 2, "{name}");
        assert_eq!(lab.got(1), ["1"], "{name}");
        lab.say(1, OK);
        assert_eq!(lab.outcome(label), "accepted: accepted as uds-1", "{name}");
    }
}

#[test]
fn messages_for_one_receiver_stay_in_order_and_receivers_are_independent() {
    let mut lab = Lab::new(|l| l.in_flight_max = 4);
    let targets = ["/r/a", "/r/b", "/r/c"];
    for n in 0..60 {
        lab.send_to(targets[n % 3], 1_000);
    }
    lab.run();
    assert_eq!(lab.conns.iter().map(|c| c.target.as_str()).collect::<Vec<_>>(), targets);
    // The first does not answer, the second ends after each answer, the third accepts.
    for round in 0..200 {
        for at in 0..lab.conns.len() {
            if lab.conns[at].is_closed || lab.conns[at].target == "/r/a" {
                continue;
            }
            assert!(lab.got(at).len() <= round + 4, "at most four are in flight");
            lab.say(at, OK);
        }
    }
    assert_eq!(lab.got(0), ["0", "3", "6", "9"]);
    let third: Vec<String> = (2..60).step_by(3).map(|n: usize| n.to_string()).collect();
    assert_eq!(lab.got(2), third);
    for n in 0..60 {
        let expected = if n % 3 == 0 { "-" } else { "accepted" };
        assert!(lab.outcome(n).starts_with(expected), "{n}: {}", lab.outcome(n));
    }
    lab.advance(1_000);
    for n in (0..60).step_by(3) {
        let expected = if n < 12 { "unknown" } else { "not_sent" };
        assert!(lab.outcome(n).starts_with(expected), "{n}: {}", lab.outcome(n));
    }
}

#[test]
fn full_outbox_refuses_messages() {
    let full = |lab: &mut Lab, target: &str, data: &str| {
        let error = lab.try_send(target, data, 1_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutboxFull, "{error}");
    };
    let mut lab = Lab::new(|l| l.outbox_entries_max = 3);
    for _ in 0..3 {
        lab.send(1_000);
    }
    full(&mut lab, A, "x");
    lab.run();
    full(&mut lab, A, "x");
    lab.say(0, OK);
    lab.send(1_000);
    full(&mut lab, A, "x");

    let len = lab.line_len();
    let mut lab = Lab::new(|l| l.outbox_bytes_max = 3 * len);
    for _ in 0..2 {
        lab.send(1_000);
    }
    full(&mut lab, A, "10");
    lab.send(1_000);
    full(&mut lab, A, "3");
    lab.run();
    lab.say(0, OK);
    lab.send(1_000);

    let mut lab = Lab::new(|l| l.receivers_max = 2);
    lab.send_to("/r/a", 1_000);
    lab.send_to("/r/b", 1_000);
    full(&mut lab, "/r/c", "x");
    lab.send_to("/r/b", 1_000);
    lab.run();
    lab.say(0, OK);
    lab.send_to("/r/c", 1_000);
    lab.run();
    assert!(lab.conns[0].is_closed, "the unneeded connection frees its place");
    assert_eq!((lab.got(2), lab.receivers()), (vec!["3".to_owned()], 2));

    let mut lab = Lab::new(|l| l.frame_bytes_max = len - 1);
    lab.send(1_000);
    let error = lab.try_send(A, "10", 1_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
    let figures = format!("{len} bytes long and was not sent: the limit is {}", len - 1);
    assert!(error.to_string().contains(&figures), "{error}");
}

/// A host sends without end, with every kind of outcome.
#[test]
fn endless_sending_leaks_no_receiver() {
    let mut lab = Lab::new(|l| (l.outbox_entries_max, l.receivers_max) = (4, 2));
    for round in 0..2_000_usize {
        lab.connect_result = [ConnectResult::Accepted, ConnectResult::Failed, ConnectResult::Busy][round % 3];
        let target = format!("/r/{round}");
        lab.send_to(&target, 20);
        lab.send_to(&target, 10);
        lab.run();
        if lab.connect_result == ConnectResult::Accepted {
            let at = lab.conns.len() - 1;
            match round / 3 % 4 {
                0 => lab.say(at, OK),
                1 => lab.say(at, NO),
                2 => lab.end(at),
                _ => lab.say(at, BUSY),
            }
        }
        lab.advance(100);
        assert_eq!(lab.outbox.outstanding(), 0, "round {round}");
        assert!(lab.receivers() <= 1, "round {round}: {:?}", lab.outbox);
    }
}

/// A missing answer to an expired message does not keep a receiver's place for ever.
#[test]
fn link_with_only_expired_messages_frees_its_receiver() {
    let mut lab = Lab::new(|l| l.receivers_max = 1);
    lab.send_to("/r/a", 100);
    lab.send_to("/r/a", 10);
    lab.advance(10);
    lab.say(0, OK);
    assert_eq!(lab.codes(), "accepted unknown");
    assert_eq!(lab.outbox.outstanding(), 0);
    lab.try_send("/r/b", "x", 100).expect("nothing is on its way");
}

/// A line of which no byte was written can be withdrawn without closing the connection for the others.
#[test]
fn unwritten_message_that_expires_leaves_the_others_in_flight() {
    let mut lab = Lab::new(|_| ());
    lab.room = lab.line_len();
    lab.send(100);
    lab.send(10);
    lab.advance(10);
    assert_eq!(lab.codes(), "- not_sent");
    lab.say(0, OK);
    assert_eq!(lab.codes(), "accepted not_sent");
}

/// An answer to an unfinished line does not count: the first message is not accepted.
#[test]
fn answer_to_an_unfinished_line_is_ignored() {
    let mut lab = Lab::new(|_| ());
    lab.room = lab.line_len() / 2;
    lab.send(100);
    lab.run();
    lab.say(0, OK);
    lab.advance(100);
    assert_eq!(lab.codes(), "not_sent", "it never left here whole");
}

/// A receiver that answers before it gets a line and then closes is retried only after a pause.
#[test]
fn receiver_that_answers_too_early_and_closes_is_retried_after_a_pause() {
    let mut lab = Lab::new(|_| ());
    lab.room = 0;
    lab.send(1_000);
    for _ in 0..100 {
        lab.run();
        if let Some(conn) = lab.conns.last_mut() {
            conn.said = lines(&[PONG]);
            conn.has_ended = true;
        }
    }
    assert!(lab.attempts.len() < 10, "{} attempts at one moment", lab.attempts.len());
}

#[test]
fn deadlines_are_exact() {
    let mut lab = Lab::new(|_| ());
    lab.now = 12_345_678_901;
    let start = lab.now;
    let timeouts: Vec<u64> = vec![1, 133, 134, 135, 1_000, 34_000, 35_000, 3_600_000];
    for timeout in &timeouts {
        lab.send_to(&format!("/r/{timeout}"), *timeout);
    }
    for timeout in &timeouts {
        let due = start + timeout * 1_000_000;
        lab.run();
        assert_eq!(lab.outbox.next_deadline(), Some(Mono::from_nanos(due)));
        let before = lab.outcomes.len();
        lab.now = due - 1;
        lab.run();
        assert_eq!(lab.outcomes.len(), before, "{timeout} ms: a nanosecond before");
        lab.now = due;
        lab.run();
        assert_eq!(lab.outcomes.len(), before + 1, "{timeout} ms");
    }
    assert_eq!(lab.outbox.next_deadline(), None);
    lab.send(0);
    lab.run();
    assert_eq!(lab.outbox.outstanding(), 0, "a time that is over at once");
}

/// An accepted message is in an inbox; a refused or unsent one is not; each outcome is reported once, nothing
/// arrives twice, all in order: under every cut, kill, full inbox and delay.
#[test]
fn outcomes_are_true_under_random_faults() {
    let mut total = Counts::new();
    for seed in 0..150 * scale() as u64 {
        let mut dice = Dice::new(seed);
        let mut bytes = || u8::try_from(dice.below(256)).unwrap();
        let mut world = World::new(std::array::from_fn(|_| bytes()));
        let ops: Vec<Op> = (0..300).map(|_| Op::from_bytes(std::array::from_fn(|_| bytes()))).collect();
        let run = std::panic::AssertUnwindSafe(|| {
            for op in &ops {
                world.apply(*op);
            }
            world.finish()
        });
        let counts = std::panic::catch_unwind(run).unwrap_or_else(|cause| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause)
        });
        for (code, count) in counts {
            *total.entry(code).or_default() += count;
        }
    }
    eprintln!("{total:?}");
    for code in ["accepted", "rejected", "not_sent", "unknown", "unknown, and there"] {
        assert!(total.get(code).is_some_and(|count| *count > 20), "too few are {code}: {total:?}");
    }
}

/// A moment on the clock of an outbox that a test drives by hand.
fn at(ms: u64) -> Now {
    Now { mono: Mono::from_nanos(ms * 1_000_000), wall: Wall::from_millis(0) }
}

fn put(outbox: &mut Outbox, target: &str, timeout_ms: u64, now: Now) -> Result<SendId, Error> {
    outbox.send(target, &Outgoing::new("text"), None, Duration::from_millis(timeout_ms), now)
}

fn next_connect(outbox: &mut Outbox) -> ConnKey {
    match outbox.next_step() {
        Some((key, LinkStep::Connect)) => key,
        other => panic!("no attempt to connect: {other:?}"),
    }
}

fn next_write(outbox: &mut Outbox) -> ConnKey {
    match outbox.next_step() {
        Some((key, LinkStep::Write)) => key,
        other => panic!("nothing to write: {other:?}"),
    }
}

/// The receiver answers `line`; whether there was a buffer to read it into.
fn receive(outbox: &mut Outbox, key: ConnKey, line: &str, now: Now) -> bool {
    let line = lines(&[line]);
    let Some(mut space) = outbox.recv_space(key) else { return false };
    space[..line.len()].copy_from_slice(&line);
    space.received(line.len(), now);
    true
}

fn write_all(outbox: &mut Outbox, key: ConnKey) {
    let len = outbox.output(key).len();
    assert!(len > 0, "there is something to write");
    outbox.sent(key, len);
}

fn told(outbox: &mut Outbox) -> Vec<&'static str> {
    std::iter::from_fn(|| outbox.next_outcome()).map(|(_, outcome)| outcome.code()).collect()
}

#[test]
fn messages_for_a_receiver_that_is_being_connected_share_one_connection() {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    let first = put(&mut outbox, A, 100, at(0)).unwrap();
    let key = next_connect(&mut outbox);
    let second = put(&mut outbox, A, 100, at(0)).unwrap();
    assert_eq!(outbox.next_step(), None, "one attempt is enough");
    outbox.turn_ended();
    assert!(!outbox.has_steps());
    assert_eq!(outbox.target(key), A);

    let token = AuthToken::from_bytes([1; 32]);
    outbox.connected(key, token.clone(), at(1));
    assert_eq!(next_write(&mut outbox), key);
    write_all(&mut outbox, key);
    outbox.connected(key, token, at(1));
    outbox.connect_failed(key, &other_error(), at(1));
    assert!(outbox.output(key).is_empty(), "what was written whole is not written again");
    for id in [first, second] {
        assert!(receive(&mut outbox, key, OK, at(2)));
        let (told, outcome) = outbox.next_outcome().expect("it was answered");
        assert!(told == id && outcome.is_accepted(), "{outcome}");
    }
    assert_eq!(outbox.next_step(), None);
}

#[test]
fn space_that_is_dropped_holds_nothing_and_loses_nothing() {
    let answer = lines(&[OK]);
    for begun in 0..answer.len() {
        let mut outbox = Outbox::new(Limits::default()).unwrap();
        put(&mut outbox, A, 100, at(0)).unwrap();
        let key = next_connect(&mut outbox);
        outbox.connected(key, AuthToken::from_bytes([1; 32]), at(0));
        assert_eq!(next_write(&mut outbox), key);
        write_all(&mut outbox, key);

        let mut space = outbox.recv_space(key).unwrap();
        space[..begun].copy_from_slice(&answer[..begun]);
        space.received(begun, at(0));
        let mut dropped = outbox.recv_space(key).unwrap();
        let len = dropped.len();
        dropped.fill(b'\n');
        drop(dropped);

        assert!(outbox.next_outcome().is_none(), "what was not reported was not read");
        let mut space = outbox.recv_space(key).unwrap();
        assert_eq!((space.len(), space[0]), (len, b'\n'), "the same space is lent again");
        space[..answer.len() - begun].copy_from_slice(&answer[begun..]);
        space.received(answer.len() - begun, at(0));
        assert_eq!(told(&mut outbox), ["accepted"], "after {begun} bytes");
    }
}

#[test]
fn late_reports_of_an_old_stream_do_not_change_its_successor() {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    let token = AuthToken::from_bytes([1; 32]);
    put(&mut outbox, A, 100, at(0)).unwrap();
    let old = next_connect(&mut outbox);
    outbox.connected(old, token.clone(), at(0));
    let _ = next_write_is(&mut outbox, old);
    write_all(&mut outbox, old);
    assert!(receive(&mut outbox, old, OK, at(0)));
    assert_eq!(told(&mut outbox), ["accepted"]);
    put(&mut outbox, A, 100, at(0)).unwrap();
    put(&mut outbox, A, 100, at(0)).unwrap();
    // Nothing of these was written: they go to the next connection.
    outbox.ended(old, at(0));
    assert_eq!(outbox.next_step(), Some((old, LinkStep::Close)));
    let new = next_connect(&mut outbox);
    outbox.connected(old, AuthToken::from_bytes([2; 32]), at(0));
    outbox.connect_failed(old, &other_error(), at(0));
    outbox.connected(new, token, at(0));
    let _ = next_write_is(&mut outbox, new);

    let waiting = outbox.output(new).to_vec();
    outbox.sent(old, 10);
    assert_eq!(outbox.output(new), waiting, "bytes that the old stream took are not taken from the new one");
    outbox.output_failed(old);
    outbox.ended(old, at(0));
    assert!(!receive(&mut outbox, old, NO, at(0)), "there is no space to read into for the old stream");
    outbox.connected(old, AuthToken::from_bytes([2; 32]), at(0));
    outbox.connect_failed(old, &other_error(), at(0));
    assert_eq!((outbox.output(old), outbox.target(old)), (&[][..], ""));
    assert_eq!(outbox.next_step(), None);

    write_all(&mut outbox, new);
    outbox.turn_ended();
    outbox.ended(old, at(1));
    for _ in 0..2 {
        assert!(receive(&mut outbox, new, OK, at(1)));
    }
    assert_eq!(told(&mut outbox), ["accepted", "accepted"]);
}

fn next_write_is(outbox: &mut Outbox, key: ConnKey) -> ConnKey {
    assert_eq!(next_write(outbox), key);
    key
}

#[test]
fn unneeded_connect_attempt_is_abandoned() {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    put(&mut outbox, A, 10, at(0)).unwrap();
    let key = next_connect(&mut outbox);
    outbox.deadlines_reached(at(10));
    assert_eq!(told(&mut outbox), ["not_sent"]);
    assert_eq!(outbox.next_step(), Some((key, LinkStep::Close)));
    outbox.connected(key, AuthToken::from_bytes([1; 32]), at(11));
    assert_eq!(outbox.next_step(), None);
    outbox.turn_ended();
    assert_eq!((outbox.has_steps(), outbox.next_deadline()), (false, None));

    // The same before the step was taken: there is no attempt at all.
    put(&mut outbox, A, 10, at(20)).unwrap();
    outbox.deadlines_reached(at(30));
    assert_eq!(told(&mut outbox), ["not_sent"]);
    assert_eq!(outbox.next_step(), None, "no connection is made for a receiver without a message");

    // And while the receiver is busy: nothing wakes the host for it.
    put(&mut outbox, A, 10, at(40)).unwrap();
    let key = next_connect(&mut outbox);
    outbox.connect_failed(key, &busy_error(), at(49));
    outbox.deadlines_reached(at(50));
    assert_eq!(told(&mut outbox), ["not_sent"]);
    assert_eq!((outbox.next_deadline(), outbox.next_step()), (None, None));
}

#[test]
fn message_behind_an_unanswered_one_is_sent_on_a_new_connection() {
    let mut lab = Lab::new(|l| l.in_flight_max = 1);
    lab.send(100);
    lab.send(5_000);
    lab.advance(99);
    assert_eq!((lab.codes(), lab.got(0)), ("- -".to_owned(), vec!["0".to_owned()]));
    lab.advance(1);
    assert_eq!(lab.codes(), "unknown -");
    assert!(lab.conns[0].is_closed);
    assert_eq!(lab.got(1), ["1"]);
    lab.say(1, OK);
    assert_eq!(lab.codes(), "unknown accepted");
}

/// The first is written whole and can be answered; the second is written partly when its time is over; the
/// third was not written at all.
#[test]
fn half_written_message_that_expires_leaves_its_neighbours() {
    let len = Lab::new(|_| ()).line_len();
    for (answer, codes) in [(OK, "accepted not_sent accepted"), (NO, "rejected not_sent accepted")] {
        for cut in [1, len / 2, len - 1] {
            let mut lab = Lab::new(|_| ());
            lab.room = len + cut;
            for timeout in [5_000, 100, 5_000] {
                lab.send(timeout);
            }
            lab.advance(100);
            assert_eq!(lab.codes(), "- not_sent -", "{cut} bytes of the second");
            assert!(!lab.conns[0].is_closed, "the first can still be answered");
            lab.conns[0].room = usize::MAX;
            let late = lab.send(50);
            lab.advance(50);
            assert_eq!(lab.conns[0].written.len(), len + cut, "nothing is written behind half a line");
            assert!(lab.outcome(late).starts_with("not_sent"), "{}", lab.outcome(late));
            lab.room = usize::MAX;
            lab.say(0, answer);
            assert!(lab.conns[0].is_closed);
            assert_eq!(lab.got(1), ["2"]);
            lab.say(1, OK);
            assert_eq!(lab.codes(), format!("{codes} not_sent"));
        }
    }

    // If the first is not answered either, the third does not wait for that longer than the first did.
    let mut lab = Lab::new(|_| ());
    lab.room = len + 1;
    for timeout in [500, 100, 5_000] {
        lab.send(timeout);
    }
    lab.advance(499);
    lab.room = usize::MAX;
    lab.advance(1);
    assert_eq!((lab.codes(), lab.got(1)), ("unknown not_sent -".to_owned(), vec!["2".to_owned()]));
    lab.say(1, OK);
    assert_eq!(lab.codes(), "unknown not_sent accepted");
}

#[test]
fn finished_receivers_do_not_count_in_the_same_turn() {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    for n in 0..3_000 {
        put(&mut outbox, &format!("/r/{n}"), 100, at(0)).unwrap_or_else(|e| panic!("message {n}: {e}"));
        let key = next_connect(&mut outbox);
        assert!(key.index() < outbox.slots_max());
        outbox.connect_failed(key, &other_error(), at(0));
        assert_eq!(told(&mut outbox), ["not_sent"], "message {n}");
    }

    // Streams that were there keep their keys until the end of the turn; a receiver beyond waits for that,
    // and gets no wrong outcome.
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    let mut connected = 0;
    for n in 0..3_000 {
        if let Err(error) = put(&mut outbox, &format!("/r/{n}"), 100, at(0)) {
            assert!(error.to_string().contains("for 64 receivers"), "message {n}: {error}");
            assert_eq!((error.kind(), outbox.outstanding()), (ErrorKind::OutboxFull, 64));
            break;
        }
        while let Some((key, step)) = outbox.next_step() {
            if step == LinkStep::Connect {
                connected += 1;
                outbox.connected(key, AuthToken::from_bytes([1; 32]), at(0));
                outbox.ended(key, at(0));
                assert_eq!(told(&mut outbox), ["not_sent"], "message {n}");
            }
        }
    }
    assert_eq!(connected, outbox.slots_max());
    assert!(!outbox.has_steps());
    outbox.turn_ended();
    assert!(outbox.has_steps());
    let _ = next_connect(&mut outbox);
}

#[test]
fn error_before_the_first_written_byte_gives_not_sent() {
    for reason in ["authentication timeout", "inbox full", "idle timeout"] {
        let said = format!(r#"{{"type":"error","data":"{reason}"}}"#);
        let mut lab = Lab::new(|_| ());
        lab.room = 0;
        lab.send(100);
        lab.send(100);
        lab.run();
        lab.say(0, &said);
        assert_eq!(lab.codes(), "not_sent not_sent", "{reason}");
        let sentence = format!("the receiver refused the connection: {reason:?}");
        assert!(lab.outcome(0).contains(&sentence), "{}", lab.outcome(0));
        assert_eq!(lab.attempts.len(), 1, "{reason}: it is not tried again");

        // Such bytes on a connection that was used before do not affect the next message, which is sent on
        // another.
        let mut lab = Lab::new(|_| ());
        lab.send(100);
        lab.run();
        lab.say(0, OK);
        lab.conns[0].room = 0;
        lab.send(100);
        lab.say(0, &said);
        lab.advance(1);
        assert_eq!(lab.got(1), ["1"], "{reason}");
        lab.say(1, OK);
        assert_eq!(lab.codes(), "accepted accepted", "{reason}");
    }

    // Part of the line was written: the error is said to it.
    let mut lab = Lab::new(|_| ());
    lab.room = 1;
    lab.send(100);
    lab.run();
    lab.say(0, NO);
    assert_eq!(lab.outcome(0), "rejected: inbox full");
}

#[test]
fn bytes_before_a_line_is_written_whole_are_not_its_answer() {
    let len = Lab::new(|_| ()).line_len();
    let answer = lines(&[OK]);
    // How much of the line was written and how much of the answer had come before the rest of both.
    for (written, early) in [(0, answer.len()), (len - 1, answer.len()), (0, 1), (len - 1, answer.len() - 1)]
    {
        for (rest, ends, expected) in [
            (vec![], true, "unknown: UDS socket ended before response"),
            (vec![], false, "unknown: Connection timed out"),
            (lines(&[OK]), false, "accepted: accepted as uds-1"),
            (lines(&[NO]), true, "rejected: inbox full"),
        ] {
            let mut lab = Lab::new(|_| ());
            lab.room = written;
            lab.send(100);
            lab.run();
            lab.conns[0].said = answer[..early].to_vec();
            lab.run();
            assert_eq!(lab.codes(), "-", "{written} bytes written, {early} bytes of the answer");
            lab.conns[0].room = usize::MAX;
            lab.run();
            assert_eq!(lab.got(0), ["0"]);
            lab.conns[0].said = [&answer[early..], &rest[..]].concat();
            lab.run();
            lab.conns[0].has_ended = ends;
            lab.advance(100);
            let outcome = lab.outcome(0);
            assert!(outcome.starts_with(expected), "{written}, {early}: {outcome}, expected {expected}");
        }
    }

    // Of two lines, the answer to the first may come before the second is whole.
    let mut lab = Lab::new(|_| ());
    lab.room = len + 1;
    lab.send(100);
    lab.send(100);
    lab.run();
    lab.conns[0].said = answer[..5].to_vec();
    lab.run();
    lab.conns[0].room = usize::MAX;
    lab.run();
    lab.conns[0].said = [&answer[5..], &answer[..]].concat();
    lab.run();
    assert_eq!(lab.codes(), "accepted accepted");
}

#[test]
fn untaken_outcomes_count_as_messages() {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    let mut given = 0;
    while given < 10_000 {
        match put(&mut outbox, A, 100, at(0)) {
            Ok(_) => given += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutboxFull);
                assert!(error.to_string().contains("outcomes of 1000 others were not taken"), "{error}");
                break;
            }
        }
        let key = next_connect(&mut outbox);
        outbox.connect_failed(key, &other_error(), at(0));
    }
    assert_eq!((given, outbox.outstanding()), (Limits::default().outbox_entries_max, 0));
    let _ = outbox.next_outcome().unwrap();
    put(&mut outbox, A, 100, at(0)).expect("one outcome was taken, so one message fits");
}

#[test]
fn excessive_reports_are_bounded() {
    let mut lab = Lab::new(|_| ());
    lab.send(100);
    lab.run();
    let key = lab.conns[0].key;
    for n in [usize::MAX, 1, usize::MAX] {
        lab.outbox.sent(key, n);
    }
    lab.say(0, OK);
    assert_eq!(lab.codes(), "accepted");
    lab.conns[0].room = 1;
    lab.send(100);
    lab.run();
    lab.outbox.sent(key, usize::MAX);
    assert!(lab.outbox.output(key).is_empty());
    lab.say(0, OK);
    assert_eq!(lab.codes(), "accepted accepted");
    // No deadline is beyond the range of the clock.
    lab.outbox.send(A, &Outgoing::new("x"), None, Duration::MAX, lab.now()).unwrap();
    assert_eq!(lab.outbox.next_deadline(), Some(Mono::from_nanos(u64::MAX)));
}

#[test]
fn clock_that_steps_back_counts_as_standing_still() {
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    outbox.deadlines_reached(at(100_000));
    put(&mut outbox, A, 1_000, at(50_000)).unwrap();
    assert_eq!(outbox.next_deadline(), Some(at(101_000).mono));
    let key = next_connect(&mut outbox);
    outbox.connect_failed(key, &busy_error(), at(50_000));
    assert_eq!(outbox.next_deadline(), Some(at(100_001).mono), "the pause is as long as ever");
    outbox.deadlines_reached(at(50_000));
    assert_eq!((outbox.outstanding(), outbox.next_step()), (1, None), "nothing is due");
    outbox.deadlines_reached(at(100_001));
    let _ = next_connect(&mut outbox);
    outbox.deadlines_reached(at(100_999));
    assert_eq!(outbox.outstanding(), 1);
    outbox.deadlines_reached(at(101_000));
    assert_eq!(told(&mut outbox), ["not_sent"]);
}

#[test]
fn messages_that_expire_behind_a_waiting_one_leave_it() {
    let mut lab = Lab::new(|l| l.outbox_entries_max = 10);
    lab.connect_result = ConnectResult::Busy;
    lab.send(3_600_000);
    for _ in 0..500 {
        lab.send(1);
        lab.advance(1);
    }
    lab.connect_result = ConnectResult::Accepted;
    lab.send(1_000);
    lab.advance(50);
    assert_eq!(lab.got(0), ["0", "501"]);
}

/// A receiver that has started anew refuses a token that is remembered: nothing was taken, so all messages go
/// over one more connection, with a new token. That one's refusal counts.
#[test]
fn refusal_of_a_remembered_token_is_tried_once_more() {
    let unauthorized = r#"{"type":"error","data":"unauthorized"}"#;
    let mut lab = Lab::new(|_| ());
    lab.remembers = true;
    (0..3).for_each(|_| _ = lab.send(5_000));
    lab.run();
    assert_eq!(lab.got(0), ["0", "1", "2"]);
    lab.say(0, unauthorized);
    assert_eq!((lab.conns.len(), lab.conns[0].is_closed), (2, true));
    assert_eq!((lab.got(1), lab.codes()), (lab.got(0), "- - -".to_owned()));
    lab.say(1, unauthorized);
    assert_eq!((lab.codes(), lab.conns.len()), ("rejected unknown unknown".to_owned(), 2));
}

/// A remembered token that was accepted once is no old one, so its refusal counts.
#[test]
fn refusal_after_an_answer_counts_for_a_remembered_token() {
    let mut lab = Lab::new(|_| ());
    lab.remembers = true;
    (0..2).for_each(|_| _ = lab.send(5_000));
    lab.run();
    lab.say(0, ok_line(1).as_str());
    lab.say(0, r#"{"type":"error","data":"unauthorized"}"#);
    assert_eq!((lab.codes(), lab.conns.len()), ("accepted rejected".to_owned(), 1));
}

fn ok_line(n: u32) -> String {
    format!(r#"{{"type":"response","data":"ok","meta":{{"id":"uds-{n}"}}}}"#)
}

/// An outbox that has memory for none takes as many messages as another one, and answers of any length.
#[test]
fn growing_outbox_holds_what_its_limits_allow() {
    let mut limits = Limits::default();
    limits.outbox_entries_max = 100;
    let mut lab = Lab::new(|_| ());
    lab.outbox = Outbox::growing(limits).unwrap();
    for n in 0..100 {
        lab.try_send(&format!("/r{}", n % 64), "x", 5_000 + n).unwrap();
    }
    assert_eq!(lab.try_send(A, "x", 5_000).unwrap_err().kind(), ErrorKind::OutboxFull);
    lab.run();
    assert_eq!(lab.conns.len(), 64);
    // A line that fills several buffers, and ends with the largest.
    let answer = r#"{"type":"response","data":"","meta":{"id":"uds-1"}}"#;
    let long = answer.replacen("\"\",", &format!("\"{}\",", "x".repeat(65_536 - answer.len())), 1);
    lab.say(0, &long);
    assert_eq!(lab.outcome(0), "accepted: accepted as uds-1");
    lab.advance(5_050);
    assert_eq!(lab.outcomes.values().filter(|(outcome, _)| outcome.code() == "unknown").count(), 50);
    lab.advance(1_000);
    assert_eq!(lab.outbox.outstanding(), 0);
}
