//! What the tests share: a home for each test, processes that a watchdog ends, raw peers and scripted
//! servers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) use crate::system::private_dir;
use crate::system::{self, Listener, Signal, Stream};
#[cfg(unix)]
pub(crate) use crate::system::{leave_stale, mode};

/// How long anything may take before the watchdog ends it.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// How often long tests repeat what they do: `UDSMSG_TEST_SCALE`, 1 if it is not set.
pub(crate) fn scale() -> usize {
    std::env::var("UDSMSG_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Variables that programs of some systems cannot do without.
const KEPT: [&str; 3] = ["SystemRoot", "WINEPREFIX", "WINEDEBUG"];

/// Bytes that a line may have.
pub(crate) const FRAME_BYTES_MAX: usize = 65_536;

/// The JSON lines that a command printed.
#[track_caller]
pub(crate) fn parsed(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Bytes of the line that `send` makes of an empty text.
pub(crate) fn empty_text_len() -> usize {
    let rest = r#"{"type":"text","data":"","ts":"2026-11-22T10:00:00.000Z","meta":{"authToken":""}}"#;
    let token = 64;
    rest.len() + token
}

/// Characters that a terminal obeys, or that change or hide what it shows: of the categories Cc, Cf, Zl and
/// Zp, from all over Unicode.
#[rustfmt::skip]
pub(crate) const CONTROLS: [char; 30] = [
    '\r', '\u{1b}', '\u{7f}', '\u{80}', '\u{85}', '\u{9b}', '\u{9d}', '\u{9f}',
    '\u{ad}', '\u{600}', '\u{61c}', '\u{180e}', '\u{200b}', '\u{200d}', '\u{200f}', '\u{2028}',
    '\u{2029}', '\u{202e}', '\u{2060}', '\u{2064}', '\u{2069}', '\u{206a}', '\u{206f}', '\u{feff}',
    '\u{fff9}', '\u{fffb}', '\u{1d173}', '\u{e0001}', '\u{e0041}', '\u{e007f}',
];

/// Directories that only one test uses: `$TMPDIR`, `$CLAUDE_CONFIG_DIR` and `$HOME` of the processes that it
/// starts.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("udsmsg-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let dir = builder.tempdir_in(system::temp_dir()).unwrap();
        private_dir(&dir.path().join("t"));
        Self { dir }
    }

    /// The directory that holds all files of this test.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.path().join("t")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("config")
    }

    /// The address `name` of this test alone, where nothing listens yet.
    pub(crate) fn socket(&self, name: &str) -> String {
        system::socket(self.path(), name)
    }

    /// A new private directory.
    pub(crate) fn private(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        private_dir(&path);
        path
    }

    pub(crate) fn capability_dir(&self) -> PathBuf {
        self.config().join("messaging-capabilities")
    }

    /// Where the capability file for `socket` has to be.
    pub(crate) fn capability_file(&self, socket: &str) -> PathBuf {
        self.capability_dir().join(capability_name(socket))
    }

    /// The token that is published for `socket`.
    pub(crate) fn token(&self, socket: &str) -> String {
        token_in(&self.capability_file(socket), socket)
    }

    /// Publishes a token for `socket` as a server would, and returns it.
    pub(crate) fn publish(&self, socket: &str) -> String {
        let token = "0123456789abcdef".repeat(4);
        let contents = serde_json::json!({"socketPath": socket, "authToken": token}).to_string();
        self.write_capability(socket, &contents);
        token
    }

    /// Publishes `contents` for `socket`, in a file that is as private as a server's.
    pub(crate) fn write_capability(&self, socket: &str, contents: &str) {
        system::write_capability(&self.capability_dir(), socket, contents);
    }

    /// `program` with an environment that names only this home.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = system::command(program.as_ref());
        // Another user's directories in it cannot be read here.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let readable = std::env::split_paths(&path).filter(|dir| dir.read_dir().is_ok());
        command
            .env_clear()
            .env("PATH", std::env::join_paths(readable).unwrap())
            .env("TMPDIR", self.tmp())
            .env("HOME", self.path())
            .env("CLAUDE_CONFIG_DIR", self.config())
            .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// `udsmsg` with `args`.
    pub(crate) fn udsmsg<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_udsmsg"));
        command.args(args);
        command
    }

    /// Runs `udsmsg` with `args` to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        Process::spawn(self.udsmsg(args)).end()
    }

    /// Runs `udsmsg` with `args` and `input` on its standard input to its end.
    pub(crate) fn run_with<S: AsRef<OsStr>>(&self, args: &[S], input: impl AsRef<[u8]>) -> Ended {
        let mut file = tempfile::tempfile_in(self.path()).unwrap();
        file.write_all(input.as_ref()).unwrap();
        file.rewind().unwrap();
        let mut command = self.udsmsg(args);
        command.stdin(file);
        Process::spawn(command).end()
    }

    /// Sockets and capability files below this home.
    pub(crate) fn traces(&self) -> Vec<PathBuf> {
        let is_trace = |path: &PathBuf| {
            let facts = fs::symlink_metadata(path).unwrap();
            system::is_socket(&facts) || path.extension().is_some_and(|extension| extension == "json")
        };
        self.snapshot().into_keys().filter(is_trace).collect()
    }

    /// Neither the socket nor its capability file is left.
    #[track_caller]
    pub(crate) fn assert_released(&self, socket: &str) {
        assert!(!exists(socket), "{socket} is left");
        assert!(!exists(self.capability_file(socket)), "the capability file of {socket} is left");
    }

    pub(crate) fn serve(&self, args: &[&str]) -> Serve {
        Serve::start(self.serve_command(args))
    }

    pub(crate) fn serve_command(&self, args: &[&str]) -> Command {
        let mut command = self.udsmsg(&["serve"]);
        command.args(args);
        system::prepare_serve(&mut command);
        command
    }

    /// Every file below this home, with all properties that a start could change.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let facts = system::facts(&meta);
                if meta.is_dir() {
                    pending.push(path.clone());
                }
                found.insert(path, facts);
            }
        }
        found
    }
}

/// A pipe without room for one more byte, and how many it holds. A write to it waits.
#[cfg(unix)]
pub(crate) fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter, usize) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut filled = 0;
    while let Ok(n) = writer.write(&[b'x'; 4096]) {
        filled += n;
    }
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer, filled)
}

/// The name of the capability file for `socket`.
pub(crate) fn capability_name(socket: &str) -> String {
    let digest = Sha256::digest(socket.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.json")
}

/// The token in the capability `file` for `socket`.
pub(crate) fn token_in(file: &Path, socket: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("no capability at {file:?}: {error}"));
    let capability: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(capability["socketPath"], socket);
    capability["authToken"].as_str().unwrap().to_owned()
}

/// Whether there is something at `path`.
pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A child process that is killed at the end of its test, or by the watchdog.
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    pid: u32,
    /// The watchdog killed it.
    was_killed: Arc<AtomicBool>,
    /// Dropped to stop the watchdog.
    _watched: mpsc::Sender<()>,
    stdout: Option<ChildStdout>,
    stderr: Option<JoinHandle<String>>,
    name: String,
}

/// The exit status and the output of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_within(command, WATCHDOG)
    }

    /// Starts `command` with stdout and stderr in pipes; after `limit` it is killed.
    pub(crate) fn spawn_within(mut command: Command, limit: Duration) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn_as_is(command, limit)
    }

    /// Starts `command` with stdout and stderr as it says.
    pub(crate) fn spawn_as_is(mut command: Command, limit: Duration) -> Self {
        let name = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        let pid = child.id();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        let child = Arc::new(Mutex::new(child));
        let was_killed = Arc::new(AtomicBool::new(false));
        let (watched, is_over) = mpsc::channel();
        let (victim, killed) = (Arc::clone(&child), Arc::clone(&was_killed));
        thread::spawn(move || {
            if is_over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                killed.store(true, Ordering::SeqCst);
                let _ = victim.lock().unwrap().kill();
            }
        });
        Self { child, pid, was_killed, _watched: watched, stdout, stderr, name }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        system::signal(&self.child.lock().unwrap(), signal);
    }

    /// Asks it to stop, in the way that is common on this system.
    pub(crate) fn ask_to_stop(&self) {
        self.signal(system::STOPS[0]);
    }

    /// Has `serve` print what is in its inbox.
    pub(crate) fn ask_for_messages(&self) {
        system::ask_for_messages(&mut self.child.lock().unwrap());
    }

    /// Has `serve` print its counters.
    pub(crate) fn ask_for_summary(&self) {
        system::ask_for_summary(&mut self.child.lock().unwrap());
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.child.lock().unwrap().kill().unwrap();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// Takes the end of stdout to read from; dropping it closes it.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.stdout.take().unwrap()
    }

    /// Takes the end of stdin to write to; dropping it closes it.
    pub(crate) fn take_stdin(&self) -> ChildStdin {
        self.child.lock().unwrap().stdin.take().unwrap()
    }

    /// The most memory that it has used so far, in KiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for the end and reads what was printed.
    pub(crate) fn end(mut self) -> Ended {
        let mut stdout = String::new();
        if let Some(mut pipe) = self.stdout.take() {
            let _ = pipe.read_to_string(&mut stdout);
        }
        let status = self.wait();
        Ended { status, stdout, stderr: self.take_stderr() }
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        loop {
            let ended = self.child.lock().unwrap().try_wait().unwrap();
            if let Some(status) = ended {
                if self.was_killed.load(Ordering::SeqCst) {
                    let stderr = self.take_stderr();
                    panic!("the watchdog killed {}; stderr: {stderr}", self.name);
                }
                return status;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn take_stderr(&mut self) -> String {
        self.stderr.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    /// It failed with exit status 1, nothing on stdout, and `text` on stderr.
    #[track_caller]
    pub(crate) fn assert_refused(&self, text: &str) {
        self.assert_code(1);
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
    }
}

/// One line that `serve` printed for a message.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    /// Byte for byte as printed.
    pub(crate) message: Box<RawValue>,
    #[serde(rename = "receivedAt")]
    pub(crate) received_at: u64,
    pub(crate) status: String,
}

impl Entry {
    #[track_caller]
    pub(crate) fn parse(line: &str) -> Self {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no entry: {error}"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.message.get()).unwrap()
    }
}

/// A running `udsmsg serve` that has printed its first line.
pub(crate) struct Serve {
    process: Process,
    pub(crate) first_line: String,
    pub(crate) socket: String,
    out: Out,
}

enum Out {
    /// The rest of stdout, not read so far.
    Unread(BufReader<ChildStdout>),
    /// A thread reads it line by line.
    Lines(Receiver<String>),
    Closed,
}

impl Serve {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_within(command, WATCHDOG)
    }

    pub(crate) fn start_within(command: Command, limit: Duration) -> Self {
        let mut process = Process::spawn_within(command, limit);
        // One byte at a time, so that the rest stays in the pipe.
        let mut out = BufReader::with_capacity(1, process.take_stdout());
        let mut first_line = String::new();
        out.read_line(&mut first_line).unwrap();
        if first_line.is_empty() {
            panic!("no first line; {:?}", process.end());
        }
        let first_line = first_line.trim_end_matches('\n').to_owned();
        let event: Value = serde_json::from_str(&first_line).unwrap();
        let socket = event["socket"].as_str().unwrap().to_owned();
        Self { process, first_line, socket, out: Out::Unread(out) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn ask_for_messages(&self) {
        self.process.ask_for_messages();
    }

    pub(crate) fn ask_for_summary(&self) {
        self.process.ask_for_summary();
    }

    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_running()
    }

    pub(crate) fn peer(&self, token: &str) -> Peer {
        Peer::connect(&self.socket, token)
    }

    /// Takes the end of stdin to write to; dropping it closes it.
    pub(crate) fn take_stdin(&self) -> ChildStdin {
        self.process.take_stdin()
    }

    /// Closes our end of its stdout.
    pub(crate) fn close_stdout(&mut self) {
        self.out = Out::Closed;
    }

    fn lines(&mut self) -> &Receiver<String> {
        if let Out::Unread(_) = &self.out {
            let Out::Unread(unread) = std::mem::replace(&mut self.out, Out::Closed) else { unreachable!() };
            let unread = BufReader::new(unread.into_inner());
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || {
                for line in unread.lines() {
                    let Ok(line) = line else { break };
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
            self.out = Out::Lines(receiver);
        }
        match &self.out {
            Out::Lines(lines) => lines,
            _ => panic!("stdout was closed"),
        }
    }

    /// The next line.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.lines().recv_timeout(WATCHDOG) {
            Ok(line) => line,
            Err(error) => panic!("no further line on stdout: {error}"),
        }
    }

    /// The next entry.
    #[track_caller]
    pub(crate) fn entry(&mut self) -> Entry {
        Entry::parse(&self.line())
    }

    /// Nothing is printed for `span`.
    #[track_caller]
    pub(crate) fn assert_prints_nothing_for(&mut self, span: Duration) {
        if let Ok(line) = self.lines().recv_timeout(span) {
            panic!("printed {line:?}");
        }
    }

    /// Stops it, reading what it prints.
    #[track_caller]
    pub(crate) fn stop(self) -> Stopped {
        self.stop_by(system::STOPS[0])
    }

    /// Stops it with `signal`, reading what it prints.
    #[track_caller]
    pub(crate) fn stop_by(mut self, signal: Signal) -> Stopped {
        self.lines();
        self.process.signal(signal);
        self.end()
    }

    /// Stops it; a stdout that was not read so far stays unread until the end.
    #[track_caller]
    pub(crate) fn stop_as_is(self) -> Stopped {
        self.process.ask_to_stop();
        self.end()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Stopped {
        let begun = Instant::now();
        let status = self.process.wait();
        let took = begun.elapsed();
        let rest: Vec<String> = match self.out {
            Out::Lines(lines) => lines.iter().collect(),
            Out::Unread(_) | Out::Closed => Vec::new(),
        };
        let entries = rest.iter().map(|line| Entry::parse(line)).collect();
        let stderr = self.process.take_stderr();
        Stopped { ended: Ended { status, stdout: rest.join("\n"), stderr }, entries, took }
    }
}

/// What a stopped `serve` printed, and how long the stop took.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) ended: Ended,
    /// The entries that the test did not read before.
    pub(crate) entries: Vec<Entry>,
    pub(crate) took: Duration,
}

impl Stopped {
    /// It ended with `code`, and not only when a client's time was over (30 s). How much of the 2 s of its contract it takes
    /// is not asserted: a busy machine may need longer.
    #[track_caller]
    pub(crate) fn assert_clean(&self, code: i32) -> &Self {
        self.ended.assert_code(code);
        assert!(self.took < Duration::from_secs(20), "the stop took {:?}", self.took);
        self
    }
}

/// A client that is only a socket and a token.
pub(crate) struct Peer {
    stream: BufReader<Stream>,
    token: String,
}

impl Peer {
    pub(crate) fn connect(socket: &str, token: &str) -> Self {
        let stream = system::connect(socket).unwrap();
        Self { stream: BufReader::new(stream), token: token.to_owned() }
    }

    /// The same connection for another thread.
    pub(crate) fn twin(&self) -> Self {
        let stream = self.stream().try_clone().unwrap();
        Self { stream: BufReader::new(stream), token: self.token.clone() }
    }

    pub(crate) fn stream(&self) -> &Stream {
        self.stream.get_ref()
    }

    /// Says that no more is written, where a connection has a way to say so.
    pub(crate) fn end_writing(&self) {
        system::end_writing(self.stream());
    }

    /// Writes `line`, with the token where it says `TOKEN`, and a newline.
    pub(crate) fn write(&mut self, line: &str) {
        let line = format!("{}\n", line.replace("TOKEN", &self.token));
        self.stream.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// The next line that came; empty at the end.
    pub(crate) fn read(&mut self) -> String {
        let mut line = String::new();
        let _ = self.stream.read_line(&mut line).expect("an answer before the watchdog ends the wait");
        line.trim_end_matches('\n').to_owned()
    }

    /// Writes `line` and returns the answer as JSON.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        self.write(line);
        let answer = self.read();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer:?} is no answer: {error}"))
    }

    /// Sends `data` as text; returns the id that it got.
    #[track_caller]
    pub(crate) fn send_text(&mut self, data: &str) -> String {
        let answer = self.ask(&text_line(data));
        assert_eq!(
            (answer["type"].as_str(), answer["data"].as_str()),
            (Some("response"), Some("ok")),
            "{answer}"
        );
        answer["meta"]["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn ping(&mut self) {
        let answer = self.ask(PING_LINE);
        assert_eq!(answer["type"], "pong", "{answer}");
    }
}

/// A ping for [`Peer::write`].
pub(crate) const PING_LINE: &str = r#"{"type":"ping","meta":{"authToken":"TOKEN"}}"#;

/// A text for [`Peer::write`].
pub(crate) fn text_line(data: &str) -> String {
    format!(r#"{{"type":"text","data":{},"meta":{{"authToken":"TOKEN"}}}}"#, Value::from(data))
}

/// A server that answers by a script, one connection after the other.
pub(crate) struct Fake {
    pub(crate) socket: String,
    connections: Arc<AtomicUsize>,
    received: Receiver<String>,
    is_over: Arc<AtomicBool>,
}

impl Fake {
    /// Listens at a path of its own below `home`. `script` gets each connection, its number from 0, and a
    /// channel for the lines that it reads.
    pub(crate) fn start(
        home: &Home,
        script: impl Fn(Stream, usize, &mpsc::Sender<String>) + Send + 'static,
    ) -> Self {
        Self::start_at(home, "fake", script)
    }

    /// The same in the directory `name`.
    pub(crate) fn start_at(
        home: &Home,
        name: &str,
        script: impl Fn(Stream, usize, &mpsc::Sender<String>) + Send + 'static,
    ) -> Self {
        let socket = home.socket(&format!("{name}/s"));
        let mut listener = Listener::bind(&socket);
        let connections = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (sender, received) = mpsc::channel();
        let (count, over) = (Arc::clone(&connections), Arc::clone(&is_over));
        thread::spawn(move || {
            loop {
                let stream = listener.accept();
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                script(stream, number, &sender);
            }
        });
        Self { socket, connections, received, is_over }
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The next line that a script read.
    pub(crate) fn received(&self) -> String {
        self.received.recv_timeout(WATCHDOG).expect("a line from the client")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = system::connect(&self.socket);
    }
}

/// Reads one line of `stream`, without its newline.
pub(crate) fn read_line(stream: &Stream) -> String {
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line.trim_end_matches('\n').to_owned()
}

/// Reads `stream` to its end.
pub(crate) fn read_to_end(mut stream: &Stream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}
