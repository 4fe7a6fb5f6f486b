//! What a test costs the processor.

use std::time::Duration;

/// Processor time of this thread.
#[cfg(unix)]
pub fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Processor time of this thread, as of the system's last tick.
#[cfg(windows)]
#[allow(unsafe_code, reason = "the calls of Windows are foreign functions")]
pub fn thread_time() -> Duration {
    use windows_sys::Win32::Foundation::FILETIME;
    use windows_sys::Win32::System::Threading::{GetCurrentThread, GetThreadTimes};
    let [mut start, mut end, mut kernel, mut user] = [FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 }; 4];
    // SAFETY: the handle stands for this thread, and there is room for a time behind each pointer.
    let is_told = unsafe {
        GetThreadTimes(GetCurrentThread(), &raw mut start, &raw mut end, &raw mut kernel, &raw mut user)
    };
    assert_ne!(is_told, 0, "{}", std::io::Error::last_os_error());
    let of = |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Duration::from_nanos(100 * (of(kernel) + of(user)))
}
