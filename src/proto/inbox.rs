//! The bounded store of messages that wait for the owner, and the batches in which it is handed over.
//!
//! Bytes are kept, not trees: 64 KiB of hostile JSON is 64 KiB here and would be 6.4 MB as a parsed value.
//! Each message is copied once, without its token, behind the others in one text; draining swaps that text
//! out.

use std::collections::{HashMap, TryReserveError};
use std::fmt;

use super::error::Error;
use super::json::{Fields, Redacted};
use super::limits::Limits;
use super::message::Message;
use super::peer::PeerIdentity;
use super::time::Wall;

/// The number of an accepted message, counted from 1 per server; shown as `uds-N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// The bare number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uds-{}", self.0)
    }
}

/// What is kept about one message beside its text.
#[derive(Clone)]
struct Record {
    id: MessageId,
    received_at: Wall,
    peer: PeerIdentity,
    /// Where its text begins and ends in the store.
    start: usize,
    end: usize,
    fields: Fields,
}

/// Messages taken out of an inbox. It owns them: the server can be used while its entries are read.
///
/// Pass the same batch to `drain_into` again to use its memory again.
#[derive(Default)]
pub struct Batch {
    /// The texts of the messages, end to end.
    text: String,
    /// In the order of their ids.
    records: Vec<Record>,
}

impl Batch {
    /// An empty batch, holding no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The messages in the order in which they were accepted.
    pub fn iter(&self) -> BatchIter<'_> {
        BatchIter { text: &self.text, records: self.records.iter() }
    }

    /// Room for all that an inbox may hold, so that taking a message in never allocates. Untouched pages cost
    /// nothing.
    fn reserve(&mut self, bytes_max: usize, entries_max: usize) -> Result<(), TryReserveError> {
        self.text.try_reserve_exact(bytes_max.saturating_sub(self.text.len()))?;
        self.records.try_reserve_exact(entries_max.saturating_sub(self.records.len()))
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'b> IntoIterator for &'b Batch {
    type Item = InboxEntry<'b>;
    type IntoIter = BatchIter<'b>;

    fn into_iter(self) -> BatchIter<'b> {
        self.iter()
    }
}

/// The entries of a [`Batch`] in order.
pub struct BatchIter<'b> {
    text: &'b str,
    records: std::slice::Iter<'b, Record>,
}

impl<'b> Iterator for BatchIter<'b> {
    type Item = InboxEntry<'b>;

    fn next(&mut self) -> Option<InboxEntry<'b>> {
        let record = self.records.next()?;
        // A record is made together with its text, so the range is always there.
        let json = self.text.get(record.start..record.end).unwrap_or_default();
        Some(InboxEntry { json, record })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}

impl ExactSizeIterator for BatchIter<'_> {}

/// One message that was accepted: drained means processed, so there is no status.
#[derive(Clone, Copy)]
pub struct InboxEntry<'b> {
    json: &'b str,
    record: &'b Record,
}

impl<'b> InboxEntry<'b> {
    /// The id that its sender was told.
    pub fn id(&self) -> MessageId {
        self.record.id
    }

    /// When it was accepted: the wall time of that turn.
    pub fn received_at(&self) -> Wall {
        self.record.received_at
    }

    /// The process that sent it, as the kernel says; `message().from()` is only what the sender claims.
    pub fn peer(&self) -> PeerIdentity {
        self.record.peer
    }

    /// What was sent, without the token.
    pub fn message(&self) -> Message<'b> {
        Message::from_parts(self.json, self.record.fields)
    }
}

impl fmt::Debug for InboxEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxEntry")
            .field("id", &self.id().0)
            .field("peer", &self.peer())
            .field("message", &self.message())
            .finish()
    }
}

/// Messages waiting for the owner, limited by count and by bytes.
pub(crate) struct Inbox {
    waiting: Batch,
    entries_max: usize,
    bytes_max: usize,
    /// Percentage of it that one process may fill.
    share_percent: usize,
    /// Messages and bytes of each process, which are kept only if that is less than all.
    held: HashMap<Option<u32>, (usize, usize)>,
    accepted: u64,
}

impl Inbox {
    /// An empty inbox with room reserved for all that `limits` allow.
    pub(crate) fn new(limits: &Limits) -> Result<Self, Error> {
        let (entries_max, bytes_max) = (limits.inbox_entries_max, limits.inbox_bytes_max);
        let mut waiting = Batch::new();
        waiting.reserve(bytes_max, entries_max).map_err(|refused| {
            let what = format_args!("an inbox of {entries_max} entries and {bytes_max} bytes");
            Error::no_memory(what).with_source(refused)
        })?;
        Ok(Self {
            waiting,
            entries_max,
            bytes_max,
            share_percent: limits.inbox_share_percent_max,
            held: HashMap::new(),
            accepted: 0,
        })
    }

    /// Messages waiting.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Messages accepted since the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether a message of `len` bytes from process `pid` fits. One fits an empty share, however small that
    /// is: it could never be sent otherwise.
    pub(crate) fn has_room(&self, pid: Option<u32>, len: usize) -> bool {
        if self.len() == self.entries_max || len > self.bytes_max - self.bytes() {
            return false;
        }
        let Some((held_entries, held_bytes)) = self.held.get(&pid) else { return true };
        let share = |max: usize| max / 100 * self.share_percent + max % 100 * self.share_percent / 100;
        *held_entries < share(self.entries_max) && held_bytes + len <= share(self.bytes_max)
    }

    /// Bytes of the messages waiting.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting.text.len()
    }

    /// Takes a message in and numbers it: the one copy of its bytes. `None`: it does not fit, by count, by
    /// bytes, or because memory for it could not be had. O(length).
    pub(crate) fn push(
        &mut self,
        message: Redacted<'_>,
        peer: PeerIdentity,
        received_at: Wall,
    ) -> Option<MessageId> {
        if !self.has_room(peer.pid(), message.len()) {
            return None;
        }
        // Only the first message after a swap with a new batch finds anything to reserve.
        self.waiting.reserve(self.bytes_max, self.entries_max).ok()?;
        let Batch { text, records } = &mut self.waiting;
        if self.share_percent < 100 {
            let held = self.held.entry(peer.pid()).or_default();
            *held = (held.0 + 1, held.1 + message.len());
        }
        let start = text.len();
        text.push_str(message.head);
        text.push_str(message.tail);
        self.accepted += 1;
        let id = MessageId(self.accepted);
        records.push(Record { id, received_at, peer, start, end: text.len(), fields: message.fields });
        self.check_invariants();
        Some(id)
    }

    /// Swaps what waits into `batch`, whose earlier content is dropped; returns how many there are. O(1).
    pub(crate) fn drain_into(&mut self, batch: &mut Batch) -> usize {
        batch.text.clear();
        batch.records.clear();
        self.held.clear();
        if self.len() > 0 {
            std::mem::swap(&mut self.waiting, batch);
        }
        self.check_invariants();
        batch.len()
    }

    /// The bounds hold, texts lie end to end, and ids have no gap. O(1).
    fn check_invariants(&self) {
        let (entries, bytes) = (self.len(), self.bytes());
        debug_assert!(entries <= self.entries_max, "{entries} of {} messages", self.entries_max);
        debug_assert!(bytes <= self.bytes_max, "{bytes} of {} bytes", self.bytes_max);
        let last = self.waiting.records.last();
        debug_assert_eq!(last.map_or(0, |last| last.end), bytes, "a text without a record");
        debug_assert!(last.is_none_or(|last| last.id.0 == self.accepted), "the newest message has an old id");
        debug_assert!(self.held.len() <= entries, "{} processes share {entries} messages", self.held.len());
    }
}
