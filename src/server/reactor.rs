//! What a turn does: readiness in, bytes through the core, bytes out.

use std::time::Duration;

use mio::event::Event;

use super::event_loop::Source;
use super::{ACCEPT_RETRY, Accepting, Client, STREAMS, Server, Turn};
use crate::os::socket::stream::{Progress, ReadyStream};
use crate::os::transport::{AcceptError, readiness, unwatch, watch};
use crate::proto::endpoint::{Endpoint, Step};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::slots::ConnKey;
use crate::proto::time::{Mono, Now};

impl Server {
    /// One bounded turn with what is known to be ready.
    pub(super) fn work(&mut self) -> Result<Turn, Error> {
        let accepted_before = self.endpoint.accepted_total();
        let now = self.clock.now();
        // What was sent in time is read before anyone is judged; then newcomers, then deadlines.
        self.endpoint.work(now);
        self.read_ready(now);
        self.take_steps(now);
        // A listener that broke keeps nobody waiting who is served: it is reported when the turn is done.
        let accepted = self.accept(now);
        self.endpoint.deadlines_reached(now);
        self.take_steps(now);
        self.endpoint.turn_ended();
        self.sending.turn(self.event_loop.registry(), &self.capabilities, now);
        let name_lost = now.mono >= self.name_check_at && self.listener.is_some() && !self.check_name(now);
        let enqueued =
            usize::try_from(self.endpoint.accepted_total() - accepted_before).unwrap_or(usize::MAX);
        if enqueued > 0
            && let Some(hook) = &mut self.on_enqueue
        {
            hook();
        }
        accepted.map(|()| Turn { enqueued, more: self.has_more(), name_lost })
    }

    /// Sets the timer that makes our descriptor readable when a turn is due, if there is one.
    pub(super) fn arm(&mut self) {
        if self.event_loop.has_timer() {
            let timeout = self.next_timeout();
            self.event_loop.arm(timeout);
        }
    }

    /// How long the next wait may be.
    pub(super) fn wait_at_most(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        match (self.next_timeout(), timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        self.endpoint.has_work()
            || !self.ready.is_empty()
            || !self.unblocked.is_empty()
            || self.accepting == Accepting::Ready
            || self.sending.has_more()
    }

    /// The exact moment, on the server's clock, at which a turn is due even if nothing arrives.
    pub(super) fn next_deadline(&mut self) -> Option<Mono> {
        let name_check_at = self.listener.is_some().then_some(self.name_check_at);
        let sending = self.sending.next_deadline();
        let accept_again_at = match self.accepting {
            Accepting::Paused { until } => Some(until),
            _ => None,
        };
        [self.endpoint.next_deadline(), sending, accept_again_at, name_check_at].into_iter().flatten().min()
    }

    /// Looks whether the socket and the capability file are still there, and sets the time for the next look.
    fn check_name(&mut self, now: Now) -> bool {
        self.name_check_at = now.mono.plus(self.name_check);
        let (is_there, is_published) = (self.claim.still_there(), self.claim.still_published());
        if !self.is_name_lost {
            if !is_there {
                tracing::warn!(address = %self.address(), "the socket has vanished");
            }
            if !is_published {
                tracing::warn!(address = %self.address(), "the capability file has vanished");
            }
        }
        self.is_name_lost = !(is_there && is_published);
        !self.is_name_lost
    }

    /// Remembers what the kernel said of the stream in a slot.
    pub(super) fn note_event(&mut self, index: usize, event: &Event) {
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else { return };
        let was_writable = client.stream.is_writable();
        client.stream.note(readiness(event));
        if client.stream.is_readable() && !client.is_queued {
            client.is_queued = true;
            self.ready.push_back(client.key);
        }
        if client.stream.is_writable() && !was_writable {
            self.unblocked.push_back(client.key);
        }
    }

    /// Visits every ready stream once.
    fn read_ready(&mut self, now: Now) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(client) = client(&mut self.clients, key) else { continue };
            client.is_queued = false;
            // Without space it is not ready, whatever the kernel says; a step will tell when it is.
            let Some(space) = self.endpoint.recv_space(key, now) else { continue };
            let progress = client.stream.read(space);
            if client.stream.is_readable() {
                client.is_queued = true;
                self.ready.push_back(key);
            }
            match progress {
                Progress::Moved(n) => self.endpoint.received(key, n, now),
                Progress::Blocked => self.endpoint.received(key, 0, now),
                Progress::End | Progress::Gone => {
                    self.endpoint.received(key, 0, now);
                    if progress == Progress::Gone {
                        self.endpoint.output_failed(key);
                    }
                    self.endpoint.end_of_input(key, now);
                }
            }
        }
        while let Some(key) = self.unblocked.pop_front() {
            if let Some(client) = client(&mut self.clients, key) {
                Self::write(&mut self.endpoint, client, now);
            }
        }
    }

    /// One write of what a client is owed, if its stream may take it.
    fn write(endpoint: &mut Endpoint, client: &mut Client, now: Now) {
        let output = endpoint.output(client.key);
        if output.is_empty() || !client.stream.is_writable() {
            return;
        }
        match client.stream.write(output) {
            Progress::Moved(n) => endpoint.sent(client.key, n, now),
            Progress::Blocked => {}
            Progress::End | Progress::Gone => endpoint.output_failed(client.key),
        }
    }

    /// Does what the core asks for.
    pub(super) fn take_steps(&mut self, now: Now) {
        while let Some((key, step)) = self.endpoint.next_step() {
            let Some(client) = client(&mut self.clients, key) else { continue };
            match step {
                Step::Write => Self::write(&mut self.endpoint, client, now),
                Step::Read => {
                    if client.stream.is_readable() && !client.is_queued {
                        client.is_queued = true;
                        self.ready.push_back(key);
                    }
                }
                Step::ShutWrite => client.stream.shut_write(),
                Step::Close(_) => {
                    if let Some(client) = self.clients.get_mut(key.index()).and_then(Option::take) {
                        client.stream.close();
                    }
                }
            }
        }
    }

    /// Accepts what waits, up to the bound of a turn.
    fn accept(&mut self, now: Now) -> Result<(), Error> {
        if matches!(self.accepting, Accepting::Paused { until } if until <= now.mono) {
            self.accepting = Accepting::Ready;
        }
        for _ in 0..self.turn_accepts_max {
            if self.accepting != Accepting::Ready || !self.endpoint.can_accept() {
                break;
            }
            let Some(listener) = &self.listener else { break };
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.has_told_pause = false;
                    let Some(key) = self.endpoint.accepted(peer, now) else { continue };
                    if let Err(error) = self.take_stream(key, stream) {
                        tracing::warn!(%error, "a new connection is dropped");
                    }
                    self.take_steps(now);
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
                Err(AcceptError::Broken(error)) => {
                    self.accepting = Accepting::Broken;
                    let what = format!("cannot accept connections at {}", self.address());
                    return Err(Error::new(ErrorKind::Io, what).with_source(error));
                }
            }
        }
        Ok(())
    }

    /// Puts a new stream in its slot and under watch.
    pub(super) fn take_stream(&mut self, key: ConnKey, stream: ReadyStream) -> Result<(), Error> {
        let token = self.event_loop.token(STREAMS + key.index());
        if let Err(error) = watch(self.event_loop.registry(), &stream, token) {
            self.endpoint.broken(key);
            return Err(Error::new(ErrorKind::Io, "cannot watch a new connection").with_source(error));
        }
        if let Some(slot) = self.clients.get_mut(key.index()) {
            *slot = Some(Client { key, stream, is_queued: false });
        }
        Ok(())
    }

    /// Turns until nothing is owed to anybody, or `deadline`.
    pub(super) fn flush(&mut self, deadline: Mono) -> Result<(), Error> {
        if !self.owes() {
            return Ok(());
        }
        // The host's loop does not turn while we are here: what we wait for has to come to us.
        let lent = self.event_loop.leave_host(self.tokens().len())?;
        let mut flushed = lent.as_ref().map_or(Ok(()), |lent| self.move_streams(lent));
        while self.owes() && flushed.is_ok() {
            let left = deadline.since(self.clock.now().mono);
            if left.is_zero() {
                break;
            }
            flushed = self.turn(Some(left)).map(drop);
        }
        if let Some(lent) = lent {
            let own = self.event_loop.replace(lent);
            flushed = flushed.and_then(|()| self.move_streams(&own));
        }
        flushed
    }

    /// Whether a client has not been given everything yet, or a message of ours has no outcome.
    fn owes(&self) -> bool {
        self.clients.iter().any(Option::is_some) || self.sending.outstanding() > 0
    }

    /// Has every stream watched where we live now, and no longer in `from`.
    fn move_streams(&mut self, from: &Source) -> Result<(), Error> {
        let (from, to) = (from.registry(), self.event_loop.registry());
        let cannot = |e| Error::new(ErrorKind::Io, "cannot move to another event queue").with_source(e);
        self.sending.move_streams(from, to).map_err(cannot)?;
        for client in self.clients.iter().flatten() {
            let token = self.event_loop.token(STREAMS + client.key.index());
            unwatch(from, &client.stream).map_err(cannot)?;
            watch(to, &client.stream, token).map_err(cannot)?;
        }
        Ok(())
    }
}

/// The stream of `key`, unless the key is stale.
fn client(clients: &mut [Option<Client>], key: ConnKey) -> Option<&mut Client> {
    clients.get_mut(key.index())?.as_mut().filter(|client| client.key == key)
}
