//! Which process it was, so that it can be told later whether it still lives: a pid alone is given out again.

use std::fs;
use std::path::Path;
use std::process;

use serde::{Deserialize, Serialize};

use super::sys;

/// A process and the facts that tell it from every other one with the same pid.
///
/// Every fact but the pid can be unknown: on a platform without it, or because whoever wrote the file did not
/// know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Its pid, in its own pid namespace.
    pub pid: u32,
    /// When and where that pid meant this process.
    pub start: ProcessStart,
}

/// When and where a process was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStart {
    /// The machine, as `/etc/machine-id` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The machine's boot, as `/proc/sys/kernel/random/boot_id` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The inode of its pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// Its start, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
}

/// Whether a process still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessState {
    /// It is the very process, and it runs.
    Live,
    /// It has provably ended.
    Dead,
    /// Nothing can be proven from here.
    Unknown,
}

impl ProcessIdentity {
    /// The process that calls this.
    pub fn current() -> Self {
        Self { pid: process::id(), start: ProcessStart::of_current() }
    }

    /// Whether the process still lives, as far as that can be proven from here.
    ///
    /// It is dead if this is another boot of its machine; or, on the same machine and in the same pid
    /// namespace, if there is no such process, or a zombie, or one with another start. A home directory can
    /// be shared by machines and containers: whatever is not known to be the same place is
    /// [`ProcessState::Unknown`].
    pub fn state(&self) -> ProcessState {
        self.state_seen_from(&ProcessStart::of_current())
    }

    fn state_seen_from(&self, here: &ProcessStart) -> ProcessState {
        if !is_same(self.start.machine_id.as_ref(), here.machine_id.as_ref()) {
            return ProcessState::Unknown;
        }
        match (&self.start.boot_id, &here.boot_id) {
            (Some(then), Some(now)) if then == now => {}
            (Some(_), Some(_)) => return ProcessState::Dead,
            _ => return ProcessState::Unknown,
        }
        if !is_same(self.start.pid_namespace, here.pid_namespace) {
            return ProcessState::Unknown;
        }
        match sys::process_exists(self.pid) {
            Some(true) => {}
            Some(false) => return ProcessState::Dead,
            None => return ProcessState::Unknown,
        }
        match (Stat::of(&self.pid.to_string()), self.start.start_time) {
            (Some(stat), _) if stat.is_over() => ProcessState::Dead,
            (Some(stat), Some(start_time)) if stat.start_time == start_time => ProcessState::Live,
            (Some(_), Some(_)) => ProcessState::Dead,
            // Without `/proc`, or if it hides the process, or without a start on record: it may be another
            // one.
            _ => ProcessState::Unknown,
        }
    }
}

/// Whether both are known, and equal.
fn is_same<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.is_some() && one == other
}

impl ProcessStart {
    fn of_current() -> Self {
        Self {
            machine_id: read_id("/etc/machine-id").or_else(|| read_id("/var/lib/dbus/machine-id")),
            boot_id: read_id("/proc/sys/kernel/random/boot_id"),
            pid_namespace: pid_namespace(),
            start_time: Stat::of("self").filter(|stat| stat.pid == process::id()).map(|stat| stat.start_time),
        }
    }
}

/// The hex digits and dashes of an id file; an image that is to get its id at the first boot has none.
fn read_id(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim();
    let is_id = id.len() >= 32 && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_id.then(|| String::from(id))
}

fn pid_namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(Path::new("/proc/self/ns/pid")).ok().map(|metadata| metadata.ino())
}

/// What `/proc/<pid>/stat` says, as far as it matters here.
struct Stat {
    pid: u32,
    state: u8,
    threads: u64,
    start_time: u64,
}

impl Stat {
    fn of(pid: &str) -> Option<Self> {
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    /// `pid (name) state …`: the name may hold blanks and brackets, so fields are counted after the last `)`.
    fn parse(text: &str) -> Option<Self> {
        let (pid_and_name, rest) = text.rsplit_once(')')?;
        let (pid, _) = pid_and_name.split_once(' ')?;
        // The state is field 3, the number of threads field 20, the start field 22.
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.bytes().next()?;
        let threads = fields.nth(16)?.parse().ok()?;
        let start_time = fields.nth(1)?.parse().ok()?;
        Some(Self { pid: pid.parse().ok()?, state, threads, start_time })
    }

    /// Whether it has ended and only waits to be asked for its status. A process whose first thread has ended
    /// while others run looks like a zombie, but counts more than one thread.
    fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}
