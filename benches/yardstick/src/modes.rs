//! What a message costs a server, beside the floor and beside a tokio server that does the whole job.

use std::time::Duration;

use anyhow::Result;

use crate::figures::{Figures, median};
use crate::load::{self, Connections};
use crate::process::{Server, cpu};

/// How often each server has its turn in each mode.
const ROUNDS: usize = 7;

#[derive(Clone, Copy, PartialEq)]
enum Line {
    Text,
    Ping,
    Large,
}

enum Shape {
    /// So many connections with so many messages in flight each.
    InFlight(usize, usize),
    OneShots,
}

/// What is sent, and how.
pub struct Mode {
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    line: Line,
    shape: Shape,
    messages: usize,
}

const fn mode(name: &'static str, title: &'static str, line: Line, shape: Shape, messages: usize) -> Mode {
    Mode { name, title, line, shape, messages }
}

pub const MODES: &[Mode] = &[
    mode("1x64", "1 × 64", Line::Text, Shape::InFlight(1, 64), 128_000),
    mode("8x32", "8 × 32", Line::Text, Shape::InFlight(8, 32), 128_000),
    mode("100x8", "100 × 8", Line::Text, Shape::InFlight(100, 8), 120_000),
    mode("pings-8x32", "pings, 8 × 32", Line::Ping, Shape::InFlight(8, 32), 128_000),
    mode("large-4x2", "60 KiB, 4 × 2", Line::Large, Shape::InFlight(4, 2), 4_000),
    mode("depth-1", "depth 1, sleeping", Line::Text, Shape::InFlight(1, 1), 15_000),
    mode("one-shot", "connect, send, close", Line::Text, Shape::OneShots, 6_000),
];

/// Ours, the floor, and tokio, which is there if other software is compared with.
fn start(ping: bool) -> Result<Vec<(&'static str, Server)>> {
    let mut servers = vec![
        ("udsmsg", Server::tool(&[], &[])?),
        ("floor", Server::own(if ping { "floor-pings" } else { "floor" })?),
    ];
    if cfg!(feature = "others") {
        servers.push(("tokio", Server::own("tokio")?));
    }
    Ok(servers)
}

fn line(kind: Line, token: &str) -> Vec<u8> {
    match kind {
        Line::Text => load::text(token),
        Line::Ping => load::ping(token),
        Line::Large => load::large_text(token),
    }
}

/// Processor time a message in µs.
fn measure(server: &Server, mode: &Mode) -> Result<f64> {
    let line = line(mode.line, &server.token);
    let before = match mode.shape {
        Shape::InFlight(connections, depth) => {
            let mut connections = Connections::open(&server.socket, connections, depth, &line)?;
            connections.run(mode.messages / 10)?;
            let before = cpu(server.pid())?;
            connections.run(mode.messages)?;
            before
        }
        Shape::OneShots => {
            let before = cpu(server.pid())?;
            load::one_shots(&server.socket, &line, mode.messages)?;
            before
        }
    };
    Ok((cpu(server.pid())? - before).as_secs_f64() * 1e6 / mode.messages as f64)
}

/// All modes and servers; the servers take turns in each round, and the ratios are of the same round.
pub fn run(figures: &mut Figures) -> Result<()> {
    figures.forget("floor");
    for mode in MODES {
        let servers = start(mode.line == Line::Ping)?;
        let mut costs = vec![Vec::new(); servers.len()];
        for _ in 0..ROUNDS {
            for ((_, server), costs) in servers.iter().zip(&mut costs) {
                costs.push(measure(server, mode)?);
            }
        }
        let floor = costs[1].clone();
        for ((name, _), costs) in servers.iter().zip(costs) {
            let ratio = median(costs.iter().zip(&floor).map(|(cost, floor)| cost / floor).collect());
            let cost = median(costs);
            println!("{:12} {name:8} {cost:8.3} µs  {ratio:5.2} × the floor", mode.name);
            figures.set(format!("floor.{}.{name}", mode.name), cost);
            figures.set(format!("floor.{}.{name}.ratio", mode.name), ratio);
        }
    }
    wakeups(figures)?;
    quiet_client(figures)
}

/// How often a server wakes up for a message every 4 ms, and how often while nothing is sent.
fn wakeups(figures: &mut Figures) -> Result<()> {
    const MESSAGES: usize = 500;
    for (name, server) in start(false)? {
        let line = load::text(&server.token);
        // Before the count begins.
        load::with_pauses(&server.socket, &line, 5, Duration::from_millis(4))?;
        std::thread::sleep(Duration::from_millis(100));
        let mut quiet = Connections::open(&server.socket, 1, 1, &line)?;
        quiet.run(1)?;
        std::thread::sleep(Duration::from_millis(100));
        let before = server.wakeups()?;
        for _ in 0..MESSAGES {
            quiet.run(1)?;
            std::thread::sleep(Duration::from_millis(4));
        }
        let each = (server.wakeups()? - before) / MESSAGES as f64;
        let before = server.wakeups()?;
        std::thread::sleep(Duration::from_secs(3));
        let idle = server.wakeups()? - before;
        println!("wake-ups     {name:8} {each:8.3} a message, {idle} in 3 s without one");
        figures.set(format!("floor.wakeups.{name}"), each);
        figures.set(format!("floor.wakeups-idle.{name}"), idle);
    }
    Ok(())
}

/// The time to an answer for a client that sends one message every millisecond, beside seven flooders.
fn quiet_client(figures: &mut Figures) -> Result<()> {
    let servers = start(false)?;
    let mut times = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        for ((_, server), times) in servers.iter().zip(&mut times) {
            let mut flooders = server.flooders()?;
            let time =
                load::with_pauses(&server.socket, &load::text(&server.token), 300, Duration::from_millis(1));
            flooders.kill()?;
            flooders.wait()?;
            times.push(time?);
        }
    }
    let floor = times[1].clone();
    for ((name, _), times) in servers.iter().zip(times) {
        let ratio = median(times.iter().zip(&floor).map(|(time, floor)| time / floor).collect());
        let time = median(times);
        println!("quiet        {name:8} {time:8.1} µs  {ratio:5.2} × the floor");
        figures.set(format!("floor.quiet.{name}"), time);
        figures.set(format!("floor.quiet.{name}.ratio"), ratio);
    }
    Ok(())
}
