//! The end by a signal: what is known so far is said first, and the parent process sees that it was a signal.

use std::io;
use std::os::fd::AsFd;
use std::process::{self, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::emulate_default_handler;

use crate::output;
use crate::waiting::{self, Signals};

/// For the last words; a stdout that takes nothing does not keep the process alive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends this process as `signal` would have done without a handler. A shell ends a loop over commands when one of them
/// dies of SIGINT, and goes on if it exits, with whatever status.
pub(crate) fn end_by(signal: i32) -> ExitCode {
    output::finish_stderr(Instant::now() + LAST_WORDS);
    // It comes back for a signal that ends no process.
    let _ = emulate_default_handler(signal);
    ExitCode::FAILURE
}

/// For the thread that goes on while another has said the last words: it says no more, and does not end the process in
/// another way.
pub(crate) fn wait_for_end() -> ! {
    thread::sleep(2 * LAST_WORDS);
    process::exit(1);
}

/// From now on SIGINT, SIGTERM and SIGHUP have `last_words` said before they end the process.
///
/// That is done in a thread of its own: the others may be waiting for an answer, or for a reader of stdout.
pub(crate) fn say_before_end(last_words: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::of(&[SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().spawn(move || {
        let signal = loop {
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            let waited = waiting::wait(&mut fds, None);
            match signals.take().first() {
                Some(came) => break came.signal,
                None if waited.is_err() => thread::sleep(LAST_WORDS),
                None => {}
            }
        };
        let (told, is_told) = mpsc::channel::<()>();
        let say = move || {
            last_words();
            drop(told);
        };
        if thread::Builder::new().spawn(say).is_ok() {
            let _ = is_told.recv_timeout(LAST_WORDS);
        }
        end_by(signal);
    })?;
    Ok(())
}
