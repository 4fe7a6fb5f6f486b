//! The listener of a server: when it is asked for connections, and what becomes of it.

use std::time::Duration;

use mio::event::Event;

use super::event_loop::EventLoop;
use super::reactor::Reactor;
use crate::os::names::address::Address;
use crate::os::transport::{AcceptError, Listener};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::time::{Mono, Now};

/// How long the listener rests after the system refused to accept, for one because the descriptor table is
/// full: no event tells when accepting works again.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The listener itself.
enum Door {
    Open(Listener),
    /// The server has been shut down, and its names are not removed yet: until then the listener stays open.
    Stopped(Listener),
    Closed,
}

/// Whether the listener is asked for connections.
enum Accepting {
    /// None is waiting; an event will tell.
    Idle,
    /// One may be waiting.
    Ready,
    /// The system refuses for now.
    Paused { until: Mono },
    /// No connection will come any more. The next turn says why, if none has said so.
    Broken { untold: Option<Error> },
}

/// A listener and what is known of it.
pub(super) struct Acceptor {
    door: Door,
    accepting: Accepting,
    /// That accepting is paused was reported, and it has not worked since.
    has_told_pause: bool,
    turn_accepts_max: usize,
}

impl Acceptor {
    /// Asks a listener that is being watched.
    pub(super) fn new(listener: Listener, turn_accepts_max: usize) -> Self {
        let (door, accepting) = (Door::Open(listener), Accepting::Idle);
        Self { door, accepting, has_told_pause: false, turn_accepts_max }
    }

    /// Asks another listener from now on. The old one leaves the event queue by being closed.
    pub(super) fn replace(&mut self, listener: Listener) {
        self.door = Door::Open(listener);
        self.accepting = Accepting::Idle;
    }

    /// The listener, unless the server has been shut down.
    pub(super) fn listener(&self) -> Option<&Listener> {
        match &self.door {
            Door::Open(listener) => Some(listener),
            Door::Stopped(_) | Door::Closed => None,
        }
    }

    /// Whether connections can come.
    pub(super) fn is_working(&self) -> bool {
        self.listener().is_some() && !matches!(self.accepting, Accepting::Broken { .. })
    }

    /// Remembers what the kernel says of the listener.
    pub(super) fn note(&mut self, event: &Event) {
        let Door::Open(listener) = &mut self.door else { return };
        listener.note_event(event);
        if matches!(self.accepting, Accepting::Idle) {
            self.accepting = Accepting::Ready;
        }
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        matches!(self.accepting, Accepting::Ready | Accepting::Broken { untold: Some(_) })
    }

    /// When to try again.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        match self.accepting {
            Accepting::Paused { until } => Some(until),
            _ => None,
        }
    }

    /// Why no connection will come any more. It is told once.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        match &mut self.accepting {
            Accepting::Broken { untold } => untold.take(),
            _ => None,
        }
    }

    /// Accepts what waits, up to the bound of a turn.
    pub(super) fn accept(
        &mut self,
        reactor: &mut Reactor,
        event_loop: &EventLoop,
        address: &Address,
        now: Now,
    ) {
        if matches!(self.accepting, Accepting::Paused { until } if until <= now.mono) {
            self.accepting = Accepting::Ready;
        }
        let Door::Open(listener) = &mut self.door else { return };
        for _ in 0..self.turn_accepts_max {
            if !matches!(self.accepting, Accepting::Ready) || !reactor.endpoint.can_accept() {
                break;
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.has_told_pause = false;
                    if let Err(error) = reactor.accepted(stream, peer, event_loop, now) {
                        tracing::warn!(%error, "a new connection is dropped");
                    }
                }
                Err(AcceptError::Aborted) => {}
                Err(AcceptError::Blocked) => {
                    self.has_told_pause = false;
                    self.accepting = Accepting::Idle;
                }
                Err(AcceptError::NotNow(error)) => {
                    if !self.has_told_pause {
                        tracing::warn!(%error, "cannot accept for now");
                        self.has_told_pause = true;
                    }
                    self.accepting = Accepting::Paused { until: now.mono.plus(ACCEPT_RETRY) };
                }
                Err(AcceptError::Broken(cause)) => {
                    let what = format!("cannot accept connections at {address}");
                    let untold = Some(Error::new(ErrorKind::Io, what).with_source(cause));
                    self.accepting = Accepting::Broken { untold };
                }
            }
        }
    }

    /// Accepts nothing any more. The listener stays open until [`close`](Self::close).
    pub(super) fn stop(&mut self) {
        self.accepting = Accepting::Idle;
        self.door = match std::mem::replace(&mut self.door, Door::Closed) {
            Door::Open(listener) | Door::Stopped(listener) => Door::Stopped(listener),
            Door::Closed => Door::Closed,
        };
    }

    /// Closes the listener of a server that has been shut down, once `release` has removed its names.
    pub(super) fn close(
        &mut self,
        release: impl FnOnce(&Listener) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Door::Stopped(listener) = &self.door {
            release(listener)?;
            self.door = Door::Closed;
        }
        Ok(())
    }
}
