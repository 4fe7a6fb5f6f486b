//! What dead servers left behind is removed: only what is ours, and only what is provably dead.
//!
//! Three kinds of things are looked at: capability files with their sockets, files that were to become
//! capability files, and directories of single servers that no capability file names. A process is dead if
//! [`ProcessIdentity::state_and_reason`] says so, or if this is another boot and no other machine can have
//! written that down. What may belong to another machine, another container or a live process is kept. Each
//! thing is looked at again right before it is removed, under the lock on its directory that starts and stops
//! take, so that a start at the same moment finds all or nothing.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::capability::{
    CapabilityDir, FoundCapability, OpenCapabilityDir, is_capability_name, temporary_of,
};
use super::private_dir::{PrivateDir, Purpose};
use super::process::{self, Origin, ProcessIdentity, ProcessState};
use super::reach::{Reach, is_local};
use super::remedy;
use crate::os::clock::Clock;
use crate::os::names::address::Address;
use crate::os::names::location::{own_directories, shared_directories};
use crate::os::names::namespace::{Environment, Namespace, SOCKET_NAME, drawn_pid};
use crate::os::random::Random;
use crate::os::refused;
use crate::os::socket::lock::Lock;
use crate::os::socket::probe::{self, Standing};
use crate::os::sys::{self, Facts, FileKind};
use crate::proto::error::Error;

/// Files of ours in one directory that are looked at in one call; the next call looks at others.
pub(crate) const NAMES_MAX: usize = 16_384;

/// How often the directory of a socket is opened again because a stop removed it meanwhile.
const DIR_ATTEMPTS_MAX: u32 = 8;

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
    namespace: &'a Namespace,
    /// Where the capability files can have come from.
    origin: Origin,
    is_dry: bool,
    reach: Reach,
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
        environment: &Environment,
        is_dry: bool,
    ) -> Result<(Vec<Swept>, Vec<String>), Error> {
        let reach = Reach::new(&own_directories(namespace, environment))
            .map_err(|cause| refused("cannot look at \"/\"", cause))?;
        let mut sweep = Self {
            capabilities,
            namespace,
            origin: capabilities.map_or(Origin::Anywhere, OpenCapabilityDir::origin),
            is_dry,
            reach,
            random: Random::from_os()?,
            report: Vec::new(),
            truncated: Vec::new(),
        };
        if let Some(files) = capabilities {
            sweep.look_at_files(files)?;
        }
        for shared in shared_directories(namespace, environment) {
            let looked = sweep.try_shared(&shared);
            sweep.note(Remains::Directory, &shared, looked);
        }
        let tmp = Path::new("/tmp");
        let looked = sweep.try_tmp(tmp);
        sweep.note(Remains::Directory, tmp, looked);
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
            let rest = remedy::rest_of(directory);
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
        let dead = DeadCapability { file, found: &found, why };
        let address = &found.capability.address;
        if !Path::new(address.path()).is_absolute() {
            return Err("its socket path is relative: it is not known what stands there".into());
        }
        let (parent, socket) = address.split()?;
        self.reach.check_answers(Path::new(address.path()))?;
        for _ in 0..DIR_ATTEMPTS_MAX {
            let Some(dir) = PrivateDir::open_existing(Path::new(parent), Purpose::Sockets)? else {
                return self.try_lone(&dead, Path::new(parent));
            };
            let dir = Arc::new(dir);
            let _lock = Lock::take(&dir, &Clock::new())?;
            if dir.is_in_place() {
                return self.try_locked(&dead, &dir, socket);
            }
        }
        Err("its directory keeps changing".into())
    }

    /// Under the lock on the directory of the socket: no start or stop is at work there.
    fn try_locked(&mut self, dead: &DeadCapability<'_>, dir: &PrivateDir, socket: &str) -> Result<(), Kept> {
        dead.check_unchanged(self.origin)?;
        let address = Path::new(dead.found.capability.address.path());
        match look_at(dir, socket, address) {
            Ok(Standing::Nothing) => {}
            Ok(Standing::Dead(id)) => {
                let removal = || probe::remove_same(dir, socket, id);
                self.remove(Remains::Socket, address, dead.why, removal);
            }
            Ok(Standing::Foreign(found)) => {
                self.keep(Remains::Socket, address, &why_foreign(&found));
            }
            // A child may serve on with the token of its dead parent.
            standing => {
                let what = what_may_live(&standing);
                return Err(format!("its process has ended, but {what} at its socket path").into());
            }
        }
        self.remove(Remains::Capability, &dead.file.path, dead.why, || {
            dead.file.files.remove(dead.file.name)
        });
        let its_pid = dead.found.capability.process.as_ref().map(|process| process.pid);
        if its_pid.is_some() && self.namespace.drawn_pid(dir.path()) == its_pid {
            self.remove_directory(dir, address.parent().unwrap_or_else(|| dir.path()), dead.why);
        }
        Ok(())
    }

    /// The directory of the socket, `parent`, is gone, and with it the lock.
    fn try_lone(&mut self, dead: &DeadCapability<'_>, parent: &Path) -> Result<(), Kept> {
        dead.check_unchanged(self.origin)?;
        // A start makes the directory long before it publishes.
        if !sys::facts_of_path(parent).is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound) {
            return Err(CHANGED.into());
        }
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

    /// Directories of single servers in one that they share.
    fn try_shared(&mut self, shared: &Path) -> Result<(), Kept> {
        self.reach.check_answers(shared)?;
        match PrivateDir::open_existing(shared, Purpose::Sockets)? {
            Some(dir) => self.try_own_dirs(&dir, shared, drawn_pid, |_| true),
            None => Ok(()),
        }
    }

    /// Directories of single servers directly in `/tmp`, which others can fill as they please.
    fn try_tmp(&mut self, tmp: &Path) -> Result<(), Kept> {
        let Ok(dir) = fs::File::open(tmp) else { return Ok(()) };
        let prefix = format!("{}-", self.namespace.name());
        let is_ours = |name: &str| sys::facts_unmounted(&dir, name).is_ok_and(|facts| facts.is_ours());
        self.try_own_dirs(&dir, tmp, |name| drawn_pid(name.strip_prefix(&prefix)?), is_ours)
    }

    /// The directories of single servers in `dir`, which is at the path `shared`: those whose names give a
    /// pid.
    fn try_own_dirs(
        &mut self,
        dir: &impl AsFd,
        shared: &Path,
        pid_of: impl Fn(&str) -> Option<u32>,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<(), Kept> {
        let wanted = |name: &str| pid_of(name).is_some() && is_ours(name);
        let random = &mut self.random;
        let (mut names, is_all) =
            sys::names_in(dir, NAMES_MAX, wanted, |end| random.below(end)).map_err(cannot_list)?;
        self.note_truncated(shared, is_all);
        names.sort_unstable();
        for name in names {
            let path = shared.join(&name);
            if let Some(pid) = pid_of(&name) {
                let looked = self.try_own_dir(&path, pid);
                self.note(Remains::Directory, &path, looked);
            }
        }
        Ok(())
    }

    /// The directory of one server that is named after process `pid`.
    fn try_own_dir(&mut self, path: &Path, pid: u32) -> Result<(), Kept> {
        if self.has_capability(path) {
            // That file has been looked at already.
            return Ok(());
        }
        let socket = path.join(SOCKET_NAME);
        self.reach.check_answers(&socket)?;
        let Some(dir) = PrivateDir::open_existing(path, Purpose::Sockets)? else { return Ok(()) };
        let dir = Arc::new(dir);
        if !is_local(&dir) {
            return Err("its file system may be shared with other machines".into());
        }
        let _lock = Lock::take(&dir, &Clock::new())?;
        if !sys::has_nothing_but(&dir, SOCKET_NAME).map_err(cannot_list)? {
            return Err("there is more in it than a socket".into());
        }
        let dead = match look_at(&dir, SOCKET_NAME, &socket) {
            Ok(Standing::Nothing) => None,
            Ok(Standing::Dead(id)) => Some(id),
            Ok(Standing::Foreign(found)) => return Err(why_foreign(&found).into()),
            standing => return Err(format!("{} at its socket path", what_may_live(&standing)).into()),
        };
        process::check_gone(pid)?;
        if self.has_capability(path) || !dir.is_in_place() {
            return Err(CHANGED.into());
        }
        let why = "there is no such process, and no capability file";
        if let Some(id) = dead {
            self.remove(Remains::Socket, &socket, why, || probe::remove_same(&*dir, SOCKET_NAME, id));
        }
        self.remove_directory(&dir, path, why);
        Ok(())
    }

    /// Whether a capability is published for the socket in the directory `path` of one server.
    fn has_capability(&self, path: &Path) -> bool {
        let address = Address::from_path(&path.join(SOCKET_NAME));
        address.is_ok_and(|address| {
            self.capabilities.is_some_and(|files| files.facts(&CapabilityDir::file_name(&address)).is_ok())
        })
    }

    /// Removes the directory of one server if nothing is left in it. Its lock is held.
    fn remove_directory(&mut self, dir: &PrivateDir, shown: &Path, why: &str) {
        if !dir.is_in_place() {
            return;
        }
        let removed = match self.is_dry {
            true if sys::has_nothing_but(dir, SOCKET_NAME).unwrap_or(false) => Ok(()),
            true => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            false => fs::remove_dir(dir.path()),
        };
        match removed {
            Err(cause) if cause.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.keep(Remains::Directory, shown, "there is something else in it");
            }
            removed => self.remove(Remains::Directory, shown, why, || removed),
        }
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

fn cannot_list(cause: io::Error) -> Kept {
    format!("it cannot be listed: {cause}").into()
}

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

/// What stands at the socket `name` in `dir`, which is the one at `path`.
fn look_at(dir: &PrivateDir, name: &str, path: &Path) -> io::Result<Standing> {
    probe::look_at(path, || sys::facts_at(dir, name))
}

/// Why something stays that is no socket of ours.
fn why_foreign(found: &Facts) -> String {
    match found.kind {
        FileKind::Socket => format!("it belongs to uid {}", found.uid),
        kind => format!("it is {}, and no server made it", kind.name()),
    }
}

/// What may still live, in words that can stand before "at its socket path".
fn what_may_live(standing: &io::Result<Standing>) -> String {
    match standing {
        Ok(Standing::Live(_)) => String::from("something still listens"),
        Ok(Standing::Unclear { cause, .. }) => format!("there is a socket that cannot be asked ({cause})"),
        Err(cause) => format!("it cannot be seen what is ({cause})"),
        Ok(_) => String::from("something changes what is"),
    }
}
