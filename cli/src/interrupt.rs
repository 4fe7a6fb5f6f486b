//! The end by a signal: the command first prints what it knows, and its parent process sees that it was a
//! signal.

use std::process::{self, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use udsmsg::{Error, ErrorKind};

use crate::complaints;
use crate::platform::{self, Alarm, Signals, Stop};

/// How long the last words may take; a stdout that takes nothing does not keep the process alive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends this process as `stop` would have done without a handler. A shell ends a loop over commands when a
/// key of its terminal ends one of them, and goes on if that exits, with any status.
pub(crate) fn end_by(stop: Stop) -> ExitCode {
    complaints::finish(Instant::now() + LAST_WORDS);
    stop.end_process();
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

/// From now on what asks for a stop sets off the alarm returned, and calls `last_words` before it ends the
/// process.
///
/// A thread of its own does that, because the others may wait for an answer or for the reader of stdout.
pub(crate) fn say_before_end(last_words: impl FnOnce() + Send + 'static) -> Result<Alarm, Error> {
    let mut signals = Signals::of_client()?;
    let cannot_handle = |why| Error::new(ErrorKind::Io, format!("cannot handle signals: {why}"));
    let (alarm, bell) = platform::alarm().map_err(cannot_handle)?;
    let end = move || {
        let stop = signals.wait_for_stop();
        // Wakes the thread that works: it may hold a lock that the last words need while it waits.
        drop(bell);
        let (done, is_done) = mpsc::channel::<()>();
        let say = move || {
            last_words();
            drop(done);
        };
        if thread::Builder::new().spawn(say).is_ok() {
            let _ = is_done.recv_timeout(LAST_WORDS);
        }
        end_by(stop);
    };
    thread::Builder::new().spawn(end).map_err(cannot_handle)?;
    Ok(alarm)
}
