//! Unix domain sockets over mio.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use mio::event::Event;
use mio::net::UnixListener;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;

use super::AcceptError;
use crate::os::socket::stream::{Progress, Readiness, ReadyStream};
use crate::os::sys;
use crate::proto::peer::PeerIdentity;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    /// Another process that holds it too has shut it: accepting fails as if no connection were waiting.
    is_shut: bool,
    /// Connections may be waiting that came before it was one of ours (it can have been adopted), and so have
    /// not inherited what all of ours have: see [`sys::protect`].
    has_old: bool,
}

impl Listener {
    /// Takes over a listener that does not block.
    pub(crate) fn new(listener: std::os::unix::net::UnixListener) -> Self {
        Self { socket: UnixListener::from_std(listener), is_shut: false, has_old: true }
    }

    /// Takes what the kernel says of it. A hint: a host may hand over events of something else.
    pub(crate) fn note_event(&mut self, event: &Event) {
        self.is_shut |= event.is_read_closed() && sys::is_shut_down(&self.socket);
    }

    /// The next connection, and what the kernel says about its peer.
    pub(crate) fn accept(&mut self) -> Result<(ReadyStream, PeerIdentity), AcceptError> {
        let stream = match self.socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                return Err(match sys::errno_of(&error) {
                    Errno::EAGAIN if self.is_shut => {
                        let what = "the listener was shut down by another process that holds it";
                        AcceptError::Broken(io::Error::new(ErrorKind::NotConnected, what))
                    }
                    Errno::EAGAIN => {
                        // What comes from now on inherits.
                        self.has_old = false;
                        AcceptError::Blocked
                    }
                    Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO => AcceptError::Aborted,
                    errno if sys::is_shortage(errno) => AcceptError::NotNow(error),
                    // A security module or a system call filter. Its rules may change.
                    Errno::EPERM | Errno::EACCES => AcceptError::NotNow(error),
                    _ => AcceptError::Broken(error),
                });
            }
        };
        if self.has_old {
            // Where that cannot be mended, the peer is gone.
            sys::protect(&stream).map_err(|_| AcceptError::Aborted)?;
        }
        // A peer whose identity the kernel does not tell is not let in.
        let peer = sys::peer_identity(&stream).map_err(|_| AcceptError::Aborted)?;
        Ok((ReadyStream::new(stream.into()), peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an event says of the stream that it names.
pub(crate) fn readiness(event: &Event) -> Readiness {
    let has_ended = event.is_read_closed() || event.is_error();
    Readiness {
        is_readable: event.is_readable() || has_ended,
        is_writable: event.is_writable(),
        reads_on: has_ended || event.is_priority(),
    }
}

/// Has a queue report with `token` that `source` can be read, until it is closed.
pub(crate) fn watch_input(registry: &Registry, source: &mut impl AsFd, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&source.as_fd().as_raw_fd()), token, Interest::READABLE)
}

/// Has a queue report the readiness of a stream with `token`, until the stream is closed or [`unwatch`]ed.
pub(crate) fn watch(registry: &Registry, stream: &mut ReadyStream, token: Token) -> io::Result<()> {
    stream.watched_for_room(false);
    let wants_room = stream.wants_other_watch().unwrap_or(false);
    registry.register(&mut SourceFd(&stream.as_fd().as_raw_fd()), token, interest(wants_room))?;
    stream.watched_for_room(wants_room);
    Ok(())
}

/// Has the queue that reports a stream with `token` also report when it can be written, while a write is
/// blocked. No system call unless that has changed. If the system refuses, the write is tried again later.
pub(crate) fn rewatch(registry: &Registry, stream: &mut ReadyStream, token: Token) {
    let Some(wants_room) = stream.wants_other_watch() else { return };
    let fd = stream.as_fd().as_raw_fd();
    match registry.reregister(&mut SourceFd(&fd), token, interest(wants_room)) {
        Ok(()) => stream.watched_for_room(wants_room),
        Err(_) => stream.retry_write(),
    }
}

/// Has a queue report nothing more of a stream.
pub(crate) fn unwatch(registry: &Registry, stream: &ReadyStream) -> io::Result<()> {
    registry.deregister(&mut SourceFd(&stream.as_fd().as_raw_fd()))
}

/// One write. What it has moved the peer can read, even if the stream is closed now.
pub(crate) fn write_through(stream: &mut ReadyStream, bytes: &[u8]) -> Progress {
    stream.write(bytes)
}

/// What a queue is to report of a stream. Urgent data has an event of its own where it can be asked for.
const fn interest(wants_room: bool) -> Interest {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let input = Interest::READABLE.add(Interest::PRIORITY);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let input = Interest::READABLE;
    if wants_room { input.add(Interest::WRITABLE) } else { input }
}

/// The end of a waker that stands in the loop.
#[derive(Debug)]
pub(crate) struct WakeSource(UnixStream);

impl WakeSource {
    /// Takes back what wakers wrote.
    pub(crate) fn drain(&mut self) {
        let mut scrap = [0; 64];
        while matches!(self.0.read(&mut scrap), Ok(1..)) {}
    }
}

impl AsFd for WakeSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The end of a waker that any thread may hold.
#[derive(Debug)]
pub(crate) struct WakeHandle(UnixStream);

impl WakeHandle {
    /// Makes the loop wake up.
    pub(crate) fn wake(&self) -> io::Result<()> {
        match sys::send(&self.0, &[1]) {
            // It is full of wake-ups already.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result.map(drop),
        }
    }
}

/// A waker's two ends. It is a source of its own because a `Poll` that a host lends may have a waker already.
pub(crate) fn wake_pair() -> io::Result<(WakeSource, WakeHandle)> {
    let (source, handle) = UnixStream::pair()?;
    sys::take_over(&source)?;
    sys::take_over(&handle)?;
    Ok((WakeSource(source), WakeHandle(handle)))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::timer::Timer;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod timer {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::time::Duration;

    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

    /// A timer in the event queue: it makes the queue's own descriptor readable when it expires.
    #[derive(Debug)]
    pub(crate) struct Timer(TimerFd);

    impl Timer {
        pub(crate) fn new() -> io::Result<Self> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            Ok(Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
        }

        /// Expires once, `timeout` from now; `None` for never.
        pub(crate) fn set(&mut self, timeout: Option<Duration>) -> io::Result<()> {
            match timeout {
                None => self.0.unset()?,
                Some(timeout) => {
                    // Zero would switch it off.
                    let timeout = TimeSpec::from(timeout.max(Duration::from_nanos(1)));
                    self.0.set(Expiration::OneShot(timeout), TimerSetTimeFlags::empty())?;
                }
            }
            Ok(())
        }
    }

    impl AsFd for Timer {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}
