//! Windows: a pid and the time when its process was created tell it from every other one of a machine, also
//! from those before the last boot. Machines that were made from one image have the same id, though.

use super::{Origin, ProcessIdentity, ProcessStart, ProcessState, digest, digest_in};
use crate::os::sys::{self, Found};

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
        match (sys::process(self.pid), self.start.start_time) {
            (Found::Running { started }, Some(then)) if started == then => (Live, "its process runs"),
            (Found::Running { .. }, None) => {
                (Unknown, "its pid exists, but it is not known when its process started")
            }
            (Found::Unknown, _) => (Unknown, "the system does not say what has its pid"),
            (Found::Running { .. } | Found::Nothing, _) if origin == Origin::Anywhere => {
                (Unknown, "its process does not run here, but perhaps on another machine with the same id")
            }
            (Found::Running { .. }, Some(_)) => (Dead, "its pid has been given to another process"),
            (Found::Nothing, _) => (Dead, "there is no such process"),
        }
    }

    /// What tells this process from all others in few letters, for the name of a file that may be left empty:
    /// `<machine>-<start>`, the first as a digest. `None` if one is not known.
    pub(crate) fn mark(&self) -> Option<String> {
        let start = self.start.digested();
        Some(format!("{}-{}", start.machine_id?, start.start_time?))
    }

    /// What [`ProcessIdentity::state_from`] says of the process `pid` that left `mark`; `None` if that is no
    /// mark.
    pub(crate) fn state_of_mark(
        pid: u32,
        mark: &str,
        origin: Origin,
    ) -> Option<(ProcessState, &'static str)> {
        let (machine, start) = mark.split_once('-')?;
        let (machine_id, start_time) = (Some(digest_in(machine)?), Some(start.parse().ok()?));
        let start = ProcessStart { machine_id, start_time, ..ProcessStart::default() };
        Some(Self { pid, start }.state_seen_from(&ProcessStart::of_current().digested(), origin))
    }
}

impl ProcessStart {
    pub(super) fn of_current() -> Self {
        Self { machine_id: sys::machine_id(), start_time: sys::own_start().ok(), ..Self::default() }
    }

    /// The same with a digest in place of the id.
    fn digested(&self) -> Self {
        Self { machine_id: self.machine_id.as_deref().map(digest), ..self.clone() }
    }
}
