//! `udsmsg send --wait-reply`: a question from an inbox that lives just long enough for its answer.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use udsmsg::{
    Address, Batch, Environment, Error, Message, Namespace, Outgoing, QueryId, SendOutcome, Server,
    ServerEvent,
};

use crate::output::{Escaped, Style, complain};
use crate::serve::GRACE;
use crate::waiting::{self, Signals};

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
    let answer = match answered {
        Ok(answer) => answer,
        Err(why) => {
            complain(&why);
            return Ok(ExitCode::FAILURE);
        }
    };
    // The answer was acknowledged: it is printed, whatever became of the stop.
    let printed = writeln!(io::stdout(), "{answer}");
    stopped?;
    Ok(if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The answer as it is to be printed, or why there is none.
fn wait_for_answer(
    server: &mut Server,
    query: QueryId,
    timeout: Duration,
    stop: &mut Signals,
    style: Style,
) -> Result<String, String> {
    let mut batch = Batch::new();
    let mut sent = String::from("it is unknown whether the question arrived");
    loop {
        let patience = server.next_timeout();
        let mut fds = [server.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        waiting::wait(&mut fds, patience).map_err(|error| error.to_string())?;
        if !stop.take().is_empty() {
            return Err(format!("interrupted; {sent}"));
        }
        let _ = server.turn(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
        server.drain_into(&mut batch);
        let mut answer = None;
        for entry in &batch {
            if server.answered(&entry) == Some(query) {
                answer = Some(print(&entry.message(), style));
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
                ServerEvent::Sent { outcome, .. } => return Err(outcome.to_string()),
                ServerEvent::Unanswered { .. } => {
                    let seconds = timeout.as_secs_f64();
                    return Err(format!("no answer came within {seconds} s; {sent}"));
                }
            }
        }
    }
}

fn print(message: &Message<'_>, style: Style) -> String {
    match (style, message.data().and_then(|data| data.text())) {
        (Style::Text, Some(text)) => Escaped(&text).to_string(),
        (Style::Text, None) => Escaped(message.json()).to_string(),
        (Style::Json, _) => message.json().to_owned(),
    }
}
