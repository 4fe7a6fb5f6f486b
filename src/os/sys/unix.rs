//! Unix: safe wrappers over `nix` for what the standard library has not.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, FdFlag, OFlag, fcntl, openat, renameat};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};
use nix::sys::stat::{self, FchmodatFlags, FileStat, Mode, SFlag};
use nix::unistd::{Pid, Uid, UnlinkatFlags, User, linkat, unlinkat};

use super::sample;
use crate::proto::peer::PeerIdentity;
use crate::proto::time::Wall;

/// Bytes of `sun_path`, the NUL at its end included: 108 on Linux, 104 on macOS and the BSDs.
pub(crate) const SUN_PATH_BYTES: usize =
    size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

/// Whether a server whose backlog is full refuses a connection, as a socket does at which no process listens:
/// `ECONNREFUSED` on macOS and the BSDs, where Linux says `EAGAIN`.
pub(crate) const FULL_REFUSES: bool = cfg!(not(any(target_os = "linux", target_os = "android")));

/// Whether the system tells in which boot and in which container a process runs, and when it was started:
/// Linux does, in `/proc`.
pub(crate) const TELLS_STARTS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The uid that this process acts as.
pub fn effective_uid() -> u32 {
    Uid::effective().as_raw()
}

/// The user who decides which peers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
}

impl Owner {
    /// The user that this process acts as now.
    pub fn current() -> Self {
        Self::with_uid(effective_uid())
    }

    /// The user `uid`.
    pub const fn with_uid(uid: u32) -> Self {
        Self { uid }
    }

    /// Whether a process of this user may trust `peer`: it belongs to the same user or to root.
    pub fn trusts(self, peer: PeerIdentity) -> bool {
        peer.uid().is_some_and(|uid| uid == self.uid || uid == 0)
    }
}

/// Who is at the other end of the connected Unix socket `fd`, as the kernel says.
///
/// On a client's socket it is the process that called `listen`; on an accepted one, the one that called
/// `connect`.
///
/// # Errors
///
/// What the system says: `fd` is no connected Unix socket.
pub fn peer_identity(fd: &impl AsFd) -> io::Result<PeerIdentity> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let (uid, pid) = {
        let credentials = socket::getsockopt(fd, socket::sockopt::PeerCredentials)?;
        (credentials.uid(), Some(credentials.pid()))
    };
    #[cfg(target_vendor = "apple")]
    let (uid, pid) = {
        let uid = socket::getsockopt(fd, socket::sockopt::LocalPeerCred)?.uid();
        (uid, socket::getsockopt(fd, socket::sockopt::LocalPeerPid).ok())
    };
    #[cfg(target_os = "freebsd")]
    let (uid, pid) = {
        let credentials = socket::getsockopt(fd, peer_credentials::PeerCredentials)?;
        (credentials.cr_uid, Some(peer_credentials::pid_in(&credentials)))
    };
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd"
    )))]
    // By the name that all BSDs share; it does not give the pid.
    let (uid, pid) = (nix::unistd::getpeereid(fd.as_fd())?.0.as_raw(), None::<libc::pid_t>);
    // Linux writes pid 0 for a process outside our pid namespace, FreeBSD before 13 always.
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0);
    Ok(PeerIdentity::unix(uid, pid))
}

#[cfg(target_os = "freebsd")]
mod peer_credentials {
    use nix::libc;
    use nix::sys::socket::sockopt::GetStruct;

    /// Who called `connect`, or `listen`.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct PeerCredentials;

    nix::getsockopt_impl!(
        PeerCredentials,
        libc::SOL_LOCAL,
        libc::LOCAL_PEERCRED,
        libc::xucred,
        GetStruct<libc::xucred>
    );

    /// The pid in `credentials`; 0 before FreeBSD 13.
    #[allow(unsafe_code, reason = "a field of a union")]
    pub(super) fn pid_in(credentials: &libc::xucred) -> libc::pid_t {
        // SAFETY: the kernel fills in the whole structure, with zeros where it has nothing to say, and any
        // bytes are a `pid_t`. It never writes the other field of this union, a pointer for its own use.
        unsafe { credentials.cr_pid__c_anonymous_union.cr_pid }
    }
}

/// Writes `bytes` to the connected socket `fd`; a peer that is gone is an error, never a `SIGPIPE` in the
/// host. Some versions of macOS have no flag for that: there it holds for sockets of this library, and others
/// with `SO_NOSIGPIPE`.
///
/// # Errors
///
/// What the system says; `WouldBlock` and `BrokenPipe` are ordinary.
pub fn send(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::from_bits_retain(libc::MSG_NOSIGNAL);
    Ok(socket::send(fd.as_fd().as_raw_fd(), bytes, flags)?)
}

/// Reads from the connected socket `fd` into `space`: how many bytes, and whether something else than a lack
/// of bytes may have ended the read, so that it proves nothing if it was short.
///
/// Descriptors do that, and what else the system puts between bytes. They are closed by the system, never
/// opened here.
///
/// # Errors
///
/// What the system says; `WouldBlock` is ordinary.
pub(crate) fn receive(fd: &impl AsFd, space: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut parts = [io::IoSliceMut::new(space)];
    // Without room for control messages none is taken in; what was thrown away is flagged on Linux, and not
    // everywhere.
    let received = socket::recvmsg::<()>(fd.as_fd().as_raw_fd(), &mut parts, None, MsgFlags::empty())?;
    let is_flagged = cfg!(any(target_os = "linux", target_os = "android"));
    Ok((received.bytes, !is_flagged || received.flags.contains(MsgFlags::MSG_CTRUNC)))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod pass_rights {
    use nix::libc;
    use nix::sys::socket::sockopt::{GetBool, SetBool};

    /// Of Linux 6.16; not in `libc` yet.
    #[cfg(not(any(target_arch = "sparc", target_arch = "sparc64")))]
    const SO_PASSRIGHTS: libc::c_int = 83;
    #[cfg(any(target_arch = "sparc", target_arch = "sparc64"))]
    const SO_PASSRIGHTS: libc::c_int = 0x5c;

    /// Whether others may pass descriptors along to a socket.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct PassRights;

    nix::setsockopt_impl!(PassRights, libc::SOL_SOCKET, SO_PASSRIGHTS, bool, SetBool);
    nix::getsockopt_impl!(PassRights, libc::SOL_SOCKET, SO_PASSRIGHTS, bool, GetBool);
}

/// Gives the socket `fd` what all of ours have: it refuses descriptors, and a write to a peer that is gone
/// raises no signal, where [`send`] cannot see to that. What a listener accepts inherits both.
///
/// # Errors
///
/// What the system says: a write could raise a signal.
pub(crate) fn protect(fd: &impl AsFd) -> io::Result<()> {
    refuse_descriptors(fd);
    #[cfg(target_vendor = "apple")]
    if let Err(cause) = socket::setsockopt(fd, no_signal::NoSigPipe, &true)
        // No option of a socket whose peer has closed can be set, but it may have inherited this one.
        && socket::getsockopt(fd, no_signal::NoSigPipe) != Ok(true)
    {
        return Err(cause.into());
    }
    Ok(())
}

#[cfg(target_vendor = "apple")]
mod no_signal {
    use nix::libc;
    use nix::sys::socket::sockopt::{GetBool, SetBool};

    /// Whether a write to a peer that is gone is an error without a signal. Linux and the BSDs have a flag of
    /// the write for that, Apple's systems not in all versions.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct NoSigPipe;

    nix::setsockopt_impl!(NoSigPipe, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, bool, SetBool);
    nix::getsockopt_impl!(NoSigPipe, libc::SOL_SOCKET, libc::SO_NOSIGPIPE, bool, GetBool);
}

/// From now on, who passes descriptors along to the socket `fd` is told that it is not permitted. What a
/// listener accepts inherits that.
///
/// Reading bytes that came with descriptors closes these, and so does closing the socket. The last close of a
/// file can take as long as its owner likes: that of a TCP socket with `SO_LINGER` and a full send buffer,
/// for one.
///
/// Does nothing where the system has no such option; see [`can_refuse_descriptors`].
fn refuse_descriptors(fd: &impl AsFd) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket::setsockopt(fd, pass_rights::PassRights, &false);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = fd;
}

/// Whether this system lets a socket refuse descriptors that its peer passes along (Linux 6.16 and later
/// does).
///
/// Where it does not, a peer can hold up the thread that reads from it: passing a descriptor whose last close
/// takes long is enough.
///
/// # Errors
///
/// What the system says: no socket can be made.
pub fn can_refuse_descriptors() -> io::Result<bool> {
    let socket = stream_socket()?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Ok(socket::getsockopt(&socket, pass_rights::PassRights) == Ok(false));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        drop(socket);
        Ok(false)
    }
}

/// Makes a socket that the caller has made like one of ours: non-blocking, close-on-exec, and protected.
pub(crate) fn take_over(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd();
    protect(&fd)?;
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    fcntl(fd, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// What `poll(2)` is to be told for a `timeout`, `None` for no limit: whole milliseconds, rounded up, or a
/// loop would spin through the last one.
pub fn poll_timeout(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX))
}

/// Waits until one of `fds` is ready, for at most `timeout` (`None`: no limit). A signal ends it early.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = PollTimeout::try_from(poll_timeout(timeout)).unwrap_or(PollTimeout::MAX);
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The number of an error of the system.
pub(crate) fn errno_of(cause: &io::Error) -> Errno {
    Errno::from_raw(cause.raw_os_error().unwrap_or_default())
}

/// Whether the system has run out of descriptors or memory for now.
pub(crate) fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

/// Whether the socket `fd` was shut, by this process or by another one that holds it.
pub(crate) fn is_shut_down(fd: &impl AsFd) -> bool {
    // `POLLHUP` and the like are told unasked; this one is not, and where there is none they have to do.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let asked = PollFlags::from_bits_retain(libc::POLLRDHUP);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let asked = PollFlags::empty();
    poll(&mut [PollFd::new(fd.as_fd(), asked)], PollTimeout::ZERO).is_ok_and(|told| told > 0)
}

/// A new Unix stream socket: non-blocking, close-on-exec, and protected.
pub(crate) fn stream_socket() -> io::Result<OwnedFd> {
    #[cfg(not(target_vendor = "apple"))]
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    #[cfg(target_vendor = "apple")]
    let flags = SockFlag::empty();
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    #[cfg(target_vendor = "apple")]
    take_over(&fd)?;
    #[cfg(not(target_vendor = "apple"))]
    protect(&fd)?;
    Ok(fd)
}

/// The mode of files and sockets that are ours alone: read and write for their owner.
pub(crate) const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Which file it is, as long as it exists: no two files have the same at the same time.
///
/// A later file can be given the inode of one that is gone. Linux has [`pin`] against that. The BSDs and
/// macOS have not: there the time of birth tells the two apart, and a socket that is still bound keeps its
/// inode from being freed in any case (the kernel holds a reference to its file from `bind` to the last
/// close: `unp_vnode` in the sources of FreeBSD, NetBSD, OpenBSD and XNU). So what a listener was bound to
/// cannot be mistaken while that is open, nor, on most file systems, after it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: libc::dev_t,
    inode: libc::ino_t,
    /// Seconds and nanoseconds; the same for all files where the system or the file system does not know it.
    born: (libc::time_t, libc::c_long),
}

impl FileId {
    fn from_stat(stat: &FileStat) -> Self {
        #[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "openbsd"))]
        let born = (stat.st_birthtime, stat.st_birthtime_nsec);
        #[cfg(target_os = "netbsd")]
        let born = (stat.st_birthtime, stat.st_birthtimensec);
        #[cfg(not(any(
            target_vendor = "apple",
            target_os = "freebsd",
            target_os = "openbsd",
            target_os = "netbsd"
        )))]
        let born = (0, 0);
        Self { device: stat.st_dev, inode: stat.st_ino, born }
    }
}

/// What kind of file stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Directory,
    Link,
    Socket,
    Fifo,
    Device,
}

impl FileKind {
    /// The kind in words, with its article.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Link => "a symbolic link",
            Self::Socket => "a socket",
            Self::Fifo => "a FIFO",
            Self::Device => "a device",
        }
    }
}

/// What `stat` says, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) id: FileId,
    pub(crate) kind: FileKind,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits with set-uid, set-gid and sticky.
    pub(crate) mode: Mode,
    pub(crate) len: u64,
    pub(crate) modified: Wall,
}

impl Facts {
    /// Whether it belongs to the user that we act as.
    pub(crate) fn is_ours(&self) -> bool {
        self.uid == effective_uid()
    }

    /// To whom it belongs, where it should be ours: in words that can follow "it".
    pub(crate) fn whose(&self) -> String {
        format!("belongs to uid {}, and you are uid {}", self.uid, effective_uid())
    }

    /// Whether group or others have any permission at all.
    pub(crate) fn is_open_to_others(&self) -> bool {
        self.mode.intersects(Mode::S_IRWXG | Mode::S_IRWXO)
    }

    /// Whether the owner lacks a permission that the owner of a directory needs.
    pub(crate) fn keeps_owner_out(&self) -> bool {
        !self.mode.contains(Mode::S_IRWXU)
    }

    /// Whether this directory lets users exchange only what is their own.
    pub(crate) fn is_sticky(&self) -> bool {
        self.mode.contains(Mode::S_ISVTX)
    }

    /// Whether its group, and whether all others, may write to it.
    pub(crate) fn writable_by(&self) -> (bool, bool) {
        (self.mode.contains(Mode::S_IWGRP), self.mode.contains(Mode::S_IWOTH))
    }

    /// Whether it is unchanged since it was `then`: the same file with the same permissions and contents, as
    /// far as this can tell.
    pub(crate) fn is_as(&self, then: &Self) -> bool {
        self.id == then.id && (self.len, self.mode, self.modified) == (then.len, then.mode, then.modified)
    }

    /// How others are let in, in words that can follow "it". `path` leads to it.
    pub(crate) fn openness(&self, path: &Path) -> String {
        format!("has {}, which lets others in", self.permissions(path))
    }

    /// Its mode for an error. `path` leads to it: the group bits stand for more than its group if it has a
    /// POSIX access list, which is noted.
    pub(crate) fn permissions(&self, path: &Path) -> String {
        format!("mode {:04o}{}", self.mode.bits(), access_list_noted(path))
    }

    fn from_stat(stat: &FileStat) -> Self {
        let format = stat.st_mode & SFlag::S_IFMT.bits();
        let kinds = [
            (SFlag::S_IFREG, FileKind::Regular),
            (SFlag::S_IFDIR, FileKind::Directory),
            (SFlag::S_IFLNK, FileKind::Link),
            (SFlag::S_IFSOCK, FileKind::Socket),
            (SFlag::S_IFIFO, FileKind::Fifo),
        ];
        let kind = kinds.iter().find(|(flag, _)| flag.bits() == format);
        Self {
            id: FileId::from_stat(stat),
            kind: kind.map_or(FileKind::Device, |&(_, kind)| kind),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: Mode::from_bits_truncate(stat.st_mode),
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: Wall::from_millis(u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1000)),
        }
    }
}

/// The facts of an open file.
pub(crate) fn facts_of(fd: &impl AsFd) -> io::Result<Facts> {
    Ok(Facts::from_stat(&stat::fstat(fd.as_fd())?))
}

/// The facts of what stands at `name` in `dir`; a link is not followed.
pub(crate) fn facts_at(dir: &impl AsFd, name: &str) -> io::Result<Facts> {
    Ok(Facts::from_stat(&stat::fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
}

/// The facts of what stands at `path`; a link in its last component is not followed.
pub(crate) fn facts_of_path(path: &Path) -> io::Result<Facts> {
    Ok(Facts::from_stat(&stat::lstat(path)?))
}

/// Opens `name` in `dir`, close-on-exec and never through a link.
fn open_at(dir: &impl AsFd, name: &(impl NixPath + ?Sized), flags: OFlag, mode: Mode) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    Ok(File::from(openat(dir.as_fd(), name, flags, mode)?))
}

/// Opens `name` in `dir` to be read, and never what is mounted on it: that may wait for another machine or
/// process. Then it is `CrossesDevices`; where the kernel cannot tell, it is opened as it is.
pub(crate) fn open_to_read(dir: &impl AsFd, name: &str) -> io::Result<File> {
    open_unmounted(dir, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
}

fn open_unmounted(dir: &impl AsFd, name: &str, flags: OFlag) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    if let Some(file) = open_here(dir, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)? {
        return Ok(file);
    }
    open_at(dir, name, flags, Mode::empty())
}

/// The same for `name` in the directory at `path`, which is looked at no further: one system call where the
/// way to the file crosses no mount.
pub(crate) fn open_path_to_read(path: &Path, name: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    #[cfg(target_os = "linux")]
    {
        use nix::fcntl::{OpenHow, ResolveFlag, openat2};
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW);
        match openat2(AT_FDCWD, &path.join(name), how.resolve(ResolveFlag::RESOLVE_NO_XDEV)) {
            // Before Linux 5.6, or behind a filter; or a mount is crossed, which may be the last step.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EXDEV) => {}
            opened => return Ok(opened?.into()),
        }
        open_unmounted(&open_path(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?, name, flags)
    }
    #[cfg(not(target_os = "linux"))]
    open_at(&AT_FDCWD, &path.join(name), flags, Mode::empty())
}

/// The facts of what stands at `name` in `dir`, and never of what is mounted on it, as above.
pub(crate) fn facts_unmounted(dir: &impl AsFd, name: &str) -> io::Result<Facts> {
    #[cfg(target_os = "linux")]
    return facts_of(&open_unmounted(dir, name, OFlag::O_PATH)?);
    #[cfg(not(target_os = "linux"))]
    facts_at(dir, name)
}

/// Opens `name` in `dir` and crosses neither a mount nor a link. `None` where the kernel does not know how
/// (before Linux 5.6), or a filter before it does not.
#[cfg(target_os = "linux")]
pub(crate) fn open_here(
    dir: &impl AsFd,
    name: &(impl NixPath + ?Sized),
    flags: OFlag,
) -> io::Result<Option<File>> {
    use nix::fcntl::{OpenHow, ResolveFlag, openat2};
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    match openat2(dir, name, OpenHow::new().flags(flags).resolve(resolve)) {
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(None),
        opened => Ok(Some(opened?.into())),
    }
}

/// Opens `path`, close-on-exec.
pub(crate) fn open_path(path: &Path, flags: OFlag) -> io::Result<File> {
    Ok(File::from(openat(AT_FDCWD, path, flags | OFlag::O_CLOEXEC, Mode::empty())?))
}

/// Opens the directory at `path`; a link in its last component is not followed.
pub(crate) fn open_dir(path: &Path) -> io::Result<File> {
    open_path(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)
}

/// Makes the directory `path` with no permission for other users. Under a strange umask its owner may lack
/// some too, until [`permit_owner`].
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Gives all permissions on the directory `path` to its owner and none to others. A link is not followed.
pub(crate) fn permit_owner(path: &Path) -> io::Result<()> {
    chmod_unfollowed(None, path, Mode::S_IRWXU)
}

/// Makes the file `name` in `dir`, to be written. Its owner may read and write it, under any umask, and no
/// other user may do anything with it. There must be nothing at that name.
pub(crate) fn create_private(dir: &impl AsFd, name: &str) -> io::Result<File> {
    let file = open_at(dir, name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, PRIVATE)?;
    stat::fchmod(&file, PRIVATE).inspect_err(|_| drop(remove_at(dir, name)))?;
    Ok(file)
}

/// Removes the file `name` from `dir`.
pub(crate) fn remove_at(dir: &impl AsFd, name: &str) -> io::Result<()> {
    Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)
}

/// Renames the file `from` in `dir` to `to`, in place of what has that name.
pub(crate) fn rename_in(dir: &impl AsFd, from: &str, to: &str) -> io::Result<()> {
    Ok(renameat(dir, from, dir, to)?)
}

/// Gives the file `from` in `dir` the name `to` as well; `AlreadyExists` if something has that name.
pub(crate) fn link_in(dir: &impl AsFd, from: &str, to: &str) -> io::Result<()> {
    Ok(linkat(dir, from, dir, to, AtFlags::empty())?)
}

/// Up to `max` of the names in `dir`, as [`sample`] chooses them.
pub(crate) fn names_in(
    dir: &impl AsFd,
    max: usize,
    wanted: impl FnMut(&str) -> bool,
    draw: impl FnMut(usize) -> usize,
) -> io::Result<(Vec<String>, bool)> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let entries = nix::dir::Dir::openat(dir.as_fd(), ".", flags, Mode::empty())?.into_iter();
    let names = entries.map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()));
    let is_other = |name: &io::Result<OsString>| !name.as_ref().is_ok_and(|name| name == "." || name == "..");
    sample(names.filter(is_other), max, wanted, draw)
}

/// Whether `dir` holds nothing but perhaps `name`.
pub(crate) fn has_nothing_but(dir: &impl AsFd, name: &str) -> io::Result<bool> {
    Ok(names_in(dir, 1, |other| other != name, |_| 1)?.0.is_empty())
}

/// Whether we could make a file in the directory `path`.
pub(crate) fn is_writable(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, faccessat};
    // Android's C library refuses every flag. The uids that it asks for are the ones that we act as there.
    #[cfg(target_os = "android")]
    let flags = AtFlags::empty();
    #[cfg(not(target_os = "android"))]
    let flags = AtFlags::AT_EACCESS;
    faccessat(AT_FDCWD, path, AccessFlags::W_OK | AccessFlags::X_OK, flags).is_ok()
}

/// A descriptor that keeps the inode of `name` in `dir` from being freed, and so from being given to another
/// file. `None` where the platform has no such thing for sockets.
pub(crate) fn pin(dir: &impl AsFd, name: &str) -> io::Result<Option<File>> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return open_at(dir, name, OFlag::O_PATH, Mode::empty()).map(Some);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (dir, name);
        Ok(None)
    }
}

/// Sets the mode of `name` in `dir` (or, if that is `None`, of a path) without following a link.
///
/// Where the system cannot do that (an old Linux without `/proc`) the link is followed: callers only ever
/// name what stands in a directory that only root and we can change, and have looked at what it is.
pub(crate) fn chmod_unfollowed(
    dir: Option<&File>,
    name: &(impl NixPath + ?Sized),
    mode: Mode,
) -> io::Result<()> {
    let dir = dir.map_or(AT_FDCWD, AsFd::as_fd);
    match stat::fchmodat(dir, name, mode, FchmodatFlags::NoFollowSymlink) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
            Ok(stat::fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink)?)
        }
        result => Ok(result?),
    }
}

/// The home directory that the user database has for us.
pub(crate) fn home_directory() -> Option<PathBuf> {
    let user = User::from_uid(Uid::effective()).ok().flatten()?;
    Some(user.dir).filter(|dir| dir.is_absolute())
}

/// What to add to the mode of `path` in an error: whether it has a POSIX access list. The group bits are the
/// most that any entry of the list gives, so without them there is nothing to look for.
pub(crate) fn access_list_noted(path: &Path) -> &'static str {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    match rustix::fs::lgetxattr(path, c"system.posix_acl_access", &mut [0_u8; 0]) {
        Ok(_) => return ", with an access list that getfacl shows",
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => {}
        Err(_) => return ", with an access list that cannot be read",
    }
    let _ = path;
    ""
}

/// Whether a socket in `dir` that refuses a connection is proof that no process listens at it: its file
/// system belongs to this kernel alone and shows the same inode on every way to it. An overlay shows another
/// one, and the processes of another machine cannot be reached through a network file system. Never where a
/// full backlog refuses too.
///
/// `is_local` in `os::files::reach` asks something else, whether another machine can have written a file: an
/// overlay passes there and not here. That one needs `/proc`, and says no without it; this one must not, or
/// no server could start again after a crash where there is no `/proc`.
pub(crate) fn is_refusal_proof(dir: &impl AsFd) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use nix::sys::statfs;
        let own = [
            statfs::TMPFS_MAGIC,
            statfs::EXT4_SUPER_MAGIC,
            statfs::XFS_SUPER_MAGIC,
            statfs::BTRFS_SUPER_MAGIC,
            statfs::F2FS_SUPER_MAGIC,
        ];
        statfs::fstatfs(dir.as_fd()).is_ok_and(|found| own.contains(&found.filesystem_type()))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = dir;
        false
    }
}

/// Whether a process `pid` exists (a zombie does); `None` if the number cannot be one.
pub(crate) fn process_exists(pid: u32) -> Option<bool> {
    // 0 and negative numbers address groups of processes.
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0)?;
    Some(signal::kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}
