//! Instructions of our server a message, counted by callgrind: the difference of a long run and a short one. They
//! are the same on a busy machine, so that they can be held against a file of allowed counts.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::figures::Figures;
use crate::load::{self, Connections};
use crate::process::{Server, repository};

/// Name, messages of the short run. The long run is three times as long.
const CASES: &[(&str, usize)] = &[("ping", 500), ("text-64", 3_200), ("one-shot", 300), ("large-text", 40)];

/// More than allowed by so much is too much; runs differ by up to 3 %.
const SLACK_PERCENT: f64 = 5.0;

/// Counts; compares with the file unless `write` says that it is to be made new.
pub fn run(figures: &mut Figures, write: bool) -> Result<()> {
    figures.forget("instructions");
    let mut counts = Vec::new();
    for &(name, messages) in CASES {
        let difference = total(name, 3 * messages)? - total(name, messages)?;
        let each = (difference / (2 * messages) as f64).round();
        println!("{name:12} {each:9} instructions a message");
        figures.set(format!("instructions.{name}"), each);
        counts.push((name, each));
    }
    let file = repository().join("benches/instructions.txt");
    if write {
        let lines: String = counts.iter().map(|(name, each)| format!("{name} {each}\n")).collect();
        return Ok(fs::write(file, format!("{HEAD}{lines}"))?);
    }
    compare(&counts, &fs::read_to_string(file)?)
}

const HEAD: &str = "\
# Instructions of `udsmsg serve --quiet` a message, under callgrind: the most that is allowed, with a slack of 5 %.
# cargo run --release --manifest-path benches/yardstick/Cargo.toml -- instructions-allow   writes what is counted.
";

fn compare(counts: &[(&str, f64)], allowed: &str) -> Result<()> {
    let mut exceeded = Vec::new();
    for (name, each) in counts {
        let allowed: f64 = allowed
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .with_context(|| format!("benches/instructions.txt does not say what is allowed for {name}"))?;
        if *each > allowed * (1.0 + SLACK_PERCENT / 100.0) {
            exceeded.push(format!("{name}: {each} instructions, {allowed} are allowed"));
        }
        if *each < allowed * (1.0 - SLACK_PERCENT / 100.0) {
            println!(
                "{name}: fewer than the {allowed} that are allowed; `instructions-allow` writes the new counts"
            );
        }
    }
    if !exceeded.is_empty() {
        bail!(
            "a message costs more than before: {}. If that is meant, `instructions-allow` writes the new counts",
            exceeded.join("; ")
        );
    }
    Ok(())
}

/// All instructions of a server that gets `messages`.
fn total(case: &str, messages: usize) -> Result<f64> {
    let server = Server::tool(&["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"], &[])
        .context("counting needs valgrind")?;
    let (socket, token) = (&server.socket, server.token.as_str());
    match case {
        "ping" => Connections::open(socket, 1, 1, &load::ping(token))?.one_by_one(messages)?,
        "text-64" => drop(Connections::open(socket, 1, 64, &load::text(token))?.run(messages)?),
        "large-text" => Connections::open(socket, 1, 1, &load::large_text(token))?.one_by_one(messages)?,
        _ => load::one_shots(socket, &load::text(token), messages)?,
    }
    let said = server.stop()?;
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    Ok(collected.with_context(|| format!("callgrind counted nothing: {said}"))?.1.trim().parse()?)
}
