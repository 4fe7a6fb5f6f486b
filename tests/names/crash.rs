//! A server is killed at any system call of its start or its stop: the next start succeeds, foreign files are
//! not touched, and the rest can be recognised.
//!
//! The child is traced and killed (`SIGKILL`) as it enters or leaves one system call; which one goes up by
//! one from round to round.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use udsmsg::Address;
use udsmsg::os::CapabilityDir;
use udsmsg::peers::{Fate, Remains};

use crate::child::{Part, STEP_SIGNALS};
use crate::util::{Place, leave_stale, rounds};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Start,
    /// A start in place of a dead server.
    Restart,
    Stop,
    /// A start at a default location.
    DrawnStart,
    /// A stop of one.
    DrawnStop,
}

impl Stage {
    fn is_drawn(self) -> bool {
        matches!(self, Self::DrawnStart | Self::DrawnStop)
    }
}

/// A place with foreign files beside the names that are used.
struct Scene {
    place: Place,
    path: PathBuf,
    file_name: String,
}

impl Scene {
    fn new(stage: Stage) -> Self {
        let place = Place::new();
        let path = place.make_dir("d", 0o700).join("s.sock");
        place.make_dir("config/messaging-capabilities", 0o700);
        fs::write(place.path("d/foreign"), "x").unwrap();
        fs::write(place.capabilities().path().join("foreign.json"), "x").unwrap();
        if stage == Stage::Restart {
            leave_stale(&path);
        }
        let file_name = CapabilityDir::file_name(&Address::from_path(&path).unwrap());
        Self { place, path, file_name }
    }

    /// Kills a child at stop number `at` of `stage`; false if the stage has fewer.
    fn crash(&self, stage: Stage, at: usize) -> bool {
        let capabilities = self.place.capabilities();
        let tmp = self.place.path("tmp");
        let mut variables = vec![
            ("NAMES_CONFIG", capabilities.path().as_os_str()),
            ("NAMES_TRACED", "1".as_ref()),
            ("NAMES_UMASK", "0".as_ref()),
            ("TMPDIR", tmp.as_os_str()),
        ];
        if !stage.is_drawn() {
            variables.push(("NAMES_SOCKET", self.path.as_os_str()));
        }
        let mut part = Part::start(&variables);
        let pid = test_thread(part.pid());
        let [begin, end] = STEP_SIGNALS;
        ptrace::attach(pid).unwrap();
        let _tracee = Tracee { process: part.pid(), thread: pid };
        expect_signal(pid, Signal::SIGSTOP);
        ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
        ptrace::cont(pid, None).unwrap();
        part.go_on();
        expect_signal(pid, begin);
        if matches!(stage, Stage::Stop | Stage::DrawnStop) {
            ptrace::cont(pid, None).unwrap();
            expect_signal(pid, end);
            ptrace::cont(pid, None).unwrap();
            part.go_on();
            expect_signal(pid, begin);
        }
        for _ in 0..=at {
            ptrace::syscall(pid, None).unwrap();
            match wait(pid) {
                // Under a umask of 0 the socket shows its own mode at every moment.
                WaitStatus::PtraceSyscall(_) => assert!(!is_wider_than_0600(&self.path)),
                WaitStatus::Stopped(_, signal) if signal == end => return false,
                other => panic!("{other:?}"),
            }
        }
        true
    }

    /// A sweep removes all files of dead servers and no foreign ones; returns how many half-made files it
    /// removed.
    fn check_sweep(&self, what: &str) -> usize {
        let report = crate::published::sweep(&self.place, false);
        assert!(report.swept.iter().all(|swept| swept.fate == Fate::Removed), "{what}: {report:#?}");
        let mut left = self.place.everything();
        left.retain(|name| name != "tmp" && name != "tmp/claude-code-socks");
        let expected = [
            "config",
            "config/messaging-capabilities",
            "config/messaging-capabilities/foreign.json",
            "d",
            "d/foreign",
        ];
        assert_eq!(left.into_iter().collect::<Vec<_>>(), expected, "{what}");
        report.swept.iter().filter(|swept| swept.remains == Remains::Temporary).count()
    }

    /// The next start succeeds, and after its stop nothing of ours is left but what a crash may leave.
    fn check_next_start(&self, what: &str) {
        let (listener, mut claim) =
            self.place.bind(&self.path).unwrap_or_else(|error| panic!("{what}: {error}"));
        std::os::unix::net::UnixStream::connect(&self.path).unwrap();
        self.place.capabilities().read(claim.address()).unwrap();
        claim.release(&listener).unwrap();
        let stem = self.file_name.strip_suffix(".json").unwrap();
        let mut left = self.place.everything();
        left.retain(|path| {
            let name = path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name);
            !(name.starts_with(&format!(".{stem}.")) && name.ends_with(".tmp"))
        });
        let expected =
            ["config", "config/messaging-capabilities", "config/messaging-capabilities/foreign.json"];
        assert_eq!(
            left.into_iter().collect::<Vec<_>>(),
            [&expected[..], &["d", "d/foreign"]].concat(),
            "{what}"
        );
    }
}

/// The thread of a child that plays the part: the test harness runs it beside the main one.
pub fn test_thread(pid: u32) -> Pid {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = threads.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<i32>().unwrap());
    Pid::from_raw(threads.max_by_key(|&thread| (i64::from(thread) != i64::from(pid), thread)).unwrap())
}

/// A traced thread, killed with its process when dropped. It is its tracer's to be waited for, and keeps its
/// process until then.
pub struct Tracee {
    pub process: u32,
    pub thread: Pid,
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let process = Pid::from_raw(i32::try_from(self.process).unwrap());
        signal::kill(process, Signal::SIGKILL).unwrap();
        while waitpid(self.thread, Some(WaitPidFlag::__WALL)).is_ok_and(|status| status.pid().is_some()) {}
    }
}

fn is_wider_than_0600(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.mode() & 0o177 != 0)
}

pub fn wait(thread: Pid) -> WaitStatus {
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap()
}

pub fn expect_signal(pid: Pid, signal: Signal) {
    assert_eq!(wait(pid), WaitStatus::Stopped(pid, signal));
}

/// Whether this account may trace a child of its own here; a sandbox may forbid it.
#[allow(clippy::zombie_processes, reason = "waitpid(2) takes it")]
fn can_trace() -> bool {
    let mut child = std::process::Command::new("cat");
    let mut child =
        child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let attached = ptrace::attach(pid);
    child.kill().unwrap();
    // It may be reported as stopped first.
    while !matches!(waitpid(pid, None).unwrap(), WaitStatus::Signaled(..)) {}
    attached.is_ok()
}

fn check(stage: Stage) {
    if !can_trace() {
        crate::machine::skip("no process may be traced here");
        return;
    }
    // Every system call is a stop on the way in and one on the way out. Short runs take some of them.
    let stride = 8_usize.div_ceil(rounds(1));
    let can_sweep = crate::published::can_prove();
    let (mut at, mut crashes, mut temporary) = (0, 0, 0);
    loop {
        let scene = Scene::new(stage);
        if !scene.crash(stage, at) {
            break;
        }
        let what = format!("{stage:?} at stop {at}");
        if !stage.is_drawn() {
            scene.check_next_start(&what);
        }
        if can_sweep {
            temporary += scene.check_sweep(&what);
        }
        crashes += 1;
        at += stride;
    }
    assert!(at > 20, "{stage:?} ended after {at} stops");
    // Some crash fell between the making of the file and its renaming.
    let must_be_seen = can_sweep && stride == 1 && matches!(stage, Stage::Start | Stage::DrawnStart);
    assert!(temporary > 0 || !must_be_seen);
    eprintln!(
        "{stage:?}: {crashes} of {at} stops at system calls tried with SIGKILL, {temporary} half-made \
         files swept, nothing left"
    );
}

#[test]
fn a_crash_at_any_system_call_of_a_start_is_mended_by_the_next() {
    check(Stage::Start);
}

#[test]
fn a_crash_at_any_system_call_of_a_restart_is_mended_by_the_next() {
    check(Stage::Restart);
}

#[test]
fn a_crash_at_any_system_call_of_a_stop_is_mended_by_the_next_start() {
    check(Stage::Stop);
}

#[test]
fn a_crash_at_any_system_call_of_a_start_at_a_default_location_leaves_no_litter_after_a_sweep() {
    check(Stage::DrawnStart);
}

#[test]
fn a_crash_at_any_system_call_of_a_stop_at_a_default_location_leaves_no_litter_after_a_sweep() {
    check(Stage::DrawnStop);
}
