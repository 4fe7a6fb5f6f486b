//! Whether the server of a socket still lives: the socket is asked twice, then compared with what was asked.
//!
//! Some systems (macOS, the BSDs) also refuse a connection when the backlog of a live server is full, and a
//! socket that is seen through another mount, or from another machine, refuses too: a refusal alone is not
//! yet proof that the server has ended.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::connect::open;
use crate::os::sys::{self, Facts, FileId, FileKind};

/// The pause before a socket that refused is asked again: a server that has bound its name and not yet called
/// `listen` refuses too.
pub(crate) const SECOND_LOOK: Duration = Duration::from_millis(10);

/// What stands at the place of a socket.
pub(crate) enum Standing {
    Nothing,
    /// Something that is not a socket of ours.
    Foreign(Facts),
    /// A socket of ours that accepts, or would if its backlog were not full; the server's pid where known.
    Live(Option<u32>),
    /// A socket of ours that refused twice, and is still this file.
    Dead(FileId),
    /// A socket of ours was replaced by another one while it was asked.
    Changing,
    /// A socket of ours that cannot be asked.
    Unclear {
        cause: io::Error,
        found: Facts,
    },
}

/// Looks at the socket at `path` and asks it whether it lives, if it is ours; `look` gives the facts of what
/// stands there.
///
/// # Errors
///
/// What `look` says, unless nothing is there.
pub(crate) fn look_at(path: &Path, look: impl Fn() -> io::Result<Facts>) -> io::Result<Standing> {
    let Some(found) = unless_missing(look())? else { return Ok(Standing::Nothing) };
    if found.kind != FileKind::Socket || !found.is_ours() {
        return Ok(Standing::Foreign(found));
    }
    for pause in [SECOND_LOOK, Duration::ZERO] {
        match ask(path) {
            Answer::Refused => thread::sleep(pause),
            Answer::Missing => return Ok(Standing::Nothing),
            Answer::Live(pid) => return Ok(Standing::Live(pid)),
            Answer::Unclear(cause) => return Ok(Standing::Unclear { cause, found }),
        }
    }
    Ok(match unless_missing(look())? {
        Some(now) if now.id == found.id => Standing::Dead(found.id),
        Some(_) => Standing::Changing,
        None => Standing::Nothing,
    })
}

/// Removes `name` from `dir` if it still is the file `id`.
///
/// # Errors
///
/// `NotFound` if it is not; what the system says.
pub(crate) fn remove_same(dir: &impl AsFd, name: &str, id: FileId) -> io::Result<()> {
    if sys::facts_at(dir, name)?.id != id {
        return Err(io::ErrorKind::NotFound.into());
    }
    sys::remove_at(dir, name)
}

/// `None` if what failed is that nothing is there.
pub(crate) fn unless_missing(facts: io::Result<Facts>) -> io::Result<Option<Facts>> {
    match facts {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        facts => facts.map(Some),
    }
}

/// What a socket does when it is connected to.
enum Answer {
    Live(Option<u32>),
    Refused,
    Missing,
    Unclear(io::Error),
}

fn ask(path: &Path) -> Answer {
    match open(path) {
        Ok(stream) => Answer::Live(sys::peer_identity(&stream).ok().and_then(|peer| peer.pid())),
        Err(cause) => match cause.kind() {
            io::ErrorKind::WouldBlock => Answer::Live(None),
            io::ErrorKind::ConnectionRefused => Answer::Refused,
            io::ErrorKind::NotFound => Answer::Missing,
            _ => Answer::Unclear(cause),
        },
    }
}
