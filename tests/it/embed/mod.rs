//! The server as a guest in other people's loops.

#[cfg(unix)]
mod bare;
#[cfg(unix)]
mod descriptor;
mod misuse;
mod scenarios;
mod waiting;
mod ways;
