//! A server under load by hostile and broken peers, with figures. `cargo test --test stress -- --nocapture`
//! shows them.
//!
//! What is measured (memory, descriptors, processor time) belongs to a whole process, so the server runs in
//! one of its own, which is this program again; see `host`. Tests that measure run one at a time.
//! `UDSMSG_TEST_SCALE` makes them longer; at 100 they have their full length: a million pings, a million
//! connections, 10 s without a descriptor, 30 s of dripping.
#![cfg(all(target_os = "linux", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "tests may panic and print figures, and their helpers are not an interface"
)]

mod descriptors;
mod host;
mod measure;
mod memory;
mod processes;
mod secrets;
mod stop;
mod time;
mod traffic;
#[path = "../it/util/mod.rs"]
#[allow(dead_code, reason = "what other tests need of it")]
mod util;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Only one test at a time may load or measure the machine. One that failed stops no other.
fn alone(name: &str) -> (MutexGuard<'static, ()>, util::watchdog::Watchdog) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (turn, util::watchdog::watch(name))
}

/// How often something is done: `short` times the scale, and never more than `full`.
fn times(short: usize, full: usize) -> usize {
    (short * util::scale()).min(full)
}
