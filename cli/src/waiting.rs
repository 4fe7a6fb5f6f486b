//! What a loop waits for beside its sockets: signals and time.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::low_level::pipe;

/// The other end is gone, whatever was asked for.
pub(crate) const CLOSED: PollFlags = PollFlags::POLLERR.union(PollFlags::POLLHUP).union(PollFlags::POLLNVAL);

/// Signals, as bytes in a pipe. From its making on, they no longer end the process.
pub(crate) struct SignalPipe {
    read: UnixStream,
}

impl SignalPipe {
    /// One pipe for all of `signals`.
    pub(crate) fn of(signals: &[i32]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        for signal in signals {
            pipe::register(*signal, write.try_clone()?)?;
        }
        Ok(Self { read })
    }

    /// Whether a signal came since the last time it was asked.
    pub(crate) fn came(&mut self) -> bool {
        matches!(self.read.read(&mut [0; 64]), Ok(1..))
    }
}

impl AsFd for SignalPipe {
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
