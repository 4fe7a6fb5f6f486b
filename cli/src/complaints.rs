//! What went wrong, on stderr. Lines may be lost; the loop is never stopped.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::escape::Escaped;
use crate::lines::Lines;

/// The most bytes that wait for the reader of stderr; further lines are counted and dropped.
const PENDING_MAX: usize = 65_536;

/// Complaints on their way to stderr.
struct Complaints {
    lines: Lines,
    dropped: u64,
    /// A write failed: no line is accepted any more.
    is_closed: bool,
}

static STDERR: Mutex<Option<Complaints>> = Mutex::new(None);

/// Calls `f` with stderr, which is opened at the first use.
fn with_stderr<T>(f: impl FnOnce(&mut Complaints) -> T) -> T {
    let mut stderr = STDERR.lock().unwrap_or_else(PoisonError::into_inner);
    f(stderr.get_or_insert_with(|| Complaints { lines: Lines::to_stderr(), dropped: 0, is_closed: false }))
}

impl Complaints {
    fn push(&mut self, line: &str) {
        self.flush();
        if self.is_closed {
            return;
        }
        let pending = self.lines.pending();
        if pending > 0 && pending + line.len() > PENDING_MAX {
            self.dropped += 1;
            return;
        }
        self.push_dropped();
        self.lines.push(format_args!("{line}"));
        self.flush();
    }

    /// Appends a line with the number of lines dropped, if there are any.
    fn push_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.lines.push(format_args!("{dropped} lines for stderr were dropped: it did not take them"));
        }
    }

    fn flush(&mut self) {
        if self.lines.flush().is_err() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.is_closed = true;
        self.lines.discard();
    }
}

/// Prints on stderr what went wrong, as one line. A stderr that is full loses it, and gets the number of
/// lines lost.
pub(crate) fn complain(what: &dyn fmt::Display) {
    let line = Escaped(&what.to_string()).to_string();
    with_stderr(|stderr| stderr.push(&line));
}

/// Stderr as something to write whole lines to, one with each call.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        complain(&text.strip_suffix('\n').unwrap_or(&text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that wait for the reader of stderr.
pub(crate) fn pending() -> usize {
    with_stderr(|stderr| stderr.lines.pending())
}

/// Writes what stderr takes; whether a wait is to report room for the rest, and the longest time to wait.
pub(crate) fn before_wait() -> (bool, Option<Duration>) {
    with_stderr(|stderr| {
        stderr.flush();
        (stderr.lines.wants_room(), stderr.lines.retry_after())
    })
}

/// Writes what stderr takes, after a wait has found room.
pub(crate) fn room_found() {
    with_stderr(|stderr| {
        stderr.lines.room_found();
        stderr.flush();
    });
}

/// Waits until stderr has taken all complaints, until `time` at the latest; drops the rest. Called at the
/// end.
pub(crate) fn finish(time: Instant) {
    with_stderr(|stderr| {
        while !stderr.is_closed && stderr.lines.pending() > 0 {
            match stderr.lines.flush_until(Some(time)) {
                Ok(true) => stderr.push_dropped(),
                Ok(false) | Err(_) => stderr.give_up(),
            }
        }
    });
}
