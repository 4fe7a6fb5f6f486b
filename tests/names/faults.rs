//! A system call of a start or a stop fails: the start is refused with a typed error or succeeds, the stop
//! can be tried again, and nothing is left.
//!
//! The child is traced. At one system call after the other, the number of the call is replaced by one that
//! does not exist, and its result by an error. The call is not made; the child sees that the system refused
//! it.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::util::{Place, leave_stale, rounds};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// A start for which every directory has to be made.
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

    fn is_stop(self) -> bool {
        matches!(self, Self::Stop | Self::DrawnStop)
    }
}

/// What a stage came to, of which one system call was refused.
struct Outcome {
    pid: u32,
    /// The system call, and the error it was given.
    what: String,
    /// Whether the start succeeded, and all was released later.
    has_started: bool,
    said: String,
}

fn scene(stage: Stage) -> Place {
    let place = Place::new();
    if stage == Stage::Restart {
        leave_stale(&place.make_dir("d/e", 0o700).join("s.sock"));
        fs::write(place.path("d/e/foreign"), "x").unwrap();
        fs::write(place.make_dir("config/messaging-capabilities", 0o700).join("foreign.json"), "x").unwrap();
    }
    place
}

#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod tracer {
    use nix::errno::Errno;
    use nix::libc;
    use nix::sys::ptrace::{self, Options};
    use nix::sys::signal::Signal;
    use nix::sys::wait::WaitStatus;
    use nix::unistd::Pid;

    use super::{Outcome, Stage};
    use crate::child::{Part, STEP_SIGNALS};
    use crate::crash::{Tracee, expect_signal, test_thread, wait};
    use crate::util::Place;

    /// Errors that a file system gives; which one comes first changes with the call.
    pub(super) const ERRORS: [Errno; 3] = [Errno::EIO, Errno::EACCES, Errno::ENOSPC];

    /// Calls that cannot fail, have nothing to do with files, or whose failure ends any program.
    const LEFT_OUT: [libc::c_long; 20] = [
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_geteuid,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_sched_yield,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_tgkill,
        libc::SYS_close,
        libc::SYS_umask,
    ];

    /// Why nothing can be traced here, if so.
    pub(super) fn obstacle() -> Option<&'static str> {
        let place = Place::new();
        let config = place.path("config");
        let part = Part::start(&[("NAMES_CONFIG", config.as_os_str())]);
        let thread = test_thread(part.pid());
        if ptrace::attach(thread).is_err() {
            return Some("this process may not trace another");
        }
        let _tracee = Tracee { process: part.pid(), thread };
        expect_signal(thread, Signal::SIGSTOP);
        None
    }

    /// Refuses the system call number `at` of `stage` with `error`; `None` if it has fewer.
    pub(super) fn refuse(place: &Place, stage: Stage, at: usize, error: Errno) -> Option<Outcome> {
        let (config, tmp, socket) =
            (place.path("config/messaging-capabilities"), place.path("tmp"), place.path("d/e/s.sock"));
        let mut variables = vec![
            ("NAMES_CONFIG", config.as_os_str()),
            ("NAMES_TRACED", "1".as_ref()),
            ("NAMES_FAULTS", "1".as_ref()),
            ("TMPDIR", tmp.as_os_str()),
            ("XDG_RUNTIME_DIR", tmp.as_os_str()),
        ];
        if !stage.is_drawn() {
            variables.push(("NAMES_SOCKET", socket.as_os_str()));
        }
        let mut part = Part::start(&variables);
        let thread = test_thread(part.pid());
        let [begin, end] = STEP_SIGNALS;
        ptrace::attach(thread).unwrap();
        let tracee = Tracee { process: part.pid(), thread };
        expect_signal(thread, Signal::SIGSTOP);
        ptrace::setoptions(thread, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
        ptrace::cont(thread, None).unwrap();
        part.go_on();
        expect_signal(thread, begin);
        // Runs it to the end of the step, and returns its output.
        let finish = |part: &mut Part| {
            ptrace::cont(thread, None).unwrap();
            expect_signal(thread, end);
            ptrace::cont(thread, None).unwrap();
            part.says()
        };
        let step = |part: &mut Part| {
            part.go_on();
            expect_signal(thread, begin);
        };
        if stage.is_stop() {
            let said = finish(&mut part);
            assert!(said.starts_with("bound"), "{said}");
            step(&mut part);
        }
        let what = refuse_one(thread, at, error, end)?;
        let said = finish(&mut part);
        let has_started = stage.is_stop() || said.starts_with("bound");
        if has_started && !stage.is_stop() {
            step(&mut part);
            let said = finish(&mut part);
            assert!(said.starts_with("released"), "{what}: {said}");
        }
        drop(tracee);
        Some(Outcome { pid: part.pid(), what, has_started, said })
    }

    /// Goes on to the system call number `at` that can fail, and refuses it. `None` if `end` comes first.
    fn refuse_one(thread: Pid, at: usize, error: Errno, end: Signal) -> Option<String> {
        let mut seen = 0;
        let next_stop = || {
            ptrace::syscall(thread, None).unwrap();
            match wait(thread) {
                WaitStatus::PtraceSyscall(_) => true,
                WaitStatus::Stopped(_, signal) if signal == end => false,
                other => panic!("{other:?}"),
            }
        };
        loop {
            if !next_stop() {
                return None;
            }
            let mut registers = ptrace::getregs(thread).unwrap();
            let number = registers.orig_rax;
            let can_fail = LEFT_OUT.iter().all(|&call| u64::try_from(call) != Ok(number));
            let is_chosen = can_fail && seen == at;
            seen += usize::from(can_fail);
            if is_chosen {
                // There is no such call: the system makes none.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(thread, registers).unwrap();
            }
            assert!(next_stop());
            if is_chosen {
                let mut registers = ptrace::getregs(thread).unwrap();
                registers.rax = i64::from(-(error as i32)).cast_unsigned();
                ptrace::setregs(thread, registers).unwrap();
                return Some(format!(
                    "system call {number} (number {at} of those that can fail) refused with {error:?}"
                ));
            }
        }
    }
}

fn check(stage: Stage) {
    #[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
    {
        let _ = stage;
        crate::machine::skip("how a system call is refused is written for x86-64 alone");
    }
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    {
        if let Some(why) = tracer::obstacle() {
            crate::machine::skip(&format!("system calls that fail: {why}"));
            return;
        }
        // Short runs give each call one of the errors, long ones all.
        let errors = tracer::ERRORS;
        let (mut at, mut refused, mut tried) = (0, 0, 0);
        'calls: loop {
            for number in 0..errors.len().min(rounds(1)) {
                let place = scene(stage);
                let before = place.everything();
                let error = errors[(at + number) % errors.len()];
                let Some(outcome) = tracer::refuse(&place, stage, at, error) else { break 'calls };
                check_nothing_is_left(stage, &place, &before, &outcome);
                tried += 1;
                refused += usize::from(!outcome.has_started);
            }
            at += 1;
        }
        assert!(at > 10, "{stage:?} ended after {at} system calls");
        eprintln!(
            "{stage:?}: {tried} times a system call was refused, {refused} starts failed, nothing was left"
        );
    }
}

fn check_nothing_is_left(stage: Stage, place: &Place, before: &BTreeSet<String>, outcome: &Outcome) {
    let Outcome { pid, what, has_started, said } = outcome;
    let what = format!("{stage:?}, {what}, said {said:?}");
    let mut left = place.everything();
    left.retain(|name| !before.contains(name));
    if *has_started {
        // The files of a started server stay, except its own directory.
        left.retain(|name| !place.path(name).is_dir());
        let own = format!("{pid}-");
        let shared = place.path("tmp/claude-code-socks");
        let drawn = shared.read_dir().into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let drawn: Vec<_> = drawn.filter(|name| name.to_str().unwrap().starts_with(&own)).collect();
        assert!(drawn.is_empty(), "{what}: {drawn:?}");
    } else {
        let is_typed = said.split_once(": ").is_some_and(|(code, _)| {
            !code.is_empty() && code.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
        });
        assert!(is_typed, "{what}");
    }
    assert!(left.is_empty(), "{what}: {left:?}");
    let foreign = before.iter().filter(|name| name.contains("foreign"));
    for name in foreign {
        assert!(place.path(name).exists(), "{what}: {name} is gone");
    }
    // The last resort of a default location.
    let fresh = Path::new("/tmp").read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let fresh: Vec<_> = fresh
        .filter(|name| name.to_str().is_some_and(|name| name.starts_with(&format!("claude-code-{pid}-"))))
        .collect();
    assert!(fresh.is_empty(), "{what}: {fresh:?}");
}

#[test]
fn a_start_leaves_nothing_whichever_system_call_fails() {
    check(Stage::Start);
}

#[test]
fn a_restart_leaves_nothing_whichever_system_call_fails() {
    check(Stage::Restart);
}

#[test]
fn a_stop_can_be_finished_whichever_system_call_fails() {
    check(Stage::Stop);
}

#[test]
fn a_start_at_a_default_location_leaves_nothing_whichever_system_call_fails() {
    check(Stage::DrawnStart);
}

#[test]
fn a_stop_at_a_default_location_can_be_finished_whichever_system_call_fails() {
    check(Stage::DrawnStop);
}
