//! The tests of the library through its public API, in one binary: `cargo test --test it`. Without the
//! feature `server`, the tests of the core alone: `cargo test --no-default-features --test it`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "tests may panic, and their helpers are not an interface"
)]

mod auth;
#[cfg(feature = "server")]
mod client;
#[cfg(feature = "server")]
mod embed;
mod fairness;
mod framing;
mod half_close;
mod inbox;
mod late_host;
#[cfg(feature = "server")]
mod lifecycle;
mod limits;
#[cfg(feature = "server")]
mod load;
mod outbox;
mod regressions;
#[cfg(feature = "server")]
mod sending;
// Descriptors, adopted sockets, urgent data, resets and half-closes: a pipe has none of these.
#[cfg(all(feature = "server", unix))]
mod transport;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "some helpers need a real server"))]
mod util;
