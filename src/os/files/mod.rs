//! Files: directories that only their user can change, the capability files in them, and what a dead server
//! leaves.
//!
//! Every directory on the way is checked, no link is followed where a file is expected, and what is removed
//! is first compared with what was made.

pub mod capability;
mod group;
pub(crate) mod private_dir;
pub mod process;
pub(crate) mod reach;
mod remedy;
pub mod sweep;
