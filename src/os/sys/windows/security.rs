//! Who has access: given to new pipes and files, and found at those that exist.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::ptr;
use std::slice;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1, SE_FILE_OBJECT,
    SE_KERNEL_OBJECT, SE_OBJECT_TYPE,
};
use windows_sys::Win32::Security::{
    ACL, DACL_SECURITY_INFORMATION, INHERIT_ONLY_ACE, OBJECT_SECURITY_INFORMATION,
    OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID, SECURITY_ATTRIBUTES,
};
use windows_sys::Win32::System::SystemServices::{
    ACCESS_ALLOWED_ACE_TYPE, ACCESS_ALLOWED_CALLBACK_ACE_TYPE, ACCESS_DENIED_ACE_TYPE,
    ACCESS_DENIED_CALLBACK_ACE_TYPE, ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE, ACCESS_DENIED_OBJECT_ACE_TYPE,
};

use super::identity::{own_sid, sid_at};
use super::{checked, checked_number, wide};
use crate::proto::sid::Sid;

/// What makes a new object ours, with every right for us and none for others; nothing is inherited from where
/// it is made.
#[derive(Clone, Debug)]
pub(crate) struct OwnerOnly {
    /// A self-relative security descriptor, aligned for every part of it.
    descriptor: Box<[u64]>,
}

impl OwnerOnly {
    /// For a pipe.
    pub(crate) fn pipe() -> io::Result<Self> {
        Self::with_entry(";GA")
    }

    /// For a file.
    pub(crate) fn file() -> io::Result<Self> {
        Self::with_entry(";FA")
    }

    /// For a directory, and for what other programs make in it without saying for whom: a new file would be
    /// open to the whole session otherwise.
    pub(crate) fn directory() -> io::Result<Self> {
        Self::with_entry("OICI;FA")
    }

    /// `entry` is how the entry is inherited and what it permits.
    fn with_entry(entry: &str) -> io::Result<Self> {
        // The owner is named, or what an administrator makes belongs to all administrators.
        let sid = own_sid()?;
        Self::from_text(&format!("O:{sid}D:P(A;{entry};;;{sid})"))
    }

    /// What `text` says in the language of Windows for that.
    pub(super) fn from_text(text: &str) -> io::Result<Self> {
        let text = wide(OsStr::new(text))?;
        let mut made: PSECURITY_DESCRIPTOR = ptr::null_mut();
        let mut len = 0;
        // SAFETY: `text` ends with a 0, and there is room for a pointer and for a number behind the others.
        checked(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut made,
                &raw mut len,
            )
        })?;
        let made = Allocated(made);
        let len = usize::try_from(len).unwrap_or(0);
        let mut descriptor = vec![0_u64; len.div_ceil(size_of::<u64>())].into_boxed_slice();
        // SAFETY: the call has succeeded, so there are `len` bytes at `made`; there is room for as many at
        // `descriptor`, which is new and so no part of it. In its self-relative form, which this is, a
        // descriptor holds offsets and no pointers, so that a copy is as good.
        unsafe { ptr::copy_nonoverlapping(made.0.cast::<u8>(), descriptor.as_mut_ptr().cast(), len) };
        Ok(Self { descriptor })
    }

    /// Calls `make` with the attributes, which are valid until it returns. It must not write to them.
    pub(super) fn lend<T>(&self, make: impl FnOnce(*const SECURITY_ATTRIBUTES) -> T) -> T {
        let attributes = SECURITY_ATTRIBUTES {
            nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
            lpSecurityDescriptor: self.descriptor.as_ptr().cast_mut().cast(),
            bInheritHandle: 0,
        };
        make(&raw const attributes)
    }
}

/// What the system has allocated for us.
struct Allocated(PSECURITY_DESCRIPTOR);

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: it was allocated by a call that says to free it so, nothing points into it any more, and
        // this is the only time. A null pointer is allowed.
        unsafe { LocalFree(self.0) };
    }
}

/// Who besides its owner, the system and the administrators has access to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// Everyone: the file has no access list.
    Everyone,
    /// A user or a group.
    User(Sid),
    /// An entry of the access list that is not understood; perhaps someone. Its type.
    Entry(u8),
    /// The access list is not understood.
    List,
}

impl fmt::Display for Stranger {
    /// What can follow "is open to".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone, because it has no access list"),
            Self::User(sid) => write!(f, "{sid}"),
            Self::Entry(kind) => write!(f, "an access list entry of type {kind}, which is not understood"),
            Self::List => f.write_str("an access list that is not understood"),
        }
    }
}

/// The owner of an open pipe or other kernel object. The process that made it may have named another one than
/// its own user, if it has the right to.
pub(super) fn owner_of_object(object: &impl AsRawHandle) -> io::Result<Sid> {
    Descriptor::of(object, SE_KERNEL_OBJECT, OWNER_SECURITY_INFORMATION)?.owner()
}

/// The owner of an open file or directory, and who else has access to it.
pub(super) fn owner_and_stranger(file: &impl AsRawHandle) -> io::Result<(Sid, Option<Stranger>)> {
    let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let descriptor = Descriptor::of(file, SE_FILE_OBJECT, wanted)?;
    let owner = descriptor.owner()?;
    let stranger = match descriptor.access_list() {
        Some(list) => stranger_in(list, &owner),
        None => Some(Stranger::Everyone),
    };
    Ok((owner, stranger))
}

/// The security descriptor of an object, and where in it is what was asked for.
struct Descriptor {
    owner: PSID,
    access_list: *mut ACL,
    /// What the two point into.
    _space: Allocated,
}

impl Descriptor {
    fn of(
        object: &impl AsRawHandle,
        kind: SE_OBJECT_TYPE,
        wanted: OBJECT_SECURITY_INFORMATION,
    ) -> io::Result<Self> {
        let (mut owner, mut access_list) = (ptr::null_mut(), ptr::null_mut());
        let mut space = ptr::null_mut();
        // SAFETY: the handle is looked up by the system, which refuses one that is none. There is room for a
        // pointer behind each of the three; the other two are not asked for, which null says.
        let answer = unsafe {
            GetSecurityInfo(
                object.as_raw_handle(),
                kind,
                wanted,
                &raw mut owner,
                ptr::null_mut(),
                &raw mut access_list,
                ptr::null_mut(),
                &raw mut space,
            )
        };
        checked_number(answer)?;
        Ok(Self { owner, access_list, _space: Allocated(space) })
    }

    fn owner(&self) -> io::Result<Sid> {
        // SAFETY: the system has set it to null or to an identifier in what it has allocated, which is freed
        // with `self`.
        unsafe { sid_at(self.owner) }
    }

    /// The bytes of the access list; `None` if there is none. It must have been asked for.
    fn access_list(&self) -> Option<&[u8]> {
        if self.access_list.is_null() {
            return None;
        }
        // SAFETY: the system has set it to an access list in what it has allocated, which is freed with
        // `self`.
        let len = unsafe { (*self.access_list).AclSize };
        // SAFETY: an access list is as long as it says; the borrow ends before `self` does.
        Some(unsafe { slice::from_raw_parts(self.access_list.cast(), usize::from(len)) })
    }
}

/// Bytes before the entries of an access list: revision, padding, length, how many entries, padding.
const LIST_HEAD_BYTES: usize = 8;

/// Bytes before the identifier in an entry: type, flags, length, what is permitted.
const ENTRY_HEAD_BYTES: usize = 8;

/// The first in the access list `list` of an object of `owner` who is neither the owner nor can take every
/// right anyway.
pub(super) fn stranger_in(list: &[u8], owner: &Sid) -> Option<Stranger> {
    let Some(&[_, _, _, _, low, high, _, _]) = list.first_chunk::<LIST_HEAD_BYTES>() else {
        return Some(Stranger::List);
    };
    let mut rest = list.get(LIST_HEAD_BYTES..).unwrap_or_default();
    for _ in 0..u16::from_le_bytes([low, high]) {
        let Some((entry, after)) = split_entry(rest) else { return Some(Stranger::List) };
        if let Some(stranger) = stranger_of(entry, owner) {
            return Some(stranger);
        }
        rest = after;
    }
    None
}

/// The first entry of `entries`, and those behind it.
fn split_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[_, _, low, high, ..] = entries.first_chunk::<ENTRY_HEAD_BYTES>()?;
    let len = usize::from(u16::from_le_bytes([low, high]));
    (len >= ENTRY_HEAD_BYTES).then(|| entries.split_at_checked(len))?
}

/// Whom `entry` gives access.
fn stranger_of(entry: &[u8], owner: &Sid) -> Option<Stranger> {
    let &[kind, flags, _, _, ref permitted @ ..] = entry.first_chunk::<ENTRY_HEAD_BYTES>()?;
    let is_for_others_only = u32::from(flags) & INHERIT_ONLY_ACE != 0;
    if is_for_others_only || *permitted == [0; 4] {
        return None;
    }
    match u32::from(kind) {
        ACCESS_ALLOWED_ACE_TYPE | ACCESS_ALLOWED_CALLBACK_ACE_TYPE => {
            // Whether a condition holds, which stands behind the identifier, is of no interest.
            let sid = sid_in(entry.get(ENTRY_HEAD_BYTES..).unwrap_or_default());
            let is_stranger = |sid: &Sid| {
                sid != owner && !sid.is_local_system() && !sid.is_administrators() && !sid.is_owner_rights()
            };
            match sid {
                Some(sid) => is_stranger(&sid).then_some(Stranger::User(sid)),
                None => Some(Stranger::List),
            }
        }
        ACCESS_DENIED_ACE_TYPE
        | ACCESS_DENIED_CALLBACK_ACE_TYPE
        | ACCESS_DENIED_OBJECT_ACE_TYPE
        | ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE => None,
        _ => Some(Stranger::Entry(kind)),
    }
}

/// The identifier at the beginning of `bytes`.
fn sid_in(bytes: &[u8]) -> Option<Sid> {
    let numbers = usize::from(*bytes.get(1)?);
    Sid::from_bytes(bytes.get(..8 + 4 * numbers)?)
}
