//! The published right to talk: a small 0600 file for each server, with its socket path and its token.
//!
//! The file's name is the hash of the socket path exactly as given, so writer and reader find each other
//! without a list. A hard link is as good as the file: only root and we can put one into the
//! directory, and mode and owner belong to the file, not to the name (backups are made of such links).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::private_dir::{MadeDirs, PrivateDir, Purpose};
use super::process::{Origin, ProcessIdentity, ProcessStart, ProcessState};
use crate::os::names::address::{Address, SOCKET};
use crate::os::names::namespace::{Environment, Namespace, drawn_pid, is_hex};
use crate::os::random::Random;
use crate::os::sys::{self, Facts, FileId, FileKind};
use crate::os::{is_not_found, refused};
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::time::Wall;

/// Bytes of a capability file that a reader takes at most.
const FILE_BYTES_MAX: usize = 4096;

/// Hex digits of the hash that a capability file is named after.
const HASH_DIGITS: usize = 64;

/// How often a publication makes the directory again that others keep removing: a start that fails removes
/// the directories that it made.
const PUBLISH_ATTEMPTS_MAX: u32 = 64;

/// What a capability file says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Capability {
    /// The server's address.
    pub address: Address,
    /// The token that it asks for.
    pub auth_token: AuthToken,
    /// The process that published it, if it says so.
    pub process: Option<ProcessIdentity>,
    /// When it was published: the file's time of modification.
    pub published_at: Wall,
}

impl Capability {
    /// Whether its token is this one; takes the same time for every other one.
    pub(crate) fn has_token(&self, auth_token: &AuthToken) -> bool {
        auth_token.matches(self.auth_token.expose().as_bytes())
    }
}

/// What is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenFile<'a> {
    socket_path: &'a str,
    auth_token: &'a str,
    pid: u32,
    process: &'a ProcessStart,
}

/// What is read; unknown keys are ignored, and optional ones may be wrong.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadFile {
    socket_path: String,
    auth_token: String,
    #[serde(default)]
    pid: Value,
    #[serde(default)]
    process: Value,
}

/// The directory of the capability files of one family of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapabilityDir {
    path: PathBuf,
}

impl CapabilityDir {
    /// The directory at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory of `namespace` in `environment`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoDefaultLocation`] if it depends on the user's home and that is not known.
    pub fn of(namespace: &Namespace, environment: &Environment) -> Result<Self, Error> {
        Ok(Self { path: namespace.capability_dir(environment)? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the file for `address`: the lower-case hex SHA-256 of its path, and `.json`.
    pub fn file_name(address: &Address) -> String {
        let digest = Sha256::digest(address.path().as_bytes());
        format!("{}.json", base16ct::lower::encode_string(&digest))
    }

    /// Publishes the right to talk to the server at `address`, in place of what was published for it before.
    ///
    /// It is written to an exclusive file and renamed, so that a reader finds all of it or nothing. A crash
    /// in between leaves a file `.<hash>.<pid>-<nonce>.<which process that was>.tmp`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DirectoryNotPrivate`] or [`ErrorKind::Io`]; nothing has been published then.
    pub fn publish(
        &self,
        address: &Address,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(), Error> {
        self.publish_held(address, auth_token, random).map(drop)
    }

    /// The same, and says what was made for it.
    pub(crate) fn publish_held(
        &self,
        address: &Address,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(Publication, MadeDirs), Error> {
        let mut made = MadeDirs::default();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let opened = PrivateDir::open_or_create(&self.path, Purpose::Capabilities, &mut made);
            let published = opened.and_then(|dir| {
                let dir = OpenCapabilityDir { dir, path: self.path.clone() };
                let file = dir.publish(address, auth_token, random)?;
                Ok(Publication { dir, path: self.path.join(Self::file_name(address)), file })
            });
            match published {
                Ok(published) => return Ok((published, made)),
                // Another start that failed can have removed the directory between two of our looks at it.
                Err(error) if is_not_found(&error) && attempts < PUBLISH_ATTEMPTS_MAX => {}
                Err(error) => {
                    made.remove();
                    return Err(error);
                }
            }
        }
    }

    /// Reads the right to talk to the server at `address`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CapabilityMissing`] if there is no file, [`ErrorKind::CapabilityUnusable`] if there is
    /// one that must not be believed, [`ErrorKind::DirectoryNotPrivate`] if the directory must not;
    /// [`ErrorKind::Io`].
    pub fn read(&self, address: &Address) -> Result<Capability, Error> {
        match self.open_existing()? {
            Some(dir) => dir.read(address),
            None => {
                let sentence = format!(
                    "there is no capability file for {:?}, because the directory {:?} does not exist; is the \
                     server running, and does it use the same config home?",
                    address.path(),
                    self.path
                );
                Err(Error::new(ErrorKind::CapabilityMissing, sentence))
            }
        }
    }

    /// The same for a client, which needs it for each connection: a look at the file alone, and the walk
    /// along the path only if that is not as it should be, to say why.
    ///
    /// The walk would add nothing to a file that passes. It is a regular file of our own, at the end of no
    /// link, no other user may write to it, and it names this very socket: only root and we can have made it
    /// so. A user who can exchange a directory on the way can only hide it, or put another such file of ours
    /// in its place, with a token from before: this client does not reach its server then, which such a user
    /// can bring about in any case. The token is sent to a process of ours or of root alone.
    ///
    /// # Errors
    ///
    /// As for [`CapabilityDir::read`].
    pub(crate) fn look_up(&self, address: &Address) -> Result<Capability, Error> {
        #[cfg(unix)]
        if let Some(capability) = self.read_at_once(address) {
            return Ok(capability);
        }
        self.read(address)
    }

    #[cfg(unix)]
    fn read_at_once(&self, address: &Address) -> Option<Capability> {
        let name = Self::file_name(address);
        let file = sys::open_path_to_read(&self.path, &name).ok()?;
        let intent = Intent::ToBelieve;
        let reading = Reading { dir: &self.path, intent, name: &name, wanted: Some(address) };
        Some(reading.take(file).ok()?.capability)
    }

    /// Removes what is published for `address`, if it still holds `auth_token`; says whether it did.
    ///
    /// # Errors
    ///
    /// As for [`CapabilityDir::read`], but a file that is missing is no error.
    pub fn remove_if_ours(&self, address: &Address, auth_token: &AuthToken) -> Result<bool, Error> {
        match self.open_existing()? {
            Some(dir) => dir.remove_if_ours(address, auth_token),
            None => Ok(false),
        }
    }

    /// Checks the directory as a server would that is about to publish in it, and makes nothing. Says whether
    /// it is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DirectoryNotPrivate`] or [`ErrorKind::Io`]: a server could not start.
    pub fn check(&self) -> Result<bool, Error> {
        PrivateDir::check(&self.path, Purpose::Capabilities)
    }

    /// Opens the directory, if it is there.
    pub(crate) fn open_existing(&self) -> Result<Option<OpenCapabilityDir>, Error> {
        let dir = PrivateDir::open_existing(&self.path, Purpose::Capabilities)?;
        Ok(dir.map(|dir| OpenCapabilityDir { dir, path: self.path.clone() }))
    }
}

/// The same directory, open: it stays the same one even if its path or the current directory changes.
#[derive(Debug)]
pub(crate) struct OpenCapabilityDir {
    dir: PrivateDir,
    path: PathBuf,
}

impl OpenCapabilityDir {
    /// Says which file was published.
    fn publish(
        &self,
        address: &Address,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<Facts, Error> {
        address.check_length()?;
        let name = CapabilityDir::file_name(address);
        let process = ProcessIdentity::current();
        let temporary = temporary_name(&name, &process, random);
        let contents = WrittenFile {
            socket_path: address.path(),
            auth_token: auth_token.expose(),
            pid: process.pid,
            process: &process.start,
        };
        let cannot = |cause: io::Error| {
            refused(format!("cannot publish the capability file {:?}", self.path.join(&name)), cause)
        };
        let mut json = serde_json::to_vec(&contents).map_err(|cause| cannot(cause.into()))?;
        json.push(b'\n');

        let mut file = sys::create_private(&self.dir, &temporary).map_err(cannot)?;
        let written = file.write_all(&json);
        // Windows says when a file was written only after it is closed.
        drop(file);
        let written = written
            .and_then(|()| self.facts(&temporary))
            .and_then(|facts| sys::rename_in(&self.dir, &temporary, &name).map(|()| facts));
        written.map_err(|cause| {
            // The file was made just above under a name that no other process uses.
            let _ = self.remove(&temporary);
            cannot(cause)
        })
    }

    pub(crate) fn read(&self, address: &Address) -> Result<Capability, Error> {
        Ok(self.read_for(Intent::ToBelieve, address)?.capability)
    }

    fn read_for(&self, intent: Intent, address: &Address) -> Result<FoundCapability, Error> {
        let name = CapabilityDir::file_name(address);
        Reading { dir: &self.path, intent, name: &name, wanted: Some(address) }.run(&self.dir)
    }

    /// Reads the file `name` of this directory, for any server. The address in it fits the name.
    pub(crate) fn read_named(&self, name: &str) -> Result<FoundCapability, Error> {
        Reading { dir: &self.path, intent: Intent::ToBelieve, name, wanted: None }.run(&self.dir)
    }

    /// The same for a file that is on its way to its name, or was left there.
    pub(crate) fn read_temporary(&self, name: &str) -> Result<FoundCapability, Error> {
        Reading { dir: &self.path, intent: Intent::ToRemove, name, wanted: None }.run(&self.dir)
    }

    /// The names in this directory that are `wanted`, and whether these are all: `max` at most, as
    /// [`sys::names_in`] chooses them.
    pub(crate) fn names(
        &self,
        max: usize,
        wanted: impl FnMut(&str) -> bool,
        random: &mut Random,
    ) -> Result<(Vec<String>, bool), Error> {
        sys::names_in(&self.dir, max, wanted, |end| random.below(end))
            .map_err(|cause| refused(format!("cannot list the directory {:?}", self.path), cause))
    }

    /// Where the files in this directory can have come from.
    pub(crate) fn origin(&self) -> Origin {
        if self.dir.is_local() { Origin::ThisMachine } else { Origin::Anywhere }
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The facts of the file `name`.
    pub(crate) fn facts(&self, name: &str) -> io::Result<Facts> {
        sys::facts_unmounted(&self.dir, name)
    }

    /// Removes the file `name`, also if another one stands there by now.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        sys::remove_at(&self.dir, name)
    }

    /// Removes the file `name` if it still is what was found there, without any lock: it is renamed to a name
    /// that no other process knows, compared, and put back if it is another one. Says whether it was removed.
    pub(crate) fn remove_unlocked(
        &self,
        name: &str,
        found: &FoundCapability,
        random: &mut Random,
    ) -> io::Result<bool> {
        let aside = temporary_name(name, &ProcessIdentity::current(), random);
        sys::rename_in(&self.dir, name, &aside)?;
        let is_same = self.read_temporary(&aside).is_ok_and(|taken| taken.is_same(found));
        if !is_same
            && let Err(cause) = sys::link_in(&self.dir, &aside, name)
            // If yet another one has been published meanwhile, that one is the newer.
            && cause.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(cause);
        }
        self.remove(&aside)?;
        Ok(is_same)
    }

    pub(crate) fn remove_if_ours(&self, address: &Address, auth_token: &AuthToken) -> Result<bool, Error> {
        let found = match self.read_for(Intent::ToRemove, address) {
            Err(error) if error.kind() == ErrorKind::CapabilityMissing => return Ok(false),
            found => found?,
        };
        if !found.capability.has_token(auth_token) {
            return Ok(false);
        }
        let name = CapabilityDir::file_name(address);
        match self.remove(&name) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => {
                Err(refused(format!("cannot remove the capability file {:?}", self.path.join(&name)), cause))
            }
        }
    }
}

/// A capability file that a server of this process has published.
#[derive(Debug)]
#[cfg_attr(not(any(unix, feature = "server")), expect(dead_code, reason = "only a server looks again"))]
pub(crate) struct Publication {
    dir: OpenCapabilityDir,
    /// Where clients look for it.
    path: PathBuf,
    file: Facts,
}

#[cfg(any(unix, feature = "server"))]
impl Publication {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether clients find `auth_token` there: one system call, unless something has changed.
    pub(crate) fn is_in_place(&self, address: &Address, auth_token: &AuthToken) -> bool {
        let is_absolute = self.path.is_absolute();
        let found = match is_absolute {
            true => sys::facts_of_path(&self.path),
            false => self.dir.facts(&CapabilityDir::file_name(address)),
        };
        let read_again = || match is_absolute {
            true => CapabilityDir::at(self.dir.path()).read(address),
            false => self.dir.read(address),
        };
        // A backup can have restored it, a network file system can have another clock: what it says counts.
        found.is_ok_and(|found| {
            found.is_as(&self.file) || read_again().is_ok_and(|found| found.has_token(auth_token))
        })
    }

    /// Removes it, if it still holds `auth_token`; says whether it did.
    pub(crate) fn remove_if_ours(&self, address: &Address, auth_token: &AuthToken) -> Result<bool, Error> {
        self.dir.remove_if_ours(address, auth_token)
    }
}

/// A capability and which file, with which contents, it was read from. There is no `Debug`: the contents hold
/// the token, to be compared and never to be shown.
pub(crate) struct FoundCapability {
    pub(crate) capability: Capability,
    id: FileId,
    bytes: Vec<u8>,
}

impl FoundCapability {
    /// Whether the process that published it still lives, and why; `origin` is the directory's.
    pub(crate) fn publisher_state(&self, origin: Origin) -> (ProcessState, &'static str) {
        match &self.capability.process {
            Some(process) => process.state_from(origin),
            None => (ProcessState::Unknown, "it does not say which process published it"),
        }
    }

    /// Whether this is the very file that `other` is, unchanged.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.bytes == other.bytes
    }
}

/// Whether `name` is one that a capability file can have.
pub(crate) fn is_capability_name(name: &str) -> bool {
    name.strip_suffix(".json").is_some_and(|hash| is_hex(hash, HASH_DIGITS))
}

/// The process that made the temporary file `name`, and its mark if there is one; `None` if it is not named
/// like one.
pub(crate) fn temporary_of(name: &str) -> Option<(u32, Option<&str>)> {
    let mut parts = name.strip_prefix('.')?.strip_suffix(".tmp")?.split('.');
    let (hash, own, mark) = (parts.next()?, parts.next()?, parts.next());
    if !is_hex(hash, HASH_DIGITS) || parts.next().is_some() {
        return None;
    }
    Some((drawn_pid(own)?, mark))
}

/// The name under which `process` writes what is to become the file `name`. It says which process that was,
/// because a crash can leave the file empty.
fn temporary_name(name: &str, process: &ProcessIdentity, random: &mut Random) -> String {
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let mark = process.mark().map_or_else(String::new, |mark| format!(".{mark}"));
    format!(".{stem}.{}-{}{mark}.tmp", process.pid, random.nonce())
}

/// What a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    /// Its token is to be used.
    ToBelieve,
    /// It is to be removed if it holds a token of ours; its mode does not matter.
    ToRemove,
}

/// The reading of one file, checked at every step.
struct Reading<'a> {
    /// The path of its directory.
    dir: &'a Path,
    intent: Intent,
    name: &'a str,
    /// The only address that it may be for; without one, any that fits its name.
    wanted: Option<&'a Address>,
}

impl Reading<'_> {
    /// Opens the file in `dir` and reads it.
    fn run(&self, dir: &PrivateDir) -> Result<FoundCapability, Error> {
        self.take(self.open(dir)?)
    }

    /// Reads the open file.
    fn take(&self, file: File) -> Result<FoundCapability, Error> {
        let facts = sys::facts_of(&file).map_err(|cause| self.cannot(cause))?;
        self.check(&facts)?;
        let bytes = self.bytes_of(file, &facts)?;
        let capability = self.parse(&bytes, &facts)?;
        Ok(FoundCapability { capability, id: facts.id, bytes })
    }

    fn open(&self, dir: &PrivateDir) -> Result<File, Error> {
        let open = || sys::open_to_read(dir, self.name);
        let is_gone = |cause: &io::Error| cause.kind() == io::ErrorKind::NotFound;
        // A sweep may have renamed it for a moment, to look at it.
        let opened = open().or_else(|cause| if is_gone(&cause) { open() } else { Err(cause) });
        opened.map_err(|cause| {
            if cause.kind() == io::ErrorKind::CrossesDevices {
                return self.refuse("something is mounted on it");
            }
            // What stands there says why `open` failed: each system has its own errno for a link.
            match sys::facts_at(dir, self.name) {
                Ok(facts) if facts.kind != FileKind::Regular => self.refuse_kind(facts.kind),
                found if is_gone(&cause) || found.as_ref().is_err_and(is_gone) => self.missing(),
                _ => self.cannot(cause),
            }
        })
    }

    /// Checks that it is a regular file of ours, and private if it is to be believed.
    fn check(&self, facts: &Facts) -> Result<(), Error> {
        if facts.kind != FileKind::Regular {
            return Err(self.refuse_kind(facts.kind));
        }
        if !facts.is_ours() {
            return Err(self.refuse(&format!("it {}", facts.whose())));
        }
        if facts.is_open_to_others() && self.intent == Intent::ToBelieve {
            let openness = facts.openness(&self.path());
            return Err(self.refuse(&format!("it {openness}; start the server anew")));
        }
        Ok(())
    }

    fn bytes_of(&self, mut file: File, facts: &Facts) -> Result<Vec<u8>, Error> {
        // With room for one byte more, which tells that the file has grown.
        let wanted = usize::try_from(facts.len).unwrap_or(usize::MAX).min(FILE_BYTES_MAX);
        let mut bytes = vec![0; wanted + 1];
        let mut len = 0;
        // One read, unless the file system gives less than there is.
        while facts.len <= FILE_BYTES_MAX as u64 && len < wanted {
            match file.read(bytes.get_mut(len..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.cannot(cause)),
            }
        }
        bytes.truncate(len);
        let len = facts.len.max(bytes.len() as u64);
        if len > FILE_BYTES_MAX as u64 {
            let why = format!("it has {len} bytes, more than the {FILE_BYTES_MAX} that one can have");
            return Err(self.refuse(&why));
        }
        Ok(bytes)
    }

    fn parse(&self, bytes: &[u8], facts: &Facts) -> Result<Capability, Error> {
        // The parser's own words could repeat a part of the file, and so of the token; where it stopped is
        // enough.
        let read: ReadFile = serde_json::from_slice(bytes).map_err(|cause| {
            self.refuse(&format!(
                "it is no JSON object with the texts \"socketPath\" and \"authToken\" (line {}, column {})",
                cause.line(),
                cause.column()
            ))
        })?;
        let fits = |address: &Address| match self.wanted {
            Some(wanted) => wanted == address,
            None => self.intent == Intent::ToRemove || CapabilityDir::file_name(address) == self.name,
        };
        let address = Address::from_path(&read.socket_path)
            .ok()
            .filter(fits)
            .ok_or_else(|| self.refuse(&format!("it is for the {SOCKET} {:?}", read.socket_path)))?;
        let auth_token = AuthToken::parse(&read.auth_token)
            .map_err(|_| self.refuse("its \"authToken\" is not 64 lower-case hex digits"))?;
        let pid = read.pid.as_u64().and_then(|pid| u32::try_from(pid).ok());
        let start = ProcessStart::deserialize(read.process).unwrap_or_default();
        let process = pid.map(|pid| ProcessIdentity { pid, start });
        Ok(Capability { address, auth_token, process, published_at: facts.modified })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    fn missing(&self) -> Error {
        let sentence = match self.wanted {
            Some(address) => format!(
                "there is no capability file for {:?} (looked for {:?}); is the server running, and does it \
                 use the same config home?",
                address.path(),
                self.path()
            ),
            None => format!("there is no capability file {:?}", self.path()),
        };
        Error::new(ErrorKind::CapabilityMissing, sentence)
    }

    fn refuse_kind(&self, kind: FileKind) -> Error {
        self.refuse(&format!("it is {}, not a regular file; move it out of there", kind.name()))
    }

    fn refuse(&self, why: &str) -> Error {
        let whose = self.wanted.map_or_else(String::new, |address| format!(" for {:?}", address.path()));
        let sentence = format!("the capability file {:?}{whose} is not to be believed: {why}", self.path());
        Error::new(ErrorKind::CapabilityUnusable, sentence)
    }

    fn cannot(&self, cause: io::Error) -> Error {
        refused(format!("cannot read the capability file {:?}", self.path()), cause)
    }
}
