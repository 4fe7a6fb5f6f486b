//! Connecting to a server: its capability, its pipe, and who is behind it, in that order.

use std::io;
use std::path::{Path, PathBuf};

use mio::windows::NamedPipe;

use crate::os::files::capability::{Capability, CapabilityDir};
use crate::os::names::address::Address;
use crate::os::pipe::stream::ReadyStream;
use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::peer::PeerIdentity;

/// Who chose the path of a target. It makes no difference here: an [`Address`] names a pipe on this machine,
/// which answers at once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ChosenBy<'a> {
    /// The host or a person.
    Us,
    /// A peer, in a message or in a file.
    #[expect(dead_code, reason = "elsewhere a path can lead to where nothing answers")]
    Peer(&'a [PathBuf]),
}

/// A stream to the server of `capability`. Returns at once.
///
/// # Errors
///
/// [`ErrorKind::NoSuchPeer`] if there is no such pipe; [`ErrorKind::Busy`] if all its instances have a
/// client; [`ErrorKind::ForeignPeer`] if it is another user's; [`ErrorKind::Io`].
pub(crate) fn connect(capability: &Capability, chosen_by: ChosenBy<'_>) -> Result<ReadyStream, Error> {
    let target = &capability.address;
    let _ = chosen_by;
    // The token must not leave before it is known who will get it.
    let (pipe, server) = open(target)?;
    let published_by = capability.process.as_ref().map(|process| process.pid);
    if let (Some(found), Some(published)) = (server.pid(), published_by)
        && found != published
    {
        // A fact, no reason to refuse: a listener can be inherited.
        tracing::warn!(
            target = target.path(),
            found,
            published,
            "the server is another process than published"
        );
    }
    Ok(ReadyStream::new(pipe))
}

/// Checks what a message claims to come from, before it gets an answer: a capability of our own user is
/// published for it. Whose pipe it is is known when it is connected to; an [`Address`] leads nowhere else.
///
/// # Errors
///
/// [`ErrorKind::PathTooLong`], [`ErrorKind::NoSuchPeer`] if nothing is published for it, and what else
/// [`CapabilityDir::read`] refuses.
#[cfg(feature = "server")]
pub(crate) fn check_claimed(
    capabilities: &CapabilityDir,
    target: &Address,
    own: &[PathBuf],
) -> Result<(), Error> {
    let _ = own;
    match look_up(capabilities, target) {
        Err(error) if error.kind() == ErrorKind::CapabilityMissing => {
            let sentence = format!("no server is at {:?}: it has no capability file of ours", target.path());
            Err(Error::new(ErrorKind::NoSuchPeer, sentence))
        }
        found => found.map(drop),
    }
}

/// The capability of the server at `target`, for [`connect`].
///
/// # Errors
///
/// [`ErrorKind::PathTooLong`]; what [`CapabilityDir::read`] refuses.
pub(crate) fn look_up(capabilities: &CapabilityDir, target: &Address) -> Result<Capability, Error> {
    target.check_length()?;
    capabilities.look_up(target).map_err(|error| {
        Error::new(error.kind(), "Cannot send UDS message without auth token").with_source(error)
    })
}

/// Opens the pipe of a server that we trust, and says who that is.
fn open(target: &Address) -> Result<(NamedPipe, PeerIdentity), Error> {
    let pipe = sys::open_pipe(Path::new(target.path())).map_err(|cause| cannot_connect(target, cause))?;
    let server = sys::server_identity(&pipe)
        .map_err(|e| Error::new(ErrorKind::Io, "the system does not say who the server is").with_source(e))?;
    if !sys::Owner::current().trusts(server) {
        let sentence = format!("{:?} is served by {server}, who gets no token from us", target.path());
        return Err(Error::new(ErrorKind::ForeignPeer, sentence));
    }
    Ok((pipe, server))
}

fn cannot_connect(target: &Address, cause: io::Error) -> Error {
    let (kind, why) = if sys::is_pipe_busy(&cause) {
        (ErrorKind::Busy, "all its instances have a client")
    } else {
        match cause.kind() {
            io::ErrorKind::NotFound => (ErrorKind::NoSuchPeer, "there is no such pipe"),
            io::ErrorKind::PermissionDenied => (ErrorKind::ForeignPeer, "access to it is denied"),
            _ => (ErrorKind::Io, "the system refuses"),
        }
    };
    let sentence = format!("cannot connect to {:?}: {why}", target.path());
    Error::new(kind, sentence).with_source(cause)
}
