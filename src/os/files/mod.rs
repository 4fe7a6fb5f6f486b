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

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path};

/// Links that a walk along a path follows, as the kernel does.
const LINKS_MAX: u32 = 40;

/// Puts the steps along `path`, names and `..`, before what is still to be walked.
fn prepend(pending: &mut VecDeque<OsString>, path: &Path) {
    let steps = path.components().filter(|it| matches!(it, Component::Normal(_) | Component::ParentDir));
    for step in steps.rev() {
        pending.push_front(step.as_os_str().to_owned());
    }
}
