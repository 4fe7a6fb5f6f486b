//! Which process is at the other end of a connection, according to the kernel.

/// The process at the other end, as the operating system reported it when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// Its effective user id.
    pub uid: u32,
    /// Its process id, if the system reports it. A fact to report, never a reason to refuse: for a socket
    /// that was inherited or passed on it is the process that made it.
    pub pid: Option<u32>,
}

impl PeerIdentity {
    /// Whether a process of user `owner` may trust this peer: it belongs to the same user or to root.
    pub fn is_trusted_by(&self, owner: u32) -> bool {
        self.uid == owner || self.uid == 0
    }
}
