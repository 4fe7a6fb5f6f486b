//! Files: directories that only their user can change, the capability files in them, and what a dead server
//! leaves.
//!
//! Every directory on the way is checked, no link is followed where a file is expected, and what is removed
//! is first compared with what was made.

pub(crate) mod capability;
mod group;
pub(crate) mod private_dir;
pub(crate) mod process;
pub(crate) mod reach;
mod remedy;
pub(crate) mod sweep;

use std::ffi::OsStr;
use std::path::{Component, Path};

/// Links that a walk along a path follows, as the kernel does.
const LINKS_MAX: u32 = 40;

/// What is to be walked along `path`: names and `..`, nothing for `/` and `.`.
fn steps_of(path: &Path) -> impl DoubleEndedIterator<Item = &OsStr> {
    let steps = path.components().filter(|it| matches!(it, Component::Normal(_) | Component::ParentDir));
    steps.map(Component::as_os_str)
}
