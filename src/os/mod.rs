//! The floor that touches the operating system: clock and randomness, names and files, who is at the other
//! end.
//!
//! The core below (`proto`) is told all of this; nothing down there asks for it. A server's name comes to be
//! like so:
//!
//! 1. [`location::Location`] says where: an [`address::Address`] from the caller, or one drawn for a
//!    [`namespace::Namespace`] in an [`namespace::Environment`].
//! 2. [`claim::Claim::bind`] takes the name: it checks the directory, replaces a dead server's socket and
//!    nothing else, listens, and publishes the right to talk through [`capability::CapabilityDir`].
//!    [`claim::Claim::adopt`] does the same for a listener that somebody else has made.
//! 3. [`claim::Claim::release`] takes away exactly what that made.
//!
//! Files are touched as if someone were attacking: every directory on the way is checked, no link is followed
//! where a file is expected, and what is removed is first compared with what was made.

#[cfg(unix)]
pub mod address;
#[cfg(unix)]
pub mod capability;
#[cfg(unix)]
pub mod claim;
pub mod clock;
#[cfg(unix)]
pub(crate) mod dial;
#[cfg(unix)]
mod group;
#[cfg(unix)]
pub mod location;
#[cfg(unix)]
pub mod namespace;
#[cfg(unix)]
mod private_dir;
#[cfg(unix)]
pub mod process;
pub mod random;
#[cfg(unix)]
mod reach;
#[cfg(unix)]
mod remedy;
#[cfg(unix)]
pub mod sweep;
pub mod sys;
#[cfg(feature = "server")]
pub(crate) mod transport;

#[cfg(unix)]
use crate::proto::error::{Error, ErrorKind};

/// Whether it is because something was not there.
#[cfg(unix)]
fn is_not_found(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::NotFound)
}

/// The operating system refused: `what` failed for the reason in `source`.
#[cfg(unix)]
fn refused(what: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
    Error::new(ErrorKind::Io, what).with_source(source.into())
}
