//! What a loop waits for beside its sockets: signals, standard input and time.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::SIGXFSZ;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT};
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use udsmsg::os::poll_timeout;
use udsmsg::{Error, ErrorKind};

/// What `poll` reports, asked for or not, when the other end is gone.
pub(crate) const CLOSED: PollFlags = PollFlags::POLLERR.union(PollFlags::POLLHUP).union(PollFlags::POLLNVAL);

/// Signals, as something to wait for. While this exists, they do not end the process.
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    /// Set after a signal is stored, so that none is missed.
    has_come: Arc<AtomicBool>,
}

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    pub(crate) signal: i32,
    /// A terminal sent it, to its whole foreground group. Known on Linux only; elsewhere this is false.
    pub(crate) is_from_terminal: bool,
}

impl Signals {
    /// All of `signals`, except those of a terminal that were ignored when this process was started: `nohup`
    /// and shells ignore them to keep them from this process, and from what it starts.
    pub(crate) fn of(signals: &[i32]) -> Result<Self, Error> {
        Self::register(signals).map_err(cannot_handle)
    }

    fn register(signals: &[i32]) -> io::Result<Self> {
        let ignored = ignored_signals();
        let stays_ignored =
            |signal: i32| [SIGHUP, SIGINT, SIGQUIT].contains(&signal) && ignored.contains(signal);
        let wanted: Vec<i32> = signals.iter().copied().filter(|signal| !stays_ignored(*signal)).collect();
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, WithRawSiginfo, &wanted)?;
        // True from the start, because a signal may come before the flag is registered.
        let has_come = Arc::new(AtomicBool::new(true));
        for signal in &wanted {
            flag::register(*signal, Arc::clone(&has_come))?;
        }
        // The process that started this one may have blocked them, and that is inherited.
        let mut unblocked = SigSet::empty();
        for signal in wanted {
            unblocked.add(Signal::try_from(signal)?);
        }
        unblocked.thread_unblock()?;
        Ok(Self { delivery, has_come })
    }

    /// The signals that came since the last call. No system call if there are none.
    pub(crate) fn take(&mut self) -> Vec<Came> {
        if !self.has_come.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        let is_from_terminal = |code: i32| cfg!(any(target_os = "linux", target_os = "android")) && code > 0;
        self.delivery
            .pending()
            .map(|info| Came { signal: info.si_signo, is_from_terminal: is_from_terminal(info.si_code) })
            .collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// The error of a command that cannot handle signals.
pub(crate) fn cannot_handle(why: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot handle signals: {why}"))
}

/// The signals that this process ignores, one bit each.
struct Ignored(u64);

impl Ignored {
    fn contains(&self, signal: i32) -> bool {
        self.0.checked_shr(signal.cast_unsigned().wrapping_sub(1)).is_some_and(|bits| bits & 1 != 0)
    }
}

/// Empty where the system does not say.
fn ignored_signals() -> Ignored {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    Ignored(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
}

/// Makes a write beyond the file size limit an error instead of the end of the process. A command that is
/// started gets the default back.
pub(crate) fn handle_file_size_limit() {
    if !ignored_signals().contains(SIGXFSZ) {
        // If this fails, the signal ends the process, which is no reason not to start.
        let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    }
}

/// Standard input, waited for even if another process has set `O_NONBLOCK` on it.
pub(crate) struct Stdin;

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            // Not `io::Stdin`, which reads a descriptor that cannot be read as an empty file.
            match nix::unistd::read(&stdin, buffer) {
                Err(Errno::EAGAIN) => wait(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], None)?,
                Err(Errno::EINTR) => {}
                read => return Ok(read?),
            }
        }
    }
}

/// Waits until one of `fds` is ready, for at most `timeout`. A signal ends it early.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = PollTimeout::try_from(poll_timeout(timeout)).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
