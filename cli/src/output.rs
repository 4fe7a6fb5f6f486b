//! Where words go: JSON lines or sentences on stdout, complaints on stderr, nothing of a peer's unescaped on a terminal.
//!
//! No write here waits for a reader unless the caller asks for that: [`Lines`] keep what a slow terminal, pipe or socket
//! does not take yet, and the loop goes on.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{ChildStdin, ExitCode};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::tcgetsid;
use nix::unistd::{getsid, write};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::waiting::{self, CLOSED};

/// Whom we print for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Machines: one JSON object per line.
    Json,
    /// People.
    Text,
}

impl Style {
    /// JSON if it was asked for or stdout is no terminal.
    pub(crate) fn of_stdout(asked_for_json: bool) -> Self {
        if asked_for_json || !io::stdout().is_terminal() { Self::Json } else { Self::Text }
    }
}

/// Prints one line on stdout, and waits until it is taken: for commands without a loop.
///
/// # Errors
///
/// What stdout says, in a sentence.
pub(crate) fn say(style: Style, line: &dyn fmt::Display) -> io::Result<()> {
    let mut lines = Lines::to_stdout();
    match style {
        Style::Json => lines.push(format_args!("{}", Json(line))),
        Style::Text => lines.push(format_args!("{}", Escaped(&line.to_string()))),
    }
    lines.flush_until(None).map(drop)
}

/// Prints many lines that are fit to be printed, as [`say`] does one.
///
/// # Errors
///
/// What stdout says, in a sentence.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut lines = Lines::to_stdout();
    lines.push_part(format_args!("{text}"));
    lines.flush_until(None).map(drop)
}

/// The exit status of a command whose output was printed, or was not, which is said. A reader that has closed its pipe
/// knows that it does not get the rest.
pub(crate) fn status_of(printed: io::Result<()>) -> ExitCode {
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                complain(&error);
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether a terminal might obey `c` or hide text with it: categories Cc, Cf, Zl and Zp.
fn is_control_or_format(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Text of a stranger, with everything that a terminal might obey made visible.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_control_or_format(c) {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// Valid JSON on one line, whose value stays the same: control characters are written as JSON escapes, and carriage returns,
/// which can only be white space there, as spaces. On a terminal that includes every format character.
pub(crate) struct Json<T: fmt::Display>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Write::write_fmt(&mut JsonWriter(f), format_args!("{}", self.0))
    }
}

static STDOUT_IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());

struct JsonWriter<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl JsonWriter<'_, '_> {
    fn must_be_escaped(c: char) -> bool {
        match c {
            ' '..='~' | '\t' => false,
            '\0'..='\u{9f}' => true,
            _ => *STDOUT_IS_TERMINAL && is_control_or_format(c),
        }
    }
}

impl fmt::Write for JsonWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(Self::must_be_escaped) {
            let (plain, after) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = after.chars();
            match chars.next() {
                // Outside of a string, where an escape would not be JSON.
                Some('\r' | '\n') => self.0.write_str(" ")?,
                Some(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}")?;
                    }
                }
                None => {}
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Bytes of a pipe or terminal that are written at once: a pipe takes as many whole or not at all.
const CHUNK: usize = nix::libc::PIPE_BUF;

/// Bytes of a file or socket that are written at once.
const BIG_CHUNK: usize = 65_536;

/// A terminal of another user that says it has room takes at least this much, also when each byte becomes two.
const SMALL_CHUNK: usize = 16;

/// Bytes written in a row, so that a fast reader cannot keep us from the sockets.
const BUDGET: usize = 1 << 18;

/// How long to leave alone what says that it has room and takes nothing: another process is writing to the same terminal.
const PAUSE: Duration = Duration::from_millis(20);

/// A descriptor that is written to without ever waiting.
///
/// `O_NONBLOCK` is a flag of the open file, which may be shared with a shell or with another program that does not expect
/// it: it is never set on what this process was given. Pipes and terminals are opened once more instead.
struct Sink {
    fd: Target,
    how: How,
}

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

#[derive(Clone, Copy)]
enum How {
    /// The descriptor itself never waits; so many bytes at once.
    Plain(usize),
    /// A flag of each call says not to wait.
    Socket,
    /// It was not possible to open it once more: asked for room before each write, and then so little is written that
    /// it fits.
    Polled(usize),
}

impl Sink {
    fn of(fd: Target) -> Self {
        let kind = fstat(&fd).map_or(SFlag::empty(), |facts| SFlag::from_bits_truncate(facts.st_mode));
        let kind = kind & SFlag::S_IFMT;
        let is_terminal = fd.as_fd().is_terminal();
        match kind {
            SFlag::S_IFREG => Self { fd, how: How::Plain(BIG_CHUNK) },
            SFlag::S_IFSOCK => Self { fd, how: How::Socket },
            SFlag::S_IFIFO => match reopen(fd.as_fd(), false) {
                Some(own) => Self { fd: Target::Own(own), how: How::Plain(CHUNK) },
                None => Self { fd, how: How::Polled(CHUNK) },
            },
            _ if is_terminal => match reopen(fd.as_fd(), true) {
                Some(own) => Self { fd: Target::Own(own), how: How::Plain(CHUNK) },
                None => Self { fd, how: How::Polled(SMALL_CHUNK) },
            },
            _ => Self { fd, how: How::Polled(CHUNK) },
        }
    }

    /// Writes some of `lines`, whole ones if that is possible; `WouldBlock` if there is no room.
    fn write(&self, lines: &[u8]) -> io::Result<usize> {
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
            How::Socket => {
                // SIGPIPE is ignored in every Rust program.
                send(self.fd.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)
            }
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
}

/// The same pipe or terminal as another open file, which does not wait; `None` if that is not allowed or not possible.
fn reopen(fd: BorrowedFd<'_>, is_terminal: bool) -> Option<OwnedFd> {
    let mode = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).ok()?) & OFlag::O_ACCMODE;
    if mode == OFlag::O_RDONLY {
        return None;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = open(path.as_str(), flags, Mode::empty()).ok();
    opened.or_else(|| {
        // A terminal that belongs to another user, as after `su`: if it is ours to control, it has a name for everybody.
        let is_ours = is_terminal && matches!((tcgetsid(fd), getsid(None)), (Ok(a), Ok(b)) if a == b);
        is_ours.then(|| open("/dev/tty", flags, Mode::empty()).ok())?
    })
}

/// Whether a write makes sense.
#[derive(Clone, Copy)]
enum Room {
    Maybe,
    /// There was none: to be waited for.
    None,
    /// It was said that there is some.
    Announced,
    /// That was not true: not asked for again before this time.
    NotBefore(Instant),
}

/// Lines on their way to a reader. A reader that is slow, or reads nothing, does not stop the loop.
pub(crate) struct Lines {
    sink: Sink,
    /// What the sink is called in errors.
    name: &'static str,
    pending: Vec<u8>,
    written: usize,
    /// All bytes so far that were written.
    total: u64,
    room: Room,
}

impl Lines {
    /// To stdout.
    pub(crate) fn to_stdout() -> Self {
        Self::to(Target::Stdout(io::stdout()), "stdout")
    }

    /// To the standard input of a command.
    pub(crate) fn to_command(stdin: ChildStdin) -> Self {
        Self::to(Target::Own(stdin.into()), "the standard input of the command")
    }

    fn to(fd: Target, name: &'static str) -> Self {
        let sink = Sink::of(fd);
        Self { sink, name, pending: Vec::new(), written: 0, total: 0, room: Room::Maybe }
    }

    /// Bytes not written yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Puts one line behind the others.
    pub(crate) fn push(&mut self, line: fmt::Arguments<'_>) {
        self.push_part(line);
        self.pending.push(b'\n');
    }

    /// Puts something behind the others that ends no line.
    pub(crate) fn push_part(&mut self, part: fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = self.pending.write_fmt(part);
    }

    /// Lines not written to their ends yet.
    pub(crate) fn pending_lines(&self) -> usize {
        self.rest().iter().filter(|byte| **byte == b'\n').count()
    }

    /// Bytes up to the end of what was pushed, from the first one on.
    pub(crate) fn end(&self) -> u64 {
        self.total + self.pending() as u64
    }

    /// Whether everything up to `end` was written.
    pub(crate) fn is_written(&self, end: u64) -> bool {
        self.total >= end
    }

    fn rest(&self) -> &[u8] {
        self.pending.get(self.written..).unwrap_or_default()
    }

    /// Writes what is taken without waiting, at most [`BUDGET`].
    ///
    /// # Errors
    ///
    /// What the sink says, in a sentence; [`io::ErrorKind::BrokenPipe`] if it is closed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self.room {
            Room::None => return Ok(()),
            Room::NotBefore(time) if Instant::now() < time => return Ok(()),
            _ => {}
        }
        let before = self.total;
        while self.pending() > 0 && self.total - before < BUDGET as u64 {
            match self.sink.write(self.rest()) {
                Ok(n) if n > 0 => {
                    self.written += n;
                    self.total += n as u64;
                    self.room = Room::Maybe;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    let what = format!("cannot write to {}: {error}", self.name);
                    return Err(io::Error::new(error.kind(), what));
                }
                Ok(_) | Err(_) => {
                    self.room = match self.room {
                        Room::Announced => Room::NotBefore(Instant::now() + PAUSE),
                        _ => Room::None,
                    };
                    break;
                }
            }
        }
        // Also when there is always something left, as with a reader that never catches up.
        if self.written >= self.pending.len() / 2 {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Writes everything that is taken at once, and waits until `time` for the rest (`None`: for ever); whether nothing
    /// is left.
    ///
    /// # Errors
    ///
    /// As for [`Lines::flush`].
    pub(crate) fn flush_until(&mut self, time: Option<Instant>) -> io::Result<bool> {
        loop {
            self.flush()?;
            if self.pending() == 0 {
                return Ok(true);
            }
            let left = time.map(|time| time.saturating_duration_since(Instant::now()));
            // What was not tried to its end is taken up again whatever the time is.
            if left.is_some_and(|left| left.is_zero()) && !matches!(self.room, Room::Maybe) {
                return Ok(false);
            }
            let patience = [left, self.retry_after()].into_iter().flatten().min();
            let mut fds = [self.watch()];
            waiting::wait(&mut fds, patience)?;
            let [got] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            self.polled(got);
        }
    }

    /// What to wait for: room, if something is pending, and the other end going away.
    pub(crate) fn watch(&self) -> PollFd<'_> {
        let is_wanted = self.pending() > 0 && !matches!(self.room, Room::NotBefore(_));
        PollFd::new(self.sink.fd.as_fd(), if is_wanted { PollFlags::POLLOUT } else { PollFlags::empty() })
    }

    /// Not to wait for longer than this, as nothing will announce the room.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self.room {
            Room::NotBefore(time) if self.pending() > 0 => {
                Some(time.saturating_duration_since(Instant::now()))
            }
            _ => None,
        }
    }

    /// What came of waiting; whether the other end is gone.
    pub(crate) fn polled(&mut self, got: PollFlags) -> bool {
        if !got.is_empty() {
            self.room = Room::Announced;
        }
        got.intersects(CLOSED)
    }
}

/// Not more than this waits for the reader of stderr; what comes then is counted and dropped.
const STDERR_PENDING_MAX: usize = 65_536;

/// Complaints on their way to stderr. They may be lost, the loop may not be stopped.
struct Complaints {
    lines: Lines,
    dropped: u64,
    /// Nothing can be told any more.
    is_closed: bool,
}

static STDERR: Mutex<Option<Complaints>> = Mutex::new(None);

/// Stderr, opened at the first use.
fn with_stderr<T>(f: impl FnOnce(&mut Complaints) -> T) -> T {
    let mut stderr: MutexGuard<'_, _> = STDERR.lock().unwrap_or_else(PoisonError::into_inner);
    f(stderr.get_or_insert_with(|| {
        let lines = Lines::to(Target::Stderr(io::stderr()), "stderr");
        Complaints { lines, dropped: 0, is_closed: false }
    }))
}

impl Complaints {
    fn push(&mut self, line: &str) {
        self.flush();
        if self.is_closed {
            return;
        }
        let pending = self.lines.pending();
        if pending > 0 && pending + line.len() > STDERR_PENDING_MAX {
            self.dropped += 1;
            return;
        }
        self.say_what_was_dropped();
        self.lines.push(format_args!("{line}"));
        self.flush();
    }

    fn say_what_was_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.lines.push(format_args!("{dropped} lines for stderr were dropped: it did not take them"));
        }
    }

    fn flush(&mut self) {
        if self.lines.flush().is_err() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.is_closed = true;
        self.lines.pending.clear();
        self.lines.written = 0;
    }
}

/// Says on stderr what went wrong. A closed stderr cannot be told so; one that is full loses it, and is told how many.
pub(crate) fn complain(what: &dyn fmt::Display) {
    let line = Escaped(&what.to_string()).to_string();
    with_stderr(|stderr| stderr.push(&line));
}

/// Stderr as something to write whole lines to, one with each call.
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        complain(&text.strip_suffix('\n').unwrap_or(&text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that wait for the reader of stderr. It is opened, if it was not.
pub(crate) fn stderr_pending() -> usize {
    with_stderr(|stderr| stderr.lines.pending())
}

/// Waits until stderr has taken what was said, until `time` at the latest; then the rest is given up. Called at the end.
pub(crate) fn finish_stderr(time: Instant) {
    with_stderr(|stderr| {
        while !stderr.is_closed && stderr.lines.pending() > 0 {
            match stderr.lines.flush_until(Some(time)) {
                Ok(true) => stderr.say_what_was_dropped(),
                Ok(false) | Err(_) => stderr.give_up(),
            }
        }
    });
}

/// Waits until one of `others` is readable, `lines` or stderr have room for what is pending, or `timeout` is over.
///
/// Which of `others` are ready, and whether the reader of `lines` is gone.
pub(crate) fn wait<const N: usize>(
    others: [BorrowedFd<'_>; N],
    lines: Option<&mut Lines>,
    timeout: Option<Duration>,
) -> io::Result<([bool; N], bool)> {
    let stderr = io::stderr();
    let (stderr_wanted, stderr_retry) = with_stderr(|stderr| {
        stderr.flush();
        (stderr.lines.watch().events().contains(PollFlags::POLLOUT), stderr.lines.retry_after())
    });
    let lines_retry = lines.as_ref().and_then(|lines| lines.retry_after());
    let timeout = [timeout, stderr_retry, lines_retry].into_iter().flatten().min();
    let mut fds: Vec<PollFd<'_>> = others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into();
    if stderr_wanted {
        fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLOUT));
    }
    if let Some(lines) = &lines {
        fds.push(lines.watch());
    }
    waiting::wait(&mut fds, timeout)?;
    let mut got =
        fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect::<Vec<_>>().into_iter();
    let ready = others.map(|_| got.next().is_some_and(|got| !got.is_empty()));
    if stderr_wanted && let Some(got) = got.next() {
        with_stderr(|stderr| {
            let _ = stderr.lines.polled(got);
            stderr.flush();
        });
    }
    let is_closed = match (lines, got.next()) {
        (Some(lines), Some(got)) => lines.polled(got),
        _ => false,
    };
    Ok((ready, is_closed))
}
