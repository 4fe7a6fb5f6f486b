//! A descriptor that is written to without waiting.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::tcgetsid;
use nix::unistd::{getsid, write};

/// The most bytes of one write to a pipe or terminal: a pipe takes that many completely or not at all.
const CHUNK: usize = nix::libc::PIPE_BUF;

/// The most bytes of one write to a file or socket.
const BIG_CHUNK: usize = 65_536;

/// A terminal that reports room takes at least this much, even when each byte becomes two.
const SMALL_CHUNK: usize = 16;

/// A descriptor that is written to without waiting.
///
/// `O_NONBLOCK` is a flag of the open file. A shell or another program may share that file and not expect the
/// flag, so this process never sets it on a descriptor that it was given. It opens pipes and terminals a
/// second time instead.
pub(crate) struct Sink {
    fd: Target,
    how: How,
}

/// Where the bytes go.
pub(crate) enum Target {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    Own(OwnedFd),
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(stdout) => stdout.as_fd(),
            Self::Stderr(stderr) => stderr.as_fd(),
            Self::Own(fd) => fd.as_fd(),
        }
    }
}

/// What keeps a write from waiting; the number is the most bytes of one write.
#[derive(Clone, Copy)]
enum How {
    /// The descriptor itself does not wait.
    Plain(usize),
    /// A flag of each call says not to wait.
    Socket,
    /// The target could not be opened a second time: each write is preceded by `poll`, and is small enough to
    /// fit.
    Polled(usize),
}

impl Sink {
    pub(crate) fn of(fd: Target) -> Self {
        let kind = fstat(&fd).map_or(SFlag::empty(), |facts| SFlag::from_bits_truncate(facts.st_mode));
        let kind = kind & SFlag::S_IFMT;
        let is_terminal = fd.as_fd().is_terminal();
        match kind {
            SFlag::S_IFREG => Self { fd, how: How::Plain(BIG_CHUNK) },
            SFlag::S_IFSOCK => Self { fd, how: How::Socket },
            SFlag::S_IFIFO => Self::reopened(fd, false, CHUNK),
            _ if is_terminal => Self::reopened(fd, true, SMALL_CHUNK),
            _ => Self { fd, how: How::Polled(CHUNK) },
        }
    }

    /// Opens `fd` a second time; if that fails, at most `polled` bytes are written at once.
    fn reopened(fd: Target, is_terminal: bool, polled: usize) -> Self {
        match reopen(fd.as_fd(), is_terminal) {
            Some(own) => Self { fd: Target::Own(own), how: How::Plain(CHUNK) },
            None => Self { fd, how: How::Polled(polled) },
        }
    }

    /// Writes some of `lines`, whole ones if that is possible; `WouldBlock` if there is no room.
    pub(crate) fn write(&self, lines: &[u8]) -> io::Result<usize> {
        let most = match self.how {
            How::Plain(most) | How::Polled(most) => most,
            How::Socket => BIG_CHUNK,
        };
        let mut bytes = lines.get(..most).unwrap_or(lines);
        if bytes.len() < lines.len()
            && let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n')
        {
            bytes = bytes.get(..=end).unwrap_or(bytes);
        }
        let written = match self.how {
            How::Plain(_) => write(&self.fd, bytes),
            // Every Rust program ignores SIGPIPE.
            How::Socket => send(self.fd.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT),
            How::Polled(_) => {
                let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::ZERO) {
                    Ok(0) => Err(Errno::EAGAIN),
                    Ok(_) => write(&self.fd, bytes),
                    Err(errno) => Err(errno),
                }
            }
        };
        Ok(written?)
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The same pipe or terminal as another open file, which does not wait; `None` if that is forbidden or
/// impossible.
fn reopen(fd: BorrowedFd<'_>, is_terminal: bool) -> Option<OwnedFd> {
    let mode = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).ok()?) & OFlag::O_ACCMODE;
    if mode == OFlag::O_RDONLY {
        return None;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = open(path.as_str(), flags, Mode::empty()).ok();
    opened.or_else(|| {
        // A terminal can belong to another user, as after `su`. If it is our controlling terminal, `/dev/tty`
        // opens it.
        let is_ours = is_terminal && matches!((tcgetsid(fd), getsid(None)), (Ok(a), Ok(b)) if a == b);
        is_ours.then(|| open("/dev/tty", flags, Mode::empty()).ok())?
    })
}
