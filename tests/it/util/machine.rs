//! What the machine and the account let a test do: where its files go, how much time it takes, and what is
//! skipped.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
#[cfg(unix)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// A path of this length leaves room for every socket path that the tests need below it.
const BASE_BYTES_MAX: usize = 16;

/// Where the directories of a test go: the temporary directory, unless it is too long for sockets below it.
pub fn temp_base() -> PathBuf {
    let own = std::env::temp_dir();
    if cfg!(not(unix)) || own.as_os_str().len() <= BASE_BYTES_MAX { own } else { PathBuf::from("/tmp") }
}

/// The same for a directory that other users must be able to reach.
#[cfg(unix)]
pub fn open_temp_base() -> PathBuf {
    let own = temp_base();
    let others_may_search = |dir: &Path| dir.metadata().is_ok_and(|meta| meta.mode() & 0o001 != 0);
    if own.ancestors().all(others_may_search) { own } else { PathBuf::from("/tmp") }
}

/// Calls `attempt` with `first`, twice as long, and so on, until it returns something: for what must end at a
/// deadline and have come far enough before it, however busy the machine is.
pub fn with_time_enough<T>(first: Duration, mut attempt: impl FnMut(Duration) -> Option<T>) -> T {
    for doublings in 0..8 {
        if let Some(done) = attempt(first * (1 << doublings)) {
            return done;
        }
    }
    panic!("it does not come to that, not even in {:?}", first * 128);
}

/// Prints `line` to stderr, past the capture of the test harness.
pub fn print(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Reports, once for each test and reason, that a test or a part of it is not run here.
///
/// The line goes to stderr at once, past the capture of the test harness, and into a file:
/// `cli/tests/skipped.rs` and `.ci/run` print all of them at the end. `UDSMSG_TEST_SKIPPED` names another
/// file.
#[track_caller]
#[allow(dead_code, reason = "not every test program skips a test on every system")]
pub fn skip(reason: &str) {
    let program = std::env::current_exe().unwrap();
    let program = program.file_stem().unwrap().to_string_lossy().into_owned();
    let binary = program.rsplit_once('-').map_or(&*program, |(name, _hash)| name);
    let thread = std::thread::current();
    let place = match thread.name() {
        Some(test) if test != "main" => test.to_owned(),
        // With `--test-threads=1` the main thread runs the tests.
        _ => std::panic::Location::caller().to_string(),
    };
    let line = format!("SKIPPED: {binary} {place}: {reason}\n");
    static REPORTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !REPORTED.lock().unwrap().insert(line.clone()) {
        return;
    }
    print(&line);
    let file = std::env::var_os("UDSMSG_TEST_SKIPPED").map(PathBuf::from).or_else(file_of_this_run);
    // Another user may not be allowed to write there; then the line on stderr is all there is.
    if let Some(file) = file.and_then(|file| OpenOptions::new().create(true).append(true).open(file).ok()) {
        let _ = { file }.write_all(line.as_bytes());
    }
}

/// The file that all test programs of one run of cargo share; it is named after their parent.
#[cfg(unix)]
fn file_of_this_run() -> Option<PathBuf> {
    let name = format!("skipped-{}", std::os::unix::process::parent_id());
    Some(Path::new(option_env!("CARGO_TARGET_TMPDIR")?).join(name))
}

/// The standard library does not tell the parent here.
#[cfg(not(unix))]
fn file_of_this_run() -> Option<PathBuf> {
    None
}
