//! The sockets of a client, and the wait for them.

use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::slots::ConnKey;

/// One connection to a server, which does not block.
pub(super) struct ClientStream {
    pub(super) key: ConnKey,
    stream: UnixStream,
    /// There may be something to read.
    pub(super) is_readable: bool,
    /// The last write was short: wait until more can be written.
    pub(super) is_blocked: bool,
}

/// How far one read came.
pub(super) enum Read {
    Some(usize),
    Nothing,
    End,
}

impl ClientStream {
    pub(super) fn new(key: ConnKey, stream: UnixStream) -> Self {
        Self { key, stream, is_readable: false, is_blocked: false }
    }

    pub(super) fn read(&mut self, space: &mut [u8]) -> Read {
        match self.stream.read(space) {
            Ok(0) => Read::End,
            Ok(n) => Read::Some(n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Read::Nothing
            }
            Err(_) => Read::End,
        }
    }

    /// One write that never raises a signal; 0 if nothing can be written now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match sys::send(&self.stream, bytes) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            result => result,
        }
    }
}

/// Waits until one of `streams` can be read, or written again, for at most `timeout`. A signal ends it early.
pub(super) fn wait(streams: &mut [ClientStream], timeout: Option<Duration>) -> Result<(), Error> {
    // Rounded up, so that a deadline is not waited for in steps of zero.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        PollTimeout::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    let mut fds: Vec<PollFd<'_>> = streams
        .iter()
        .map(|stream| {
            let mut wanted = PollFlags::POLLIN;
            wanted.set(PollFlags::POLLOUT, stream.is_blocked);
            PollFd::new(stream.stream.as_fd(), wanted)
        })
        .collect();
    match poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(()),
        Err(errno) => {
            let error = Error::new(ErrorKind::Io, "cannot wait for the receivers");
            return Err(error.with_source(io::Error::from(errno)));
        }
    }
    let found: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
    for (stream, found) in streams.iter_mut().zip(found) {
        let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        stream.is_readable = found.intersects(PollFlags::POLLIN | hung_up);
        if stream.is_blocked && found.intersects(PollFlags::POLLOUT | hung_up) {
            stream.is_blocked = false;
        }
    }
    Ok(())
}
