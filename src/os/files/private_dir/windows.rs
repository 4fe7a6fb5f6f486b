//! Windows: the directory itself is looked at through its handle, not what leads to it.
//!
//! It must be a real directory of our own, to which no other user has access but the system and the
//! administrators: profiles let these two in, and they can take every right anyway. While it is held open,
//! neither it nor a directory on the way can be renamed or removed, so its path leads to what was looked at.
//! Before that, who can exchange a directory on the way can only lead us to another one that is ours alone.

use std::io;
use std::ops::Deref;
use std::path::Path;

use super::{MAKE_IT, MadeDirs, Purpose};
use crate::os::sys::{self, Dir, Facts, FileKind};
use crate::proto::error::Error;

/// An open directory that is private to us.
#[derive(Debug)]
pub(crate) struct PrivateDir(Dir);

impl Deref for PrivateDir {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.0
    }
}

impl PrivateDir {
    /// Opens the directory at `path`; it and its missing parents are made for us alone, and noted in `made`.
    /// If that fails, those that were made are removed again.
    ///
    /// # Errors
    ///
    /// `ErrorKind::DirectoryNotPrivate` with the fault and what to do about it; `ErrorKind::Io`.
    pub(crate) fn open_or_create(path: &Path, purpose: Purpose, made: &mut MadeDirs) -> Result<Self, Error> {
        let mut new = MadeDirs::default();
        let opened = make_missing(path, purpose, &mut new).and_then(|()| Self::open(path, purpose));
        if opened.is_ok() {
            made.append(new);
        } else {
            new.remove();
        }
        opened
    }

    /// Opens the directory at `path`, or says that it does not exist; changes nothing.
    ///
    /// # Errors
    ///
    /// As for [`PrivateDir::open_or_create`].
    pub(crate) fn open_existing(path: &Path, purpose: Purpose) -> Result<Option<Self>, Error> {
        match look(path, path, purpose)? {
            Some(_) => Self::open(path, purpose).map(Some),
            None => Ok(None),
        }
    }

    /// Checks what [`PrivateDir::open_or_create`] checks, but makes and changes nothing. Says whether the
    /// directory is there.
    ///
    /// # Errors
    ///
    /// As for [`PrivateDir::open_or_create`].
    pub(crate) fn check(path: &Path, purpose: Purpose) -> Result<bool, Error> {
        if Self::open_existing(path, purpose)?.is_some() {
            return Ok(true);
        }
        let missing = missing(path, purpose)?;
        let parent = missing.last().and_then(|first| first.parent());
        if parent.is_some_and(sys::is_writable) {
            return Ok(false);
        }
        let first = missing.last().copied().unwrap_or(path);
        let refusal = io::ErrorKind::PermissionDenied.into();
        Err(purpose.cannot_create(path, first, MAKE_IT, refusal))
    }

    fn open(path: &Path, purpose: Purpose) -> Result<Self, Error> {
        // Before a file or a link is held, which an error would not name.
        let found = sys::facts_of_path(path).map_err(|cause| purpose.cannot_look(path, path, cause))?;
        check(path, purpose, &found)?;
        let dir = sys::open_dir(path).map_err(|cause| purpose.cannot_open(path, cause))?;
        let facts = sys::facts_of(dir.file()).map_err(|cause| purpose.cannot_look(path, path, cause))?;
        check(path, purpose, &facts)?;
        Ok(Self(dir))
    }

    /// Whether its files are provably this machine's alone: no other one can have put them there.
    pub(crate) fn is_local(&self) -> bool {
        sys::is_local(self.0.file())
    }
}

/// Makes what is missing of the directory `given` and of those on the way to it.
fn make_missing(given: &Path, purpose: Purpose, made: &mut MadeDirs) -> Result<(), Error> {
    for path in missing(given, purpose)?.into_iter().rev() {
        let is_made = made.make(path).map_err(|cause| purpose.cannot_create(given, path, "", cause))?;
        if is_made {
            let facts = sys::facts_of_path(path).map_err(|cause| purpose.cannot_look(given, path, cause))?;
            made.identify_last(facts.id);
        }
    }
    Ok(())
}

/// What does not exist of the directory `given` and of those on the way to it, the last one first.
fn missing(given: &Path, purpose: Purpose) -> Result<Vec<&Path>, Error> {
    let mut missing = Vec::new();
    for path in given.ancestors().take_while(|path| !path.as_os_str().is_empty()) {
        match look(given, path, purpose)? {
            None => missing.push(path),
            Some(found) if found.kind == FileKind::Regular && path != given => {
                let why = format!("{path:?} on the way to it is {}, not a directory", found.kind.name());
                return Err(purpose.fault(given, &why, "name another directory"));
            }
            Some(_) => break,
        }
    }
    Ok(missing)
}

/// What stands at `path`, on the way to `given` or at its end.
fn look(given: &Path, path: &Path, purpose: Purpose) -> Result<Option<Facts>, Error> {
    match sys::facts_of_path(path) {
        Ok(facts) => Ok(Some(facts)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(purpose.cannot_look(given, path, cause)),
    }
}

/// Checks that the directory `given` is real, ours, and closed to all others.
fn check(given: &Path, purpose: Purpose, facts: &Facts) -> Result<(), Error> {
    let elsewhere = "use a config home of your own, which only you can change";
    if facts.kind != FileKind::Directory {
        let why = format!("it is {}, not a directory", facts.kind.name());
        return Err(purpose.fault(given, &why, "name another directory"));
    }
    if !facts.is_ours() {
        return Err(purpose.fault(given, &format!("it {}", facts.whose()), elsewhere));
    }
    if facts.is_open_to_others() {
        let why = format!("it {}", facts.openness(given));
        let mend = "in its properties, let in only you, SYSTEM and Administrators; or";
        return Err(purpose.fault(given, &why, &format!("{mend} {elsewhere}")));
    }
    Ok(())
}
