//! Where words go: JSON lines or sentences on stdout, complaints on stderr, nothing of a peer's unescaped on a terminal.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Whom we print for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Machines: one JSON object per line.
    Json,
    /// People.
    Text,
}

impl Style {
    /// JSON if it was asked for or nobody is looking.
    pub(crate) fn of_stdout(asked_for_json: bool) -> Self {
        if asked_for_json || !io::stdout().is_terminal() { Self::Json } else { Self::Text }
    }
}

/// Says on stderr what went wrong. A closed stderr cannot be told so.
pub(crate) fn complain(what: &dyn fmt::Display) {
    let line = format!("{}\n", Escaped(&what.to_string()));
    // At once: others may be writing there.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Text of a stranger, with everything that a terminal might obey made visible.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let is_format =
                matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || is_format {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// Bytes that a pipe takes without blocking once it has said that it takes some.
const CHUNK: usize = 4096;

/// Chunks written in a row, so that a fast reader cannot keep us from the sockets.
const CHUNKS_MAX: usize = 64;

/// Lines on their way to stdout. Nobody who reads slowly can block the loop.
#[derive(Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
    written: usize,
}

impl Lines {
    /// Bytes not written yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Puts one line behind the others.
    pub(crate) fn push(&mut self, line: fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = self.pending.write_fmt(line);
        self.pending.push(b'\n');
    }

    /// Lines not written to their ends yet.
    pub(crate) fn pending_lines(&self) -> usize {
        self.rest().iter().filter(|byte| **byte == b'\n').count()
    }

    fn rest(&self) -> &[u8] {
        self.pending.get(self.written..).unwrap_or_default()
    }

    /// Writes what stdout takes within `timeout`.
    ///
    /// # Errors
    ///
    /// Whatever stdout says: it is closed.
    pub(crate) fn flush(&mut self, timeout: Duration) -> io::Result<()> {
        self.flush_to(&mut io::stdout().lock(), timeout)
    }

    /// Writes what `out` takes within `timeout`.
    ///
    /// # Errors
    ///
    /// Whatever `out` says: it is closed.
    pub(crate) fn flush_to(&mut self, out: &mut (impl Write + AsFd), timeout: Duration) -> io::Result<()> {
        let mut timeout = timeout;
        for _ in 0..CHUNKS_MAX {
            let rest = self.rest();
            if rest.is_empty() {
                break;
            }
            let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
            let millis = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, millis).unwrap_or(0) == 0 {
                break;
            }
            timeout = Duration::ZERO;
            let chunk = rest.get(..CHUNK).unwrap_or(rest);
            // A buffer like that of `Stdout` would hold back a line and block on it later: write all and flush.
            out.write_all(chunk)?;
            out.flush()?;
            self.written += chunk.len();
        }
        // Also when there is always something left, as with a reader that never catches up.
        if self.written >= self.pending.len() / 2 {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}
