//! `udsmsg send` and `udsmsg ping`: one message, one answer.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use udsmsg::{Address, Client, Environment, Error, Namespace, Outgoing, SendOutcome};

use crate::output::{Escaped, Style, complain};
use crate::{PingArgs, SendArgs};

/// Sends one message; the receipt goes to stdout.
pub(crate) fn send(
    args: &SendArgs,
    namespace: &Namespace,
    environment: &Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let Some((kind, data)) = args.message() else {
        complain(
            &"one TYPE and one DATA are wanted; quote DATA that has spaces in it, and put options before TYPE",
        );
        return Ok(ExitCode::from(2));
    };
    let target = Address::parse(&args.target)?;
    let message = Outgoing::new(kind).with_text(data);
    let outcome = Client::in_namespace(namespace, environment)?.send(&target, &message);
    Ok(report(&outcome, |id| match style {
        Style::Json => json!({"event": "accepted", "id": id, "socket": target.path()}).to_string(),
        Style::Text => match id {
            Some(id) => format!("accepted as {}", Escaped(id)),
            None => "accepted".to_owned(),
        },
    }))
}

/// Asks for a sign of life; how long it took goes to stdout.
pub(crate) fn ping(
    args: &PingArgs,
    namespace: &Namespace,
    environment: &Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let target = Address::parse(&args.target)?;
    let mut client = Client::in_namespace(namespace, environment)?;
    let begun = Instant::now();
    let outcome = client.ping(&target);
    let millis = begun.elapsed().as_secs_f64() * 1000.0;
    Ok(report(&outcome, |_| match style {
        Style::Json => json!({"event": "pong", "socket": target.path(), "millis": millis}).to_string(),
        Style::Text => format!("pong from {} in {millis:.3} ms", Escaped(target.path())),
    }))
}

/// Prints the receipt that `receipt` makes of the id, or complains; the exit status says which.
fn report(outcome: &SendOutcome, receipt: impl FnOnce(Option<&str>) -> String) -> ExitCode {
    let SendOutcome::Accepted { id } = outcome else {
        complain(outcome);
        return ExitCode::FAILURE;
    };
    // The message is in the inbox, whether or not somebody reads the receipt.
    let _ = writeln!(io::stdout(), "{}", receipt(id.as_deref()));
    ExitCode::SUCCESS
}
