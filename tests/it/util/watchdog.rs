//! Ends a test that hangs, and names it.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Aborts the process unless it is dropped in time.
pub struct Watchdog {
    _alive: Sender<()>,
}

/// Gives the test `name` two minutes, times the scale: far more than it needs beside other work on the
/// machine.
pub fn watch(name: &str) -> Watchdog {
    super::trace::print_if_asked();
    let limit = Duration::from_secs(120) * u32::try_from(super::scale()).unwrap();
    let (alive, is_dropped) = mpsc::channel();
    let name = name.to_owned();
    thread::spawn(move || {
        if is_dropped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            super::machine::print(&format!("watchdog: {name} still runs after {limit:?}: it hangs\n"));
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}
