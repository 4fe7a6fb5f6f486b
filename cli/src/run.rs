//! `udsmsg run`: an inbox for a command that has none. It lives as long as the command.
//!
//! The command finds the address in its environment; the token is in the capability file, as for every
//! client. Messages are written to its standard input, or printed as `serve` does.

use std::io;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use udsmsg::{Address, Error, Server};

use crate::args::RunArgs;
use crate::complaints::{self, complain};
use crate::context::Context;
use crate::lines::Lines;
use crate::output::Style;
use crate::owner::{self, GRACE, Printer, STOP, release_again};
use crate::platform::{self, Signals, Status};

/// Serves until the command ends, and ends as it did.
pub(crate) fn run(args: &RunArgs, context: &Context) -> Result<ExitCode, Error> {
    let signals = Signals::of_parent()?;
    let mut builder = context.server();
    if let Some(path) = &args.socket {
        let address = Address::parse(path)?;
        // The command may change its directory.
        builder = match platform::absolute(address.path()) {
            Ok(path) => builder.address(Address::from_path(&path)?),
            Err(error) => {
                complain(&format!("cannot say which directory {path:?} is relative to: {error}"));
                return Ok(ExitCode::FAILURE);
            }
        };
    }
    let server = builder.start()?;
    let mut command = match start(args, &server) {
        Ok(command) => command,
        Err(error) => {
            let name = args.command.first().map(|name| name.display().to_string()).unwrap_or_default();
            complain(&format!("cannot start {name:?}: {error}"));
            // The exit statuses of shells.
            return Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }));
        }
    };
    let printer = match command.take_stdin() {
        // A command reads JSON, even if stdout is a terminal.
        Some(stdin) => Printer::new(Lines::to_command(stdin), Style::Json, false),
        None => {
            let mut printer = Printer::new(Lines::to_stdout(), context.style, false);
            printer.first_line(&server);
            printer
        }
    };
    let mut inbox = Inbox { server, command, signals, printer, takes_more: true };
    let ended = inbox.serve();
    Ok(inbox.stop(ended, !args.stdin))
}

/// Starts the command with the address of `server` in its environment.
fn start(args: &RunArgs, server: &Server) -> io::Result<platform::Running> {
    let (name, arguments) = args.command.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(name);
    command.args(arguments).envs(server.child_env());
    if args.stdin {
        command.stdin(Stdio::piped());
    }
    platform::Running::start(&mut command)
}

/// The inbox of a command that runs.
struct Inbox {
    server: Server,
    command: platform::Running,
    signals: Signals,
    printer: Printer,
    /// Whether the reader of the messages takes more. If not, they stay in the inbox; once that is full,
    /// their senders are told so.
    takes_more: bool,
}

impl Inbox {
    /// Serves until the command has ended; its status.
    fn serve(&mut self) -> io::Result<Status> {
        loop {
            if let Some(code) = self.turn()? {
                return Ok(code);
            }
        }
    }

    /// The status of the command, if it has ended.
    fn turn(&mut self) -> io::Result<Option<Status>> {
        if self.takes_more
            && let Err(error) = self.printer.flush()
        {
            self.takes_more = false;
            if error.kind() != io::ErrorKind::BrokenPipe {
                complain(&error);
            }
        }
        let lines = if self.takes_more { self.printer.watched() } else { None };
        let woken = owner::wait(&mut self.server, &self.signals, lines)?;
        self.takes_more &= !woken.is_closed;
        if let Some(code) = self.command.turn(&mut self.signals)? {
            return Ok(Some(code));
        }
        owner::turn(&mut self.server, &woken)?;
        if self.takes_more {
            self.printer.drain(&mut self.server);
        }
        Ok(None)
    }

    /// Stops the server; `ended` is how the command ended. The rest of the messages is printed, if stdout
    /// takes them.
    fn stop(mut self, ended: io::Result<Status>, is_printing: bool) -> ExitCode {
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
            self.command.end();
            1
        });
        drop(self.server);
        complaints::finish(until);
        self.command.end_alike(code)
    }
}
