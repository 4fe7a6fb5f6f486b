//! `docs/performance.md`, its plots, and the table in README, all from what was measured.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::figures::Figures;
use crate::modes::{MODES, Mode};
use crate::plot::{Series, bars, lines, short};
use crate::process::repository;
use crate::reach;
use crate::scale::{CONNECTIONS, TIMERS};

const COMMAND: &str = "cargo run --release --manifest-path benches/yardstick/Cargo.toml -- all";

/// How the pairs are called: to this program, and to people.
pub const PAIRS: &[(&str, &str)] = &[
    ("udsmsg", "udsmsg"),
    ("tokio", "tokio, LinesCodec, serde_json"),
    ("tarpc", "tarpc"),
    ("zlink", "zlink"),
    ("zbus", "zbus"),
    ("zeromq", "ZeroMQ"),
    ("axum", "axum over UDS"),
];

/// Of both ends.
const COLUMNS: &[(&str, &str)] = &[
    ("round-trip", "round trip p50, µs"),
    ("rate", "64 in flight, messages a second"),
    ("server-cpu", "server CPU a message, 64 in flight, µs"),
    ("one-shot", "one-shot send p50, µs"),
];

pub fn write(figures: &Figures) -> Result<()> {
    let docs = repository().join("docs");
    let plots = docs.join("performance");
    fs::create_dir_all(&plots)?;
    fs::write(plots.join("floor.svg"), floor_plot(figures))?;
    fs::write(plots.join("both-ends.svg"), both_ends_plot(figures))?;
    fs::write(plots.join("scale.svg"), scale_plot(figures))?;
    fs::write(docs.join("performance.md"), document(figures)?)?;
    write_readme(figures)
}

fn of(figures: &Figures, name: &str) -> f64 {
    figures.get(name).unwrap_or(f64::NAN)
}

fn floor_plot(figures: &Figures) -> String {
    let names = ["udsmsg", "floor", "tokio"];
    let groups: Vec<(String, Vec<f64>)> = MODES
        .iter()
        .map(|mode| {
            let ratios = names.map(|name| of(figures, &format!("floor.{}.{name}.ratio", mode.name)));
            (mode.title.to_owned(), ratios.to_vec())
        })
        .collect();
    bars("Server CPU a message, as a multiple of the floor's", &names, &groups, false)
}

fn both_ends_plot(figures: &Figures) -> String {
    let names: Vec<&str> = PAIRS.iter().map(|(_, title)| title.split(',').next().unwrap_or(title)).collect();
    let groups: Vec<(String, Vec<f64>)> = [
        ("round-trip", "round trip, µs"),
        ("rate", "messages a second"),
        ("server-cpu", "server CPU, µs"),
        ("one-shot", "one-shot send, µs"),
    ]
    .iter()
    .map(|(column, title)| {
        let values = PAIRS.iter().map(|(name, _)| of(figures, &format!("both-ends.{name}.{column}")));
        ((*title).to_owned(), values.collect())
    })
    .collect();
    bars("Both ends, the same job: each group to its own scale", &names, &groups, true)
}

fn scale_plot(figures: &Figures) -> String {
    let series = |name: &str, places: &[usize], figure: &dyn Fn(usize) -> String| Series {
        name: name.to_owned(),
        points: places
            .iter()
            .filter_map(|place| Some((*place as f64, figures.get(&figure(*place))?)))
            .collect(),
    };
    let all = [
        series("udsmsg: a message at a time, from one connection after the other", CONNECTIONS, &|n| {
            format!("scale.one.{n}.udsmsg")
        }),
        series("floor: the same", CONNECTIONS, &|n| format!("scale.one.{n}.floor")),
        series("udsmsg: a message from every connection at once", CONNECTIONS, &|n| {
            format!("scale.wave.{n}.udsmsg")
        }),
        series("floor: the same", CONNECTIONS, &|n| format!("scale.wave.{n}.floor")),
        series("timers alone: a deadline set and the next one found", TIMERS, &|n| {
            format!("scale.timers.{n}")
        }),
    ];
    lines("Server CPU a message, and a turn of the timers", "connections, or timers", "µs", &all)
}

fn both_ends_table(figures: &Figures) -> String {
    let mut table = String::from("| |");
    PAIRS.iter().for_each(|(_, title)| table += &format!(" {title} |"));
    table += &format!("\n|{}\n", "---|".repeat(PAIRS.len() + 1));
    for (column, title) in COLUMNS {
        table += &format!("| {title} | {} |", short(of(figures, &format!("both-ends.udsmsg.{column}"))));
        for (name, _) in &PAIRS[1..] {
            table += &format!(" {:.2} × |", of(figures, &format!("both-ends.{name}.{column}.ratio")));
        }
        table.push('\n');
    }
    table
}

fn floor_table(figures: &Figures) -> String {
    let mut table = String::from(
        "| connections × in flight | udsmsg, µs | floor, µs | tokio, µs | udsmsg ÷ floor | tokio ÷ floor |\n\
         |---|---|---|---|---|---|\n",
    );
    for Mode { name: mode, title, .. } in MODES {
        let cost = |name| short(of(figures, &format!("floor.{mode}.{name}")));
        let ratio = |name| short(of(figures, &format!("floor.{mode}.{name}.ratio")));
        table += &format!(
            "| {title} | {} | {} | {} | {} | {} |\n",
            cost("udsmsg"),
            cost("floor"),
            cost("tokio"),
            ratio("udsmsg"),
            ratio("tokio")
        );
    }
    table
}

fn scale_table(figures: &Figures) -> String {
    let mut table = String::from(
        "| connections | one at a time, µs | floor | all at once, µs | floor | resident bytes a connection |\n\
         |---|---|---|---|---|---|\n",
    );
    for n in CONNECTIONS {
        let figure = |name: &str| short(of(figures, &format!("scale.{name}")));
        table += &format!(
            "| {n} | {} | {} | {} | {} | {} |\n",
            figure(&format!("one.{n}.udsmsg")),
            figure(&format!("one.{n}.floor")),
            figure(&format!("wave.{n}.udsmsg")),
            figure(&format!("wave.{n}.floor")),
            // Memory grows by pages.
            if *n < 1_000 { "–".into() } else { figure(&format!("bytes.{n}.udsmsg")) },
        );
    }
    table
}

/// What a command prints, or that it is not known.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(repository()).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn machine(figures: &Figures) -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let lock = fs::read_to_string(repository().join("benches/yardstick/Cargo.lock"))?;
    let versions: Vec<String> =
        ["tokio", "tokio-util", "serde_json", "tarpc", "zlink", "zbus", "zmq", "axum", "hyper"]
            .iter()
            .filter_map(|name| {
                let after = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
                Some(format!("{name} {}", after.split('"').next()?))
            })
            .collect();
    let changed =
        if said("git", &["status", "--porcelain", "src", "cli"]).is_empty() { "" } else { ", changed" };
    Ok(format!(
        "| | |\n|---|---|\n| processor | {}, {} cores |\n| kernel | Linux {} |\n| compiler | {} |\n\
         | udsmsg | {} of {}{changed} |\n| others | {} |\n| instructions | {} |\n| day | {} |\n\
         | load average before the run | {} |\n",
        model.map_or("unknown", |(_, model)| model),
        cpus.matches("model name").count(),
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("git", &["log", "-1", "--format=%cs"]),
        versions.join(", "),
        said("valgrind", &["--version"]),
        said("date", &["-u", "+%F"]),
        short(of(figures, "load")),
    ))
}

fn document(figures: &Figures) -> Result<String> {
    let figure = |name: &str| short(of(figures, name));
    let timers = TIMERS.iter().map(|n| {
        format!("{} at {}", short(of(figures, &format!("scale.timers.{n}")) * 1e3), short(*n as f64))
    });
    let text = include_str!("performance.md")
        .replace("{command}", COMMAND)
        .replace("{machine}", &machine(figures)?)
        .replace("{reach}", &reach::table(figures))
        .replace("{both-ends}", &both_ends_table(figures))
        .replace("{floor}", &floor_table(figures))
        .replace("{quiet}", &figure("floor.quiet.udsmsg"))
        .replace("{quiet-floor}", &figure("floor.quiet.floor"))
        .replace("{quiet-tokio}", &figure("floor.quiet.tokio"))
        .replace("{wakeups}", &figure("floor.wakeups.udsmsg"))
        .replace("{wakeups-tokio}", &figure("floor.wakeups.tokio"))
        .replace("{new-first}", &figure("one-shot.new-first"))
        .replace("{scale}", &scale_table(figures))
        .replace("{timers}", &timers.collect::<Vec<_>>().join(", "))
        .replace("{allocations}", &figure("memory.allocations"))
        .replace("{bytes}", &figure("memory.bytes"));
    Ok(text)
}

/// The part of README between two marks.
fn write_readme(figures: &Figures) -> Result<()> {
    const BEGIN: &str = "<!-- written by benches/yardstick -->\n";
    const END: &str = "<!-- end of what is written by benches/yardstick -->\n";
    let path = repository().join("README.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).context("README.md has no mark for the figures")?;
    let (_, after) = rest.split_once(END).context("README.md has no mark for the end of the figures")?;
    Ok(fs::write(path, format!("{before}{BEGIN}\n{}\n{END}{after}", both_ends_table(figures)))?)
}
