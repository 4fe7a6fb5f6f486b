//! A directory for each test, and short ways to look at it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use udsmsg::os::{CapabilityDir, Claim, Random};
use udsmsg::parts::AuthToken;
use udsmsg::{Address, Environment, Error, ErrorKind, Location};

use crate::machine;

/// A user that is not us.
pub const OTHER_UID: u32 = 65_534;

/// A directory that is ours, with a place for sockets and one for capability files in it.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self::below(&machine::temp_base(), 0o700)
    }

    /// One that other users can walk into.
    pub fn open() -> Self {
        Self::below(&machine::open_temp_base(), 0o755)
    }

    fn below(base: &Path, mode: u32) -> Self {
        super::trace::print_if_asked();
        let dir = TempDir::with_prefix_in("um", base).unwrap();
        chmod(dir.path(), mode);
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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

    pub fn capabilities(&self) -> CapabilityDir {
        CapabilityDir::at(self.path("config/messaging-capabilities"))
    }

    pub fn environment(&self) -> Environment {
        self.environment_with([("TMPDIR", self.path("tmp"))])
    }

    pub fn environment_with<V: Into<OsString>>(
        &self,
        more: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Environment {
        let own = [("HOME", self.path("home").into_os_string())];
        let more = more.into_iter().map(|(name, value)| (name, value.into()));
        Environment::from_pairs(own.into_iter().chain(more))
    }

    pub fn bind(&self, path: &Path) -> Result<(UnixListener, Claim), Error> {
        self.bind_with(path, &token(1))
    }

    pub fn bind_with(&self, path: &Path, auth_token: &AuthToken) -> Result<(UnixListener, Claim), Error> {
        let location = Location::from(Address::from_path(path).unwrap());
        Claim::bind(location, &self.capabilities(), auth_token, &mut Random::from_os().unwrap())
    }

    /// Everything below the directory, by name relative to it.
    pub fn everything(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.insert(path.strip_prefix(self.dir.path()).unwrap().to_str().unwrap().to_owned());
                if path.symlink_metadata().unwrap().is_dir() {
                    pending.push(path);
                }
            }
        }
        found
    }
}

pub fn token(seed: u8) -> AuthToken {
    AuthToken::from_bytes([seed; 32])
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

/// Checks the kind of an error and what its sentence must contain.
#[track_caller]
pub fn expect_error<T: Debug>(result: Result<T, Error>, kind: ErrorKind, words: &[&str]) {
    let error = result.expect_err("this must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

/// How much longer the long tests shall run: `UDSMSG_TEST_SCALE`, 1 unless set.
pub fn scale() -> usize {
    std::env::var("UDSMSG_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1).max(1)
}

/// How often a long test goes round: `short`, times the scale.
pub fn rounds(short: usize) -> usize {
    short * scale()
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
