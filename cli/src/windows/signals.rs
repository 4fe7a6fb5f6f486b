//! What is asked of this process: by the keys and the close of its console, by the end of the session, and
//! by lines on its standard input.

use std::future::poll_fn;
use std::io::{self, BufRead, Read, Write};
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;

use tokio::runtime;
use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
use udsmsg::{Error, ErrorKind};

use super::waiting::end_wait;

/// The exit status of a process that Ctrl-C ends (`STATUS_CONTROL_C_EXIT`). A batch file asks whether to go
/// on after it.
const CONTROL_C_EXIT: i32 = 0xC000_013A_u32.cast_signed();

/// The most bytes of a line on standard input that are looked at.
const LINE_MAX: u64 = 64;

/// What was asked of this process from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Came {
    Stop(Stop),
    /// Print the messages that are in the inbox.
    PrintNow,
    /// Print the counters of the server.
    Summary,
}

/// A key or the close of the console, or the end of the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop;

impl Stop {
    /// Never: a key cannot be told from a program that sends the same event to stop this process, and that
    /// program wants to know how the stop went.
    pub(crate) fn is_for_job(self) -> bool {
        false
    }

    /// Ends this process as the event would have done without a handler.
    pub(crate) fn end_process(self) {
        process::exit(CONTROL_C_EXIT);
    }
}

/// What was asked since it was looked at last.
#[derive(Default)]
struct Asked {
    stop: Option<Stop>,
    print_now: bool,
    summary: bool,
}

/// What was asked, shared with the threads that hear it.
#[derive(Default)]
struct Shared {
    asked: Mutex<Asked>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.lock());
        self.changed.notify_all();
        end_wait();
    }
}

/// What is asked of this process, as something to wait for. Once this exists, no event of the console ends
/// the process: for a close, a logoff and a shutdown the system gives it a few seconds, and then ends it.
pub(crate) struct Signals(Arc<Shared>);

impl Signals {
    /// What stops a command that asks others.
    pub(crate) fn of_client() -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        hear_console(Arc::clone(&shared)).map_err(|why| {
            Error::new(ErrorKind::Io, format!("cannot handle events of the console: {why}"))
        })?;
        Ok(Self(shared))
    }

    /// What is asked of the owner of an inbox: also by a line on standard input.
    pub(crate) fn of_server() -> Result<Self, Error> {
        let signals = Self::of_client()?;
        let shared = Arc::clone(&signals.0);
        thread::Builder::new()
            .spawn(move || hear_stdin(&shared))
            .map_err(|why| Error::new(ErrorKind::Io, format!("cannot read standard input: {why}")))?;
        Ok(signals)
    }

    /// What a command and the process that started it are asked.
    pub(crate) fn of_parent() -> Result<Self, Error> {
        Self::of_client()
    }

    /// What came since the last call.
    pub(crate) fn take(&mut self) -> Vec<Came> {
        let Asked { stop, print_now, summary } = std::mem::take(&mut *self.0.lock());
        let print_now = print_now.then_some(Came::PrintNow);
        let summary = summary.then_some(Came::Summary);
        [print_now, summary, stop.map(Came::Stop)].into_iter().flatten().collect()
    }

    /// What came, if it asks for a stop.
    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.0.lock().stop.take()
    }

    /// Waits until a stop is asked for.
    pub(crate) fn wait_for_stop(&mut self) -> Stop {
        let mut asked = self.0.lock();
        loop {
            if let Some(stop) = asked.stop.take() {
                return stop;
            }
            asked = self.0.changed.wait(asked).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether something has come.
    pub(super) fn have_come(&self) -> bool {
        let asked = self.0.lock();
        asked.stop.is_some() || asked.print_now || asked.summary
    }
}

/// Hears the events of the console, from now on to the end of the process.
fn hear_console(shared: Arc<Shared>) -> io::Result<()> {
    // The handlers of the last three do not return: the process would end at once.
    let (mut c, mut brk) = (ctrl_c()?, ctrl_break()?);
    let (mut close, mut logoff, mut shutdown) = (ctrl_close()?, ctrl_logoff()?, ctrl_shutdown()?);
    let runtime = runtime::Builder::new_current_thread().build()?;
    let hear = move || {
        loop {
            runtime.block_on(poll_fn(|context| {
                let came = [
                    c.poll_recv(context).is_ready(),
                    brk.poll_recv(context).is_ready(),
                    close.poll_recv(context).is_ready(),
                    logoff.poll_recv(context).is_ready(),
                    shutdown.poll_recv(context).is_ready(),
                ];
                if came.contains(&true) { Poll::Ready(()) } else { Poll::Pending }
            }));
            shared.ask(|asked| asked.stop = Some(Stop));
        }
    };
    thread::Builder::new().spawn(hear).map(drop)
}

/// Reads what stands in for the signals of other systems, a word a line, until standard input ends.
fn hear_stdin(shared: &Shared) {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdin.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let is_whole = line.ends_with(b"\n") || line.len() < LINE_MAX as usize;
        if !is_whole && stdin.skip_until(b'\n').is_err() {
            return;
        }
        match line.trim_ascii() {
            b"drain" => shared.ask(|asked| asked.print_now = true),
            b"stats" => shared.ask(|asked| asked.summary = true),
            b"" => {}
            // This thread may wait for the reader of stderr.
            _ => drop(writeln!(io::stderr(), "a line on standard input is neither `drain` nor `stats`")),
        }
    }
}

/// Nothing has to be prepared here.
pub(crate) fn prepare_process() {}
