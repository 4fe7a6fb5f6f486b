//! Unix: modes, owners, sockets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use udsmsg::os::{Claim, Random};
use udsmsg::parts::AuthToken;
use udsmsg::{Address, Error, ErrorKind, Location};

use super::{Place, token};
use crate::machine;

/// A user that is not us.
pub const OTHER_UID: u32 = 65_534;

impl Place {
    /// One that other users can walk into.
    pub fn open() -> Self {
        let place = Self::below(&machine::open_temp_base());
        chmod(place.dir.path(), 0o755);
        place
    }

    /// A new directory of mode `mode`.
    pub fn make_dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Private from the start, because another process may look at it meanwhile.
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        assert!(made.is_ok() || path.is_dir(), "{path:?}: {made:?}");
        chmod(&path, mode);
        path
    }

    /// The path of the socket `name` in a private directory.
    pub fn server(&self, name: &str) -> PathBuf {
        self.make_dir("d", 0o700).join(name)
    }

    pub fn bind(&self, path: &Path) -> Result<(UnixListener, Claim), Error> {
        self.bind_with(path, &token(1))
    }

    pub fn bind_with(&self, path: &Path, auth_token: &AuthToken) -> Result<(UnixListener, Claim), Error> {
        let location = Location::from(Address::from_path(path).unwrap());
        Claim::bind(location, &self.capabilities(), auth_token, &mut Random::from_os().unwrap())
    }
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

/// Gives `path` to another user; false if we may not.
#[must_use]
#[track_caller]
pub fn give_away(path: &Path) -> bool {
    if !is_root() {
        return false;
    }
    let given = std::os::unix::fs::lchown(path, Some(OTHER_UID), None);
    if given.is_err() {
        machine::skip("root may not give files away here");
    }
    given.is_ok()
}

/// Whether we may act as a second user; what needs one is skipped otherwise.
#[track_caller]
pub fn is_root() -> bool {
    let is_root = udsmsg::os::effective_uid() == 0;
    if !is_root {
        machine::skip("not root, so there is no second user");
    }
    is_root
}

/// Makes `dir` like a directory of capability files.
pub fn make_private_dir(dir: &Path) {
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    assert!(made.is_ok() || dir.is_dir(), "{dir:?}: {made:?}");
    chmod(dir, 0o700);
}

/// Writes `contents` to the file `path`, which is like a capability file.
pub fn write_private(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents).unwrap();
    chmod(path, 0o600);
}

/// Which file `path` is, and what would change if it did.
pub fn facts(path: &Path) -> (u64, u32, i64) {
    let meta = path.symlink_metadata().unwrap();
    (meta.ino(), meta.mode(), meta.mtime_nsec())
}

/// A dead server's socket: bound, listened on, closed.
pub fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    chmod(path, 0o600);
    wait_until_refused(path);
}

/// The listener was dropped, but a process that another test starts may hold a copy of it for a moment.
pub fn wait_until_refused(path: &Path) {
    while UnixStream::connect(path).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Again and again while another start, stop or sweep has the lock for longer than `attempt` waits: on a busy
/// machine one may.
pub fn once_free<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            result => return result,
        }
    }
}
