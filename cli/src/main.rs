//! `udsmsg`: own an inbox, send to one, look at what is there.
//!
//! Results go to stdout, as JSON lines unless it is a terminal; complaints go to stderr. The exit status is 0
//! for success, 1 for failure, 2 for a command that was not understood.

#![forbid(unsafe_code)]

// A module imports only from the groups above its own.
mod args;
mod checks;
mod escape;

#[cfg(unix)]
#[path = "unix/mod.rs"]
mod platform;
#[cfg(windows)]
#[path = "windows/mod.rs"]
mod platform;

mod lines;

mod complaints;

mod interrupt;
mod log;
mod output;

mod context;
mod owner;

mod ask;
mod ndjson;
mod peers;
mod run;
mod serve;
mod target;

mod doctor;
mod ping;
mod send;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use udsmsg::{Environment, Error, Namespace};

use crate::args::{Cli, Command};
use crate::complaints::complain;
use crate::context::Context;
use crate::output::Style;

/// How long a slow reader of stderr may take for the last complaints.
const STDERR_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    platform::prepare_process();
    let code = match Cli::try_parse() {
        Ok(cli) => {
            let style = Style::of_stdout(cli.json);
            run(cli, style).unwrap_or_else(|error| {
                complain(&error);
                ExitCode::FAILURE
            })
        }
        // Help that was asked for goes to stdout.
        Err(help) if !help.use_stderr() => output::status_of(output::print(&help.to_string())),
        Err(misuse) => {
            // Not `print`, which waits for the reader of stderr.
            misuse.to_string().lines().for_each(|line| complain(&line));
            ExitCode::from(2)
        }
    };
    complaints::finish(Instant::now() + STDERR_PATIENCE);
    code
}

fn run(cli: Cli, style: Style) -> Result<ExitCode, Error> {
    let namespace = cli.namespace.as_deref().map(Namespace::new).transpose()?.unwrap_or_default();
    let environment = Environment::from_process();
    log::start(cli.no_warnings, cli.verbose, &environment);
    let context = Context { namespace, environment, style };
    match cli.command {
        Command::Serve(args) => serve::run(&args, &context),
        Command::Run(args) => run::run(&args, &context),
        Command::Send(args) => send::run(&args, &context),
        Command::Ping(args) => ping::run(&args, &context),
        Command::Peers => peers::peers(&context),
        Command::Sweep(args) => peers::sweep(&args, &context),
        Command::Doctor => doctor::doctor(&context),
    }
}
