//! Families of servers that find each other, and the facts of the environment that their names depend on.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::os::sys;
use crate::proto::error::{Error, ErrorKind};

/// The environment variables that names depend on. An empty variable is an unset one.
#[derive(Clone, Debug)]
pub struct Environment {
    /// What the caller gave; `None` for the environment of this process.
    given: Option<BTreeMap<OsString, OsString>>,
}

impl Environment {
    /// The environment of this process, read whenever a name is asked for.
    pub const fn from_process() -> Self {
        Self { given: None }
    }

    /// An environment of exactly these variables.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use udsmsg::{Environment, Namespace};
    /// let environment = Environment::from_pairs([("CLAUDE_CONFIG_DIR", "/srv/config")]);
    /// let home = Namespace::default().config_home(&environment).unwrap();
    /// assert_eq!(home, std::path::Path::new("/srv/config"));
    /// # }
    /// ```
    pub fn from_pairs<K: Into<OsString>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { given: Some(pairs.collect()) }
    }

    /// The value of the variable `name`, unless it is unset or empty.
    pub fn get(&self, name: &str) -> Option<OsString> {
        let value = match &self.given {
            None => env::var_os(name),
            Some(pairs) => pairs.get(OsStr::new(name)).cloned(),
        };
        value.filter(|value| !value.is_empty())
    }

    /// The directory for temporary files: `$TMPDIR`, else `/tmp`.
    #[cfg(unix)]
    pub(crate) fn tmpdir(&self) -> OsString {
        self.get("TMPDIR").unwrap_or_else(|| OsString::from("/tmp"))
    }

    /// The user's home: `$HOME` (on Windows `%USERPROFILE%`), else what the system has for our user.
    fn home(&self) -> Result<PathBuf, Error> {
        self.get(HOME).map(PathBuf::from).or_else(sys::home_directory).ok_or_else(|| {
            let sentence = format!("{HOME} is not set and the system knows no home of our user; set {HOME}");
            Error::new(ErrorKind::NoDefaultLocation, sentence)
        })
    }
}

/// The variable that says where the user's home is.
const HOME: &str = if cfg!(windows) { "USERPROFILE" } else { "HOME" };

/// A family of servers that find each other: all names of files and variables depend on it.
///
/// The default is the family of the deployed implementation, so that both find each other with no
/// configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    name: Box<str>,
}

/// The name of a socket in the directory of its process.
#[cfg(unix)]
pub(crate) const SOCKET_NAME: &str = "messaging.sock";

/// The name of the default family.
const DEFAULT: &str = "claude-code";

impl Default for Namespace {
    fn default() -> Self {
        Self { name: DEFAULT.into() }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Namespace {
    /// The family called `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidNamespace`] if `name` is not `[a-z][a-z0-9-]{0,31}`.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut bytes = name.bytes();
        let starts_well = bytes.next().is_some_and(|first| first.is_ascii_lowercase());
        let goes_on_well = bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if starts_well && goes_on_well && name.len() <= 32 {
            return Ok(Self { name: name.into() });
        }
        let sentence = format!(
            "the namespace {name:?} must be a lower-case letter and up to 31 more of a-z, 0-9 and \"-\", \
             such as \"my-app\""
        );
        Err(Error::new(ErrorKind::InvalidNamespace, sentence))
    }

    /// The name of the family.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the directory that holds the directories of its servers' sockets.
    pub fn socket_dir_name(&self) -> String {
        format!("{}-socks", self.name)
    }

    /// The pid in the path of a directory that was drawn for one server of the family: below a directory that
    /// its servers share, or directly in `/tmp`.
    #[cfg(unix)]
    pub(crate) fn drawn_pid(&self, dir: &Path) -> Option<u32> {
        let name = dir.file_name()?.to_str()?;
        let parent = dir.parent()?.file_name()?.to_str()?;
        let shared = self.socket_dir_name();
        if parent == shared || parent == format!("{shared}-{}", sys::effective_uid()) {
            return drawn_pid(name);
        }
        drawn_pid(name.strip_prefix(&*self.name)?.strip_prefix('-')?)
    }

    /// The variable that tells children where the socket is.
    pub fn socket_variable(&self) -> String {
        self.variable("MESSAGING_SOCKET")
    }

    /// The variable that says where the config home is.
    pub fn config_variable(&self) -> String {
        if self.is_default() { String::from("CLAUDE_CONFIG_DIR") } else { self.variable("CONFIG_DIR") }
    }

    /// The directory of the family's settings, used byte for byte if a variable names it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoDefaultLocation`] if it depends on the user's home and that is not known.
    pub fn config_home(&self, environment: &Environment) -> Result<PathBuf, Error> {
        if let Some(given) = environment.get(&self.config_variable()) {
            return Ok(PathBuf::from(given));
        }
        if self.is_default() {
            return Ok(environment.home()?.join(".claude"));
        }
        Ok(platform_config_dir(environment)?.join(&*self.name))
    }

    /// The directory of the capability files.
    ///
    /// # Errors
    ///
    /// As for [`Namespace::config_home`].
    pub fn capability_dir(&self, environment: &Environment) -> Result<PathBuf, Error> {
        Ok(self.config_home(environment)?.join("messaging-capabilities"))
    }

    fn is_default(&self) -> bool {
        &*self.name == DEFAULT
    }

    fn variable(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The pid in the name of a directory that was drawn for one server, `<pid>-<32 hex digits>`.
pub(crate) fn drawn_pid(name: &str) -> Option<u32> {
    let (pid, nonce) = name.split_once('-')?;
    let is_number = !pid.starts_with('0') && pid.bytes().all(|byte| byte.is_ascii_digit());
    if is_hex(nonce, 32) && is_number { pid.parse().ok() } else { None }
}

/// Whether `text` is so many lower-case hex digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The platform's directory for one user's settings.
fn platform_config_dir(environment: &Environment) -> Result<PathBuf, Error> {
    if cfg!(target_vendor = "apple") {
        return Ok(environment.home()?.join("Library/Application Support"));
    }
    if cfg!(windows) {
        return match environment.get("APPDATA") {
            Some(given) => Ok(PathBuf::from(given)),
            None => Ok(environment.home()?.join("AppData").join("Roaming")),
        };
    }
    // The specification of the variable says that a relative path is to be ignored.
    match environment.get("XDG_CONFIG_HOME") {
        Some(given) if Path::new(&given).is_absolute() => Ok(PathBuf::from(given)),
        _ => Ok(environment.home()?.join(".config")),
    }
}
