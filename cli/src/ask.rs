//! `udsmsg send --wait-reply`: a question from an inbox that lives only until its answer has come.

use std::process::ExitCode;
use std::time::Duration;

use udsmsg::{Address, Batch, Error, Message, Outgoing, QueryId, SendOutcome, Server, ServerEvent};

use crate::complaints::complain;
use crate::context::Context;
use crate::escape::{Escaped, Json};
use crate::interrupt;
use crate::lines::Lines;
use crate::output::{self, Style};
use crate::owner::{self, GRACE};
use crate::platform::{Signals, Source, Stop};

/// Asks, waits, and prints the message that answers.
pub(crate) fn run(
    target: &Address,
    question: Outgoing,
    timeout: Duration,
    context: &Context,
) -> Result<ExitCode, Error> {
    // Before the socket is made: a signal would leave it behind.
    let mut signals = Signals::of_client()?;
    let mut server = context.server().start()?;
    let query = server.query(target, question, timeout)?;
    let answered = wait_for_answer(&mut server, query, timeout, &mut signals, context.style);
    // The sender of the answer gets its acknowledgement first.
    let stopped = server.shutdown(GRACE);
    // Tries once more to remove what a stop could not, before a signal can end this process.
    drop(server);
    let answer = match answered {
        Ok(answer) => answer,
        Err(failure) => return Ok(failure.report()),
    };
    // The answer was acknowledged, so it is printed even if the stop failed.
    if let Err(failure) = print(&answer, &mut signals) {
        let why = format!("the answer came and is lost: {}", failure.why);
        return Ok(Failure { why, ..failure }.report());
    }
    stopped?;
    // A signal may have come while the server stopped.
    Ok(signals.take_stop().map_or(ExitCode::SUCCESS, interrupt::end_by))
}

/// Why there is no answer, or none on stdout.
struct Failure {
    why: String,
    /// What is to end this process.
    stop: Option<Stop>,
}

impl<T: ToString> From<T> for Failure {
    fn from(why: T) -> Self {
        Self { why: why.to_string(), stop: None }
    }
}

impl Failure {
    /// Complains; the exit status, unless a signal ends this process.
    fn report(self) -> ExitCode {
        complain(&self.why);
        self.stop.map_or(ExitCode::FAILURE, interrupt::end_by)
    }
}

/// Prints the answer; a signal ends the wait for a stdout that takes nothing.
fn print(answer: &str, signals: &mut Signals) -> Result<(), Failure> {
    let mut lines = Lines::to_stdout();
    lines.push(format_args!("{answer}"));
    loop {
        lines.flush()?;
        if lines.pending() == 0 {
            return Ok(());
        }
        if let Some(stop) = signals.take_stop() {
            return Err(Failure { why: "stdout did not take it".into(), stop: Some(stop) });
        }
        let _ = output::wait(&mut [Source::Signals(signals)], Some(&mut lines), None)?;
    }
}

/// Waits for the answer; its text is ready to be printed.
fn wait_for_answer(
    server: &mut Server,
    query: QueryId,
    timeout: Duration,
    signals: &mut Signals,
    style: Style,
) -> Result<String, Failure> {
    let mut batch = Batch::new();
    let mut sent = String::from("it is unknown whether the question arrived");
    loop {
        let _ = owner::wait(server, signals, None)?;
        if let Some(stop) = signals.take_stop() {
            return Err(Failure { why: format!("interrupted; {sent}"), stop: Some(stop) });
        }
        let _ = server.process()?;
        server.drain_into(&mut batch);
        let mut answer = None;
        for entry in &batch {
            if server.take_answered(&entry) == Some(query) {
                answer = Some(text_of(&entry.message(), style));
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
                // The question may have arrived, so an answer may still come.
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
fn text_of(message: &Message<'_>, style: Style) -> String {
    match (style, message.data().and_then(|data| data.text())) {
        (Style::Text, Some(text)) => Escaped(&text).to_string(),
        (Style::Text, None) => Escaped(message.json()).to_string(),
        (Style::Json, _) => Json(message.json()).to_string(),
    }
}
