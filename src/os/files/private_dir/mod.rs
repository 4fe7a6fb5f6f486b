//! Directories that no other user can look into or change: made, or found and checked, and then held open.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

#[cfg(unix)]
pub(crate) use self::unix::PrivateDir;
#[cfg(windows)]
pub(crate) use self::windows::PrivateDir;
use crate::os::refused;
use crate::os::sys::{self, FileId, FileKind};
use crate::proto::error::{Error, ErrorKind};

/// What a directory is for, in the words of its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It holds sockets.
    #[cfg(unix)]
    Sockets,
    /// It holds capability files. If it is ours and lacks permissions for its owner, they are added.
    Capabilities,
}

impl Purpose {
    const fn noun(self) -> &'static str {
        match self {
            #[cfg(unix)]
            Self::Sockets => "socket directory",
            Self::Capabilities => "directory of capability files",
        }
    }

    /// The directory `given` has the fault `why`, and `mend` says what to do about it.
    fn fault(self, given: &Path, why: &str, mend: &str) -> Error {
        let sentence = format!("the {} {given:?} is not private: {why}; to mend it: {mend}", self.noun());
        Error::new(ErrorKind::DirectoryNotPrivate, sentence)
    }

    /// For the directory `given`, it is not known what stands at `path`.
    fn cannot_look(self, given: &Path, path: &Path, cause: io::Error) -> Error {
        refused(format!("cannot look at {path:?} for the {} {given:?}", self.noun()), cause)
    }

    /// For the directory `given`, the directory `path` cannot be made; `mend` says what to do about it.
    fn cannot_create(self, given: &Path, path: &Path, mend: &str, cause: io::Error) -> Error {
        let noun = self.noun();
        refused(format!("cannot create the directory {path:?} for the {noun} {given:?}{mend}"), cause)
    }

    /// The directory `path`, which was looked at, cannot be opened.
    fn cannot_open(self, path: &Path, cause: io::Error) -> Error {
        refused(format!("cannot open the {} {path:?}", self.noun()), cause)
    }
}

/// The end of a sentence about a directory that cannot be made.
const MAKE_IT: &str = "; make it yourself, or name another";

/// Removes the directory at `path`, unless it is gone or something is in it.
pub(crate) fn remove_if_empty(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(())
        }
        removed => removed,
    }
}

/// Directories that a start has made, each before those in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct MadeDirs(Vec<MadeDir>);

#[derive(Clone, Debug)]
struct MadeDir {
    path: PathBuf,
    /// Unknown if the system refused to say directly after it was made.
    id: Option<FileId>,
}

impl MadeDirs {
    /// Makes the directory `path`; says whether it did, or another process has made it meanwhile.
    fn make(&mut self, path: &Path) -> io::Result<bool> {
        match sys::make_dir(path) {
            // On record before anything else can fail.
            Ok(()) => self.0.push(MadeDir { path: path.to_owned(), id: None }),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(cause) => return Err(cause),
        }
        Ok(true)
    }

    /// Notes which directory the last one is.
    fn identify_last(&mut self, id: FileId) {
        if let Some(made) = self.0.last_mut() {
            made.id = Some(id);
        }
    }

    /// Adds directories that were made later.
    pub(crate) fn append(&mut self, mut later: Self) {
        self.0.append(&mut later.0);
    }

    /// Whether the directory at `path` is one of them.
    #[cfg(unix)]
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.0.iter().any(|made| made.path == path)
    }

    /// Removes those that still stand there and are empty. What another process has put something into stays,
    /// and so does what the system refuses to remove; that is reported.
    pub(crate) fn remove(&mut self) {
        for made in mem::take(&mut self.0).into_iter().rev() {
            let removed = sys::facts_of_path(&made.path).and_then(|found| {
                let is_ours = found.kind == FileKind::Directory && found.is_ours();
                let is_same = made.id.is_none_or(|id| found.id == id);
                if is_ours && is_same { remove_if_empty(&made.path) } else { Ok(()) }
            });
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                let directory = made.path.display();
                tracing::warn!(%directory, %error, "a directory of a refused start is left behind");
            }
        }
    }
}
