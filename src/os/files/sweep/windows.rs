//! Windows: a pipe ends with its last process, and leaves nothing but its capability file.

use std::io;
use std::path::Path;

use super::{DeadCapability, Kept, Sweep};
use crate::os::sys;

impl Sweep<'_> {
    /// A capability file of a dead process.
    pub(super) fn try_dead(&mut self, dead: &DeadCapability<'_>) -> Result<(), Kept> {
        let address = &dead.found.capability.address;
        address.check_length()?;
        // A child may serve on with the token of its dead parent.
        match sys::open_pipe(Path::new(address.path())) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            _ => return Err("its process has ended, but there is still something at its pipe path".into()),
        }
        dead.check_unchanged(self.origin)?;
        self.remove_lone(dead)
    }
}

/// What to do about the `directory`, which holds more than one sweep looks at.
pub(super) fn rest_of(directory: &Path) -> String {
    let _ = directory;
    String::from("run it again to look at others")
}
