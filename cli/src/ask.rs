//! `udsmsg send --wait-reply`: a question from an inbox that lives just long enough for its answer.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use udsmsg::{
    Address, Batch, Environment, Error, Message, Namespace, Outgoing, QueryId, SendOutcome, Server,
    ServerEvent,
};

use crate::interrupt;
use crate::output::{self, Escaped, Json, Lines, Style, complain};
use crate::serve::GRACE;
use crate::waiting::Signals;

/// Asks, waits, and prints the message that answers.
pub(crate) fn run(
    target: &Address,
    question: Outgoing,
    timeout: Duration,
    namespace: &Namespace,
    environment: &Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    // Before there is a socket that would be left behind.
    let mut stop = match Signals::of(&[SIGTERM, SIGINT, SIGHUP]) {
        Ok(stop) => stop,
        Err(error) => {
            complain(&format!("cannot handle signals: {error}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let builder = Server::builder().namespace(namespace.clone()).environment(environment.clone());
    let mut server = builder.start()?;
    let query = server.query(target, question, timeout)?;
    let answered = wait_for_answer(&mut server, query, timeout, &mut stop, style);
    // Whoever answered is told that it came.
    let stopped = server.shutdown(GRACE);
    // What could not be removed is tried once more, before a signal can end us.
    drop(server);
    let answer = match answered {
        Ok(answer) => answer,
        Err(failure) => return Ok(failure.tell()),
    };
    // The answer was acknowledged: it is printed, whatever became of the stop.
    if let Err(failure) = print(&answer, &mut stop) {
        let why = format!("the answer came and is lost: {}", failure.why);
        return Ok(Failure { why, ..failure }.tell());
    }
    stopped?;
    // One that came while the server stopped.
    Ok(stop.take().first().map_or(ExitCode::SUCCESS, |came| interrupt::end_by(came.signal)))
}

/// Why there is no answer, or none on stdout.
struct Failure {
    why: String,
    /// What is to end us.
    signal: Option<i32>,
}

impl<T: ToString> From<T> for Failure {
    fn from(why: T) -> Self {
        Self { why: why.to_string(), signal: None }
    }
}

impl Failure {
    /// Says it; the exit status, unless a signal ends us.
    fn tell(self) -> ExitCode {
        complain(&self.why);
        self.signal.map_or(ExitCode::FAILURE, interrupt::end_by)
    }
}

/// Puts the answer on stdout; a signal ends the waiting for one that takes nothing.
fn print(answer: &str, stop: &mut Signals) -> Result<(), Failure> {
    let mut lines = Lines::to_stdout();
    lines.push(format_args!("{answer}"));
    loop {
        lines.flush()?;
        if lines.pending() == 0 {
            return Ok(());
        }
        if let Some(came) = stop.take().first() {
            return Err(Failure { why: "stdout did not take it".into(), signal: Some(came.signal) });
        }
        let _ = output::wait([stop.as_fd()], Some(&mut lines), None)?;
    }
}

/// The answer as it is to be printed.
fn wait_for_answer(
    server: &mut Server,
    query: QueryId,
    timeout: Duration,
    stop: &mut Signals,
    style: Style,
) -> Result<String, Failure> {
    let mut batch = Batch::new();
    let mut sent = String::from("it is unknown whether the question arrived");
    loop {
        let patience = server.next_timeout();
        let queue = server.event_queue().ok_or("the server has no event queue of its own")?;
        let _ = output::wait([queue, stop.as_fd()], None, patience)?;
        if let Some(came) = stop.take().first() {
            return Err(Failure { why: format!("interrupted; {sent}"), signal: Some(came.signal) });
        }
        let _ = server.process()?;
        server.drain_into(&mut batch);
        let mut answer = None;
        for entry in &batch {
            if server.answered(&entry) == Some(query) {
                answer = Some(shown(&entry.message(), style));
            } else {
                let kind = entry.message().kind().into_owned();
                complain(&format!("a message of type {kind:?} came that is no answer; it is dropped"));
            }
        }
        if let Some(answer) = answer {
            return Ok(answer);
        }
        while let Some(event) = server.next_event() {
            match event {
                ServerEvent::Sent { outcome: SendOutcome::Accepted { id }, .. } => {
                    let id = id.map(|id| format!(" as {id}")).unwrap_or_default();
                    sent = format!("the question was accepted{id}");
                }
                // It may have arrived, and be answered.
                ServerEvent::Sent { outcome: SendOutcome::Unknown(_), .. } => {}
                ServerEvent::Sent { outcome, .. } => return Err(outcome.into()),
                ServerEvent::Unanswered { .. } => {
                    let seconds = timeout.as_secs_f64();
                    return Err(format!("no answer came within {seconds} s; {sent}").into());
                }
            }
        }
    }
}

/// The message as it is printed.
fn shown(message: &Message<'_>, style: Style) -> String {
    match (style, message.data().and_then(|data| data.text())) {
        (Style::Text, Some(text)) => Escaped(&text).to_string(),
        (Style::Text, None) => Escaped(message.json()).to_string(),
        (Style::Json, _) => Json(message.json()).to_string(),
    }
}
