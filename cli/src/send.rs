//! `udsmsg send`: one message, one answer; `ndjson` has many, `ask` waits for a message in return.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use udsmsg::os::files::capability::CapabilityDir;
use udsmsg::{Address, Client, Environment, Error, Namespace, Outgoing, SendOutcome};

use crate::ask;
use crate::ndjson;
use crate::output::{Style, complain, say};
use crate::waiting::Stdin;

/// Bytes that a line may have, and so what stands in it.
pub(crate) const FRAME_BYTES_MAX: usize = 65_536;

/// How the command is used, for `--help`.
pub(crate) const USAGE: &str = "udsmsg send [OPTIONS] [TARGET] <TYPE> <DATA>
       udsmsg send [OPTIONS] --stdin [TARGET] <TYPE>
       udsmsg send [OPTIONS] --ndjson [TARGET]";

/// What the words mean, for `--help`.
pub(crate) const HELP: &str = "\
Without TARGET the receiver is the one that a parent server named in the environment: \
CLAUDE_CODE_MESSAGING_SOCKET, or the variable of --namespace. Then TYPE cannot look like a TARGET: one that is empty, \
begins with `uds:`, has a `/` in it or is the name of a socket is taken for a TARGET whose DATA was forgotten, and \
nothing is sent.

Options stand before TYPE: what follows it is DATA, even if it looks like an option. DATA is taken as it is; `-` is a \
dash, and --stdin is how to send what comes from standard input.

Exit status: 0 if it is in the inbox (with --wait-reply: if an answer came); 1 if not, if that is not known, or if the \
receipt cannot be printed, and stderr says which; 2 for a command that was not understood. With --ndjson: 0 if every line was accepted; 1 if some were not and all of these are \
surely not in the inbox; 3 if some may be in the inbox or not.";

/// What to send, and where.
#[derive(clap::Args)]
pub(crate) struct SendArgs {
    /// The text is what comes from standard input, all of it.
    #[arg(long, conflicts_with = "ndjson")]
    stdin: bool,

    /// Send many: each line of standard input is a message object with `type` and, if wanted, `data`, `from`, `ts`, `meta`.
    ///
    /// They go in order over one connection, many on their way at once. For each there is a line on stdout that says what
    /// became of it; the last line sums up. A line that is no such object is reported with its number and skipped.
    #[arg(long, conflicts_with = "wait_reply")]
    ndjson: bool,

    /// Make it a question: wait until a message comes in answer to it, and print that.
    #[arg(long)]
    wait_reply: bool,

    /// How long a message may take from here to its answer.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// The receiver's socket path, with or without `uds:`; by default the parent server's.
    target: Option<OsString>,

    /// The type (text, notification, query, response, error, or one of your own) and the payload, as text.
    #[arg(value_names = ["TYPE", "DATA"], num_args = 0..=3, trailing_var_arg = true)]
    words: Vec<OsString>,
}

/// A time in seconds, as `2` or `0.5`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: Option<f64> = text.parse().ok().filter(|_| is_plain);
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(duration)) if !duration.is_zero() && duration <= Duration::from_secs(86_400) => Ok(duration),
        _ => Err("wanted is a number of seconds, more than 0 and at most 86400".to_owned()),
    }
}

/// A command that was not understood, and why.
struct Misused(String);

/// What the words of the command mean.
struct Wanted<'a> {
    /// The parent's, if there is none.
    target: Option<&'a OsStr>,
    kind: &'a str,
    /// To be read from standard input, if there is none.
    data: Option<&'a str>,
}

impl SendArgs {
    /// The words in their order, and whether `--` stood before the last of them.
    fn wanted(&self) -> Result<Wanted<'_>, Misused> {
        let words: Vec<&OsStr> = self.words.iter().map(OsString::as_os_str).collect();
        let (target, kind, data) = match (self.target.as_deref(), words.as_slice()) {
            // As scripts write it, the payload may stand behind a `--`.
            (Some(target), [kind, data]) if !self.stdin => (Some(target), *kind, Some(*data)),
            (Some(target), [kind, dashes, data]) if !self.stdin && *dashes == "--" => {
                (Some(target), *kind, Some(*data))
            }
            (Some(kind), [data]) if !self.stdin => (None, kind, Some(*data)),
            (Some(target), [kind]) => (Some(target), *kind, None),
            (Some(kind), []) if self.stdin => (None, kind, None),
            _ if self.stdin => {
                return Err(Misused("with --stdin one TYPE is wanted, and no DATA".to_owned()));
            }
            _ => {
                let why = "one TYPE and one DATA are wanted; quote DATA that has spaces in it, and put options \
                           before TYPE";
                return Err(Misused(why.to_owned()));
            }
        };
        if target.is_none() && looks_like_a_target(kind) {
            let what = if self.stdin { "TYPE" } else { "DATA" };
            let why = format!("{} looks like a TARGET, so {what} is missing", kind.display());
            return Err(Misused(why));
        }
        let utf8 = |name: &str, word: &'_ OsStr| Misused(format!("{name} is not UTF-8: {}", word.display()));
        Ok(Wanted {
            target,
            kind: kind.to_str().ok_or_else(|| utf8("TYPE", kind))?,
            data: data.map(|data| data.to_str().ok_or_else(|| utf8("DATA", data))).transpose()?,
        })
    }
}

/// Whether a word that stands where the type should be was meant as a target.
fn looks_like_a_target(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.is_empty()
        || bytes.starts_with(b"uds:")
        || bytes.contains(&b'/')
        || fs::symlink_metadata(word).is_ok_and(|facts| facts.file_type().is_socket())
}

/// The receiver that was given, or the parent server; `None` if there is neither, which was said.
pub(crate) fn receiver(
    given: Option<&OsStr>,
    namespace: &Namespace,
    environment: &Environment,
) -> Result<Option<Address>, Error> {
    if let Some(given) = given {
        return Address::parse(given).map(Some);
    }
    let variable = namespace.socket_variable();
    if let Some(parent) = environment.get(&variable) {
        return Address::parse(&parent).map(Some);
    }
    complain(&format!("no TARGET: none was given, and no parent server has set {variable}"));
    Ok(None)
}

/// Whether there is a capability for the target; if not, that was said.
fn has_capability(target: &Address, namespace: &Namespace, environment: &Environment) -> Result<bool, Error> {
    if let Err(error) = target.check_length() {
        complain(&SendOutcome::NotSent(error));
        return Ok(false);
    }
    if let Err(error) = CapabilityDir::of(namespace, environment)?.read(target) {
        complain(&format!("Cannot send UDS message without auth token: {error} (not sent)"));
        return Ok(false);
    }
    Ok(true)
}

/// Sends what the arguments say; receipts go to stdout.
pub(crate) fn run(
    args: &SendArgs,
    namespace: &Namespace,
    environment: &Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let misused = ExitCode::from(2);
    if args.ndjson {
        if !args.words.is_empty() {
            complain(&"with --ndjson no TYPE and no DATA are wanted: they are in the lines");
            return Ok(misused);
        }
        let Some(target) = receiver(args.target.as_deref(), namespace, environment)? else {
            return Ok(misused);
        };
        // Before the first line: there may be none for long, or none at all.
        if !has_capability(&target, namespace, environment)? {
            return Ok(ExitCode::FAILURE);
        }
        let client = Client::in_namespace(namespace, environment)?.with_timeout(args.timeout);
        return Ok(ndjson::send_all(client, target, style));
    }
    let wanted = match args.wanted() {
        Ok(wanted) => wanted,
        Err(Misused(why)) => {
            complain(&why);
            return Ok(misused);
        }
    };
    let Some(target) = receiver(wanted.target, namespace, environment)? else { return Ok(misused) };
    let message = Outgoing::new(wanted.kind);
    let message = match wanted.data {
        Some(data) => message.with_text(data),
        None => match text_of_stdin() {
            Ok(text) => message.with_text(&text),
            Err(error) => {
                complain(&format!("cannot read standard input: {error} (not sent)"));
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    if args.wait_reply {
        // Before there is an inbox for the answer, and directories for it.
        if !has_capability(&target, namespace, environment)? {
            return Ok(ExitCode::FAILURE);
        }
        return ask::run(&target, message, args.timeout, namespace, environment, style);
    }
    let mut client = Client::in_namespace(namespace, environment)?.with_timeout(args.timeout);
    let outcome = client.send(&target, &message);
    let SendOutcome::Accepted { id } = &outcome else {
        complain(&outcome);
        return Ok(ExitCode::FAILURE);
    };
    let sentence = id.as_ref().map_or_else(|| "accepted".to_owned(), |id| format!("accepted as {id}"));
    let receipt = match style {
        Style::Json => json!({"event": "accepted", "id": id, "socket": target.path()}).to_string(),
        Style::Text => sentence.clone(),
    };
    Ok(match say(style, &receipt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{sentence}, but the receipt is lost: {error}"));
            ExitCode::FAILURE
        }
    })
}

/// All of standard input, if it can fit a message.
fn text_of_stdin() -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = FRAME_BYTES_MAX as u64;
    Stdin.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > FRAME_BYTES_MAX {
        let why = format!("it is longer than the {limit} bytes that a whole message may have");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
