//! Unix: the way to the directory is walked one component at a time.
//!
//! Every directory on it must belong to root or to us, and must not be writable by others unless it is
//! sticky; a link on it must belong to root or to us. Then only root and we can exchange a component that has
//! been looked at, so what was looked at is what is opened. The last component must be a real directory of
//! our own without any permission for group or others.
//!
//! The owner of `/` counts as root: in a user namespace that does not map root, root's files seem to belong
//! to another user, and the owner of `/` can do anything anyway. Write permission for a group counts as
//! permission for others, unless it is certain that the group has no other member (see `group`). It also
//! covers POSIX access lists, because the group bits of a mode are the most that any entry of such a list
//! gives.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::{MAKE_IT, MadeDirs, Purpose};
use crate::os::files::reach::{self, LINKS_MAX, prepend};
use crate::os::files::{group, remedy};
use crate::os::refused;
use crate::os::sys::{self, Facts, FileId, FileKind};
use crate::proto::error::Error;

/// An open directory that is private to us.
#[derive(Debug)]
pub(crate) struct PrivateDir {
    file: File,
    path: PathBuf,
    id: FileId,
}

impl AsFd for PrivateDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PrivateDir {
    /// Opens the directory at `path`; it and its missing parents are created 0700, and noted in `made`. If
    /// that fails, those that were created are removed again.
    ///
    /// # Errors
    ///
    /// `ErrorKind::DirectoryNotPrivate` with the fault and what to do about it; `ErrorKind::Io`.
    pub(crate) fn open_or_create(path: &Path, purpose: Purpose, made: &mut MadeDirs) -> Result<Self, Error> {
        let mut walk = Walk::new(path, purpose, Missing::Create)?;
        let opened = walk.walk_on().and_then(|_| walk.open());
        if opened.is_ok() {
            made.append(walk.made);
        } else {
            walk.made.remove();
        }
        opened
    }

    /// Opens the directory at `path`, or says that it does not exist; changes nothing.
    ///
    /// # Errors
    ///
    /// As for [`PrivateDir::open_or_create`].
    pub(crate) fn open_existing(path: &Path, purpose: Purpose) -> Result<Option<Self>, Error> {
        let mut walk = Walk::new(path, purpose, Missing::Report)?;
        match walk.walk_on()? {
            None => walk.open().map(Some),
            Some(_) => Ok(None),
        }
    }

    /// Checks that the directory `path` could be made where it is to stand, if it is not there.
    ///
    /// # Errors
    ///
    /// As for [`PrivateDir::open_or_create`].
    pub(crate) fn check_parent(path: &Path) -> Result<(), Error> {
        let mut walk = Walk::new(path, Purpose::Sockets, Missing::Report)?;
        match walk.walk_on()? {
            Some(missing) if !walk.pending.is_empty() => {
                Err(refused(format!("cannot make {path:?}: {missing:?}"), io::ErrorKind::NotFound))
            }
            _ => Ok(()),
        }
    }

    /// Checks what [`PrivateDir::open_or_create`] checks, but makes and changes nothing. Says whether the
    /// directory is there.
    ///
    /// # Errors
    ///
    /// As for [`PrivateDir::open_or_create`].
    pub(crate) fn check(path: &Path, purpose: Purpose) -> Result<bool, Error> {
        let mut walk = Walk::new(path, purpose, Missing::Report)?;
        match walk.walk_on()? {
            None => {
                let found = walk.look_at(&walk.at)?;
                // A start adds permissions to a directory of capability files only.
                if purpose == Purpose::Sockets && found.keeps_owner_out() {
                    return Err(walk.owner_kept_out(&found));
                }
                Ok(true)
            }
            Some(_) if sys::is_writable(&walk.at) => Ok(false),
            Some(missing) => {
                let refusal = io::ErrorKind::PermissionDenied.into();
                Err(purpose.cannot_create(path, &missing, MAKE_IT, refusal))
            }
        }
    }

    /// Its path without any link, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory itself, for locking.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether its files are provably this machine's alone: no other one can have put them there.
    pub(crate) fn is_local(&self) -> bool {
        reach::is_local(self)
    }

    /// Whether this directory still stands where it was found; no if that cannot be told.
    pub(crate) fn is_in_place(&self) -> bool {
        self.stands().unwrap_or(false)
    }

    /// Whether this directory still stands where it was found.
    pub(crate) fn stands(&self) -> io::Result<bool> {
        match sys::facts_of_path(&self.path) {
            Ok(facts) => Ok(facts.id == self.id),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(cause),
        }
    }
}

/// What a walk does where a component is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Create,
    Report,
}

/// A walk along a path, with every directory on the way checked.
struct Walk<'a> {
    given: &'a Path,
    purpose: Purpose,
    missing: Missing,
    own_uid: u32,
    /// Who owns `/`.
    root_uid: u32,
    /// Where the walk stands: absolute, and no component of it is a link.
    at: PathBuf,
    pending: VecDeque<OsString>,
    links: u32,
    made: MadeDirs,
}

impl<'a> Walk<'a> {
    fn new(given: &'a Path, purpose: Purpose, missing: Missing) -> Result<Self, Error> {
        let at = PathBuf::from("/");
        let root = sys::facts_of_path(&at).map_err(|cause| refused("cannot look at \"/\"", cause))?;
        let mut pending = VecDeque::new();
        prepend(&mut pending, given);
        if !given.is_absolute() {
            let current = env::current_dir().map_err(|cause| {
                refused(format!("cannot say which directory {given:?} is relative to"), cause)
            })?;
            prepend(&mut pending, &current);
        }
        Ok(Self {
            given,
            purpose,
            missing,
            own_uid: sys::effective_uid(),
            root_uid: root.uid,
            at,
            pending,
            links: 0,
            made: MadeDirs::default(),
        })
    }

    /// Walks to the last component, which is looked at but not yet opened. Gives the first directory that is
    /// missing, if one is and was not to be made.
    fn walk_on(&mut self) -> Result<Option<PathBuf>, Error> {
        if !self.pending.is_empty() {
            self.check_ancestor(&self.at, &self.look_at(&self.at)?)?;
        }
        while let Some(name) = self.pending.pop_front() {
            if name == ".." {
                // No component of `at` is a link, so its parent is what its text says.
                self.at.pop();
                continue;
            }
            let next = self.at.join(&name);
            let facts = match sys::facts_of_path(&next) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => match self.missing {
                    Missing::Report => return Ok(Some(next)),
                    Missing::Create => {
                        self.make(&next)?;
                        self.look_at(&next)?
                    }
                },
                facts => facts.map_err(|cause| self.cannot_look(&next, cause))?,
            };
            match facts.kind {
                _ if self.pending.is_empty() => self.check_last(&next, &facts)?,
                FileKind::Link => {
                    self.follow(&next, &facts)?;
                    continue;
                }
                FileKind::Directory => self.check_ancestor(&next, &facts)?,
                kind => {
                    let why = format!("{next:?} on the way to it is {}, not a directory", kind.name());
                    return Err(self.fault(&why, "name another directory"));
                }
            }
            self.at = next;
        }
        Ok(None)
    }

    /// Opens the end of the walk and checks what was opened.
    fn open(&mut self) -> Result<PrivateDir, Error> {
        let found = self.look_at(&self.at)?;
        self.check_last(&self.at, &found)?;
        self.add_owner_bits(&found)?;
        let file = sys::open_dir(&self.at).map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied if found.uid == self.own_uid => self.owner_kept_out(&found),
            _ => self.purpose.cannot_open(&self.at, cause),
        })?;
        let facts = sys::facts_of(&file).map_err(|cause| self.cannot_look(&self.at, cause))?;
        self.check_last(&self.at, &facts)?;
        Ok(PrivateDir { file, path: mem::take(&mut self.at), id: facts.id })
    }

    /// Makes the directory `path` with mode 0700 under any umask, unless another process has made it
    /// meanwhile.
    fn make(&mut self, path: &Path) -> Result<(), Error> {
        let made = self.made.make(path);
        if !made.map_err(|cause| self.purpose.cannot_create(self.given, path, "", cause))? {
            return Ok(());
        }
        let facts = self.look_at(path)?;
        self.made.identify_last(facts.id);
        if facts.keeps_owner_out() && facts.kind == FileKind::Directory && facts.uid == self.own_uid {
            sys::permit_owner(path).map_err(|cause| {
                refused(format!("cannot set the mode of the new directory {path:?}"), cause)
            })?;
        }
        Ok(())
    }

    /// Adds the permissions that the owner lacks in our directory of capability files.
    fn add_owner_bits(&self, facts: &Facts) -> Result<(), Error> {
        let is_to_change = self.purpose == Purpose::Capabilities && self.missing == Missing::Create;
        if !is_to_change || !facts.keeps_owner_out() {
            return Ok(());
        }
        sys::permit_owner(&self.at)
            .map_err(|cause| refused(format!("cannot set the mode of {:?} to 0700", self.at), cause))
    }

    /// Puts the target of the link `path` before what is still to be walked.
    fn follow(&mut self, path: &Path, facts: &Facts) -> Result<(), Error> {
        if !self.is_trusted(facts.uid) {
            let why = format!("the link {path:?} on the way to it belongs to uid {}", facts.uid);
            return Err(self.fault(&why, &self.other_place()));
        }
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(self.fault("there are too many links on the way to it", "name it without them"));
        }
        let target = fs::read_link(path).map_err(|cause| self.cannot_look(path, cause))?;
        prepend(&mut self.pending, &target);
        if target.is_absolute() {
            self.at = PathBuf::from("/");
        }
        Ok(())
    }

    /// A directory on the way: only root and we may be able to exchange what stands in it.
    fn check_ancestor(&self, path: &Path, facts: &Facts) -> Result<(), Error> {
        if !self.is_trusted(facts.uid) {
            let why = format!("{path:?} on the way to it belongs to uid {}, not to root or you", facts.uid);
            return Err(self.fault(&why, &self.other_place()));
        }
        let (by_group, by_others) = facts.writable_by();
        if facts.is_sticky() || !(by_others || by_group) {
            return Ok(());
        }
        let list = sys::access_list_noted(path);
        // With an access list the group bits are the most that any entry of it gives.
        if !by_others && list.is_empty() && group::is_of_one_user(facts.gid, self.own_uid) {
            return Ok(());
        }
        let (mode, gid) = (facts.mode.bits(), facts.gid);
        let why = format!(
            "{path:?} on the way to it can be changed by others (mode {mode:04o}, group {gid}{list})"
        );
        Err(self.fault(&why, &self.other_place()))
    }

    /// The directory itself: real, ours, and closed to all others.
    fn check_last(&self, path: &Path, facts: &Facts) -> Result<(), Error> {
        let why = match facts.kind {
            FileKind::Link => {
                return Err(self.fault("it is a symbolic link", "name the directory that it leads to"));
            }
            FileKind::Directory if !facts.is_ours() => format!("it {}", facts.whose()),
            FileKind::Directory if facts.is_open_to_others() => format!("it {}", facts.openness(path)),
            FileKind::Directory => return Ok(()),
            kind => {
                let why = format!("it is {}, not a directory", kind.name());
                return Err(self.fault(&why, "name another directory"));
            }
        };
        Err(self.fault(&why, &self.remedy(path, facts)))
    }

    /// What to do about the directory at `path`.
    fn remedy(&self, path: &Path, facts: &Facts) -> String {
        match remedy::made_private(path, facts) {
            Some(change) => change,
            None if self.purpose == Purpose::Sockets && self.check_ancestor(path, facts).is_ok() => {
                remedy::directory_in(path)
            }
            None => self.other_place(),
        }
    }

    /// What to use where a directory on the way is not to be trusted.
    fn other_place(&self) -> String {
        match self.purpose {
            Purpose::Sockets => remedy::elsewhere(),
            Purpose::Capabilities => {
                String::from("use a config home of your own, whose path only root and you can change")
            }
        }
    }

    fn is_trusted(&self, uid: u32) -> bool {
        uid == self.own_uid || uid == 0 || uid == self.root_uid
    }

    fn fault(&self, why: &str, mend: &str) -> Error {
        self.purpose.fault(self.given, why, mend)
    }

    /// The directory at the end of the walk lacks permissions for its owner.
    fn owner_kept_out(&self, found: &Facts) -> Error {
        let why = format!("its mode {:04o} keeps even its owner out", found.mode.bits());
        self.fault(&why, &self.remedy(&self.at, found))
    }

    fn look_at(&self, path: &Path) -> Result<Facts, Error> {
        sys::facts_of_path(path).map_err(|cause| self.cannot_look(path, cause))
    }

    fn cannot_look(&self, path: &Path, cause: io::Error) -> Error {
        self.purpose.cannot_look(self.given, path, cause)
    }
}
