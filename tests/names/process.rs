//! Whether a process is alive: proven, or unknown.
#![cfg(any(target_os = "linux", windows))]

#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};

use udsmsg::peers::{ProcessIdentity, ProcessState};

/// What is said of a process that does not run. On Windows, which does not name its boots, only the directory
/// of a capability file can say that it is no other machine's; the tests of sweeps show that.
const ENDED: ProcessState = if cfg!(windows) { ProcessState::Unknown } else { ProcessState::Dead };

/// This process, if this machine has all that is needed to prove anything.
fn current() -> Option<ProcessIdentity> {
    let current = ProcessIdentity::current();
    let start = &current.start;
    assert_eq!(current.pid, std::process::id());
    assert!(start.start_time.is_some());
    assert_eq!((start.boot_id.is_some(), start.pid_namespace.is_some()), (cfg!(unix), cfg!(unix)));
    if start.machine_id.is_none() {
        crate::machine::skip("this machine has no id, so nothing can be proven on it");
        assert_eq!(current.state(), ProcessState::Unknown);
        return None;
    }
    Some(current)
}

#[test]
fn own_process_is_alive_and_its_pid_with_another_start_time_is_not() {
    let Some(current) = current() else { return };
    assert_eq!(current.state(), ProcessState::Live);
    let mut recycled = current.clone();
    recycled.start.start_time = recycled.start.start_time.map(|ticks| ticks - 1);
    assert_eq!(recycled.state(), ENDED);
}

#[cfg(target_os = "linux")]
#[test]
fn zombie_and_reaped_process_count_as_dead() {
    let Some(current) = current() else { return };
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut identity = ProcessIdentity { pid: child.id(), start: current.start };
    identity.start.start_time = None;
    assert_eq!(identity.state(), ProcessState::Unknown);
    drop(child.stdin.take());
    // Ended, and not waited for: a zombie from here on.
    nix::sys::wait::waitid(
        nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap())),
        nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
    )
    .unwrap();
    assert_eq!(identity.state(), ProcessState::Dead);
    child.wait().unwrap();
    assert_eq!(identity.state(), ProcessState::Dead);
}

#[test]
fn process_of_another_machine_is_unknown() {
    let Some(current) = current() else { return };
    type Change = fn(&mut ProcessIdentity);
    let cases: &[(Change, ProcessState)] = &[
        (|it| it.start.machine_id = None, ProcessState::Unknown),
        (|it| it.start.machine_id = Some("0".repeat(32)), ProcessState::Unknown),
        #[cfg(unix)]
        (|it| it.start.boot_id = None, ProcessState::Unknown),
        // Whether this machine wrote it depends on where it was written.
        #[cfg(unix)]
        (|it| it.start.boot_id = Some("0".repeat(32)), ProcessState::Unknown),
        #[cfg(unix)]
        (|it| it.start.pid_namespace = None, ProcessState::Unknown),
        #[cfg(unix)]
        (|it| it.start.pid_namespace = Some(1), ProcessState::Unknown),
        (|it| it.start.start_time = None, ProcessState::Unknown),
        // In another time namespace the same moment has another number.
        #[cfg(unix)]
        (|it| it.start.time_namespace = Some(1), ProcessState::Unknown),
        #[cfg(unix)]
        (|it| (it.start.time_namespace, it.start.start_time) = (Some(1), Some(1)), ProcessState::Unknown),
        #[cfg(unix)]
        (|it| (it.start.time_namespace, it.start.start_time) = (None, Some(1)), ProcessState::Unknown),
        #[cfg(unix)]
        (|it| (it.start.time_namespace, it.pid) = (Some(1), i32::MAX as u32), ProcessState::Dead),
        (|it| it.pid = 0, ProcessState::Unknown),
        (|it| it.pid = u32::MAX, ProcessState::Unknown),
        (|it| it.pid = i32::MAX as u32, ENDED),
    ];
    for (change, state) in cases {
        let mut changed = current.clone();
        change(&mut changed);
        assert_eq!(changed.state(), *state, "{changed:?}");
    }
    // On another machine not even another boot proves anything.
    let mut elsewhere = current;
    elsewhere.start.machine_id = Some("0".repeat(32));
    elsewhere.start.boot_id = Some("0".repeat(32));
    assert_eq!(elsewhere.state(), ProcessState::Unknown);
}

#[cfg(target_os = "linux")]
#[test]
fn hostile_process_name_does_not_shift_the_fields() {
    let Some(current) = current() else { return };
    // A name with blanks and brackets, as hostile as 15 bytes allow.
    let dir = crate::util::Place::new();
    let program = dir.path(") Z 1 2 (x) 7");
    std::fs::copy("/bin/cat", &program).unwrap();
    let child = Command::new(&program).stdin(Stdio::piped()).spawn();
    if child.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
        return crate::machine::skip("no program can be run in the directory for temporary files");
    }
    let mut child = child.unwrap();
    // Until the child has become the program, its name is still ours.
    let stat = loop {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        if stat.contains(") Z 1 2 (x) 7)") {
            break stat;
        }
        std::thread::yield_now();
    };
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    let mut identity = ProcessIdentity { pid: child.id(), start: current.start };
    identity.start.start_time = Some(fields[19].parse().unwrap());
    assert_eq!(identity.state(), ProcessState::Live);
    child.kill().unwrap();
    child.wait().unwrap();
}
