//! What is allocated: the library's own tests count it, and print it.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::figures::Figures;
use crate::process::repository;

pub fn run(figures: &mut Figures) -> Result<()> {
    figures.forget("memory");
    let output = Command::new("cargo")
        .args(["test", "--package", "udsmsg", "--test", "alloc", "--test", "endpoint_memory"])
        .args(["--", "--nocapture"])
        .current_dir(repository())
        .output()?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the tests of memory fail: {said}");
    }
    // `N allocations for N messages`, `a client costs N bytes, ...`
    let words: Vec<&str> = said.split_whitespace().collect();
    let before = |words: &[&str], phrase: &[&str]| -> Option<f64> {
        let at = words.windows(phrase.len()).position(|window| window == phrase)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    let calls = before(&words, &["allocations", "for"]).context("no allocations were counted")?;
    let bytes = words
        .windows(4)
        .find_map(|window| match window {
            ["client", "costs", bytes, "bytes" | "bytes,"] => bytes.parse().ok(),
            _ => None,
        })
        .context("no bytes were counted")?;
    println!("{calls} allocations a message, {bytes} bytes reserved a client");
    figures.set("memory.allocations", calls);
    figures.set("memory.bytes", bytes);
    Ok(())
}
