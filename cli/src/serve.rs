//! `udsmsg serve`: an inbox whose owner prints what arrives.
//!
//! One loop over `poll(2)`: the server, the signals, stdout. A reader of stdout that falls behind makes the inbox fill
//! up, and senders are told so; it never blocks the loop.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe;
use udsmsg::{Address, Batch, Environment, Error, InboxEntry, Limits, Namespace, Server};

use crate::ServeArgs;
use crate::output::{Escaped, Lines, Style, complain};

/// The inbox is not drained while more than this waits for the reader of stdout.
const PENDING_MAX: usize = 1 << 20;

/// For clients to take their last answers after a stop was asked for.
const GRACE: Duration = Duration::from_millis(500);

/// For the reader of stdout to take the last lines after that.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Signals, as bytes in pipes.
struct Signals {
    stop: UnixStream,
    print: UnixStream,
}

impl Signals {
    fn install() -> io::Result<Self> {
        let pair = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                pipe::register(*signal, write.try_clone()?)?;
            }
            Ok::<_, io::Error>(read)
        };
        Ok(Self { stop: pair(&[SIGTERM, SIGINT, SIGHUP])?, print: pair(&[SIGUSR1])? })
    }
}

/// Whether a signal came since the last time it was asked.
fn came(pipe: &mut UnixStream) -> bool {
    matches!(pipe.read(&mut [0; 64]), Ok(1..))
}

/// Serves until a signal or the reader of stdout ends it.
pub(crate) fn run(
    args: &ServeArgs,
    namespace: Namespace,
    environment: Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot handle signals: {error}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut limits = Limits::default();
    if let Some(clients_max) = args.max_clients {
        limits.clients_max = clients_max;
    }
    let mut builder = Server::builder().namespace(namespace).environment(environment).limits(limits);
    if let Some(path) = &args.socket {
        builder = builder.address(Address::from_path(path)?);
    }
    let mut server = builder.start()?;
    for skipped in server.location().skipped() {
        complain(&format!("default location not used: {}", skipped.reason));
    }
    let mut printer = Printer { lines: Lines::default(), batch: Batch::new(), style, is_quiet: args.quiet };
    printer.first_line(&server);
    let printed = serve(&mut server, &mut signals, &mut printer, args.no_drain);
    // From here on nothing is accepted, and everything that was accepted is printed.
    let stopped = server.shutdown(GRACE);
    let printed = printed.and(printer.last_lines(&mut server));
    match &printed {
        // Whoever closed stdout knows.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => complain(error),
        _ => {}
    }
    if let Err(error) = &stopped {
        complain(error);
    }
    Ok(if printed.is_ok() && stopped.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Turns until it is told to stop; an error is that of stdout or of the server.
fn serve(
    server: &mut Server,
    signals: &mut Signals,
    printer: &mut Printer,
    no_drain: bool,
) -> io::Result<()> {
    // Asked for, and not done yet: while stdout is behind, it waits.
    let mut print_now = false;
    loop {
        printer.lines.flush(Duration::ZERO).map_err(|error| {
            let what = format!("cannot write to stdout: {error}");
            io::Error::new(error.kind(), what)
        })?;
        wait(server, signals, printer)?;
        if came(&mut signals.stop) {
            return Ok(());
        }
        print_now |= came(&mut signals.print);
        let turn = server.turn(Some(Duration::ZERO)).map_err(io::Error::other)?;
        if turn.name_lost {
            take_name_again(server);
        }
        if (!no_drain || print_now) && printer.lines.pending() < PENDING_MAX {
            printer.drain(server);
            print_now = false;
        }
    }
}

/// Somebody removed the socket: nobody could find us any more.
fn take_name_again(server: &mut Server) {
    let path = server.address().path().to_owned();
    match server.rebind() {
        Ok(()) => complain(&format!("the socket {path:?} had vanished; listening there again")),
        Err(error) => {
            complain(&format!("the socket {path:?} has vanished and cannot be made again yet: {error}"))
        }
    }
}

/// Waits for the server, a signal, or stdout.
fn wait(server: &mut Server, signals: &Signals, printer: &Printer) -> io::Result<()> {
    let stdout = io::stdout();
    // A closed pipe is reported whether or not anything else is asked for. With --quiet nobody needs to read.
    let wanted = if printer.lines.pending() > 0 { PollFlags::POLLOUT } else { PollFlags::empty() };
    let timeout = match server.next_timeout() {
        // Rounded up: a deadline is not waited for in steps of zero.
        Some(timeout) => {
            PollTimeout::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    let fd = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = [
        fd(server.as_fd()),
        fd(signals.stop.as_fd()),
        fd(signals.print.as_fd()),
        PollFd::new(stdout.as_fd(), wanted),
    ];
    let watched: &mut [PollFd<'_>] =
        if printer.is_quiet && printer.lines.pending() == 0 { &mut fds[..3] } else { &mut fds };
    match poll(watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let closed = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    match watched.get(3).and_then(PollFd::revents) {
        Some(got) if got.intersects(closed) => Err(io::ErrorKind::BrokenPipe.into()),
        _ => Ok(()),
    }
}

/// What the owner of this inbox does with a message: it prints it.
struct Printer {
    lines: Lines,
    batch: Batch,
    style: Style,
    is_quiet: bool,
}

impl Printer {
    fn first_line(&mut self, server: &Server) {
        let address = server.address();
        match self.style {
            Style::Json => self.lines.push(format_args!(
                r#"{{"event":"listening","socket":{},"address":{}}}"#,
                json!(address.path()),
                json!(address.to_string())
            )),
            Style::Text => self.lines.push(format_args!("listening at {}", Escaped(&address.to_string()))),
        }
    }

    /// Takes everything out of the inbox and puts it on its way to stdout.
    fn drain(&mut self, server: &mut Server) {
        server.drain_into(&mut self.batch);
        if self.is_quiet {
            return;
        }
        for entry in &self.batch {
            match self.style {
                Style::Json => self.lines.push(format_args!("{}", JsonEntry(entry))),
                Style::Text => self.lines.push(format_args!("{}", TextEntry(entry))),
            }
        }
    }

    /// After the stop: everything that was accepted.
    fn last_lines(&mut self, server: &mut Server) -> io::Result<()> {
        self.drain(server);
        let begun = Instant::now();
        while self.lines.pending() > 0 {
            let left = LAST_LINES.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let bytes = self.lines.pending();
                let why = format!("{bytes} bytes of messages were not printed: nobody reads stdout");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            self.lines.flush(left)?;
        }
        Ok(())
    }
}

/// One entry as a line of JSON. The message is JSON on one line already.
struct JsonEntry<'b>(InboxEntry<'b>);

impl std::fmt::Display for JsonEntry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entry = &self.0;
        let peer = entry.peer();
        write!(
            f,
            r#"{{"id":"{}","message":{},"receivedAt":{},"status":"processed","peer":{}}}"#,
            entry.id(),
            entry.message().json(),
            entry.received_at().as_millis(),
            json!({"uid": peer.uid, "pid": peer.pid}),
        )
    }
}

/// One entry for people.
struct TextEntry<'b>(InboxEntry<'b>);

impl std::fmt::Display for TextEntry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entry = &self.0;
        let message = entry.message();
        write!(f, "{}  {}", entry.id(), Escaped(&message.kind()))?;
        if let Some(pid) = entry.peer().pid {
            write!(f, "  from pid {pid}")?;
        }
        match message.data() {
            Some(data) => match data.text() {
                Some(text) => write!(f, "  {}", Escaped(&text)),
                None => write!(f, "  {}", Escaped(data.json())),
            },
            None => Ok(()),
        }
    }
}
