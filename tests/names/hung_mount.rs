//! A mount that never answers: a FUSE file system that accepts every request and replies to none but the first.
//!
//! It is mounted in a mount namespace of its own, so that nothing else on the machine can touch it, and it ends with
//! the thread that made it. A watchdog aborts it after 20 s: what hangs on it then fails, and so does the test.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// How long the code under test may take.
const WATCHDOG: Duration = Duration::from_secs(20);

/// The opcode of the first request, and what is answered to it: version 7.31, no readahead, no flags, writes of 4 KiB.
const INIT: u32 = 26;
const INIT_ANSWER: [u32; 16] = [7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Runs `body` where a file system that never answers is mounted at `at`, an existing directory or file. False, and a
/// line that says so, if this machine or user cannot have one.
pub fn with_hung_mount(at: &Path, body: impl FnOnce() + Send) -> bool {
    let has_hung = AtomicBool::new(false);
    let is_over = AtomicBool::new(false);
    let was_run = thread::scope(|scope| {
        let (has_hung, is_over) = (&has_hung, &is_over);
        let thread = scope.spawn(move || {
            let device = match mount_hung(at) {
                Ok(device) => device,
                Err(cause) => {
                    eprintln!("SKIPPED: a FUSE file system cannot be mounted here: {cause}");
                    return false;
                }
            };
            let _over = Over(is_over);
            scope.spawn(move || answer_nothing(device, is_over, has_hung));
            body();
            true
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(!has_hung.into_inner(), "a call waited for the hung mount until the watchdog ended it");
    was_run
}

/// Tells the file system to end, also after a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Mounts it in a mount namespace that only this thread and its children are in.
fn mount_hung(at: &Path) -> std::io::Result<File> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
    let device = File::options().read(true).write(true).custom_flags(flags).open("/dev/fuse")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let root_mode = if at.is_dir() { "40000" } else { "100000" };
    let options = format!("fd={},rootmode={root_mode},user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("hung"), at, Some("fuse.hung"), flags, Some(options.as_str()))?;
    Ok(device)
}

/// Takes every request and answers the first, until told to end or until the watchdog's time; the file system ends
/// with its device.
fn answer_nothing(mut device: File, is_over: &AtomicBool, has_hung: &AtomicBool) {
    let begun = Instant::now();
    let mut request = vec![0; 256 * 1024];
    while !is_over.load(Ordering::Relaxed) {
        if begun.elapsed() > WATCHDOG {
            has_hung.store(true, Ordering::Relaxed);
            eprintln!("watchdog: a call has waited {WATCHDOG:?} for the hung mount, which is aborted now");
            return;
        }
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(20_u8));
        let word = |request: &[u8], at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        match device.read(&mut request) {
            Ok(_) if word(&request, 4) == INIT => {
                let mut answer = vec![80, 0, 0, 0, 0, 0, 0, 0];
                answer[..4].copy_from_slice(&80_u32.to_ne_bytes());
                answer.extend_from_slice(&request[8..16]);
                INIT_ANSWER.iter().for_each(|word| answer.extend_from_slice(&word.to_ne_bytes()));
                device.write_all(&answer).unwrap();
            }
            Ok(_) => {}
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // It was unmounted.
            Err(_) => return,
        }
    }
}
