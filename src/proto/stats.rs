//! What an endpoint has done so far: counters, and each connection as it is now.

use super::error::CloseReason;
use super::peer::PeerIdentity;
use super::time::Mono;

/// Counters since the start, and the peaks. Copied out in O(1); counting costs an addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Clients that are connected now, those that are closing not counted.
    pub clients: usize,
    /// The most that there were at once.
    pub clients_peak: usize,
    /// Connections that were accepted, those that were told `too many clients` included.
    pub connections: u64,
    /// Connections of other users, closed without an answer.
    pub strangers: u64,
    /// Messages put into the inbox.
    pub messages: u64,
    /// Pings answered.
    pub pings: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Messages that wait for the owner now.
    pub inbox_entries: usize,
    /// The most that waited at once.
    pub inbox_entries_peak: usize,
    /// Bytes of their JSON.
    pub inbox_bytes: usize,
    /// The most bytes that waited at once.
    pub inbox_bytes_peak: usize,
    /// Times that a client was paused for sending faster than it may.
    pub throttled: u64,
    /// Connections that ended, by cause.
    pub closed: ClosedStats,
}

impl Stats {
    pub(crate) fn note_clients(&mut self, clients: usize) {
        self.clients_peak = self.clients_peak.max(clients);
    }

    /// The inbox only grows until it is drained, so its peak is known if this is called before each drain.
    pub(crate) fn note_inbox(&mut self, entries: usize, bytes: usize) {
        (self.inbox_entries, self.inbox_bytes) = (entries, bytes);
        self.inbox_entries_peak = self.inbox_entries_peak.max(entries);
        self.inbox_bytes_peak = self.inbox_bytes_peak.max(bytes);
    }

    pub(crate) fn count_stranger(&mut self) {
        self.strangers += 1;
    }

    pub(crate) fn count_ping(&mut self) {
        self.pings += 1;
    }

    pub(crate) fn count_throttled(&mut self) {
        self.throttled += 1;
    }

    pub(crate) fn count_read(&mut self, bytes: usize) {
        self.bytes_read += bytes as u64;
    }

    pub(crate) fn count_written(&mut self, bytes: usize) {
        self.bytes_written += bytes as u64;
    }
}

/// How many connections ended for which reason; see [`CloseReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the variants of `CloseReason`, which explains them")]
pub struct ClosedStats {
    pub invalid_frame: u64,
    pub unauthorized: u64,
    pub inbox_full: u64,
    pub auth_timeout: u64,
    pub idle_timeout: u64,
    pub frame_timeout: u64,
    pub too_many_clients: u64,
    pub frame_too_long: u64,
    pub peer_finished: u64,
    pub peer_gone: u64,
    pub output_stalled: u64,
    pub shut_down: u64,
}

impl ClosedStats {
    pub(crate) fn count(&mut self, reason: CloseReason) {
        let counter = match reason {
            CloseReason::InvalidFrame => &mut self.invalid_frame,
            CloseReason::Unauthorized => &mut self.unauthorized,
            CloseReason::InboxFull => &mut self.inbox_full,
            CloseReason::AuthTimeout => &mut self.auth_timeout,
            CloseReason::IdleTimeout => &mut self.idle_timeout,
            CloseReason::FrameTimeout => &mut self.frame_timeout,
            CloseReason::TooManyClients => &mut self.too_many_clients,
            CloseReason::FrameTooLong { .. } => &mut self.frame_too_long,
            CloseReason::PeerFinished => &mut self.peer_finished,
            CloseReason::PeerGone => &mut self.peer_gone,
            CloseReason::OutputStalled => &mut self.output_stalled,
            CloseReason::ShutDown => &mut self.shut_down,
        };
        *counter += 1;
    }
}

/// One connection as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The process at the other end.
    pub peer: PeerIdentity,
    /// Since when, on the clock of the host.
    pub accepted_at: Mono,
    /// When the last byte went in either direction.
    pub active_at: Mono,
    /// It has shown the token.
    pub is_authenticated: bool,
    /// It is closing.
    pub is_closing: bool,
    /// Bytes of a line that is not finished, or of lines not looked at yet.
    pub unfinished_bytes: usize,
    /// Bytes of answers that it has not taken.
    pub unread_bytes: usize,
}
