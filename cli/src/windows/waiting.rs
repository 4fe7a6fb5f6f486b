//! What a loop waits for. Consoles and anonymous pipes cannot be polled here: threads read and write them,
//! and end the wait of the loop.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use udsmsg::{Server, Waker};

use super::signals::Signals;
use super::sink::Sink;

/// The most bytes of standard input that are read ahead.
const CHUNK: usize = 65_536;

/// What a loop waits for beside time and room for its output.
pub(crate) enum Source<'a> {
    /// The wait is a turn of it.
    Server(&'a mut Server),
    Signals(&'a Signals),
    Stdin,
    Alarm(&'a Alarm),
}

/// Output that a loop waits for.
pub(crate) struct Output<'a> {
    pub(crate) sink: &'a mut Sink,
    pub(crate) wants_room: bool,
}

/// What a wait has found.
#[derive(Default)]
pub(crate) struct Woken {
    /// The name or the capability file of the server was found to be gone, in the turn that was the wait.
    pub(crate) name_lost: bool,
    pub(crate) has_input: bool,
    /// The reader of the output is gone. Never seen here: the next write tells.
    pub(crate) is_closed: bool,
    pub(crate) stderr_has_room: bool,
}

/// The wait of the one loop of this process.
struct Wait {
    state: Mutex<WaitState>,
    changed: Condvar,
}

struct WaitState {
    /// Something has changed since the last wait ended.
    is_over: bool,
    /// The server whose turn is the wait.
    server: Option<Waker>,
}

static WAIT: Wait =
    Wait { state: Mutex::new(WaitState { is_over: false, server: None }), changed: Condvar::new() };

impl Wait {
    fn lock(&self) -> MutexGuard<'_, WaitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the current or the next wait of the loop: what it waits for has changed.
pub(super) fn end_wait() {
    let mut state = WAIT.lock();
    state.is_over = true;
    WAIT.changed.notify_all();
    if let Some(server) = &state.server {
        // It fails if the server is gone, and then the loop does not wait for it any more.
        let _ = server.wake();
    }
}

/// Waits until one of `sources` is ready or output has room, for at most `timeout`.
pub(crate) fn wait(
    sources: &mut [Source<'_>],
    output: Option<Output<'_>>,
    stderr_wants_room: bool,
    timeout: Option<Duration>,
) -> io::Result<Woken> {
    let mut server = None;
    let mut reads_stdin = false;
    let mut is_ready = output.is_some_and(|output| output.wants_room && output.sink.has_room());
    for source in sources {
        match source {
            Source::Server(watched) => server = Some(watched),
            Source::Signals(signals) => is_ready |= signals.have_come(),
            Source::Alarm(alarm) => is_ready |= alarm.0.load(Ordering::SeqCst),
            Source::Stdin => {
                reads_stdin = true;
                is_ready |= INPUT.start()?.is_ready();
            }
        }
    }
    let mut woken = Woken::default();
    match server {
        Some(server) => {
            let is_over = {
                let mut state = WAIT.lock();
                state.server = Some(server.waker());
                state.is_over
            };
            let timeout = if is_over || is_ready { Some(Duration::ZERO) } else { timeout };
            woken.name_lost = server.turn(timeout).map_err(io::Error::other)?.name_lost;
        }
        None if is_ready => {}
        None => wait_for_change(timeout),
    }
    WAIT.lock().is_over = false;
    woken.has_input = reads_stdin && INPUT.lock().is_ready();
    woken.stderr_has_room = stderr_wants_room;
    Ok(woken)
}

fn wait_for_change(timeout: Option<Duration>) {
    let state = WAIT.lock();
    let is_waiting = |state: &mut WaitState| !state.is_over;
    match timeout {
        Some(timeout) => drop(WAIT.changed.wait_timeout_while(state, timeout, is_waiting)),
        None => drop(WAIT.changed.wait_while(state, is_waiting)),
    }
}

/// Something that another thread sets off, and that a wait ends for from then on.
pub(crate) struct Alarm(Arc<AtomicBool>);

/// Sets off the alarm when it is dropped.
pub(crate) struct Bell(Arc<AtomicBool>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        end_wait();
    }
}

/// An alarm, and what sets it off.
pub(crate) fn alarm() -> io::Result<(Alarm, Bell)> {
    let is_set = Arc::new(AtomicBool::new(false));
    Ok((Alarm(Arc::clone(&is_set)), Bell(is_set)))
}

/// Standard input, which a thread reads ahead.
struct Input {
    state: Mutex<InputState>,
    changed: Condvar,
}

enum InputState {
    /// No thread reads.
    Unread,
    /// The thread reads.
    Awaited,
    /// What was read, and how much of it was taken.
    Read(Vec<u8>, usize),
    /// The end, or why nothing can be read.
    Over(Option<io::Error>),
}

static INPUT: Input = Input { state: Mutex::new(InputState::Unread), changed: Condvar::new() };

impl InputState {
    /// Whether a read need not wait.
    fn is_ready(&self) -> bool {
        matches!(self, Self::Read(..) | Self::Over(_))
    }
}

impl Input {
    fn lock(&self) -> MutexGuard<'_, InputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, if there is none.
    fn start(&'static self) -> io::Result<MutexGuard<'static, InputState>> {
        let mut state = self.lock();
        if matches!(*state, InputState::Unread) {
            thread::Builder::new().spawn(|| self.read())?;
            *state = InputState::Awaited;
        }
        Ok(state)
    }

    fn wait_while(&self, is_waiting: impl FnMut(&mut InputState) -> bool) -> MutexGuard<'_, InputState> {
        self.changed.wait_while(self.lock(), is_waiting).unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads to the end, one chunk ahead.
    fn read(&self) {
        let mut stdin = io::stdin().lock();
        let mut is_over = false;
        while !is_over {
            drop(self.wait_while(|state| matches!(state, InputState::Read(..))));
            let mut bytes = vec![0; CHUNK];
            let read = stdin.read(&mut bytes);
            *self.lock() = match read {
                Ok(0) => InputState::Over(None),
                Ok(n) => {
                    bytes.truncate(n);
                    InputState::Read(bytes, 0)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => InputState::Over(Some(error)),
            };
            is_over = matches!(*self.lock(), InputState::Over(_));
            self.changed.notify_all();
            end_wait();
        }
    }
}

/// Standard input.
pub(crate) struct Stdin;

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        drop(INPUT.start()?);
        let mut state = INPUT.wait_while(|state| !state.is_ready());
        match &mut *state {
            InputState::Read(bytes, taken) => {
                let n = bytes.get(*taken..).unwrap_or_default().read(buffer)?;
                *taken += n;
                if *taken == bytes.len() {
                    *state = InputState::Awaited;
                    INPUT.changed.notify_all();
                }
                Ok(n)
            }
            InputState::Over(error) => error.take().map_or(Ok(0), Err),
            InputState::Unread | InputState::Awaited => Ok(0),
        }
    }
}
