//! Messages: the view that an owner reads, and one file each for what a line [asks for](Request), what a
//! server [writes](Reply), what is [sent](Outgoing) and which [answers](Answer) come back.

mod answer;
mod outgoing;
mod reply;
mod request;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;

pub use self::answer::Answer;
pub use self::outgoing::Outgoing;
pub use self::reply::Reply;
pub use self::request::Request;
use super::error::Error;
use super::json::{self, Field, Fields, Kind};

/// A message, borrowed from the text that holds its JSON and decoded on demand.
///
/// ```
/// use udsmsg::Message;
///
/// let message = Message::from_json(r#"{"type":"text","data":"caf\u00e9"}"#)?;
/// assert_eq!(message.kind(), "text");
/// assert_eq!(message.data().and_then(|data| data.text()).as_deref(), Some("café"));
/// # Ok::<(), udsmsg::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Message<'a> {
    json: &'a str,
    fields: Fields,
}

impl<'a> Message<'a> {
    /// Reads `json` as a message. It needs no token; if it holds one, `json()` and `meta()` show it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`](crate::ErrorKind::InvalidMessage) if `json` is not one JSON object
    /// within the bounds of [`json::scan`], if `type` is not a string, or `from` or `ts` is neither a string
    /// nor null.
    pub fn from_json(json: &'a str) -> Result<Self, Error> {
        let scan = json::scan(json)?;
        if !scan.is_object() {
            return Err(Error::invalid_message("a message must be a JSON object"));
        }
        if !has_valid_types(&scan.fields()) {
            return Err(Error::invalid_message("`type` must be a string, `from` and `ts` strings or null"));
        }
        let whole = scan.whole(json);
        Ok(Self::from_parts(whole.head, whole.fields))
    }

    /// The message whose JSON has been scanned before, with the places of its values in it.
    pub(crate) fn from_parts(json: &'a str, fields: Fields) -> Self {
        debug_assert!(has_valid_types(&fields), "the fields of a message have valid types");
        Self { json, fields }
    }

    /// The whole message as its sender wrote it, without the token if it came through a server.
    pub fn json(&self) -> &'a str {
        self.json
    }

    /// The `type`. A lone surrogate in it is U+FFFD, as in every text that is decoded here.
    pub fn kind(&self) -> Cow<'a, str> {
        self.text(self.fields.kind).unwrap_or_default()
    }

    /// The payload, if there is one; JSON's `null` is one.
    pub fn data(&self) -> Option<Data<'a>> {
        self.fields.data.map(|field| Data { json: self.json, field })
    }

    /// The path of the sender's socket, as the sender claims it.
    pub fn from(&self) -> Option<Cow<'a, str>> {
        self.text(self.fields.from)
    }

    /// The time of sending, as the sender claims it.
    pub fn ts(&self) -> Option<Cow<'a, str>> {
        self.text(self.fields.ts)
    }

    /// The JSON of `meta`: an object in every message that came through a server.
    pub fn meta(&self) -> Option<&'a str> {
        self.fields.meta.map(|field| field.raw(self.json))
    }

    /// The whole message as a `T`.
    ///
    /// Beware of `Option<Cow<str>>`, which serde always fills with a copy, and of lone surrogates and numbers
    /// beyond `f64`, which the protocol allows and serde_json does not read as text and numbers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`](crate::ErrorKind::InvalidMessage) with serde_json's reason, which may
    /// quote the message but never its token.
    pub fn parse<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_json::from_str(self.json).map_err(|reason| {
            let error = Error::invalid_message("the message cannot be read as asked for");
            match json::scan(self.json) {
                Ok(scan) if scan.auth_token().is_none() => error.with_source(reason),
                _ => error,
            }
        })
    }

    fn text(&self, field: Option<Field>) -> Option<Cow<'a, str>> {
        field?.text(self.json)
    }
}

/// Shows the start of the `type` and the length of the whole: payloads and tokens do not belong in logs.
impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind: String = self.kind().chars().take(32).collect();
        write!(f, "Message({kind:?}, {} bytes)", self.json.len())
    }
}

/// A message's payload: text, or any other JSON.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    json: &'a str,
    field: Field,
}

impl<'a> Data<'a> {
    /// The payload if it is a string, decoded; borrowed unless there are escapes in it.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.field.text(self.json)
    }

    /// The payload as it was written: a string keeps its quotes and escapes, a number all its digits.
    pub fn json(&self) -> &'a str {
        self.field.raw(self.json)
    }

    /// What sort of JSON it is.
    pub fn kind(&self) -> Kind {
        self.field.kind()
    }

    /// The payload as a `T`; [`Message::parse`] says what to beware of.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`](crate::ErrorKind::InvalidMessage) with serde_json's reason, which may
    /// quote the payload.
    pub fn parse<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_json::from_str(self.json()).map_err(|reason| {
            Error::invalid_message("the payload cannot be read as asked for").with_source(reason)
        })
    }
}

/// Shows what sort of JSON it is and its length.
impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({:?}, {} bytes)", self.kind(), self.json().len())
    }
}

/// Rule 3 of the protocol: `type` is a string, `from` and `ts` are missing, strings or null.
fn has_valid_types(fields: &Fields) -> bool {
    let is_text = |field: Field| matches!(field.kind(), Kind::Text { .. });
    let is_text_or_null = |field: Field| is_text(field) || field.kind() == Kind::Null;
    fields.kind.is_some_and(is_text)
        && fields.from.is_none_or(is_text_or_null)
        && fields.ts.is_none_or(is_text_or_null)
}
