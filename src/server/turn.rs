//! What a turn does, when the next one is due, and the turns of a stop.

use std::time::Duration;

use super::Server;
#[cfg(unix)]
use super::event_loop::Source;
use crate::proto::error::Error;
#[cfg(unix)]
use crate::proto::error::ErrorKind;
use crate::proto::time::{Mono, Now};

/// How many budgets more than one a turn gives to a client that is alone: together they are about one read
/// buffer of short lines, and few messages beside the inbox.
const EXTENSIONS_MAX: usize = 3;

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Turn {
    /// Messages that came into the inbox.
    pub enqueued: usize,
    /// Something is left to do: call again without waiting.
    pub more: bool,
    /// The socket or the capability file has vanished: clients cannot find this server any more.
    /// [`Server::rebind`] makes what is missing again. Said by each check that finds it so; see
    /// [`ServerBuilder::name_check`].
    ///
    /// [`ServerBuilder::name_check`]: crate::ServerBuilder::name_check
    pub name_lost: bool,
}

impl Server {
    /// One bounded turn with what is known to be ready.
    pub(super) fn work(&mut self) -> Turn {
        let accepted_before = self.reactor.endpoint.accepted_total();
        let now = self.clock.now();
        // First what was sent in time is read, then new connections are accepted, then timeouts are enforced.
        self.reactor.endpoint.work(now);
        self.reactor.read_ready(&self.event_loop, now);
        self.extend(now);
        self.reactor.take_steps(&self.event_loop, now);
        self.acceptor.accept(&mut self.reactor, &self.event_loop, self.name.address(), now);
        self.reactor.endpoint.deadlines_reached(now);
        self.reactor.take_steps(&self.event_loop, now);
        self.reactor.endpoint.turn_ended();
        self.sending.turn(self.event_loop.registry(), &self.name.capabilities, now);
        let name_lost = self.acceptor.listener().is_some() && self.name.check(now);
        let enqueued = self.reactor.endpoint.accepted_total() - accepted_before;
        if enqueued > 0
            && let Some(hook) = &mut self.on_enqueue
        {
            hook();
        }
        let enqueued = usize::try_from(enqueued).unwrap_or(usize::MAX);
        Turn { enqueued, more: self.has_more(), name_lost }
    }

    /// Goes on with one client while it alone has something to do: a budget is a promise to those who wait.
    /// Before each budget there is a look whether others have come, which a lent loop cannot give.
    fn extend(&mut self, now: Now) {
        for _ in 0..EXTENSIONS_MAX {
            let is_alone = |server: &Self| server.reactor.has_one_busy() && !server.acceptor.has_more();
            if !is_alone(self) || !self.event_loop.is_own() {
                return;
            }
            // An error is told by the wait of the next turn.
            if self.take_events(Some(Duration::ZERO)).is_err() || !is_alone(self) {
                return;
            }
            self.reactor.extend_turn(&self.event_loop, now);
        }
    }

    /// Sets the timer that makes our descriptor readable when a turn is due, if there is one.
    pub(super) fn arm(&mut self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.event_loop.has_timer() {
            let timeout = self.next_timeout();
            self.event_loop.arm(timeout);
        }
    }

    /// Waits for events for at most `timeout`, and remembers them.
    pub(super) fn take_events(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        self.event_loop.wait(timeout, &self.clock)?;
        if let Some(events) = self.event_loop.take_events() {
            for event in &events {
                self.on_event(event);
            }
            self.event_loop.return_events(events);
        }
        Ok(())
    }

    /// How long the next wait may be.
    pub(super) fn wait_at_most(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        if timeout == Some(Duration::ZERO) {
            return timeout;
        }
        match (self.next_timeout(), timeout) {
            (Some(due), Some(timeout)) => Some(due.min(timeout)),
            (due, timeout) => due.or(timeout),
        }
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        self.reactor.has_more() || self.acceptor.has_more() || self.sending.links.has_more()
    }

    /// Turns until every connection is closed and every message of ours has its outcome, or `deadline`.
    #[cfg(unix)]
    pub(super) fn flush(&mut self, deadline: Mono) -> Result<(), Error> {
        if !self.has_unfinished() {
            return Ok(());
        }
        // The host's loop does not turn while we are here: what we wait for has to come to us.
        let lent = self.event_loop.leave_host(self.tokens().len())?;
        let mut flushed = lent.as_ref().map_or(Ok(()), |lent| self.move_streams(lent));
        flushed = flushed.and_then(|()| self.flush_here(deadline));
        if let Some(lent) = lent {
            let own = self.event_loop.replace(lent);
            flushed = flushed.and_then(|()| self.move_streams(&own));
        }
        flushed
    }

    /// The same. A pipe cannot leave the host's loop, which does not turn while we are here: there, turns
    /// that follow go on with it.
    #[cfg(windows)]
    pub(super) fn flush(&mut self, deadline: Mono) -> Result<(), Error> {
        if self.event_loop.is_lent() { self.process().map(drop) } else { self.flush_here(deadline) }
    }

    fn flush_here(&mut self, deadline: Mono) -> Result<(), Error> {
        while self.has_unfinished() {
            let left = deadline.since(self.clock.mono());
            if left.is_zero() {
                break;
            }
            let _ = self.turn(Some(left))?;
        }
        Ok(())
    }

    /// Whether a connection is open, or a message of ours has no outcome.
    fn has_unfinished(&self) -> bool {
        self.reactor.has_connections() || self.outstanding() > 0
    }

    /// Has every stream watched where we live now, and no longer in `from`.
    #[cfg(unix)]
    fn move_streams(&mut self, from: &Source) -> Result<(), Error> {
        let (from, to) = (from.registry(), self.event_loop.registry());
        let sending = self.sending.move_streams(from, to);
        sending.and_then(|()| self.reactor.move_streams(from, &self.event_loop)).map_err(|cause| {
            Error::new(ErrorKind::Io, "cannot move to another event queue").with_source(cause)
        })
    }
}
