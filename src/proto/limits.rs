//! Every bound and timeout of the protocol, with the protocol's value as its default.

use std::time::Duration;

use super::error::{Error, ErrorKind};

/// What one server allows. Change the fields you need; [`Limits::check`] says whether they fit together.
///
/// ```
/// let mut limits = udsmsg::Limits::default();
/// limits.clients_max = 8;
/// limits.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one line, its newline not counted. Default 65,536; at most 16 MiB.
    pub frame_bytes_max: usize,
    /// Messages waiting for the owner. Default 1,000.
    pub inbox_entries_max: usize,
    /// Bytes of their JSON, tokens cut out. Default 2 MiB; at most 1 GiB.
    pub inbox_bytes_max: usize,
    /// Clients served at once. Default 128; at most 65,536. As many again may be on their way out.
    pub clients_max: usize,
    /// Bytes of unfinished lines, all clients together; one frame more is there for reading. Default 8 MiB;
    /// at most 1 GiB.
    pub unfinished_bytes_max: usize,
    /// Bytes of answers a client may leave unread. Default 64 KiB, at least 4 KiB; one error line fits beyond
    /// it. Its buffer is never more than half as large again.
    pub output_bytes_max: usize,
    /// Percent of the inbox that the messages of one process may fill, one message of any size at least.
    /// Default 100: all of it.
    pub inbox_share_percent_max: usize,
    /// Lines a second, blank ones not counted, that are taken from one process; beyond, its connections are
    /// not read for a while, and go on in turn. Bursts of one second's worth are fine. Default 0: as many as
    /// come.
    pub pid_lines_per_second_max: usize,
    /// Messages on their way to other servers. Default 1,000.
    pub outbox_entries_max: usize,
    /// Bytes of their lines. Default 2 MiB; at most 1 GiB.
    pub outbox_bytes_max: usize,
    /// Receivers that messages can be on their way to. Default 64.
    pub receivers_max: usize,
    /// Messages written to one receiver that it has not answered. Default 64.
    pub in_flight_max: usize,
    /// From accept to the first authenticated message. Default 2 s.
    pub auth_timeout: Duration,
    /// Without a byte in either direction. Default 30 s.
    pub idle_timeout: Duration,
    /// From the first byte of a line to its newline. Default 30 s.
    pub frame_timeout: Duration,
    /// From reaching `output_bytes_max` until every answer is taken. Default 30 s.
    pub output_timeout: Duration,
    /// For the last line to be taken. Default 1 s.
    pub closing_timeout: Duration,
    /// How long a client that has not authenticated keeps its slot from a newcomer. Default 100 ms.
    pub eviction_age: Duration,
    /// Lines of one client that one turn handles. Default 16. A server in a loop of its own gives up to four
    /// times as many to a client while no other one waits, and looks for others before each.
    pub turn_frames_max: usize,
    /// Bytes of one client that one read takes, and a turn reads each client once. Default 16 KiB. One that
    /// has not authenticated, or whose timeout has come, is read as far as its line may go: no client is
    /// closed because of half of what it sent.
    pub turn_bytes_max: usize,
    /// Connections that one turn accepts. Default 64.
    pub turn_accepts_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 65_536,
            inbox_entries_max: 1_000,
            inbox_bytes_max: 2_097_152,
            clients_max: 128,
            unfinished_bytes_max: 8 << 20,
            output_bytes_max: 65_536,
            inbox_share_percent_max: 100,
            pid_lines_per_second_max: 0,
            outbox_entries_max: 1_000,
            outbox_bytes_max: 2_097_152,
            receivers_max: 64,
            in_flight_max: 64,
            auth_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(30),
            frame_timeout: Duration::from_secs(30),
            output_timeout: Duration::from_secs(30),
            closing_timeout: Duration::from_secs(1),
            eviction_age: Duration::from_millis(100),
            turn_frames_max: 16,
            turn_bytes_max: 16_384,
            turn_accepts_max: 64,
        }
    }
}

impl Limits {
    /// Checks the ranges given with each field.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`], naming the field, its value and its range.
    pub fn check(&self) -> Result<(), Error> {
        let ranges = [
            ("frame_bytes_max", self.frame_bytes_max, 1, 16 << 20),
            ("inbox_entries_max", self.inbox_entries_max, 1, 1 << 24),
            ("inbox_bytes_max", self.inbox_bytes_max, 1, 1 << 30),
            ("clients_max", self.clients_max, 1, 65_536),
            ("unfinished_bytes_max", self.unfinished_bytes_max, 0, 1 << 30),
            ("output_bytes_max", self.output_bytes_max, 4096, 1 << 30),
            ("inbox_share_percent_max", self.inbox_share_percent_max, 1, 100),
            ("pid_lines_per_second_max", self.pid_lines_per_second_max, 0, 1_000_000_000),
            ("outbox_entries_max", self.outbox_entries_max, 1, 1 << 20),
            ("outbox_bytes_max", self.outbox_bytes_max, 1, 1 << 30),
            ("receivers_max", self.receivers_max, 1, 65_536),
            ("in_flight_max", self.in_flight_max, 1, 65_536),
            ("turn_frames_max", self.turn_frames_max, 1, 1 << 24),
            ("turn_bytes_max", self.turn_bytes_max, 1, 1 << 30),
            ("turn_accepts_max", self.turn_accepts_max, 1, 65_536),
        ];
        let invalid = |sentence: String| Err(Error::new(ErrorKind::InvalidLimit, sentence));
        for (name, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return invalid(format!("{name} is {value}; it must be {min} to {max}"));
            }
        }
        let timeouts = [
            ("auth_timeout", self.auth_timeout),
            ("idle_timeout", self.idle_timeout),
            ("frame_timeout", self.frame_timeout),
            ("output_timeout", self.output_timeout),
            ("closing_timeout", self.closing_timeout),
        ];
        for (name, value) in timeouts {
            if value.is_zero() {
                return invalid(format!("{name} is zero; it must be longer"));
            }
        }
        Ok(())
    }
}
