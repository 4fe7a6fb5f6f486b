//! Lines on their way to a reader, kept while a slow terminal, pipe or socket does not take them.

use std::fmt;
use std::io::{self, Write};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use crate::platform::{Output, Sink};

/// The most bytes written in a row, so that a fast reader cannot keep the loop from the sockets.
const BUDGET: usize = 1 << 18;

/// Lines on their way to a reader. A reader that is slow, or reads nothing, does not stop the loop.
pub(crate) struct Lines {
    sink: Sink,
    /// What the sink is called in errors.
    name: &'static str,
    pending: Vec<u8>,
    /// How many of the pending bytes are written already.
    written: usize,
    /// All bytes written so far.
    total: u64,
}

impl Lines {
    pub(crate) fn to_stdout() -> Self {
        Self::to(Sink::stdout(), "stdout")
    }

    pub(crate) fn to_stderr() -> Self {
        Self::to(Sink::stderr(), "stderr")
    }

    /// To the standard input of a command.
    pub(crate) fn to_command(stdin: ChildStdin) -> Self {
        Self::to(Sink::command(stdin), "the standard input of the command")
    }

    fn to(sink: Sink, name: &'static str) -> Self {
        Self { sink, name, pending: Vec::new(), written: 0, total: 0 }
    }

    /// Bytes not written yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Appends one line.
    pub(crate) fn push(&mut self, line: fmt::Arguments<'_>) {
        self.push_part(line);
        self.pending.push(b'\n');
    }

    /// Appends text without ending the line.
    pub(crate) fn push_part(&mut self, part: fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = self.pending.write_fmt(part);
    }

    /// Drops what is not written yet.
    pub(crate) fn discard(&mut self) {
        self.pending.clear();
        self.written = 0;
    }

    /// Lines not written to their ends yet.
    pub(crate) fn pending_lines(&self) -> usize {
        self.rest().iter().filter(|byte| **byte == b'\n').count()
    }

    /// The position after the last byte appended, counted from the first one.
    pub(crate) fn end(&self) -> u64 {
        self.total + self.pending() as u64
    }

    /// Whether everything up to the position `end` is written.
    pub(crate) fn is_written(&self, end: u64) -> bool {
        self.total >= end
    }

    fn rest(&self) -> &[u8] {
        self.pending.get(self.written..).unwrap_or_default()
    }

    /// Writes what the sink takes without waiting, at most [`BUDGET`].
    ///
    /// # Errors
    ///
    /// A sentence with the error of the sink; [`io::ErrorKind::BrokenPipe`] if it is closed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.write_some().map(drop)
    }

    /// Does that; whether the sink may take more at once.
    fn write_some(&mut self) -> io::Result<bool> {
        let before = self.total;
        let mut has_room = true;
        while has_room && self.pending() > 0 && self.total - before < BUDGET as u64 {
            match self.sink.write(self.pending.get(self.written..).unwrap_or_default()) {
                Ok(n) => {
                    self.written += n;
                    self.total += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => has_room = false,
                Err(error) => {
                    let what = format!("cannot write to {}: {error}", self.name);
                    return Err(io::Error::new(error.kind(), what));
                }
            }
        }
        // Half is enough: with a reader that never catches up there is always something left.
        if self.written >= self.pending.len() / 2 {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        Ok(has_room)
    }

    /// Writes until nothing is left, waiting for room until `time` (`None`: without a limit); whether nothing
    /// is left.
    ///
    /// # Errors
    ///
    /// As for [`Lines::flush`].
    pub(crate) fn flush_until(&mut self, time: Option<Instant>) -> io::Result<bool> {
        loop {
            let has_room = self.write_some()?;
            if self.pending() == 0 {
                return Ok(true);
            }
            let left = time.map(|time| time.saturating_duration_since(Instant::now()));
            // A flush that only reached its budget goes on, also after `time`.
            if left.is_some_and(|left| left.is_zero()) && !has_room {
                return Ok(false);
            }
            self.sink.wait(left)?;
        }
    }

    /// Whether a wait is to report room.
    pub(crate) fn wants_room(&self) -> bool {
        self.pending() > 0 && self.sink.reports_room()
    }

    /// What to wait for: room if it is wanted, and always the end of the reader.
    pub(crate) fn output(&mut self) -> Output<'_> {
        Output { wants_room: self.wants_room(), sink: &mut self.sink }
    }

    /// The longest time to wait, because a wait will not report the room.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if self.pending() > 0 { self.sink.retry_after() } else { None }
    }

    /// A wait has found room.
    pub(crate) fn room_found(&mut self) {
        self.sink.room_found();
    }
}
