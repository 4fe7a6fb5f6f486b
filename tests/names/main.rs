//! Names and files: how a server's name is chosen, taken, found and given back, through the public interface
//! alone.
//!
//! Every test has a directory of its own. What must not disturb other tests (umask, current directory,
//! another uid, a crash) happens in a child: this very program, told by a variable which part to play.
//! `UDSMSG_TEST_SCALE` multiplies the rounds of the long tests. Tests that need a second user are
//! skipped unless they run as root.

#![cfg(unix)]
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
mod adopt;
mod capability;
mod child;
mod claim;
mod crash;
mod directory;
mod faults;
#[cfg(target_os = "linux")]
mod fuse;
mod location;
#[path = "../it/util/machine.rs"]
mod machine;
mod namespace;
mod other_user;
mod peers;
mod process;
mod race;
mod random;
#[cfg(target_os = "linux")]
mod shared_mount;
mod sweep;
#[path = "../it/util/trace.rs"]
mod trace;
mod unanswering;
mod util;
#[path = "../it/util/watchdog.rs"]
mod watchdog;

use machine::with_time_enough;
use util::scale;
