//! Where a server can be reached: the path of a socket, on Windows of a pipe, taken exactly as it is given.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};

/// What an address is written with.
const SCHEME: &str = "uds:";

/// What stands at an address, in errors.
pub(crate) const SOCKET: &str = if cfg!(windows) { "pipe" } else { "socket" };

/// The address of a server: its socket path, UTF-8, exactly as given. Nothing is made absolute or tidied,
/// because the name of the capability file is the hash of these very bytes.
///
/// On Windows it is the path of a named pipe of this machine, `\\.\pipe\` and a name. Nothing else can be an
/// address, so one that a peer chose leads to no other machine and to no file.
///
/// `Display` writes it as `uds:<path>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    path: Box<str>,
}

impl Address {
    /// Bytes that a socket path may have at most: the room in `sun_path` without the NUL that ends it.
    #[cfg(unix)]
    pub const BYTES_MAX: usize = sys::SUN_PATH_BYTES - 1;

    /// UTF-16 units that a pipe path may have at most, the beginning included.
    #[cfg(windows)]
    pub const UNITS_MAX: usize = sys::NAME_UNITS_MAX;

    /// The address that `target` names, with or without `uds:` in front; exactly one is taken off.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InlineAuthToken`] if it contains `#token=` (the target is not repeated);
    /// [`ErrorKind::InvalidAddress`] if the path is empty, contains NUL or is not UTF-8; on Windows also if
    /// it is not `\\.\pipe\` (in any letter case) and a name without `\` and `/` that ends in neither dot nor
    /// blank.
    pub fn parse<T: AsRef<OsStr> + ?Sized>(target: &T) -> Result<Self, Error> {
        let text = utf8(target.as_ref())?;
        Self::checked(text.strip_prefix(SCHEME).unwrap_or(text))
    }

    /// The address of the socket or pipe at `path`, also if it begins with `uds:`.
    ///
    /// # Errors
    ///
    /// As for [`Address::parse`].
    pub fn from_path<P: AsRef<Path> + ?Sized>(path: &P) -> Result<Self, Error> {
        Self::checked(utf8(path.as_ref().as_os_str())?)
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The directory of the socket and its name there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAddress`] if the path names a directory.
    #[cfg(unix)]
    pub(crate) fn split(&self) -> Result<(&str, &str), Error> {
        let path = self.path();
        let (parent, name) = match path.rsplit_once('/') {
            None => (".", path),
            Some(("", name)) => ("/", name),
            Some((parent, name)) => (parent, name),
        };
        if matches!(name, "" | "." | "..") {
            let sentence = format!("the socket path {path:?} names a directory; add a name for the socket");
            return Err(Error::new(ErrorKind::InvalidAddress, sentence));
        }
        Ok((parent, name))
    }

    /// Checks that the path is not too long for a socket or pipe.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PathTooLong`] with its length and the limit.
    pub fn check_length(&self) -> Result<(), Error> {
        #[cfg(unix)]
        let (len, unit, max, mend) = (self.path.len(), "bytes", Self::BYTES_MAX, "use a shorter directory");
        #[cfg(windows)]
        let (len, unit, max, mend) =
            (self.path.encode_utf16().count(), "UTF-16 units", Self::UNITS_MAX, "use a shorter name");
        if len <= max {
            return Ok(());
        }
        let sentence =
            format!("the {SOCKET} path {:?} is {len} {unit} long and at most {max} fit; {mend}", self.path);
        Err(Error::new(ErrorKind::PathTooLong, sentence))
    }

    fn checked(path: &str) -> Result<Self, Error> {
        if path.contains("#token=") {
            let sentence = "the target must not include an inline auth token; leave out \"#token=\" and what \
                            follows, the token is looked up";
            return Err(Error::new(ErrorKind::InlineAuthToken, sentence));
        }
        if path.is_empty() {
            return Err(Error::new(ErrorKind::InvalidAddress, format!("the {SOCKET} path is empty")));
        }
        if path.contains('\0') {
            let sentence =
                format!("the {SOCKET} path {path:?} contains a NUL byte, which no file name can have");
            return Err(Error::new(ErrorKind::InvalidAddress, sentence));
        }
        #[cfg(windows)]
        check_pipe(path)?;
        Ok(Self { path: path.into() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.path)
    }
}

fn utf8(text: &OsStr) -> Result<&str, Error> {
    text.to_str().ok_or_else(|| {
        let bytes = text.as_encoded_bytes();
        if bytes.windows(7).any(|window| window == b"#token=") {
            return Error::new(
                ErrorKind::InlineAuthToken,
                "the target must not include an inline auth token, and is not UTF-8",
            );
        }
        let sentence = format!("the {SOCKET} path {text:?} is not UTF-8; messages could not name it");
        Error::new(ErrorKind::InvalidAddress, sentence)
    })
}

/// What the paths of all pipes of this machine begin with.
#[cfg(windows)]
const PIPES: &str = r"\\.\pipe\";

/// Checks that `path` can lead to nothing but a pipe of this machine, and to one that has no second path but
/// for letter case.
#[cfg(windows)]
fn check_pipe(path: &str) -> Result<(), Error> {
    let parts = path.split_at_checked(PIPES.len()).filter(|(start, _)| start.eq_ignore_ascii_case(PIPES));
    let why = match parts.map(|(_, name)| name) {
        None => "leads to no pipe of this machine",
        Some("") => "has no name",
        // Windows takes both for separators, and `..` between them leads out of the pipes.
        Some(name) if name.contains(['\\', '/']) => "has a separator in its name",
        // Windows leaves these out.
        Some(name) if name.ends_with(['.', ' ']) => "ends in a dot or blank",
        Some(_) => return Ok(()),
    };
    let sentence = format!("the pipe path {path:?} {why}; it must be {PIPES} and a name");
    Err(Error::new(ErrorKind::InvalidAddress, sentence))
}
