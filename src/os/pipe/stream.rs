//! One connection and what is known of its readiness: the same for a server's clients, the links of an outbox
//! and the blocking client.
//!
//! A pipe has no half-close. Its writer can only close it, and what it has written before can then still be
//! read, if the system has taken all of it. So a stream that is to be shut waits until its last write has
//! finished, and then says that the end has come: its owner closes it.

use std::io::{self, ErrorKind, Read, Write};
#[cfg(feature = "server")]
use std::mem;
use std::time::Duration;

use mio::event::{Event, Source};
use mio::windows::NamedPipe;
use mio::{Interest, Registry, Token};

use crate::os::sys;

/// Bytes of one write at most. mio copies them, and it would take any number at once.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// When to make a write again that was refused for lack of memory: there is none, see
/// [`ReadyStream::lacks_memory`].
pub(crate) const MEMORY_RETRY: Duration = Duration::MAX;

/// What an event queue says of a stream. Only a hint: a read or a write decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
}

impl Readiness {
    /// What `event` says of the stream that it names.
    pub(crate) fn of(event: &Event) -> Self {
        Self { is_readable: event.is_readable(), is_writable: event.is_writable() }
    }
}

/// How far one read or write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes, at least one.
    Moved(usize),
    /// Nothing now; [`ReadyStream::note`] will tell.
    Blocked,
    /// Reading: the peer has sent all that it will send, or the stream was shut and all is written.
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

/// What becomes of bytes to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// The next write may be taken.
    Free,
    /// A write is on its way, and there can be only one.
    Writing,
    /// The last write is on its way.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only a server shuts a stream"))]
    Finishing,
    /// All is written, and nothing more will be.
    Finished,
}

/// A stream that does not block. It remembers what [`note`](Self::note) said until a read or a write says
/// otherwise, so it can be used with an edge-triggered queue.
///
/// It is of no use before a queue watches it, and that queue is its own for ever: the system has no way back.
///
/// Dropping it closes the connection, and the peer can still read what the system has taken from us. What it
/// has not taken, because the peer does not read, is given up: the handle would stay open for as long as the
/// peer likes. The handle is closed when the queue is asked the next time, or dropped.
#[derive(Debug)]
pub(crate) struct ReadyStream {
    pipe: NamedPipe,
    input: Input,
    output: Output,
    /// Bytes of the last write that [`write_through`](Self::write_through) has not told of yet.
    #[cfg(feature = "server")]
    untold: usize,
    /// The event was seen that each stream gets for being watched: it says "writable" and is about no write.
    is_announced: bool,
}

impl ReadyStream {
    /// Takes over a connection. It may be written until a write says otherwise.
    pub(crate) fn new(pipe: NamedPipe) -> Self {
        Self {
            pipe,
            input: Input::Blocked,
            output: Output::Free,
            #[cfg(feature = "server")]
            untold: 0,
            is_announced: false,
        }
    }

    /// Has a queue report the readiness with `token`, until the stream is closed.
    pub(crate) fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.pipe.register(registry, token, interest) {
            // By the listener that it comes from, or in another queue, which is an error once more.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.pipe.reregister(registry, token, interest)
            }
            registered => registered,
        }
    }

    /// Remembers what the queue says of it.
    ///
    /// What arrives between that and the read causes an event of its own, so nothing is lost between the two.
    pub(crate) fn note(&mut self, told: Readiness) {
        if told.is_readable && self.input == Input::Blocked {
            self.input = Input::Ready;
        }
        if told.is_writable && !self.is_announced {
            self.is_announced = true;
        } else if told.is_writable {
            self.output = match self.output {
                Output::Free | Output::Writing => Output::Free,
                Output::Finishing | Output::Finished => Output::Finished,
            };
        }
    }

    /// Whether a read may find something.
    pub(crate) fn is_readable(&self) -> bool {
        match self.input {
            Input::Blocked => self.output == Output::Finished,
            Input::Ready => true,
            Input::Ended => false,
        }
    }

    /// Whether the last write is to be made again without an event: here an event tells of each write.
    pub(crate) fn lacks_memory(&self) -> bool {
        false
    }

    /// Whether a write may take something.
    pub(crate) fn is_writable(&self) -> bool {
        self.output == Output::Free
    }

    /// One read into `space`, which must not be empty. Afterwards the stream is readable only if more may be
    /// left: a short read proves nothing.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Progress {
        debug_assert!(!space.is_empty(), "a read into no space looks like the end");
        if self.output == Output::Finished {
            self.input = Input::Ended;
            return Progress::End;
        }
        let mut read = self.pipe.read(space);
        if matches!(read, Ok(0)) {
            // A peer can write nothing, which looks the same. Only after the end the next read is refused at
            // once.
            read = self.pipe.read(space);
        }
        let (input, progress) = match read {
            Ok(0) => (Input::Ended, Progress::End),
            Ok(n) => (Input::Ready, Progress::Moved(n)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (Input::Blocked, Progress::Blocked),
            Err(_) => (Input::Ended, Progress::Gone),
        };
        self.input = input;
        progress
    }

    /// One write. What it takes is on its way, and the stream is writable again when the system has taken all
    /// of it.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Progress {
        debug_assert!(!bytes.is_empty(), "a write of nothing reaches the peer, and may look like the end");
        debug_assert!(
            matches!(self.output, Output::Free | Output::Writing),
            "nothing is written after the end"
        );
        let bytes = bytes.get(..WRITE_BYTES_MAX).unwrap_or(bytes);
        match self.pipe.write(bytes) {
            Ok(n) => {
                self.output = Output::Writing;
                Progress::Moved(n)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.output = Output::Writing;
                Progress::Blocked
            }
            Err(_) => Progress::Gone,
        }
    }

    /// As [`write`](Self::write), and counts only what the system has taken: the first call blocks, and the
    /// next one, with the same bytes, says how many of them were written.
    #[cfg(feature = "server")]
    pub(crate) fn write_through(&mut self, bytes: &[u8]) -> Progress {
        debug_assert!(self.is_writable(), "the system has not taken the last write");
        match mem::take(&mut self.untold) {
            0 => match self.write(bytes) {
                Progress::Moved(n) => {
                    self.untold = n;
                    Progress::Blocked
                }
                progress => progress,
            },
            n => Progress::Moved(n),
        }
    }

    /// Nothing more will be written. When the last write has finished the stream can be read, and says
    /// [`Progress::End`]: then it is to be closed, which is how the peer learns of it.
    #[cfg(feature = "server")]
    pub(crate) fn shut_write(&mut self) {
        self.output = match self.output {
            Output::Free | Output::Finished => Output::Finished,
            Output::Writing | Output::Finishing => Output::Finishing,
        };
    }

    /// Closes the connection so that the peer can still read what it was sent.
    pub(crate) fn close(self) {
        drop(self);
    }
}

impl Drop for ReadyStream {
    fn drop(&mut self) {
        if matches!(self.output, Output::Writing | Output::Finishing) {
            // What the system has taken already stays taken.
            sys::cancel(&self.pipe);
        }
    }
}
