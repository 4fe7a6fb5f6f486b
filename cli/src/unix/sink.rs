//! A descriptor that is written to without waiting.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::tcgetsid;
use nix::unistd::{getsid, write};

use super::waiting::{got, poll_for};

/// The most bytes of one write to a pipe or terminal: a pipe takes that many completely or not at all.
const CHUNK: usize = nix::libc::PIPE_BUF;

/// The most bytes of one write to a file or socket.
const BIG_CHUNK: usize = 65_536;

/// A terminal that reports room takes at least this much, even when each byte becomes two.
const SMALL_CHUNK: usize = 16;

/// How long to wait for a sink that reported room and took nothing: another process writes to the same
/// terminal.
const PAUSE: Duration = Duration::from_millis(20);

/// What `poll` reports, asked for or not, when the other end is gone.
const CLOSED: PollFlags = PollFlags::POLLERR.union(PollFlags::POLLHUP).union(PollFlags::POLLNVAL);

/// A descriptor that is written to without waiting.
///
/// `O_NONBLOCK` is a flag of the open file. A shell or another program may share that file and not expect the
/// flag, so this process never sets it on a descriptor that it was given. It opens pipes and terminals a
/// second time instead.
pub(crate) struct Sink {
    fd: Target,
    how: How,
    room: Room,
}

/// Where the bytes go.
enum Target {
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

/// Whether a write makes sense.
#[derive(Clone, Copy)]
enum Room {
    Unknown,
    /// The last write found none; `poll` will report it.
    None,
    /// `poll` reported some.
    Reported,
    /// `poll` reported some and the write found none: the next try is not before this time.
    NotBefore(Instant),
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self::of(Target::Stdout(io::stdout()))
    }

    pub(crate) fn stderr() -> Self {
        Self::of(Target::Stderr(io::stderr()))
    }

    /// The standard input of a command.
    pub(crate) fn command(stdin: ChildStdin) -> Self {
        Self::of(Target::Own(stdin.into()))
    }

    fn of(fd: Target) -> Self {
        let kind = fstat(&fd).map_or(SFlag::empty(), |facts| SFlag::from_bits_truncate(facts.st_mode));
        let is_terminal = fd.as_fd().is_terminal();
        let (fd, how) = match kind & SFlag::S_IFMT {
            SFlag::S_IFREG => (fd, How::Plain(BIG_CHUNK)),
            SFlag::S_IFSOCK => (fd, How::Socket),
            SFlag::S_IFIFO => reopened(fd, false, CHUNK),
            _ if is_terminal => reopened(fd, true, SMALL_CHUNK),
            _ => (fd, How::Polled(CHUNK)),
        };
        Self { fd, how, room: Room::Unknown }
    }

    /// Writes some of `lines`, whole ones if that is possible; `WouldBlock` if there is no room. Then the
    /// next call has to begin with the same bytes.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match self.room {
            Room::None => return Err(io::ErrorKind::WouldBlock.into()),
            Room::NotBefore(time) if Instant::now() < time => return Err(io::ErrorKind::WouldBlock.into()),
            _ => {}
        }
        match self.try_write(lines) {
            Ok(n) if n > 0 => {
                self.room = Room::Unknown;
                Ok(n)
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(_) | Err(_) => {
                self.room = match self.room {
                    Room::Reported => Room::NotBefore(Instant::now() + PAUSE),
                    _ => Room::None,
                };
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn try_write(&self, lines: &[u8]) -> io::Result<usize> {
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

    /// Whether a wait can tell when there is room.
    pub(crate) fn reports_room(&self) -> bool {
        !matches!(self.room, Room::NotBefore(_))
    }

    /// The longest time to wait before the next try, if a wait cannot tell when there is room.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self.room {
            Room::NotBefore(time) => Some(time.saturating_duration_since(Instant::now())),
            _ => None,
        }
    }

    /// Waits for room, for at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = [timeout, self.retry_after()].into_iter().flatten().min();
        let mut fds = [self.watch(self.reports_room())];
        poll_for(&mut fds, timeout)?;
        let [got] = fds.map(|fd| got(&fd));
        self.polled(got);
        Ok(())
    }

    /// What to poll for: room if it is wanted, and always the end of the reader.
    pub(super) fn watch(&self, wants_room: bool) -> PollFd<'_> {
        let events = if wants_room { PollFlags::POLLOUT } else { PollFlags::empty() };
        PollFd::new(self.fd.as_fd(), events)
    }

    /// Takes what `poll` reported; whether the reader is gone.
    pub(super) fn polled(&mut self, got: PollFlags) -> bool {
        if !got.is_empty() {
            self.room_found();
        }
        got.intersects(CLOSED)
    }

    /// A wait has found room.
    pub(crate) fn room_found(&mut self) {
        self.room = Room::Reported;
    }
}

/// Opens `fd` a second time; if that fails, at most `polled` bytes are written at once.
fn reopened(fd: Target, is_terminal: bool, polled: usize) -> (Target, How) {
    match reopen(fd.as_fd(), is_terminal) {
        Some(own) => (Target::Own(own), How::Plain(CHUNK)),
        None => (fd, How::Polled(polled)),
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
