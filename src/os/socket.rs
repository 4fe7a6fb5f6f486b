//! A connecting, non-blocking stream for callers without an event loop.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{UnixAddr, connect};

use super::address::Address;
use super::sys;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::peer::PeerIdentity;

/// What a stream can do now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) can_read: bool,
    pub(crate) can_write: bool,
}

/// One connection to a server. Nothing on it blocks but [`ClientStream::wait`].
#[derive(Debug)]
pub(crate) struct ClientStream(UnixStream);

impl ClientStream {
    /// Connects at once or says why not; a full backlog is [`ErrorKind::TimedOut`], to be tried again.
    pub(crate) fn connect(target: &Address) -> Result<Self, Error> {
        target.check_length()?;
        let failed = |errno: Errno| {
            let (kind, why) = match errno {
                Errno::ENOENT => (ErrorKind::NoSuchPeer, "there is no socket"),
                Errno::ECONNREFUSED => (ErrorKind::NoSuchPeer, "nobody listens"),
                Errno::ENOTSOCK | Errno::EPROTOTYPE => (ErrorKind::NoSuchPeer, "that is no stream socket"),
                Errno::EAGAIN => (ErrorKind::TimedOut, "its backlog is full"),
                Errno::EACCES | Errno::EPERM => (ErrorKind::ForeignPeer, "access to it is denied"),
                _ => (ErrorKind::Io, "the system refuses"),
            };
            let sentence = format!("cannot connect to {:?}: {why}", target.path());
            Error::new(kind, sentence).with_source(io::Error::from(errno))
        };
        let fd = sys::stream_socket()
            .map_err(|e| Error::new(ErrorKind::Io, "cannot make a socket").with_source(e))?;
        let address = UnixAddr::new(target.path()).map_err(failed)?;
        loop {
            match connect(fd.as_raw_fd(), &address) {
                Ok(()) => return Ok(Self(UnixStream::from(fd))),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Who is at the other end, as the kernel vouches.
    pub(crate) fn peer(&self) -> Result<PeerIdentity, Error> {
        sys::peer_identity(&self.0).map_err(|e| {
            Error::new(ErrorKind::Io, "the system does not say who the server is").with_source(e)
        })
    }

    /// Waits until something can be read (or, if asked for, written) for at most `timeout`. A signal ends it early.
    pub(crate) fn wait(&self, for_writing: bool, timeout: Duration) -> Result<Ready, Error> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, for_writing);
        let mut fds = [PollFd::new(self.0.as_fd(), wanted)];
        // Rounded up, so that a deadline is never polled for in a loop of zero-length waits.
        let millis = timeout.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let got = match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => fds.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty()),
            Err(errno) => {
                return Err(Error::new(ErrorKind::Io, "cannot wait for the server")
                    .with_source(io::Error::from(errno)));
            }
        };
        let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        Ok(Ready {
            can_read: got.intersects(PollFlags::POLLIN | hung_up),
            can_write: got.contains(PollFlags::POLLOUT),
        })
    }

    /// One read; `None` if there is nothing now, `Some(0)` at the end.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.read(space) {
            Ok(n) => Ok(Some(n)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// One write that never raises a signal; 0 if nothing can be written now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match sys::send(&self.0, bytes) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            result => result,
        }
    }
}

/// Waits until something can be read from one of `streams`, for at most `timeout`; says from which. A signal ends it
/// early.
pub(crate) fn wait_any<'s>(
    streams: impl Iterator<Item = &'s ClientStream>,
    timeout: Duration,
) -> Result<Vec<bool>, Error> {
    let mut fds: Vec<_> = streams.map(|stream| PollFd::new(stream.0.as_fd(), PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            let error = Error::new(ErrorKind::Io, "cannot wait for servers");
            return Err(error.with_source(io::Error::from(errno)));
        }
    }
    Ok(fds.iter().map(|fd| fd.revents().is_some_and(|got| !got.is_empty())).collect())
}

/// Lets `span` pass.
pub(crate) fn pause(span: Duration) {
    std::thread::sleep(span);
}
