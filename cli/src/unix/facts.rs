//! Facts of the system that commands ask for, and its words.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{self, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};
use udsmsg::os::{Random, SkippedLocation, effective_uid};
use udsmsg::{Address, Environment, Error, ErrorKind, Limits, Location, Namespace, PeerIdentity};

use crate::checks::Checks;

/// Descriptors that a server needs beside those of its clients, with a few for its host.
const DESCRIPTORS_BESIDE: u64 = 32;

/// The check of the place where a server listens by default.
const DEFAULT_SOCKET: &str = "default socket";

/// Erases the line of a terminal.
pub(crate) const ERASE: &str = "\r\x1b[K";

/// The variable that names the home directory.
pub(crate) const HOME: &str = "$HOME";

/// Whether a word is the name of something that a server listens at.
pub(crate) fn is_server_name(word: &OsStr) -> bool {
    fs::symlink_metadata(word).is_ok_and(|facts| facts.file_type().is_socket())
}

/// A path that stays true when the current directory changes.
pub(crate) fn absolute(path: &str) -> io::Result<PathBuf> {
    path::absolute(path)
}

/// A command that makes the directory `name` for this user, and sets `variable` to it.
pub(crate) fn own_directory(variable: &str, name: &str) -> String {
    format!("mkdir -m 700 ~/{name} && export {variable}=~/{name}")
}

/// A command that unsets `variable`.
pub(crate) fn unset(variable: &str) -> String {
    format!("unset {variable}")
}

/// Who sent a message.
pub(crate) fn peer_json(peer: PeerIdentity) -> Value {
    json!({"uid": peer.uid(), "pid": peer.pid()})
}

/// Checks what the system lets a server do.
pub(crate) fn check_system(checks: &mut Checks) {
    descriptors(checks);
    passed_descriptors(checks);
}

/// Whether there are descriptors for all clients that may be open, and for as many that are being closed.
fn descriptors(checks: &mut Checks) {
    const NAME: &str = "open files";
    let clients_max = Limits::default().clients_max;
    let needed = 2 * u64::try_from(clients_max).unwrap_or(u64::MAX / 4) + DESCRIPTORS_BESIDE;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if i128::from(soft) < i128::from(needed) => checks.fault(
            NAME,
            format!("{soft} descriptors are allowed, and {clients_max} clients can need {needed}"),
            format!("ulimit -n {needed}, or serve fewer clients (--max-clients)"),
        ),
        Ok((soft, _)) => checks.ok(NAME, format!("{soft} descriptors are allowed, {needed} can be needed")),
        Err(errno) => checks.note(NAME, format!("the system does not say how many are allowed: {errno}")),
    }
}

/// Whether the kernel refuses descriptors that peers pass along.
fn passed_descriptors(checks: &mut Checks) {
    if let Ok(false) = udsmsg::os::can_refuse_descriptors() {
        let detail = "this system cannot refuse descriptors that peers pass along (Linux 6.16 can): \
                      a process of yours can hold up a server or a client with one";
        checks.note("passed descriptors", detail);
    }
}

/// Checks where a server listens without `--socket`, and which better places it cannot use.
pub(crate) fn check_default_location(
    checks: &mut Checks,
    namespace: &Namespace,
    environment: &Environment,
) -> Result<(), Error> {
    match Location::preview(namespace, environment, &mut Random::from_os()?) {
        Ok(location) => {
            for skipped in location.skipped() {
                skipped_location(checks, skipped, namespace);
            }
            let path = location.address().path();
            let detail = format!("{path:?}, {} of at most {} bytes", path.len(), Address::BYTES_MAX);
            checks.ok(DEFAULT_SOCKET, detail);
        }
        Err(error) => {
            let remedy = "give a socket path, or a $TMPDIR that only root and you can change";
            checks.fault(DEFAULT_SOCKET, error.to_string(), remedy);
        }
    }
    Ok(())
}

/// A better place that a server cannot use.
fn skipped_location(checks: &mut Checks, skipped: &SkippedLocation, namespace: &Namespace) {
    let SkippedLocation { directory, reason, kind, .. } = skipped;
    if belongs_to_others(skipped) {
        // Every user can make a directory there first; the other places exist for that case.
        let detail = format!("{directory:?} is not used: {reason}");
        return checks.note(DEFAULT_SOCKET, detail.split("; to mend it: ").next().unwrap_or(&detail));
    }
    let command = own_directory("TMPDIR", &format!("{namespace}-tmp"));
    let otherwise = format!("set $TMPDIR to a directory that only root and you can change: {command}");
    checks.error(DEFAULT_SOCKET, *kind, &format!("{directory:?} cannot be used: {reason}"), &otherwise);
}

/// Whether another user owns the directory, or something is mounted there.
fn belongs_to_others(skipped: &SkippedLocation) -> bool {
    skipped.kind == ErrorKind::NotLocal
        || fs::symlink_metadata(&skipped.directory).is_ok_and(|facts| facts.uid() != effective_uid())
}
