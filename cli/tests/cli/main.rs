//! The `udsmsg` command from outside: what it prints, how it ends, what it leaves on disk, and how it works
//! with an implementation in another language.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test a panic is how a failure is reported"
)]
#![cfg_attr(windows, allow(unused_imports, dead_code, reason = "what the tests that are for Unix only need"))]

mod ask;
#[cfg(windows)]
mod c_peer;
#[cfg(unix)]
mod dispositions;
#[cfg(target_os = "linux")]
#[path = "../../../tests/names/fuse.rs"]
mod fuse;
#[cfg(unix)]
mod interop;
#[cfg(unix)]
mod log;
#[path = "../../../tests/it/util/machine.rs"]
#[allow(dead_code, unreachable_pub, reason = "what other tests need of it")]
mod machine;
mod many;
#[cfg(unix)]
mod output;
mod peers;
mod ping;
mod run;
mod send;
mod serve;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod stdout;
#[cfg(unix)]
#[path = "system/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "system/windows.rs"]
mod system;
#[cfg(unix)]
mod terminal;
#[cfg(target_os = "linux")]
mod unanswering;
mod util;
#[cfg(unix)]
mod workspace;
