//! This program as a child: it takes a name, reports the result, and waits to be told to go on.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{SigHandler, Signal, raise, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use udsmsg::os::{CapabilityDir, Claim, Random};
use udsmsg::{Address, Environment, Location, Namespace};

/// A child process that runs a part of a test.
pub struct Part {
    process: Child,
    lines: BufReader<ChildStdout>,
}

/// The prefix of each line that a child prints.
const MARK: &str = "=> ";

impl Part {
    /// Starts a child with these variables; it waits for the first [`Part::go_on`].
    pub fn start(variables: &[(&str, &OsStr)]) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["child::entry", "--exact", "--nocapture", "--test-threads=1"])
            .env("NAMES_CHILD", "1")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut part = Self { process, lines };
        assert_eq!(part.says(), "ready");
        part
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Lets it do its next step.
    pub fn go_on(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// The next line that it prints; empty if it has ended.
    pub fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return String::new();
            }
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return said.to_owned();
            }
        }
    }

    /// Does its next step and returns the result.
    pub fn step(&mut self) -> String {
        self.go_on();
        self.says()
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn say(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
    io::stdout().flush().unwrap();
}

fn wait() {
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
}

/// Signals to a tracer that a step begins and that it is over.
pub const STEP_SIGNALS: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

/// Does `step`, between the two signals if there is a tracer to take them.
fn traced<T>(step: impl FnOnce() -> T) -> T {
    let is_traced = env::var_os("NAMES_TRACED").is_some();
    let tell = |signal| {
        if is_traced {
            raise(signal).unwrap();
        }
    };
    let [begin, end] = STEP_SIGNALS;
    tell(begin);
    let result = step();
    tell(end);
    result
}

/// The child's part: `ready`, then for each step a bind, and a release.
///
/// - `NAMES_SOCKET`: the path, or none for a default location
/// - `NAMES_CONFIG`: the capability directory
/// - `NAMES_CWD`, `NAMES_UMASK` (octal), `NAMES_UID`: what to change before
/// - `NAMES_TRACED`: whether to signal the beginning and the end of each step to a tracer
/// - `NAMES_FAULTS`: whether a system call of a release may fail
/// - `NAMES_OVERLAY`: a directory to be seen through an overlay, in a mount namespace of its own
/// - `NAMES_AFTER`: `chdir`, `fork` or `sigpipe` between bind and release
/// - `NAMES_SEARCH`: with `NAMES_UID`, keep the right to walk through every directory
/// - `NAMES_ROUNDS`: how often to bind and release at once, instead of all that
/// - `NAMES_ATTEMPT`: instead of all that, try every way to reach a server and print the results
/// - `NAMES_PROBE`: instead of all that, `connect` until the next step, or `read` what a server sends
#[test]
fn entry() {
    if env::var_os("NAMES_CHILD").is_none() {
        return;
    }
    if let Some(dir) = env::var_os("NAMES_CWD") {
        env::set_current_dir(dir).unwrap();
    }
    if let Ok(uid) = env::var("NAMES_UID") {
        let uid = uid.parse().unwrap();
        setgroups(&[]).unwrap();
        setgid(Gid::from_raw(uid)).unwrap();
        if env::var_os("NAMES_SEARCH").is_some() {
            become_searcher(uid);
        } else {
            setuid(Uid::from_raw(uid)).unwrap();
        }
    }
    if let Ok(mask) = env::var("NAMES_UMASK") {
        umask(Mode::from_bits_truncate(nix::libc::mode_t::from_str_radix(&mask, 8).unwrap()));
    }
    let mut random = Random::from_os().unwrap();
    let capabilities = CapabilityDir::at(PathBuf::from(env::var_os("NAMES_CONFIG").unwrap()));
    let auth_token = random.auth_token();
    say("ready");
    wait();
    if env::var_os("NAMES_ATTEMPT").is_some() {
        return attempt_every_way(&capabilities, &mut random);
    }
    if let Ok(how) = env::var("NAMES_PROBE") {
        return if how == "read" { read_of_server() } else { connect_on_and_on() };
    }
    if let Ok(rounds) = env::var("NAMES_ROUNDS") {
        go_round(rounds.parse().unwrap(), &capabilities, &mut random);
        return;
    }
    if let Some(dir) = env::var_os("NAMES_OVERLAY") {
        overlay(Path::new(&dir));
    }
    let bound = traced(|| {
        let location = match env::var_os("NAMES_SOCKET") {
            Some(path) => Location::from(Address::from_path(&path).unwrap()),
            None => Location::draw(&Namespace::default(), &Environment::from_process(), &mut random)?,
        };
        Claim::bind(location, &capabilities, &auth_token, &mut random)
    });
    let (listener, mut claim) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            say(format_args!("{}: {error}", error.code()));
            return;
        }
    };
    let path = claim.address().path().to_owned();
    say(format_args!("bound {path} {:04o}", Path::new(&path).symlink_metadata().unwrap().mode() & 0o7777));
    wait();
    match env::var("NAMES_AFTER").as_deref() {
        Ok("chdir") => env::set_current_dir("/").unwrap(),
        Ok("fork") => fork_and_drop(&mut claim, &listener, &mut random),
        Ok("sigpipe") => send_to_vanished_peer(),
        _ => {}
    }
    let was_there = claim.still_there();
    let released = traced(|| claim.release(&listener));
    assert!(released.is_ok() || env::var_os("NAMES_FAULTS").is_some(), "{released:?}");
    claim.release(&listener).unwrap();
    say(format_args!("released {was_there} {}", claim.still_there()));
}

/// Puts an overlay over `dir` that only this process sees; what changes lies in `<dir>-upper`.
#[cfg(target_os = "linux")]
fn overlay(dir: &Path) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let beside = |what: &str| PathBuf::from(format!("{}-{what}", dir.display()));
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let (upper, work) = (beside("upper"), beside("work"));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", dir.display(), upper.display(), work.display());
    mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
}

#[cfg(not(target_os = "linux"))]
fn overlay(_: &Path) {}

/// Binds and releases `count` times; prints whether descriptors or threads were left.
fn go_round(count: usize, capabilities: &CapabilityDir, random: &mut Random) {
    let address = Address::from_path(&env::var_os("NAMES_SOCKET").unwrap()).unwrap();
    let open =
        || ["fd", "task"].map(|what| Path::new("/proc/self").join(what).read_dir().map(Iterator::count).ok());
    let before = open();
    for _ in 0..count {
        let auth_token = random.auth_token();
        let location = Location::from(address.clone());
        let (listener, mut claim) = Claim::bind(location, capabilities, &auth_token, random).unwrap();
        claim.release(&listener).unwrap();
    }
    say(format_args!("left {}", if open() == before { "nothing" } else { "something" }));
}

/// Tries every way to reach a server of another user.
fn attempt_every_way(capabilities: &CapabilityDir, random: &mut Random) {
    let path = PathBuf::from(env::var_os("NAMES_SOCKET").unwrap());
    let address = Address::from_path(&path).unwrap();
    let file = capabilities.path().join(CapabilityDir::file_name(&address));
    let kind = |error: io::Error| format!("{:?}", error.kind());
    let code = |error: udsmsg::Error| error.code().to_owned();
    let unexpected = || String::from("let in");
    let config = capabilities.path().parent().unwrap();
    let environment = Environment::from_pairs([("CLAUDE_CONFIG_DIR", config)]);
    let namespace = Namespace::default();
    let peers = udsmsg::Peers::in_namespace(&namespace, &environment).unwrap();
    let sent = udsmsg::Client::in_namespace(&namespace, &environment).unwrap().ping(&address);
    let bound = Claim::bind(address.clone().into(), capabilities, &random.auth_token(), random);
    let answers = [
        ("connect", UnixStream::connect(&path).map_or_else(kind, |_| unexpected())),
        ("file", std::fs::read(&file).map_or_else(kind, |_| unexpected())),
        ("reader", capabilities.read(&address).map_or_else(code, |_| unexpected())),
        ("peers", peers.list().map_or_else(code, |_| unexpected())),
        (
            "client",
            match sent {
                udsmsg::SendOutcome::NotSent(error) => code(error),
                other => other.to_string(),
            },
        ),
        ("start", bound.map_or_else(code, |_| unexpected())),
    ];
    let said: Vec<_> = answers.iter().map(|(way, answer)| format!("{way}={answer}")).collect();
    say(said.join("; "));
}

/// Writes a line and prints what is read back.
fn read_of_server() {
    let mut stream = UnixStream::connect(env::var_os("NAMES_SOCKET").unwrap()).unwrap();
    let _ = stream.write_all(b"{\"type\":\"text\",\"meta\":{\"authToken\":\"x\"}}\n");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => say(format_args!("closed {}", bytes.len())),
        Err(error) => say(format_args!("{:?}", error.kind())),
    }
}

/// Connects in a tight loop until the next step; prints how often it connected, was denied, and found no
/// listener.
fn connect_on_and_on() {
    let path = PathBuf::from(env::var_os("NAMES_SOCKET").unwrap());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let mut counts = [0; 3];
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let at = match UnixStream::connect(&path) {
                    // One connection is enough; with a full backlog, connecting would block without end.
                    Ok(_) => return [1, counts[1], counts[2]],
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => 1,
                    Err(_) => 2,
                };
                counts[at] += 1_usize;
            }
            counts
        });
        wait();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        connecting.join().unwrap()
    });
    say(counts.map(|count| count.to_string()).join(" "));
}

/// Becomes user `uid` with the right to read and search everything, and no other: only the mode can protect a
/// socket from it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "there is no safe way to keep one right of root's")]
fn become_searcher(uid: u32) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Rights {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    /// `CAP_DAC_READ_SEARCH`.
    const READ_SEARCH: u32 = 1 << 2;
    let header = Header { version: VERSION_3, pid: 0 };
    let kept = Rights { effective: READ_SEARCH, permitted: READ_SEARCH, inheritable: 0 };
    let rights = [kept, Rights::default()];
    nix::sys::prctl::set_keepcaps(true).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
    // SAFETY: both structures are those of version 3 of this call, and outlive it.
    let set = unsafe { nix::libc::syscall(nix::libc::SYS_capset, &raw const header, rights.as_ptr()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

#[cfg(not(target_os = "linux"))]
fn become_searcher(_: u32) {}

/// Sends to a vanished peer with the default action of `SIGPIPE`, as in a host that is not a Rust program.
#[allow(unsafe_code, reason = "there is no safe way to change what a signal does")]
fn send_to_vanished_peer() {
    // SAFETY: no handler is set, only the default restored.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    drop(other);
    let refused = udsmsg::os::send(&one, b"x").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
}

/// Forks; the child releases its copy of the claim and drops it, draws a nonce that is not its parent's, and
/// ends.
#[allow(unsafe_code, reason = "there is no safe fork; the child does little and ends")]
fn fork_and_drop(claim: &mut Claim, listener: &impl std::os::fd::AsFd, random: &mut Random) {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    // SAFETY: this program is a child made for this test, and its other thread only waits for this one.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let is_released = claim.release(listener).is_ok();
            // SAFETY: the copy is dropped once, in a process that ends before the caller could drop it again.
            drop(unsafe { std::ptr::read(claim) });
            let is_written = theirs.write_all(random.nonce().as_bytes()).is_ok();
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { nix::libc::_exit(i32::from(!is_released || !is_written)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            let mut nonce = [0; 32];
            ours.read_exact(&mut nonce).unwrap();
            assert_ne!(random.nonce().as_bytes(), nonce);
        }
    }
}
