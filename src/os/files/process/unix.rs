//! Unix: a pid means something in one boot of one machine and in one pid namespace.

use std::fs;
use std::process;

use super::{Origin, ProcessIdentity, ProcessStart, ProcessState, digest, digest_in};
use crate::os::sys;

impl ProcessIdentity {
    pub(super) fn state_seen_from(
        &self,
        here: &ProcessStart,
        origin: Origin,
    ) -> (ProcessState, &'static str) {
        use ProcessState::{Dead, Live, Unknown};
        match (&self.start.machine_id, &here.machine_id) {
            (Some(its), Some(ours)) if its == ours => {}
            (Some(_), Some(_)) => return (Unknown, "its process ran on another machine"),
            (None, _) => return (Unknown, "it does not say on which machine its process ran"),
            (_, None) => return (Unknown, "this machine has no id, so nothing can be proven here"),
        }
        match (&self.start.boot_id, &here.boot_id) {
            (Some(then), Some(now)) if then == now => {}
            (Some(_), Some(_)) if origin == Origin::ThisMachine => {
                return (Dead, "the machine was booted since");
            }
            (Some(_), Some(_)) => {
                return (Unknown, "the machine was booted since, or it is another one with the same id");
            }
            _ => return (Unknown, "it is not known in which boot of the machine its process ran"),
        }
        match (self.start.pid_namespace, here.pid_namespace) {
            (Some(its), Some(ours)) if its == ours => {}
            (Some(_), Some(_)) => {
                return (Unknown, "its process ran in another pid namespace, as in a container");
            }
            _ => return (Unknown, "it is not known in which pid namespace its process ran"),
        }
        let stat = match at_pid(self.pid) {
            Ok(stat) => stat,
            Err(found) => return found,
        };
        match (stat, self.start.start_time) {
            (Some(_), Some(_)) if self.start.time_namespace != here.time_namespace => (
                Unknown,
                "its pid exists, but its start was counted in another time namespace or an unknown one",
            ),
            (Some(stat), Some(start_time)) if stat.start_time == start_time => (Live, "its process runs"),
            (Some(_), Some(_)) => (Dead, "its pid has been given to another process"),
            // Without `/proc`, or if it hides the process, or without a start on record: it may be another
            // one.
            _ => (Unknown, "its pid exists, but it is not known when its process started"),
        }
    }

    /// What tells this process from all others in few letters, for the name of a file that may be left empty:
    /// `<machine>-<boot>-<pid namespace>-<start>`, the first two as digests, and `-<time namespace>` where
    /// the kernel has those. `None` if something else is not known.
    pub(crate) fn mark(&self) -> Option<String> {
        let start = self.start.digested();
        let (machine, boot) = (start.machine_id?, start.boot_id?);
        let clock = start.time_namespace.map_or_else(String::new, |inode| format!("-{inode}"));
        Some(format!("{machine}-{boot}-{}-{}{clock}", start.pid_namespace?, start.start_time?))
    }

    /// What [`ProcessIdentity::state_from`] says of the process `pid` that left `mark`; `None` if that is no
    /// mark.
    pub(crate) fn state_of_mark(
        pid: u32,
        mark: &str,
        origin: Origin,
    ) -> Option<(ProcessState, &'static str)> {
        let mut parts = mark.split('-');
        let (machine_id, boot_id) = (Some(digest_in(parts.next()?)?), Some(digest_in(parts.next()?)?));
        let mut number = || parts.next()?.parse().ok();
        let (pid_namespace, start_time) = (Some(number()?), Some(number()?));
        let time_namespace = match parts.next() {
            Some(inode) => Some(inode.parse().ok()?),
            None => None,
        };
        let is_all = parts.next().is_none();
        let start = ProcessStart { machine_id, boot_id, pid_namespace, time_namespace, start_time };
        is_all.then(|| Self { pid, start }.state_seen_from(&ProcessStart::of_current().digested(), origin))
    }
}

/// What is known of the process that has the number `pid` in our pid namespace, if anything; or, if none
/// runs, what that says of one that had it.
fn at_pid(pid: u32) -> Result<Option<Stat>, (ProcessState, &'static str)> {
    match sys::process_exists(pid) {
        Some(true) => match Stat::of(&pid.to_string()) {
            Some(stat) if stat.is_over() => {
                Err((ProcessState::Dead, "its process has ended, and its parent has not noticed"))
            }
            stat => Ok(stat),
        },
        Some(false) => Err((ProcessState::Dead, "there is no such process")),
        None => Err((ProcessState::Unknown, "its pid cannot be one")),
    }
}

/// Whether provably no process `pid` runs in our pid namespace; or why that cannot be said.
pub(crate) fn check_gone(pid: u32) -> Result<(), &'static str> {
    match at_pid(pid) {
        Ok(_) => Err("a process with its pid exists"),
        Err((ProcessState::Dead, _)) => Ok(()),
        Err((_, why)) => Err(why),
    }
}

impl ProcessStart {
    pub(super) fn of_current() -> Self {
        Self {
            machine_id: read_id("/etc/machine-id").or_else(|| read_id("/var/lib/dbus/machine-id")),
            boot_id: read_id("/proc/sys/kernel/random/boot_id"),
            pid_namespace: namespace("pid"),
            time_namespace: namespace("time"),
            start_time: Stat::of("self").filter(|stat| stat.pid == process::id()).map(|stat| stat.start_time),
        }
    }

    /// The same with digests in place of the ids.
    fn digested(&self) -> Self {
        let of = |id: &Option<String>| id.as_deref().map(digest);
        Self { machine_id: of(&self.machine_id), boot_id: of(&self.boot_id), ..self.clone() }
    }
}

/// The hex digits and dashes of an id file; an image that is to get its id at the first boot has none.
fn read_id(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim();
    let is_id = id.len() >= 32 && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_id.then(|| String::from(id))
}

/// The inode of our namespace of this kind.
fn namespace(kind: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/self/ns/{kind}")).ok().map(|metadata| metadata.ino())
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
