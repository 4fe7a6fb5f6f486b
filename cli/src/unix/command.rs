//! A command that was started, and its signals.

use std::io;
use std::process::{Child, ChildStdin, Command, ExitCode};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGINT};

use super::signals::{Received, Signals, end_by};

/// The exit status that shells give to a command that SIGINT ended.
const INTERRUPTED: Status = 130;

/// How a command ended.
pub(crate) type Status = u8;

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    /// The terminal sent SIGINT. If that ends the command, it ends this process too, for a shell that waits
    /// for it.
    is_interrupted: bool,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()?, is_interrupted: false })
    }

    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Passes on the signals that came; the status of the command, if it has ended.
    pub(crate) fn turn(&mut self, signals: &mut Signals) -> io::Result<Option<Status>> {
        for received in signals.take_received() {
            if received.signal != SIGCHLD {
                self.is_interrupted |= received.is_from_terminal && received.signal == SIGINT;
                self.pass_on(received)?;
            } else if let Some(code) = self.reap()? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// Takes the status of every child that has ended. There may be others than the command: process 1 and a
    /// subreaper adopt orphans.
    ///
    /// The status of the command as shells give it: its own, or 128 and the signal that ended it.
    fn reap(&self) -> io::Result<Option<Status>> {
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            if pid.as_raw_pid() == self.pid().as_raw() {
                let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
                return Ok(Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
            }
        }
        Ok(None)
    }

    /// Sends a signal to the command, unless the terminal sent it to both.
    fn pass_on(&self, received: Received) -> io::Result<()> {
        let is_in_our_group = getpgid(Some(self.pid())) == Ok(getpgrp());
        if !(received.is_from_terminal && is_in_our_group) {
            // The pid is still the command's, because its status was not taken.
            let _ = kill(self.pid(), Signal::try_from(received.signal)?);
        }
        Ok(())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Ends the command, and waits until it has ended.
    pub(crate) fn end(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.child.wait();
    }

    /// Ends this process as the command ended, with the status `code`.
    pub(crate) fn end_alike(self, code: Status) -> ExitCode {
        if self.is_interrupted && code == INTERRUPTED {
            end_by(SIGINT);
            return ExitCode::FAILURE;
        }
        ExitCode::from(code)
    }
}
