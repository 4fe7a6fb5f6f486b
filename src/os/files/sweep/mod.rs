//! What dead servers left behind is removed: only what is ours, and only what is provably dead.
//!
//! Capability files, with what belongs to them on the system, and files that were to become capability files
//! are looked at everywhere. A process is dead if [`ProcessIdentity::state_and_reason`] says so, or if what
//! it left tells that it has ended and no other machine can have written that down. What may belong to
//! another machine, another container or a live process is kept. Each thing is looked at again right before
//! it is removed.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use self::unix::{Places, rest_of};
#[cfg(windows)]
use self::windows::rest_of;
use super::capability::{FoundCapability, OpenCapabilityDir, is_capability_name, temporary_of};
use super::process::{Origin, ProcessIdentity, ProcessState};
use crate::os::names::namespace::{Environment, Namespace};
use crate::os::random::Random;
use crate::os::sys::FileKind;
use crate::proto::error::Error;

/// Files of ours in one directory that are looked at in one call; the next call looks at others.
pub(crate) const NAMES_MAX: usize = 16_384;

/// What kind of thing was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remains {
    /// A capability file.
    Capability,
    /// A file that was to become one.
    Temporary,
    /// A socket.
    Socket,
    /// The directory of one server.
    Directory,
}

impl Remains {
    /// A stable, machine-readable word for this kind.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Capability => "capability",
            Self::Temporary => "temporary",
            Self::Socket => "socket",
            Self::Directory => "directory",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is gone.
    Removed,
    /// It would have been removed: this was a dry run.
    WouldBeRemoved,
    /// It stays: it is in use, or that cannot be excluded, or it is not ours.
    Kept,
    /// It was to be removed, and the system refused.
    Failed,
}

impl Fate {
    /// A stable, machine-readable word for this fate.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::WouldBeRemoved => "would_be_removed",
            Self::Kept => "kept",
            Self::Failed => "failed",
        }
    }
}

/// One thing that a sweep looked at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Swept {
    /// What it is.
    pub remains: Remains,
    /// Where it is. Other programs can have chosen the text: escape it before it is shown.
    pub path: PathBuf,
    /// What became of it.
    pub fate: Fate,
    /// Why.
    pub reason: String,
}

/// One sweep.
pub(crate) struct Sweep<'a> {
    /// The directory of the capability files, if it exists.
    capabilities: Option<&'a OpenCapabilityDir>,
    /// Where the capability files can have come from.
    origin: Origin,
    is_dry: bool,
    /// What else is looked at.
    #[cfg(unix)]
    places: Places<'a>,
    random: Random,
    report: Vec<Swept>,
    /// A sentence about each directory with more in it than one call looks at.
    truncated: Vec<String>,
}

impl<'a> Sweep<'a> {
    /// Looks at everything; says what became of it, and which directories hold more than was looked at.
    pub(crate) fn run(
        capabilities: Option<&'a OpenCapabilityDir>,
        namespace: &'a Namespace,
        environment: &'a Environment,
        is_dry: bool,
    ) -> Result<(Vec<Swept>, Vec<String>), Error> {
        let mut sweep = Self {
            capabilities,
            origin: capabilities.map_or(Origin::Anywhere, OpenCapabilityDir::origin),
            is_dry,
            #[cfg(unix)]
            places: Places::new(namespace, environment)?,
            random: Random::from_os()?,
            report: Vec::new(),
            truncated: Vec::new(),
        };
        if let Some(files) = sweep.capabilities {
            sweep.look_at_files(files)?;
        }
        #[cfg(unix)]
        sweep.look_at_places();
        // A pipe ends with its process, and leaves nothing but its capability file.
        #[cfg(windows)]
        let _ = (namespace, environment);
        Ok((sweep.report, sweep.truncated))
    }

    /// The capability files and what belongs to them.
    fn look_at_files(&mut self, files: &OpenCapabilityDir) -> Result<(), Error> {
        let wanted = |name: &str| is_capability_name(name) || temporary_of(name).is_some();
        let (mut names, is_all) = files.names(NAMES_MAX, wanted, &mut self.random)?;
        self.note_truncated(files.path(), is_all);
        names.sort_unstable();
        for name in &names {
            let file = Listed { files, name, path: files.path().join(name) };
            let (remains, looked) = match temporary_of(name) {
                Some((pid, mark)) => (Remains::Temporary, self.try_temporary(&file, pid, mark)),
                None => (Remains::Capability, self.try_capability(&file)),
            };
            self.note(remains, &file.path, looked);
        }
        Ok(())
    }

    fn note_truncated(&mut self, directory: &Path, is_all: bool) {
        if !is_all {
            let rest = rest_of(directory);
            self.truncated.push(format!("{directory:?} holds more than one sweep looks at; {rest}"));
        }
    }

    /// A capability file and what belongs to it.
    fn try_capability(&mut self, file: &Listed<'_>) -> Result<(), Kept> {
        let found = file.files.read_named(file.name)?;
        let (state, why) = found.publisher_state(self.origin);
        if state != ProcessState::Dead {
            return Err(why.into());
        }
        self.try_dead(&DeadCapability { file, found: &found, why })
    }

    /// A capability file of a dead process, where no lock can be had on what belongs to it.
    fn remove_lone(&mut self, dead: &DeadCapability<'_>) -> Result<(), Kept> {
        let removed = match self.is_dry {
            true => Ok(true),
            false => dead.file.files.remove_unlocked(dead.file.name, dead.found, &mut self.random),
        };
        if let Ok(false) = removed {
            return Err(CHANGED.into());
        }
        self.remove(Remains::Capability, &dead.file.path, dead.why, || removed.map(drop));
        Ok(())
    }

    /// A file that was to become a capability file: its process was cut short, or is still writing.
    fn try_temporary(&mut self, file: &Listed<'_>, pid: u32, mark: Option<&str>) -> Result<(), Kept> {
        let Ok(facts) = file.files.facts(file.name) else { return Ok(()) };
        if facts.kind != FileKind::Regular || !facts.is_ours() {
            return Err("it is no regular file of ours".into());
        }
        let by_name = mark.and_then(|mark| ProcessIdentity::state_of_mark(pid, mark, self.origin));
        let (state, why) = by_name.unwrap_or_else(|| match file.files.read_temporary(file.name) {
            Ok(found) if found.capability.process.as_ref().is_some_and(|process| process.pid == pid) => {
                found.publisher_state(self.origin)
            }
            _ => (ProcessState::Unknown, "it does not say which process made it"),
        });
        if state != ProcessState::Dead {
            return Err(why.into());
        }
        // Only that process knows its name, so that nothing else can stand there.
        self.remove(Remains::Temporary, &file.path, why, || file.files.remove(file.name));
        Ok(())
    }

    /// Does `removal`, unless this is a dry run, and reports it.
    fn remove(&mut self, remains: Remains, path: &Path, why: &str, removal: impl FnOnce() -> io::Result<()>) {
        if self.is_dry {
            return self.add(remains, path, Fate::WouldBeRemoved, why);
        }
        match removal() {
            Ok(()) => self.add(remains, path, Fate::Removed, why),
            // Another sweep was faster.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                self.add(remains, path, Fate::Failed, &format!("it could not be removed: {cause}"));
            }
        }
    }

    /// Reports a thing that stays, if that is how looking at it has ended.
    fn note(&mut self, remains: Remains, path: &Path, looked: Result<(), Kept>) {
        if let Err(why) = looked {
            self.keep(remains, path, &why.to_string());
        }
    }

    fn keep(&mut self, remains: Remains, path: &Path, why: &str) {
        self.add(remains, path, Fate::Kept, why);
    }

    fn add(&mut self, remains: Remains, path: &Path, fate: Fate, why: &str) {
        self.report.push(Swept { remains, path: path.to_owned(), fate, reason: why.to_owned() });
    }
}

/// Why a thing stays that is no longer what was found there.
const CHANGED: &str = "it has changed meanwhile";

/// Why a thing stays.
type Kept = Box<dyn std::error::Error>;

/// A file in the directory of capability files.
struct Listed<'a> {
    files: &'a OpenCapabilityDir,
    name: &'a str,
    path: PathBuf,
}

/// A capability file whose process is dead.
struct DeadCapability<'a> {
    file: &'a Listed<'a>,
    /// What was read there.
    found: &'a FoundCapability,
    /// Why its process is known to be dead.
    why: &'static str,
}

impl DeadCapability<'_> {
    /// Checks that it is still the file that was found, and its process still dead.
    fn check_unchanged(&self, origin: Origin) -> Result<(), Kept> {
        let now = self.file.files.read_named(self.file.name);
        let is_unchanged = now
            .is_ok_and(|now| now.is_same(self.found) && now.publisher_state(origin).0 == ProcessState::Dead);
        if is_unchanged { Ok(()) } else { Err(CHANGED.into()) }
    }
}
