//! What a refused write means.

use super::*;

/// The table.
#[test]
fn an_errno_of_a_write_says_whether_the_peer_is_gone() {
    for (errno, expected) in [
        (Errno::EAGAIN, Some(Output::Blocked)),
        (Errno::ENOBUFS, Some(Output::NoMemory)),
        (Errno::ENOMEM, Some(Output::NoMemory)),
        (Errno::EPIPE, None),
        (Errno::ECONNRESET, None),
        (Errno::ENOTCONN, None),
        // macOS, if the peer closes at the same moment.
        (Errno::EPROTOTYPE, None),
    ] {
        assert_eq!(after_refusal(errno), expected, "{errno}");
    }
}
