//! The yardstick: what udsmsg costs, beside the least that a server can cost and beside other software that does
//! the same job. `all` measures everything and writes `docs/performance.md`, its plots, and the table in README.
//!
//!     cargo run --release --manifest-path benches/yardstick/Cargo.toml -- all

#[cfg(feature = "others")]
mod both_ends;
mod figures;
mod floor;
mod instructions;
mod load;
mod memory;
mod modes;
#[cfg(feature = "others")]
mod one_shot;
#[cfg(feature = "others")]
mod peers;
mod plot;
mod process;
mod reach;
mod report;
mod scale;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::figures::Figures;

const USAGE: &str = "\
usage: yardstick all | PART... | document | instructions-allow
parts: floor both-ends one-shot instructions memory scale
`document` writes docs/performance.md from what was measured last.";

/// In the order of `all`.
const PARTS: &[&str] = &["floor", "both-ends", "one-shot", "instructions", "memory", "scale"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        // What this program starts itself.
        ["serve", name, socket] => serve(name, socket.into()),
        ["flood", socket] => {
            let token = process::token(&std::env::temp_dir(), Path::new(socket))?;
            load::flood(Path::new(socket), &load::text(&token))
        }
        #[cfg(feature = "others")]
        ["client", name, socket, server] => {
            let measured = peers::client(name, socket.into(), server.parse()?)?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        #[cfg(feature = "others")]
        ["send-once", socket] => one_shot::send_once(Path::new(socket)),
        ["all"] => {
            note_load()?;
            measure(PARTS)?;
            report::write(&Figures::load()?)
        }
        ["document"] => report::write(&Figures::load()?),
        ["instructions-allow"] => instructions::run(&mut Figures::load()?, true),
        [] => bail!("{USAGE}"),
        _ => measure(&words),
    }
}

/// How busy the machine is before anything is measured.
fn note_load() -> Result<()> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let mut figures = Figures::load()?;
    figures.set("load", text.split(' ').next().unwrap_or_default().parse()?);
    figures.save()
}

fn measure(parts: &[&str]) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("nothing is called {unknown}\n{USAGE}");
    }
    if !process::has_two_processors() {
        println!("there is one processor only: clients and servers share it, and the figures say little");
    }
    process::run_on(process::Side::Client)?;
    let mut figures = Figures::load()?;
    for part in parts {
        println!("-- {part}");
        let start = Instant::now();
        one(part, &mut figures).with_context(|| format!("{part} failed"))?;
        println!("{part} took {:.0} s", start.elapsed().as_secs_f64());
        figures.save()?;
    }
    Ok(())
}

fn one(part: &str, figures: &mut Figures) -> Result<()> {
    match part {
        "floor" => modes::run(figures),
        "instructions" => instructions::run(figures, false),
        "memory" => memory::run(figures),
        "scale" => scale::run(figures),
        #[cfg(feature = "others")]
        "both-ends" => both_ends::run(figures),
        #[cfg(feature = "others")]
        "one-shot" => one_shot::run(figures),
        _ => bail!("it was left out of this program: build it with the feature `others`"),
    }
}

fn serve(name: &str, socket: PathBuf) -> Result<()> {
    match name {
        "floor" => floor::serve(&socket, false),
        "floor-pings" => floor::serve(&socket, true),
        #[cfg(feature = "others")]
        _ => peers::serve(name, socket),
        #[cfg(not(feature = "others"))]
        _ => bail!("no server is called {name}"),
    }
}
