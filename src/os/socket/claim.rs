//! The life of one socket name: taken under a lock, held, and given back with nothing stolen, lost or left
//! behind.
//!
//! A name is taken from a dead server only: what stands there must be a socket of ours that refuses a
//! connection, asked twice (`probe`). A live server refuses too where its socket is seen through another
//! mount or from another machine, and on macOS and the BSDs while its backlog is full: if the capability file
//! for the path names a process that may live, the name is not taken.
//!
//! What is made is on record before the next system call can fail, so a start that fails leaves nothing.

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::file::SocketFile;
use super::lock::{LOCK_TIMEOUT, Lock};
use super::probe::{SECOND_LOOK, Standing};
use crate::os::clock::Clock;
use crate::os::files::capability::{CapabilityDir, Publication};
use crate::os::files::private_dir::{MadeDirs, PrivateDir, Purpose, remove_if_empty};
use crate::os::files::process::{Origin, ProcessIdentity, ProcessStart, ProcessState, check_gone};
use crate::os::names::address::Address;
use crate::os::names::location::Location;
use crate::os::random::Random;
use crate::os::sys::{self, FileKind};
use crate::os::{is_not_found, refused};
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// How long a claim that is dropped waits for others on the same directory: several times what an ordinary
/// start or stop needs.
const DROP_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// How often a start looks again whether the process that a capability file names has ended: one that was
/// killed just now closes its sockets a moment before it is gone.
const PROCESS_LOOKS: u32 = 10;

/// How often a start looks again because what stood at its path changed meanwhile.
const ATTEMPTS_MAX: u32 = 8;

/// How often a start makes its directory again that others keep removing, and from which attempt on it lets
/// them finish first: it gives up after about 60 ms.
const DIR_ATTEMPTS_MAX: u32 = 64;
const DIR_ATTEMPTS_AT_ONCE: u32 = 8;
const DIR_PAUSE: Duration = Duration::from_millis(1);

/// A socket name that is ours, with everything that was made for it.
///
/// [`Claim::release`] takes it all away again, and so does dropping the claim, which waits for others on the
/// same directory for a tenth of a second at most; drop the listener *after* it. A forked child that drops
/// its copy removes nothing.
#[derive(Debug)]
pub struct Claim {
    location: Location,
    auth_token: AuthToken,
    socket: SocketFile,
    /// Where our right to talk is published, while it is to be removed.
    published: Option<Publication>,
    /// Whether the directory of the socket is that of this server alone, made by us and still to be removed.
    has_made_dir: bool,
    /// All directories that were made for a start that is not complete.
    made: MadeDirs,
    /// The only process that may remove anything.
    creator: u32,
}

impl Claim {
    /// Takes the name at `location`, listens on it, and publishes `auth_token` in `capabilities`.
    ///
    /// The listener is non-blocking and close-on-exec. If anything fails, what was made is removed again, and
    /// so are directories that were made for it, unless another has put something into them.
    ///
    /// The path is taken literally. If it is relative, it belongs to the directory that is the current one
    /// now: what is removed later is looked for there, even if the current directory has changed.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::PathTooLong`], [`ErrorKind::InvalidAddress`]: the path cannot be a socket's
    /// - [`ErrorKind::DirectoryNotPrivate`]: of the socket or of the capability files
    /// - [`ErrorKind::AlreadyRunning`]: a live server has the name, or the process that its capability file
    ///   names lives
    /// - [`ErrorKind::PathOccupied`]: something that is no dead server's socket of ours stands there, or it
    ///   cannot be told from here whether that server lives
    /// - [`ErrorKind::TimedOut`]: another start or stop in the same directory did not end within 2 s
    /// - [`ErrorKind::Io`]: the system refused something
    pub fn bind(
        location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let (listener, mut claim) = Self::begin(location, capabilities, auth_token, random)?;
        claim.settle();
        Ok((listener, claim))
    }

    /// The same for a start that can still fail: until [`Claim::settle`], dropping the claim also removes the
    /// directories that were made for it.
    pub(crate) fn begin(
        location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        Self::begin_since(&Clock::new(), location, capabilities, auth_token, random)
    }

    /// The same. Locks are waited for from the origin of `waiting_since` on.
    fn begin_since(
        waiting_since: &Clock,
        mut location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let mut made = location.take_made();
        let begun =
            Self::begin_recording(&mut made, waiting_since, location, capabilities, auth_token, random);
        begun.inspect_err(|_| made.remove())
    }

    /// Takes the same name again, in place of one whose socket has vanished from it; `listener` is the one
    /// that listens at what is left of it. To be settled like [`Claim::begin`].
    #[cfg(feature = "server")]
    pub(crate) fn begin_again(
        &mut self,
        listener: &impl AsFd,
        capabilities: &CapabilityDir,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let _ = listener.as_fd();
        // One time for both locks.
        let waiting_since = Clock::new();
        self.release_by(&waiting_since, LOCK_TIMEOUT)?;
        Self::begin_since(&waiting_since, self.location.clone(), capabilities, &self.auth_token, random)
    }

    /// The start is complete: the directories that were made for it stay when it stops, but for one of its
    /// own.
    pub(crate) fn settle(&mut self) {
        self.made = MadeDirs::default();
    }

    /// Leaves in `made` what its caller has to remove if this fails.
    fn begin_recording(
        made: &mut MadeDirs,
        waiting_since: &Clock,
        location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let address = location.address();
        address.check_length()?;
        let (parent, name) = address.split()?;
        for attempt in 1..=DIR_ATTEMPTS_MAX {
            if attempt > DIR_ATTEMPTS_AT_ONCE {
                thread::sleep(DIR_PAUSE);
            }
            let dir = match PrivateDir::open_or_create(Path::new(parent), Purpose::Sockets, made) {
                // A stop or a sweep removed it between two of our looks at it.
                Err(error) if is_not_found(&error) && attempt < DIR_ATTEMPTS_MAX => continue,
                dir => dir?,
            };
            let dir = Arc::new(dir);
            let lock = Lock::take(&dir, waiting_since)?;
            if !dir.is_in_place() {
                // A stop removed it, or another process replaced it, while we waited.
                continue;
            }
            let socket = SocketFile::new(address.clone(), Arc::clone(&dir), name);
            let mut claim = Self::new(location.clone(), auth_token, socket);
            claim.has_made_dir = location.is_drawn() && made.has(dir.path());
            claim.made = mem::take(made);
            let error = match claim.start(capabilities, random) {
                Ok(listener) => return Ok((listener, claim)),
                Err(error) => error,
            };
            claim.undo();
            *made = mem::take(&mut claim.made);
            // Another start that failed may have removed the directory: it had made it, and did not wait for
            // the lock.
            if !is_not_found(&error) || dir.is_in_place() || attempt == DIR_ATTEMPTS_MAX {
                made.remove();
                return Err(error);
            }
            drop(lock);
        }
        Err(changed_too_often(address))
    }

    /// A claim that holds nothing but `socket`.
    pub(super) fn new(location: Location, auth_token: &AuthToken, socket: SocketFile) -> Self {
        Self {
            location,
            auth_token: auth_token.clone(),
            socket,
            published: None,
            has_made_dir: false,
            made: MadeDirs::default(),
            creator: process::id(),
        }
    }

    /// Where it is, and which default locations could not be used.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The address.
    pub fn address(&self) -> &Address {
        self.location.address()
    }

    /// Whether the path still leads to our socket: two system calls at most, so a slow timer can ask.
    pub fn still_there(&self) -> bool {
        self.socket.is_in_place()
    }

    /// Whether clients still find our token where they look for it: one system call, unless something has
    /// changed.
    pub fn still_published(&self) -> bool {
        self.published
            .as_ref()
            .is_some_and(|published| published.is_in_place(self.address(), &self.auth_token))
    }

    /// Publishes again for a socket that is still there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyRunning`] if the process of another server has published for the same path and has
    /// not provably ended (the same path can lead to another socket in another container, or on another
    /// machine); [`ErrorKind::DirectoryNotPrivate`], [`ErrorKind::TimedOut`], [`ErrorKind::Io`] as for
    /// [`Claim::bind`].
    #[cfg(feature = "server")]
    pub(crate) fn publish_again(
        &mut self,
        capabilities: &CapabilityDir,
        random: &mut Random,
    ) -> Result<(), Error> {
        let dir = Arc::clone(self.socket.dir());
        let _lock = Lock::take(&dir, &Clock::new())?;
        if let Some((pid, _)) = self.other_publisher(capabilities) {
            let sentence = format!(
                "another server, of process {pid}, has published a capability file for {:?}; stop it, or use \
                 another path",
                self.address().path()
            );
            return Err(Error::new(ErrorKind::AlreadyRunning, sentence));
        }
        self.publish(capabilities, random)?;
        self.settle();
        Ok(())
    }

    /// Removes exactly what was made: the socket if it is still ours, the capability file if it still holds
    /// our token, and the directory if it was drawn and made for this server and is empty.
    ///
    /// Give it the `listener` while that is still open: without it another server may take the name. A second
    /// call does nothing, and neither does a call in another process than the one that made it all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if another start or stop in the same directory did not end within 2 s, or
    /// [`ErrorKind::Io`]. The error says what is left; it can be removed by calling again.
    pub fn release(&mut self, listener: &impl AsFd) -> Result<(), Error> {
        self.release_within(listener, LOCK_TIMEOUT)
    }

    /// The same, and waits for another start or stop for `wait` at most: zero is one try.
    ///
    /// # Errors
    ///
    /// As for [`Claim::release`].
    pub fn release_within(&mut self, listener: &impl AsFd, wait: Duration) -> Result<(), Error> {
        let _ = listener.as_fd();
        self.release_by(&Clock::new(), wait)
    }

    fn release_by(&mut self, waiting_since: &Clock, wait: Duration) -> Result<(), Error> {
        let left = self.what_is_left();
        if left.is_empty() || process::id() != self.creator {
            return Ok(());
        }
        let dir = Arc::clone(self.socket.dir());
        let lock = Lock::take_within(&dir, waiting_since, wait);
        let released = lock.and_then(|_lock| self.remove());
        released.map_err(|why| {
            let sentence = format!("{why}; left behind for now: {}", self.what_is_left().join(", "));
            Error::new(why.kind(), sentence)
        })
    }

    /// What is still to be removed, in words.
    fn what_is_left(&self) -> Vec<String> {
        let socket = self.socket.is_to_remove().then(|| format!("the socket {:?}", self.address().path()));
        let published =
            self.published.as_ref().map(|published| format!("the capability file {:?}", published.path()));
        let dir = self.has_made_dir.then(|| format!("the directory {:?}", self.socket.dir().path()));
        [socket, published, dir].into_iter().flatten().collect()
    }

    /// Takes the name, listens, publishes. The lock is held.
    fn start(&mut self, capabilities: &CapabilityDir, random: &mut Random) -> Result<UnixListener, Error> {
        let socket = self.bind_socket(capabilities)?;
        // The socket stays open until what was made is removed.
        let listening = self.socket.listen(&socket).and_then(|()| self.publish(capabilities, random));
        listening.inspect_err(|_| self.undo())?;
        Ok(UnixListener::from(socket))
    }

    /// Removes what a start has made that failed. The lock is held, and the socket open if there is one.
    fn undo(&mut self) {
        // The system can have refused something just once.
        if let Err(error) = self.remove().or_else(|_| self.remove()) {
            tracing::warn!(%error, "a refused start left something behind");
        }
        // What is left now is left to others.
        self.socket.forget();
        (self.published, self.has_made_dir) = (None, false);
        debug_assert!(self.what_is_left().is_empty());
    }

    pub(super) fn publish(&mut self, capabilities: &CapabilityDir, random: &mut Random) -> Result<(), Error> {
        let (published, made) =
            capabilities.publish_held(self.location.address(), &self.auth_token, random)?;
        self.published = Some(published);
        self.made.append(made);
        Ok(())
    }

    /// The pid of another process that has published for our path with another token and has not provably
    /// ended, and whether it is known to live. A server of this process is not another one: whether that
    /// listens can be told by connecting.
    fn other_publisher(&self, capabilities: &CapabilityDir) -> Option<(u32, bool)> {
        let dir = capabilities.open_existing().ok()??;
        let found = dir.read(self.address()).ok()?;
        let is_ours = found.has_token(&self.auth_token);
        let process = found.process.filter(|_| !is_ours)?;
        let may_live = may_live(&process, &ProcessIdentity::current(), dir.origin(), sys::TELLS_STARTS)?;
        Some((process.pid, may_live == MayLive::Known))
    }

    /// A socket bound to the path, in place of a dead server's if there was one.
    fn bind_socket(&mut self, capabilities: &CapabilityDir) -> Result<OwnedFd, Error> {
        for _ in 0..ATTEMPTS_MAX {
            self.make_room(capabilities)?;
            if let Some(socket) = self.socket.bind()? {
                return Ok(socket);
            }
        }
        Err(changed_too_often(self.address()))
    }

    /// Leaves nothing at the path, or says what stands there and must stay.
    fn make_room(&self, capabilities: &CapabilityDir) -> Result<(), Error> {
        match self.socket.look()? {
            Standing::Nothing | Standing::Changing => Ok(()),
            Standing::Foreign(found) if found.kind != FileKind::Socket => {
                let mend = "use another path, or move it out of there";
                Err(self.socket.occupied(&format!("{} stands there; {mend}", found.kind.name())))
            }
            Standing::Foreign(found) => {
                let (its_uid, own_uid) = (found.uid, sys::effective_uid());
                let why = format!("a socket of uid {its_uid} stands there, and you are uid {own_uid}");
                Err(self.socket.occupied(&why))
            }
            Standing::Live(pid) => {
                let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                let path = self.address().path();
                let sentence = format!("a live server{who} has {path:?}; stop it, or use another path");
                Err(Error::new(ErrorKind::AlreadyRunning, sentence))
            }
            Standing::Unclear { cause, .. } => {
                let why = "the socket there cannot be asked whether its server lives; use another path, or \
                           move it out of there if that has ended";
                Err(self.socket.occupied(why).with_source(cause))
            }
            Standing::Dead(id) => {
                self.check_publisher_has_ended(capabilities)?;
                self.socket.remove_same(id)
            }
        }
    }

    /// A socket that refuses can be a live server's that is seen through another mount, or from another
    /// machine.
    fn check_publisher_has_ended(&self, capabilities: &CapabilityDir) -> Result<(), Error> {
        let mut other = self.other_publisher(capabilities);
        for _ in 0..PROCESS_LOOKS {
            if let Some((_, true)) = other {
                thread::sleep(SECOND_LOOK);
                other = self.other_publisher(capabilities);
            }
        }
        match other {
            Some((pid, true)) => {
                let sentence = format!(
                    "the process {pid} that has published a capability file for {:?} lives, though the \
                     socket refuses a connection from here; stop it, or use another path",
                    self.address().path()
                );
                Err(Error::new(ErrorKind::AlreadyRunning, sentence))
            }
            Some((pid, false)) if !sys::is_refusal_proof(&**self.socket.dir()) => {
                let why = format!(
                    "the socket there refuses a connection from here, and it cannot be told whether its \
                     server has ended (process {pid} in its capability file, perhaps in a container or on \
                     another machine); use another path, or move the socket out of there if it has ended"
                );
                Err(self.socket.occupied(&why))
            }
            _ => Ok(()),
        }
    }

    /// Removes what was made; goes on after a failure and reports the first. The lock is held.
    fn remove(&mut self) -> Result<(), Error> {
        let socket = self.socket.remove();
        let capability = self.remove_capability();
        let dir = self.remove_dir();
        socket.and(capability).and(dir)?;
        self.made.remove();
        Ok(())
    }

    fn remove_capability(&mut self) -> Result<(), Error> {
        let Some(published) = &self.published else { return Ok(()) };
        match published.remove_if_ours(self.location.address(), &self.auth_token) {
            // What is not to be believed is not ours: we wrote a good one.
            Err(error) if error.kind() != ErrorKind::CapabilityUnusable => return Err(error),
            _ => {}
        }
        self.published = None;
        Ok(())
    }

    fn remove_dir(&mut self) -> Result<(), Error> {
        // With our socket in it, it stays ours to be removed later.
        if !self.has_made_dir || self.socket.is_to_remove() {
            return Ok(());
        }
        let dir = self.socket.dir();
        let cannot = |cause| refused(format!("cannot remove the directory {:?}", dir.path()), cause);
        if dir.stands().map_err(cannot)? {
            remove_if_empty(dir.path()).map_err(cannot)?;
        }
        self.has_made_dir = false;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.release_by(&Clock::new(), DROP_LOCK_TIMEOUT) {
            tracing::warn!(%error, address = %self.address(), "what a server made could not be removed");
        }
    }
}

/// What is known of a process that has not provably ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MayLive {
    /// It lives.
    Known,
    Unknown,
}

/// Whether another `process` than `here` may live that was written down at `origin`.
///
/// Where the system tells nothing but which pids exist (not `tells_starts`), a process counts as ended once
/// none has its pid, and until then it may live: its pid can have been given to another one.
fn may_live(
    process: &ProcessIdentity,
    here: &ProcessIdentity,
    origin: Origin,
    tells_starts: bool,
) -> Option<MayLive> {
    // Enough also where the machine has no id, as in many containers: a boot's id is drawn at that boot.
    let place = |start: &ProcessStart| Some((start.boot_id.clone()?, start.pid_namespace?));
    let is_here = place(&here.start).is_some_and(|here| place(&process.start) == Some(here));
    if (is_here || !tells_starts) && (process.pid == here.pid || check_gone(process.pid).is_ok()) {
        return None;
    }
    match process.state_from(origin).0 {
        ProcessState::Dead => None,
        ProcessState::Live => Some(MayLive::Known),
        ProcessState::Unknown => Some(MayLive::Unknown),
    }
}

fn changed_too_often(address: &Address) -> Error {
    let sentence = format!(
        "cannot take the socket path {:?}: what stands there keeps changing; is something else using it?",
        address.path()
    );
    Error::new(ErrorKind::PathOccupied, sentence)
}
