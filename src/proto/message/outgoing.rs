//! A message to be sent, and the line that it becomes.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::json::{self, Scan};

/// A message to be sent. It holds no token: [`Outgoing::encode`] puts that in.
///
/// ```
/// use udsmsg::Outgoing;
///
/// let message = Outgoing::new("text").with_text("hello").with_meta(&serde_json::json!({"queryId": "q1"}))?;
/// # let auth_token = udsmsg::parts::AuthToken::from_bytes([0; 32]);
/// let line = message.encode(&auth_token, Some("/run/me.sock"), None, 65_536)?;
/// assert!(line.starts_with(br#"{"type":"text","data":"hello","from":"/run/me.sock","meta":{"qu"#));
/// # Ok::<(), udsmsg::Error>(())
/// ```
#[derive(Clone)]
pub struct Outgoing {
    // Each field holds the JSON of its value, on one line.
    kind: String,
    data: Option<String>,
    from: Option<String>,
    ts: Option<String>,
    meta: Option<String>,
}

impl Outgoing {
    /// A message of type `kind` and nothing else. Any string is a type, the empty one too.
    pub fn new(kind: &str) -> Self {
        Self { kind: json::quote(kind), data: None, from: None, ts: None, meta: None }
    }

    /// With `text` as payload.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Self {
        self.data = Some(json::quote(text));
        self
    }

    /// With the JSON that `data` serializes to as payload; raw JSON is a [`serde_json::value::RawValue`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidMessage`] if `data` is not JSON as [`json::scan`] wants it.
    pub fn with_data<T: Serialize + ?Sized>(mut self, data: &T) -> Result<Self, Error> {
        self.data = Some(to_line("data", data)?.0);
        Ok(self)
    }

    /// With `from` as the socket path to reply to, in place of the sender's own.
    #[must_use]
    pub fn with_from(mut self, from: &str) -> Self {
        self.from = Some(json::quote(from));
        self
    }

    /// With `ts` as the time of sending, in place of the present.
    #[must_use]
    pub fn with_ts(mut self, ts: &str) -> Self {
        self.ts = Some(json::quote(ts));
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
            return Err(Error::invalid_message("`meta` must be a JSON object"));
        }
        // It is known to be one object, so it cannot close the braces put around it.
        if json::scan(&format!("{{\"meta\":{json}}}"))?.auth_token().is_some() {
            return Err(Error::invalid_message(
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
        json::for_each_member(meta, |name, _| has_it |= name == key.as_bytes());
        if has_it {
            return Err(Error::invalid_message(format!(
                "`meta` must not have `{key}` already: it is put in for you"
            )));
        }
        let (members, comma) = opened(meta);
        self.meta = Some(format!("{members}{comma}{}:{value}}}", json::quote(key)));
        Ok(())
    }

    /// Puts another token into a line that [`Outgoing::encode`] made. Every line ends with the token and
    /// `END`.
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
    /// `default_from` and `now` (as [`Wall`](crate::proto::time::Wall) shows it), if given, are used where
    /// the message has no `from` and `ts` of its own. The token is the last member of `meta`, so that the
    /// receiver's owner gets `meta` byte for byte, or no `meta` if it was empty.
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
        let from =
            self.from.as_deref().map(Cow::Borrowed).or_else(|| Some(json::quote(default_from?).into()));
        let ts = self.ts.as_deref().map(Cow::Borrowed).or_else(|| Some(json::quote(now?).into()));
        let (meta, comma) = opened(self.meta.as_deref().unwrap_or("{}"));
        let line = [
            ["{\"type\":", &self.kind],
            member(",\"data\":", self.data.as_deref()),
            member(",\"from\":", from.as_deref()),
            member(",\"ts\":", ts.as_deref()),
            [",\"meta\":", meta],
            [comma, "\"authToken\":\""],
            [auth_token.expose(), "\"}}\n"],
        ]
        .as_flattened()
        .concat();
        let len = line.len() - 1;
        if len > frame_bytes_max {
            let sentence = format!(
                "the message is {len} bytes long and was not sent: the limit is {frame_bytes_max} bytes"
            );
            return Err(Error::new(ErrorKind::MessageTooLarge, sentence));
        }
        // Values that are valid alone may be nested too deep inside the message.
        json::scan(&line)?;
        Ok(line.into_bytes())
    }
}

/// Shows the `type` and the lengths of the rest.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind: String = self.kind.chars().take(34).collect();
        let len = |json: &Option<String>| json.as_ref().map_or(0, String::len);
        write!(f, "Outgoing({kind}, {} bytes of data, {} of meta)", len(&self.data), len(&self.meta))
    }
}

/// A member as two pieces of a line; two empty ones if it has no value.
fn member<'a>(key: &'a str, value: Option<&'a str>) -> [&'a str; 2] {
    value.map_or([""; 2], |value| [key, value])
}

/// The JSON object `meta` without its `}`, and the comma that another member needs before it.
fn opened(meta: &str) -> (&str, &'static str) {
    let members = meta.strip_suffix('}').unwrap_or(meta);
    (members, if members.trim_ascii_end() == "{" { "" } else { "," })
}

/// The JSON of `value` on one line, scanned. `name` is what it is called in an error.
fn to_line<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<(String, Scan), Error> {
    let json = serde_json::to_string(value).map_err(|reason| {
        Error::invalid_message(format!("`{name}` cannot be written as JSON")).with_source(reason)
    })?;
    // In valid JSON a raw newline is white space, and it would end the line.
    let json = json.trim_ascii().replace('\n', " ");
    let scan = json::scan(&json)?;
    Ok((json, scan))
}
