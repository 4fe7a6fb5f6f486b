//! Facts of the system that commands ask for, and its words.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use udsmsg::os::Random;
use udsmsg::{Address, Environment, Error, Location, Namespace, PeerIdentity};

use crate::checks::Checks;

/// Erases the line of a console, which need not know escape sequences.
pub(crate) const ERASE: &str =
    "\r                                                                               \r";

/// The variables that name the home directory.
pub(crate) const HOME: &str = "%USERPROFILE% and %APPDATA%";

/// Whether a word is the name of something that a server listens at.
pub(crate) fn is_server_name(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(br"\\")
}

/// A name that stays true when the current directory changes: every name of a pipe does.
pub(crate) fn absolute(path: &str) -> io::Result<PathBuf> {
    Ok(path.into())
}

/// A command that makes the directory `name` for this user, and sets `variable` to it.
pub(crate) fn own_directory(variable: &str, name: &str) -> String {
    format!(r#"mkdir "%USERPROFILE%\{name}" && set "{variable}=%USERPROFILE%\{name}""#)
}

/// A command that unsets `variable`.
pub(crate) fn unset(variable: &str) -> String {
    format!("set {variable}=")
}

/// Who sent a message.
pub(crate) fn peer_json(peer: PeerIdentity) -> Value {
    json!({"sid": peer.sid().map(|sid| sid.to_string()), "pid": peer.pid()})
}

/// What the system lets a server do: nothing here depends on a setting.
pub(crate) fn check_system(_: &mut Checks) {}

/// The name that a server listens at by default. No other user can take it first: it is chosen at random.
pub(crate) fn check_default_location(
    checks: &mut Checks,
    namespace: &Namespace,
    environment: &Environment,
) -> Result<(), Error> {
    const NAME: &str = "default name";
    match Location::preview(namespace, environment, &mut Random::from_os()?) {
        Ok(location) => {
            let path = location.address().path();
            let (len, max) = (path.encode_utf16().count(), Address::UNITS_MAX);
            checks.ok(NAME, format!("{path:?}, {len} of at most {max} UTF-16 units"));
        }
        Err(error) => checks.fault(NAME, error.to_string(), "give a name with --socket"),
    }
    Ok(())
}
