//! Which process is at the other end of a connection, according to the kernel.

use std::fmt;

/// The process at the other end, as the operating system reported it when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    uid: u32,
    pid: Option<u32>,
}

impl PeerIdentity {
    /// A process of the Unix user `uid`, and its process id if the system reports it.
    pub const fn unix(uid: u32, pid: Option<u32>) -> Self {
        Self { uid, pid }
    }

    /// Its effective user id; `None` where users have no such number.
    pub const fn uid(&self) -> Option<u32> {
        Some(self.uid)
    }

    /// Its process id, if the system reports it. A fact to report, never a reason to refuse: for a socket
    /// that was inherited or passed on it is the process that made it.
    pub const fn pid(&self) -> Option<u32> {
        self.pid
    }
}

impl fmt::Display for PeerIdentity {
    /// Its user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user id {}", self.uid)
    }
}
