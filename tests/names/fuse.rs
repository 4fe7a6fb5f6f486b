//! A file system of this very test, through the kernel's FUSE device: one that never answers, or any other.
//!
//! It is mounted in a mount namespace of its own, so that nothing else on the machine can touch it, and it
//! ends with the thread that made it. A watchdog aborts it after 20 s: what hangs on it then fails, and so
//! does the test.

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

/// Opcodes of requests that every file system gets.
const FORGET: u32 = 2;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

/// What a request gets: an error, a body, or nothing at all.
pub type Answer = Option<Result<Vec<u8>, i32>>;

/// Runs `body` where a file system that never answers is mounted at `at`, an existing directory or file.
/// Returns false, and reports the skip, if this machine or user cannot have one.
pub fn with_hung_mount(at: &Path, body: impl FnOnce() + Send) -> bool {
    with_mount(at, "fuse.hung", |_, _, _| None, body)
}

/// Runs `body` where a file system of the type `kind` is mounted at `at`: `answer` gets the opcode, the node
/// and the input of each request. Returns false, and reports the skip, if this machine or user cannot have
/// one.
pub fn with_mount(
    at: &Path,
    kind: &str,
    answer: impl FnMut(u32, u64, &[u8]) -> Answer + Send,
    body: impl FnOnce() + Send,
) -> bool {
    let has_hung = AtomicBool::new(false);
    let is_over = AtomicBool::new(false);
    let was_run = thread::scope(|scope| {
        let (has_hung, is_over) = (&has_hung, &is_over);
        let thread = scope.spawn(move || {
            let device = match mount_fuse(at, kind) {
                Ok(device) => device,
                Err(cause) => {
                    crate::machine::skip(&format!("a FUSE file system cannot be mounted here: {cause}"));
                    return false;
                }
            };
            let _over = Over(is_over);
            scope.spawn(move || serve(device, answer, is_over, has_hung));
            body();
            true
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(!has_hung.into_inner(), "a call waited for the mount until the watchdog ended it");
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
fn mount_fuse(at: &Path, kind: &str) -> std::io::Result<File> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
    let device = File::options().read(true).write(true).custom_flags(flags).open("/dev/fuse")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let root_mode = if at.is_dir() { "40000" } else { "100000" };
    let options = format!("fd={},rootmode={root_mode},user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("test"), at, Some(kind), flags, Some(options.as_str()))?;
    Ok(device)
}

/// Gives each request its answer, until told to end or until the watchdog's time; the file system ends with
/// its device.
fn serve(
    mut device: File,
    mut answer: impl FnMut(u32, u64, &[u8]) -> Answer,
    is_over: &AtomicBool,
    has_hung: &AtomicBool,
) {
    let begun = Instant::now();
    let mut request = vec![0; 256 * 1024];
    while !is_over.load(Ordering::Relaxed) {
        if begun.elapsed() > WATCHDOG {
            has_hung.store(true, Ordering::Relaxed);
            eprintln!("watchdog: a call has waited {WATCHDOG:?} for the mount, which is aborted now");
            return;
        }
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(20_u8));
        let len = match device.read(&mut request) {
            Ok(len) => len,
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            // A request that was given up before it was read.
            Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
            // It was unmounted.
            Err(_) => return,
        };
        // Length, opcode, number, node, and more, in 40 bytes.
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let node = u64::from_ne_bytes(request[16..24].try_into().unwrap());
        let told = match opcode {
            // Version 7.31, no readahead, no flags, writes of 4 KiB.
            INIT => {
                let words = [7_u32, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                Some(Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect()))
            }
            FORGET | BATCH_FORGET => None,
            _ => answer(opcode, node, &request[40..len]),
        };
        let Some(told) = told else { continue };
        let (error, body) = told.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(error.to_ne_bytes());
        bytes.extend_from_slice(&request[8..16]);
        bytes.extend(body);
        let _ = device.write_all(&bytes);
    }
}
