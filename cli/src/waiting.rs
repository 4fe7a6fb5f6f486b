//! What a loop waits for beside its sockets: signals and time.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::flag;
use signal_hook::low_level::pipe;

/// The other end is gone, whatever was asked for.
pub(crate) const CLOSED: PollFlags = PollFlags::POLLERR.union(PollFlags::POLLHUP).union(PollFlags::POLLNVAL);

/// Signals, as something to wait for. From its making on, they no longer end the process.
pub(crate) struct Signals {
    /// Readable when one of them came.
    read: UnixStream,
    came: Vec<(i32, Arc<AtomicBool>)>,
    /// Of signals that have been taken.
    may_hold_bytes: bool,
}

impl Signals {
    /// All of `signals`.
    pub(crate) fn of(signals: &[i32]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        let mut came = Vec::new();
        // Whoever started us may have blocked them, and that is inherited.
        let mut unblocked = SigSet::empty();
        for signal in signals {
            unblocked.add(Signal::try_from(*signal)?);
            // Before the byte: whoever is woken by it finds the flag.
            let flag = Arc::new(AtomicBool::new(false));
            flag::register(*signal, Arc::clone(&flag))?;
            pipe::register(*signal, write.try_clone()?)?;
            came.push((*signal, flag));
        }
        unblocked.thread_unblock()?;
        Ok(Self { read, came, may_hold_bytes: false })
    }

    /// Those that came since the last time it was asked, each once. No system call if there are none.
    pub(crate) fn take(&mut self) -> Vec<i32> {
        let is_raised = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if self.may_hold_bytes || self.came.iter().any(|(_, flag)| is_raised(flag)) {
            // All, and before the flags are lowered: one that is raised from here on leaves a byte to wake up for.
            while matches!(self.read.read(&mut [0; 64]), Ok(1..)) {}
        }
        let came = self.came.iter().filter(|(_, flag)| flag.swap(false, Ordering::Relaxed));
        let came: Vec<i32> = came.map(|(signal, _)| *signal).collect();
        self.may_hold_bytes = !came.is_empty();
        came
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// Waits until one of `fds` is ready, for at most `timeout`. A signal ends it early.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up: a deadline is not waited for in steps of zero.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        PollTimeout::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
