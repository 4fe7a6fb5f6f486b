//! Which server a command talks to.

use std::ffi::OsStr;

use udsmsg::{Address, Error, SendOutcome};

use crate::complaints::complain;
use crate::context::Context;
use crate::platform;

/// The target on the command line, or else the parent server; after a complaint `None` if there is neither.
pub(crate) fn given_or_parent(given: Option<&OsStr>, context: &Context) -> Result<Option<Address>, Error> {
    if let Some(given) = given {
        return Address::parse(given).map(Some);
    }
    let variable = context.namespace.socket_variable();
    if let Some(parent) = context.environment.get(&variable) {
        return Address::parse(&parent).map(Some);
    }
    complain(&format!("no TARGET: none was given, and no parent server has set {variable}"));
    Ok(None)
}

/// Whether there is a capability for `target`; if not, that was a complaint.
pub(crate) fn has_capability(target: &Address, context: &Context) -> Result<bool, Error> {
    if let Err(error) = target.check_length() {
        complain(&SendOutcome::NotSent(error));
        return Ok(false);
    }
    if let Err(error) = context.capability_dir()?.read(target) {
        complain(&format!("Cannot send UDS message without auth token: {error} (not sent)"));
        return Ok(false);
    }
    Ok(true)
}

/// Whether a word in the place of the type was probably meant as a target.
pub(crate) fn looks_like_one(word: &OsStr) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.is_empty() || bytes.starts_with(b"uds:") || bytes.contains(&b'/') || platform::is_server_name(word)
}
