//! Our server with our client, beside others at both ends. Each end has a processor, the pairs take turns in each
//! round, and the ratios are of the same round.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::figures::{Figures, median};
use crate::peers::Measured;
use crate::process::{Server, with_environment};
use crate::report::PAIRS;

const ROUNDS: usize = 5;

type Pick = fn(&Measured) -> f64;
const COLUMNS: &[(&str, Pick)] = &[
    ("round-trip", |of| of.round_trip),
    ("rate", |of| of.rate),
    ("server-cpu", |of| of.server_cpu),
    ("one-shot", |of| of.one_shot),
];

pub fn run(figures: &mut Figures) -> Result<()> {
    figures.forget("both-ends");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = PAIRS.iter().map(|(name, _)| pair(name)).collect::<Result<Vec<_>>>()?;
        rounds.push(round);
    }
    for (at, (name, _)) in PAIRS.iter().enumerate() {
        print!("{name:8}");
        for (column, pick) in COLUMNS {
            let value = median(rounds.iter().map(|round| pick(&round[at])).collect());
            let ratio = median(rounds.iter().map(|round| pick(&round[at]) / pick(&round[0])).collect());
            print!("  {column} {value:.2} ({ratio:.2} × ours)");
            figures.set(format!("both-ends.{name}.{column}"), value);
            figures.set(format!("both-ends.{name}.{column}.ratio"), ratio);
        }
        println!();
    }
    Ok(())
}

/// A server and then its client, each a process of its own.
fn pair(name: &str) -> Result<Measured> {
    let server = Server::own(name)?;
    let mut command = Command::new(std::env::current_exe()?);
    with_environment(&mut command, server.dir.path());
    command.args(["client", name]).arg(&server.socket).arg(server.pid().to_string());
    let output = command.output()?;
    if !output.status.success() {
        bail!("the client of {name} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("the client of {name} printed no figures"))
}
