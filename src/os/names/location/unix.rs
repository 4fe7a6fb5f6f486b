//! Unix: the first directory that is short enough and private to us.

use std::path::{Path, PathBuf};
use std::process;

use super::{Location, SkippedLocation};
use crate::os::files::private_dir::{MadeDirs, PrivateDir, Purpose};
use crate::os::files::reach::Reach;
use crate::os::names::address::Address;
use crate::os::names::namespace::{Environment, Namespace, SOCKET_NAME};
use crate::os::random::Random;
use crate::os::refused;
use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};

impl Location {
    /// The first of the default locations whose shared directory can be used; it is made unless `is_dry`.
    pub(super) fn choose(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
        is_dry: bool,
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
                Ok((address, prepare(&directory, is_dry)?))
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

/// Makes a shared directory, or only checks it; says what was made.
fn prepare(directory: &Path, is_dry: bool) -> Result<MadeDirs, Error> {
    let mut made = MadeDirs::default();
    match is_dry {
        true => PrivateDir::check(directory, Purpose::Sockets).map(drop)?,
        false => PrivateDir::open_or_create(directory, Purpose::Sockets, &mut made).map(drop)?,
    }
    Ok(made)
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
