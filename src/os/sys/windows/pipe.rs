//! Named pipes: made, opened, and who is at the other end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, IntoRawHandle};
use std::path::Path;

use mio::windows::NamedPipe;
use miow::pipe::NamedPipeBuilder;
use windows_sys::Win32::Foundation::{
    ERROR_COMMITMENT_LIMIT, ERROR_NO_SYSTEM_RESOURCES, ERROR_NONPAGED_SYSTEM_RESOURCES,
    ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_ENOUGH_QUOTA, ERROR_OUTOFMEMORY, ERROR_PAGED_SYSTEM_RESOURCES,
    ERROR_PAGEFILE_QUOTA, ERROR_TOO_MANY_OPEN_FILES, ERROR_WORKING_SET_QUOTA,
};
use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, ERROR_PIPE_BUSY};
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_OVERLAPPED, SECURITY_IDENTIFICATION};
use windows_sys::Win32::System::IO::CancelIoEx;
use windows_sys::Win32::System::Pipes::{GetNamedPipeClientProcessId, GetNamedPipeServerProcessId};

use super::checked;
use super::identity::{own_sid, sid_of_process};
use super::security::{OwnerOnly, owner_of_object};
use crate::proto::peer::PeerIdentity;

/// The most UTF-16 units that the whole path of a pipe can have.
pub(crate) const NAME_UNITS_MAX: usize = 256;

/// Bytes that the system keeps for each direction of an instance.
const BUFFER_BYTES: u32 = 64 * 1024;

/// A new instance of the pipe at `path`, closed to other machines and, by `access`, to other users.
///
/// With `is_first` it is refused (as a lack of permission) if the pipe has an instance already, of this or
/// another process.
pub(crate) fn new_instance(path: &Path, is_first: bool, access: &OwnerOnly) -> io::Result<NamedPipe> {
    super::wide(path.as_os_str())?;
    let mut builder = NamedPipeBuilder::new(path);
    builder.first(is_first).accept_remote(false).in_buffer_size(BUFFER_BYTES).out_buffer_size(BUFFER_BYTES);
    // SAFETY: the attributes are valid until the call returns, which copies what it needs and writes nothing.
    let made =
        access.lend(|attributes| unsafe { builder.with_security_attributes(attributes.cast_mut()) })?;
    // SAFETY: it is an open handle to a pipe, made for overlapped calls as the builder always does, and
    // `into_raw_handle` has given it up.
    Ok(unsafe { NamedPipe::from_raw_handle(made.into_raw_handle()) })
}

/// Opens the pipe at `path`, without waiting for a free instance. Its server may ask who we are, but not act
/// as us.
pub(crate) fn open_pipe(path: &Path) -> io::Result<NamedPipe> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .security_qos_flags(SECURITY_IDENTIFICATION)
        .open(path)?;
    // SAFETY: it is an open handle, opened for overlapped calls, and `into_raw_handle` has given it up. If it
    // leads to something else than a pipe, each call on it is an error.
    Ok(unsafe { NamedPipe::from_raw_handle(file.into_raw_handle()) })
}

/// Gives up reads and writes of ours at `pipe` that have not ended: each ends now, as an error that mio takes
/// notice of. What has ended is as it was, and what was written can be read.
pub(crate) fn cancel(pipe: &NamedPipe) {
    // SAFETY: `pipe` keeps the handle open, and mio started what is given up: it gets the end of each, with
    // which it frees the memory that this uses. Null says that all of it is meant.
    unsafe { CancelIoEx(pipe.as_raw_handle(), std::ptr::null()) };
}

/// Whether a pipe was not opened because each of its instances has a client.
pub(crate) fn is_pipe_busy(error: &io::Error) -> bool {
    is_one_of(error, &[ERROR_PIPE_BUSY])
}

/// Whether the system has run out of memory or handles for now.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    is_one_of(
        error,
        &[
            ERROR_TOO_MANY_OPEN_FILES,
            ERROR_NOT_ENOUGH_MEMORY,
            ERROR_OUTOFMEMORY,
            ERROR_NO_SYSTEM_RESOURCES,
            ERROR_NONPAGED_SYSTEM_RESOURCES,
            ERROR_PAGED_SYSTEM_RESOURCES,
            ERROR_WORKING_SET_QUOTA,
            ERROR_PAGEFILE_QUOTA,
            ERROR_COMMITMENT_LIMIT,
            ERROR_NOT_ENOUGH_QUOTA,
        ],
    )
}

fn is_one_of(error: &io::Error, numbers: &[u32]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.contains(&number.cast_unsigned()))
}

/// Who has opened the pipe that `pipe` is a connected instance of.
///
/// It is told by the number of the process, which can be another one's if that has ended meanwhile: what
/// keeps strangers out is the access list of the pipe. So one that has ended and cannot be asked any more was
/// one of our own user.
pub(crate) fn client_identity(pipe: &impl AsRawHandle) -> io::Result<PeerIdentity> {
    let mut pid = 0;
    // SAFETY: the handle is looked up by the system, which refuses one that is none, and there is room for a
    // number behind the pointer.
    checked(unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut pid) })?;
    match sid_of_process(pid) {
        Ok(sid) => Ok(PeerIdentity::windows(sid, Some(pid))),
        // No process has this number.
        Err(error) if is_one_of(&error, &[ERROR_INVALID_PARAMETER]) => {
            Ok(PeerIdentity::windows(own_sid()?, None))
        }
        Err(error) => Err(error),
    }
}

/// Who has made the instance that `pipe` has opened: the user is the owner of the pipe itself, so that it
/// cannot be another one if the server has ended.
pub(crate) fn server_identity(pipe: &impl AsRawHandle) -> io::Result<PeerIdentity> {
    let owner = owner_of_object(pipe)?;
    let mut pid = 0;
    // SAFETY: the handle is looked up by the system, which refuses one that is none, and there is room for a
    // number behind the pointer.
    let told = checked(unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle(), &raw mut pid) });
    Ok(PeerIdentity::windows(owner, told.ok().map(|()| pid)))
}
