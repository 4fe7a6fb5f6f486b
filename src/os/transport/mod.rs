//! What the reactor needs from a platform and from mio, and nothing else.
//!
//! A platform supplies these items.
//!
//! - `Listener`: `note_event` takes what the kernel says of it; `accept()` gives the
//!   next [`ReadyStream`](crate::os::channel::stream::ReadyStream) and who its peer is, or why there is none.
//! - `watch` a stream in an event queue; `readiness` is what an event says of it. `rewatch` it after each
//!   write: a queue tells of room only while a write is blocked. `unwatch`, where it can leave the queue
//!   (not on Windows).
//! - `write_through`: a write that reports as moved only what closing the stream does not lose.
//! - `watch_input`: the same for a listener, a waker and a timer.
//! - `WakeSource` and `WakeHandle`: the two ends of a waker, made by `wake_pair()`.
//! - `Timer`, where the queue's own descriptor can be made readable by a timer (Linux).
//!
//! What a platform does differently (a reset instead of an end, a signal instead of an error, the
//! descriptor table being full) is translated here, so that no line above this module knows which platform it
//! runs on.

#[cfg(unix)]
mod unix;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use unix::Timer;
#[cfg(unix)]
pub(crate) use unix::{
    Listener, WakeHandle, WakeSource, readiness, rewatch, unwatch, wake_pair, watch, watch_input,
    write_through,
};
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{
    Listener, WakeHandle, WakeSource, readiness, rewatch, wake_pair, watch, watch_input, write_through,
};

/// Why no connection was accepted.
#[derive(Debug)]
pub(crate) enum AcceptError {
    /// None is waiting; an event will tell.
    Blocked,
    /// The one that was waiting went away; ask for the next.
    Aborted,
    /// Descriptors or memory have run out, or the system forbids it for now; ask again later, no event will
    /// tell.
    NotNow(std::io::Error),
    /// The listener is of no use any more.
    Broken(std::io::Error),
}
