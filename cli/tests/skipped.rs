//! Runs last in `cargo test`: prints in one line what the test programs before it could not run, and why.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is reported")]

use std::collections::BTreeMap;
use std::path::PathBuf;

/// One file for each run of cargo, which is the parent of all test programs.
#[cfg(unix)]
fn file_of_this_run() -> Option<PathBuf> {
    let name = format!("skipped-{}", std::os::unix::process::parent_id());
    Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
}

/// The standard library does not tell the parent here: there is only what the test programs print at once.
#[cfg(windows)]
fn file_of_this_run() -> Option<PathBuf> {
    None
}

fn main() {
    let Some(file) = file_of_this_run() else { return };
    let lines = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in lines.lines() {
        let (test, reason) = line.trim_start_matches("SKIPPED: ").split_once(": ").unwrap();
        let tests = by_reason.entry(reason).or_default();
        if !tests.contains(&test) {
            tests.push(test);
        }
    }
    let by_reason: Vec<String> =
        by_reason.into_iter().map(|(reason, tests)| format!("{reason} ({})", tests.join(", "))).collect();
    if !by_reason.is_empty() {
        println!("\nSKIPPED, at least in part: {}", by_reason.join("; "));
    }
}
