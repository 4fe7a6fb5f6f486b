//! The floor that touches the operating system: clock and randomness, names and files, who is at the other
//! end.
//!
//! Public are the few things that a tool needs to examine an installation, and a host that drives the core
//! to get a name and a token: [`Claim`] takes a name, [`CapabilityDir`] publishes and reads the right to
//! talk. **They may change in a minor version.** A server does all of this itself. On Windows only a server
//! takes names: there is no [`Claim`].
//!
//! The core is told everything; it asks for nothing. A server's name is made in three steps:
//!
//! 1. [`Location`](crate::Location) says where: an [`Address`](crate::Address) from the caller, or one drawn
//!    for a [`Namespace`](crate::Namespace) in an [`Environment`](crate::Environment).
//! 2. [`Claim::bind`] takes the name: it checks the directory, replaces a dead server's socket and nothing
//!    else, listens, and publishes the right to talk through [`CapabilityDir`]. [`Claim::adopt`] does the
//!    same for a listener that the caller has made.
//! 3. [`Claim::release`] removes exactly what that made.
//!
//! Files are touched as if someone were attacking: every directory on the way is checked, no link is followed
//! where a file is expected, and what is removed is first compared with what was made.

pub(crate) mod clock;
pub(crate) mod files;
pub(crate) mod names;
#[cfg(windows)]
pub(crate) mod pipe;
pub(crate) mod random;
#[cfg(unix)]
pub(crate) mod socket;
pub(crate) mod sys;
#[cfg(feature = "server")]
pub(crate) mod transport;

/// What connects processes here.
#[cfg(windows)]
pub(crate) use self::pipe as channel;
#[cfg(unix)]
pub(crate) use self::socket as channel;

#[doc(inline)]
pub use self::{
    clock::Clock,
    files::capability::{Capability, CapabilityDir},
    names::location::SkippedLocation,
    random::Random,
    sys::Owner,
};
#[cfg(unix)]
#[doc(inline)]
pub use self::{
    socket::claim::Claim,
    sys::{can_refuse_descriptors, effective_uid, peer_identity, poll_timeout, send},
};

use crate::proto::error::{Error, ErrorKind};

/// Whether it is because something was not there.
fn is_not_found(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::NotFound)
}

/// The operating system refused: `what` failed for the reason in `source`.
fn refused(what: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
    Error::new(ErrorKind::Io, what).with_source(source.into())
}
