//! Paths that a peer chose, followed without waiting for any file system.
//!
//! A path can lead into a file system that never answers: a dead NFS server, an sshfs without its network, a
//! FUSE program that was written to hang. Every call on such a path blocks its thread for ever. So the path
//! is followed one component at a time. The kernel's table of mounts says what is mounted where, and reading
//! it touches no file system; a component is opened only where the file system answers by itself. What was
//! found is held open, so that nothing can be exchanged afterwards.
//!
//! A file system answers by itself if its type is one that keeps its files on this machine alone, or if we
//! depend on it anyway: it holds `/`, our capability files, or our own socket.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
#[cfg(not(target_os = "linux"))]
use std::path::PathBuf;
use std::path::{Component, Path};

use crate::os::sys::{self, Facts};

/// Links that a walk along a path follows, as the kernel does.
pub(super) const LINKS_MAX: u32 = 40;

/// Puts the steps along `path`, names and `..`, before what is still to be walked.
pub(super) fn prepend(pending: &mut VecDeque<OsString>, path: &Path) {
    let steps = path.components().filter(|it| matches!(it, Component::Normal(_) | Component::ParentDir));
    for step in steps.rev() {
        pending.push_front(step.as_os_str().to_owned());
    }
}

/// The end of a path, which was reached without waiting.
pub(crate) struct Reached {
    /// The facts of what stands there; a link in the last component was not followed.
    pub(crate) facts: Facts,
    #[cfg(target_os = "linux")]
    file: std::fs::File,
}

/// Why the end of a path was not reached.
pub(crate) enum Unreached {
    /// It lies where an answer may never come; in words that can follow "it".
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "no other system says what is mounted where")
    )]
    MayNotAnswer(String),
    /// The system refused.
    Refused(io::Error),
}

impl From<io::Error> for Unreached {
    fn from(cause: io::Error) -> Self {
        Self::Refused(cause)
    }
}

#[cfg(not(target_os = "linux"))]
impl Reached {
    /// The path itself: here nothing else leads to a socket.
    pub(crate) fn path(&self) -> Option<String> {
        None
    }
}

/// Follows paths. Only Linux says what is mounted where; elsewhere a path is followed as it is.
#[cfg(not(target_os = "linux"))]
pub(crate) struct Reach;

#[cfg(not(target_os = "linux"))]
impl Reach {
    pub(crate) fn new(own: &[PathBuf]) -> io::Result<Self> {
        let _ = own;
        Ok(Self)
    }

    pub(crate) fn reach(&self, path: &Path) -> Result<Reached, Unreached> {
        Ok(Reached { facts: sys::facts_of_path(path)? })
    }
}

impl Reach {
    /// Whether everything on the way to `path` answers by itself, so that looking at it cannot take for ever;
    /// or why not.
    pub(crate) fn check_answers(&self, path: &Path) -> Result<(), String> {
        match self.reach(path) {
            Err(Unreached::MayNotAnswer(why)) => Err(format!("it {why}")),
            // What else is wrong is found where it is opened.
            Ok(_) | Err(Unreached::Refused(_)) => Ok(()),
        }
    }
}

/// Whether the files of `dir` are provably this machine's alone: no other one can have put them there.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_local(dir: &impl std::os::fd::AsFd) -> bool {
    let _ = dir;
    false
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{Reach, is_local};

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::OnceCell;
    use std::collections::VecDeque;
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File};
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::ffi::OsStringExt;
    use std::path::{Component, Path, PathBuf};

    use nix::errno::Errno;
    use nix::fcntl::{OFlag, openat, readlinkat};
    use nix::sys::stat::Mode;

    use super::{LINKS_MAX, Reached, Unreached, prepend, sys};
    use crate::os::sys::FileKind;

    /// Types of file systems whose files are on this machine alone and which wait for no other machine or
    /// process.
    const LOCAL_TYPES: [&str; 16] = [
        "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs",
        "rootfs", "squashfs", "tmpfs", "xfs", "zfs",
    ];

    /// Opens nothing but the name itself, of any kind of file.
    const BARE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

    /// One line of the table of mounts.
    struct Mount {
        id: u32,
        at: PathBuf,
        kind: String,
    }

    impl Mount {
        /// `id parent device root mount-point options [tag…] - type source options`.
        fn parse(line: &[u8]) -> Option<Self> {
            let mut fields = line.split(|&byte| byte == b' ');
            let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
            let at = unescaped(fields.nth(3)?);
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            Some(Self { id, at: at.into(), kind: String::from_utf8_lossy(kind).into_owned() })
        }
    }

    /// Blanks, tabs, newlines and backslashes stand in the table as a backslash and three octal digits.
    fn unescaped(field: &[u8]) -> OsString {
        let mut bytes = Vec::with_capacity(field.len());
        let mut rest = field;
        while let Some((&byte, after)) = rest.split_first() {
            let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                Some(escaped) if byte == b'\\' => {
                    bytes.push(escaped);
                    rest = after.get(3..).unwrap_or_default();
                }
                _ => {
                    bytes.push(byte);
                    rest = after;
                }
            }
        }
        OsString::from_vec(bytes)
    }

    /// What is mounted where, as this thread sees it.
    struct Mounts(Vec<Mount>);

    impl Mounts {
        /// `None` without `/proc`.
        fn read() -> Option<Self> {
            let table = fs::read("/proc/thread-self/mountinfo").ok()?;
            Some(Self(table.split(|&byte| byte == b'\n').filter_map(Mount::parse).collect()))
        }

        fn is_local(&self, id: u32) -> bool {
            self.0.iter().any(|mount| mount.id == id && LOCAL_TYPES.contains(&mount.kind.as_str()))
        }
    }

    /// The mount that an open file lies on.
    fn mount_of(file: &impl AsFd) -> Option<u32> {
        let facts = format!("/proc/thread-self/fdinfo/{}", file.as_fd().as_raw_fd());
        let text = fs::read_to_string(facts).ok()?;
        text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
    }

    /// Whether the files of `dir` are provably this machine's alone: no other one can have put them there.
    pub(crate) fn is_local(dir: &impl AsFd) -> bool {
        let mounts = Mounts::read();
        mounts.zip(mount_of(dir)).is_some_and(|(mounts, id)| mounts.is_local(id))
    }

    impl From<Errno> for Unreached {
        fn from(cause: Errno) -> Self {
            Self::Refused(cause.into())
        }
    }

    impl Reached {
        /// A path that leads to what was reached and to nothing else, if there is `/proc`.
        pub(crate) fn path(&self) -> Option<String> {
            let path = format!("/proc/thread-self/fd/{}", self.file.as_raw_fd());
            fs::symlink_metadata(&path).is_ok().then_some(path)
        }
    }

    /// Follows paths, with the table of mounts as it was when this was made: what is mounted later is not
    /// followed into.
    pub(crate) struct Reach {
        root: File,
        mounts: Option<Mounts>,
        /// Directories on whose file systems we depend anyway: these need not be local.
        own: Vec<PathBuf>,
        /// Their mounts, once they are asked for.
        own_mounts: OnceCell<Vec<u32>>,
    }

    impl Reach {
        pub(crate) fn new(own: &[PathBuf]) -> io::Result<Self> {
            let root = sys::open_path(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            Ok(Self { root, mounts: Mounts::read(), own: own.to_owned(), own_mounts: OnceCell::new() })
        }

        /// Looks at the absolute `path`; its last component may be a link, which is not followed.
        pub(crate) fn reach(&self, path: &Path) -> Result<Reached, Unreached> {
            if !path.is_absolute() {
                return Err(Errno::EINVAL.into());
            }
            // Absolute, and no component of it is a link.
            let mut at = PathBuf::from("/");
            let mut dir = self.root.try_clone()?;
            let mut pending = VecDeque::new();
            prepend(&mut pending, path);
            let mut links = 0;
            while let Some(name) = pending.pop_front() {
                if name == ".." {
                    // Back to where we came from: that was looked at on the way.
                    at.pop();
                    dir = openat(&dir, "..", BARE | OFlag::O_DIRECTORY, Mode::empty())?.into();
                    continue;
                }
                at.push(&name);
                let file = match self.open(&dir, &name, &at) {
                    Err(Unreached::MayNotAnswer(why)) => {
                        self.pass(&mut at, &mut pending).ok_or(Unreached::MayNotAnswer(why))?
                    }
                    file => file?,
                };
                let facts = sys::facts_of(&file)?;
                if facts.kind != FileKind::Link || pending.is_empty() {
                    dir = file;
                    continue;
                }
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                let target = PathBuf::from(readlinkat(&file, "")?);
                prepend(&mut pending, &target);
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                    dir = self.root.try_clone()?;
                }
            }
            Ok(Reached { facts: sys::facts_of(&dir)?, file: dir })
        }

        /// Opens `name` in `dir`, which is at the path `at`.
        fn open(&self, dir: &File, name: &OsStr, at: &Path) -> Result<File, Unreached> {
            let mounts = self.mounts.iter().flat_map(|mounts| &mounts.0);
            let mut is_mount = false;
            // Mounts can lie one upon another; the table does not say which is the upper one.
            for mount in mounts.filter(|mount| mount.at == at) {
                is_mount = true;
                if !self.is_answering(mount.id) {
                    return Err(may_not_answer(mount));
                }
            }
            if !is_mount {
                match sys::open_here(dir, name, BARE) {
                    Ok(Some(file)) => return Ok(file),
                    // The table alone has to do.
                    Ok(None) if self.mounts.is_some() => {}
                    Err(cause) if cause.kind() != io::ErrorKind::CrossesDevices => return Err(cause.into()),
                    _ => {
                        return Err(Unreached::MayNotAnswer(format!(
                            "may lie on a file system that may not answer (it is not known what is mounted \
                             at {at:?})"
                        )));
                    }
                }
            }
            let file = File::from(openat(dir, name, BARE, Mode::empty())?);
            // Something may have been mounted there since the table was read.
            if mount_of(&file).is_some_and(|id| self.is_answering(id)) {
                return Ok(file);
            }
            Err(Unreached::MayNotAnswer(format!(
                "lies on a file system that may not answer (mounted at {at:?} just now)"
            )))
        }

        /// Goes on at a mount that we depend on, if the path leads there: an automounter's directory may lie
        /// before it.
        fn pass(&self, at: &mut PathBuf, pending: &mut VecDeque<OsString>) -> Option<File> {
            let mounts = self.mounts.iter().flat_map(|mounts| &mounts.0);
            for mount in mounts.filter(|mount| self.is_own(mount.id)) {
                let Ok(between) = mount.at.strip_prefix(&*at) else { continue };
                let len = between.components().count();
                if len == 0 || !pending.iter().take(len).eq(between.components().map(Component::as_os_str)) {
                    continue;
                }
                let file = sys::open_path(&mount.at, BARE).ok()?;
                if mount_of(&file) == Some(mount.id) {
                    pending.drain(..len);
                    at.clone_from(&mount.at);
                    return Some(file);
                }
            }
            None
        }

        fn is_answering(&self, id: u32) -> bool {
            self.mounts.as_ref().is_some_and(|mounts| mounts.is_local(id)) || self.is_own(id)
        }

        /// Whether we depend on the mount `id`.
        fn is_own(&self, id: u32) -> bool {
            let mounts = self.own_mounts.get_or_init(|| {
                let open = |path: &PathBuf| sys::open_path(path, OFlag::O_PATH | OFlag::O_DIRECTORY).ok();
                let own = self.own.iter().filter_map(|path| mount_of(&open(path)?));
                own.chain(mount_of(&self.root)).collect()
            });
            mounts.contains(&id)
        }
    }

    fn may_not_answer(mount: &Mount) -> Unreached {
        let sentence = format!(
            "lies on a file system that may not answer ({} at {:?})",
            mount.kind.escape_debug(),
            mount.at
        );
        Unreached::MayNotAnswer(sentence)
    }
}
