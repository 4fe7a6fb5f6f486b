//! What a command prints, and what its loop waits for.
//!
//! Results go to stdout, as JSON lines or as sentences; complaints go to stderr.

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use crate::complaints::{self, complain};
use crate::escape::{Escaped, Json};
use crate::lines::Lines;
use crate::platform::{self, Source, Woken};

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

/// Waits until one of `sources` is ready, `lines` or stderr have room for what is pending, the reader of
/// `lines` is gone, or `timeout` is over.
pub(crate) fn wait(
    sources: &mut [Source<'_>],
    lines: Option<&mut Lines>,
    timeout: Option<Duration>,
) -> io::Result<Woken> {
    let (stderr_wants_room, stderr_retry) = complaints::before_wait();
    let lines_retry = lines.as_ref().and_then(|lines| lines.retry_after());
    let timeout = [timeout, stderr_retry, lines_retry].into_iter().flatten().min();
    let woken = platform::wait(sources, lines.map(Lines::output), stderr_wants_room, timeout)?;
    if woken.stderr_has_room {
        complaints::room_found();
    }
    Ok(woken)
}
