//! Windows: safe functions over `windows-sys` for what the standard library has not.
#![allow(unsafe_code, reason = "the calls of Windows are foreign functions")]
#![cfg_attr(
    not(feature = "server"),
    allow(dead_code, unused_imports, reason = "only a server makes pipes and holds a name")
)]

mod file;
mod identity;
mod pipe;
mod process;
mod security;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;

pub use self::identity::*;
pub(crate) use self::{file::*, pipe::*, process::*, security::*};

/// What a call says that answers with no or yes and keeps the reason apart.
fn checked(answer: windows_sys::core::BOOL) -> io::Result<()> {
    if answer == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a call says that answers with the number of an error, 0 if there is none.
fn checked_number(number: u32) -> io::Result<()> {
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(number.cast_signed())) }
}

/// `text` as Windows takes it, with a 0 at its end and nowhere else.
fn wide(text: &OsStr) -> io::Result<Vec<u16>> {
    let mut units: Vec<u16> = text.encode_wide().collect();
    if units.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it contains a NUL"));
    }
    units.push(0);
    Ok(units)
}
