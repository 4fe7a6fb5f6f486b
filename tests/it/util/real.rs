//! The real world: a `Server` on a thread of its own, with files of its own, and raw sockets as peers.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use udsmsg::os::CapabilityDir;
use udsmsg::{Environment, Limits, Namespace, Server, Waker};

use super::stream::{Stream, path_in};

/// How long a peer waits for the next bytes: the end of a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(45);

type Job = Box<dyn FnOnce(&mut Server) + Send>;

/// Directories for one server, removed at the end.
pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self::below(&super::machine::temp_base())
    }

    /// One that other users can reach, if its modes let them.
    #[cfg(unix)]
    pub fn open() -> Self {
        Self::below(&super::machine::open_temp_base())
    }

    fn below(base: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("uds").tempdir_in(base).unwrap();
        std::fs::create_dir(dir.path().join("t")).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path for a server of the test's own.
    pub fn path_for(&self, name: &str) -> PathBuf {
        path_in(self.path(), name)
    }

    pub fn environment(&self) -> Environment {
        environment(self.path())
    }

    pub fn start(&self, tweak: impl FnOnce(&mut Limits)) -> Server {
        let mut limits = patient_limits();
        tweak(&mut limits);
        Server::builder().environment(self.environment()).limits(limits).start().unwrap()
    }

    /// The token of `server`, from where its peers find it.
    pub fn token_of(&self, server: &Server) -> String {
        Self::token_at(self.path(), server)
    }

    /// The same, from the directories alone.
    pub fn token_at(home: &Path, server: &Server) -> String {
        let capabilities = CapabilityDir::of(&Namespace::default(), &environment(home)).unwrap();
        capabilities.read(server.address()).unwrap().auth_token.expose().to_owned()
    }
}

/// The defaults but for `auth_timeout`: on a busy machine a client may need more than two seconds for its
/// first line.
pub fn patient_limits() -> Limits {
    let mut limits = Limits::default();
    limits.auth_timeout = PATIENCE;
    limits
}

fn environment(home: &Path) -> Environment {
    Environment::from_pairs([
        ("CLAUDE_CONFIG_DIR", home.join("config")),
        ("TMPDIR", home.join("t")),
        ("HOME", home.join("home")),
        ("USERPROFILE", home.join("home")),
    ])
}

/// A server that turns on a thread of its own until it is dropped.
pub struct Real {
    pub home: Home,
    pub path: PathBuf,
    pub token: String,
    pub waker: Waker,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Real {
    pub fn start(tweak: impl FnOnce(&mut Limits)) -> Self {
        let home = Home::new();
        let mut server = home.start(tweak);
        let token = home.token_of(&server);
        let path = PathBuf::from(server.address().path());
        let waker = server.waker();
        let (jobs, inbox): (Sender<Job>, Receiver<Job>) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            loop {
                let _ = server.turn(None).unwrap();
                loop {
                    match inbox.try_recv() {
                        Ok(job) => job(&mut server),
                        Err(mpsc::TryRecvError::Empty) => break,
                        Err(mpsc::TryRecvError::Disconnected) => return,
                    }
                }
            }
        });
        Self { home, path, token, waker, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `job` between two turns, on the server's thread.
    pub fn with<R: Send + 'static>(&self, job: impl FnOnce(&mut Server) -> R + Send + 'static) -> R {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move |server| answer.send(job(server)).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        self.waker.wake().unwrap();
        result.recv().expect("the server's thread is alive")
    }

    /// What is in the inbox, as JSON; takes it out.
    pub fn drain(&self) -> Vec<String> {
        self.with(|server| server.drain().iter().map(|entry| entry.message().json().to_owned()).collect())
    }

    pub fn connect(&self) -> RawPeer {
        RawPeer::connect(&self.path, &self.token)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server's thread panicked");
        }
    }
}

/// A client that sends and reads plain bytes.
pub struct RawPeer {
    pub stream: Stream,
    token: String,
    path: String,
    received: Vec<u8>,
}

impl RawPeer {
    pub fn connect(path: &Path, token: &str) -> Self {
        Self::adopt(Stream::connect(path).unwrap(), path, token)
    }

    /// One whose connection is there already.
    pub fn adopt(stream: Stream, path: &Path, token: &str) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let path = super::in_json(path);
        Self { stream, token: token.to_owned(), path, received: Vec::new() }
    }

    pub fn fill(&self, template: &[u8]) -> Vec<u8> {
        super::fill(template, &self.token, &self.path)
    }

    /// Writes; a server that has closed is no error here.
    pub fn send(&mut self, template: &[u8]) {
        let bytes = self.fill(template);
        let _ = self.stream.write_all(&bytes);
    }

    pub fn send_bytewise(&mut self, template: &[u8]) {
        for byte in self.fill(template) {
            if self.stream.write_all(&[byte]).is_err() {
                break;
            }
        }
    }

    /// Only for a socket: a pipe has no half-close.
    pub fn half_close(&mut self) {
        #[cfg(unix)]
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        #[cfg(windows)]
        panic!("a pipe has no half-close");
    }

    /// The next line without its newline; `None` at the end.
    ///
    /// A reset panics: it is never a way to end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.received.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.pop();
                return Some(String::from_utf8(line).unwrap());
            }
            let mut space = [0; 65_536];
            let n = self.stream.read(&mut space).expect("a line or the end, not an error");
            if n == 0 {
                assert!(self.received.is_empty(), "ended inside a line: {:?}", self.received);
                return None;
            }
            self.received.extend_from_slice(&space[..n]);
        }
    }
}
