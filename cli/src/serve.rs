//! `udsmsg serve`: an inbox whose owner prints what arrives.
//!
//! One loop over `poll(2)`: the server, the signals, stdout. A reader of stdout that falls behind makes the inbox fill
//! up, and senders are told so; it never blocks the loop.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use udsmsg::{Address, Batch, Environment, Error, ErrorKind, InboxEntry, Limits, Namespace, Server};

use crate::ServeArgs;
use crate::interrupt;
use crate::output::{self, Escaped, Json, Lines, Style, complain};
use crate::waiting::{Came, Signals};

/// The inbox is not drained while more than this waits for the reader of stdout.
pub(crate) const PENDING_MAX: usize = 1 << 20;

/// For clients to take their last answers after a stop was asked for.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// For the reader of stdout to take the last lines, counted from the beginning of the stop: it is promised within two
/// seconds.
pub(crate) const STOP: Duration = Duration::from_millis(1_700);

/// Serves until a signal or the reader of stdout ends it.
pub(crate) fn run(
    args: &ServeArgs,
    namespace: Namespace,
    environment: Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let mut signals = match Signals::of(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2]) {
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
        builder = builder.address(Address::parse(path)?);
    }
    let mut server = builder.start()?;
    let mut printer = Printer::new(Lines::to_stdout(), style, args.quiet);
    printer.first_line(&server);
    let (ended_by, served) = match serve(&mut server, &mut signals, &mut printer, args.no_drain) {
        Ok(came) => (came.is_from_terminal.then_some(came.signal), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let until = Instant::now() + STOP;
    let (rest, stopped) = printer.stop(&mut server, until);
    let printed = served.and(rest);
    match &printed {
        // The reader of stdout closed it on purpose.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => complain(error),
        _ => {}
    }
    if let Err(error) = &stopped {
        complain(error);
    }
    drop(server);
    output::finish_stderr(until);
    if let Some(signal) = ended_by {
        // Another process that sends a signal asks for a stop, and the exit status tells it how that went. A terminal sends
        // one to a whole job: the shell that runs us in a loop leaves it only if it sees that the signal ended us.
        return Ok(interrupt::end_by(signal));
    }
    Ok(if printed.is_ok() && stopped.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Turns until a signal says to stop, which it returns; an error is that of stdout or of the server.
fn serve(
    server: &mut Server,
    signals: &mut Signals,
    printer: &mut Printer,
    no_drain: bool,
) -> io::Result<Came> {
    // Asked for, and not done yet: while stdout is behind, it waits.
    let mut print_now = false;
    loop {
        printer.lines.flush()?;
        // With --quiet stdout may be closed after the first line.
        let lines = (!printer.is_quiet || printer.lines.pending() > 0).then_some(&mut printer.lines);
        let timeout = server.next_timeout();
        let queue = server.event_queue().ok_or(io::ErrorKind::Unsupported)?;
        let (_, is_closed) = output::wait([queue, signals.as_fd()], lines, timeout)?;
        if is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for came in signals.take() {
            match came.signal {
                SIGUSR1 => print_now = true,
                SIGUSR2 => summarise(server),
                _ => return Ok(came),
            }
        }
        let turn = server.process().map_err(io::Error::other)?;
        if turn.name_lost {
            take_name_again(server);
        }
        if (!no_drain || print_now) && printer.lines.pending() < PENDING_MAX {
            printer.drain(server);
            print_now = false;
        }
    }
}

/// How the server is doing, as a line of JSON on stderr: stdout is for messages.
fn summarise(server: &Server) {
    let stats = server.stats();
    let closed = &stats.closed;
    complain(&json!({
        "event": "summary",
        "clients": stats.clients,
        "clientsPeak": stats.clients_peak,
        "connections": stats.connections,
        "strangers": stats.strangers,
        "messages": stats.messages,
        "pings": stats.pings,
        "bytesRead": stats.bytes_read,
        "bytesWritten": stats.bytes_written,
        "inboxEntries": stats.inbox_entries,
        "inboxEntriesPeak": stats.inbox_entries_peak,
        "inboxBytes": stats.inbox_bytes,
        "inboxBytesPeak": stats.inbox_bytes_peak,
        "closed": {
            "invalidFrame": closed.invalid_frame,
            "unauthorized": closed.unauthorized,
            "inboxFull": closed.inbox_full,
            "authTimeout": closed.auth_timeout,
            "idleTimeout": closed.idle_timeout,
            "frameTimeout": closed.frame_timeout,
            "tooManyClients": closed.too_many_clients,
            "frameTooLong": closed.frame_too_long,
            "peerFinished": closed.peer_finished,
            "peerGone": closed.peer_gone,
            "outputStalled": closed.output_stalled,
        },
    }));
}

/// The socket or the capability file was removed: clients could not find us any more.
pub(crate) fn take_name_again(server: &mut Server) {
    let path = server.address().path().to_owned();
    match server.rebind() {
        Ok(()) => complain(&format!(
            "the socket {path:?} or its capability file had vanished; both are there again"
        )),
        Err(error) => complain(&format!(
            "the socket {path:?} or its capability file has vanished and cannot be made again yet: {error}"
        )),
    }
}

/// What the owner of this inbox does with a message: it prints it.
pub(crate) struct Printer {
    pub(crate) lines: Lines,
    batch: Batch,
    style: Style,
    is_quiet: bool,
    /// Where the first line ends, among all that is printed.
    first_line_end: u64,
}

impl Printer {
    pub(crate) fn new(lines: Lines, style: Style, is_quiet: bool) -> Self {
        Self { lines, batch: Batch::new(), style, is_quiet, first_line_end: 0 }
    }

    pub(crate) fn first_line(&mut self, server: &Server) {
        let address = server.address();
        match self.style {
            Style::Json => self.lines.push(format_args!(
                r#"{{"event":"listening","socket":{},"address":{}}}"#,
                Json(json!(address.path())),
                Json(json!(address.to_string()))
            )),
            Style::Text => self.lines.push(format_args!("listening at {}", Escaped(&address.to_string()))),
        }
        self.first_line_end = self.lines.end();
    }

    /// Messages that were drained and not written to their ends.
    pub(crate) fn unprinted(&self) -> usize {
        self.lines.pending_lines() - usize::from(!self.lines.is_written(self.first_line_end))
    }

    /// Takes everything out of the inbox and puts it on its way to stdout.
    pub(crate) fn drain(&mut self, server: &mut Server) {
        server.drain_into(&mut self.batch);
        if self.is_quiet {
            return;
        }
        for entry in &self.batch {
            match self.style {
                Style::Json => self.lines.push(format_args!("{}", Json(JsonEntry(entry)))),
                Style::Text => self.lines.push(format_args!("{}", TextEntry(entry))),
            }
        }
    }

    /// Stops the server by `until` at the latest, and prints everything that was accepted: first what stdout takes at once,
    /// whatever the stop meets later; then the rest, for as long as there is time.
    pub(crate) fn stop(
        &mut self,
        server: &mut Server,
        until: Instant,
    ) -> (io::Result<()>, Result<(), Error>) {
        self.drain(server);
        let begun = self.lines.flush_until(Some(Instant::now()));
        let grace = GRACE.min(until.saturating_duration_since(Instant::now()));
        let stopped = server.shutdown(grace);
        let printed = begun.and_then(|_| self.last_lines(until));
        (printed, release_again(server, stopped, until))
    }

    fn last_lines(&mut self, until: Instant) -> io::Result<()> {
        if self.lines.flush_until(Some(until))? {
            return Ok(());
        }
        let bytes = self.lines.pending();
        let why = format!("{bytes} bytes of messages were not printed: stdout did not take them in time");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

/// Tries once more what a stop could not remove because another process held the lock on the directory: until `until`,
/// after all that is more urgent.
pub(crate) fn release_again(
    server: &mut Server,
    stopped: Result<(), Error>,
    until: Instant,
) -> Result<(), Error> {
    match stopped {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            server.shutdown(until.saturating_duration_since(Instant::now()))
        }
        stopped => stopped,
    }
}

/// One entry as a line of JSON.
struct JsonEntry<'b>(InboxEntry<'b>);

impl std::fmt::Display for JsonEntry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entry = &self.0;
        let peer = entry.peer();
        let message = entry.message();
        write!(
            f,
            r#"{{"id":"{}","message":{},"receivedAt":{},"status":"processed","peer":{}}}"#,
            entry.id(),
            message.json(),
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
