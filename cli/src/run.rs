//! `udsmsg run`: an inbox for a command that has none. It lives as long as the command.
//!
//! The command finds the address in its environment; the token is in the capability file, as for anybody else. What
//! arrives is handed to its standard input, or printed as `serve` does.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{self, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
};
use udsmsg::{Address, Environment, Error, Namespace, Server};

use crate::interrupt;
use crate::output::{self, Lines, Style, complain};
use crate::serve::{GRACE, PENDING_MAX, Printer, STOP, release_again, take_name_again};
use crate::waiting::{Came, Signals};

/// The signals that would end this process, and that others send: the command gets them, and the inbox is there until it
/// ends.
const PASSED_ON: [i32; 10] =
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU];

/// What to run, and what it gets.
#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Where to listen, with or without `uds:`; a relative path is made absolute. Its directory must be private; by default
    /// one is made.
    #[arg(long, value_name = "PATH", value_parser = crate::any_path())]
    socket: Option<PathBuf>,

    /// Hand each message to the standard input of COMMAND, as a line of JSON, and print nothing.
    #[arg(long)]
    stdin: bool,

    /// The command and its arguments. It is started with the address in CLAUDE_CODE_MESSAGING_SOCKET (or the variable of
    /// --namespace); signals are passed on to it, and its exit status is ours.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Serves until the command ends, and ends as it did.
pub(crate) fn run(
    args: &RunArgs,
    namespace: Namespace,
    environment: Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let mut signals = match Signals::of(&[&PASSED_ON[..], &[SIGCHLD]].concat()) {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot handle signals: {error}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut builder = Server::builder().namespace(namespace).environment(environment);
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
    let mut server = builder.start()?;
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
    let mut printer = match child.stdin.take() {
        Some(stdin) => Printer::new(Lines::to_command(stdin), Style::Json, false),
        None => {
            let mut printer = Printer::new(Lines::to_stdout(), style, false);
            printer.first_line(&server);
            printer
        }
    };
    let mut seen = Seen { takes_more: true, is_interrupted: false };
    let status = serve(&mut server, &child, &mut signals, &mut printer, &mut seen);
    let until = Instant::now() + STOP;
    let stopped = if seen.takes_more && !args.stdin {
        let (printed, stopped) = printer.stop(&mut server, until);
        if let Err(error) = &printed {
            complain(error);
        }
        stopped
    } else {
        let left = printer.unprinted() + server.inbox_len();
        if left > 0 {
            complain(&format!("messages that nobody took before the command ended: {left}"));
        }
        let stopped = server.shutdown(GRACE);
        release_again(&mut server, stopped, until)
    };
    if let Err(error) = &stopped {
        complain(error);
    }
    let code = match status {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            let _ = kill(pid(&child), Signal::SIGTERM);
            let _ = child.wait();
            ExitCode::FAILURE
        }
    };
    drop(server);
    output::finish_stderr(until);
    if seen.is_interrupted && code == ExitCode::from(INTERRUPTED) {
        return Ok(interrupt::end_by(SIGINT));
    }
    Ok(code)
}

/// What shells make of an end by SIGINT.
const INTERRUPTED: u8 = 130;

/// What was seen while the command ran.
struct Seen {
    /// Whether the reader of the messages takes more: if not, they stay in the inbox, and when that is full their senders
    /// are told.
    takes_more: bool,
    /// The terminal has sent SIGINT. If the command dies of it, so do we, for a shell that waits for us.
    is_interrupted: bool,
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

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Takes the status of every child that has ended: as process 1, and where we were made to adopt orphans, there are others
/// than the command.
///
/// That of the command is as shells give it: its own, or 128 and the signal that ended it.
fn reap(child: &Child) -> io::Result<Option<u8>> {
    while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
        if pid.as_raw_pid() == child.id().cast_signed() {
            let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
            return Ok(Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }
    }
    Ok(None)
}

/// Gives a signal to the command, unless it has it already.
fn pass_on(came: Came, child: &Child) -> io::Result<()> {
    let is_in_our_group = getpgid(Some(pid(child))) == Ok(getpgrp());
    if !(came.is_from_terminal && is_in_our_group) {
        // The command is still ours: it was not waited for.
        let _ = kill(pid(child), Signal::try_from(came.signal)?);
    }
    Ok(())
}

/// Turns until the command has ended; its status.
fn serve(
    server: &mut Server,
    child: &Child,
    signals: &mut Signals,
    printer: &mut Printer,
    seen: &mut Seen,
) -> io::Result<u8> {
    loop {
        if let Some(code) = turn(server, child, signals, printer, seen)? {
            return Ok(code);
        }
    }
}

/// The status of the command, if it has ended.
fn turn(
    server: &mut Server,
    child: &Child,
    signals: &mut Signals,
    printer: &mut Printer,
    seen: &mut Seen,
) -> io::Result<Option<u8>> {
    if seen.takes_more
        && let Err(error) = printer.lines.flush()
    {
        seen.takes_more = false;
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(&error);
        }
    }
    let timeout = server.next_timeout();
    let lines = seen.takes_more.then_some(&mut printer.lines);
    let queue = server.event_queue().ok_or(io::ErrorKind::Unsupported)?;
    let (_, is_closed) = output::wait([queue, signals.as_fd()], lines, timeout)?;
    seen.takes_more &= !is_closed;
    for came in signals.take() {
        if came.signal != SIGCHLD {
            seen.is_interrupted |= came.is_from_terminal && came.signal == SIGINT;
            pass_on(came, child)?;
        } else if let Some(code) = reap(child)? {
            return Ok(Some(code));
        }
    }
    let turn = server.process().map_err(io::Error::other)?;
    if turn.name_lost {
        take_name_again(server);
    }
    if seen.takes_more && printer.lines.pending() < PENDING_MAX {
        printer.drain(server);
    }
    Ok(None)
}
