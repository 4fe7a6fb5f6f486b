//! `udsmsg serve`: an inbox whose owner prints what arrives.
//!
//! One loop: the server, the signals, stdout. If the reader of stdout falls behind, the inbox
//! fills up and senders are told so; the loop goes on.

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use udsmsg::{Address, Error, Limits, Server};

use crate::args::ServeArgs;
use crate::complaints::{self, complain};
use crate::context::Context;
use crate::interrupt;
use crate::lines::Lines;
use crate::owner::{self, Printer, STOP};
use crate::platform::{Came, Signals, Stop};

/// Serves until a signal or the reader of stdout ends it.
pub(crate) fn run(args: &ServeArgs, context: &Context) -> Result<ExitCode, Error> {
    let mut signals = Signals::of_server()?;
    let mut limits = Limits::default();
    if let Some(clients_max) = args.max_clients {
        limits.clients_max = clients_max;
    }
    let mut builder = context.server().limits(limits);
    if let Some(path) = &args.socket {
        builder = builder.address(Address::parse(path)?);
    }
    let mut server = builder.start()?;
    let mut printer = Printer::new(Lines::to_stdout(), context.style, args.quiet);
    printer.first_line(&server);
    let (ended_by, served) = match serve(&mut server, &mut signals, &mut printer, args.no_drain) {
        Ok(stop) => (stop.is_for_job().then_some(stop), Ok(())),
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
    complaints::finish(until);
    if let Some(stop) = ended_by {
        return Ok(interrupt::end_by(stop));
    }
    Ok(if printed.is_ok() && stopped.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves until a signal says to stop, and returns it; an error is that of stdout or of the server.
fn serve(
    server: &mut Server,
    signals: &mut Signals,
    printer: &mut Printer,
    no_drain: bool,
) -> io::Result<Stop> {
    // The messages were asked for; while stdout is behind, they wait.
    let mut print_now = false;
    loop {
        printer.flush()?;
        let woken = owner::wait(server, signals, printer.watched())?;
        if woken.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for came in signals.take() {
            match came {
                Came::PrintNow => print_now = true,
                Came::Summary => summarise(server),
                Came::Stop(stop) => return Ok(stop),
            }
        }
        owner::turn(server, &woken)?;
        if (!no_drain || print_now) && printer.drain(server) {
            print_now = false;
        }
    }
}

/// Prints the counters of the server as a line of JSON on stderr, because stdout is for messages.
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
