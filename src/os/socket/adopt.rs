//! Taking over a listener that the caller has made, such as one of a service manager.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, SockType, sockopt};

use super::claim::Claim;
use super::connect::open;
use super::file::SocketFile;
use super::lock::Lock;
use crate::os::clock::Clock;
use crate::os::files::capability::CapabilityDir;
use crate::os::files::private_dir::{PrivateDir, Purpose};
use crate::os::names::address::Address;
use crate::os::names::location::Location;
use crate::os::random::Random;
use crate::os::sys::{self, FileId, FileKind};
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};

impl Claim {
    /// Takes over a `listener` that the caller or a service manager has made, and publishes
    /// `auth_token` for its path in `capabilities`.
    ///
    /// The listener is made non-blocking and close-on-exec. Its directory and its socket file must be as
    /// private as those that [`Claim::bind`] makes. [`Claim::release`] removes what is published and nothing
    /// else: the socket file belongs to the program that made it.
    ///
    /// If no connection is waiting to be accepted, a connection is made to see that the path leads to this
    /// listener; it is closed at once.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidListener`]: it has no path or an abstract one, it is not a listening stream
    ///   socket, or its file has vanished, belongs to another user or is open to others
    /// - [`ErrorKind::InvalidAddress`]: its path is not UTF-8
    /// - [`ErrorKind::PathOccupied`]: its path leads to another socket
    /// - [`ErrorKind::DirectoryNotPrivate`], [`ErrorKind::TimedOut`], [`ErrorKind::Io`]: as for
    ///   [`Claim::bind`]
    pub fn adopt(
        listener: UnixListener,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let (listener, mut claim) = Self::begin_adopted(listener, capabilities, auth_token, random)?;
        claim.settle();
        Ok((listener, claim))
    }

    /// The same for a start that can still fail, like [`Claim::begin`].
    pub(crate) fn begin_adopted(
        listener: UnixListener,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let address = path_of(&listener)?;
        let (parent, name) = address.split()?;
        let dir = PrivateDir::open_existing(Path::new(parent), Purpose::Sockets)?
            .ok_or_else(|| invalid_listener(&format!("its directory {parent:?} does not exist")))?;
        let dir = Arc::new(dir);
        let mut socket = SocketFile::new(address.clone(), Arc::clone(&dir), name);
        let _lock = Lock::take(&dir, &Clock::new())?;
        socket.adopt(private_file(&socket)?)?;
        check_leads_to(&socket, &listener)?;
        sys::take_over(&listener).map_err(|cause| socket.cannot("take over", cause))?;
        let mut claim = Self::new(Location::from(address), auth_token, socket);
        claim.publish(capabilities, random)?;
        Ok((listener, claim))
    }
}

/// The path of a listener that the caller has made.
fn path_of(listener: &UnixListener) -> Result<Address, Error> {
    let name = listener.local_addr().map_err(|cause| {
        invalid_listener("the system does not say which Unix socket it is").with_source(cause)
    })?;
    let is_stream = socket::getsockopt(listener, sockopt::SockType) == Ok(SockType::Stream);
    if !is_stream || socket::getsockopt(listener, sockopt::AcceptConn) != Ok(true) {
        return Err(invalid_listener("it is not a stream socket that listens"));
    }
    if sys::is_shut_down(listener) {
        return Err(invalid_listener("it was shut down, and no connection will come"));
    }
    match name.as_pathname() {
        Some(path) => Address::from_path(path),
        None if name.is_unnamed() => Err(invalid_listener("it has no path")),
        None => Err(invalid_listener("its address is abstract, where every user can connect")),
    }
}

/// Which file the socket is, if others cannot connect to it.
fn private_file(socket: &SocketFile) -> Result<FileId, Error> {
    let path = socket.address().path();
    let why = match socket.facts()? {
        None => String::from("has vanished"),
        Some(found) if found.kind != FileKind::Socket => format!("is {} now", found.kind.name()),
        Some(found) if !found.is_ours() => found.whose(),
        Some(found) if !sys::PRIVATE.contains(found.mode) => {
            let permissions = found.permissions(Path::new(path));
            format!("has {permissions}, which lets others in; have it made with mode 0600")
        }
        Some(found) => return Ok(found.id),
    };
    Err(invalid_listener(&format!("its socket file {path:?} {why}")))
}

/// Checks that the path of `socket` leads to `listener`, by a connection to it.
fn check_leads_to(socket: &SocketFile, listener: &UnixListener) -> Result<(), Error> {
    let is_waited_on = || {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    };
    // A connection that already waits hides whether ours has arrived.
    if is_waited_on() {
        return Ok(());
    }
    let connected = open(Path::new(socket.address().path()));
    if is_waited_on() {
        return Ok(());
    }
    if let Err(cause) = connected
        && sys::is_shortage(sys::errno_of(&cause))
    {
        return Err(socket.cannot("connect to", cause));
    }
    Err(socket.occupied("it leads to another socket than to the listener that was handed over"))
}

fn invalid_listener(why: &str) -> Error {
    let sentence = format!("the listener that was handed over cannot be used: {why}");
    Error::new(ErrorKind::InvalidListener, sentence)
}
