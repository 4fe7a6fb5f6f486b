//! The connections of a server: the core, and the stream of each of its slots. Readiness in, bytes through
//! the core, bytes out.

use std::collections::VecDeque;

#[cfg(unix)]
use mio::Registry;

use super::event_loop::EventLoop;
use crate::os::channel::stream::{Progress, Readiness, ReadyStream};
use crate::os::sys::Owner;
#[cfg(unix)]
use crate::os::transport::unwatch;
use crate::os::transport::{rewatch, watch, write_through};
use crate::proto::endpoint::{Endpoint, Step};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::peer::PeerIdentity;
use crate::proto::slots::ConnKey;
use crate::proto::time::Now;

/// A connection that is served.
struct Served {
    key: ConnKey,
    stream: ReadyStream,
    /// It stands in the ready list.
    is_queued: bool,
}

/// The core and its streams.
pub(super) struct Reactor {
    pub(super) endpoint: Endpoint,
    /// Who decides which peers are let in.
    owner: Owner,
    /// One place for each slot of the core.
    served: Vec<Option<Served>>,
    /// Streams that may have something to read.
    ready: VecDeque<ConnKey>,
    /// Streams that took nothing and do again.
    unblocked: VecDeque<ConnKey>,
    /// Streams to be written again in the next turn, for lack of memory in this one.
    postponed: Vec<ConnKey>,
}

impl Reactor {
    pub(super) fn new(endpoint: Endpoint, owner: Owner) -> Self {
        let served = std::iter::repeat_with(|| None).take(endpoint.slots_max()).collect();
        Self {
            endpoint,
            owner,
            served,
            ready: VecDeque::new(),
            unblocked: VecDeque::new(),
            postponed: Vec::new(),
        }
    }

    /// Connections that can be open at once.
    pub(super) fn slots_max(&self) -> usize {
        self.served.len()
    }

    /// Whether a connection is open.
    pub(super) fn has_connections(&self) -> bool {
        self.served.iter().any(Option::is_some)
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        self.endpoint.has_work() || !self.ready.is_empty() || !self.unblocked.is_empty()
    }

    /// Whether a write was refused for lack of memory, and is still to be made.
    pub(super) fn lacks_memory(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Gives a new connection to the core and watches its stream. `None`: it belongs to another user and is
    /// closed at once. One that is refused for lack of room reads why, and is closed like any other.
    ///
    /// # Errors
    ///
    /// The stream cannot be watched; it is closed.
    pub(super) fn accepted(
        &mut self,
        mut stream: ReadyStream,
        peer: PeerIdentity,
        event_loop: &EventLoop,
        now: Now,
    ) -> Result<Option<ConnKey>, Error> {
        if !self.owner.trusts(peer) {
            self.endpoint.stranger_refused(peer);
            return Ok(None);
        }
        let Some(key) = self.endpoint.accepted(peer, now) else { return Ok(None) };
        let watched = watch(event_loop.registry(), &mut stream, event_loop.stream_token(key.index()));
        if watched.is_err() {
            self.endpoint.broken(key);
        } else if let Some(place) = self.served.get_mut(key.index()) {
            *place = Some(Served { key, stream, is_queued: false });
            // Most clients send at once, so this often saves a turn.
            self.read(key, now);
        }
        self.take_steps(event_loop, now);
        match watched {
            Ok(()) => Ok(Some(key)),
            Err(cause) => Err(Error::new(ErrorKind::Io, "cannot watch a new connection").with_source(cause)),
        }
    }

    /// Remembers what the kernel says of the stream in a slot.
    pub(super) fn note(&mut self, index: usize, told: Readiness) {
        let Some(served) = self.served.get_mut(index).and_then(Option::as_mut) else { return };
        let was_writable = served.stream.is_writable();
        served.stream.note(told);
        if served.stream.is_writable() && !was_writable {
            self.unblocked.push_back(served.key);
        }
        served.queue_if_readable(&mut self.ready);
    }

    /// Visits every ready stream once.
    pub(super) fn read_ready(&mut self, event_loop: &EventLoop, now: Now) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            if let Some(served) = served(&mut self.served, key) {
                served.is_queued = false;
                self.read(key, now);
            }
        }
        self.unblocked.extend(self.postponed.drain(..));
        while let Some(key) = self.unblocked.pop_front() {
            if let Some(served) = served(&mut self.served, key) {
                write(&mut self.endpoint, served, &mut self.postponed, event_loop, now);
            }
        }
    }

    /// Whether one client has lines left over, and nothing is to be done for any other.
    pub(super) fn has_one_busy(&self) -> bool {
        let Some(busy) = self.endpoint.only_busy() else { return false };
        self.unblocked.is_empty() && self.ready.iter().all(|&key| key == busy)
    }

    /// Goes on with the only client that is busy.
    pub(super) fn extend_turn(&mut self, event_loop: &EventLoop, now: Now) {
        self.endpoint.extend_turn(now);
        self.read_ready(event_loop, now);
    }

    /// One read of the stream of `key`.
    fn read(&mut self, key: ConnKey, now: Now) {
        let Some(served) = served(&mut self.served, key) else { return };
        // Without space it cannot be read, even if the kernel has bytes; a step says when it can.
        let Some(mut space) = self.endpoint.recv_space(key, now) else { return };
        let progress = served.stream.read(&mut space);
        served.queue_if_readable(&mut self.ready);
        match progress {
            Progress::Moved(n) => space.received(n),
            Progress::Blocked => space.received(0),
            Progress::End | Progress::Gone => {
                drop(space);
                if progress == Progress::Gone {
                    self.endpoint.output_failed(key);
                }
                self.endpoint.end_of_input(key, now);
            }
        }
    }

    /// Does what the core asks for.
    pub(super) fn take_steps(&mut self, event_loop: &EventLoop, now: Now) {
        while let Some((key, step)) = self.endpoint.next_step() {
            let Some(served) = served(&mut self.served, key) else { continue };
            match step {
                Step::Write => write(&mut self.endpoint, served, &mut self.postponed, event_loop, now),
                Step::Read => served.queue_if_readable(&mut self.ready),
                Step::ShutWrite => {
                    served.stream.shut_write();
                    // Where that ends the stream no event says so.
                    served.queue_if_readable(&mut self.ready);
                }
                Step::Close(_) => {
                    if let Some(served) = self.served.get_mut(key.index()).and_then(Option::take) {
                        served.stream.close();
                    }
                }
            }
        }
    }

    /// Closes every connection that is still open.
    pub(super) fn close_all(&mut self) {
        self.served.iter_mut().filter_map(Option::take).for_each(|served| served.stream.close());
    }

    /// Has every stream watched in the loop of today, and no longer in `from`.
    #[cfg(unix)]
    pub(super) fn move_streams(&mut self, from: &Registry, event_loop: &EventLoop) -> std::io::Result<()> {
        self.served.iter_mut().flatten().try_for_each(|served| {
            unwatch(from, &served.stream)?;
            watch(event_loop.registry(), &mut served.stream, event_loop.stream_token(served.key.index()))
        })
    }
}

impl Served {
    /// Puts it at the end of the ready list, unless it stands there or has nothing to read.
    fn queue_if_readable(&mut self, ready: &mut VecDeque<ConnKey>) {
        if self.stream.is_readable() && !self.is_queued {
            self.is_queued = true;
            ready.push_back(self.key);
        }
    }
}

/// The connection of `key`, unless the key is stale.
fn served(all: &mut [Option<Served>], key: ConnKey) -> Option<&mut Served> {
    all.get_mut(key.index())?.as_mut().filter(|served| served.key == key)
}

/// Writes what waits for a peer, for as long as its stream may take it, and has the stream watched for room
/// if that is not all. Noted in `postponed` if there is no memory.
fn write(
    endpoint: &mut Endpoint,
    served: &mut Served,
    postponed: &mut Vec<ConnKey>,
    event_loop: &EventLoop,
    now: Now,
) {
    while served.stream.is_writable() {
        let output = endpoint.output(served.key);
        if output.is_empty() {
            break;
        }
        match write_through(&mut served.stream, output) {
            Progress::Moved(n) => endpoint.sent(served.key, n, now),
            Progress::Blocked => break,
            Progress::End | Progress::Gone => return endpoint.output_failed(served.key),
        }
    }
    rewatch(event_loop.registry(), &mut served.stream, event_loop.stream_token(served.key.index()));
    let is_unwritten = !endpoint.output(served.key).is_empty();
    if served.stream.lacks_memory() && is_unwritten && !postponed.contains(&served.key) {
        postponed.push(served.key);
    }
}
