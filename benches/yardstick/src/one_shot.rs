//! What one message from a new `Client` costs before it leaves: time to make and drop the client, and system calls.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::figures::{Figures, median};
use crate::peers::{Sender, ours};
use crate::process::{Server, with_environment};

const PROCESSES: usize = 15;
const CLIENTS: usize = 2_000;

pub fn run(figures: &mut Figures) -> Result<()> {
    figures.forget("one-shot");
    let server = Server::own("udsmsg")?;
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..PROCESSES {
        let output = sender(&server, Command::new(std::env::current_exe()?)).output()?;
        ensure!(output.status.success(), "the sender failed: {}", String::from_utf8_lossy(&output.stderr));
        let (first, later): (f64, f64) = serde_json::from_slice(&output.stdout)?;
        times.0.push(first);
        times.1.push(later);
    }
    let (first, time) = (median(times.0), median(times.1));
    let trace = server.dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace.arg("-o").arg(&trace).arg(std::env::current_exe()?);
    let output = sender(&server, strace).output().context("system calls are counted with strace")?;
    ensure!(output.status.success(), "the sender failed: {}", String::from_utf8_lossy(&output.stderr));
    let trace = fs::read_to_string(trace)?;
    let after = trace.lines().skip_while(|line| !line.starts_with("getppid(")).skip(1);
    let calls: Vec<&str> = after.take_while(|line| !line.starts_with("socket(")).collect();
    println!("{time:.2} µs for Client::new and its drop, {first:.2} µs for the first in a process");
    println!("{} system calls before socket(2):", calls.len());
    calls.iter().for_each(|call| println!("    {call}"));
    figures.set("one-shot.new", time);
    figures.set("one-shot.new-first", first);
    figures.set("one-shot.calls", calls.len() as f64);
    Ok(())
}

fn sender(server: &Server, mut command: Command) -> Command {
    command.arg("send-once").arg(&server.socket);
    with_environment(&mut command, server.dir.path());
    command
}

/// In a process of its own: prints the time to make and drop the first client and the median of all, in µs; then
/// sends one message.
pub fn send_once(socket: &Path) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..CLIENTS {
        let start = Instant::now();
        drop(udsmsg::Client::new()?);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    println!("{}", serde_json::to_string(&(times[0], median(times)))?);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        // `getppid` marks the place in the trace.
        let _ = std::os::unix::process::parent_id();
        ours::Client::connect(socket).await?.send().await
    })
}
