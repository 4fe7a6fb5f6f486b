//! Which process is at the other end of a connection, according to the kernel.

use std::fmt;

#[cfg(windows)]
use super::sid::Sid;

/// The process at the other end, as the operating system reported it when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    user: User,
    pid: Option<u32>,
}

/// The user that a process acts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum User {
    Unix(u32),
    #[cfg(windows)]
    Windows(Sid),
}

impl PeerIdentity {
    /// A process of the Unix user `uid`, and its process id if the system reports it.
    pub const fn unix(uid: u32, pid: Option<u32>) -> Self {
        Self { user: User::Unix(uid), pid }
    }

    /// A process of the Windows user `sid`, and its process id if the system reports it.
    #[cfg(windows)]
    pub const fn windows(sid: Sid, pid: Option<u32>) -> Self {
        Self { user: User::Windows(sid), pid }
    }

    /// Its effective user id; `None` where users have no such number.
    pub const fn uid(&self) -> Option<u32> {
        match self.user {
            User::Unix(uid) => Some(uid),
            #[cfg(windows)]
            User::Windows(_) => None,
        }
    }

    /// The security identifier of its user; `None` if it is a Unix user.
    #[cfg(windows)]
    pub const fn sid(&self) -> Option<Sid> {
        match self.user {
            User::Unix(_) => None,
            User::Windows(sid) => Some(sid),
        }
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
        match self.user {
            User::Unix(uid) => write!(f, "user id {uid}"),
            #[cfg(windows)]
            User::Windows(sid) => write!(f, "user {sid}"),
        }
    }
}
