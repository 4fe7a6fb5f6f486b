//! What a loop waits for: a server, signals, standard input, readers of its output, time.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use udsmsg::Server;
use udsmsg::os::poll_timeout;

use super::signals::Signals;
use super::sink::Sink;

/// What a loop waits for beside time and room for its output.
pub(crate) enum Source<'a> {
    Server(&'a mut Server),
    Signals(&'a Signals),
    Stdin,
    Alarm(&'a Alarm),
}

/// Output that a loop waits for.
pub(crate) struct Output<'a> {
    pub(crate) sink: &'a mut Sink,
    /// If not, only the end of the reader is waited for.
    pub(crate) wants_room: bool,
}

/// What a wait has found.
#[derive(Default)]
pub(crate) struct Woken {
    /// The name or the capability file of the server was found to be gone, in a turn that was the wait. Never
    /// seen here: a wait is no turn.
    pub(crate) name_lost: bool,
    pub(crate) has_input: bool,
    /// The reader of the output is gone.
    pub(crate) is_closed: bool,
    pub(crate) stderr_has_room: bool,
}

/// Waits until one of `sources` is ready, `output` has room or no reader any more, or stderr has room if
/// that is wanted; for at most `timeout`. A signal ends it early.
pub(crate) fn wait(
    sources: &mut [Source<'_>],
    output: Option<Output<'_>>,
    stderr_wants_room: bool,
    timeout: Option<Duration>,
) -> io::Result<Woken> {
    let (stdin, stderr) = (io::stdin(), io::stderr());
    let mut timeout = timeout;
    let mut fds = Vec::with_capacity(sources.len() + 2);
    let mut stdin_at = None;
    for source in sources {
        let fd = match source {
            Source::Server(server) => {
                timeout = [timeout, server.next_timeout()].into_iter().flatten().min();
                server.event_queue().ok_or(io::ErrorKind::Unsupported)?
            }
            Source::Signals(signals) => AsFd::as_fd(*signals),
            Source::Alarm(alarm) => alarm.0.as_fd(),
            Source::Stdin => {
                stdin_at = Some(fds.len());
                stdin.as_fd()
            }
        };
        fds.push(PollFd::new(fd, PollFlags::POLLIN));
    }
    let stderr_at = stderr_wants_room.then_some(fds.len());
    fds.extend(stderr_wants_room.then(|| PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)));
    let output_at = fds.len();
    fds.extend(output.as_ref().map(|output| output.sink.watch(output.wants_room)));
    poll_for(&mut fds, timeout)?;
    let got: Vec<PollFlags> = fds.iter().map(got).collect();
    let is_ready = |at: Option<usize>| at.and_then(|at| got.get(at)).is_some_and(|got| !got.is_empty());
    let mut woken =
        Woken { has_input: is_ready(stdin_at), stderr_has_room: is_ready(stderr_at), ..Woken::default() };
    if let (Some(output), Some(got)) = (output, got.get(output_at)) {
        woken.is_closed = output.sink.polled(*got);
    }
    Ok(woken)
}

/// What `poll` reported.
pub(super) fn got(fd: &PollFd<'_>) -> PollFlags {
    fd.revents().unwrap_or(PollFlags::empty())
}

/// Waits until one of `fds` is ready, for at most `timeout`. A signal ends it early.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = PollTimeout::try_from(poll_timeout(timeout)).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Something that another thread sets off, and that a wait ends for from then on.
pub(crate) struct Alarm(UnixStream);

/// Sets off the alarm when it is dropped.
pub(crate) struct Bell {
    _end: UnixStream,
}

/// An alarm, and what sets it off.
pub(crate) fn alarm() -> io::Result<(Alarm, Bell)> {
    let (alarm, end) = UnixStream::pair()?;
    Ok((Alarm(alarm), Bell { _end: end }))
}

/// Standard input, waited for even if another process has set `O_NONBLOCK` on it.
pub(crate) struct Stdin;

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            // Not `io::Stdin`, which reads a descriptor that cannot be read as an empty file.
            match nix::unistd::read(&stdin, buffer) {
                Err(Errno::EAGAIN) => poll_for(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], None)?,
                Err(Errno::EINTR) => {}
                read => return Ok(read?),
            }
        }
    }
}
