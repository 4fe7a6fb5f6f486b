//! `udsmsg run`: an inbox for a command that has none. It lives as long as the command.
//!
//! The command finds the address in its environment; the token is in the capability file, as for every
//! client. Messages are written to its standard input, or printed as `serve` does.

use std::io;
use std::path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
};
use udsmsg::{Address, Error, Server};

use crate::args::RunArgs;
use crate::complaints::{self, complain};
use crate::context::Context;
use crate::interrupt;
use crate::lines::Lines;
use crate::output::Style;
use crate::owner::{self, GRACE, Printer, STOP, release_again};
use crate::waiting::{Came, Signals};

/// The signals that would end this process and that other processes send: they are passed on to the command,
/// and the inbox stays until it ends.
const PASSED_ON: [i32; 10] =
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU];

/// The exit status that shells give to a command that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Serves until the command ends, and ends as it did.
pub(crate) fn run(args: &RunArgs, context: &Context) -> Result<ExitCode, Error> {
    let signals = Signals::of(&[&PASSED_ON[..], &[SIGCHLD]].concat())?;
    let mut builder = context.server();
    if let Some(path) = &args.socket {
        let address = Address::parse(path)?;
        // The command may change its directory.
        builder = match path::absolute(address.path()) {
            Ok(path) => builder.address(Address::from_path(&path)?),
            Err(error) => {
                complain(&format!("cannot say which directory {path:?} is relative to: {error}"));
                return Ok(ExitCode::FAILURE);
            }
        };
    }
    let server = builder.start()?;
    let mut child = match start(args, &server) {
        Ok(child) => child,
        Err(error) => {
            let name = args.command.first().map(|name| name.display().to_string()).unwrap_or_default();
            complain(&format!("cannot start {name:?}: {error}"));
            // The exit statuses of shells.
            return Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }));
        }
    };
    let printer = match child.stdin.take() {
        // A command reads JSON, even if stdout is a terminal.
        Some(stdin) => Printer::new(Lines::to_command(stdin), Style::Json, false),
        None => {
            let mut printer = Printer::new(Lines::to_stdout(), context.style, false);
            printer.first_line(&server);
            printer
        }
    };
    let mut running = Running { server, child, signals, printer, takes_more: true, is_interrupted: false };
    let ended = running.serve();
    Ok(running.stop(ended, !args.stdin))
}

/// Starts the command with the address of `server` in its environment.
fn start(args: &RunArgs, server: &Server) -> io::Result<Child> {
    let (name, arguments) = args.command.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(name);
    command.args(arguments).envs(server.child_env());
    if args.stdin {
        command.stdin(Stdio::piped());
    }
    command.spawn()
}

/// A command that runs, and its inbox.
struct Running {
    server: Server,
    child: Child,
    signals: Signals,
    printer: Printer,
    /// Whether the reader of the messages takes more. If not, they stay in the inbox; once that is full,
    /// their senders are told so.
    takes_more: bool,
    /// The terminal sent SIGINT. If that ends the command, it ends this process too, for a shell that waits
    /// for it.
    is_interrupted: bool,
}

impl Running {
    /// Serves until the command has ended; its status.
    fn serve(&mut self) -> io::Result<u8> {
        loop {
            if let Some(code) = self.turn()? {
                return Ok(code);
            }
        }
    }

    /// The status of the command, if it has ended.
    fn turn(&mut self) -> io::Result<Option<u8>> {
        if self.takes_more
            && let Err(error) = self.printer.flush()
        {
            self.takes_more = false;
            if error.kind() != io::ErrorKind::BrokenPipe {
                complain(&error);
            }
        }
        let lines = if self.takes_more { self.printer.watched() } else { None };
        let (came, is_closed) = owner::wait(&mut self.server, &mut self.signals, lines)?;
        self.takes_more &= !is_closed;
        for came in came {
            if came.signal != SIGCHLD {
                self.is_interrupted |= came.is_from_terminal && came.signal == SIGINT;
                self.pass_on(came)?;
            } else if let Some(code) = self.reap()? {
                return Ok(Some(code));
            }
        }
        owner::turn(&mut self.server)?;
        if self.takes_more {
            self.printer.drain(&mut self.server);
        }
        Ok(None)
    }

    /// Takes the status of every child that has ended. There may be others than the command: process 1 and a
    /// subreaper adopt orphans.
    ///
    /// The status of the command as shells give it: its own, or 128 and the signal that ended it.
    fn reap(&self) -> io::Result<Option<u8>> {
        while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
            if pid.as_raw_pid() == self.pid().as_raw() {
                let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
                return Ok(Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
            }
        }
        Ok(None)
    }

    /// Sends a signal to the command, unless the terminal sent it to both.
    fn pass_on(&self, came: Came) -> io::Result<()> {
        let is_in_our_group = getpgid(Some(self.pid())) == Ok(getpgrp());
        if !(came.is_from_terminal && is_in_our_group) {
            // The pid is still the command's, because its status was not taken.
            let _ = kill(self.pid(), Signal::try_from(came.signal)?);
        }
        Ok(())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Stops the server; `ended` is how the command ended. The rest of the messages is printed, if stdout
    /// takes them.
    fn stop(mut self, ended: io::Result<u8>, is_printing: bool) -> ExitCode {
        let until = Instant::now() + STOP;
        let stopped = if self.takes_more && is_printing {
            let (printed, stopped) = self.printer.stop(&mut self.server, until);
            if let Err(error) = &printed {
                complain(error);
            }
            stopped
        } else {
            let left = self.printer.unprinted() + self.server.inbox_len();
            if left > 0 {
                complain(&format!("messages not printed before the command ended: {left}"));
            }
            let stopped = self.server.shutdown(GRACE);
            release_again(&mut self.server, stopped, until)
        };
        if let Err(error) = &stopped {
            complain(error);
        }
        let code = ended.unwrap_or_else(|error| {
            complain(&error);
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
            1
        });
        drop(self.server);
        complaints::finish(until);
        if self.is_interrupted && code == INTERRUPTED {
            return interrupt::end_by(SIGINT);
        }
        ExitCode::from(code)
    }
}
