//! The instances of a pipe that wait for clients.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use mio::windows::NamedPipe;

use crate::os::sys::{self, OwnerOnly};

/// Instances that wait for a client: so many clients can come between two turns, and the next one is told
/// that the pipe is busy.
const WAITING: usize = 4;

/// A pipe whose name is ours for as long as this is there: it has instances, and others cannot make any.
#[derive(Debug)]
pub(crate) struct PipeListener {
    path: PathBuf,
    access: OwnerOnly,
    /// Never empty. In the order in which they were made.
    instances: VecDeque<NamedPipe>,
}

impl PipeListener {
    /// Takes the name `path`, which must be that of a pipe on this machine.
    ///
    /// # Errors
    ///
    /// What the system says; `PermissionDenied` if the name is taken.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Self::with_instances(path, true)
    }

    /// Another one of the same name, for one that is of no use any more and still there.
    pub(crate) fn renewed(&self) -> io::Result<Self> {
        Self::with_instances(&self.path, false)
    }

    fn with_instances(path: &Path, is_first: bool) -> io::Result<Self> {
        let access = OwnerOnly::pipe()?;
        let mut listener = Self { path: path.to_owned(), access, instances: VecDeque::new() };
        for n in 0..WAITING {
            let instance = sys::new_instance(&listener.path, is_first && n == 0, &listener.access)?;
            listener.instances.push_back(instance);
        }
        Ok(listener)
    }

    /// Another instance, to take the place of one that a client has come to.
    pub(crate) fn another(&self) -> io::Result<NamedPipe> {
        sys::new_instance(&self.path, false, &self.access)
    }

    /// The instances that wait for a client.
    pub(crate) fn waiting(&mut self) -> &mut VecDeque<NamedPipe> {
        &mut self.instances
    }
}

impl Drop for PipeListener {
    /// An instance whose handle is still open lets a client in that would never be served. The handle is
    /// closed only when the queue is asked the next time, and never if that is dropped before.
    fn drop(&mut self) {
        for instance in &self.instances {
            // It fails only where the instance is of no use any more.
            let _ = instance.disconnect();
        }
    }
}
