//! What a blocking caller waits for its streams with.

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Token};

use super::stream::{Readiness, ReadyStream};

/// Events that are taken at once; others come the next time.
const EVENTS_MAX: usize = 64;

/// A queue for the streams of one caller. It is to be dropped after them.
#[derive(Debug)]
pub(crate) struct Waiter {
    poll: Poll,
    events: Events,
}

impl Waiter {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(EVENTS_MAX) })
    }

    /// From now on [`wait`](Self::wait) also waits for `stream`, if it is given it with this `index`. To be
    /// called once, before anything is read or written.
    pub(crate) fn watch(&self, stream: &mut ReadyStream, index: usize) -> io::Result<()> {
        stream.watch(self.poll.registry(), Token(index))
    }

    /// Waits until one of `streams` can be read, or written again, for at most `timeout` (`None`: no limit),
    /// and notes that in it.
    pub(crate) fn wait<'a>(
        &mut self,
        timeout: Option<Duration>,
        streams: impl Iterator<Item = (usize, &'a mut ReadyStream)>,
    ) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)?;
        let mut streams: Vec<_> = streams.collect();
        for event in &self.events {
            if let Some((_, stream)) = streams.iter_mut().find(|(index, _)| *index == event.token().0) {
                stream.note(Readiness::of(event));
            }
        }
        Ok(())
    }
}
