//! Who we are, who another process is, and whom we trust.

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::{
    GetLengthSid, GetTokenInformation, PSID, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, OpenProcess, OpenProcessToken, PROCESS_ACCESS_RIGHTS,
    PROCESS_QUERY_LIMITED_INFORMATION,
};

use super::checked;
use crate::proto::peer::PeerIdentity;
use crate::proto::sid::Sid;

/// The user who decides which peers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `None` if the system did not say who we are.
    sid: Option<Sid>,
}

impl Owner {
    /// The user that this process belongs to.
    ///
    /// If the system does not say who that is, no peer is trusted.
    pub fn current() -> Self {
        Self { sid: own_sid().ok() }
    }

    /// The user `sid`.
    pub const fn with_sid(sid: Sid) -> Self {
        Self { sid: Some(sid) }
    }

    /// Whether a process of this user may trust `peer`: it belongs to the same user or to the system itself.
    pub fn trusts(self, peer: PeerIdentity) -> bool {
        self.sid.zip(peer.sid()).is_some_and(|(own, sid)| sid == own || sid.is_local_system())
    }
}

/// The user that this process belongs to, even while a thread impersonates another one.
pub(crate) fn own_sid() -> io::Result<Sid> {
    user_of(current_process())
}

/// The user that the process `pid` belongs to.
pub(super) fn sid_of_process(pid: u32) -> io::Result<Sid> {
    let process = open_process(pid, PROCESS_QUERY_LIMITED_INFORMATION)?;
    // SAFETY: `process` is open and stays open for as long as the borrow is used.
    user_of(unsafe { BorrowedHandle::borrow_raw(process.as_raw_handle()) })
}

/// This process, with every right to it.
pub(super) fn current_process() -> BorrowedHandle<'static> {
    // SAFETY: it takes nothing, and what it gives stands for this process for as long as it runs. It need not
    // be closed, and a borrow does not close it.
    unsafe { BorrowedHandle::borrow_raw(GetCurrentProcess()) }
}

/// Opens the process `pid`. Windows takes the numbers behind that of a process for the same process, so
/// compare.
pub(super) fn open_process(pid: u32, rights: PROCESS_ACCESS_RIGHTS) -> io::Result<OwnedHandle> {
    // SAFETY: it takes numbers only.
    let process = unsafe { OpenProcess(rights, 0, pid) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so it is an open handle, and nothing else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(process) })
}

/// A user and the longest identifier behind it take 84 bytes.
const USER_WORDS: usize = 16;

/// The user of `process`.
fn user_of(process: BorrowedHandle<'_>) -> io::Result<Sid> {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: `process` is open, and there is room for a handle behind the pointer.
    checked(unsafe { OpenProcessToken(process.as_raw_handle(), TOKEN_QUERY, &raw mut token) })?;
    // SAFETY: the call has succeeded, so it is an open handle, and nothing else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut space = [0_u64; USER_WORDS];
    let room = u32::try_from(size_of_val(&space)).unwrap_or(0);
    let mut len = 0;
    // SAFETY: `token` is open, and there are `room` bytes behind the pointer to `space`, aligned for a
    // `TOKEN_USER`. No more is written; what does not fit is an error.
    checked(unsafe {
        GetTokenInformation(token.as_raw_handle(), TokenUser, space.as_mut_ptr().cast(), room, &raw mut len)
    })?;
    // SAFETY: the call has written a `TOKEN_USER` to the beginning of `space`, which is large enough and
    // aligned for it.
    let user = unsafe { space.as_ptr().cast::<TOKEN_USER>().read() };
    // SAFETY: the identifier lies behind it in `space`, which lives until the end of this function, and the
    // system made it.
    unsafe { sid_at(user.User.Sid) }
}

/// Copies the identifier that the system has put at `sid`.
///
/// # Safety
///
/// `sid` is null or points to a whole identifier.
pub(super) unsafe fn sid_at(sid: PSID) -> io::Result<Sid> {
    if sid.is_null() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no owner"));
    }
    // SAFETY: it points to a whole identifier, as the caller has promised.
    let len = unsafe { GetLengthSid(sid) };
    // SAFETY: an identifier is as long as that, it has no padding, and bytes need no alignment.
    let bytes = unsafe { std::slice::from_raw_parts(sid.cast::<u8>(), usize::try_from(len).unwrap_or(0)) };
    Sid::from_bytes(bytes).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "a security identifier is of no known form")
    })
}
