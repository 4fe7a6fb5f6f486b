//! `udsmsg`: own an inbox, send to one, look at what is there.
//!
//! What is wanted goes to stdout, as JSON lines unless a person is looking; what is wrong goes to stderr. The exit status
//! is 0 for yes, 1 for no, 2 for a command that was not understood.

mod ask;
mod doctor;
mod interrupt;
mod log;
mod ndjson;
mod output;
mod peers;
mod ping;
mod run;
mod send;
mod serve;
mod waiting;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::builder::{OsStringValueParser, TypedValueParser};
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

    /// Say nothing of warnings on stderr.
    #[arg(short = 'q', global = true)]
    no_warnings: bool,

    /// Say on stderr what happens to each connection. UDSMSG_LOG says the same as a level: off, error, warn (the
    /// default), info, debug.
    #[arg(short, long, global = true, conflicts_with = "no_warnings")]
    verbose: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Own an inbox and print what arrives, until SIGTERM or SIGINT.
    Serve(ServeArgs),
    /// Own an inbox for a command: start it with the address in its environment, and stop with it.
    Run(run::RunArgs),
    /// Put one message into an inbox, or many; exit 0 if it is in there.
    #[command(override_usage = send::USAGE, after_help = send::HELP)]
    Send(send::SendArgs),
    /// Ask whether a server is alive and takes our token.
    Ping(ping::PingArgs),
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
    /// Where to listen, with or without `uds:`. Its directory must be private; by default one is made.
    #[arg(long, value_name = "PATH", value_parser = any_path())]
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

/// Also the empty path: it is refused as every other that cannot be a socket's.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// What to sweep.
#[derive(clap::Args)]
struct SweepArgs {
    /// Remove nothing, say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// For a slow reader of stderr to take the last complaints.
const STDERR_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    waiting::handle_file_size_limit();
    let code = match Cli::try_parse() {
        Ok(cli) => {
            let style = Style::of_stdout(cli.json);
            run(cli, style).unwrap_or_else(|error| {
                output::complain(&error);
                ExitCode::FAILURE
            })
        }
        // Help that was asked for is for stdout.
        Err(help) if !help.use_stderr() => output::status_of(output::print(&help.to_string())),
        Err(misuse) => {
            let _ = misuse.print();
            ExitCode::from(2)
        }
    };
    output::finish_stderr(Instant::now() + STDERR_PATIENCE);
    code
}

fn run(cli: Cli, style: Style) -> Result<ExitCode, Error> {
    let namespace = cli.namespace.as_deref().map(Namespace::new).transpose()?.unwrap_or_default();
    let environment = Environment::from_process();
    log::start(cli.no_warnings, cli.verbose, &environment);
    match cli.command {
        Command::Serve(args) => serve::run(&args, namespace, environment, style),
        Command::Run(args) => run::run(&args, namespace, environment, style),
        Command::Send(args) => send::run(&args, &namespace, &environment, style),
        Command::Ping(args) => ping::run(&args, &namespace, &environment, style),
        Command::Peers => peers::peers(&namespace, &environment, style),
        Command::Sweep(args) => peers::sweep(&args, &namespace, &environment, style),
        Command::Doctor => doctor::doctor(&namespace, &environment, style),
    }
}
