//! `udsmsg send --ndjson`: many messages from standard input, over one connection, a receipt for each.
//!
//! One loop: it takes a line while there is room for one more message on its way and for its receipt, else it
//! waits for an outcome. [`WINDOW`], [`PENDING_MAX`] and the frame limit bound the memory for every input.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;
use udsmsg::{Address, Client, Error, ErrorKind, Limits, Message, Outgoing, SendId, SendOutcome};

use crate::complaints::{self, complain};
use crate::escape::Json;
use crate::interrupt;
use crate::lines::Lines;
use crate::output::{self, Style};
use crate::platform::{Alarm, ERASE, Source, Stdin, Woken};

/// Messages on their way at once: twice what a connection carries, so that the next ones are ready.
const WINDOW: usize = 128;

/// No line is taken while more than this waits for the reader of stdout, or of stderr.
const PENDING_MAX: usize = 1 << 20;
const STDERR_PENDING_MAX: usize = 16_384;

/// The most bytes of one read.
const CHUNK: usize = 65_536;

/// The time between two progress lines for a person.
const PROGRESS: Duration = Duration::from_millis(100);

/// Sends every line of standard input.
pub(crate) fn send_all(client: Client, target: Address, style: Style) -> Result<ExitCode, Error> {
    let report = Arc::new(Mutex::new(Report {
        style,
        on_their_way: HashMap::new(),
        lines: Lines::to_stdout(),
        tally: Tally::default(),
        begun: Instant::now(),
        progress_at: Instant::now(),
        shows_progress: false,
        is_summed_up: false,
        is_interrupted: false,
    }));
    let alarm = handle_signals(&report)?;
    let mut sender = Sender { client, target, report, alarm };
    let sent = sender.send_lines().and_then(|()| sender.report().sum_up());
    let mut report = sender.report();
    // Those without an outcome when the sending ended.
    report.tally.unknown += report.on_their_way.len() as u64;
    let is_unreported = report.lines.pending() > 0 || !report.on_their_way.is_empty();
    match &sent {
        Ok(()) => {}
        // Only this line says what was accepted.
        Err(error) if is_unreported && report.tally.accepted + report.tally.unknown > 0 => {
            complain(&format!("{error}; until then: {}", report.tally));
        }
        // The reader of stdout closed it on purpose.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => complain(error),
    }
    Ok(report.tally.exit_code(sent.is_ok()))
}

/// From now on a signal prints what is known and ends the process; it sets off the alarm returned.
fn handle_signals(report: &Arc<Mutex<Report>>) -> Result<Alarm, Error> {
    let report = Arc::clone(report);
    interrupt::say_before_end(move || {
        let mut report = interrupt::lock(&report);
        if !report.is_summed_up {
            report.is_interrupted = true;
            let _ = report.interrupted();
        }
    })
}

/// Takes messages from standard input and sends them.
struct Sender {
    client: Client,
    target: Address,
    /// Shared with the thread that handles signals.
    report: Arc<Mutex<Report>>,
    /// Set off by a signal.
    alarm: Alarm,
}

impl Sender {
    fn report(&self) -> MutexGuard<'_, Report> {
        Report::lock(&self.report)
    }

    /// Sends until standard input ends, and reports every line; an error is that of stdin or stdout.
    fn send_lines(&mut self) -> io::Result<()> {
        let mut input = Input::new(Limits::default().frame_bytes_max);
        loop {
            let (outstanding, is_behind) = {
                let mut report = self.report();
                report.flush()?;
                (report.on_their_way.len(), report.is_behind())
            };
            let is_idle = outstanding == 0;
            if is_behind {
                if is_idle {
                    self.report().wait(&mut [Source::Alarm(&self.alarm)], None)?;
                }
            } else if outstanding < WINDOW {
                match input.next_line() {
                    Some((number, Ok(line))) => {
                        self.take(number, &line)?;
                        continue;
                    }
                    Some((number, Err(len))) => {
                        let why = format!("it is {len} bytes long; a message may have {}", input.line_max);
                        self.report().bad_line(number, &why);
                        continue;
                    }
                    None if input.is_over => {
                        if is_idle {
                            return Ok(());
                        }
                    }
                    None => {
                        if self.wait_for_input(is_idle)? {
                            if let Err(error) = input.fill() {
                                self.finish()?;
                                let why = format!("cannot read standard input: {error}");
                                return Err(io::Error::new(error.kind(), why));
                            }
                            continue;
                        }
                    }
                }
            }
            if !is_idle {
                self.next_outcome()?;
            }
        }
    }

    /// Whether standard input is readable; waits for it if there is nothing else to do.
    fn wait_for_input(&mut self, is_idle: bool) -> io::Result<bool> {
        let timeout = if is_idle { None } else { Some(Duration::ZERO) };
        let mut sources = [Source::Stdin, Source::Alarm(&self.alarm)];
        Ok(self.report().wait(&mut sources, timeout)?.has_input)
    }

    /// Starts to send the message in one line.
    fn take(&mut self, number: u64, line: &[u8]) -> io::Result<()> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let message = match message_of(line) {
            Ok(message) => message,
            Err(why) => {
                self.report().bad_line(number, &why);
                return Ok(());
            }
        };
        loop {
            // Locked during the start, so that a signal finds every line that was sent.
            let mut report = Report::lock(&self.report);
            match self.client.start(&self.target, &message) {
                Ok(id) => {
                    report.on_their_way.insert(id, number);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::OutboxFull && !report.on_their_way.is_empty() => {}
                Err(error) => {
                    report.outcome(number, &SendOutcome::NotSent(error));
                    return Ok(());
                }
            }
            drop(report);
            self.next_outcome()?;
        }
    }

    /// Waits for the next outcome and reports it.
    fn next_outcome(&mut self) -> io::Result<()> {
        let outcome = self.client.next_outcome().map_err(io::Error::other)?;
        let Some((id, outcome)) = outcome else { return Err(io::Error::other("an outcome is missing")) };
        let mut report = self.report();
        if let Some(number) = report.on_their_way.remove(&id) {
            report.outcome(number, &outcome);
        }
        Ok(())
    }

    /// Waits for the outcome of every message on its way, and sums up.
    fn finish(&mut self) -> io::Result<()> {
        while !self.report().on_their_way.is_empty() {
            self.next_outcome()?;
        }
        self.report().sum_up()
    }
}

/// The message that a line describes, or what is wrong with it.
fn message_of(line: &[u8]) -> Result<Outgoing, String> {
    let line = str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let message = Message::from_json(line.trim_ascii()).map_err(|error| error.to_string())?;
    let members: HashMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut outgoing = Outgoing::new(&message.kind());
    for (key, value) in members {
        outgoing = match &*key {
            "type" => outgoing,
            "data" => outgoing.with_data(value).map_err(|error| error.to_string())?,
            "from" => match message.from() {
                Some(from) => outgoing.with_from(&from),
                None => outgoing,
            },
            "ts" => match message.ts() {
                Some(ts) => outgoing.with_ts(&ts),
                None => outgoing,
            },
            "meta" => outgoing.with_meta(value).map_err(|error| error.to_string())?,
            // It would be lost without notice.
            _ => return Err(format!("{key:?} is none of `type`, `data`, `from`, `ts` and `meta`")),
        };
    }
    Ok(outgoing)
}

/// Standard input, line by line, with at most one line and one chunk of it in memory.
struct Input {
    /// Bytes that a line may have.
    line_max: usize,
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no newline.
    searched: usize,
    /// The number of lines so far.
    number: u64,
    /// Bytes dropped from the line at `start`, because it is too long.
    dropped: usize,
    is_over: bool,
}

impl Input {
    fn new(line_max: usize) -> Self {
        Self { line_max, bytes: Vec::new(), start: 0, searched: 0, number: 0, dropped: 0, is_over: false }
    }

    /// The next line with its number, or how long it is if it is too long; `None` if more has to be read.
    fn next_line(&mut self) -> Option<(u64, Result<Vec<u8>, usize>)> {
        let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
        let newline = unsearched.iter().position(|byte| *byte == b'\n').map(|at| self.searched + at);
        let end = match newline {
            Some(end) => end,
            // The last line may lack its newline.
            None if self.is_over && (self.start < self.bytes.len() || self.dropped > 0) => self.bytes.len(),
            None => {
                self.searched = self.bytes.len();
                if self.dropped > 0 || self.searched - self.start > self.line_max {
                    self.dropped += self.searched - self.start;
                    self.start = self.searched;
                }
                return None;
            }
        };
        let line = self.bytes.get(self.start..end).unwrap_or_default();
        let len = line.len() + std::mem::take(&mut self.dropped);
        let line = if len > self.line_max { Err(len) } else { Ok(line.to_vec()) };
        self.start = (end + 1).min(self.bytes.len());
        self.searched = self.start;
        self.number += 1;
        Some((self.number, line))
    }

    /// Reads up to one chunk more.
    fn fill(&mut self) -> io::Result<()> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        let len = self.bytes.len();
        self.bytes.resize(len + CHUNK, 0);
        let read = Stdin.read(self.bytes.get_mut(len..).unwrap_or_default());
        self.bytes.truncate(len + *read.as_ref().unwrap_or(&0));
        self.is_over = read? == 0;
        Ok(())
    }
}

/// The number of lines with each outcome.
#[derive(Default)]
struct Tally {
    accepted: u64,
    rejected: u64,
    not_sent: u64,
    unknown: u64,
    bad_lines: u64,
}

impl Tally {
    fn failed(&self) -> u64 {
        self.rejected + self.not_sent + self.unknown + self.bad_lines
    }

    /// The exit status for the worst outcome.
    fn exit_code(&self, is_complete: bool) -> ExitCode {
        match self {
            Self { unknown: 1.., .. } => ExitCode::from(3),
            _ if self.failed() > 0 || !is_complete => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} accepted", self.accepted)?;
        for (count, what) in [
            (self.rejected, "rejected"),
            (self.not_sent, "not sent"),
            (self.unknown, "unknown"),
            (self.bad_lines, "bad lines"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// What is printed: receipts for machines; progress and failures for people.
struct Report {
    style: Style,
    /// Messages without an outcome so far, and the number of the line that each came from.
    on_their_way: HashMap<SendId, u64>,
    lines: Lines,
    tally: Tally,
    begun: Instant,
    /// When progress was printed last.
    progress_at: Instant,
    /// The terminal shows progress on the line of its cursor.
    shows_progress: bool,
    /// The last line was printed.
    is_summed_up: bool,
    /// A signal came before that; the thread that handles it prints the last line and ends the process.
    is_interrupted: bool,
}

impl Report {
    /// Locks it for the thread that sends. After a signal this does not return.
    fn lock(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        interrupt::lock_unless(shared, |report| report.is_interrupted)
    }

    /// Reports what is on its way as unknown, and sums up, before a signal ends the process.
    fn interrupted(&mut self) -> io::Result<()> {
        let mut numbers: Vec<u64> = self.on_their_way.drain().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        for number in numbers {
            let why = Error::new(ErrorKind::Io, "interrupted before its answer came");
            self.outcome(number, &SendOutcome::Unknown(why));
        }
        self.sum_up()
    }

    fn outcome(&mut self, line: u64, outcome: &SendOutcome) {
        let event = outcome.code();
        let receipt = match outcome {
            SendOutcome::Accepted { id } => json!({"event": event, "line": line, "id": id}),
            SendOutcome::Rejected { reason } => json!({"event": event, "line": line, "reason": reason}),
            SendOutcome::NotSent(error) | SendOutcome::Unknown(error) => {
                json!({"event": event, "line": line, "code": error.code(), "reason": error.to_string()})
            }
        };
        let count = match outcome {
            SendOutcome::Accepted { .. } => &mut self.tally.accepted,
            SendOutcome::Rejected { .. } => &mut self.tally.rejected,
            SendOutcome::NotSent(_) => &mut self.tally.not_sent,
            SendOutcome::Unknown(_) => &mut self.tally.unknown,
        };
        *count += 1;
        match self.style {
            Style::Json => self.lines.push(format_args!("{}", Json(receipt))),
            Style::Text if outcome.is_accepted() => {}
            Style::Text => self.trouble(&format!("line {line}: {outcome}")),
        }
    }

    fn bad_line(&mut self, line: u64, why: &str) {
        self.tally.bad_lines += 1;
        match self.style {
            Style::Json => {
                let receipt = json!({"event": "bad_line", "line": line, "reason": why});
                self.lines.push(format_args!("{}", Json(receipt)));
            }
            Style::Text => self.trouble(&format!("line {line}: {why} (not sent)")),
        }
    }

    /// Complains on a line of its own.
    fn trouble(&mut self, what: &str) {
        if std::mem::take(&mut self.shows_progress) {
            self.lines.push_part(format_args!("{ERASE}"));
            // The next flush meets the same error.
            let _ = self.lines.flush();
        }
        complain(&what);
    }

    /// Whether the readers of stdout and stderr have to catch up before another line is taken.
    fn is_behind(&self) -> bool {
        self.lines.pending() >= PENDING_MAX || complaints::pending() >= STDERR_PENDING_MAX
    }

    /// Waits until one of `sources` is ready or pending output can be written.
    fn wait(&mut self, sources: &mut [Source<'_>], timeout: Option<Duration>) -> io::Result<Woken> {
        let woken = output::wait(sources, Some(&mut self.lines), timeout)?;
        if woken.is_closed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(woken) }
    }

    /// Writes receipts, or progress.
    fn flush(&mut self) -> io::Result<()> {
        // A terminal that is behind gets its progress later.
        let is_due =
            self.style == Style::Text && self.progress_at.elapsed() >= PROGRESS && self.lines.pending() == 0;
        if is_due && io::stdout().is_terminal() {
            self.progress_at = Instant::now();
            self.shows_progress = true;
            self.lines.push_part(format_args!("{ERASE}{}", self.tally));
        }
        self.lines.flush()
    }

    /// Prints the last line, once every message has its outcome.
    fn sum_up(&mut self) -> io::Result<()> {
        self.is_summed_up = true;
        let tally = &self.tally;
        let seconds = self.begun.elapsed().as_secs_f64();
        match self.style {
            Style::Json => {
                let summary = json!({
                    "event": "summary",
                    "accepted": tally.accepted,
                    "rejected": tally.rejected,
                    "notSent": tally.not_sent,
                    "unknown": tally.unknown,
                    "badLines": tally.bad_lines,
                    "millis": seconds * 1000.0,
                });
                self.lines.push(format_args!("{summary}"));
            }
            Style::Text => self.lines.push(format_args!("{ERASE}{tally} in {seconds:.3} s")),
        }
        let _ = self.lines.flush_until(None)?;
        if self.style == Style::Json && tally.failed() > 0 {
            complain(&format!("not everything was accepted: {tally}"));
        }
        Ok(())
    }
}
