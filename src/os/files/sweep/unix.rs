//! Unix: sockets and the directories of single servers, under the lock on each directory.
//!
//! A capability file goes with its socket, and the directory of a single server also if no capability file
//! names it. Starts and stops take the same locks, so a start at the same moment finds all or nothing.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::{CHANGED, DeadCapability, Kept, NAMES_MAX, Remains, Sweep};
use crate::os::clock::Clock;
use crate::os::files::capability::CapabilityDir;
use crate::os::files::private_dir::{PrivateDir, Purpose};
use crate::os::files::process;
use crate::os::files::reach::Reach;
pub(super) use crate::os::files::remedy::rest_of;
use crate::os::names::address::Address;
use crate::os::names::location::{own_directories, shared_directories};
use crate::os::names::namespace::{Environment, Namespace, SOCKET_NAME, drawn_pid};
use crate::os::refused;
use crate::os::socket::lock::Lock;
use crate::os::socket::probe::{self, Standing};
use crate::os::sys::{self, Facts, FileKind};
use crate::proto::error::Error;

/// How often the directory of a socket is opened again because a stop removed it meanwhile.
const DIR_ATTEMPTS_MAX: u32 = 8;

/// Where servers can have left something that no capability file leads to.
pub(super) struct Places<'a> {
    namespace: &'a Namespace,
    environment: &'a Environment,
    reach: Reach,
}

impl<'a> Places<'a> {
    pub(super) fn new(namespace: &'a Namespace, environment: &'a Environment) -> Result<Self, Error> {
        let reach = Reach::new(&own_directories(namespace, environment))
            .map_err(|cause| refused("cannot look at \"/\"", cause))?;
        Ok(Self { namespace, environment, reach })
    }
}

impl Sweep<'_> {
    /// Looks at the directories of servers.
    pub(super) fn look_at_places(&mut self) {
        for shared in shared_directories(self.places.namespace, self.places.environment) {
            let looked = self.try_shared(&shared);
            self.note(Remains::Directory, &shared, looked);
        }
        let tmp = Path::new("/tmp");
        let looked = self.try_tmp(tmp);
        self.note(Remains::Directory, tmp, looked);
    }

    /// A capability file of a dead process, and its socket.
    pub(super) fn try_dead(&mut self, dead: &DeadCapability<'_>) -> Result<(), Kept> {
        let address = &dead.found.capability.address;
        if !Path::new(address.path()).is_absolute() {
            return Err("its socket path is relative: it is not known what stands there".into());
        }
        let (parent, socket) = address.split()?;
        self.places.reach.check_answers(Path::new(address.path()))?;
        for _ in 0..DIR_ATTEMPTS_MAX {
            let Some(dir) = PrivateDir::open_existing(Path::new(parent), Purpose::Sockets)? else {
                return self.try_lone(dead, Path::new(parent));
            };
            let dir = Arc::new(dir);
            let _lock = Lock::take(&dir, &Clock::new())?;
            if dir.is_in_place() {
                return self.try_locked(dead, &dir, socket);
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
        if its_pid.is_some() && self.places.namespace.drawn_pid(dir.path()) == its_pid {
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
        self.remove_lone(dead)
    }

    /// Directories of single servers in one that they share.
    fn try_shared(&mut self, shared: &Path) -> Result<(), Kept> {
        self.places.reach.check_answers(shared)?;
        match PrivateDir::open_existing(shared, Purpose::Sockets)? {
            Some(dir) => self.try_own_dirs(&dir, shared, drawn_pid, |_| true),
            None => Ok(()),
        }
    }

    /// Directories of single servers directly in `/tmp`, which others can fill as they please.
    fn try_tmp(&mut self, tmp: &Path) -> Result<(), Kept> {
        let Ok(dir) = fs::File::open(tmp) else { return Ok(()) };
        let prefix = format!("{}-", self.places.namespace.name());
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
        self.places.reach.check_answers(&socket)?;
        let Some(dir) = PrivateDir::open_existing(path, Purpose::Sockets)? else { return Ok(()) };
        let dir = Arc::new(dir);
        if !dir.is_local() {
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
}

fn cannot_list(cause: io::Error) -> Kept {
    format!("it cannot be listed: {cause}").into()
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
