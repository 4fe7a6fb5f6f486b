//! Output that never waits: a thread writes it.

use std::io::{self, Write};
use std::process::ChildStdin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::waiting::end_wait;

/// The error of a write to a named pipe whose reader is gone (`ERROR_PIPE_NOT_CONNECTED`), which `std` does
/// not call a broken pipe.
const PIPE_NOT_CONNECTED: i32 = 233;

/// The most bytes that are given to the thread at once.
const CHUNK: usize = 65_536;

/// Output that never waits. One chunk of it is on its way at a time.
pub(crate) struct Sink {
    shared: Arc<Shared>,
    /// Where the bytes go, until the first of them come and a thread gets it.
    target: Option<Box<dyn Write + Send>>,
}

/// What the loop and the thread share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Idle,
    /// For the thread to take.
    Given(Vec<u8>),
    /// The thread writes.
    Taken,
    /// What became of the bytes that were given last.
    Done(io::Result<usize>),
    /// No more bytes come.
    Over,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_all();
    }

    /// Writes what is given, until no more comes.
    fn write_to(&self, mut target: Box<dyn Write + Send>) {
        loop {
            let mut state = self.lock();
            let bytes = loop {
                match std::mem::replace(&mut *state, State::Taken) {
                    State::Given(bytes) => break bytes,
                    State::Over => return,
                    other => *state = other,
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let written = target.write_all(&bytes).and_then(|()| target.flush()).map_err(|error| {
                let is_closed = error.raw_os_error() == Some(PIPE_NOT_CONNECTED);
                if is_closed { io::ErrorKind::BrokenPipe.into() } else { error }
            });
            let mut state = self.lock();
            if matches!(*state, State::Taken) {
                *state = State::Done(written.map(|()| bytes.len()));
            }
            drop(state);
            self.changed.notify_all();
            end_wait();
        }
    }
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self::of(io::stdout())
    }

    pub(crate) fn stderr() -> Self {
        Self::of(io::stderr())
    }

    /// The standard input of a command.
    pub(crate) fn command(stdin: ChildStdin) -> Self {
        Self::of(stdin)
    }

    fn of(target: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared { state: Mutex::new(State::Idle), changed: Condvar::new() });
        Self { shared, target: Some(Box::new(target)) }
    }

    /// Writes some of `lines`, whole ones if that is possible; `WouldBlock` until the thread has written
    /// them. Then the next call has to begin with the same bytes.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if let Some(target) = self.target.take() {
            let shared = Arc::clone(&self.shared);
            thread::Builder::new().spawn(move || shared.write_to(target))?;
        }
        let mut state = self.shared.lock();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Done(written) => return written,
            State::Idle => {
                let mut bytes = lines.get(..CHUNK).unwrap_or(lines);
                if bytes.len() < lines.len()
                    && let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n')
                {
                    bytes = bytes.get(..=end).unwrap_or(bytes);
                }
                *state = State::Given(bytes.to_vec());
                self.shared.changed.notify_all();
            }
            other => *state = other,
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether a write need not wait for the one before.
    pub(super) fn has_room(&self) -> bool {
        matches!(*self.shared.lock(), State::Idle | State::Done(_))
    }

    /// Whether a wait can tell when there is room.
    pub(crate) fn reports_room(&self) -> bool {
        true
    }

    /// The longest time to wait before the next try, if a wait cannot tell when there is room.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Waits for room, for at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let state = self.shared.lock();
        let is_waiting = |state: &mut State| matches!(state, State::Given(_) | State::Taken);
        match timeout {
            Some(timeout) => drop(self.shared.changed.wait_timeout_while(state, timeout, is_waiting)),
            None => drop(self.shared.changed.wait_while(state, is_waiting)),
        }
        Ok(())
    }

    /// A wait has found room: the next write finds out.
    pub(crate) fn room_found(&mut self) {}
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.set(State::Over);
    }
}
