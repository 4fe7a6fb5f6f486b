//! The arguments of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

/// A private inbox for one process, and messages into it.
#[derive(Parser)]
#[command(name = "udsmsg", version)]
pub(crate) struct Cli {
    /// Print JSON lines, even to a terminal.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Use the names of this namespace instead of the default one's.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// Print no warnings on stderr.
    #[arg(short = 'q', global = true)]
    pub(crate) no_warnings: bool,

    /// Print on stderr what happens to each connection. UDSMSG_LOG does the same with a level: off, error,
    /// warn (the default), info, debug.
    #[arg(short, long, global = true, conflicts_with = "no_warnings")]
    pub(crate) verbose: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Own an inbox and print what arrives, until SIGTERM or SIGINT, on Windows until Ctrl-C.
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Own an inbox for a command: start it with the address in its environment, and stop with it.
    Run(RunArgs),
    /// Put one message into an inbox, or many; exit 0 if it is in there.
    #[command(override_usage = SEND_USAGE, after_help = SEND_HELP)]
    Send(SendArgs),
    /// Ask whether a server is alive and takes our token.
    Ping(PingArgs),
    /// List the inboxes that can be sent to, and which of them have a live server.
    Peers,
    /// Remove what dead servers left behind; what may still be in use is kept.
    Sweep(SweepArgs),
    /// Say what is wrong with directories, files and limits, and what to do; exit 0 if all is well.
    Doctor,
}

/// How to own an inbox.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Where to listen, with or without `uds:`: the path of a socket, whose directory must be private, or on
    /// Windows the name of a pipe, as in `\\.\pipe\NAME`. By default one is made.
    #[arg(long, value_name = "PATH", value_parser = any_path())]
    pub(crate) socket: Option<PathBuf>,

    /// The most clients at once.
    #[arg(long, value_name = "N")]
    pub(crate) max_clients: Option<usize>,

    /// Print nothing after the first line.
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Keep messages in the inbox until SIGUSR1 (on Windows a line `drain` on standard input), and print what
    /// is left at the end.
    #[arg(long)]
    pub(crate) no_drain: bool,
}

/// What to run, and what it gets.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// Where to listen, as for `serve`; a relative path is made absolute.
    #[arg(long, value_name = "PATH", value_parser = any_path())]
    pub(crate) socket: Option<PathBuf>,

    /// Write each message to the standard input of COMMAND, as a line of JSON, and print nothing.
    #[arg(long)]
    pub(crate) stdin: bool,

    /// The command and its arguments. It is started with the address in CLAUDE_CODE_MESSAGING_SOCKET (or the
    /// variable of --namespace); signals are passed on to it, keys of a Windows console reach it as well, and
    /// its exit status is ours.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What `serve` does when it is told to, for `--help`.
const SERVE_HELP: &str = "\
SIGUSR1 prints the messages that --no-drain keeps, SIGUSR2 a line of JSON with counters on stderr. On \
Windows a line `drain` or `stats` on standard input does that; its end means nothing. Ctrl-C, Ctrl-Break, \
the close of the console, a logoff and a shutdown stop it there.";

/// The usage line of `send`.
const SEND_USAGE: &str = "udsmsg send [OPTIONS] [TARGET] <TYPE> <DATA>
       udsmsg send [OPTIONS] --stdin [TARGET] <TYPE>
       udsmsg send [OPTIONS] --ndjson [TARGET]";

/// What the words of `send` mean, for `--help`.
const SEND_HELP: &str = "\
Without TARGET the receiver is the one that a parent server named in the environment: \
CLAUDE_CODE_MESSAGING_SOCKET, or the variable of --namespace. Then TYPE cannot look like a TARGET: one that \
is empty, begins with `uds:`, has a `/` in it, is the name of a socket or on Windows begins with two \
backslashes is taken for a TARGET whose DATA was forgotten, and nothing is sent.

Options stand before TYPE: what follows it is DATA, even if it looks like an option. DATA is taken as it \
is; `-` is a dash, and --stdin is how to send what comes from standard input.

Exit status: 0 if it is in the inbox (with --wait-reply: if an answer came); 1 if not, if that is not \
known, or if the receipt cannot be printed, and stderr says which; 2 for a command that was not understood. \
With --ndjson: 0 if every line was accepted; 1 if some were not and all of these are surely not in the \
inbox; 3 if some may be in the inbox or not.";

/// What to send, and where.
#[derive(Args)]
pub(crate) struct SendArgs {
    /// The text is what comes from standard input, all of it.
    #[arg(long, conflicts_with = "ndjson")]
    pub(crate) stdin: bool,

    /// Send many: each line of standard input is a message object with `type` and, if wanted, `data`, `from`,
    /// `ts`, `meta`.
    ///
    /// They go in order over one connection, many on their way at once. For each there is a line on stdout
    /// with its outcome; the last line sums up. A line that is no such object is reported with its number and
    /// skipped.
    #[arg(long, conflicts_with = "wait_reply")]
    pub(crate) ndjson: bool,

    /// Make it a question: wait until a message comes in answer to it, and print that.
    #[arg(long)]
    pub(crate) wait_reply: bool,

    /// How long a message may take from here to its answer.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,

    /// The receiver's socket path or pipe name, with or without `uds:`; by default the parent server's.
    pub(crate) target: Option<OsString>,

    /// The type (text, notification, query, response, error, or one of your own) and the payload, as text.
    #[arg(value_names = ["TYPE", "DATA"], num_args = 0..=3, trailing_var_arg = true)]
    pub(crate) words: Vec<OsString>,
}

/// Which server to ask, and how often.
#[derive(Args)]
pub(crate) struct PingArgs {
    /// How often to ask. After more than one question, a summary is printed.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,

    /// From one question to the next; 0 for no pause.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = pause)]
    pub(crate) interval: Duration,

    /// How long an answer may take.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) timeout: Duration,

    /// The receiver's socket path or pipe name, with or without `uds:`; by default the parent server's, as
    /// for `send`.
    pub(crate) target: Option<OsString>,
}

/// What to sweep.
#[derive(Args)]
pub(crate) struct SweepArgs {
    /// Remove nothing, say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Takes the empty path too, so that the library refuses it as it refuses every path that cannot be a
/// socket's.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A time in seconds, as `2` or `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: Option<f64> = text.parse().ok().filter(|_| is_plain);
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(duration)) if !duration.is_zero() && duration <= Duration::from_secs(86_400) => Ok(duration),
        _ => Err("wanted is a number of seconds, more than 0 and at most 86400".to_owned()),
    }
}

/// A time in seconds that may be 0.
fn pause(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}
