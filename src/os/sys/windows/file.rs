//! Files and directories: made for us alone, opened without following what stands there, and what is known of
//! them.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle};
use std::path::{self, Component, Path, PathBuf, Prefix};
use std::ptr;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_PARAMETER, ERROR_SHARING_VIOLATION,
    GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ADD_FILE,
    FILE_ADD_SUBDIRECTORY, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT,
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_ID_INFO, FILE_INFO_BY_HANDLE_CLASS,
    FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES, FILE_REMOTE_PROTOCOL_INFO, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, FILE_TYPE_DISK, FileIdInfo, FileRemoteProtocolInfo, GetFileInformationByHandle,
    GetFileInformationByHandleEx, GetFileType, READ_CONTROL, SECURITY_IDENTIFICATION, SECURITY_SQOS_PRESENT,
    SYNCHRONIZE,
};

use super::identity::own_sid;
use super::security::{OwnerOnly, Stranger, owner_and_stranger};
use super::{checked, wide};
use crate::os::sys::sample;
use crate::proto::sid::Sid;
use crate::proto::time::Wall;

/// Which file it is, as long as it exists: no two files have the same at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    volume: u64,
    file: [u8; 16],
}

/// What kind of file stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    Directory,
    /// Any reparse point: a link, a mounted volume, a file that is kept elsewhere.
    Link,
}

impl FileKind {
    /// The kind in words, with its article.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Link => "a reparse point (a link or the like)",
        }
    }
}

/// What the system says of a file, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) id: FileId,
    pub(crate) kind: FileKind,
    pub(crate) owner: Sid,
    /// Who else has access, if anyone has.
    pub(crate) stranger: Option<Stranger>,
    pub(crate) len: u64,
    pub(crate) modified: Wall,
}

impl Facts {
    /// Whether it belongs to the user that this process belongs to; not if that cannot be told.
    pub(crate) fn is_ours(&self) -> bool {
        own_sid().is_ok_and(|own| own == self.owner)
    }

    /// To whom it belongs, where it should be ours: in words that can follow "it".
    pub(crate) fn whose(&self) -> String {
        let own = own_sid().map_or_else(|cause| format!("unknown: {cause}"), |own| own.to_string());
        format!("belongs to {}, and you are {own}", self.owner)
    }

    /// Whether others than its owner, the system and the administrators have any permission at all.
    pub(crate) fn is_open_to_others(&self) -> bool {
        self.stranger.is_some()
    }

    /// How others are let in, in words that can follow "it". `path` leads to it.
    pub(crate) fn openness(&self, path: &Path) -> String {
        let _ = path;
        self.stranger.map_or_else(String::new, |stranger| format!("is open to {stranger}"))
    }

    /// Whether it is unchanged since it was `then`: the same file with the same owner, permissions and
    /// contents, as far as this can tell.
    pub(crate) fn is_as(&self, then: &Self) -> bool {
        self == then
    }
}

/// A directory that is held open, and with it the directories on the way: as long as it is, none of them can
/// be renamed or removed, so the path leads to it.
#[derive(Debug)]
pub(crate) struct Dir {
    file: File,
    path: PathBuf,
}

impl Dir {
    /// Its path, absolute.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// What is not followed and not entered, but opened itself; directories too.
const UNFOLLOWED: u32 = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;

/// Enough for [`facts_of`].
const TO_LOOK: u32 = FILE_READ_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE;

/// Opens the directory at `path`. A reparse point there is opened, not followed, and so is a file: look at
/// what it is.
pub(crate) fn open_dir(path: &Path) -> io::Result<Dir> {
    let path = path::absolute(path)?;
    // Which rights others may use is only compared if a right to the contents was asked for.
    let file = unfollowed()
        .access_mode(TO_LOOK | FILE_LIST_DIRECTORY)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
        .open(&path)?;
    Ok(Dir { file, path })
}

/// Opens `name` in `dir` to be read. A reparse point is opened, not followed, and so is a directory: look at
/// what it is.
pub(crate) fn open_to_read(dir: &Dir, name: &str) -> io::Result<File> {
    unfollowed().read(true).open(dir.path.join(name))
}

fn unfollowed() -> OpenOptions {
    let mut options = OpenOptions::new();
    // If it leads to a pipe, its server may not act as us.
    options.custom_flags(UNFOLLOWED).security_qos_flags(SECURITY_IDENTIFICATION);
    options
}

/// The facts of an open file.
pub(crate) fn facts_of(file: &File) -> io::Result<Facts> {
    // SAFETY: `file` is open.
    if unsafe { GetFileType(file.as_raw_handle()) } != FILE_TYPE_DISK {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device, not a file"));
    }
    let metadata = file.metadata()?;
    let has = |attribute| metadata.file_attributes() & attribute != 0;
    let kind = if has(FILE_ATTRIBUTE_REPARSE_POINT) {
        FileKind::Link
    } else if has(FILE_ATTRIBUTE_DIRECTORY) {
        FileKind::Directory
    } else {
        FileKind::Regular
    };
    let (owner, stranger) = owner_and_stranger(file)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let modified = Wall::from_millis(u64::try_from(modified).unwrap_or(u64::MAX));
    Ok(Facts { id: id_of(file)?, kind, owner, stranger, len: metadata.file_size(), modified })
}

/// The facts of what stands at `path`; a reparse point there is not followed.
pub(crate) fn facts_of_path(path: &Path) -> io::Result<Facts> {
    facts_of(&unfollowed().access_mode(TO_LOOK).open(path)?)
}

/// The facts of what stands at `name` in `dir`; a reparse point there is not followed.
pub(crate) fn facts_at(dir: &Dir, name: &str) -> io::Result<Facts> {
    facts_of_path(&dir.path.join(name))
}

/// The same, by the name that it has where something else can be mounted on a file.
pub(crate) use facts_at as facts_unmounted;

fn id_of(file: &File) -> io::Result<FileId> {
    // SAFETY: `FileIdInfo` is answered with a `FILE_ID_INFO`.
    if let Ok(info) = unsafe { ask::<FILE_ID_INFO>(file, FileIdInfo) } {
        return Ok(FileId { volume: info.VolumeSerialNumber, file: info.FileId.Identifier });
    }
    // File systems that have only the short form.
    let mut info = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: `file` is open, and there is room for the answer behind the pointer.
    checked(unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut info) })?;
    let index = u64::from(info.nFileIndexHigh) << 32 | u64::from(info.nFileIndexLow);
    Ok(FileId { volume: u64::from(info.dwVolumeSerialNumber), file: u128::from(index).to_le_bytes() })
}

/// Whether the file is provably on this machine; not if that cannot be told.
pub(crate) fn is_local(file: &File) -> bool {
    // SAFETY: `FileRemoteProtocolInfo` is answered with a `FILE_REMOTE_PROTOCOL_INFO`.
    let remote = unsafe { ask::<FILE_REMOTE_PROTOCOL_INFO>(file, FileRemoteProtocolInfo) };
    let error = remote.err().and_then(|cause| cause.raw_os_error()).map(i32::cast_unsigned);
    // Windows says the first of a file that no protocol leads to. Wine says the second of every file.
    matches!(error, Some(ERROR_INVALID_PARAMETER | ERROR_CALL_NOT_IMPLEMENTED))
}

/// An answer, aligned as the system wants all answers: more than some of them are in C.
#[derive(Default)]
#[repr(C, align(8))]
struct Answer<T>(T);

/// Asks for `what` of an open file.
///
/// # Safety
///
/// The answer to `what` is a `T`, which any bits are a value of.
unsafe fn ask<T: Default>(file: &File, what: FILE_INFO_BY_HANDLE_CLASS) -> io::Result<T> {
    let mut answer = Answer(T::default());
    let room = u32::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `file` is open. There are `room` bytes behind the pointer, aligned for what the caller says is
    // written there; what does not fit is an error.
    checked(unsafe {
        GetFileInformationByHandleEx(file.as_raw_handle(), what, (&raw mut answer.0).cast(), room)
    })?;
    Ok(answer.0)
}

/// Makes the file `name` in `dir`, to be written, with no permission for other users. There must be nothing
/// at that name.
pub(crate) fn create_private(dir: &Dir, name: &str) -> io::Result<File> {
    create(&dir.path.join(name), &OwnerOnly::file()?)
}

/// Makes the file `path`, which `access` says who may use.
pub(super) fn create(path: &Path, access: &OwnerOnly) -> io::Result<File> {
    let name = long(path)?;
    let file = access.lend(|attributes| {
        // SAFETY: `name` ends with a 0, and the attributes are valid until the call returns. There is no
        // template, which null says.
        unsafe {
            CreateFileW(
                name.as_ptr(),
                GENERIC_READ | GENERIC_WRITE,
                FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                attributes,
                CREATE_NEW,
                FILE_FLAG_OPEN_REPARSE_POINT | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION,
                ptr::null_mut(),
            )
        }
    });
    if file == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, so it is an open handle, and nothing else has it.
    Ok(unsafe { File::from_raw_handle(file) })
}

/// Makes the directory `path` with no permission for other users. There must be nothing at that name.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    let name = long(path)?;
    OwnerOnly::directory()?.lend(|attributes| {
        // SAFETY: `name` ends with a 0, and the attributes are valid until the call returns.
        checked(unsafe { CreateDirectoryW(name.as_ptr(), attributes) })
    })
}

/// How often what another process holds open is tried again, and the pause before it: a reader, a sweep or a
/// virus scanner does for a moment.
const ATTEMPTS_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// Does `attempt` again while it is refused because another process may hold the file open.
fn insist(attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
    for _ in 1..ATTEMPTS_MAX {
        let done = attempt();
        let error = done.as_ref().err().and_then(io::Error::raw_os_error).map(i32::cast_unsigned);
        if !matches!(error, Some(ERROR_ACCESS_DENIED | ERROR_SHARING_VIOLATION)) {
            return done;
        }
        thread::sleep(PAUSE);
    }
    attempt()
}

/// Removes the file `name` from `dir`.
pub(crate) fn remove_at(dir: &Dir, name: &str) -> io::Result<()> {
    insist(|| fs::remove_file(dir.path.join(name)))
}

/// Renames the file `from` in `dir` to `to`, in place of what has that name.
pub(crate) fn rename_in(dir: &Dir, from: &str, to: &str) -> io::Result<()> {
    insist(|| fs::rename(dir.path.join(from), dir.path.join(to)))
}

/// Gives the file `from` in `dir` the name `to` as well; `AlreadyExists` if something has that name.
pub(crate) fn link_in(dir: &Dir, from: &str, to: &str) -> io::Result<()> {
    fs::hard_link(dir.path.join(from), dir.path.join(to))
}

/// Up to `max` of the names in `dir`, as [`sample`] chooses them.
pub(crate) fn names_in(
    dir: &Dir,
    max: usize,
    wanted: impl FnMut(&str) -> bool,
    draw: impl FnMut(usize) -> usize,
) -> io::Result<(Vec<String>, bool)> {
    sample(fs::read_dir(&dir.path)?.map(|entry| entry.map(|entry| entry.file_name())), max, wanted, draw)
}

/// Whether we could make a file in the directory `path`.
pub(crate) fn is_writable(path: &Path) -> bool {
    let rights = FILE_ADD_FILE | FILE_ADD_SUBDIRECTORY;
    unfollowed().access_mode(rights).open(path).is_ok()
}

/// From this length on the system wants another form of a path; a directory must leave room for a short name.
const SHORT_UNITS_MAX: usize = 247;

/// `path` as the system takes it, like the standard library does, however long it is.
fn long(path: &Path) -> io::Result<Vec<u16>> {
    let plain = wide(path.as_os_str())?;
    let absolute = path::absolute(path)?;
    let is_on_disk = matches!(
        absolute.components().next(),
        Some(Component::Prefix(prefix)) if matches!(prefix.kind(), Prefix::Disk(_))
    );
    if plain.len() <= SHORT_UNITS_MAX || !is_on_disk {
        return Ok(plain);
    }
    let mut verbatim = std::ffi::OsString::from(r"\\?\");
    verbatim.push(absolute);
    wide(&verbatim)
}

/// The home directory of our user: `%USERPROFILE%`, or what the system has for us.
pub(crate) fn home_directory() -> Option<PathBuf> {
    env::home_dir().filter(|dir| dir.is_absolute())
}
