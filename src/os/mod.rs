//! The floor that touches the operating system: clock and randomness, names and files, who is at the other
//! end.
//!
//! The core below (`proto`) is told all of this; it asks for nothing. A server's name is made in three steps:
//!
//! 1. [`names::location::Location`] says where: an [`names::address::Address`] from the caller, or one drawn
//!    for a [`names::namespace::Namespace`] in an [`names::namespace::Environment`].
//! 2. [`socket::claim::Claim::bind`] takes the name: it checks the directory, replaces a dead server's socket
//!    and nothing else, listens, and publishes the right to talk through
//!    [`files::capability::CapabilityDir`]. [`socket::claim::Claim::adopt`] does the same for a listener that
//!    the caller has made.
//! 3. [`socket::claim::Claim::release`] removes exactly what that made.
//!
//! Files are touched as if someone were attacking: every directory on the way is checked, no link is followed
//! where a file is expected, and what is removed is first compared with what was made.

pub mod clock;
#[cfg(unix)]
pub mod files;
#[cfg(unix)]
pub mod names;
pub mod random;
#[cfg(unix)]
pub mod socket;
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
