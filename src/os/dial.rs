//! Connecting to a server: its capability, its socket, and who is behind it, in that order.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, connect};

use super::address::Address;
use super::capability::CapabilityDir;
use super::sys;
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};

/// A stream to the server at `target` that does not block, and the token that it asks for. Returns at once.
///
/// # Errors
///
/// [`ErrorKind::PathTooLong`]; what [`CapabilityDir::read`] refuses; [`ErrorKind::NoSuchPeer`] if nobody listens;
/// [`ErrorKind::Busy`] if the backlog is full; [`ErrorKind::ForeignPeer`] if another user does; [`ErrorKind::Io`].
pub(crate) fn dial(capabilities: &CapabilityDir, target: &Address) -> Result<(UnixStream, AuthToken), Error> {
    target.check_length()?;
    let capability = capabilities.read(target).map_err(|error| {
        Error::new(error.kind(), "Cannot send UDS message without auth token").with_source(error)
    })?;
    let stream = open(target)?;
    // The token must not leave before it is known who will get it.
    let peer = sys::peer_identity(&stream)
        .map_err(|e| Error::new(ErrorKind::Io, "the system does not say who the server is").with_source(e))?;
    if !peer.is_trusted_by(sys::effective_uid()) {
        let sentence =
            format!("{:?} is served by user id {}, who gets no token from us", target.path(), peer.uid);
        return Err(Error::new(ErrorKind::ForeignPeer, sentence));
    }
    let published_by = capability.process.as_ref().map(|process| process.pid);
    if let (Some(found), Some(published)) = (peer.pid, published_by)
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
    Ok((stream, capability.auth_token))
}

fn open(target: &Address) -> Result<UnixStream, Error> {
    let failed = |errno: Errno| {
        let (kind, why) = match errno {
            Errno::ENOENT => (ErrorKind::NoSuchPeer, "there is no socket"),
            Errno::ECONNREFUSED => (ErrorKind::NoSuchPeer, "nobody listens"),
            Errno::ENOTSOCK | Errno::EPROTOTYPE => (ErrorKind::NoSuchPeer, "that is no stream socket"),
            Errno::EAGAIN => (ErrorKind::Busy, "its backlog is full"),
            Errno::EACCES | Errno::EPERM => (ErrorKind::ForeignPeer, "access to it is denied"),
            _ => (ErrorKind::Io, "the system refuses"),
        };
        let sentence = format!("cannot connect to {:?}: {why}", target.path());
        Error::new(kind, sentence).with_source(io::Error::from(errno))
    };
    let fd =
        sys::stream_socket().map_err(|e| Error::new(ErrorKind::Io, "cannot make a socket").with_source(e))?;
    let address = UnixAddr::new(target.path()).map_err(failed)?;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}
