//! Connecting to a server: its capability, its socket, and who is behind it, in that order.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{self, UnixAddr};

use crate::os::files::capability::{Capability, CapabilityDir};
use crate::os::files::process::check_gone;
use crate::os::files::reach::{Reach, Reached, Unreached};
use crate::os::names::address::Address;
use crate::os::socket::stream::ReadyStream;
use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};

#[cfg(test)]
mod tests;

/// Who chose the path of a target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ChosenBy<'a> {
    /// The host or a person: it is connected to as it is.
    Us,
    /// A peer, in a message or in a file: nothing on the way to it may keep our thread waiting. We depend on
    /// the file systems of these directories of ours anyway.
    Peer(&'a [PathBuf]),
}

/// A stream to the server of `capability` that does not block. Returns at once.
///
/// # Errors
///
/// [`ErrorKind::NoSuchPeer`] if no process listens; [`ErrorKind::NotLocal`] if a peer chose a path that may
/// not answer; [`ErrorKind::Busy`] if the backlog is full; [`ErrorKind::ForeignPeer`] if another user
/// listens; [`ErrorKind::Io`].
pub(crate) fn connect(capability: &Capability, chosen_by: ChosenBy<'_>) -> Result<ReadyStream, Error> {
    let target = &capability.address;
    let stream = match chosen_by {
        ChosenBy::Us => open(Path::new(target.path())),
        ChosenBy::Peer(own) => {
            let reached = reach_target(target, own)?;
            if reached.facts.kind == sys::FileKind::Link {
                let sentence = format!("cannot connect to {:?}: a symbolic link stands there", target.path());
                return Err(Error::new(ErrorKind::NoSuchPeer, sentence));
            }
            let path = reached.path();
            open(Path::new(path.as_deref().unwrap_or_else(|| target.path())))
        }
    };
    let published_by = capability.process.as_ref().map(|process| process.pid);
    let stream = stream.map_err(|cause| cannot_connect(target, cause, published_by))?;
    // The token must not leave before it is known who will get it.
    let peer = sys::peer_identity(&stream)
        .map_err(|e| Error::new(ErrorKind::Io, "the system does not say who the server is").with_source(e))?;
    if !sys::Owner::current().trusts(peer) {
        let sentence = format!("{:?} is served by {peer}, who gets no token from us", target.path());
        return Err(Error::new(ErrorKind::ForeignPeer, sentence));
    }
    if let (Some(found), Some(published)) = (peer.pid(), published_by)
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
    Ok(ReadyStream::new(stream))
}

/// Checks what a message claims to come from, before it gets an answer: a socket of ours stands there, at an
/// absolute path, and a capability of our own user is published for it. Returns at once; `own` is as for
/// [`ChosenBy::Peer`].
///
/// # Errors
///
/// [`ErrorKind::InvalidAddress`] for a relative path, [`ErrorKind::PathTooLong`], [`ErrorKind::NoSuchPeer`]
/// if nothing is published for it, or something else or nothing stands there (no link is followed),
/// [`ErrorKind::ForeignPeer`] if it is not ours, [`ErrorKind::NotLocal`] if it may not answer, and what else
/// [`CapabilityDir::read`] refuses.
#[cfg(feature = "server")]
pub(crate) fn check_claimed(
    capabilities: &CapabilityDir,
    target: &Address,
    own: &[PathBuf],
) -> Result<(), Error> {
    if !Path::new(target.path()).is_absolute() {
        let sentence =
            format!("{:?} is no absolute path, so it means nothing to another process", target.path());
        return Err(Error::new(ErrorKind::InvalidAddress, sentence));
    }
    let none =
        |why: &str| Error::new(ErrorKind::NoSuchPeer, format!("no server is at {:?}: {why}", target.path()));
    match look_up(capabilities, target) {
        Err(error) if error.kind() == ErrorKind::CapabilityMissing => {
            return Err(none("it has no capability file of ours"));
        }
        found => drop(found?),
    }
    let facts = reach_target(target, own)?.facts;
    if facts.kind != sys::FileKind::Socket {
        return Err(none(&format!("{} stands there", facts.kind.name())));
    }
    let own_uid = sys::effective_uid();
    if facts.uid != own_uid && facts.uid != 0 {
        let sentence = format!("the socket {:?} belongs to user id {}", target.path(), facts.uid);
        return Err(Error::new(ErrorKind::ForeignPeer, sentence));
    }
    Ok(())
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

/// What stands at the path of `target`, which a peer chose.
fn reach_target(target: &Address, own: &[PathBuf]) -> Result<Reached, Error> {
    let reached =
        Reach::new(own).map_err(Unreached::from).and_then(|reach| reach.reach(Path::new(target.path())));
    reached.map_err(|why| match why {
        Unreached::MayNotAnswer(why) => {
            let sentence = format!("{:?} was not connected to, because it {why}", target.path());
            Error::new(ErrorKind::NotLocal, sentence)
        }
        Unreached::Refused(cause) => cannot_connect(target, cause, None),
    })
}

/// The error for a connection to `target` that failed; `published_by` is the pid in its capability file.
fn cannot_connect(target: &Address, cause: io::Error, published_by: Option<u32>) -> Error {
    let may_be_full = sys::FULL_REFUSES && published_by.is_some_and(|pid| check_gone(pid).is_err());
    let (kind, why) = meaning(sys::errno_of(&cause), may_be_full);
    let sentence = format!("cannot connect to {:?}: {why}", target.path());
    Error::new(kind, sentence).with_source(cause)
}

/// What an error of `connect` means. `may_be_full`: a refusal can be that of a live server.
fn meaning(errno: Errno, may_be_full: bool) -> (ErrorKind, &'static str) {
    match errno {
        Errno::ENOENT => (ErrorKind::NoSuchPeer, "there is no socket"),
        Errno::ENOTDIR => (ErrorKind::NoSuchPeer, "a part of its path is no directory"),
        Errno::ECONNREFUSED if may_be_full => {
            (ErrorKind::Busy, "it refuses, and its process exists, so its backlog may be full")
        }
        Errno::ECONNREFUSED => (ErrorKind::NoSuchPeer, "no process listens"),
        Errno::ENOTSOCK | Errno::EPROTOTYPE => (ErrorKind::NoSuchPeer, "that is no stream socket"),
        Errno::EAGAIN => (ErrorKind::Busy, "its backlog is full"),
        Errno::EACCES | Errno::EPERM => (ErrorKind::ForeignPeer, "access to it is denied"),
        _ => (ErrorKind::Io, "the system refuses"),
    }
}

/// A stream, which does not block, to what listens at `path`. Returns at once; a full backlog is `EAGAIN`,
/// unless [`sys::FULL_REFUSES`].
pub(crate) fn open(path: &Path) -> io::Result<UnixStream> {
    let name = UnixAddr::new(path)?;
    loop {
        // A new one for each try: XNU takes a socket whose connection was cut short for one that connects.
        let socket = sys::stream_socket()?;
        match socket::connect(socket.as_raw_fd(), &name) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(Errno::EINTR) => {}
            // On NetBSD and FreeBSD, with `LOCAL_CONNWAIT`, which is never set here: nothing can be written
            // until the server accepts.
            Err(Errno::EINPROGRESS) => return Err(Errno::EAGAIN.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
