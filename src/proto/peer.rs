//! Who is at the other end of a connection, as the kernel vouches for it.

/// The process at the other end, as the operating system reported it when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// Its effective user id.
    pub uid: u32,
    /// Its process id where the system tells. A fact to report, never a reason to refuse: a socket that was
    /// inherited or passed on names whoever made it.
    pub pid: Option<u32>,
}

impl PeerIdentity {
    /// Whether a process of user `owner` talks to this peer: it does to the same user and to root.
    pub fn is_trusted_by(&self, owner: u32) -> bool {
        self.uid == owner || self.uid == 0
    }
}
