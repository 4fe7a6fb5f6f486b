//! Signals, as something to wait for.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc::SIGXFSZ;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
};
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use signal_hook::low_level::emulate_default_handler;
use udsmsg::{Error, ErrorKind};

use super::waiting::poll_for;

/// The pause after a wait that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What was asked of this process from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Came {
    Stop(Stop),
    /// Print the messages that are in the inbox.
    PrintNow,
    /// Print the counters of the server.
    Summary,
}

/// The signal that asks this process to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop(Received);

impl Stop {
    /// Whether it was meant for a whole job, as a key of a terminal is: then this process ends by it. A shell
    /// that runs this command in a loop leaves the loop only if the signal ended the command. A process that
    /// sends a signal asks for a stop, and the exit status says how that went.
    pub(crate) fn is_for_job(self) -> bool {
        self.0.is_from_terminal
    }

    /// Ends this process as the signal would have done without a handler. It returns only for a signal that
    /// ends no process.
    pub(crate) fn end_process(self) {
        end_by(self.0.signal);
    }
}

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) signal: i32,
    /// A terminal sent it, to its whole foreground group. Known on Linux only; elsewhere this is false.
    pub(super) is_from_terminal: bool,
}

/// Signals, as something to wait for. While this exists, they do not end the process.
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    /// Set after a signal is stored, so that none is missed.
    has_come: Arc<AtomicBool>,
}

impl Signals {
    /// Those that stop a command that asks others.
    pub(crate) fn of_client() -> Result<Self, Error> {
        Self::of(&[SIGTERM, SIGINT, SIGHUP])
    }

    /// Those of the owner of an inbox.
    pub(crate) fn of_server() -> Result<Self, Error> {
        Self::of(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
    }

    /// Those that a command gets from the process that started it: all that would end this process and that
    /// other processes send; and the one that says that the command has ended.
    pub(crate) fn of_parent() -> Result<Self, Error> {
        Self::of(&[
            SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGCHLD,
        ])
    }

    /// All of `signals`, except those of a terminal that were ignored when this process was started: `nohup`
    /// and shells ignore them to keep them from this process, and from what it starts.
    fn of(signals: &[i32]) -> Result<Self, Error> {
        Self::register(signals)
            .map_err(|why| Error::new(ErrorKind::Io, format!("cannot handle signals: {why}")))
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

    /// What came since the last call. No system call if there is nothing.
    pub(crate) fn take(&mut self) -> Vec<Came> {
        let meaning = |received: Received| match received.signal {
            SIGUSR1 => Came::PrintNow,
            SIGUSR2 => Came::Summary,
            _ => Came::Stop(Stop(received)),
        };
        self.take_received().into_iter().map(meaning).collect()
    }

    /// The first of what came that asks for a stop.
    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.take().into_iter().find_map(|came| if let Came::Stop(stop) = came { Some(stop) } else { None })
    }

    /// The signals that came since the last call.
    pub(super) fn take_received(&mut self) -> Vec<Received> {
        if !self.has_come.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        let is_from_terminal = |code: i32| cfg!(any(target_os = "linux", target_os = "android")) && code > 0;
        self.delivery
            .pending()
            .map(|info| Received { signal: info.si_signo, is_from_terminal: is_from_terminal(info.si_code) })
            .collect()
    }

    /// Waits until a stop is asked for.
    pub(crate) fn wait_for_stop(&mut self) -> Stop {
        loop {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            let waited = poll_for(&mut fds, None);
            match self.take_stop() {
                Some(stop) => return stop,
                None if waited.is_err() => thread::sleep(PAUSE),
                None => {}
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// Ends this process as `signal` would have done without a handler; returns if it ends no process.
pub(super) fn end_by(signal: i32) {
    let _ = emulate_default_handler(signal);
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
pub(crate) fn prepare_process() {
    if !ignored_signals().contains(SIGXFSZ) {
        // If this fails, the signal ends the process, which is no reason not to start.
        let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    }
}
