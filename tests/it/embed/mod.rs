//! The server as a guest in other people's loops.

mod bare;
mod misuse;
mod scenarios;
mod waiting;
mod ways;
