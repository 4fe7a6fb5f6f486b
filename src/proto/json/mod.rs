//! JSON as the protocol uses it: lines are scanned where they lie, and nothing is parsed into a tree.

mod field;
mod scan;
mod string;

use std::fmt;

pub use self::field::{Field, Fields, Kind};
pub use self::scan::{Redacted, Scan, scan};
pub(crate) use self::scan::{for_each_member, member_text};
pub(crate) use self::string::is_plain;
pub use self::string::quote;
use super::error::Error;

/// How many `[` and `{` may be open at once in a line, the outermost included.
pub const DEPTH_MAX: u32 = 127;

/// Why a line is refused. It holds nothing of the line's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidJson {
    /// The byte of the line at which the scan gave up.
    pub at: usize,
    /// What was wrong there.
    pub fault: Fault,
}

/// What is wrong with a line that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is not one JSON value as RFC 8259 has it.
    Syntax,
    /// More than [`DEPTH_MAX`] arrays and objects are open at once.
    TooDeep,
    /// One of `type`, `data`, `from`, `ts`, `meta` and `meta.authToken` is there twice, so that two readers
    /// could believe different things.
    Repeated,
    /// It is longer than 4 GiB.
    TooLong,
}

impl fmt::Display for InvalidJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.fault {
            Fault::Syntax => write!(f, "this is not JSON at byte {at}"),
            Fault::TooDeep => write!(f, "this JSON is nested deeper than {DEPTH_MAX} at byte {at}"),
            Fault::Repeated => {
                write!(f, "a key that may be there once is repeated before byte {at}")
            }
            Fault::TooLong => f.write_str("this JSON is longer than 4 GiB"),
        }
    }
}

impl std::error::Error for InvalidJson {}

impl From<InvalidJson> for Error {
    fn from(refusal: InvalidJson) -> Self {
        Self::invalid_message(refusal.to_string())
    }
}
