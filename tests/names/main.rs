//! Names and files: how a server's name is chosen, taken, found and given back, through the public interface
//! alone.
//!
//! Every test has a directory of its own. What must not disturb other tests (umask, current directory,
//! another uid, a crash) happens in a child: this very program, told by a variable which part to play.
//! `UDSMSG_TEST_SCALE` multiplies the rounds of the long tests. Tests that need a second user are
//! skipped unless they run as root.

#![cfg(any(unix, windows))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub,
    reason = "a test says what went wrong by failing, and its child talks over stdout"
)]

mod address;
mod capability;
#[cfg_attr(windows, allow(dead_code, reason = "tests that need more time are not on Windows yet"))]
#[path = "../it/util/machine.rs"]
mod machine;
mod namespace;
mod process;
mod published;
mod random;
mod sweep;
#[path = "../it/util/trace.rs"]
mod trace;
mod util;
#[path = "../it/util/watchdog.rs"]
mod watchdog;

// Sockets, a listener of the caller, and who may connect to it.
#[cfg(unix)]
mod adopt;
#[cfg(unix)]
mod claim;
#[cfg(unix)]
mod peers;
// Directories of default sockets, and the pipe that stands in none.
#[cfg(unix)]
mod location;
#[cfg(windows)]
mod pipe_location;
// Modes, links and the walk along a path; another uid.
#[cfg(unix)]
mod directory;
#[cfg(unix)]
mod other_user;
// Children that bind sockets, take signals and fork; what is left when they are killed at any step.
#[cfg(unix)]
mod child;
#[cfg(unix)]
mod crash;
#[cfg(unix)]
mod race;
// System calls that a filter or a tracer refuses; file systems that never answer.
#[cfg(unix)]
mod faults;
#[cfg(target_os = "linux")]
mod fuse;
#[cfg(target_os = "linux")]
mod shared_mount;
#[cfg(unix)]
mod unanswering;

#[cfg(unix)]
use machine::with_time_enough;
use util::scale;
