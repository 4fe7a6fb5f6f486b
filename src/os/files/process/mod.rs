//! Which process it was, so that it can be told later whether it still lives: a pid is used again, so it is
//! not enough.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::process;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[cfg(unix)]
pub(crate) use self::unix::check_gone;

/// A process and the facts that tell it from every other one with the same pid.
///
/// Every fact but the pid can be unknown: on a platform without it, or because the program that wrote the
/// file did not know it.
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
    /// The machine, as `/etc/machine-id` names it; on Windows the `MachineGuid` of its registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The machine's boot, as `/proc/sys/kernel/random/boot_id` names it; unknown on Windows, where the start
    /// is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The inode of its pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// The inode of its time namespace, where the kernel has them: the start is counted in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_namespace: Option<u64>,
    /// Its start, in clock ticks since boot: field 22 of `/proc/<pid>/stat`. On Windows in units of 100 ns
    /// since the year 1601.
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

/// Where an identity was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// On a file system that only this machine has: another boot is an earlier one.
    ThisMachine,
    /// Perhaps on another machine, which can have the same id if both were made from one image.
    Anywhere,
}

impl ProcessIdentity {
    /// The process that calls this.
    pub fn current() -> Self {
        Self { pid: process::id(), start: ProcessStart::of_current() }
    }

    /// Whether the process still lives, as far as that can be proven from here.
    ///
    /// It is dead if, in the same boot of the same machine and in the same pid namespace, there is no such
    /// process, or a zombie, or, in the same time namespace, one with another start. A home directory can be
    /// shared by machines and containers, and machines made from one image can have one id: where the place
    /// is not known to be the same, the state is [`ProcessState::Unknown`].
    ///
    /// On Windows, which does not name its boots, a process that does not run is [`ProcessState::Unknown`]:
    /// only the directory of a capability file can say that the file is of no other machine with the same
    /// id.
    pub fn state(&self) -> ProcessState {
        self.state_and_reason().0
    }

    /// [`ProcessIdentity::state`], and why in words that can follow a colon.
    pub fn state_and_reason(&self) -> (ProcessState, &'static str) {
        self.state_from(Origin::Anywhere)
    }

    /// The same for an identity that was written down at `origin`.
    pub(crate) fn state_from(&self, origin: Origin) -> (ProcessState, &'static str) {
        self.state_seen_from(&ProcessStart::of_current(), origin)
    }
}

/// Hex digits of a digest in a mark.
const DIGEST_DIGITS: usize = 16;

/// The beginning of the hex SHA-256 of an id: files that others may list do not spell out which machine it
/// is.
fn digest(id: &str) -> String {
    let mut digits = base16ct::lower::encode_string(&Sha256::digest(id.as_bytes()));
    digits.truncate(DIGEST_DIGITS);
    digits
}

/// The digest that `part` of a mark is.
fn digest_in(part: &str) -> Option<String> {
    let is_digest = part.len() == DIGEST_DIGITS && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| part.to_owned())
}
