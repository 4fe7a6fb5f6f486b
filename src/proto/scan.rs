//! One pass over one line: is it JSON, where do the keys of the protocol lie, and what is cut with the token.
//!
//! No tree, no recursion, no allocation. serde_json has no mode that does this: `IgnoredAny` takes any depth,
//! `Value` refuses `1e400` and lone surrogates, and both keep the last of repeated keys.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str;

use super::error::{Error, ErrorKind};

/// Open `[` and `{` that a line may have at once, the outermost included.
pub const DEPTH_MAX: u32 = 127;

/// The value of one key: where its JSON lies and what it is. Eight bytes of place, and nothing copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    start: u32,
    end: u32,
    kind: Kind,
}

impl Field {
    /// The bytes of the value in the text it was found in, the quotes of a string included.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// What sort of JSON it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The value as it is written in `json`, the text it was found in; empty in a text that is too short.
    pub fn raw<'a>(&self, json: &'a str) -> &'a str {
        json.get(self.range()).unwrap_or_default()
    }

    /// The decoded string; `None` if the value is no string.
    ///
    /// Borrowed unless there are escapes to decode. A lone surrogate becomes U+FFFD.
    pub fn text<'a>(&self, json: &'a str) -> Option<Cow<'a, str>> {
        let contents = self.contents(json)?;
        Some(if self.is_escaped() { Cow::Owned(unescape(contents)) } else { Cow::Borrowed(contents) })
    }

    /// The decoded bytes of the string, put into `buffer` if they have to be decoded.
    ///
    /// `None` if the value is no string, or is escaped and longer than `buffer`.
    pub(crate) fn text_bytes<'b>(&self, json: &'b str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let contents = self.contents(json)?;
        if self.is_escaped() { unescape_into(contents, buffer) } else { Some(contents.as_bytes()) }
    }

    /// Whether the value is the string `text`.
    pub(crate) fn is(&self, json: &str, text: &str) -> bool {
        match self.contents(json) {
            Some(contents) if self.is_escaped() => Unescaped { rest: contents }.eq(text.chars()),
            Some(contents) => contents == text,
            None => false,
        }
    }

    /// What stands between the quotes.
    fn contents<'a>(&self, json: &'a str) -> Option<&'a str> {
        match self.kind {
            Kind::Text { .. } => self.raw(json).strip_prefix('"')?.strip_suffix('"'),
            _ => None,
        }
    }

    fn is_escaped(&self) -> bool {
        self.kind == Kind::Text { escaped: true }
    }

    /// The same value in the text that is left when `cut` and all that stands before `origin` are gone.
    fn moved(self, origin: u32, cut: Span) -> Self {
        let moved = |at: u32| {
            let gone = if at >= cut.end { cut.end - cut.start } else { 0 };
            at.saturating_sub(origin).saturating_sub(gone)
        };
        Self { start: moved(self.start), end: moved(self.end), kind: self.kind }
    }
}

/// What sort of JSON a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number, checked for its grammar only.
    Number,
    /// A string.
    Text {
        /// Whether it has to be decoded: there is a `\` in it.
        escaped: bool,
    },
    /// `[…]`.
    Array,
    /// `{…}`.
    Object,
}

/// Where the five keys of the protocol have their values. 60 bytes; kept with each message in the inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub(crate) kind: Option<Field>,
    pub(crate) data: Option<Field>,
    pub(crate) from: Option<Field>,
    pub(crate) ts: Option<Field>,
    pub(crate) meta: Option<Field>,
}

const _: () = assert!(size_of::<Fields>() == 60);

impl Fields {
    /// The value of `type`.
    pub fn kind(&self) -> Option<Field> {
        self.kind
    }

    /// The value of `data`.
    pub fn data(&self) -> Option<Field> {
        self.data
    }

    /// The value of `from`.
    pub fn from(&self) -> Option<Field> {
        self.from
    }

    /// The value of `ts`.
    pub fn ts(&self) -> Option<Field> {
        self.ts
    }

    /// The value of `meta`.
    pub fn meta(&self) -> Option<Field> {
        self.meta
    }
}

/// What one pass over a line found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    json: Span,
    is_object: bool,
    fields: Fields,
    auth_token: Option<Field>,
    cut: Span,
}

impl Scan {
    /// Whether the line is an object. If not, it has no fields.
    pub fn is_object(&self) -> bool {
        self.is_object
    }

    /// Where the values of the protocol's keys lie in the line.
    pub fn fields(&self) -> Fields {
        self.fields
    }

    /// Where the value of `meta.authToken` lies in the line, whatever its kind.
    pub fn auth_token(&self) -> Option<Field> {
        self.auth_token
    }

    /// The JSON of `line`, the line that was scanned, without the white space around it and without its
    /// token.
    ///
    /// `meta.authToken` goes with one comma: the one before it or else the one behind it and the white space
    /// that follows. A `meta` with no other member goes in the same way. Every other byte stays as it was.
    pub fn redact<'a>(&self, line: &'a str) -> Redacted<'a> {
        let piece = |start: u32, end: u32| line.get(start as usize..end as usize).unwrap_or_default();
        let (head, tail) = if self.cut.start < self.cut.end {
            (piece(self.json.start, self.cut.start), piece(self.cut.end, self.json.end))
        } else {
            (piece(self.json.start, self.json.end), "")
        };
        let moved = |field: Field| field.moved(self.json.start, self.cut);
        let fields = Fields {
            kind: self.fields.kind.map(moved),
            data: self.fields.data.map(moved),
            from: self.fields.from.map(moved),
            ts: self.fields.ts.map(moved),
            meta: self.fields.meta.filter(|meta| !self.cut.covers(meta)).map(moved),
        };
        Redacted { head, tail, fields }
    }

    /// The same with its token left in, for a text that its owner keeps.
    pub(crate) fn whole<'a>(mut self, line: &'a str) -> Redacted<'a> {
        self.cut = Span::default();
        self.redact(line)
    }
}

/// A message's JSON with the token cut out: at most two pieces of the line it came in, so that whoever keeps
/// it copies each byte once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Redacted<'a> {
    /// What stands before the cut.
    pub head: &'a str,
    /// What stands behind the cut; empty if nothing was cut.
    pub tail: &'a str,
    /// Where the values lie in `head` followed by `tail`.
    pub fields: Fields,
}

impl Redacted<'_> {
    /// Bytes of both pieces: what the message counts for in the inbox.
    #[expect(clippy::len_without_is_empty, reason = "JSON is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// Shows sizes only: payloads do not belong in logs.
impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redacted({} + {} bytes)", self.head.len(), self.tail.len())
    }
}

/// Why a line is refused, without a word of what it says.
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
        Self::new(ErrorKind::InvalidMessage, refusal.to_string())
    }
}

/// Checks that `line` is one JSON value, and finds the values of the protocol's keys if it is an object.
///
/// Numbers and `\u` escapes are checked for their grammar only. Keys are compared as they decode:
/// `"\u0074ype"` is `type`. Linear in the length of the line. With `from_utf8` before it, a typical message
/// of 330 bytes takes about 140 ns (bench `message`).
///
/// # Errors
///
/// [`InvalidJson`], which holds no memory: a hostile line costs no more than a good one.
pub fn scan(line: &str) -> Result<Scan, InvalidJson> {
    if u32::try_from(line.len()).is_err() {
        return Err(InvalidJson { at: 0, fault: Fault::TooLong });
    }
    let mut cursor = Cursor { rest: line.as_bytes(), len: line.len() };
    cursor.document().map_err(|fault| InvalidJson { at: cursor.len - cursor.rest.len(), fault })
}

/// Calls `found` with each member of the object that `json` is, in order: its key as it decodes, and its value, whose
/// place is one in `json`. Keys longer than any that the protocol knows may be left out. What is no object has no members.
pub(crate) fn for_each_member(json: &str, mut found: impl FnMut(&[u8], Field)) {
    if u32::try_from(json.len()).is_err() {
        return;
    }
    let mut cursor = Cursor { rest: json.as_bytes(), len: json.len() };
    cursor.blank();
    if cursor.take(b'{') {
        // Where it is no JSON it ends early; it was scanned before.
        let _ = cursor.members(|cursor, key| {
            let value = cursor.field(1)?;
            if let Some(name) = key.name(&mut [0; _]) {
                found(name, value);
            }
            Ok(false)
        });
    }
}

/// The value of the member `key` of the object that `json` is, decoded; `None` if it is missing, no string, or there
/// twice. `key` is no longer than `authToken`.
pub(crate) fn member_text(json: &str, key: &str) -> Option<String> {
    let (mut value, mut count) = (None, 0);
    for_each_member(json, |name, found| {
        if name == key.as_bytes() {
            value = Some(found);
            count += 1;
        }
    });
    value.filter(|_| count == 1)?.text(json).map(Into::into)
}

/// Bytes of a line. Lines over 4 GiB are refused first, so 32 bits hold every place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn covers(self, field: &Field) -> bool {
        self.start <= field.start && field.end <= self.end
    }
}

/// What goes from an object when one of its members does.
#[derive(Clone, Copy)]
enum Cut {
    Nothing,
    /// The member and a comma.
    Part(Span),
    /// The member, which was the only one.
    Everything(Span),
}

/// A key between its quotes.
struct Key<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl Key<'_> {
    /// The key as it decodes, if that is no longer than the longest key anyone asks for.
    fn name<'b>(&'b self, buffer: &'b mut [u8; b"authToken".len()]) -> Option<&'b [u8]> {
        if self.escaped {
            unescape_into(str::from_utf8(self.raw).unwrap_or_default(), buffer)
        } else {
            Some(self.raw)
        }
    }
}

/// What is still to be read of a line of `len` bytes. After a fault it stands where that was found.
struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    fn at(&self) -> u32 {
        u32::try_from(self.len - self.rest.len()).unwrap_or(u32::MAX)
    }

    /// Passes over white space.
    #[inline(always)]
    fn blank(&mut self) {
        while let Some((b' ' | b'\t' | b'\n' | b'\r', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    /// Passes over `byte` if it is next.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((&next, rest)) if next == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.take(byte) { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// The whole line: one value and nothing else.
    fn document(&mut self) -> Result<Scan, Fault> {
        self.blank();
        let start = self.at();
        let mut found = Found::default();
        let is_object = self.take(b'{');
        if is_object {
            match self.members(|cursor, key| cursor.top_member(&key, &mut found))? {
                Cut::Nothing => {}
                Cut::Part(meta) | Cut::Everything(meta) => found.cut = meta,
            }
        } else {
            self.value(0)?;
        }
        let json = Span { start, end: self.at() };
        self.blank();
        if !self.rest.is_empty() {
            return Err(Fault::Syntax);
        }
        Ok(Scan { json, is_object, fields: found.fields, auth_token: found.auth_token, cut: found.cut })
    }

    /// Reads the value of a key of the outermost object; says whether that member is to be cut out.
    #[inline(always)]
    fn top_member(&mut self, key: &Key<'_>, found: &mut Found) -> Result<bool, Fault> {
        let mut buffer = [0; _];
        let slot = match key.name(&mut buffer) {
            Some(b"type") => &mut found.fields.kind,
            Some(b"data") => &mut found.fields.data,
            Some(b"from") => &mut found.fields.from,
            Some(b"ts") => &mut found.fields.ts,
            Some(b"meta") => return self.meta(found),
            _ => {
                self.value(1)?;
                return Ok(false);
            }
        };
        let value = self.field(1)?;
        once(slot, value)?;
        Ok(false)
    }

    /// Reads the value of `meta`; says whether the token was all there is in it.
    fn meta(&mut self, found: &mut Found) -> Result<bool, Fault> {
        let start = self.at();
        if !self.take(b'{') {
            let value = self.field(1)?;
            once(&mut found.fields.meta, value)?;
            return Ok(false);
        }
        let cut = self.members(|cursor, key| {
            let value = cursor.field(2)?;
            let is_auth_token = key.name(&mut [0; _]) == Some(b"authToken");
            if is_auth_token {
                once(&mut found.auth_token, value)?;
            }
            Ok(is_auth_token)
        })?;
        if let Cut::Part(span) = cut {
            found.cut = span;
        }
        once(&mut found.fields.meta, Field { start, end: self.at(), kind: Kind::Object })?;
        Ok(matches!(cut, Cut::Everything(_)))
    }

    /// Reads the members of an object whose `{` has been read, up to and with its `}`.
    ///
    /// `read` is called at each value, reads it, and says whether that member is to be cut out. At most
    /// one is.
    #[inline(always)]
    fn members(
        &mut self,
        mut read: impl FnMut(&mut Self, Key<'a>) -> Result<bool, Fault>,
    ) -> Result<Cut, Fault> {
        self.blank();
        if self.take(b'}') {
            return Ok(Cut::Nothing);
        }
        let mut cut = Cut::Nothing;
        let mut comma_before = None;
        loop {
            let start = self.at();
            let key = self.key()?;
            let is_cut = read(self, key)?;
            let end = self.at();
            self.blank();
            let comma = self.at();
            let is_last = !self.take(b',');
            if is_last {
                self.expect(b'}')?;
            } else {
                self.blank();
            }
            if is_cut {
                cut = match comma_before {
                    Some(comma_before) => Cut::Part(Span { start: comma_before, end }),
                    None if is_last => Cut::Everything(Span { start, end }),
                    None => Cut::Part(Span { start, end: self.at() }),
                };
            }
            if is_last {
                return Ok(cut);
            }
            comma_before = Some(comma);
        }
    }

    /// Reads a key, its colon and the white space around that.
    #[inline(always)]
    fn key(&mut self) -> Result<Key<'a>, Fault> {
        self.expect(b'"')?;
        let from_key = self.rest;
        let escaped = self.string()?;
        let quoted_len = from_key.len() - self.rest.len();
        let raw = from_key.get(..quoted_len.saturating_sub(1)).unwrap_or_default();
        self.blank();
        self.expect(b':')?;
        self.blank();
        Ok(Key { raw, escaped })
    }

    /// Reads a value in `depth` open arrays and objects, and says where it was.
    #[inline(always)]
    fn field(&mut self, depth: u32) -> Result<Field, Fault> {
        let start = self.at();
        let kind = self.value(depth)?;
        Ok(Field { start, end: self.at(), kind })
    }

    /// Reads a value in `depth` open arrays and objects, whatever is in it.
    fn value(&mut self, depth: u32) -> Result<Kind, Fault> {
        match self.rest.split_first() {
            Some((b'"', rest)) => {
                self.rest = rest;
                Ok(Kind::Text { escaped: self.string()? })
            }
            Some((b'{', _)) => {
                self.nested(depth)?;
                Ok(Kind::Object)
            }
            Some((b'[', _)) => {
                self.nested(depth)?;
                Ok(Kind::Array)
            }
            _ => self.plain(),
        }
    }

    /// Reads an array or object in `outside` open ones.
    ///
    /// What is open inside it is one bit each, 1 for an object, the innermost lowest.
    fn nested(&mut self, outside: u32) -> Result<(), Fault> {
        const { assert!(DEPTH_MAX <= u128::BITS) };
        let mut depth = outside;
        let mut open: u128 = 0;
        loop {
            // A value is next.
            let is_object = self.take(b'{');
            if is_object || self.take(b'[') {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Fault::TooDeep);
                }
                open = open << 1 | u128::from(is_object);
                self.blank();
                if !self.take(if is_object { b'}' } else { b']' }) {
                    if is_object {
                        self.key()?;
                    }
                    continue;
                }
                depth -= 1;
                open >>= 1;
            } else if self.take(b'"') {
                self.string()?;
            } else {
                self.plain()?;
            }
            // A value has ended, and perhaps what it was in.
            loop {
                if depth == outside {
                    return Ok(());
                }
                let is_object = open & 1 == 1;
                self.blank();
                if self.take(b',') {
                    self.blank();
                    if is_object {
                        self.key()?;
                    }
                    break;
                }
                self.expect(if is_object { b'}' } else { b']' })?;
                depth -= 1;
                open >>= 1;
            }
        }
    }

    /// Reads a number, `true`, `false` or `null`.
    fn plain(&mut self) -> Result<Kind, Fault> {
        for (word, kind) in
            [(&b"true"[..], Kind::Bool), (&b"false"[..], Kind::Bool), (&b"null"[..], Kind::Null)]
        {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(kind);
            }
        }
        self.number()?;
        Ok(Kind::Number)
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// Reads digits, at least one.
    fn digits(&mut self) -> Result<(), Fault> {
        let before = self.rest.len();
        while let Some((b'0'..=b'9', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
        if self.rest.len() < before { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Reads a string whose opening quote has been read, up to and with the closing one; says whether there
    /// are escapes in it.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, Fault> {
        let mut escaped = false;
        loop {
            self.rest = skip_plain(self.rest);
            match self.rest.split_first() {
                Some((b'"', rest)) => {
                    self.rest = rest;
                    return Ok(escaped);
                }
                Some((b'\\', rest)) => {
                    self.rest = rest;
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(Fault::Syntax),
            }
        }
    }

    /// Reads what follows a `\`.
    fn escape(&mut self) -> Result<(), Fault> {
        match self.rest.split_first() {
            Some((b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', rest)) => {
                self.rest = rest;
                Ok(())
            }
            Some((b'u', rest)) => match rest.split_at_checked(4) {
                Some((digits, rest)) if digits.iter().all(u8::is_ascii_hexdigit) => {
                    self.rest = rest;
                    Ok(())
                }
                _ => Err(Fault::Syntax),
            },
            _ => Err(Fault::Syntax),
        }
    }
}

/// What has been found in the outermost object so far.
#[derive(Default)]
struct Found {
    fields: Fields,
    auth_token: Option<Field>,
    cut: Span,
}

/// Puts `value` into `slot`, which must not have been filled.
#[inline(always)]
fn once(slot: &mut Option<Field>, value: Field) -> Result<(), Fault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::Repeated),
    }
}

/// What is left of `bytes` from the first on that a JSON string cannot hold as it is: `"`, `\` or a control
/// character.
#[inline(always)]
pub(crate) fn skip_plain(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    let mut is_long = false;
    while let Some((word, behind)) = rest.split_first_chunk() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return rest.get((special.trailing_zeros() / 8) as usize..).unwrap_or_default();
        }
        rest = behind;
        if !is_long {
            is_long = true;
            // Branch-free in each block, so that it becomes vector instructions.
            while let Some((block, behind)) = rest.split_first_chunk::<32>() {
                if block.iter().fold(false, |found, byte| found | ((byte ^ 2) < 0x21) | (*byte == b'\\')) {
                    break;
                }
                rest = behind;
            }
        }
    }
    while let Some((byte, behind)) = rest.split_first() {
        if matches!(byte, b'"' | b'\\' | ..b' ') {
            break;
        }
        rest = behind;
    }
    rest
}

/// The bytes of `word` that are `"`, `\` or below 0x20: the top bit of the lowest such byte is set, no bit
/// below it.
///
/// Flipping bit 1 makes `"` change places with the space, right behind the control characters, which stay
/// among themselves. Subtracting `n` sets the top bit of a byte below `n`, unless it was set before; a borrow
/// can spoil only bytes above one that was found.
#[inline(always)]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES << 7;
    let control_or_quote = (word ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
    (control_or_quote | backslash) & !word & TOPS
}

/// The characters of a JSON string whose contents are `rest`. A lone surrogate is U+FFFD.
struct Unescaped<'a> {
    rest: &'a str,
}

impl Unescaped<'_> {
    /// The character for the escape whose `\` has been taken.
    fn escape(&mut self) -> char {
        let mut chars = self.rest.chars();
        let letter = chars.next();
        self.rest = chars.as_str();
        match letter {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => self.code_point(),
            Some(itself) => itself,
            None => char::REPLACEMENT_CHARACTER,
        }
    }

    /// The character for an escape whose `\u` has been taken, and for the one behind it if they are a pair.
    fn code_point(&mut self) -> char {
        let unit = self.unit();
        if (0xd800..0xdc00).contains(&unit)
            && let Some(behind) = self.rest.strip_prefix("\\u")
        {
            let mut ahead = Unescaped { rest: behind };
            let low = ahead.unit();
            if (0xdc00..0xe000).contains(&low) {
                self.rest = ahead.rest;
                let point = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
        }
        char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// Four hex digits; the surrogate U+DFFF, which no pair begins with, in a text that was not scanned.
    fn unit(&mut self) -> u32 {
        let Some((digits, rest)) = self.rest.split_at_checked(4) else { return 0xdfff };
        self.rest = rest;
        u32::from_str_radix(digits, 16).unwrap_or(0xdfff)
    }
}

impl Iterator for Unescaped<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        Some(if next == '\\' { self.escape() } else { next })
    }
}

/// The contents of a JSON string, decoded.
fn unescape(contents: &str) -> String {
    let mut decoded = String::with_capacity(contents.len());
    let mut rest = Unescaped { rest: contents };
    while let Some((plain, behind)) = rest.rest.split_once('\\') {
        decoded.push_str(plain);
        rest.rest = behind;
        decoded.push(rest.escape());
    }
    decoded.push_str(rest.rest);
    decoded
}

/// The contents of a JSON string, decoded into `buffer`; `None` if they do not fit.
fn unescape_into<'b>(contents: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let mut len = 0;
    for char in (Unescaped { rest: contents }) {
        let space = buffer.get_mut(len..len + char.len_utf8())?;
        len += char.encode_utf8(space).len();
    }
    buffer.get(..len)
}
