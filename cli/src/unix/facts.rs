//! Facts of the system that commands ask for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileTypeExt;

use nix::sys::resource::{Resource, getrlimit};
use udsmsg::Limits;

use crate::checks::Checks;

/// Descriptors that a server needs beside those of its clients, with a few for its host.
const DESCRIPTORS_BESIDE: u64 = 32;

/// Whether a word is the name of something that a server listens at.
pub(crate) fn is_server_name(word: &OsStr) -> bool {
    fs::symlink_metadata(word).is_ok_and(|facts| facts.file_type().is_socket())
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
