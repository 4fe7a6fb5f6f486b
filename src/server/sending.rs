//! The way out: the server's outbox, its open questions, and the streams under them, in the same loop.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::ServerEvent;
use crate::os::files::capability::CapabilityDir;
use crate::os::names::address::Address;
use crate::os::socket::connect::{ChosenBy, connect};
use crate::os::transport::{Progress, Stream};
use crate::proto::conversation::{Queries, QueryId};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::inbox::InboxEntry;
use crate::proto::limits::Limits;
use crate::proto::message::Outgoing;
use crate::proto::outbox::{LinkStep, Outbox, SendId, SendOutcome};
use crate::proto::slots::ConnKey;
use crate::proto::time::{Mono, Now};

/// A stream to a receiver and what is known of its readiness.
struct LinkStream {
    key: ConnKey,
    stream: Stream,
    is_readable: bool,
    is_writable: bool,
}

/// Everything that a server has on its way to others.
pub(super) struct Sending {
    outbox: Outbox,
    queries: Queries,
    /// Questions whose message has no outcome yet.
    asked: HashMap<SendId, QueryId>,
    /// Answers on their way, and the paths to which they go: peers chose these, so no connection to them may wait.
    replies: HashMap<SendId, Address>,
    /// Directories of ours, as for [`ChosenBy::Peer`].
    own: Vec<PathBuf>,
    /// Few, and none in a server that sends nothing.
    streams: Vec<LinkStream>,
    /// The token of a stream is this plus the index of its link.
    base: Token,
    /// Bounded: nothing is sent while as many wait as messages may be on their way.
    events: VecDeque<ServerEvent>,
    events_max: usize,
}

impl Sending {
    pub(super) fn new(limits: &Limits, nonce: &str, own: Vec<PathBuf>) -> Result<Self, Error> {
        Ok(Self {
            outbox: Outbox::new(limits.clone())?,
            streams: Vec::new(),
            queries: Queries::new(limits.outbox_entries_max, nonce)?,
            asked: HashMap::new(),
            replies: HashMap::new(),
            own,
            base: Token(0),
            events: VecDeque::new(),
            events_max: limits.outbox_entries_max,
        })
    }

    /// Which token the stream of the first link gets. Known once the loop is there.
    pub(super) fn set_base(&mut self, base: Token) {
        self.base = base;
    }

    /// Moves the streams from one event queue into another.
    pub(super) fn move_streams(&mut self, from: &Registry, to: &Registry) -> std::io::Result<()> {
        for link in &mut self.streams {
            from.deregister(&mut link.stream)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            to.register(&mut link.stream, Token(self.base.0 + link.key.index()), interest)?;
        }
        Ok(())
    }

    /// Streams that can be open at once.
    pub(super) fn streams_max(&self) -> usize {
        self.outbox.slots_max()
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outbox.outstanding()
    }

    pub(super) fn send(
        &mut self,
        target: &Address,
        message: &Outgoing,
        from: &Address,
        timeout: Duration,
        now: Now,
    ) -> Result<SendId, Error> {
        target.check_length()?;
        if self.events.len() >= self.events_max {
            let sentence = format!("{} outcomes wait for whoever takes the events", self.events.len());
            return Err(Error::new(ErrorKind::OutboxFull, sentence));
        }
        self.outbox.send(target.path(), message, Some(from.path()), timeout, now)
    }

    /// Directories of ours, on whose file systems we depend anyway.
    pub(super) fn own_directories(&self) -> &[PathBuf] {
        &self.own
    }

    /// As [`Sending::send`], to a path that a message claims to come from.
    pub(super) fn reply(
        &mut self,
        target: Address,
        message: &Outgoing,
        from: &Address,
        timeout: Duration,
        now: Now,
    ) -> Result<SendId, Error> {
        let id = self.send(&target, message, from, timeout, now)?;
        self.replies.insert(id, target);
        Ok(id)
    }

    pub(super) fn query(
        &mut self,
        target: &Address,
        message: Outgoing,
        from: &Address,
        timeout: Duration,
        now: Now,
    ) -> Result<QueryId, Error> {
        let (query, message) = self.queries.ask(message, now.mono.plus(timeout))?;
        match self.send(target, &message, from, timeout, now) {
            Ok(id) => {
                self.asked.insert(id, query);
                Ok(query)
            }
            Err(error) => {
                self.queries.close(query);
                Err(error)
            }
        }
    }

    pub(super) fn answered(&mut self, entry: &InboxEntry<'_>) -> Option<QueryId> {
        self.queries.answered(&entry.message())
    }

    /// Remembers what the kernel said of the stream of the link with this index.
    pub(super) fn note_event(&mut self, index: usize, event: &Event) {
        if let Some(link) = self.streams.iter_mut().find(|link| link.key.index() == index) {
            link.is_readable |= link.stream.note_event(event);
            link.is_writable |= event.is_writable();
        }
    }

    /// One turn: reads what has come, writes what can go, judges what is due.
    pub(super) fn turn(&mut self, registry: &Registry, capabilities: &CapabilityDir, now: Now) {
        for link in &mut self.streams {
            read_and_write(&mut self.outbox, link, now);
        }
        self.take_steps(registry, capabilities, now);
        self.outbox.deadlines_reached(now);
        self.take_steps(registry, capabilities, now);
        self.outbox.turn_ended();
        while let Some((id, outcome)) = self.outbox.next_outcome() {
            let query = self.asked.remove(&id);
            self.replies.remove(&id);
            // What was surely not delivered will not be answered.
            if let (Some(query), SendOutcome::NotSent(_) | SendOutcome::Rejected { .. }) = (query, &outcome) {
                self.queries.close(query);
            }
            self.events.push_back(ServerEvent::Sent { id, query, outcome });
        }
        while let Some(query) = self.queries.next_expired(now.mono) {
            self.events.push_back(ServerEvent::Unanswered { query });
        }
    }

    pub(super) fn next_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Whether there is something to do without waiting.
    pub(super) fn has_more(&self) -> bool {
        self.outbox.has_steps() || self.streams.iter().any(|link| link.is_readable)
    }

    pub(super) fn next_deadline(&mut self) -> Option<Mono> {
        [self.outbox.next_deadline(), self.queries.next_deadline()].into_iter().flatten().min()
    }

    fn take_steps(&mut self, registry: &Registry, capabilities: &CapabilityDir, now: Now) {
        while let Some((key, step)) = self.outbox.next_step() {
            match step {
                LinkStep::Connect => self.connect(key, registry, capabilities, now),
                LinkStep::Write => {
                    if let Some(link) = self.streams.iter_mut().find(|link| link.key == key) {
                        read_and_write(&mut self.outbox, link, now);
                    }
                }
                LinkStep::Close => {
                    if let Some(at) = self.streams.iter().position(|link| link.key == key) {
                        self.streams.swap_remove(at).stream.close();
                    }
                }
            }
        }
    }

    fn connect(&mut self, key: ConnKey, registry: &Registry, capabilities: &CapabilityDir, now: Now) {
        let connected = Address::from_path(self.outbox.target(key)).and_then(|target| {
            let is_claimed = self.replies.values().any(|claimed| *claimed == target);
            let chosen_by = if is_claimed { ChosenBy::Peer(&self.own) } else { ChosenBy::Us };
            connect(capabilities, &target, chosen_by)
        });
        let (stream, auth_token) = match connected {
            Ok(connected) => connected,
            Err(error) => return self.outbox.connect_failed(key, &error, now),
        };
        let mut stream = Stream::new(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(&mut stream, Token(self.base.0 + key.index()), interest) {
            let error = Error::new(ErrorKind::Io, "cannot watch a connection").with_source(error);
            return self.outbox.connect_failed(key, &error, now);
        }
        self.streams.push(LinkStream { key, stream, is_readable: false, is_writable: true });
        self.outbox.connected(key, auth_token, now);
    }
}

/// One read, and one write of what a link has to say if nothing is left to read: what was there before a line was
/// written is no answer to it.
fn read_and_write(outbox: &mut Outbox, link: &mut LinkStream, now: Now) {
    let can_write =
        |outbox: &Outbox, link: &LinkStream| link.is_writable && !outbox.output(link.key).is_empty();
    if link.is_readable || can_write(outbox, link) {
        read(outbox, link, now);
    }
    if !link.is_readable && can_write(outbox, link) {
        write(outbox, link);
    }
}

fn read(outbox: &mut Outbox, link: &mut LinkStream, now: Now) {
    let Some(space) = outbox.recv_space(link.key) else { return };
    let asked = space.len();
    match link.stream.read(space) {
        moved @ (Progress::Moved(n) | Progress::Cut(n)) => {
            let is_cut = matches!(moved, Progress::Cut(_));
            link.is_readable = n == asked || is_cut;
            outbox.received(link.key, n, now);
        }
        Progress::Blocked => link.is_readable = false,
        Progress::End | Progress::Gone => {
            link.is_readable = false;
            outbox.ended(link.key, now);
        }
    }
}

fn write(outbox: &mut Outbox, link: &mut LinkStream) {
    let output = outbox.output(link.key);
    match link.stream.write(output) {
        Progress::Moved(n) | Progress::Cut(n) => {
            link.is_writable = n == output.len();
            outbox.sent(link.key, n);
        }
        Progress::Blocked => link.is_writable = false,
        Progress::End | Progress::Gone => outbox.output_failed(link.key),
    }
}
