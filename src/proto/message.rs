//! What lines mean: a message as a borrowed view, how a line is judged, how messages and answers are written.

use std::borrow::Cow;
use std::fmt;
use std::str;

use serde::{Deserialize, Serialize};

use super::auth::AuthToken;
use super::error::{Error, ErrorKind};
use super::scan::{self, Field, Fields, Kind, Redacted, Scan};

/// A message, borrowed from wherever its JSON is kept and decoded on demand.
///
/// ```
/// use udsmsg::proto::message::Message;
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
    /// The message that `json` is. It needs no token; if it holds one, `json()` and `meta()` show it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`] if `json` is not one JSON object within the bounds of [`scan::scan`], if
    /// `type` is not a string, or `from` or `ts` is neither a string nor null.
    pub fn from_json(json: &'a str) -> Result<Self, Error> {
        let scan = scan::scan(json)?;
        if !scan.is_object() {
            return Err(Error::new(ErrorKind::InvalidMessage, "a message must be a JSON object"));
        }
        if !has_valid_types(&scan.fields()) {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "`type` must be a string, `from` and `ts` strings or null",
            ));
        }
        let whole = scan.whole(json);
        Ok(Self::from_parts(whole.head, whole.fields))
    }

    /// The message whose JSON has been judged before, with the places of its values in it.
    pub(crate) fn from_parts(json: &'a str, fields: Fields) -> Self {
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
    /// [`ErrorKind::InvalidMessage`] with serde_json's reason, which may quote the message but never its
    /// token.
    pub fn parse<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_json::from_str(self.json).map_err(|reason| {
            let error = Error::new(ErrorKind::InvalidMessage, "the message cannot be read as asked for");
            match scan::scan(self.json) {
                Ok(scan) if scan.auth_token().is_none() => error.with_source(reason),
                _ => error,
            }
        })
    }

    fn text(&self, field: Option<Field>) -> Option<Cow<'a, str>> {
        field?.text(self.json)
    }
}

/// Shows the start of the `type`, and how long the whole is: payloads and tokens do not belong in logs.
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
    /// [`ErrorKind::InvalidMessage`] with serde_json's reason, which may quote the payload.
    pub fn parse<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_json::from_str(self.json()).map_err(|reason| {
            Error::new(ErrorKind::InvalidMessage, "the payload cannot be read as asked for")
                .with_source(reason)
        })
    }
}

/// Shows what sort of JSON it is and its length.
impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({:?}, {} bytes)", self.kind(), self.json().len())
    }
}

/// What a server makes of one line that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict<'a> {
    /// Not UTF-8, or not JSON as [`scan::scan`] wants it. The token was not looked at.
    Unreadable,
    /// It does not carry the token.
    Unauthorized,
    /// It carries the token, but `type` is no string, or `from` or `ts` is neither a string nor null.
    Malformed,
    /// A `ping`, to be answered with [`Reply::Pong`]; it never enters the inbox.
    Ping,
    /// A message for the inbox, its token cut out.
    Deliver(Redacted<'a>),
}

impl Verdict<'_> {
    /// Whether the line proved that its sender holds the token.
    pub fn is_authenticated(&self) -> bool {
        !matches!(self, Self::Unreadable | Self::Unauthorized)
    }
}

/// Judges one line that is not blank, its newline taken off: JSON first, then the token, then the types.
///
/// Nothing is copied and no memory is taken, whatever the line holds.
pub fn judge<'a>(line: &'a [u8], auth_token: &AuthToken) -> Verdict<'a> {
    let Ok(line) = str::from_utf8(line) else { return Verdict::Unreadable };
    let Ok(scan) = scan::scan(line) else { return Verdict::Unreadable };
    if !carries(&scan, line, auth_token) {
        return Verdict::Unauthorized;
    }
    let fields = scan.fields();
    if !has_valid_types(&fields) {
        return Verdict::Malformed;
    }
    if fields.kind.is_some_and(|kind| kind.is(line, "ping")) {
        return Verdict::Ping;
    }
    Verdict::Deliver(scan.redact(line))
}

/// Whether `line` carries the token. A missing one is compared as well, and takes as long as a wrong one.
///
/// An escaped candidate is decoded first; one that is longer than any token is as good as none.
fn carries(scan: &Scan, line: &str, auth_token: &AuthToken) -> bool {
    let mut decoded = [0; 64];
    let candidate = scan.auth_token().and_then(|field| field.text_bytes(line, &mut decoded));
    auth_token.matches(candidate.unwrap_or_default())
}

/// The third rule of the protocol: what was sent under the keys that every reader relies on can be relied on.
fn has_valid_types(fields: &Fields) -> bool {
    let is_text = |field: Field| matches!(field.kind(), Kind::Text { .. });
    let is_text_or_null = |field: Field| is_text(field) || field.kind() == Kind::Null;
    fields.kind.is_some_and(is_text)
        && fields.from.is_none_or(is_text_or_null)
        && fields.ts.is_none_or(is_text_or_null)
}

/// What a server writes on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The message is in the inbox under the id `uds-<number>`.
    Response {
        /// The number in the id.
        number: u64,
    },
    /// The answer to a `ping`.
    Pong {
        /// The server's own socket path as a JSON string: [`quoted`] once, and kept.
        from_json: &'a str,
    },
    /// The last line before the connection is closed: [`wire_text`](super::error::CloseReason::wire_text).
    Error {
        /// What was wrong.
        text: &'a str,
    },
}

impl Reply<'_> {
    /// Appends the reply and its newline to `out`.
    ///
    /// `ts` is the time as [`Wall`](super::time::Wall) shows it, so that it is formatted once per turn at
    /// most; it is written as it is.
    pub fn encode(&self, ts: &str, out: &mut Vec<u8>) {
        debug_assert!(scan::skip_plain(ts.as_bytes()).is_empty(), "`ts` has to be escaped: {ts:?}");
        let mut put =
            |pieces: &[&str]| pieces.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
        match *self {
            Self::Response { number } => {
                let mut digits = [0; 20];
                let id = decimal(number, &mut digits);
                put(&[
                    r#"{"type":"response","data":"ok","ts":""#,
                    ts,
                    r#"","meta":{"id":"uds-"#,
                    id,
                    "\"}}\n",
                ]);
            }
            Self::Pong { from_json } => {
                put(&[r#"{"type":"pong","from":"#, from_json, r#","ts":""#, ts, "\"}\n"]);
            }
            Self::Error { text } => {
                put(&[r#"{"type":"error","data":"#, &quoted(text), r#","ts":""#, ts, "\"}\n"]);
            }
        }
    }
}

/// `number` in decimal, written to the end of `digits`.
fn decimal(number: u64, digits: &mut [u8; 20]) -> &str {
    let mut left = number;
    let mut first = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        first = at;
        if left == 0 {
            break;
        }
    }
    digits.get(first..).and_then(|written| str::from_utf8(written).ok()).unwrap_or_default()
}

/// `text` as a JSON string, quotes and all.
pub fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    let mut rest = text;
    loop {
        let plain_len = rest.len() - scan::skip_plain(rest.as_bytes()).len();
        let (plain, behind) = rest.split_at_checked(plain_len).unwrap_or((rest, ""));
        json.push_str(plain);
        let mut chars = behind.chars();
        match chars.next() {
            None => break,
            Some('"') => json.push_str("\\\""),
            Some('\\') => json.push_str("\\\\"),
            Some('\u{8}') => json.push_str("\\b"),
            Some('\u{c}') => json.push_str("\\f"),
            Some('\n') => json.push_str("\\n"),
            Some('\r') => json.push_str("\\r"),
            Some('\t') => json.push_str("\\t"),
            Some(control) => json.push_str(&format!("\\u{:04x}", u32::from(control))),
        }
        rest = chars.as_str();
    }
    json.push('"');
    json
}

/// A message to be sent. It holds no token: [`Outgoing::encode`] puts that in.
///
/// ```
/// use udsmsg::proto::message::Outgoing;
///
/// let message = Outgoing::new("text").with_text("hello").with_meta(&serde_json::json!({"queryId": "q1"}))?;
/// # let auth_token = udsmsg::AuthToken::from_bytes([0; 32]);
/// let line = message.encode(&auth_token, Some("/run/me.sock"), None, 65_536)?;
/// assert!(line.starts_with(br#"{"type":"text","data":"hello","from":"/run/me.sock","meta":{"qu"#));
/// # Ok::<(), udsmsg::Error>(())
/// ```
#[derive(Clone)]
pub struct Outgoing {
    // Each the JSON of its value, on one line.
    kind: String,
    data: Option<String>,
    from: Option<String>,
    ts: Option<String>,
    meta: Option<String>,
}

impl Outgoing {
    /// A message of type `kind` with nothing else in it. Any string is a type, the empty one too.
    pub fn new(kind: &str) -> Self {
        Self { kind: quoted(kind), data: None, from: None, ts: None, meta: None }
    }

    /// With `text` as payload.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Self {
        self.data = Some(quoted(text));
        self
    }

    /// With the JSON that `data` serializes to as payload; raw JSON is a [`serde_json::value::RawValue`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`] if `data` is not JSON as [`scan::scan`] wants it.
    pub fn with_data<T: Serialize + ?Sized>(mut self, data: &T) -> Result<Self, Error> {
        self.data = Some(to_line("data", data)?.0);
        Ok(self)
    }

    /// With `from` as the socket path to reply to, in place of the sender's own.
    #[must_use]
    pub fn with_from(mut self, from: &str) -> Self {
        self.from = Some(quoted(from));
        self
    }

    /// With `ts` as the time of sending, in place of the present.
    #[must_use]
    pub fn with_ts(mut self, ts: &str) -> Self {
        self.ts = Some(quoted(ts));
        self
    }

    /// With the object that `meta` serializes to as `meta`: a map, a struct, or raw JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`] if `meta` is not an object, or has an `authToken` of its own.
    pub fn with_meta<T: Serialize + ?Sized>(mut self, meta: &T) -> Result<Self, Error> {
        let (json, scan) = to_line("meta", meta)?;
        if !scan.is_object() {
            return Err(Error::new(ErrorKind::InvalidMessage, "`meta` must be a JSON object"));
        }
        // Alone it is known to be one object, so it stays inside the braces put around it.
        if scan::scan(&format!("{{\"meta\":{json}}}"))?.auth_token().is_some() {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "`meta` must not have an `authToken`: it is put in when the message is sent",
            ));
        }
        self.meta = Some(json);
        Ok(self)
    }

    /// Puts one more member into `meta`, which must not have it yet.
    pub(crate) fn add_meta<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), Error> {
        let (value, _) = to_line(key, value)?;
        let meta = self.meta.as_deref().unwrap_or("{}");
        let mut has_it = false;
        scan::for_each_member(meta, |name, _| has_it |= name == key.as_bytes());
        if has_it {
            let sentence = format!("`meta` must not have `{key}` already: it is put in for you");
            return Err(Error::new(ErrorKind::InvalidMessage, sentence));
        }
        let members = meta.strip_suffix('}').unwrap_or(meta);
        let comma = if members.trim_ascii_end() == "{" { "" } else { "," };
        self.meta = Some(format!("{members}{comma}{}:{value}}}", quoted(key)));
        Ok(())
    }

    /// Puts another token into a line that [`Outgoing::encode`] made: it stands in front of what every line ends with.
    pub(crate) fn set_auth_token(line: &mut [u8], auth_token: &AuthToken) {
        const END: &[u8] = b"\"}}\n";
        let digits = auth_token.expose().as_bytes();
        let end = line.len().saturating_sub(END.len());
        if let Some(place) = line.get_mut(end.saturating_sub(digits.len())..end)
            && place.len() == digits.len()
        {
            place.copy_from_slice(digits);
        }
    }

    /// The line to be sent, with its newline: `type`, `data`, `from`, `ts` and `meta`, in this order.
    ///
    /// `default_from` and `now` (as [`Wall`](super::time::Wall) shows it) are taken where the message has no
    /// `from` and `ts` of its own, if they are given. The token is the last member of `meta`, so that what
    /// the receiver's owner gets is `meta` to the byte, or none if there was nothing in it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MessageTooLarge`] if the line is longer than `frame_bytes_max`, its newline not counted;
    /// [`ErrorKind::InvalidMessage`] if it is nested too deep.
    pub fn encode(
        &self,
        auth_token: &AuthToken,
        default_from: Option<&str>,
        now: Option<&str>,
        frame_bytes_max: usize,
    ) -> Result<Vec<u8>, Error> {
        let from = self.from.as_deref().map(Cow::Borrowed).or_else(|| Some(quoted(default_from?).into()));
        let ts = self.ts.as_deref().map(Cow::Borrowed).or_else(|| Some(quoted(now?).into()));
        let mut line = String::from("{\"type\":");
        line.push_str(&self.kind);
        for (key, value) in [
            (",\"data\":", self.data.as_deref()),
            (",\"from\":", from.as_deref()),
            (",\"ts\":", ts.as_deref()),
        ] {
            if let Some(value) = value {
                line.push_str(key);
                line.push_str(value);
            }
        }
        line.push_str(",\"meta\":");
        let meta = self.meta.as_deref().unwrap_or("{}");
        let members = meta.strip_suffix('}').unwrap_or(meta);
        line.push_str(members);
        if members.trim_ascii_end() != "{" {
            line.push(',');
        }
        line.push_str("\"authToken\":\"");
        line.push_str(auth_token.expose());
        line.push_str("\"}}");
        if line.len() > frame_bytes_max {
            return Err(Error::new(
                ErrorKind::MessageTooLarge,
                format!(
                    "the message is {} bytes long and was not sent: the limit is {frame_bytes_max} bytes",
                    line.len()
                ),
            ));
        }
        // Two values that are fine alone may be too deep inside the message.
        scan::scan(&line)?;
        line.push('\n');
        Ok(line.into_bytes())
    }
}

/// Shows the `type` and how long the rest is.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind: String = self.kind.chars().take(34).collect();
        let len = |json: &Option<String>| json.as_ref().map_or(0, String::len);
        write!(f, "Outgoing({kind}, {} bytes of data, {} of meta)", len(&self.data), len(&self.meta))
    }
}

/// The JSON of `value` on one line, scanned. `name` is what it is called in an error.
fn to_line<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<(String, Scan), Error> {
    let json = serde_json::to_string(value).map_err(|reason| {
        Error::new(ErrorKind::InvalidMessage, format!("`{name}` cannot be written as JSON"))
            .with_source(reason)
    })?;
    // In valid JSON a raw newline is white space, and it would end the line.
    let json = json.trim_ascii().replace('\n', " ");
    let scan = scan::scan(&json)?;
    Ok((json, scan))
}

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
    /// The answer that `line` is, its newline taken off.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`] if it is not a JSON object in UTF-8 within the bounds of [`scan::scan`].
    pub fn from_line(line: &'a [u8]) -> Result<Self, Error> {
        let line = str::from_utf8(line).map_err(|reason| {
            Error::new(ErrorKind::InvalidMessage, "the answer is not UTF-8").with_source(reason)
        })?;
        let scan = scan::scan(line)?;
        if !scan.is_object() {
            return Err(Error::new(ErrorKind::InvalidMessage, "the answer is not a JSON object"));
        }
        let fields = scan.fields();
        let is = |kind: &str| fields.kind.is_some_and(|field| field.is(line, kind));
        Ok(if is("response") {
            Self::Accepted { id: fields.meta.and_then(|meta| scan::member_text(meta.raw(line), "id")) }
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
