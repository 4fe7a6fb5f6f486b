//! Files: directories that only their user can change, the capability files in them, and what a dead server
//! leaves.
//!
//! Every directory on the way is checked, no link is followed where a file is expected, and what is removed
//! is first compared with what was made.

pub(crate) mod capability;
#[cfg(unix)]
mod group;
pub(crate) mod private_dir;
pub(crate) mod process;
#[cfg(unix)]
pub(crate) mod reach;
#[cfg(unix)]
mod remedy;
pub(crate) mod sweep;
