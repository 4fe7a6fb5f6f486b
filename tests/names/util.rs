//! A directory for each test, and short ways to look at it.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use udsmsg::os::CapabilityDir;
use udsmsg::parts::AuthToken;
use udsmsg::{Environment, Error, ErrorKind};

#[cfg(unix)]
pub use self::unix::*;
#[cfg(windows)]
pub use self::windows::*;
use crate::machine;

/// A directory that is ours, with a place for sockets and one for capability files in it.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self::below(&machine::temp_base())
    }

    fn below(base: &Path) -> Self {
        super::trace::print_if_asked();
        let dir = TempDir::with_prefix_in("um", base).unwrap();
        #[cfg(unix)]
        chmod(dir.path(), 0o700);
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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
        let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let own = [(home, self.path("home").into_os_string())];
        let more = more.into_iter().map(|(name, value)| (name, value.into()));
        Environment::from_pairs(own.into_iter().chain(more))
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
