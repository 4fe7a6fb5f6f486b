//! What the tests need of a Unix system.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

pub(crate) use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::util::{WATCHDOG, capability_name};

/// What makes `serve` stop.
pub(crate) const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// A target that no server has.
pub(crate) const NOWHERE: &str = "/nowhere/s";

/// One end of a connection.
pub(crate) type Stream = UnixStream;

pub(crate) fn connect(socket: &str) -> io::Result<Stream> {
    limited(UnixStream::connect(socket)?)
}

fn limited(stream: UnixStream) -> io::Result<Stream> {
    stream.set_read_timeout(Some(WATCHDOG))?;
    stream.set_write_timeout(Some(WATCHDOG))?;
    Ok(stream)
}

/// Says that no more is written, and goes on reading.
pub(crate) fn end_writing(stream: &Stream) {
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

/// Takes connections at one name.
pub(crate) struct Listener(UnixListener);

impl Listener {
    pub(crate) fn bind(socket: &str) -> Self {
        Self(UnixListener::bind(socket).unwrap())
    }

    pub(crate) fn accept(&mut self) -> Stream {
        limited(self.0.accept().unwrap().0).unwrap()
    }
}

/// Where the directories of the tests go: directly in `/tmp`, because a long `$TMPDIR` could make socket paths
/// too long.
pub(crate) fn temp_dir() -> PathBuf {
    "/tmp".into()
}

/// The socket `name` of the test whose directory is `home`. Its directory is made.
pub(crate) fn socket(home: &Path, name: &str) -> String {
    let path = home.join(name);
    private_dir(path.parent().unwrap());
    path.to_str().unwrap().to_owned()
}

/// Makes a directory 0700 with its missing parents.
pub(crate) fn private_dir(path: &Path) {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
}

/// Writes the capability file for `socket` below `dir`, for us alone.
pub(crate) fn write_capability(dir: &Path, socket: &str, contents: &str) {
    private_dir(dir);
    let file = dir.join(capability_name(socket));
    fs::write(&file, contents).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The permission bits of the file at `path`.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}")).mode() & 0o7777
}

/// All properties of a file that a start could change.
pub(crate) fn facts(meta: &Metadata) -> String {
    format!("{:o} {} {} {}", meta.mode(), meta.ino(), meta.size(), meta.mtime_nsec())
}

pub(crate) fn is_socket(meta: &Metadata) -> bool {
    meta.file_type().is_socket()
}

/// Leaves the socket of a listener that is gone at `path`.
pub(crate) fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    // A process that another test starts may hold a copy of the listener for a moment.
    while UnixStream::connect(path).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// `program`, with no stop signal ignored.
pub(crate) fn command(program: &std::ffi::OsStr) -> Command {
    if ignores_stop_signals() {
        let mut env = Command::new("env");
        env.arg("--default-signal=HUP,INT,QUIT").arg(program);
        return env;
    }
    Command::new(program)
}

/// Whether `nohup`, or a background job of a script, has us ignore a signal that stops programs. The tool would ignore it too.
fn ignores_stop_signals() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]
        .iter()
        .any(|signal| mask >> (*signal as i32 - 1) & 1 == 1)
}

/// What `serve` needs to be told something later.
pub(crate) fn prepare_serve(_: &mut Command) {}

/// Whether the first of [`STOPS`] ended a process that has no status of its own for it.
pub(crate) fn is_stopped(status: ExitStatus) -> bool {
    status.signal() == Some(STOPS[0] as i32)
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// Has `serve` print what is in its inbox.
pub(crate) fn ask_for_messages(serve: &mut Child) {
    signal(serve, Signal::SIGUSR1);
}

/// Has `serve` print its counters.
pub(crate) fn ask_for_summary(serve: &mut Child) {
    signal(serve, Signal::SIGUSR2);
}
