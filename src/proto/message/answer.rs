//! What a client reads: the answers of a server.

use std::borrow::Cow;

use crate::proto::error::Error;
use crate::proto::json::{self, Kind};

/// What a client reads in one line from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A `response`: the message is in the receiver's inbox.
    Accepted {
        /// The receiver's name for it, as `uds-7`; not every receiver gives one.
        id: Option<String>,
    },
    /// A `pong`.
    Pong,
    /// An `error`: the message was refused, and the connection ends.
    Rejected {
        /// Why: its `data`, decoded if that is a string and as it was written if not; `None` for none and
        /// null.
        reason: Option<Cow<'a, str>>,
    },
    /// Anything else, to be skipped.
    Other,
}

impl<'a> Answer<'a> {
    /// Reads `line`, its newline taken off, as an answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`](crate::ErrorKind::InvalidMessage) if it is not a JSON object in UTF-8
    /// within the bounds of [`json::scan`].
    pub fn from_line(line: &'a [u8]) -> Result<Self, Error> {
        let line = simdutf8::basic::from_utf8(line)
            .map_err(|reason| Error::invalid_message("the answer is not UTF-8").with_source(reason))?;
        let scan = json::scan(line)?;
        if !scan.is_object() {
            return Err(Error::invalid_message("the answer is not a JSON object"));
        }
        let fields = scan.fields();
        let is = |kind: &str| fields.kind.is_some_and(|field| field.is(line, kind));
        Ok(if is("response") {
            Self::Accepted { id: fields.meta.and_then(|meta| json::member_text(meta.raw(line), "id")) }
        } else if is("error") {
            let data = fields.data.filter(|data| data.kind() != Kind::Null);
            Self::Rejected {
                reason: data.map(|data| data.text(line).unwrap_or_else(|| data.raw(line).into())),
            }
        } else if is("pong") {
            Self::Pong
        } else {
            Self::Other
        })
    }
}
