//! The way out: the server's outbox, its open questions, and the streams under them, in the same loop.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use mio::{Registry, Token};

use super::ServerEvent;
use crate::links::{Connected, Links};
use crate::os::channel::connect::{ChosenBy, connect, look_up};
use crate::os::files::capability::CapabilityDir;
use crate::os::names::address::Address;
#[cfg(unix)]
use crate::os::transport::unwatch;
use crate::os::transport::{rewatch, watch};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::inbox::InboxEntry;
use crate::proto::limits::Limits;
use crate::proto::message::Outgoing;
use crate::proto::outbox::{Queries, QueryId, SendId, SendOutcome};
use crate::proto::time::{Mono, Now};

/// Everything that a server has on its way to others.
pub(super) struct Sending {
    pub(super) links: Links,
    queries: Queries,
    /// Questions whose message has no outcome yet.
    asked: HashMap<SendId, QueryId>,
    /// Answers on their way, and the paths to which they go: peers chose these, so no connection to them may
    /// wait.
    replies: HashMap<SendId, Address>,
    /// Directories of ours, as for [`ChosenBy::Peer`].
    pub(super) own: Vec<PathBuf>,
    /// The token of a stream is this plus the index of its link.
    base: Token,
    /// Bounded: nothing is sent while as many wait as messages may be on their way.
    events: VecDeque<ServerEvent>,
    events_max: usize,
}

impl Sending {
    pub(super) fn new(
        links: Links,
        limits: &Limits,
        nonce: &str,
        own: Vec<PathBuf>,
        base: Token,
    ) -> Result<Self, Error> {
        Ok(Self {
            links,
            queries: Queries::new(limits.outbox_entries_max, nonce)?,
            asked: HashMap::new(),
            replies: HashMap::new(),
            own,
            base,
            events: VecDeque::new(),
            events_max: limits.outbox_entries_max,
        })
    }

    /// Moves the streams from one event queue into another.
    #[cfg(unix)]
    pub(super) fn move_streams(&mut self, from: &Registry, to: &Registry) -> std::io::Result<()> {
        self.links.streams_mut().try_for_each(|(key, stream)| {
            unwatch(from, stream)?;
            watch(to, stream, Token(self.base.0 + key.index()))
        })
    }

    pub(super) fn send(
        &mut self,
        target: &Address,
        message: &Outgoing,
        from: &Address,
        timeout: Duration,
        now: Now,
    ) -> Result<SendId, Error> {
        if self.events.len() >= self.events_max {
            let sentence = format!("{} outcomes wait to be taken; take the events first", self.events.len());
            return Err(Error::new(ErrorKind::OutboxFull, sentence));
        }
        self.links.send(target, message, Some(from), timeout, now)
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
        self.check_invariants();
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
                self.check_invariants();
                Ok(query)
            }
            Err(error) => {
                self.queries.close(query);
                Err(error)
            }
        }
    }

    pub(super) fn take_answered(&mut self, entry: &InboxEntry<'_>) -> Option<QueryId> {
        self.queries.take_answered(&entry.message())
    }

    /// One turn: reads what has come, writes what can go, and enforces what is due. A server that sends
    /// nothing has nothing to do.
    pub(super) fn turn(&mut self, registry: &Registry, capabilities: &CapabilityDir, now: Now) {
        if self.is_idle() {
            return;
        }
        let (replies, own, base) = (&self.replies, &self.own, self.base.0);
        // A server reads each capability anew: it keeps its connections.
        self.links.turn(now, &mut |key, target, _| {
            let is_claimed = replies.values().any(|claimed| claimed == target);
            let chosen_by = if is_claimed { ChosenBy::Peer(own) } else { ChosenBy::Us };
            let capability = look_up(capabilities, target)?;
            let mut stream = connect(&capability, chosen_by)?;
            watch(registry, &mut stream, Token(base + key.index()))
                .map_err(|cause| Error::new(ErrorKind::Io, "cannot watch a connection").with_source(cause))?;
            Ok(Connected { stream, auth_token: capability.auth_token, is_remembered: false })
        });
        self.links.streams_mut().for_each(|(key, stream)| {
            rewatch(registry, stream, Token(base + key.index()));
        });
        while let Some((id, outcome)) = self.links.outbox.next_outcome() {
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
        self.check_invariants();
    }

    pub(super) fn next_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Whether nothing is on its way, and no question is open.
    fn is_idle(&self) -> bool {
        self.links.is_empty() && self.queries.is_empty()
    }

    pub(super) fn next_deadline(&mut self) -> Option<Mono> {
        if self.is_idle() {
            return None;
        }
        [self.links.outbox.next_deadline(), self.queries.next_deadline()].into_iter().flatten().min()
    }

    /// O(1).
    fn check_invariants(&self) {
        debug_assert!(
            self.asked.len() + self.replies.len() <= self.links.outbox.outstanding(),
            "{} questions and {} answers are on their way",
            self.asked.len(),
            self.replies.len()
        );
    }
}
