//! What a command prints, and what its loop waits for.
//!
//! Results go to stdout, as JSON lines or as sentences; complaints go to stderr.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::complaints::{self, complain};
use crate::escape::{Escaped, Json};
use crate::lines::Lines;
use crate::waiting;

/// Who reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Machines: one JSON object per line.
    Json,
    /// People.
    Text,
}

impl Style {
    /// JSON if it was asked for or stdout is no terminal.
    pub(crate) fn of_stdout(asked_for_json: bool) -> Self {
        if asked_for_json || !io::stdout().is_terminal() { Self::Json } else { Self::Text }
    }
}

/// Prints one line on stdout, and waits until it is taken: for commands without a loop.
///
/// # Errors
///
/// A sentence with the error of stdout.
pub(crate) fn say(style: Style, line: &dyn fmt::Display) -> io::Result<()> {
    match style {
        Style::Json => print(&format!("{}\n", Json(line))),
        Style::Text => print(&format!("{}\n", Escaped(&line.to_string()))),
    }
}

/// Prints lines that are escaped already, as [`say`] prints one.
///
/// # Errors
///
/// A sentence with the error of stdout.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut lines = Lines::to_stdout();
    lines.push_part(format_args!("{text}"));
    lines.flush_until(None).map(drop)
}

/// The exit status of a command after it printed its output. A failure is a complaint, unless the reader of
/// stdout closed it: then the reader knows that it does not get the rest.
pub(crate) fn status_of(printed: io::Result<()>) -> ExitCode {
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                complain(&error);
            }
            ExitCode::FAILURE
        }
    }
}

/// Waits until one of `others` is readable, `lines` or stderr have room for what is pending, or `timeout` is
/// over.
///
/// Which of `others` are ready, and whether the reader of `lines` is gone.
pub(crate) fn wait<const N: usize>(
    others: [BorrowedFd<'_>; N],
    lines: Option<&mut Lines>,
    timeout: Option<Duration>,
) -> io::Result<([bool; N], bool)> {
    let stderr = io::stderr();
    let (stderr_wants_room, stderr_retry) = complaints::before_poll();
    let lines_retry = lines.as_ref().and_then(|lines| lines.retry_after());
    let timeout = [timeout, stderr_retry, lines_retry].into_iter().flatten().min();
    let mut fds: Vec<PollFd<'_>> = others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into();
    if stderr_wants_room {
        fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLOUT));
    }
    if let Some(lines) = &lines {
        fds.push(lines.watch());
    }
    waiting::wait(&mut fds, timeout)?;
    let got: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
    let mut got = got.into_iter();
    let ready = others.map(|_| got.next().is_some_and(|got| !got.is_empty()));
    if stderr_wants_room && let Some(got) = got.next() {
        complaints::after_poll(got);
    }
    let is_closed = match (lines, got.next()) {
        (Some(lines), Some(got)) => lines.polled(got),
        _ => false,
    };
    Ok((ready, is_closed))
}
