//! The lock on a directory of sockets: starts, stops and sweeps there take turns.
//!
//! It is `flock` on a descriptor of the directory itself, so no lock file is ever made.

use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::os::clock::Clock;
use crate::os::files::private_dir::PrivateDir;
use crate::os::refused;
use crate::proto::error::{Error, ErrorKind};

/// How long a start, a sweep, or a stop that is given no other time waits for others on the same directory.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// The lock on a directory, given back when dropped.
pub(crate) struct Lock {
    dir: Arc<PrivateDir>,
}

impl Lock {
    /// Waits for the lock, until [`LOCK_TIMEOUT`] after the origin of `clock`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`], [`ErrorKind::Io`].
    pub(crate) fn take(dir: &Arc<PrivateDir>, clock: &Clock) -> Result<Self, Error> {
        Self::take_within(dir, clock, LOCK_TIMEOUT)
    }

    /// Waits for the lock, until `wait` after the origin of `clock`; tries at least once.
    ///
    /// # Errors
    ///
    /// As for [`Lock::take`].
    pub(crate) fn take_within(dir: &Arc<PrivateDir>, clock: &Clock, wait: Duration) -> Result<Self, Error> {
        let mut pause = Duration::from_millis(1);
        loop {
            match dir.file().try_lock() {
                Ok(()) => return Ok(Self { dir: Arc::clone(dir) }),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(fs::TryLockError::Error(cause)) => {
                    return Err(refused(format!("cannot lock the directory {:?}", dir.path()), cause));
                }
            }
            let waited = Duration::from_nanos(clock.now().mono.as_nanos());
            if waited >= wait {
                let sentence = format!(
                    "another server is starting or stopping in {:?} and did not end within {} ms; try again",
                    dir.path(),
                    wait.as_millis()
                );
                return Err(Error::new(ErrorKind::TimedOut, sentence));
            }
            thread::sleep(pause.min(wait.saturating_sub(waited)));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the descriptor is not enough: a forked child may hold a copy of it.
        let _ = self.dir.file().unlock();
    }
}
