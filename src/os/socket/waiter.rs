//! What a blocking caller waits for its streams with: `poll(2)`, which is told of them each time.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::stream::{Readiness, ReadyStream};
use crate::os::sys;

/// Waits for the streams of one caller.
#[derive(Debug)]
pub(crate) struct Waiter;

impl Waiter {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// From now on [`wait`](Self::wait) also waits for `stream`, if it is given it with this `index`.
    pub(crate) fn watch(&self, stream: &mut ReadyStream, index: usize) -> io::Result<()> {
        let _ = (stream, index);
        Ok(())
    }

    /// Waits until one of `streams` can be read, or written again, for at most `timeout` (`None`: no limit),
    /// and notes that in it. A signal ends it early.
    pub(crate) fn wait<'a>(
        &mut self,
        timeout: Option<Duration>,
        streams: impl Iterator<Item = (usize, &'a mut ReadyStream)>,
    ) -> io::Result<()> {
        let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        let asked = |stream: &ReadyStream| {
            let mut asked = PollFlags::POLLIN;
            asked.set(PollFlags::POLLOUT, !stream.is_writable());
            asked
        };
        let mut streams: Vec<&mut ReadyStream> = streams.map(|(_, stream)| stream).collect();
        let mut fds: Vec<PollFd<'_>> =
            streams.iter().map(|stream| PollFd::new(stream.as_fd(), asked(stream))).collect();
        sys::wait(&mut fds, timeout)?;
        let told: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        for (stream, told) in streams.iter_mut().zip(told) {
            let has_hung_up = told.intersects(hung_up);
            stream.note(Readiness {
                is_readable: has_hung_up || told.contains(PollFlags::POLLIN),
                is_writable: has_hung_up || told.contains(PollFlags::POLLOUT),
                reads_on: has_hung_up,
            });
        }
        Ok(())
    }
}
