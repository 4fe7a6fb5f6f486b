//! Windows: files that are as private as those of the library, which makes them.

use std::fs;
use std::os::windows::fs::MetadataExt;
use std::path::{Path, PathBuf};

use udsmsg::Address;
use udsmsg::os::{CapabilityDir, Random};

use super::{Place, token};

impl Place {
    /// The path of the pipe `name`, which no other test has.
    pub fn server(&self, name: &str) -> PathBuf {
        let own = self.dir.path().file_name().unwrap().to_str().unwrap();
        PathBuf::from(format!(r"\\.\pipe\{own}-{name}"))
    }
}

/// Publishes a capability in `dir`; says where.
fn publish_in(dir: &Path) -> (CapabilityDir, Address, PathBuf) {
    let mut random = Random::from_os().unwrap();
    let address = Address::from_path(&format!(r"\\.\pipe\{}", random.nonce())).unwrap();
    let capabilities = CapabilityDir::at(dir);
    capabilities.publish(&address, &token(9), &mut random).unwrap();
    let path = dir.join(CapabilityDir::file_name(&address));
    (capabilities, address, path)
}

/// Makes `dir` like a directory of capability files.
pub fn make_private_dir(dir: &Path) {
    let (capabilities, address, _) = publish_in(dir);
    assert!(capabilities.remove_if_ours(&address, &token(9)).unwrap());
}

/// Writes `contents` to the file `path`, which is like a capability file.
pub fn write_private(path: &Path, contents: impl AsRef<[u8]>) {
    let (_, _, published) = publish_in(path.parent().unwrap());
    fs::write(&published, contents).unwrap();
    fs::rename(published, path).unwrap();
}

/// Which file `path` is, and what would change if it did.
pub fn facts(path: &Path) -> (u64, u32, i64) {
    let meta = path.symlink_metadata().unwrap();
    // Wine counts what is made in a directory as its creation.
    let id = if meta.is_dir() { 0 } else { meta.creation_time() };
    (id, meta.file_attributes(), i64::try_from(meta.last_write_time()).unwrap())
}
