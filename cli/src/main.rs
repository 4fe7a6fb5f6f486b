//! `udsmsg`: own an inbox, send to one, look at what is there.
//!
//! What is wanted goes to stdout, as JSON lines unless a person is looking; what is wrong goes to stderr. The exit status
//! is 0 for yes, 1 for no, 2 for a command that was not understood.

mod doctor;
mod output;
mod peers;
mod send;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use udsmsg::{Environment, Error, Namespace};

use crate::output::Style;

/// A private inbox for one process, and messages into it.
#[derive(Parser)]
#[command(name = "udsmsg", version)]
struct Cli {
    /// Print JSON lines, even to a terminal.
    #[arg(long, global = true)]
    json: bool,

    /// Use the names of this namespace instead of the default one's.
    #[arg(long, global = true, value_name = "NAME")]
    namespace: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Own an inbox and print what arrives, until SIGTERM or SIGINT.
    Serve(ServeArgs),
    /// Put one message into an inbox; exit 0 if it is in there.
    #[command(override_usage = "udsmsg send [OPTIONS] <TARGET> <TYPE> <DATA>")]
    Send(SendArgs),
    /// Ask whether a server is alive and takes our token.
    Ping(PingArgs),
    /// List everyone who can be sent to, and who of them lives.
    Peers,
    /// Remove what dead servers left behind; whatever may live is kept.
    Sweep(SweepArgs),
    /// Say what is wrong with directories, files and limits, and what to do; exit 0 if all is well.
    Doctor,
}

/// How to own an inbox.
#[derive(clap::Args)]
struct ServeArgs {
    /// Where to listen. Its directory must be private; by default one is made.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Clients served at once.
    #[arg(long, value_name = "N")]
    max_clients: Option<usize>,

    /// Print nothing after the first line.
    #[arg(long)]
    quiet: bool,

    /// Keep messages in the inbox until SIGUSR1, and print what is left at the end.
    #[arg(long)]
    no_drain: bool,
}

/// What to send, and where.
#[derive(clap::Args)]
struct SendArgs {
    /// The receiver's socket path, with or without `uds:`.
    target: OsString,
    /// The type (text, notification, query, response, error, or one of your own) and the payload, as text.
    ///
    /// Options stand before the type: what follows it is payload, even if it looks like an option.
    #[arg(value_names = ["TYPE", "DATA"], num_args = 2..=3, required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

impl SendArgs {
    /// The type and the payload, which may stand behind a `--` as scripts write it.
    fn message(&self) -> Option<(&str, &str)> {
        match self.words.as_slice() {
            [kind, data] => Some((kind, data)),
            [kind, dashes, data] if dashes == "--" => Some((kind, data)),
            _ => None,
        }
    }
}

/// Whom to ask.
#[derive(clap::Args)]
struct PingArgs {
    /// The receiver's socket path, with or without `uds:`.
    target: OsString,
}

/// What to sweep.
#[derive(clap::Args)]
struct SweepArgs {
    /// Remove nothing, say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let style = Style::of_stdout(cli.json);
    match run(cli, style) {
        Ok(code) => code,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, style: Style) -> Result<ExitCode, Error> {
    let namespace = cli.namespace.as_deref().map(Namespace::new).transpose()?.unwrap_or_default();
    let environment = Environment::from_process();
    match cli.command {
        Command::Serve(args) => serve::run(&args, namespace, environment, style),
        Command::Send(args) => send::send(&args, &namespace, &environment, style),
        Command::Ping(args) => send::ping(&args, &namespace, &environment, style),
        Command::Peers => peers::peers(&namespace, &environment, style),
        Command::Sweep(args) => peers::sweep(&args, &namespace, &environment, style),
        Command::Doctor => doctor::doctor(&namespace, &environment, style),
    }
}
