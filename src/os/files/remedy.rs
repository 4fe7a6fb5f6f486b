//! What to do about a directory that is not private, in the words of a command.
//!
//! A directory that others rely on must stay as it is: `/tmp`, a system's directory, the one where a person
//! works. Only a directory with one of our own names is ever to be changed; in place of any other one a new
//! one is advised.

use std::env;
use std::path::Path;

use crate::os::names::namespace::drawn_pid;
use crate::os::sys::{self, Facts};

/// The command that makes the directory `path` private, if it is one that servers make and nothing else
/// needs.
pub(super) fn made_private(path: &Path, facts: &Facts) -> Option<String> {
    if !facts.is_ours()
        || facts.is_sticky()
        || !is_named_by_us(path)
        || env::current_dir().is_ok_and(|current| current == path)
    {
        return None;
    }
    Some(format!("chmod 700 {}", shell_word(path)?))
}

/// What to use in place of the directory `parent`, in which only root and we can exchange anything.
pub(super) fn directory_in(parent: &Path) -> String {
    let new = parent.join(new_name());
    match (shell_word(&new), shell_word(&new.join("x.sock"))) {
        (Some(new), Some(socket)) if sys::is_writable(parent) => new_directory(&new, &socket),
        _ => elsewhere(),
    }
}

/// What to use in place of a directory that others can change, or that lies in one.
pub(super) fn elsewhere() -> String {
    let name = new_name();
    new_directory(&format!("~/{name}"), &format!("~/{name}/x.sock"))
}

fn new_directory(new: &str, socket: &str) -> String {
    format!("use a directory of your own: mkdir -m 700 {new} # and in it a socket such as {socket}")
}

/// A name that other users do not take by chance.
fn new_name() -> String {
    format!("udsmsg-{}", sys::effective_uid())
}

/// Whether servers make directories of this name.
fn is_named_by_us(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let shared = name.strip_suffix(&format!("-{}", sys::effective_uid())).unwrap_or(name);
    name == "messaging-capabilities" || shared.ends_with("-socks") || drawn_pid(name).is_some()
}

/// What to do about the `directory`, which holds more than one sweep looks at.
pub(super) fn rest_of(directory: &Path) -> String {
    let again = "run it again to look at others";
    match shell_word(directory) {
        Some(word) => {
            let uid = sys::effective_uid();
            format!("{again}, or list what is yours with: find {word} -maxdepth 1 -uid {uid}")
        }
        None => String::from(again),
    }
}

/// The path as a shell reads it back, and no option of a command; `None` if it is better not shown in a
/// command.
fn shell_word(path: &Path) -> Option<String> {
    let text = path.to_str().filter(|text| !text.chars().any(|c| c.is_control()))?;
    let text = if text.starts_with('-') { format!("./{text}") } else { text.to_owned() };
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,@%:=".contains(&byte));
    if is_plain { Some(text) } else { Some(format!("'{}'", text.replace('\'', r"'\''"))) }
}
