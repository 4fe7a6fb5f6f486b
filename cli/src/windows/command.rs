//! A command that was started.

use std::io;
use std::process::{self, ChildStdin, Command, ExitCode};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use super::signals::Signals;
use super::waiting::end_wait;

/// How a command ended.
pub(crate) type Status = i32;

/// A command that runs.
pub(crate) struct Running {
    stdin: Option<ChildStdin>,
    /// Gets the status from a thread that waits for it.
    ended: Receiver<io::Result<Status>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let (sender, ended) = mpsc::channel();
        let wait = move || {
            // Every process that has ended has a status here.
            let status = child.wait().map(|status| status.code().unwrap_or(1));
            let _ = sender.send(status);
            end_wait();
        };
        thread::Builder::new().spawn(wait)?;
        Ok(Self { stdin, ended })
    }

    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// The status of the command, if it has ended. An event of the console came to it too, so that there is
    /// nothing to pass on.
    pub(crate) fn turn(&mut self, signals: &mut Signals) -> io::Result<Option<Status>> {
        drop(signals.take());
        match self.ended.try_recv() {
            Ok(status) => status.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the status of the command is lost")),
        }
    }

    /// Waits until the command has ended. There is no way to ask it to.
    pub(crate) fn end(&mut self) {
        let _ = self.ended.recv();
    }

    /// Ends this process as the command ended, with the status `code`.
    pub(crate) fn end_alike(self, code: Status) -> ExitCode {
        process::exit(code)
    }
}
