//! Unix domain sockets over mio.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use mio::event::{Event, Source};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;

use super::{AcceptError, Progress};
use crate::os::sys;
use crate::proto::peer::PeerIdentity;

/// Reads that [`Stream::close`] makes at most: more than a default receive queue holds.
const CLOSE_READS_MAX: usize = 16;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    /// Another process that holds it too has shut it: accepting fails as if only nobody were waiting.
    is_shut: bool,
}

impl Listener {
    /// Takes over a listener that does not block.
    pub(crate) fn new(listener: std::os::unix::net::UnixListener) -> Self {
        Self { socket: UnixListener::from_std(listener), is_shut: false }
    }

    /// Takes what the kernel says of it. A hint: a host may hand over events of something else.
    pub(crate) fn note_event(&mut self, event: &Event) {
        self.is_shut |= event.is_read_closed() && sys::is_shut_down(&self.socket);
    }

    /// The next connection, with the facts that the kernel vouches for.
    pub(crate) fn accept(&self) -> Result<(Stream, PeerIdentity), AcceptError> {
        let stream = match self.socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                return Err(match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
                    Errno::EAGAIN if self.is_shut => {
                        let what = "the listener was shut down by another process that holds it";
                        AcceptError::Broken(io::Error::new(ErrorKind::NotConnected, what))
                    }
                    Errno::EAGAIN => AcceptError::Blocked,
                    Errno::ECONNABORTED | Errno::EINTR | Errno::EPROTO => AcceptError::Aborted,
                    Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => {
                        AcceptError::NotNow(error)
                    }
                    // A security module or a system call filter. Its rules may change.
                    Errno::EPERM | Errno::EACCES => AcceptError::NotNow(error),
                    _ => AcceptError::Broken(error),
                });
            }
        };
        // One that was waiting when an adopted listener came to us has not inherited it.
        sys::refuse_descriptors(&stream);
        // A peer whose identity the kernel does not tell is a stranger.
        let peer = sys::peer_identity(&stream).map_err(|_| AcceptError::Aborted)?;
        Ok((Stream { socket: stream, reads_on: false }, peer))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: UnixStream,
    /// A short read does not prove that nothing is left: an event said that the peer has finished sending, or that it has
    /// sent urgent data, before which a read ends.
    reads_on: bool,
}

impl Stream {
    /// Takes over a connection that does not block.
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> Self {
        Self { socket: UnixStream::from_std(stream), reads_on: false }
    }

    /// Takes what the kernel says of it: whether there may be something to read.
    ///
    /// What arrives after an event and before the read causes an event of its own, so nothing is lost between the two.
    pub(crate) fn note_event(&mut self, event: &Event) -> bool {
        let has_ended = event.is_read_closed() || event.is_error();
        self.reads_on |= has_ended || event.is_priority();
        event.is_readable() || has_ended
    }

    /// One read into `space`, which must not be empty.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Progress {
        loop {
            return match sys::receive(&self.socket, space) {
                Ok((0, _)) => Progress::End,
                Ok((n, is_cut)) if is_cut || self.reads_on => Progress::Cut(n),
                Ok((n, _)) => Progress::Moved(n),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => Progress::Blocked,
                    ErrorKind::Interrupted => continue,
                    // What came before the reset has been read: the kernel hands it out first.
                    _ => Progress::Gone,
                },
            };
        }
    }

    /// One plain write. Never a signal: the host may have left SIGPIPE at its default.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Progress {
        loop {
            return match sys::send(&self.socket, bytes) {
                Ok(n) => Progress::Moved(n),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => Progress::Blocked,
                    ErrorKind::Interrupted => continue,
                    _ => Progress::Gone,
                },
            };
        }
    }

    /// Tells the peer that nothing more will come; it can go on sending.
    pub(crate) fn shut_write(&self) {
        // It fails only if the peer is gone, which the next read reports.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Closes the connection so that the peer can still read what it was sent.
    ///
    /// Closing a Unix socket with unread bytes in it resets the peer. After both sides are shut nothing more can come
    /// in, so that what is left can be read away first.
    pub(crate) fn close(mut self) {
        if self.socket.shutdown(Shutdown::Both).is_ok() {
            let mut scrap = [0; 16 << 10];
            for _ in 0..CLOSE_READS_MAX {
                if !matches!(self.read(&mut scrap), Progress::Moved(_) | Progress::Cut(_)) {
                    break;
                }
            }
        }
    }
}

/// What a stream is watched for, if that is asked for: urgent data has an event of its own where there is any.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn and_urgent(interest: Interest) -> Interest {
    interest | Interest::PRIORITY
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn and_urgent(interest: Interest) -> Interest {
    interest
}

macro_rules! source {
    ($type:ident, $field:tt, $watched_for:expr) => {
        impl Source for $type {
            fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
                self.$field.register(registry, token, $watched_for(interest))
            }

            fn reregister(
                &mut self,
                registry: &Registry,
                token: Token,
                interest: Interest,
            ) -> io::Result<()> {
                self.$field.reregister(registry, token, $watched_for(interest))
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                self.$field.deregister(registry)
            }
        }
    };
}

source!(Listener, socket, std::convert::identity);
source!(Stream, socket, and_urgent);

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

/// The end of a waker that any thread may hold.
#[derive(Debug)]
pub(crate) struct WakeHandle(std::os::unix::net::UnixStream);

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
    let (source, handle) = std::os::unix::net::UnixStream::pair()?;
    sys::take_over(&source)?;
    sys::take_over(&handle)?;
    Ok((WakeSource(UnixStream::from_std(source)), WakeHandle(handle)))
}

source!(WakeSource, 0, std::convert::identity);

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::timer::Timer;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod timer {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    use mio::event::Source;
    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
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

    impl Source for Timer {
        fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
            SourceFd(&self.0.as_fd().as_raw_fd()).register(registry, token, interest)
        }

        fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
            SourceFd(&self.0.as_fd().as_raw_fd()).reregister(registry, token, interest)
        }

        fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
            SourceFd(&self.0.as_fd().as_raw_fd()).deregister(registry)
        }
    }
}
