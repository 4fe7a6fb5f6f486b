//! What every owner of an inbox does: wait, take a turn, print messages, stop.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use serde_json::json;
use udsmsg::{Batch, Error, ErrorKind, InboxEntry, Server};

use crate::complaints::complain;
use crate::escape::{Escaped, Json};
use crate::lines::Lines;
use crate::output::{self, Style};
use crate::platform::{self, Signals, Source, Woken};

/// While more bytes than this wait for the reader of messages, the inbox is not drained.
const PENDING_MAX: usize = 1 << 20;

/// How long clients may take to read their last answers after a stop began.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// How long a whole stop may take, its output included; the contract says two seconds.
pub(crate) const STOP: Duration = Duration::from_millis(1_700);

/// Waits until the server has work, a signal has come, or there is room for pending output.
pub(crate) fn wait(server: &mut Server, signals: &Signals, lines: Option<&mut Lines>) -> io::Result<Woken> {
    output::wait(&mut [Source::Server(server), Source::Signals(signals)], lines, None)
}

/// Lets the server work without waiting, after a wait. If its name or its capability file was removed,
/// clients cannot find it any more: both are made again.
pub(crate) fn turn(server: &mut Server, woken: &Woken) -> io::Result<()> {
    let turn = server.process().map_err(io::Error::other)?;
    if turn.name_lost || woken.name_lost {
        let path = server.address().path().to_owned();
        match server.rebind() {
            Ok(()) => complain(&format!("the socket {path:?} and its capability file are there again")),
            Err(error) => complain(&format!(
                "the socket {path:?} or its capability file cannot be made again yet: {error}"
            )),
        }
    }
    Ok(())
}

/// Tries again, until `until`, to remove what a stop could not remove because another process held the lock
/// on the directory. Called after all that is more urgent.
pub(crate) fn release_again(
    server: &mut Server,
    stopped: Result<(), Error>,
    until: Instant,
) -> Result<(), Error> {
    match stopped {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            server.shutdown(until.saturating_duration_since(Instant::now()))
        }
        stopped => stopped,
    }
}

/// Prints the messages of an inbox.
pub(crate) struct Printer {
    lines: Lines,
    batch: Batch,
    style: Style,
    is_quiet: bool,
    /// Where the first line ends, as a position in the output.
    first_line_end: u64,
}

impl Printer {
    /// A printer of every message, or with `is_quiet` of none.
    pub(crate) fn new(lines: Lines, style: Style, is_quiet: bool) -> Self {
        Self { lines, batch: Batch::new(), style, is_quiet, first_line_end: 0 }
    }

    /// Prints where the server listens.
    pub(crate) fn first_line(&mut self, server: &Server) {
        let address = server.address();
        match self.style {
            Style::Json => self.lines.push(format_args!(
                r#"{{"event":"listening","socket":{},"address":{}}}"#,
                Json(json!(address.path())),
                Json(json!(address.to_string()))
            )),
            Style::Text => self.lines.push(format_args!("listening at {}", Escaped(&address.to_string()))),
        }
        self.first_line_end = self.lines.end();
    }

    /// Writes what the reader takes without waiting.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()
    }

    /// The lines to wait for. With `--quiet` the reader may go away after the first line.
    pub(crate) fn watched(&mut self) -> Option<&mut Lines> {
        (!self.is_quiet || self.lines.pending() > 0).then_some(&mut self.lines)
    }

    /// Messages that were drained and not written to their ends.
    pub(crate) fn unprinted(&self) -> usize {
        self.lines.pending_lines() - usize::from(!self.lines.is_written(self.first_line_end))
    }

    /// Takes the messages out of the inbox and prints them, unless the reader is behind; whether it did.
    pub(crate) fn drain(&mut self, server: &mut Server) -> bool {
        let is_behind = self.lines.pending() >= PENDING_MAX;
        if !is_behind {
            self.drain_all(server);
        }
        !is_behind
    }

    fn drain_all(&mut self, server: &mut Server) {
        server.drain_into(&mut self.batch);
        if self.is_quiet {
            return;
        }
        for entry in &self.batch {
            match self.style {
                Style::Json => self.lines.push(format_args!("{}", Json(JsonEntry(entry)))),
                Style::Text => self.lines.push(format_args!("{}", TextEntry(entry))),
            }
        }
    }

    /// Stops the server by `until`, and prints every message that was accepted. What the reader takes at once
    /// is printed before the stop, which may need all the time that is left; the rest is printed after it.
    pub(crate) fn stop(
        &mut self,
        server: &mut Server,
        until: Instant,
    ) -> (io::Result<()>, Result<(), Error>) {
        self.drain_all(server);
        let begun = self.lines.flush_until(Some(Instant::now()));
        let stopped = server.shutdown(GRACE.min(until.saturating_duration_since(Instant::now())));
        let printed = begun.and_then(|_| self.last_lines(until));
        (printed, release_again(server, stopped, until))
    }

    fn last_lines(&mut self, until: Instant) -> io::Result<()> {
        if self.lines.flush_until(Some(until))? {
            return Ok(());
        }
        let bytes = self.lines.pending();
        let why = format!("{bytes} bytes of messages were not printed: stdout did not take them in time");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

/// One entry as a line of JSON.
struct JsonEntry<'b>(InboxEntry<'b>);

impl fmt::Display for JsonEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.0;
        let message = entry.message();
        write!(
            f,
            r#"{{"id":"{}","message":{},"receivedAt":{},"status":"processed","peer":{}}}"#,
            entry.id(),
            message.json(),
            entry.received_at().as_millis(),
            platform::peer_json(entry.peer()),
        )
    }
}

/// One entry for people.
struct TextEntry<'b>(InboxEntry<'b>);

impl fmt::Display for TextEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.0;
        let message = entry.message();
        write!(f, "{}  {}", entry.id(), Escaped(&message.kind()))?;
        if let Some(pid) = entry.peer().pid() {
            write!(f, "  from pid {pid}")?;
        }
        match message.data() {
            Some(data) => match data.text() {
                Some(text) => write!(f, "  {}", Escaped(&text)),
                None => write!(f, "  {}", Escaped(data.json())),
            },
            None => Ok(()),
        }
    }
}
