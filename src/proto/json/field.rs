//! Values in a line: where each lies, what sort of JSON it is, and how a string decodes.

use std::borrow::Cow;
use std::ops::Range;

use super::Fault;
use super::string::{unescape, unescape_into, unescapes_to};

/// Bytes of a line. Lines over 4 GiB are refused first, so 32 bits hold every place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// The same bytes in the text that is left when `cut` and everything before `origin` are removed.
    fn moved(self, origin: u32, cut: Self) -> Self {
        let moved = |at: u32| {
            let removed = if at >= cut.end { cut.end - cut.start } else { 0 };
            at.saturating_sub(origin).saturating_sub(removed)
        };
        Self { start: moved(self.start), end: moved(self.end) }
    }
}

/// The value of one key: where its JSON lies and what sort it is. Nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub(super) span: Span,
    pub(super) kind: Kind,
}

impl Field {
    /// The bytes of the value in the text it was found in, the quotes of a string included.
    pub fn range(&self) -> Range<usize> {
        self.span.start as usize..self.span.end as usize
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
            Some(contents) if self.is_escaped() => unescapes_to(contents, text),
            Some(contents) => contents == text,
            None => false,
        }
    }

    /// The text between the quotes.
    fn contents<'a>(&self, json: &'a str) -> Option<&'a str> {
        let contents = self.span.start as usize + 1..(self.span.end as usize).saturating_sub(1);
        json.get(contents).filter(|_| matches!(self.kind, Kind::Text { .. }))
    }

    fn is_escaped(&self) -> bool {
        self.kind == Kind::Text { escaped: true }
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

/// Where the values of the protocol's five keys are. 60 bytes, kept with each message in the inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fields {
    /// The value of `type`.
    pub kind: Option<Field>,
    /// The value of `data`.
    pub data: Option<Field>,
    /// The value of `from`.
    pub from: Option<Field>,
    /// The value of `ts`.
    pub ts: Option<Field>,
    /// The value of `meta`.
    pub meta: Option<Field>,
}

const _: () = assert!(size_of::<Fields>() == 60);

impl Fields {
    /// Keeps `value` as that of the key `name`, if that is one of the five.
    #[inline(always)]
    pub(super) fn put(&mut self, name: &[u8], value: Field) -> Result<(), Fault> {
        // Each is one comparison of a word; the arms of a match would compare byte by byte.
        let place = if name == b"type" {
            &mut self.kind
        } else if name == b"data" {
            &mut self.data
        } else if name == b"from" {
            &mut self.from
        } else if name == b"ts" {
            &mut self.ts
        } else if name == b"meta" {
            &mut self.meta
        } else {
            return Ok(());
        };
        once(place, value)
    }

    /// The same fields in the text that is left when `cut` and everything before `origin` are removed.
    pub(super) fn moved(self, origin: u32, cut: Span) -> Self {
        let moved = |field: Field| Field { span: field.span.moved(origin, cut), ..field };
        let is_kept = |meta: &Field| meta.span.start < cut.start || cut.end < meta.span.end;
        Self {
            kind: self.kind.map(moved),
            data: self.data.map(moved),
            from: self.from.map(moved),
            ts: self.ts.map(moved),
            meta: self.meta.filter(is_kept).map(moved),
        }
    }
}

/// Puts `value` into `place`, which must be empty.
#[inline(always)]
pub(super) fn once(place: &mut Option<Field>, value: Field) -> Result<(), Fault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::Repeated),
    }
}
