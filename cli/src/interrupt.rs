//! The end by a signal: the command first prints what it knows, and its parent process sees that it was a
//! signal.

use std::os::fd::AsFd;
use std::process::{self, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::emulate_default_handler;
use udsmsg::Error;

use crate::complaints;
use crate::waiting::{self, Signals};

/// How long the last words may take; a stdout that takes nothing does not keep the process alive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends this process as `signal` would have done without a handler. A shell ends a loop over commands when
/// SIGINT ends one of them, and goes on if that exits, with any status.
pub(crate) fn end_by(signal: i32) -> ExitCode {
    complaints::finish(Instant::now() + LAST_WORDS);
    // It returns only for a signal that ends no process.
    let _ = emulate_default_handler(signal);
    ExitCode::FAILURE
}

/// Locks what a command shares with the thread that prints the last words, also if a thread that held the
/// lock has panicked.
pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for the thread that works. It does not return if the last words are printed: then this thread
/// prints nothing more, and leaves the end of the process to the other.
pub(crate) fn lock_unless<T>(shared: &Mutex<T>, is_printed: impl FnOnce(&T) -> bool) -> MutexGuard<'_, T> {
    let shared = lock(shared);
    if is_printed(&shared) {
        drop(shared);
        thread::sleep(2 * LAST_WORDS);
        process::exit(1);
    }
    shared
}

/// From now on SIGINT, SIGTERM and SIGHUP call `last_words` before they end the process.
///
/// A thread of its own does that, because the others may wait for an answer or for the reader of stdout.
pub(crate) fn say_before_end(last_words: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let mut signals = Signals::of(&[SIGINT, SIGTERM, SIGHUP])?;
    let end = move || {
        let signal = loop {
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let waited = waiting::wait(&mut fds, None);
            match signals.take().first() {
                Some(came) => break came.signal,
                None if waited.is_err() => thread::sleep(LAST_WORDS),
                None => {}
            }
        };
        let (done, is_done) = mpsc::channel::<()>();
        let say = move || {
            last_words();
            drop(done);
        };
        if thread::Builder::new().spawn(say).is_ok() {
            let _ = is_done.recv_timeout(LAST_WORDS);
        }
        end_by(signal);
    };
    thread::Builder::new().spawn(end).map(drop).map_err(waiting::cannot_handle)
}
