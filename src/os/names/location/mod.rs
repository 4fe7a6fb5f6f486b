//! Where a server listens: a path from the caller, or a default that fits and that no other user controls.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fmt;

#[cfg(unix)]
pub(crate) use self::unix::{own_directories, shared_directories};
#[cfg(windows)]
pub(crate) use self::windows::own_directories;
use super::address::Address;
use super::namespace::{Environment, Namespace};
#[cfg(unix)]
use crate::os::files::private_dir::MadeDirs;
use crate::os::random::Random;
use crate::proto::error::{Error, ErrorKind};

/// Where a server listens, and how it was chosen.
#[derive(Clone, Debug)]
pub struct Location {
    address: Address,
    skipped: Vec<SkippedLocation>,
    /// Whether the directory of the socket was drawn for this server alone.
    #[cfg(unix)]
    is_drawn: bool,
    /// The directories that drawing it has made: a start that fails removes them.
    #[cfg(unix)]
    made: MadeDirs,
}

/// A default location that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedLocation {
    /// The directory that was not used, escaped where it is not UTF-8.
    pub directory: String,
    /// What kind of obstacle it was.
    pub kind: ErrorKind,
    /// The obstacle in words.
    pub reason: String,
}

impl fmt::Display for SkippedLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was not used: {}", self.directory, self.reason)
    }
}

impl From<Address> for Location {
    /// The location that the caller chose.
    fn from(address: Address) -> Self {
        Self {
            address,
            skipped: Vec::new(),
            #[cfg(unix)]
            is_drawn: false,
            #[cfg(unix)]
            made: MadeDirs::default(),
        }
    }
}

impl Location {
    /// Draws a new default location for `namespace`:
    /// `$TMPDIR/<namespace>-socks/<pid>-<nonce>/messaging.sock`.
    ///
    /// On Windows it is `\\.\pipe\<namespace>-<pid>-<nonce>`, which needs no directory. The rest is about
    /// other systems.
    ///
    /// Where that is too long, or the shared directory is not private to us, the next is taken: the same
    /// below `$XDG_RUNTIME_DIR`, `$TMPDIR/<namespace>-socks-<uid>/…`, and a fresh directory directly in
    /// `/tmp`. Every candidate that was not used is in [`Location::skipped`]. The shared directory is created
    /// here, the directory of this server only when it starts; if that start fails, both are removed again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoDefaultLocation`] with all reasons, if none can be used.
    pub fn draw(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
    ) -> Result<Self, Error> {
        Self::choose(namespace, environment, random, false)
    }

    /// What [`Location::draw`] would give now, and nothing is made.
    ///
    /// # Errors
    ///
    /// As for [`Location::draw`].
    pub fn preview(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
    ) -> Result<Self, Error> {
        Self::choose(namespace, environment, random, true)
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The default locations that could not be used, in the order in which they were tried; empty if all is
    /// well.
    pub fn skipped(&self) -> &[SkippedLocation] {
        &self.skipped
    }
}
