//! `udsmsg send`: one message, one answer. `ndjson` sends many, `ask` waits for a message in return.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::process::ExitCode;

use serde_json::json;
use udsmsg::{Address, Client, Error, Limits, Outgoing, SendOutcome};

use crate::args::SendArgs;
use crate::ask;
use crate::complaints::complain;
use crate::context::Context;
use crate::ndjson;
use crate::output::{Style, say};
use crate::platform::Stdin;
use crate::target;

/// The exit status of a command that was not understood.
const MISUSED: u8 = 2;

/// Sends what the arguments say; receipts go to stdout.
pub(crate) fn run(args: &SendArgs, context: &Context) -> Result<ExitCode, Error> {
    let words = match Words::of(args) {
        Ok(words) => words,
        Err(why) => {
            complain(&why);
            return Ok(ExitCode::from(MISUSED));
        }
    };
    let Some(target) = target::given_or_parent(words.target, context)? else {
        return Ok(ExitCode::from(MISUSED));
    };
    let Some(kind) = words.kind else {
        // Checked before the first line, which may come late or not at all.
        if !target::has_capability(&target, context)? {
            return Ok(ExitCode::FAILURE);
        }
        return ndjson::send_all(context.client(args.timeout)?, target, context.style);
    };
    let message = match words.data.map_or_else(text_of_stdin, |data| Ok(data.to_owned())) {
        Ok(text) => Outgoing::new(kind).with_text(&text),
        Err(error) => {
            complain(&format!("cannot read standard input: {error} (not sent)"));
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.wait_reply {
        // Checked before an inbox for the answer is made, with its directories.
        if !target::has_capability(&target, context)? {
            return Ok(ExitCode::FAILURE);
        }
        return ask::run(&target, message, args.timeout, context);
    }
    Ok(send_one(context.client(args.timeout)?, &target, &message, context.style))
}

/// Sends one message and prints its receipt.
fn send_one(mut client: Client, target: &Address, message: &Outgoing, style: Style) -> ExitCode {
    let outcome = client.send(target, message);
    let SendOutcome::Accepted { id } = &outcome else {
        complain(&outcome);
        return ExitCode::FAILURE;
    };
    let sentence = id.as_ref().map_or_else(|| "accepted".to_owned(), |id| format!("accepted as {id}"));
    let receipt = match style {
        Style::Json => json!({"event": "accepted", "id": id, "socket": target.path()}).to_string(),
        Style::Text => sentence.clone(),
    };
    match say(style, &receipt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{sentence}, but the receipt is lost: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What the words of the command mean.
struct Words<'a> {
    /// `None` means the parent server.
    target: Option<&'a OsStr>,
    /// `None` with `--ndjson`: each line has its own.
    kind: Option<&'a str>,
    /// `None` means standard input.
    data: Option<&'a str>,
}

impl<'a> Words<'a> {
    /// Takes the words in their order; an error says why the command was not understood.
    fn of(args: &'a SendArgs) -> Result<Self, String> {
        let words: Vec<&OsStr> = args.words.iter().map(OsString::as_os_str).collect();
        let first = args.target.as_deref();
        if args.ndjson {
            return match words.as_slice() {
                [] => Ok(Self { target: first, kind: None, data: None }),
                _ => Err("with --ndjson no TYPE and no DATA are wanted: they are in the lines".to_owned()),
            };
        }
        let (target, kind, data) = match (first, words.as_slice()) {
            // Scripts may write `--` before DATA.
            (Some(target), [kind, data]) if !args.stdin => (Some(target), *kind, Some(*data)),
            (Some(target), [kind, dashes, data]) if !args.stdin && *dashes == "--" => {
                (Some(target), *kind, Some(*data))
            }
            (Some(kind), [data]) if !args.stdin => (None, kind, Some(*data)),
            (Some(target), [kind]) => (Some(target), *kind, None),
            (Some(kind), []) if args.stdin => (None, kind, None),
            _ if args.stdin => {
                return Err("with --stdin one TYPE is wanted, and no DATA".to_owned());
            }
            _ => {
                let why = "one TYPE and one DATA are wanted; quote DATA that has spaces in it, and put \
                           options before TYPE";
                return Err(why.to_owned());
            }
        };
        if target.is_none() && target::looks_like_one(kind) {
            let what = if args.stdin { "TYPE" } else { "DATA" };
            return Err(format!("{} looks like a TARGET, so {what} is missing", kind.display()));
        }
        let utf8 = |name: &str, word: &'a OsStr| {
            word.to_str().ok_or_else(|| format!("{name} is not UTF-8: {}", word.display()))
        };
        let data = data.map(|data| utf8("DATA", data)).transpose();
        Ok(Self { target, kind: Some(utf8("TYPE", kind)?), data: data? })
    }
}

/// All of standard input, if it can fit into a message.
fn text_of_stdin() -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = Limits::default().frame_bytes_max;
    Stdin.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        let why = format!("it is longer than the {limit} bytes that a whole message may have");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
