//! What the tests need of Windows.
#![allow(
    unsafe_code,
    reason = "events of a console, and a pipe that is ours by name, are not in the standard library"
)]

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Read, Write};
use std::os::windows::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::ptr;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions};
use tokio::runtime::{Builder, Runtime};
use udsmsg::Address;
use udsmsg::os::{CapabilityDir, Random};
use windows_sys::Win32::Foundation::{ERROR_PIPE_BUSY, HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Threading::{
    CREATE_NO_WINDOW, DETACHED_PROCESS, GetCurrentProcess, OpenProcessToken,
};

use crate::util::{WATCHDOG, capability_name};

/// What is not run here, and why.
const NOT_RUN: [(&str, &str); 9] = [
    ("dispositions, signals", "Windows has no signals"),
    ("output, stdout, terminal", "terminals and descriptors that do not wait are those of Unix"),
    ("unanswering", "a name of a pipe leads to no file system"),
    ("interop, ask in part", "Node for Windows is not here"),
    ("log in part", "default locations that are not used, and descriptors, are those of Unix"),
    ("workspace", "the cargo that builds is a program of another system"),
    ("serve, send, peers in part", "pipes stand in no directory, and files have no mode"),
    ("serve in part", "a pipe has no half-close"),
    ("run in part", "the scripts are those of a Unix shell"),
];

#[test]
fn tests_of_unix_are_named() {
    for (tests, reason) in NOT_RUN {
        crate::machine::skip(&format!("{reason} ({tests})"));
    }
}

/// What makes `serve` stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    CtrlC,
}

/// Wine has no Ctrl-Break, and a close of a console needs a window.
pub(crate) const STOPS: [Signal; 1] = [Signal::CtrlC];

/// A target that no server has.
pub(crate) const NOWHERE: &str = r"\\.\pipe\udsmsg-test-nowhere";

/// The pipes of this process: a thread reads and writes them.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// One end of a connection. Its clones can read and write at the same time.
#[derive(Clone)]
pub(crate) struct Stream(Arc<End>);

enum End {
    Client(NamedPipeClient),
    Server(NamedPipeServer),
}

impl Stream {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }
}

async fn read(end: &End, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let read = match end {
            End::Client(pipe) => pipe.readable().await.and_then(|()| pipe.try_read(buffer)),
            End::Server(pipe) => pipe.readable().await.and_then(|()| pipe.try_read(buffer)),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            read => return read,
        }
    }
}

async fn write(end: &End, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let written = match end {
            End::Client(pipe) => pipe.writable().await.and_then(|()| pipe.try_write(bytes)),
            End::Server(pipe) => pipe.writable().await.and_then(|()| pipe.try_write(bytes)),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return written,
        }
    }
}

/// Waits for `work`, at most as long as the watchdog does.
fn wait<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    RUNTIME.block_on(async { tokio::time::timeout(WATCHDOG, work).await })?
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        wait(read(&self.0, buffer))
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        wait(write(&self.0, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits while every instance of the pipe is taken.
pub(crate) fn connect(socket: &str) -> io::Result<Stream> {
    let _inside = RUNTIME.enter();
    let begun = Instant::now();
    loop {
        match ClientOptions::new().open(socket) {
            Err(error)
                if error.raw_os_error() == Some(ERROR_PIPE_BUSY.cast_signed())
                    && begun.elapsed() < WATCHDOG =>
            {
                thread::sleep(Duration::from_millis(2));
            }
            opened => return Ok(Stream(Arc::new(End::Client(opened?)))),
        }
    }
}

/// A pipe has no half-close: whoever reads the other end sees nothing.
pub(crate) fn end_writing(_: &Stream) {}

/// Takes connections at one name.
pub(crate) struct Listener {
    socket: String,
    next: NamedPipeServer,
}

impl Listener {
    pub(crate) fn bind(socket: &str) -> Self {
        Self { socket: socket.to_owned(), next: instance(socket, true) }
    }

    pub(crate) fn accept(&mut self) -> Stream {
        RUNTIME.block_on(self.next.connect()).unwrap();
        let next = instance(&self.socket, false);
        Stream(Arc::new(End::Server(std::mem::replace(&mut self.next, next))))
    }
}

/// An instance of a pipe whose owner is the user of this process, as a client demands it.
fn instance(socket: &str, is_first: bool) -> NamedPipeServer {
    let _inside = RUNTIME.enter();
    let sid = own_sid();
    let sddl: Vec<u16> = format!("O:{sid}D:P(A;;GA;;;{sid})\0").encode_utf16().collect();
    let mut descriptor = ptr::null_mut();
    // SAFETY: `sddl` ends with a NUL, and `descriptor` is written to.
    let made = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            sddl.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor,
            ptr::null_mut(),
        )
    };
    assert_ne!(made, 0, "{}", io::Error::last_os_error());
    let mut attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap(),
        lpSecurityDescriptor: descriptor,
        bInheritHandle: 0,
    };
    let mut options = ServerOptions::new();
    options.first_pipe_instance(is_first);
    // SAFETY: it points to attributes that live until the call has returned, with a descriptor that does too.
    let made = unsafe { options.create_with_security_attributes_raw(socket, (&raw mut attributes).cast()) };
    // SAFETY: the system allocated it, and nothing uses it any more.
    unsafe { LocalFree(descriptor) };
    made.unwrap()
}

/// The security identifier of the user of this process.
fn own_sid() -> String {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: the handle of this process needs no close, and `token` is written to.
    let opened = unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) };
    assert_ne!(opened, 0, "{}", io::Error::last_os_error());
    // As many as every user needs, and aligned.
    let mut facts = [0_u64; 32];
    let len = u32::try_from(size_of_val(&facts)).unwrap();
    // SAFETY: `facts` has `len` bytes. The token is closed with this process.
    let asked = unsafe { GetTokenInformation(token, TokenUser, facts.as_mut_ptr().cast(), len, &mut { 0 }) };
    assert_ne!(asked, 0, "{}", io::Error::last_os_error());
    let mut text = ptr::null_mut();
    // SAFETY: the call before wrote a `TOKEN_USER` to the beginning of `facts`, which is aligned for it.
    let sid = unsafe { (*facts.as_ptr().cast::<TOKEN_USER>()).User.Sid };
    // SAFETY: `sid` points into `facts`, and `text` is written to.
    let made = unsafe { ConvertSidToStringSidW(sid, &mut text) };
    assert_ne!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: `text` is a string that ends with a NUL, so every unit up to that can be read.
    let units: Vec<u16> = unsafe { (0..).map(|at| *text.add(at)).take_while(|unit| *unit != 0).collect() };
    // SAFETY: the system allocated it, and nothing uses it any more.
    unsafe { LocalFree(text.cast()) };
    String::from_utf16(&units).unwrap()
}

/// Where the directories of the tests go.
pub(crate) fn temp_dir() -> PathBuf {
    std::env::temp_dir()
}

/// The pipe `name` of the test whose directory is `home`.
pub(crate) fn socket(home: &Path, name: &str) -> String {
    let home = home.file_name().unwrap().to_str().unwrap();
    format!(r"\\.\pipe\{home}-{}", name.replace('/', "-"))
}

/// Makes a directory with its missing parents.
pub(crate) fn private_dir(path: &Path) {
    fs::create_dir_all(path).unwrap();
}

/// Writes the capability file for `socket` below `dir`. The library makes it first, so that it is ours alone.
pub(crate) fn write_capability(dir: &Path, socket: &str, contents: &str) {
    let mut random = Random::from_os().unwrap();
    let token = random.auth_token();
    let address = Address::from_path(socket).unwrap();
    CapabilityDir::at(dir).publish(&address, &token, &mut random).unwrap();
    fs::write(dir.join(capability_name(socket)), contents).unwrap();
}

/// All properties of a file that a start could change.
pub(crate) fn facts(meta: &Metadata) -> String {
    format!("{:?} {} {:?}", meta.file_type(), meta.len(), meta.modified().unwrap())
}

/// Pipes are no files.
pub(crate) fn is_socket(_: &Metadata) -> bool {
    false
}

/// `program` with a console of its own and what every program of the system needs in its environment.
pub(crate) fn command(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.creation_flags(CREATE_NO_WINDOW);
    command
}

/// Whether Ctrl-C ended a process that has no status of its own for it.
pub(crate) fn is_stopped(status: ExitStatus) -> bool {
    status.code() == Some(0xC000_013A_u32.cast_signed())
}

/// Has it read what stands in for signals.
pub(crate) fn prepare_serve(command: &mut Command) {
    command.stdin(Stdio::piped());
}

/// Has `serve` print what is in its inbox.
pub(crate) fn ask_for_messages(serve: &mut Child) {
    serve.stdin.as_mut().unwrap().write_all(b"drain\r\n").unwrap();
}

/// Has `serve` print its counters.
pub(crate) fn ask_for_summary(serve: &mut Child) {
    serve.stdin.as_mut().unwrap().write_all(b"stats\n").unwrap();
}

/// The variable that tells a copy of this program which process to stop.
const VICTIM: &str = "UDSMSG_TEST_CTRL_C";

/// Presses a key of the console of `child`. This program cannot do that itself: it would have to leave its own
/// console.
pub(crate) fn signal(child: &Child, _: Signal) {
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args(["--exact", "system::presses_ctrl_c", "--ignored"]).env(VICTIM, child.id().to_string());
    let ended = helper.creation_flags(DETACHED_PROCESS).stdin(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
#[ignore = "other tests start it to stop a process"]
fn presses_ctrl_c() {
    let Ok(pid) = std::env::var(VICTIM) else { return };
    // SAFETY: these calls take numbers only, and this process is there for nothing else.
    let pressed = unsafe {
        FreeConsole();
        AttachConsole(pid.parse().unwrap()) != 0
            && SetConsoleCtrlHandler(None, 1) != 0
            && GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) != 0
    };
    assert!(pressed, "{}", io::Error::last_os_error());
}
