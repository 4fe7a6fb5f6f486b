//! Which process it is, whether it lives, and on which machine.

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RRF_SUBKEY_WOW6464KEY, RegGetValueW,
};
use windows_sys::Win32::System::Threading::{
    GetProcessId, GetProcessTimes, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE,
    WaitForSingleObject,
};
use windows_sys::w;

use super::identity::{current_process, open_process};
use super::{checked, checked_number};

/// What there is of a process with a certain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It runs, and it was started then: in units of 100 ns since the year 1601.
    Running { started: u64 },
    /// There is none, or it has ended and another process still holds a handle to it.
    Nothing,
    /// The system does not say, or the number cannot be one.
    Unknown,
}

/// What there is of the process `pid`.
pub(crate) fn process(pid: u32) -> Found {
    // 0 stands for the time in which nothing runs.
    if pid == 0 {
        return Found::Unknown;
    }
    let process = match open_process(pid, PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE) {
        Ok(process) => process,
        Err(cause) if is_error(&cause, ERROR_INVALID_PARAMETER) => return Found::Nothing,
        // It is another user's, or there is no memory.
        Err(_) => return Found::Unknown,
    };
    // SAFETY: `process` is open and stays open until the end of this function.
    let process = unsafe { BorrowedHandle::borrow_raw(process.as_raw_handle()) };
    // SAFETY: `process` is open with the right to ask for this.
    if unsafe { GetProcessId(process.as_raw_handle()) } != pid {
        return Found::Nothing;
    }
    // An exit status cannot tell: a process may end with the one that stands for "still running".
    // SAFETY: `process` is open with the right to wait for it, and this waits for no time at all.
    match unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } {
        WAIT_TIMEOUT => start_of(process).map_or(Found::Unknown, |started| Found::Running { started }),
        WAIT_OBJECT_0 => Found::Nothing,
        _ => Found::Unknown,
    }
}

/// When this process was started, counted as in [`Found::Running`].
pub(crate) fn own_start() -> io::Result<u64> {
    start_of(current_process())
}

fn start_of(process: BorrowedHandle<'_>) -> io::Result<u64> {
    let nothing = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
    let [mut start, mut end, mut kernel, mut user] = [nothing; 4];
    // SAFETY: `process` is open with the right to ask for this, and there is room for a time behind each
    // pointer.
    checked(unsafe {
        GetProcessTimes(process.as_raw_handle(), &raw mut start, &raw mut end, &raw mut kernel, &raw mut user)
    })?;
    Ok(u64::from(start.dwHighDateTime) << 32 | u64::from(start.dwLowDateTime))
}

fn is_error(error: &io::Error, number: u32) -> bool {
    error.raw_os_error() == Some(number.cast_signed())
}

/// Units that the machine's id may have; it has 36 and a 0.
const ID_UNITS: usize = 64;

/// What the installation of Windows on this machine is called; copies of it share the name.
pub(crate) fn machine_id() -> Option<String> {
    let mut units = [0_u16; ID_UNITS];
    let mut len = u32::try_from(size_of_val(&units)).unwrap_or(0);
    // A 32-bit program would be shown another part of the registry.
    let flags = RRF_RT_REG_SZ | RRF_SUBKEY_WOW6464KEY;
    // SAFETY: the two names end with a 0. There are `len` bytes behind the pointer to `units`, and no more is
    // written; what does not fit is an error. The type is not asked for, which null says.
    let answer = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            w!("SOFTWARE\\Microsoft\\Cryptography"),
            w!("MachineGuid"),
            flags,
            std::ptr::null_mut(),
            units.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    checked_number(answer).ok()?;
    let id = units.split(|&unit| unit == 0).next().unwrap_or_default();
    String::from_utf16(id).ok().filter(|id| !id.is_empty())
}
