//! Lines on their way to a reader, kept while a slow terminal, pipe or socket does not take them.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::sink::{Sink, Target};
use crate::waiting::{self, CLOSED};

/// The most bytes written in a row, so that a fast reader cannot keep the loop from the sockets.
const BUDGET: usize = 1 << 18;

/// How long to wait for a sink that reported room and took nothing: another process writes to the same
/// terminal.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether a write makes sense.
#[derive(Clone, Copy)]
enum Room {
    Unknown,
    /// The last write found none; `poll` will report it.
    None,
    /// `poll` reported some.
    Reported,
    /// `poll` reported some and the write found none: the next try is not before this time.
    NotBefore(Instant),
}

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
    room: Room,
}

impl Lines {
    pub(crate) fn to_stdout() -> Self {
        Self::to(Target::Stdout(io::stdout()), "stdout")
    }

    pub(crate) fn to_stderr() -> Self {
        Self::to(Target::Stderr(io::stderr()), "stderr")
    }

    /// To the standard input of a command.
    pub(crate) fn to_command(stdin: ChildStdin) -> Self {
        Self::to(Target::Own(stdin.into()), "the standard input of the command")
    }

    fn to(fd: Target, name: &'static str) -> Self {
        let sink = Sink::of(fd);
        Self { sink, name, pending: Vec::new(), written: 0, total: 0, room: Room::Unknown }
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
        match self.room {
            Room::None => return Ok(()),
            Room::NotBefore(time) if Instant::now() < time => return Ok(()),
            _ => {}
        }
        let before = self.total;
        while self.pending() > 0 && self.total - before < BUDGET as u64 {
            match self.sink.write(self.rest()) {
                Ok(n) if n > 0 => {
                    self.written += n;
                    self.total += n as u64;
                    self.room = Room::Unknown;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    let what = format!("cannot write to {}: {error}", self.name);
                    return Err(io::Error::new(error.kind(), what));
                }
                Ok(_) | Err(_) => {
                    self.room = match self.room {
                        Room::Reported => Room::NotBefore(Instant::now() + PAUSE),
                        _ => Room::None,
                    };
                    break;
                }
            }
        }
        // Half is enough: with a reader that never catches up there is always something left.
        if self.written >= self.pending.len() / 2 {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Writes until nothing is left, waiting for room until `time` (`None`: without a limit); whether nothing
    /// is left.
    ///
    /// # Errors
    ///
    /// As for [`Lines::flush`].
    pub(crate) fn flush_until(&mut self, time: Option<Instant>) -> io::Result<bool> {
        loop {
            self.flush()?;
            if self.pending() == 0 {
                return Ok(true);
            }
            let left = time.map(|time| time.saturating_duration_since(Instant::now()));
            // A flush that only reached its budget goes on, also after `time`.
            if left.is_some_and(|left| left.is_zero()) && !matches!(self.room, Room::Unknown) {
                return Ok(false);
            }
            let timeout = [left, self.retry_after()].into_iter().flatten().min();
            let mut fds = [self.watch()];
            waiting::wait(&mut fds, timeout)?;
            let [got] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            self.polled(got);
        }
    }

    /// Whether `poll` is to report room.
    pub(crate) fn wants_room(&self) -> bool {
        self.pending() > 0 && !matches!(self.room, Room::NotBefore(_))
    }

    /// What to poll for: room if it is wanted, and always the end of the reader.
    pub(crate) fn watch(&self) -> PollFd<'_> {
        let events = if self.wants_room() { PollFlags::POLLOUT } else { PollFlags::empty() };
        PollFd::new(self.sink.as_fd(), events)
    }

    /// The longest time to wait for `poll`, because `poll` will not report the room.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self.room {
            Room::NotBefore(time) if self.pending() > 0 => {
                Some(time.saturating_duration_since(Instant::now()))
            }
            _ => None,
        }
    }

    /// Takes what `poll` reported; whether the reader is gone.
    pub(crate) fn polled(&mut self, got: PollFlags) -> bool {
        if !got.is_empty() {
            self.room = Room::Reported;
        }
        got.intersects(CLOSED)
    }
}
