//! One pass over one line: whether it is JSON, where the protocol's keys are, and what is cut with the token.
//!
//! No tree, no recursion, no allocation. serde_json has no mode that does this: `IgnoredAny` takes any depth,
//! `Value` refuses `1e400` and lone surrogates, and both keep the last of repeated keys.

use std::fmt;
use std::str;

use super::field::{Field, Fields, Kind, Span, once};
use super::string::{plain_len, unescape_into};
use super::{DEPTH_MAX, Fault, InvalidJson};

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

    /// Where in the line the values of the protocol's keys are.
    pub fn fields(&self) -> Fields {
        self.fields
    }

    /// Where in the line the value of `meta.authToken` is, of any kind.
    pub fn auth_token(&self) -> Option<Field> {
        self.auth_token
    }

    /// The JSON of `line`, the line that was scanned, without the white space around it and without its
    /// token.
    ///
    /// `meta.authToken` is removed with one comma: the one before it or else the one behind it and the white
    /// space that follows. A `meta` with no other member is removed in the same way. Every other byte stays
    /// as it was.
    pub fn redact<'a>(&self, line: &'a str) -> Redacted<'a> {
        let piece = |start: u32, end: u32| line.get(start as usize..end as usize).unwrap_or_default();
        let (head, tail) = if self.cut.start < self.cut.end {
            (piece(self.json.start, self.cut.start), piece(self.cut.end, self.json.end))
        } else {
            (piece(self.json.start, self.json.end), "")
        };
        Redacted { head, tail, fields: self.fields.moved(self.json.start, self.cut) }
    }

    /// The same with its token left in, for a text that its owner keeps.
    pub(crate) fn whole<'a>(mut self, line: &'a str) -> Redacted<'a> {
        self.cut = Span::default();
        self.redact(line)
    }
}

/// A message's JSON with the token cut out: at most two pieces of the line it came in, so that the inbox
/// copies each byte once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Redacted<'a> {
    /// The part before the cut.
    pub head: &'a str,
    /// The part behind the cut; empty if nothing was cut.
    pub tail: &'a str,
    /// Where the values are in `head` followed by `tail`.
    pub fields: Fields,
}

impl Redacted<'_> {
    /// Bytes of both pieces. The message counts for as many in the inbox.
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

/// Checks that `line` is one JSON value, and finds the values of the protocol's keys if it is an object.
///
/// Numbers and `\u` escapes are checked for their grammar only. Keys are compared as they decode:
/// `"\u0074ype"` is `type`. Linear in the length of the line. With UTF-8 checked before it, a typical
/// message of 330 bytes takes about 140 ns (bench `message`).
///
/// # Errors
///
/// [`InvalidJson`], which holds no memory: a hostile line costs no more than a good one.
pub fn scan(line: &str) -> Result<Scan, InvalidJson> {
    if u32::try_from(line.len()).is_err() {
        return Err(InvalidJson { at: 0, fault: Fault::TooLong });
    }
    let mut cursor = Cursor::new(line);
    cursor.document().map_err(|fault| InvalidJson { at: cursor.at, fault })
}

/// Calls `found` with each member of the object `json`, in order: its decoded key, and where in `json` its
/// value is. Keys longer than any key of the protocol may be left out. A value that is no object has no
/// members.
pub(crate) fn for_each_member(json: &str, mut found: impl FnMut(&[u8], Field)) {
    if u32::try_from(json.len()).is_err() {
        return;
    }
    let mut cursor = Cursor::new(json);
    cursor.blank();
    if cursor.take(b'{') {
        // This fails only for a text that was not scanned before.
        let _ = cursor.members(|cursor, key| {
            let value = cursor.field(1)?;
            if let Some(name) = key.name(&mut [0; _]) {
                found(name, value);
            }
            Ok(false)
        });
    }
}

/// The decoded string under `key` in the object `json`; `None` if it is missing, no string, or there twice.
/// `key` is no longer than `authToken`.
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

/// What is removed from an object with one of its members.
#[derive(Clone, Copy)]
enum Cut {
    Nothing,
    /// The member and a comma.
    Part(Span),
    /// The member, which was the only one.
    Everything(Span),
}

/// A string, as it is written between its quotes.
struct Quoted<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl Quoted<'_> {
    /// The decoded string of a key, if it is no longer than the longest key of the protocol.
    fn name<'b>(&'b self, buffer: &'b mut [u8; b"authToken".len()]) -> Option<&'b [u8]> {
        if self.escaped {
            unescape_into(str::from_utf8(self.raw).unwrap_or_default(), buffer)
        } else {
            Some(self.raw)
        }
    }
}

/// A line, and how far it has been read. After a fault that is where the fault was found.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(line: &'a str) -> Self {
        Self { line: line.as_bytes(), at: 0 }
    }

    /// How far the line has been read, as a place in it.
    #[expect(clippy::cast_possible_truncation, reason = "longer lines are refused before")]
    fn place(&self) -> u32 {
        self.at as u32
    }

    /// The next byte.
    #[inline(always)]
    fn next(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    /// What has not been read.
    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        self.line.get(self.at..).unwrap_or_default()
    }

    /// Has `read` go on, which is no inlined code: it is given a copy, so that this cursor can be kept in
    /// registers.
    #[inline(always)]
    fn call<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let mut copy = *self;
        let result = read(&mut copy);
        *self = copy;
        result
    }

    /// Passes over white space.
    #[inline(always)]
    fn blank(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.next() {
            self.at += 1;
        }
    }

    /// Passes over `byte` if it is next.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> bool {
        if self.next() == Some(byte) {
            self.at += 1;
            true
        } else {
            false
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.take(byte) { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// The whole line: one value and nothing else.
    fn document(&mut self) -> Result<Scan, Fault> {
        self.blank();
        let start = self.place();
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
        let json = Span { start, end: self.place() };
        self.blank();
        if self.at < self.line.len() {
            return Err(Fault::Syntax);
        }
        Ok(Scan { json, is_object, fields: found.fields, auth_token: found.auth_token, cut: found.cut })
    }

    /// Reads the value of a key of the outermost object; says whether that member is to be cut out.
    #[inline(always)]
    fn top_member(&mut self, key: &Quoted<'_>, found: &mut Found) -> Result<bool, Fault> {
        let mut buffer = [0; _];
        let name = key.name(&mut buffer).unwrap_or_default();
        if name == b"meta" {
            return self.meta(found);
        }
        let value = self.field(1)?;
        found.fields.put(name, value)?;
        Ok(false)
    }

    /// Reads the value of `meta`; says whether the token was its only member.
    fn meta(&mut self, found: &mut Found) -> Result<bool, Fault> {
        let start = self.place();
        if !self.take(b'{') {
            let value = self.field(1)?;
            found.fields.put(b"meta", value)?;
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
        let span = Span { start, end: self.place() };
        found.fields.put(b"meta", Field { span, kind: Kind::Object })?;
        Ok(matches!(cut, Cut::Everything(_)))
    }

    /// Reads the members of an object whose `{` has been read, up to and with its `}`.
    ///
    /// `read` is called at each value, reads it, and says whether that member is to be cut out. At most one
    /// is.
    #[inline(always)]
    fn members(
        &mut self,
        mut read: impl FnMut(&mut Self, Quoted<'a>) -> Result<bool, Fault>,
    ) -> Result<Cut, Fault> {
        self.blank();
        if self.take(b'}') {
            return Ok(Cut::Nothing);
        }
        let mut cut = Cut::Nothing;
        let mut comma_before = None;
        loop {
            let start = self.place();
            let key = self.key()?;
            let is_cut = read(self, key)?;
            let end = self.place();
            self.blank();
            let comma = self.place();
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
                    None => Cut::Part(Span { start, end: self.place() }),
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
    fn key(&mut self) -> Result<Quoted<'a>, Fault> {
        self.expect(b'"')?;
        let key = self.string()?;
        self.blank();
        self.expect(b':')?;
        self.blank();
        Ok(key)
    }

    /// Reads a value inside `depth` open arrays and objects, and says where it is.
    #[inline(always)]
    fn field(&mut self, depth: u32) -> Result<Field, Fault> {
        let start = self.place();
        let kind = self.value(depth)?;
        Ok(Field { span: Span { start, end: self.place() }, kind })
    }

    /// Reads a value inside `depth` open arrays and objects.
    #[inline(always)]
    fn value(&mut self, depth: u32) -> Result<Kind, Fault> {
        match self.next() {
            Some(b'"') => {
                self.at += 1;
                Ok(Kind::Text { escaped: self.string()?.escaped })
            }
            Some(b'{') => self.call(|cursor| cursor.nested(depth)).map(|()| Kind::Object),
            Some(b'[') => self.call(|cursor| cursor.nested(depth)).map(|()| Kind::Array),
            _ => self.call(Self::plain),
        }
    }

    /// Reads an array or object inside `outside` open ones.
    ///
    /// Each array and object that is open inside it is one bit, 1 for an object, the innermost lowest.
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
            // A value has ended, and perhaps the arrays and objects that it was in.
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
            if self.rest().starts_with(word) {
                self.at += word.len();
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
        let before = self.at;
        while let Some(b'0'..=b'9') = self.next() {
            self.at += 1;
        }
        if self.at > before { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Reads a string whose opening quote has been read, up to and with the closing one.
    #[inline(always)]
    fn string(&mut self) -> Result<Quoted<'a>, Fault> {
        let (start, rest) = (self.at, self.rest());
        let len = plain_len(rest);
        self.at += len;
        if self.take(b'"') {
            return Ok(Quoted { raw: rest.get(..len).unwrap_or_default(), escaped: false });
        }
        self.call(Self::escaped_string)?;
        let raw = self.line.get(start..self.at - 1).unwrap_or_default();
        Ok(Quoted { raw, escaped: true })
    }

    /// Reads the rest of a string from its first escape on.
    fn escaped_string(&mut self) -> Result<(), Fault> {
        loop {
            self.expect(b'\\')?;
            self.escape()?;
            self.at += plain_len(self.rest());
            if self.take(b'"') {
                return Ok(());
            }
        }
    }

    /// Reads what follows a `\`.
    #[inline(always)]
    fn escape(&mut self) -> Result<(), Fault> {
        let len = match self.next() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
            Some(b'u') => match self.rest().get(1..5) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => 5,
                _ => return Err(Fault::Syntax),
            },
            _ => return Err(Fault::Syntax),
        };
        self.at += len;
        Ok(())
    }
}

/// What has been found in the outermost object so far.
#[derive(Default)]
struct Found {
    fields: Fields,
    auth_token: Option<Field>,
    cut: Span,
}
