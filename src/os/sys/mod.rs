//! Raw facts of the operating system, behind safe functions. The only directory that may hold `unsafe`; on
//! Unix `nix` and `rustix` wrap what is needed, but for the pid in FreeBSD's peer credentials.
//!
//! A platform supplies:
//!
//! - who we are, who the peer is, and whether it is trusted: `effective_uid`, `peer_identity`, `Owner`
//! - writing to a peer that may be gone without a signal in the host: `send`; reading from it: `receive`
//! - waiting for descriptors: `wait`
//! - what stands at a name without following it, which file it is, and who else may use it: `Facts`, `FileId`
//! - files and directories that no other user can use: `create_private`, `make_dir`, `open_dir`
//! - which names there are in a directory: `names_in`
//! - sockets that refuse descriptors and raise no signal, and whether there are such: `protect`,
//!   `can_refuse_descriptors`
//! - what a refused connection and a pid prove: `FULL_REFUSES`, `TELLS_STARTS`, `is_refusal_proof`
//! - the room for a path in a socket address: `SUN_PATH_BYTES`

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::ffi::OsString;
use std::io;

#[cfg(unix)]
pub use self::unix::*;
#[cfg(windows)]
pub use self::windows::*;

/// Entries of one directory that are looked at: others can fill a directory that is not ours alone.
const ENTRIES_MAX: usize = 1 << 20;

/// Up to `max` of the names `entries` that are Unicode and `wanted`, in no order, and whether these are all.
/// If there are more, each call gives others: `draw` gives a random number below the one that it is given.
fn sample(
    entries: impl Iterator<Item = io::Result<OsString>>,
    max: usize,
    mut wanted: impl FnMut(&str) -> bool,
    mut draw: impl FnMut(usize) -> usize,
) -> io::Result<(Vec<String>, bool)> {
    let mut names = Vec::new();
    let mut found: usize = 0;
    for (seen, name) in entries.enumerate() {
        if seen >= ENTRIES_MAX {
            return Ok((names, false));
        }
        let Ok(name) = name?.into_string() else { continue };
        if !wanted(&name) {
            continue;
        }
        found += 1;
        if names.len() < max {
            names.push(name);
        } else if let Some(place) = names.get_mut(draw(found)) {
            *place = name;
        }
    }
    Ok((names, found <= max))
}
