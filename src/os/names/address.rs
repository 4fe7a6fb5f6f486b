//! Where a server can be reached: a socket path, taken exactly as it is given.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use crate::os::sys::SUN_PATH_BYTES;
use crate::proto::error::{Error, ErrorKind};

/// What an address is written with.
const SCHEME: &str = "uds:";

/// The address of a server: its socket path, UTF-8, exactly as given. Nothing is made absolute or tidied,
/// because the name of the capability file is the hash of these very bytes.
///
/// `Display` writes it as `uds:<path>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    path: Box<str>,
}

impl Address {
    /// Bytes that a socket path may have at most: the room in `sun_path` without the NUL that ends it.
    pub const BYTES_MAX: usize = SUN_PATH_BYTES - 1;

    /// The address that `target` names, with or without `uds:` in front; exactly one is taken off.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InlineAuthToken`] if it contains `#token=` (the target is not repeated);
    /// [`ErrorKind::InvalidAddress`] if the path is empty, contains NUL or is not UTF-8.
    pub fn parse<T: AsRef<OsStr> + ?Sized>(target: &T) -> Result<Self, Error> {
        let text = utf8(target.as_ref())?;
        Self::checked(text.strip_prefix(SCHEME).unwrap_or(text))
    }

    /// The address of the socket at `path`, also if it begins with `uds:`.
    ///
    /// # Errors
    ///
    /// As for [`Address::parse`].
    pub fn from_path<P: AsRef<Path> + ?Sized>(path: &P) -> Result<Self, Error> {
        Self::checked(utf8(path.as_ref().as_os_str())?)
    }

    /// The socket path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The directory of the socket and its name there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAddress`] if the path names a directory.
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

    /// Checks that the path fits a socket address.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PathTooLong`] with its length and the limit.
    pub fn check_length(&self) -> Result<(), Error> {
        let len = self.path.len();
        if len <= Self::BYTES_MAX {
            return Ok(());
        }
        let sentence = format!(
            "the socket path {:?} is {len} bytes long and at most {} fit; use a shorter directory",
            self.path,
            Self::BYTES_MAX
        );
        Err(Error::new(ErrorKind::PathTooLong, sentence))
    }

    fn checked(path: &str) -> Result<Self, Error> {
        if path.contains("#token=") {
            let sentence = "the target must not include an inline auth token; leave out \"#token=\" and what \
                            follows, the token is looked up";
            return Err(Error::new(ErrorKind::InlineAuthToken, sentence));
        }
        if path.is_empty() {
            return Err(Error::new(ErrorKind::InvalidAddress, "the socket path is empty"));
        }
        if path.contains('\0') {
            let sentence =
                format!("the socket path {path:?} contains a NUL byte, which no file name can have");
            return Err(Error::new(ErrorKind::InvalidAddress, sentence));
        }
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
        let sentence = format!("the socket path {text:?} is not UTF-8; messages could not name it");
        Error::new(ErrorKind::InvalidAddress, sentence)
    })
}
