//! Non-blocking streams over mio: what the reactor needs from a platform, and nothing else.
//!
//! A platform supplies these types.
//!
//! | type | what it does |
//! |---|---|
//! | `Listener` | a `mio::event::Source`; `note_event` takes what the kernel says of it; `accept()` gives the next `(Stream, PeerIdentity)`, or why there is none |
//! | `Stream` | watched with `STREAM_INTEREST`; `note_event` says what an event means; `read`, `write` report a [`Progress`]; `shut_write`; `close` (never resets the peer) |
//! | `WakeSource`, `WakeHandle` | the two ends of a waker, made by `wake_pair()`; the source is a `mio::event::Source` |
//! | `Timer` | where the queue's own descriptor can be made readable by a timer (Linux) |
//!
//! Whatever a platform does differently (a reset instead of an end, a signal instead of an error, the descriptor
//! table being full) is translated here, so that no line above this module knows which platform it runs on.

#[cfg(unix)]
mod unix;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use unix::Timer;
#[cfg(unix)]
pub(crate) use unix::{Listener, Stream, WakeHandle, WakeSource, wake_pair};

/// How far one read or write came.
#[derive(Debug)]
pub(crate) enum Progress {
    /// So many bytes, at least one.
    Moved(usize),
    /// Reading: the same, but however few they are there may be more, and no event will tell of it. Read on.
    Cut(usize),
    /// Nothing now; an event will tell.
    Blocked,
    /// Reading: the peer has sent all that it will send.
    End,
    /// The peer is gone: reading, nothing more will come; writing, nobody will read it.
    Gone,
}

/// Why no connection was accepted.
#[derive(Debug)]
pub(crate) enum AcceptError {
    /// None is waiting; an event will tell.
    Blocked,
    /// The one that was waiting went away; ask for the next.
    Aborted,
    /// Descriptors or memory have run out, or the system forbids it for now; ask again later, no event will tell.
    NotNow(std::io::Error),
    /// The listener is of no use any more.
    Broken(std::io::Error),
}
