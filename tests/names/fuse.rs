//! File systems of this very test: one that never answers, and one that could be another machine's.
//!
//! Each is mounted in a mount namespace of its own, so that nothing else on the machine can touch it, and it ends with
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

/// Opcodes of requests.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const MKNOD: u32 = 8;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const BATCH_FORGET: u32 = 42;

/// What a request gets: an error, a body, or nothing at all.
type Answer = Option<Result<Vec<u8>, i32>>;

/// Runs `body` where a file system that never answers is mounted at `at`, an existing directory or file. False, and a
/// line that says so, if this machine or user cannot have one.
pub fn with_hung_mount(at: &Path, body: impl FnOnce() + Send) -> bool {
    with_mount(at, "fuse.hung", |_, _, _| None, body)
}

/// Runs `body` where a file system that answers, but of which nobody can say whose it is, is mounted at the directory
/// `at` with one `file` in it: its name and what it holds. Sockets can be made there, and nothing else.
pub fn with_shared_mount(at: &Path, file: (&str, &str), body: impl FnOnce() + Send) -> bool {
    let mut files = vec![Node::new("", 0o040_700, ""), Node::new(file.0, 0o100_600, file.1)];
    with_mount(
        at,
        "fuse.shared",
        move |opcode, node, input| Some(answer(&mut files, opcode, node, input)),
        body,
    )
}

fn with_mount(
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
                    eprintln!("SKIPPED: a FUSE file system cannot be mounted here: {cause}");
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

/// Gives each request its answer, until told to end or until the watchdog's time; the file system ends with its device.
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
        let opcode = word(&request, 4);
        let node = u64::from_ne_bytes(request[16..24].try_into().unwrap());
        let told = match opcode {
            // Version 7.31, no readahead, no flags, writes of 4 KiB.
            INIT => Some(Ok(words(&[7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]))),
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

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A file of the shared file system; its number is its place, counted from 1, and the first is the root.
struct Node {
    name: Vec<u8>,
    mode: u32,
    contents: Vec<u8>,
}

impl Node {
    fn new(name: impl AsRef<[u8]>, mode: u32, contents: &str) -> Self {
        Self { name: name.as_ref().to_owned(), mode, contents: contents.as_bytes().to_owned() }
    }

    /// `fuse_attr` of the node `number`.
    fn attributes(&self, number: u64) -> Vec<u8> {
        let wide = [number, self.contents.len() as u64, 0, 0, 0, 0];
        let mut bytes: Vec<u8> = wide.iter().flat_map(|wide| wide.to_ne_bytes()).collect();
        let uid = udsmsg::os::sys::effective_uid();
        bytes.extend(words(&[0, 0, 0, self.mode, 1, uid, 0, 0, 4096, 0]));
        bytes
    }
}

fn answer(files: &mut Vec<Node>, opcode: u32, node: u64, input: &[u8]) -> Result<Vec<u8>, i32> {
    const ENOENT: i32 = 2;
    const EROFS: i32 = 30;
    const ENOSYS: i32 = 38;
    let name = |input: &[u8]| input.split(|&byte| byte == 0).next().unwrap().to_owned();
    let entry = |files: &[Node], at: usize| {
        let number = at as u64 + 1;
        let mut bytes: Vec<u8> = [number, 0, 0, 0, 0].iter().flat_map(|wide| wide.to_ne_bytes()).collect();
        bytes.extend(files[at].attributes(number));
        bytes
    };
    let file = usize::try_from(node).unwrap() - 1;
    match opcode {
        LOOKUP => {
            let name = name(input);
            let at = files.iter().skip(1).position(|file| file.name == name).ok_or(ENOENT)?;
            Ok(entry(files, at + 1))
        }
        GETATTR | SETATTR => {
            if opcode == SETATTR && word(input, 0) & 1 == 1 {
                files[file].mode = word(input, 68);
            }
            Ok([vec![0; 16], files[file].attributes(node)].concat())
        }
        MKNOD if word(input, 0) & 0o170_000 == 0o140_000 => {
            files.push(Node::new(name(&input[16..]), word(input, 0), ""));
            Ok(entry(files, files.len() - 1))
        }
        OPEN | OPENDIR => Ok(vec![0; 16]),
        READ => {
            let at = usize::try_from(u64::from_ne_bytes(input[8..16].try_into().unwrap())).unwrap();
            Ok(files[file].contents.get(at..).unwrap_or_default().to_owned())
        }
        READDIR if input[8] == 0 => Ok(files
            .iter()
            .enumerate()
            .skip(1)
            .flat_map(|(at, file)| {
                let number = at as u64 + 1;
                let mut entry = [number.to_ne_bytes(), number.to_ne_bytes()].concat();
                entry.extend(words(&[file.name.len() as u32, 0]));
                entry.extend(&file.name);
                entry.resize(entry.len().next_multiple_of(8), 0);
                entry
            })
            .collect()),
        READDIR | RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
        // Nothing can be removed or renamed here.
        10..=13 | 45 => Err(EROFS),
        _ => Err(ENOSYS),
    }
}
