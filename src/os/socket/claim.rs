//! The life of one socket name: taken under a lock, held, and given back with nothing stolen, lost or left
//! behind.
//!
//! Starts and stops in one directory are serialised by `flock` on a descriptor of that directory: no lock
//! file is ever made. A name is taken from a dead server only: what stands there must be a socket of ours
//! that refuses a connection. Some systems (macOS, the BSDs) also refuse one when the backlog of a live
//! server is full; there the second look after a pause is what protects it. A live server also refuses where
//! its socket is seen through another mount or from another machine: if the capability file for the path
//! names a process that may live there, the name is not taken.
//!
//! What is made is on record before the next system call can fail, so a start that fails leaves nothing.

use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, Backlog, SockType, UnixAddr, sockopt};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::os::clock::Clock;
use crate::os::files::capability::{CapabilityDir, Publication};
use crate::os::files::private_dir::{MadeDirs, PrivateDir, Purpose};
use crate::os::files::process::{ProcessIdentity, ProcessStart, ProcessState, is_gone};
use crate::os::names::address::Address;
use crate::os::names::location::Location;
use crate::os::random::Random;
use crate::os::sys::{self, Facts, FileId, FileKind};
use crate::os::{is_not_found, refused};
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};

/// How long a start, or a stop that is given no other time, waits for others on the same directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a claim that is dropped waits for them: several times what an ordinary start or stop needs.
const DROP_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The mode of a socket: read and write for its owner.
const SOCKET_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// How long a socket that refuses is left alone before it is asked again: a server that has bound its name
/// and not yet called `listen` refuses too.
pub(crate) const SECOND_LOOK: Duration = Duration::from_millis(10);

/// How often a start looks again whether the process that a capability file names has ended: one that was killed just now
/// closes its sockets a moment before it is gone.
const PROCESS_LOOKS: u32 = 10;

/// How often a start looks again because what stood at its path changed under its eyes.
pub(crate) const ATTEMPTS_MAX: u32 = 8;

/// How often a start makes its directory again that others keep removing, and from which attempt on it lets them finish
/// first: it gives up after about 60 ms.
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
    dir: Arc<PrivateDir>,
    /// The name of the socket in `dir`.
    name: String,
    /// Our socket, while it is to be removed.
    socket: Option<OwnSocket>,
    /// Keeps the inode of our socket from being given to another file while we compare with it.
    pinned: Option<fs::File>,
    /// Where our right to talk is published, while it is to be removed.
    published: Option<Publication>,
    /// Whether `dir` is the directory of this server alone, made by us and still to be removed.
    has_made_dir: bool,
    /// All directories that were made for a start that is not complete.
    made: MadeDirs,
    /// Whether the socket was made by somebody else, who will remove it.
    is_adopted: bool,
    /// The only process that may remove anything.
    creator: u32,
}

/// A socket of ours that stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnSocket {
    /// It has just been bound, and the system has not said yet which file it is.
    Unidentified,
    Identified(FileId),
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

    /// The same for a start that can still fail: until [`Claim::settle`], dropping the claim also removes the directories
    /// that were made for it.
    pub(crate) fn begin(
        location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        Self::bind_by(&Clock::new(), location, capabilities, auth_token, random)
    }

    /// Takes the same name again, in place of one whose socket has vanished from it; `listener` is the one that listens
    /// at what is left of it. To be settled like [`Claim::begin`].
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
        Self::bind_by(&waiting_since, self.location.clone(), capabilities, &self.auth_token, random)
    }

    /// The start is complete: the directories that were made for it stay when it stops, but for one of its own.
    pub(crate) fn settle(&mut self) {
        self.made = MadeDirs::default();
    }

    fn bind_by(
        waiting_since: &Clock,
        mut location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let mut made = location.take_made();
        let bound =
            Self::bind_recording(&mut made, waiting_since, location, capabilities, auth_token, random);
        bound.inspect_err(|_| made.remove())
    }

    /// Leaves in `made` what its caller has to remove if this fails.
    fn bind_recording(
        made: &mut MadeDirs,
        waiting_since: &Clock,
        location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(UnixListener, Self), Error> {
        let address = location.address();
        address.check_length()?;
        let (parent, name) = split(address)?;
        let (parent, name) = (parent.to_owned(), name.to_owned());
        let mut has_made_dir = false;
        for attempt in 1..=DIR_ATTEMPTS_MAX {
            if attempt > DIR_ATTEMPTS_AT_ONCE {
                thread::sleep(DIR_PAUSE);
            }
            let mut dir = match PrivateDir::open_or_create(Path::new(&parent), Purpose::Sockets) {
                // A stop or a sweep removed it between two of our looks at it.
                Err(error) if is_not_found(&error) && attempt < DIR_ATTEMPTS_MAX => continue,
                dir => dir?,
            };
            has_made_dir |= dir.is_new();
            made.append(dir.take_made());
            let dir = Arc::new(dir);
            let lock = Lock::take(&dir, waiting_since)?;
            if !dir.is_in_place() {
                // A stop removed it, or somebody replaced it, while we waited.
                continue;
            }
            let mut claim = Self {
                has_made_dir: has_made_dir && location.is_drawn(),
                location: location.clone(),
                auth_token: auth_token.clone(),
                dir: Arc::clone(&dir),
                name: name.clone(),
                socket: None,
                pinned: None,
                published: None,
                made: mem::take(made),
                is_adopted: false,
                creator: process::id(),
            };
            let error = match claim.start(capabilities, random) {
                Ok(listener) => return Ok((listener, claim)),
                Err(error) => error,
            };
            claim.undo();
            *made = mem::take(&mut claim.made);
            // Another start that failed may have removed the directory: it had made it, and did not wait for the lock.
            if !is_not_found(&error) || dir.is_in_place() || attempt == DIR_ATTEMPTS_MAX {
                made.remove();
                return Err(error);
            }
            drop(lock);
        }
        Err(changed_too_often(&location))
    }

    /// Takes over a `listener` that somebody else has made (a service manager, the caller), and publishes
    /// `auth_token` for its path in `capabilities`.
    ///
    /// The listener is made non-blocking and close-on-exec. Its directory and its socket file must be as
    /// private as those that [`Claim::bind`] makes. [`Claim::release`] removes what is published and nothing
    /// else: the socket file belongs to whoever made it.
    ///
    /// If nobody is waiting to be accepted, a connection is made to see that the path leads to this listener;
    /// it is closed at once.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidListener`]: it has no path or an abstract one, it is not a listening stream
    ///   socket, or its file has vanished, belongs to someone else or is open to others
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
        let (parent, name) = split(&address)?;
        let dir = PrivateDir::open_existing(Path::new(parent), Purpose::Sockets)?
            .ok_or_else(|| invalid_listener(&format!("its directory {parent:?} does not exist")))?;
        let dir = Arc::new(dir);
        let name = name.to_owned();
        let mut claim = Self {
            location: Location::from(address),
            auth_token: auth_token.clone(),
            dir: Arc::clone(&dir),
            name,
            socket: None,
            pinned: None,
            published: None,
            has_made_dir: false,
            made: MadeDirs::default(),
            is_adopted: true,
            creator: process::id(),
        };
        let _lock = Lock::take(&dir, &Clock::new())?;
        claim.record_adopted(&listener)?;
        sys::take_over(&listener).map_err(|cause| claim.cannot("take over", cause))?;
        claim.publish(capabilities, random)?;
        Ok((listener, claim))
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
        let Some(OwnSocket::Identified(socket)) = self.socket else { return false };
        let path = Path::new(self.address().path());
        let facts =
            if path.is_absolute() { sys::facts_of_path(path) } else { sys::facts_at(&*self.dir, &self.name) };
        facts.is_ok_and(|facts| facts.id == socket)
    }

    /// Whether clients still find our token where they look for it: one system call, unless something has changed.
    pub fn still_published(&self) -> bool {
        self.published
            .as_ref()
            .is_some_and(|published| published.is_in_place(self.address(), &self.auth_token))
    }

    /// Publishes again for a socket that is still there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyRunning`] if the process of another server has published for the same path and has not
    /// provably ended (the same path can lead to another socket in another container, or on another machine);
    /// [`ErrorKind::DirectoryNotPrivate`], [`ErrorKind::TimedOut`], [`ErrorKind::Io`] as for [`Claim::bind`].
    #[cfg(feature = "server")]
    pub(crate) fn publish_again(
        &mut self,
        capabilities: &CapabilityDir,
        random: &mut Random,
    ) -> Result<(), Error> {
        let dir = Arc::clone(&self.dir);
        let _lock = Lock::take(&dir, &Clock::new())?;
        if let Some((pid, _)) = self.other_publisher(capabilities) {
            let sentence = format!(
                "another server, of process {pid}, has published a capability file for {:?}; stop it, or use another \
                 path",
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
    /// Give it the `listener` while that is still open: a dead server's name is anyone's to take. A second
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
        let dir = Arc::clone(&self.dir);
        let lock = Lock::take_within(&dir, waiting_since, wait);
        let released = lock.and_then(|_lock| self.remove());
        released.map_err(|why| {
            let sentence = format!("{why}; left behind for now: {}", self.what_is_left().join(", "));
            Error::new(why.kind(), sentence)
        })
    }

    /// What is still to be removed, in words.
    fn what_is_left(&self) -> Vec<String> {
        let socket = self
            .socket
            .filter(|_| !self.is_adopted)
            .map(|_| format!("the socket {:?}", self.address().path()));
        let published =
            self.published.as_ref().map(|published| format!("the capability file {:?}", published.path()));
        let dir = self.has_made_dir.then(|| format!("the directory {:?}", self.dir.path()));
        [socket, published, dir].into_iter().flatten().collect()
    }

    /// Takes the name, listens, publishes. The lock is held.
    fn start(&mut self, capabilities: &CapabilityDir, random: &mut Random) -> Result<UnixListener, Error> {
        let socket = self.bind_socket(capabilities)?;
        // The socket stays open until what was made is removed.
        self.listen(&socket, capabilities, random).inspect_err(|_| self.undo())?;
        Ok(UnixListener::from(socket))
    }

    fn listen(
        &mut self,
        socket: &OwnedFd,
        capabilities: &CapabilityDir,
        random: &mut Random,
    ) -> Result<(), Error> {
        self.record_socket()?;
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        socket::listen(socket, backlog).map_err(|cause| self.cannot("listen on", cause.into()))?;
        self.publish(capabilities, random)
    }

    /// Removes what a start has made that failed. The lock is held, and the socket open if there is one.
    fn undo(&mut self) {
        // The system can have refused something just once.
        if let Err(error) = self.remove().or_else(|_| self.remove()) {
            tracing::warn!(%error, "a refused start left something behind");
        }
        self.forget();
    }

    /// Leaves to others what is left.
    fn forget(&mut self) {
        (self.socket, self.pinned, self.published, self.has_made_dir) = (None, None, None, false);
    }

    fn publish(&mut self, capabilities: &CapabilityDir, random: &mut Random) -> Result<(), Error> {
        let (published, made) =
            capabilities.publish_held(self.location.address(), &self.auth_token, random)?;
        self.published = Some(published);
        self.made.append(made);
        Ok(())
    }

    /// The pid of another process that has published for our path with another token and has not provably ended, and
    /// whether it is known to live. A server of this process is not another one: whether that listens can be told by
    /// connecting.
    fn other_publisher(&self, capabilities: &CapabilityDir) -> Option<(u32, bool)> {
        let found = capabilities.read(self.address()).ok()?;
        let is_ours = self.auth_token.matches(found.auth_token.expose().as_bytes());
        let process = found.process.filter(|_| !is_ours)?;
        let here = ProcessIdentity::current();
        // Enough also where the machine has no id, as in many containers: a boot's id is drawn at that boot.
        let place = |start: &ProcessStart| Some((start.boot_id.clone()?, start.pid_namespace?));
        let is_here = place(&here.start).is_some_and(|here| place(&process.start) == Some(here));
        if is_here && (process.pid == here.pid || is_gone(process.pid).is_ok()) {
            return None;
        }
        match process.state() {
            ProcessState::Dead => None,
            ProcessState::Live => Some((process.pid, true)),
            ProcessState::Unknown => Some((process.pid, false)),
        }
    }

    /// Remembers which file the socket of an adopted listener is, if that is private and leads to it.
    fn record_adopted(&mut self, listener: &UnixListener) -> Result<(), Error> {
        let address = self.address().clone();
        let path = address.path();
        let own_uid = sys::effective_uid();
        let why = match self.facts()? {
            None => Some(String::from("has vanished")),
            Some(found) if found.kind != FileKind::Socket => Some(format!("is {} now", found.kind.name())),
            Some(found) if found.uid != own_uid => {
                Some(format!("belongs to uid {}, and you are uid {own_uid}", found.uid))
            }
            Some(found) if !SOCKET_MODE.contains(found.mode) => {
                let (mode, list) = (found.mode.bits(), sys::access_list_noted(Path::new(path)));
                Some(format!("has mode {mode:04o}{list}, which lets others in; have it made with mode 0600"))
            }
            Some(found) => {
                self.socket = Some(OwnSocket::Identified(found.id));
                None
            }
        };
        if let Some(why) = why {
            return Err(invalid_listener(&format!("its socket file {path:?} {why}")));
        }
        self.pinned = sys::pin(&*self.dir, &self.name).map_err(|cause| self.cannot("hold on to", cause))?;
        // Whoever is waiting already hides whether it is ours that was reached.
        let is_waited_on = || {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        };
        if is_waited_on() {
            return Ok(());
        }
        let name = UnixAddr::new(path).map_err(|cause| self.cannot("make an address of", cause.into()))?;
        let socket = sys::stream_socket().map_err(|cause| self.cannot("make a socket for", cause))?;
        let _ = socket::connect(socket.as_raw_fd(), &name);
        if is_waited_on() {
            return Ok(());
        }
        Err(self.occupied("it leads to another socket than to the listener that was handed over"))
    }

    /// A socket bound to the path, in place of a dead server's if there was one.
    fn bind_socket(&mut self, capabilities: &CapabilityDir) -> Result<OwnedFd, Error> {
        let path = self.address().path();
        let name = UnixAddr::new(path).map_err(|cause| self.cannot("make an address of", cause.into()))?;
        for _ in 0..ATTEMPTS_MAX {
            self.make_room(&name, capabilities)?;
            let socket = sys::stream_socket().map_err(|cause| self.cannot("make a socket for", cause))?;
            // Here the mode of the unbound socket is the mode of the file that `bind` makes, less the umask:
            // there is no moment at which it is wider. Elsewhere the file can have any mode until
            // `record_socket` sets it, but nobody gets in, because a socket that does not listen refuses.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            nix::sys::stat::fchmod(&socket, SOCKET_MODE)
                .map_err(|cause| self.cannot("set the mode of the socket for", cause.into()))?;
            match socket::bind(socket.as_raw_fd(), &name) {
                Ok(()) => {
                    self.socket = Some(OwnSocket::Unidentified);
                    return Ok(socket);
                }
                Err(Errno::EADDRINUSE) => {}
                Err(cause) => return Err(self.cannot("bind", cause.into())),
            }
        }
        Err(changed_too_often(&self.location))
    }

    /// Leaves nothing at the path, or says what stands there and must stay.
    fn make_room(&self, name: &UnixAddr, capabilities: &CapabilityDir) -> Result<(), Error> {
        let Some(found) = self.facts()? else { return Ok(()) };
        if found.kind != FileKind::Socket {
            let mend = "use another path, or remove it if nothing needs it";
            return Err(self.occupied(&format!("{} stands there; {mend}", found.kind.name())));
        }
        let own_uid = sys::effective_uid();
        if found.uid != own_uid {
            let why = format!("a socket of uid {} stands there, and you are uid {own_uid}", found.uid);
            return Err(self.occupied(&why));
        }
        for pause in [SECOND_LOOK, Duration::ZERO] {
            match self.probe_any_mode(name, &found) {
                Probe::Refuses => thread::sleep(pause),
                Probe::Gone => return Ok(()),
                Probe::Lives(pid) => {
                    let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                    let sentence = format!(
                        "a live server{who} has {:?}; stop it, or use another path",
                        self.address().path()
                    );
                    return Err(Error::new(ErrorKind::AlreadyRunning, sentence));
                }
                Probe::Unclear(cause) => {
                    let why = "a socket stands there that cannot be asked whether it lives; remove it if not";
                    return Err(self.occupied(why).with_source(cause));
                }
            }
        }
        self.check_publisher_has_ended(capabilities)?;
        // Is it still the one that refused? Nobody but root and ourselves can have changed it since.
        match self.facts()? {
            Some(now) if now.id == found.id => self.unlink("remove the dead socket"),
            _ => Ok(()),
        }
    }

    /// A socket that refuses can be a live server's that is seen through another mount, or from another machine.
    fn check_publisher_has_ended(&self, capabilities: &CapabilityDir) -> Result<(), Error> {
        for _ in 0..PROCESS_LOOKS {
            match self.other_publisher(capabilities) {
                None => return Ok(()),
                Some((_, false)) => break,
                Some((_, true)) => thread::sleep(SECOND_LOOK),
            }
        }
        let path = self.address().path();
        match self.other_publisher(capabilities) {
            Some((pid, true)) => {
                let sentence = format!(
                    "the process {pid} that has published a capability file for {path:?} lives, though the socket \
                     refuses a connection from here; stop it, or use another path"
                );
                Err(Error::new(ErrorKind::AlreadyRunning, sentence))
            }
            Some((pid, false)) if !sys::is_refusal_proof(&*self.dir) => {
                let why = format!(
                    "a socket stands there that refuses a connection from here, and it cannot be told whether its \
                     server has ended (process {pid} in its capability file, perhaps in a container or on another \
                     machine); make sure that it has and remove the socket, or use another path"
                );
                Err(self.occupied(&why))
            }
            _ => Ok(()),
        }
    }

    /// Asks a socket whether it lives, even if its mode keeps its owner out, as a start under a strange umask
    /// that was cut short leaves it.
    fn probe_any_mode(&self, name: &UnixAddr, found: &Facts) -> Probe {
        match probe(name) {
            Probe::Unclear(cause)
                if cause.kind() == io::ErrorKind::PermissionDenied && !found.mode.contains(SOCKET_MODE) =>
            {
                let chmod = |mode| sys::chmod_unfollowed(Some(self.dir.file()), self.name.as_str(), mode);
                if let Err(cause) = chmod(SOCKET_MODE) {
                    return Probe::Unclear(cause);
                }
                let answer = probe(name);
                if !matches!(answer, Probe::Refuses) {
                    // It is not ours to change after all.
                    let _ = chmod(found.mode);
                }
                answer
            }
            answer => answer,
        }
    }

    /// Remembers which file our socket is, and makes sure of its mode.
    fn record_socket(&mut self) -> Result<(), Error> {
        let made =
            self.facts()?.filter(|facts| facts.kind == FileKind::Socket && facts.uid == sys::effective_uid());
        let Some(made) = made else {
            let what = format!(
                "the socket {:?} is not where it was made; was a directory replaced?",
                self.address().path()
            );
            return Err(refused(what, io::ErrorKind::NotFound));
        };
        self.socket = Some(OwnSocket::Identified(made.id));
        self.pinned = sys::pin(&*self.dir, &self.name).map_err(|cause| self.cannot("hold on to", cause))?;
        if made.mode != SOCKET_MODE {
            sys::chmod_unfollowed(Some(self.dir.file()), self.name.as_str(), SOCKET_MODE)
                .map_err(|cause| self.cannot("set the mode of", cause))?;
        }
        match self.facts()? {
            Some(now) if now.id == made.id && now.mode == SOCKET_MODE => Ok(()),
            now => {
                let mode = now.map_or(0, |now| now.mode.bits());
                let sentence = format!(
                    "the socket {:?} has mode {mode:04o} and not 0600; does its file system keep modes?",
                    self.address().path()
                );
                Err(Error::new(ErrorKind::Io, sentence))
            }
        }
    }

    /// Removes what was made; goes on after a failure and reports the first. The lock is held.
    fn remove(&mut self) -> Result<(), Error> {
        let socket = self.remove_socket();
        let capability = self.remove_capability();
        let dir = self.remove_dir();
        socket.and(capability).and(dir)?;
        self.made.remove();
        Ok(())
    }

    fn remove_socket(&mut self) -> Result<(), Error> {
        match self.socket.filter(|_| !self.is_adopted) {
            Some(OwnSocket::Unidentified) => self.remove_unidentified()?,
            Some(OwnSocket::Identified(id)) => {
                let found = self.facts()?;
                if found.is_some_and(|found| found.id == id) {
                    self.unlink("remove")?;
                }
            }
            None => {}
        }
        self.socket = None;
        self.pinned = None;
        Ok(())
    }

    /// Removes the socket that was bound a moment ago and does not listen yet. `bind` goes by the path, so it stands in
    /// another directory if ours was replaced since it was locked.
    fn remove_unidentified(&self) -> Result<(), Error> {
        let path = Path::new(self.address().path());
        let in_dir = self.facts()?;
        let found = match in_dir {
            None => sys::facts_of_path(path).ok(),
            found => found,
        };
        let is_like_ours =
            found.is_some_and(|found| found.kind == FileKind::Socket && found.uid == sys::effective_uid());
        let Some(name) = UnixAddr::new(path).ok().filter(|_| is_like_ours) else { return Ok(()) };
        for pause in [SECOND_LOOK, Duration::ZERO] {
            if !matches!(probe(&name), Probe::Refuses) {
                return Ok(());
            }
            thread::sleep(pause);
        }
        if in_dir.is_some() {
            return self.unlink("remove");
        }
        match fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(self.cannot("remove", cause)),
            _ => Ok(()),
        }
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
        if !self.has_made_dir || self.socket.is_some() {
            return Ok(());
        }
        let cannot = |cause| refused(format!("cannot remove the directory {:?}", self.dir.path()), cause);
        if self.dir.stands().map_err(cannot)? {
            match fs::remove_dir(self.dir.path()) {
                Err(cause)
                    if !matches!(
                        cause.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    return Err(cannot(cause));
                }
                _ => {}
            }
        }
        self.has_made_dir = false;
        Ok(())
    }

    /// What stands at our name in our directory, if anything.
    fn facts(&self) -> Result<Option<Facts>, Error> {
        match sys::facts_at(&*self.dir, &self.name) {
            Ok(facts) => Ok(Some(facts)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(self.cannot("look at", cause)),
        }
    }

    fn unlink(&self, what: &str) -> Result<(), Error> {
        match unlinkat(&*self.dir, self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(self.cannot(what, cause.into())),
        }
    }

    fn occupied(&self, why: &str) -> Error {
        let sentence = format!("cannot take the socket path {:?}: {why}", self.address().path());
        Error::new(ErrorKind::PathOccupied, sentence)
    }

    fn cannot(&self, what: &str, cause: io::Error) -> Error {
        refused(format!("cannot {what} {:?}", self.address().path()), cause)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.release_by(&Clock::new(), DROP_LOCK_TIMEOUT) {
            tracing::warn!(%error, address = %self.address(), "what a server made could not be removed");
        }
    }
}

/// The path of a listener that somebody else has made.
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

fn invalid_listener(why: &str) -> Error {
    let sentence = format!("the listener that was handed over cannot be used: {why}");
    Error::new(ErrorKind::InvalidListener, sentence)
}

/// The directory of a socket and its name there.
pub(crate) fn split(address: &Address) -> Result<(&str, &str), Error> {
    let path = address.path();
    let (parent, name) = match path.rsplit_once('/') {
        None => (".", path),
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
    };
    if matches!(name, "" | "." | "..") {
        let sentence = format!("the socket path {path:?} names a directory; add a name for the socket");
        return Err(Error::new(ErrorKind::InvalidAddress, sentence));
    }
    Ok((parent, name))
}

fn changed_too_often(location: &Location) -> Error {
    let sentence = format!(
        "cannot take the socket path {:?}: what stands there keeps changing; is something else using it?",
        location.address().path()
    );
    Error::new(ErrorKind::PathOccupied, sentence)
}

/// What a socket that stands at a path does when it is connected to.
pub(crate) enum Probe {
    /// It accepts, or would if its backlog were not full; the server's pid where known.
    Lives(Option<u32>),
    Refuses,
    Gone,
    Unclear(io::Error),
}

pub(crate) fn probe(name: &UnixAddr) -> Probe {
    let socket = match sys::stream_socket() {
        Ok(socket) => socket,
        Err(cause) => return Probe::Unclear(cause),
    };
    match socket::connect(socket.as_raw_fd(), name) {
        Ok(()) => Probe::Lives(sys::peer_identity(&socket).ok().and_then(|peer| peer.pid)),
        Err(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EINTR) => Probe::Lives(None),
        Err(Errno::ECONNREFUSED) => Probe::Refuses,
        Err(Errno::ENOENT) => Probe::Gone,
        Err(cause) => Probe::Unclear(cause.into()),
    }
}

/// The lock on a directory, given back when dropped.
pub(crate) struct Lock {
    dir: Arc<PrivateDir>,
}

impl Lock {
    /// Waits for the lock, until [`LOCK_TIMEOUT`] after the origin of `clock`.
    pub(crate) fn take(dir: &Arc<PrivateDir>, clock: &Clock) -> Result<Self, Error> {
        Self::take_within(dir, clock, LOCK_TIMEOUT)
    }

    /// Waits for the lock, until `wait` after the origin of `clock`; tries at least once.
    fn take_within(dir: &Arc<PrivateDir>, clock: &Clock, wait: Duration) -> Result<Self, Error> {
        let mut pause = Duration::from_millis(1);
        loop {
            match dir.file().try_lock() {
                Ok(()) => return Ok(Self { dir: Arc::clone(dir) }),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(fs::TryLockError::Error(cause)) => {
                    return Err(refused(format!("cannot lock the directory {:?}", dir.path()), cause));
                }
            }
            let waited = Duration::from_nanos(clock.now().mono.as_nanos());
            if waited >= wait {
                let sentence = format!(
                    "another server is starting or stopping in {:?} and did not end within {}; try again",
                    dir.path(),
                    InWords(wait)
                );
                return Err(Error::new(ErrorKind::TimedOut, sentence));
            }
            thread::sleep(pause.min(wait.saturating_sub(waited)));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// A time in whole seconds or milliseconds.
struct InWords(Duration);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis if millis % 1000 == 0 && millis > 0 => write!(f, "{} s", millis / 1000),
            millis => write!(f, "{millis} ms"),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the descriptor would not do: a forked child may hold a copy of it.
        let _ = self.dir.file().unlock();
    }
}
