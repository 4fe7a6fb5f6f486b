//! One connection and what is known of its readiness: the same for a server's clients, the links of an outbox
//! and the blocking client.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;

use crate::os::sys;

#[cfg(test)]
mod tests;

/// Reads that [`ReadyStream::close`] makes at most: more than a default receive queue holds.
const CLOSE_READS_MAX: usize = 16;

/// When a write is tried again that the system had no memory for: no event tells when it has.
pub(crate) const MEMORY_RETRY: Duration = Duration::from_millis(10);

/// What an event queue or `poll(2)` says of a stream. Only a hint: a read or a write decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
    /// From now on a short read does not prove that nothing is left: the peer has finished sending, or it has
    /// sent urgent data, before which a read ends.
    pub(crate) reads_on: bool,
}

/// How far one read or write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes, at least one.
    Moved(usize),
    /// Nothing now; [`ReadyStream::note`] will tell, unless the stream [lacks
    /// memory](ReadyStream::lacks_memory).
    Blocked,
    /// Reading: the peer has sent all that it will send.
    End,
    /// The peer is gone: reading, nothing more will come; writing, no process will read it.
    Gone,
}

/// Whether there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// Not now.
    Blocked,
    /// There may be.
    Ready,
    /// There never will be: the end was read.
    Ended,
}

/// Whether bytes can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// Not now: the peer has to read first.
    Blocked,
    /// The system had no memory for the last write.
    NoMemory,
    /// They may be.
    Ready,
}

/// A stream that does not block. It remembers what [`note`](Self::note) said until a read or a write says
/// otherwise, so it can be used with an edge-triggered queue.
#[derive(Debug)]
pub(crate) struct ReadyStream {
    socket: UnixStream,
    input: Input,
    output: Output,
    reads_on: bool,
    /// An event queue reports when it can be written.
    #[cfg(feature = "server")]
    is_watched_for_room: bool,
}

impl ReadyStream {
    /// Takes over a connection that does not block. It may be written until a write says otherwise.
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            input: Input::Blocked,
            output: Output::Ready,
            reads_on: false,
            #[cfg(feature = "server")]
            is_watched_for_room: false,
        }
    }

    /// Remembers what the kernel says of it.
    ///
    /// What arrives between that and the read causes an event of its own, so nothing is lost between the two.
    pub(crate) fn note(&mut self, told: Readiness) {
        if told.is_readable && self.input == Input::Blocked {
            self.input = Input::Ready;
        }
        if told.is_writable && self.output == Output::Blocked {
            self.output = Output::Ready;
        }
        self.reads_on |= told.reads_on;
    }

    /// Whether a read may find something.
    pub(crate) fn is_readable(&self) -> bool {
        self.input == Input::Ready
    }

    /// Whether a write may take something.
    pub(crate) fn is_writable(&self) -> bool {
        self.output != Output::Blocked
    }

    /// Whether the last write is to be tried again after [`MEMORY_RETRY`].
    pub(crate) fn lacks_memory(&self) -> bool {
        self.output == Output::NoMemory
    }

    /// Whether an event queue should report when it can be written, if it does not report that as it should:
    /// only while a write is blocked, because each answer that a peer takes would cause such an event.
    #[cfg(feature = "server")]
    pub(crate) fn wants_other_watch(&self) -> Option<bool> {
        let wants_room = self.output == Output::Blocked;
        (wants_room != self.is_watched_for_room).then_some(wants_room)
    }

    /// From now on an event queue reports when it can be written, or no longer.
    #[cfg(feature = "server")]
    pub(crate) fn watched_for_room(&mut self, is_watched: bool) {
        self.is_watched_for_room = is_watched;
    }

    /// No event will tell when a blocked write can go on: it is tried again after [`MEMORY_RETRY`].
    #[cfg(feature = "server")]
    pub(crate) fn retry_write(&mut self) {
        if self.output == Output::Blocked {
            self.output = Output::NoMemory;
        }
    }

    /// One read into `space`, which must not be empty. Afterwards the stream is readable only if more may be
    /// left.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Progress {
        debug_assert!(!space.is_empty(), "a read into no space looks like the end");
        let (input, progress) = loop {
            break match sys::receive(&self.socket, space) {
                Ok((0, _)) => (Input::Ended, Progress::End),
                Ok((n, is_cut)) if n == space.len() || is_cut || self.reads_on => {
                    (Input::Ready, Progress::Moved(n))
                }
                Ok((n, _)) => (Input::Blocked, Progress::Moved(n)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => (Input::Blocked, Progress::Blocked),
                    ErrorKind::Interrupted => continue,
                    // The kernel hands out what came before a reset first, so all of it has been read.
                    _ => (Input::Ended, Progress::Gone),
                },
            };
        };
        self.input = input;
        progress
    }

    /// One plain write. Never a signal: the host may have left SIGPIPE at its default.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Progress {
        debug_assert!(!bytes.is_empty(), "a write of nothing proves nothing");
        loop {
            let refused = match sys::send(&self.socket, bytes) {
                Ok(n) => {
                    self.output = if n == bytes.len() { Output::Ready } else { Output::Blocked };
                    return Progress::Moved(n);
                }
                Err(error) => sys::errno_of(&error),
            };
            if refused != Errno::EINTR {
                let Some(output) = after_refusal(refused) else { return Progress::Gone };
                self.output = output;
                return Progress::Blocked;
            }
        }
    }

    /// Tells the peer that nothing more will come; it can go on sending.
    #[cfg(feature = "server")]
    pub(crate) fn shut_write(&self) {
        // It fails only if the peer is gone, which the next read reports.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Closes the connection so that the peer can still read what it was sent.
    ///
    /// Closing a Unix socket with unread bytes in it resets the peer. After both sides are shut nothing more
    /// can come in, so that what is left can be read first. After the end was read nothing is left.
    pub(crate) fn close(mut self) {
        if self.input == Input::Ended || self.socket.shutdown(Shutdown::Both).is_err() {
            return;
        }
        let mut scrap = [0; 16 << 10];
        for _ in 0..CLOSE_READS_MAX {
            if !matches!(self.read(&mut scrap), Progress::Moved(_)) {
                break;
            }
        }
    }
}

/// How it stands with the output of a stream after a write was refused; `None` if the peer is gone.
fn after_refusal(errno: Errno) -> Option<Output> {
    match errno {
        Errno::EAGAIN => Some(Output::Blocked),
        errno if sys::is_shortage(errno) => Some(Output::NoMemory),
        _ => None,
    }
}

impl AsFd for ReadyStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
