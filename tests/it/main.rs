//! The tests of the library through its public face, in one binary: `cargo test --test it`.
#![cfg(all(unix, feature = "server"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "tests may fail loudly, and their helpers are nobody's interface"
)]

mod auth;
mod client;
mod embed;
mod fairness;
mod framing;
mod half_close;
mod inbox;
mod late_host;
mod lifecycle;
mod limits;
mod load;
mod outbox;
mod regressions;
mod sending;
mod transport;
mod util;
