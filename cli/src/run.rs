//! `udsmsg run`: an inbox for a command that has none. It lives as long as the command.
//!
//! The command finds the address in its environment; the token is in the capability file, as for anybody else. What
//! arrives is handed to its standard input, or printed as `serve` does.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use udsmsg::{Address, Environment, Error, Namespace, Server};

use crate::output::{Style, complain};
use crate::serve::{GRACE, PENDING_MAX, Printer, STOP, say_what_was_skipped, take_name_again};
use crate::waiting::{self, CLOSED, Signals};

/// What to run, and what it gets.
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Where to listen. Its directory must be private; by default one is made.
    #[arg(long, value_name = "PATH", value_parser = crate::any_path())]
    socket: Option<PathBuf>,

    /// Hand each message to the standard input of COMMAND, as a line of JSON, and print nothing.
    #[arg(long)]
    stdin: bool,

    /// The command and its arguments. It is started with the address in CLAUDE_CODE_MESSAGING_SOCKET (or the variable of
    /// --namespace); SIGTERM, SIGINT and SIGHUP are passed on to it, and its exit status is ours.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Who gets the messages.
enum Taker {
    Stdout,
    Command(ChildStdin),
    /// It takes no more: messages stay in the inbox, and when that is full their senders are told.
    Nobody,
}

/// Serves until the command ends, and ends as it did.
pub(crate) fn run(
    args: &RunArgs,
    namespace: Namespace,
    environment: Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let mut signals = match Signals::of(&[SIGTERM, SIGINT, SIGHUP, SIGCHLD]) {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot handle signals: {error}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut builder = Server::builder().namespace(namespace).environment(environment);
    if let Some(path) = &args.socket {
        builder = builder.address(Address::from_path(path)?);
    }
    let mut server = builder.start()?;
    say_what_was_skipped(&server);
    let mut child = match start(args, &server) {
        Ok(child) => child,
        Err(error) => {
            let name = args.command.first().map(|name| name.display().to_string()).unwrap_or_default();
            complain(&format!("cannot start {name:?}: {error}"));
            // As shells say it.
            return Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }));
        }
    };
    // Lines of JSON for a command, whoever is looking.
    let mut printer = Printer::new(if args.stdin { Style::Json } else { style }, false);
    let mut taker = match child.stdin.take() {
        Some(stdin) => Taker::Command(stdin),
        None => {
            printer.first_line(&server);
            Taker::Stdout
        }
    };
    let status = serve(&mut server, &mut child, &mut signals, &mut printer, &mut taker);
    let until = Instant::now() + STOP;
    let stopped = server.shutdown(GRACE);
    if let Err(error) = &stopped {
        complain(error);
    }
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            complain(&error);
            let _ = kill(pid(&child), Signal::SIGTERM);
            let _ = child.wait();
            return Ok(ExitCode::FAILURE);
        }
    };
    match taker {
        Taker::Stdout => {
            if let Err(error) = printer.last_lines(&mut server, until) {
                complain(&error);
            }
        }
        Taker::Command(_) | Taker::Nobody => {
            let left = printer.lines.pending_lines() + server.inbox_len();
            if left > 0 {
                complain(&format!("messages that nobody took before the command ended: {left}"));
            }
        }
    }
    Ok(ExitCode::from(code_of(status)))
}

fn start(args: &RunArgs, server: &Server) -> io::Result<Child> {
    let (name, arguments) = args.command.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(name);
    command.args(arguments).envs(server.child_env());
    if args.stdin {
        command.stdin(Stdio::piped());
    }
    command.spawn()
}

/// The status that shells give: that of the command, or 128 and the signal that ended it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Turns until the command has ended.
fn serve(
    server: &mut Server,
    child: &mut Child,
    signals: &mut Signals,
    printer: &mut Printer,
    taker: &mut Taker,
) -> io::Result<ExitStatus> {
    loop {
        let flushed = match taker {
            Taker::Stdout => printer.lines.flush(Duration::ZERO),
            Taker::Command(stdin) => printer.lines.flush_to(stdin, Duration::ZERO),
            Taker::Nobody => Ok(()),
        };
        if flushed.is_err() || wait(server, signals, printer, taker)? {
            *taker = Taker::Nobody;
        }
        for signal in signals.take() {
            if signal != SIGCHLD {
                // The command is still ours: it was not waited for.
                let _ = kill(pid(child), Signal::try_from(signal)?);
            } else if let Some(status) = child.try_wait()? {
                // It has ended; otherwise it was stopped.
                return Ok(status);
            }
        }
        let turn = server.turn(Some(Duration::ZERO)).map_err(io::Error::other)?;
        if turn.name_lost {
            take_name_again(server);
        }
        if !matches!(taker, Taker::Nobody) && printer.lines.pending() < PENDING_MAX {
            printer.drain(server);
        }
    }
}

/// Waits for the server, a signal, or whoever takes the messages; whether the latter is gone.
fn wait(server: &mut Server, signals: &Signals, printer: &Printer, taker: &Taker) -> io::Result<bool> {
    let timeout = server.next_timeout();
    let stdout = io::stdout();
    let out: Option<BorrowedFd<'_>> = match taker {
        Taker::Stdout => Some(stdout.as_fd()),
        Taker::Command(stdin) => Some(stdin.as_fd()),
        Taker::Nobody => None,
    };
    let mut fds =
        vec![PollFd::new(server.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let wanted = if printer.lines.pending() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
    fds.extend(out.map(|fd| PollFd::new(fd, wanted)));
    waiting::wait(&mut fds, timeout)?;
    Ok(fds.get(2).and_then(PollFd::revents).is_some_and(|got| got.intersects(CLOSED)))
}
