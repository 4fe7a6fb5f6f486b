//! Who is served: newcomers are accepted, silent clients make room for them, and connections are closed.

use std::collections::VecDeque;

use super::connection::Connection;
use super::process::Scope;
use super::{Endpoint, Slots};
use crate::proto::error::{CloseReason, Error};
use crate::proto::peer::PeerIdentity;
use crate::proto::slots::{ConnKey, queue};
use crate::proto::time::{Mono, Now};

/// How many connections there are, and in which order those that are closing are cut off.
pub(super) struct Admission {
    /// Connections ever given a slot: the serial number of the newest.
    admitted: u64,
    /// Connections that are open, and those that are closing.
    open: usize,
    closing: usize,
    /// Those that are closing, in the order in which that began, and those of them that linger. Keys of those
    /// that are gone may still stand in both.
    by_age: VecDeque<ConnKey>,
    lingering: VecDeque<ConnKey>,
    is_shut_down: bool,
}

impl Admission {
    pub(super) fn new(slots_max: usize) -> Result<Self, Error> {
        let (by_age, lingering) = (queue(slots_max)?, queue(slots_max)?);
        Ok(Self { admitted: 0, open: 0, closing: 0, by_age, lingering, is_shut_down: false })
    }

    /// Connections ever given a slot.
    pub(super) fn admitted(&self) -> u64 {
        self.admitted
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Connections that are open or closing.
    pub(super) fn served(&self) -> usize {
        self.open + self.closing
    }

    fn next_serial(&mut self) -> u64 {
        self.admitted += 1;
        self.admitted
    }

    fn note_closing(&mut self, key: ConnKey, slots: &Slots<Connection>) {
        self.open -= 1;
        self.closing += 1;
        enqueue(&mut self.by_age, key, slots);
    }

    /// Everything is written to a connection that is closing; now it is read to its end.
    pub(super) fn note_lingering(&mut self, key: ConnKey, slots: &Slots<Connection>) {
        enqueue(&mut self.lingering, key, slots);
    }

    /// The closing connection that is cut off next: first those that linger, then the oldest, but none whose
    /// last output the shell has not been told to write. Keys of those that are gone are dropped on the way.
    fn next_to_cut_off(&mut self, slots: &Slots<Connection>) -> Option<(ConnKey, CloseReason)> {
        for queue in [&mut self.lingering, &mut self.by_age] {
            while let Some(&key) = queue.front() {
                match slots.get(key) {
                    Some(connection) if connection.has_news() => return None,
                    Some(connection) => return Some((key, connection.close_reason()?)),
                    None => queue.pop_front(),
                };
            }
        }
        None
    }
}

/// Puts `key` at the end of `queue`, in which keys of connections that are gone may still stand: they are
/// thrown out when there is no room. O(1), amortised: fewer connections are closing than there are slots.
fn enqueue(queue: &mut VecDeque<ConnKey>, key: ConnKey, slots: &Slots<Connection>) {
    if queue.len() == queue.capacity() {
        queue.retain(|key| slots.get(*key).is_some());
    }
    queue.push_back(key);
}

impl Endpoint {
    /// Whether [`accepted`](Self::accepted) has a slot left in this turn; if not, leave newcomers in the
    /// backlog.
    pub fn can_accept(&self) -> bool {
        !self.admission.is_shut_down && self.slots.has_room()
    }

    /// A connection was made by `peer`, which the host trusts: it belongs to the own user or to root. `None`:
    /// close it at once and write nothing to it, since there is no slot in which it could be told why it is
    /// refused.
    ///
    /// When `clients_max` are open, the newcomer takes the slot of the one that has been connected longest
    /// without authenticating, if that is at least `eviction_age`, those that never sent a byte first. What
    /// such a client has sent is processed before; one whose bytes were not read yet keeps its slot.
    /// Otherwise the key returned is that of a connection that is being refused. O(clients) then; otherwise
    /// O(1), and with `pid_lines_per_second_max` now and then O(processes).
    ///
    /// Every refused one is told why if its steps are done before the turn ends, after each or after all of
    /// them.
    pub fn accepted(&mut self, peer: PeerIdentity, now: Now) -> Option<ConnKey> {
        let now = self.latest.or_later(now);
        if !self.can_accept() {
            return None;
        }
        let is_refused = !self.make_room(now);
        self.rates.prune(self.slots_max(), now.mono);
        let serial = self.admission.next_serial();
        let key = self.slots.insert(Connection::new(peer, serial, &self.limits, now.mono))?;
        self.admission.open += 1;
        self.stats.note_clients(self.admission.open.min(self.limits.clients_max));
        tracing::debug!(index = key.index(), uid = peer.uid(), pid = peer.pid(), "client connected");
        if is_refused {
            self.close(key, CloseReason::TooManyClients, now);
        } else {
            self.settle(key);
        }
        self.check_invariants();
        Some(key)
    }

    /// The host has closed a connection at once, and written nothing to it, because it does not trust `peer`.
    pub fn stranger_refused(&mut self, peer: PeerIdentity) {
        self.stats.count_stranger();
        tracing::warn!(uid = peer.uid(), pid = peer.pid(), "connection of another user refused");
    }

    /// Sees to it that a newcomer finds room, at the cost of a client that has not authenticated. `false`:
    /// there is none.
    fn make_room(&mut self, now: Now) -> bool {
        while self.admission.open >= self.limits.clients_max {
            let Some(key) = self.next_to_evict(now.mono) else { return false };
            if !self.process_early(key, now) {
                self.close(key, CloseReason::TooManyClients, now);
            }
        }
        true
    }

    /// The client that makes room for a newcomer, if one may have to.
    fn next_to_evict(&self, now: Mono) -> Option<ConnKey> {
        let rank = |(key, c): (ConnKey, &Connection)| Some((c.eviction_rank(&self.limits, now)?, key));
        self.slots.iter().filter_map(rank).min_by_key(|(rank, _)| *rank).map(|(_, key)| key)
    }

    /// Takes up all that a connection has sent and that was read and left over, which is one buffer at most,
    /// before it is closed. `false`: there was nothing.
    pub(super) fn process_early(&mut self, key: ConnKey, now: Now) -> bool {
        let has_lines = self.slots.get_mut(key).is_some_and(Connection::resume_early);
        if has_lines {
            self.process(key, Scope::Everything, now);
        }
        has_lines
    }

    /// The stream of this connection broke in a way that leaves nothing to read or to write: it is forgotten.
    pub fn broken(&mut self, key: ConnKey) {
        self.remove(key, CloseReason::PeerGone);
        self.check_invariants();
    }

    /// Stops: nothing more is accepted or processed; pending answers are flushed within `closing_timeout`.
    /// Sends no error line.
    pub fn shutdown(&mut self, now: Now) {
        let now = self.latest.or_later(now);
        self.admission.is_shut_down = true;
        let keys: Vec<ConnKey> = self.slots.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, CloseReason::ShutDown, now);
        }
        self.check_invariants();
    }

    /// Begins the end of an open connection. If too many are closing already, the oldest of them is cut off.
    pub(super) fn close(&mut self, key: ConnKey, reason: CloseReason, now: Now) {
        let Some(connection) = self.slots.get_mut(key).filter(|c| c.is_open()) else { return };
        let ts = self.stamp.text(now.wall);
        connection.lend_output_memory(&mut self.spare_outputs);
        connection.close(reason, ts, &self.limits, now.mono);
        let reserved = connection.take_reserved();
        tracing::debug!(index = key.index(), ?reason, "closing connection");
        self.admission.note_closing(key, &self.slots);
        self.give_back(reserved);
        self.cut_off_closing();
        self.settle(key);
    }

    /// Cuts off those of the closing connections that are more than may be. Amortised O(1).
    pub(super) fn cut_off_closing(&mut self) {
        while self.admission.closing > self.limits.clients_max {
            let Some((key, reason)) = self.admission.next_to_cut_off(&self.slots) else { break };
            self.remove(key, reason);
        }
    }

    /// Forgets a connection and has its stream closed.
    pub(super) fn remove(&mut self, key: ConnKey, reason: CloseReason) {
        if self.release(key, reason) {
            self.actions.close(key, reason);
        }
    }

    /// Forgets a connection. `false`: it was forgotten before.
    pub(super) fn release(&mut self, key: ConnKey, reason: CloseReason) -> bool {
        let Some(connection) = self.slots.retire(key) else { return false };
        let is_open = connection.is_open();
        let count = if is_open { &mut self.admission.open } else { &mut self.admission.closing };
        *count -= 1;
        self.wheel.cancel(key);
        let (ring, output) = connection.into_memory();
        self.spare_outputs.keep(output);
        self.give_back(ring);
        self.stats.closed.count(reason);
        tracing::debug!(index = key.index(), ?reason, "connection closed");
        true
    }
}
