//! The file of one socket: made with mode 0600, known by its inode, and removed only if it still is that
//! file.
//!
//! There is no moment at which others can connect to it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{self, Backlog, UnixAddr};
use nix::sys::stat::Mode;

use super::probe::{self, Standing};
use crate::os::files::private_dir::PrivateDir;
use crate::os::names::address::Address;
use crate::os::refused;
use crate::os::sys::{self, Facts, FileId, FileKind};
use crate::proto::error::{Error, ErrorKind};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The place of a socket, and the file that we have there.
#[derive(Debug)]
pub(crate) struct SocketFile {
    /// The path exactly as it was given.
    address: Address,
    dir: Arc<PrivateDir>,
    /// The name of the socket in `dir`.
    name: String,
    own: Own,
}

/// Which file of ours stands there.
#[derive(Debug)]
enum Own {
    None,
    /// We have just bound it, and the system has not said yet which file it is.
    Unidentified,
    /// We have bound it.
    Bound(Pinned),
    /// The caller has made it, and removes it.
    Adopted(Pinned),
}

/// A file whose inode the system cannot give to another file meanwhile, where the system allows that; see
/// [`FileId`] for the others.
#[derive(Debug)]
struct Pinned {
    id: FileId,
    _pin: Option<fs::File>,
}

impl SocketFile {
    /// The place of the socket `name` in `dir`, which is the directory in `address`; nothing is made.
    pub(crate) fn new(address: Address, dir: Arc<PrivateDir>, name: &str) -> Self {
        Self { address, dir, name: name.to_owned(), own: Own::None }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn dir(&self) -> &Arc<PrivateDir> {
        &self.dir
    }

    /// Whether there is a socket that [`SocketFile::remove`] would remove.
    pub(crate) fn is_to_remove(&self) -> bool {
        matches!(self.own, Own::Unidentified | Own::Bound(_))
    }

    /// Whether the path still leads to our socket: two system calls at most.
    pub(crate) fn is_in_place(&self) -> bool {
        let (Own::Bound(own) | Own::Adopted(own)) = &self.own else { return false };
        let path = Path::new(self.address.path());
        let facts =
            if path.is_absolute() { sys::facts_of_path(path) } else { sys::facts_at(&*self.dir, &self.name) };
        facts.is_ok_and(|facts| facts.id == own.id)
    }

    /// What stands at our name in our directory, if anything.
    pub(crate) fn facts(&self) -> Result<Option<Facts>, Error> {
        let facts = probe::unless_missing(sys::facts_at(&*self.dir, &self.name));
        facts.map_err(|cause| self.cannot("look at", cause))
    }

    /// What stands there, and whether it lives. A socket whose mode keeps its owner out, as a start under a
    /// strange umask leaves it that was cut short, is asked all the same.
    pub(crate) fn look(&self) -> Result<Standing, Error> {
        let look = || {
            let standing =
                probe::look_at(Path::new(self.address.path()), || sys::facts_at(&*self.dir, &self.name));
            standing.map_err(|cause| self.cannot("look at", cause))
        };
        match look()? {
            Standing::Unclear { cause, found }
                if cause.kind() == io::ErrorKind::PermissionDenied && !found.mode.contains(sys::PRIVATE) =>
            {
                if let Err(cause) = self.set_mode(sys::PRIVATE) {
                    return Ok(Standing::Unclear { cause, found });
                }
                let standing = look();
                if !matches!(standing, Ok(Standing::Dead(_))) {
                    // It is not ours to change after all.
                    let _ = self.set_mode(found.mode);
                }
                standing
            }
            standing => Ok(standing),
        }
    }

    /// A socket bound to the path; `None` if something stands there.
    pub(crate) fn bind(&mut self) -> Result<Option<OwnedFd>, Error> {
        debug_assert!(matches!(self.own, Own::None), "what is ours would be forgotten: {self:?}");
        let name = UnixAddr::new(self.address.path());
        let name = name.map_err(|cause| self.cannot("make an address of", cause.into()))?;
        let socket = sys::stream_socket().map_err(|cause| self.cannot("make a socket for", cause))?;
        // Here the mode of the unbound socket is the mode of the file that `bind` makes, less the umask:
        // there is no moment at which it is wider. Elsewhere the file can have any mode until `listen` sets
        // it, but connecting fails, because a socket that does not listen refuses.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        nix::sys::stat::fchmod(&socket, sys::PRIVATE)
            .map_err(|cause| self.cannot("set the mode of the socket for", cause.into()))?;
        match socket::bind(socket.as_raw_fd(), &name) {
            Ok(()) => {
                self.own = Own::Unidentified;
                Ok(Some(socket))
            }
            Err(Errno::EADDRINUSE) => Ok(None),
            Err(cause) => Err(self.cannot("bind", cause.into())),
        }
    }

    /// Listens on the `socket` that [`SocketFile::bind`] has made.
    pub(crate) fn listen(&mut self, socket: &OwnedFd) -> Result<(), Error> {
        self.identify()?;
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        socket::listen(socket, backlog).map_err(|cause| self.cannot("listen on", cause.into()))
    }

    /// Remembers which file our socket is, and makes sure of its mode.
    fn identify(&mut self) -> Result<(), Error> {
        debug_assert!(matches!(self.own, Own::Unidentified), "only what was bound can listen: {self:?}");
        let made = self.facts()?.filter(|facts| facts.kind == FileKind::Socket && facts.is_ours());
        let Some(made) = made else {
            let what = format!(
                "the socket {:?} is not where it was made; was a directory replaced?",
                self.address.path()
            );
            return Err(refused(what, io::ErrorKind::NotFound));
        };
        // On record before the next call can fail.
        self.own = Own::Bound(Pinned { id: made.id, _pin: None });
        self.own = Own::Bound(self.pinned(made.id)?);
        if made.mode != sys::PRIVATE {
            self.set_mode(sys::PRIVATE).map_err(|cause| self.cannot("set the mode of", cause))?;
        }
        match self.facts()? {
            Some(now) if now.id == made.id && now.mode == sys::PRIVATE => Ok(()),
            now => {
                let mode = now.map_or(0, |now| now.mode.bits());
                let sentence = format!(
                    "the socket {:?} has mode {mode:04o} and not 0600; does its file system keep modes?",
                    self.address.path()
                );
                Err(Error::new(ErrorKind::Io, sentence))
            }
        }
    }

    /// Remembers that the file `id` is the socket of a listener that the caller has made.
    pub(crate) fn adopt(&mut self, id: FileId) -> Result<(), Error> {
        debug_assert!(matches!(self.own, Own::None), "what is ours would be forgotten: {self:?}");
        self.own = Own::Adopted(self.pinned(id)?);
        Ok(())
    }

    fn pinned(&self, id: FileId) -> Result<Pinned, Error> {
        let pin = sys::pin(&*self.dir, &self.name).map_err(|cause| self.cannot("hold on to", cause))?;
        Ok(Pinned { id, _pin: pin })
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        sys::chmod_unfollowed(Some(self.dir.file()), self.name.as_str(), mode)
    }

    /// Removes our socket if we have bound it and the name still leads to it.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        match &self.own {
            Own::Unidentified => self.remove_unidentified()?,
            Own::Bound(own) => self.remove_same(own.id)?,
            Own::None | Own::Adopted(_) => {}
        }
        self.own = Own::None;
        Ok(())
    }

    /// Leaves our socket to others.
    pub(crate) fn forget(&mut self) {
        self.own = Own::None;
    }

    /// Removes what stands at our name if it still is the file `id`.
    pub(crate) fn remove_same(&self, id: FileId) -> Result<(), Error> {
        self.unless_gone(probe::remove_same(&*self.dir, &self.name, id))
    }

    /// Removes the socket that was bound a moment ago and does not listen yet. `bind` goes by the path, so it
    /// stands in another directory if ours was replaced since it was locked.
    fn remove_unidentified(&self) -> Result<(), Error> {
        let path = Path::new(self.address.path());
        let is_in_dir = self.facts()?.is_some();
        let standing = probe::look_at(path, || match is_in_dir {
            true => sys::facts_at(&*self.dir, &self.name),
            false => sys::facts_of_path(path),
        });
        match standing {
            Ok(Standing::Dead(id)) if is_in_dir => self.remove_same(id),
            Ok(Standing::Dead(_)) => self.unless_gone(fs::remove_file(path)),
            Ok(_) => Ok(()),
            Err(cause) => Err(self.cannot("look at", cause)),
        }
    }

    /// A removal is complete if nothing of ours is left.
    fn unless_gone(&self, removed: io::Result<()>) -> Result<(), Error> {
        match removed {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(self.cannot("remove", cause)),
            _ => Ok(()),
        }
    }

    /// Why the path cannot be taken.
    pub(crate) fn occupied(&self, why: &str) -> Error {
        let sentence = format!("cannot take the socket path {:?}: {why}", self.address.path());
        Error::new(ErrorKind::PathOccupied, sentence)
    }

    pub(crate) fn cannot(&self, what: &str, cause: io::Error) -> Error {
        refused(format!("cannot {what} {:?}", self.address.path()), cause)
    }
}
