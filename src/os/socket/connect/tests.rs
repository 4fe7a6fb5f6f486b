//! What a refused connection means.

use super::*;

/// The table; the second column is the kind where a full backlog refuses as well, and the process exists.
#[test]
fn an_errno_of_connect_has_a_kind() {
    for (errno, kind, kind_if_full) in [
        (Errno::ENOENT, ErrorKind::NoSuchPeer, ErrorKind::NoSuchPeer),
        (Errno::ENOTDIR, ErrorKind::NoSuchPeer, ErrorKind::NoSuchPeer),
        (Errno::ENOTSOCK, ErrorKind::NoSuchPeer, ErrorKind::NoSuchPeer),
        (Errno::EPROTOTYPE, ErrorKind::NoSuchPeer, ErrorKind::NoSuchPeer),
        (Errno::ECONNREFUSED, ErrorKind::NoSuchPeer, ErrorKind::Busy),
        (Errno::EAGAIN, ErrorKind::Busy, ErrorKind::Busy),
        (Errno::EACCES, ErrorKind::ForeignPeer, ErrorKind::ForeignPeer),
        (Errno::EPERM, ErrorKind::ForeignPeer, ErrorKind::ForeignPeer),
        (Errno::EMFILE, ErrorKind::Io, ErrorKind::Io),
    ] {
        assert_eq!(meaning(errno, false).0, kind, "{errno}");
        assert_eq!(meaning(errno, true).0, kind_if_full, "{errno}");
    }
}
