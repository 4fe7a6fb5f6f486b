//! Where a server listens: a path from the caller, or a default that fits and that no other user controls.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process;

use super::address::Address;
use super::namespace::{Environment, Namespace, SOCKET_NAME};
use crate::os::files::private_dir::{MadeDirs, PrivateDir, Purpose};
use crate::os::files::reach::Reach;
use crate::os::random::Random;
use crate::os::refused;
use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};

/// Where a server listens, and how it was chosen.
#[derive(Clone, Debug)]
pub struct Location {
    address: Address,
    is_drawn: bool,
    skipped: Vec<SkippedLocation>,
    /// The directories that drawing it has made: a start that fails removes them.
    made: MadeDirs,
}

/// A default location that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedLocation {
    /// The directory that was not used, escaped where it is not UTF-8.
    pub directory: String,
    /// What kind of obstacle it was.
    pub kind: ErrorKind,
    /// The obstacle in words.
    pub reason: String,
}

impl fmt::Display for SkippedLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was not used: {}", self.directory, self.reason)
    }
}

impl From<Address> for Location {
    /// The location that the caller chose.
    fn from(address: Address) -> Self {
        Self { address, is_drawn: false, skipped: Vec::new(), made: MadeDirs::default() }
    }
}

impl Location {
    /// Draws a new default location for `namespace`:
    /// `$TMPDIR/<namespace>-socks/<pid>-<nonce>/messaging.sock`.
    ///
    /// Where that is too long, or the shared directory is not private to us, the next is taken: the same
    /// below `$XDG_RUNTIME_DIR`, `$TMPDIR/<namespace>-socks-<uid>/…`, and a fresh directory directly in
    /// `/tmp`. Every candidate that was not used is in [`Location::skipped`]. The shared directory is created
    /// here, the directory of this server only when it starts; if that start fails, both are removed again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoDefaultLocation`] with all reasons, if none can be used.
    pub fn draw(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
    ) -> Result<Self, Error> {
        Self::choose(namespace, environment, random, |directory| {
            let mut made = MadeDirs::default();
            PrivateDir::open_or_create(directory, Purpose::Sockets, &mut made).map(|_| made)
        })
    }

    /// What [`Location::draw`] would give now, and nothing is made.
    ///
    /// # Errors
    ///
    /// As for [`Location::draw`].
    pub fn preview(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
    ) -> Result<Self, Error> {
        Self::choose(namespace, environment, random, |directory| {
            PrivateDir::check(directory, Purpose::Sockets).map(|_| MadeDirs::default())
        })
    }

    /// The first of the default locations whose shared directory `prepare` finds usable.
    fn choose(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
        prepare: impl Fn(&Path) -> Result<MadeDirs, Error>,
    ) -> Result<Self, Error> {
        let (pid, nonce) = (process::id(), random.nonce());
        let reach = Reach::new(&own_directories(namespace, environment))
            .map_err(|cause| refused("cannot look at \"/\"", cause))?;
        let mut skipped = Vec::new();
        for directory in shared_directories(namespace, environment) {
            let address = usable(&directory.join(format!("{pid}-{nonce}")));
            let checked = address.and_then(|address| {
                // Others can put something there before us.
                let answers = reach.check_answers(&directory);
                answers.map_err(|why| Error::new(ErrorKind::NotLocal, why))?;
                Ok((address, prepare(&directory)?))
            });
            match checked {
                Ok((address, made)) => return Ok(Self { address, is_drawn: true, skipped, made }),
                Err(error) => skipped.push(SkippedLocation::new(&directory, &error)),
            }
        }
        let fresh = PathBuf::from(format!("/tmp/{namespace}-{pid}-{nonce}"));
        match usable(&fresh).and_then(|address| PrivateDir::check_parent(&fresh).map(|()| address)) {
            Ok(address) => Ok(Self { address, is_drawn: true, skipped, made: MadeDirs::default() }),
            Err(error) => {
                skipped.push(SkippedLocation::new(&fresh, &error));
                let reasons: Vec<String> = skipped.iter().map(ToString::to_string).collect();
                let sentence = format!(
                    "no default location for the socket can be used; give a socket path, or a $TMPDIR that \
                     only root and you can change: {}",
                    reasons.join("; ")
                );
                Err(Error::new(ErrorKind::NoDefaultLocation, sentence))
            }
        }
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The default locations that could not be used, in the order in which they were tried; empty if all is
    /// well.
    pub fn skipped(&self) -> &[SkippedLocation] {
        &self.skipped
    }

    /// The directories that drawing it has made; nothing the second time.
    pub(crate) fn take_made(&mut self) -> MadeDirs {
        std::mem::take(&mut self.made)
    }

    /// Whether the directory of the socket was drawn for this server alone.
    pub(crate) fn is_drawn(&self) -> bool {
        self.is_drawn
    }
}

impl SkippedLocation {
    fn new(directory: &Path, error: &Error) -> Self {
        Self {
            directory: directory.to_string_lossy().into_owned(),
            kind: error.kind(),
            reason: error.to_string(),
        }
    }
}

/// The directories that hold the directories of servers, in the order in which they are tried.
pub(crate) fn shared_directories(namespace: &Namespace, environment: &Environment) -> Vec<PathBuf> {
    let shared = namespace.socket_dir_name();
    let own = format!("{shared}-{}", sys::effective_uid());
    let tmpdir = environment.tmpdir();
    [(Some(&tmpdir), &shared), (environment.get("XDG_RUNTIME_DIR").as_ref(), &shared), (Some(&tmpdir), &own)]
        .into_iter()
        // Without what may stand at the end of the variable: `/`, `/.`
        .filter_map(|(parent, name)| Some(Path::new(parent?).components().as_path().join(name)))
        .collect()
}

/// The directories whose file systems every server and client of `namespace` depends on: those that hold its
/// capability files and its default sockets.
pub(crate) fn own_directories(namespace: &Namespace, environment: &Environment) -> Vec<PathBuf> {
    let shared = shared_directories(namespace, environment).into_iter();
    let mut own: Vec<_> = shared.filter_map(|dir| Some(dir.parent()?.to_owned())).collect();
    own.dedup();
    own.extend(namespace.capability_dir(environment));
    own
}

/// The address of a socket in the `directory` of one server, if it can be one.
fn usable(directory: &Path) -> Result<Address, Error> {
    if !directory.is_absolute() {
        let sentence = "it is not an absolute path, and would change its meaning with the current directory";
        return Err(Error::new(ErrorKind::InvalidAddress, sentence));
    }
    let address = Address::from_path(&directory.join(SOCKET_NAME))?;
    address.check_length()?;
    Ok(address)
}
