//! JSON strings: text quoted, and their contents decoded. Lone surrogates become U+FFFD.

/// `text` as a JSON string, quotes and all.
pub fn quote(text: &str) -> String {
    // Text can always be written as JSON.
    serde_json::to_string(text).unwrap_or_default()
}

/// Whether `text` can stand between quotes as it is.
pub(crate) fn is_plain(text: &str) -> bool {
    plain_len(text.as_bytes()) == text.len()
}

/// How many of the first `bytes` a JSON string can hold as they are: all up to the first `"`, `\` or control
/// character.
#[inline(always)]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    for at in [0, 8] {
        let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { break };
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
    }
    long_plain_len(bytes)
}

/// The same for what is not very short: two passes with vector instructions, the second because it has no
/// branch for each byte.
#[inline(never)]
fn long_plain_len(bytes: &[u8]) -> usize {
    let len = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let text = bytes.get(..len).unwrap_or_default();
    let least = text.iter().fold(u8::MAX, |least, byte| least.min(*byte));
    if least < b' ' { text.iter().position(|byte| *byte < b' ').unwrap_or(len) } else { len }
}

/// Finds the bytes of `word` that are `"`, `\` or below 0x20: the top bit of the lowest such byte is set, and
/// no bit below it.
///
/// Flipping bit 1 makes `"` change places with the space, right behind the control characters, which stay
/// below it. Subtracting `n` sets the top bit of a byte below `n`, unless it was set before; a borrow changes
/// only bytes above one that was found.
#[inline(always)]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES << 7;
    let control_or_quote = (word ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
    (control_or_quote | backslash) & !word & TOPS
}

/// The characters that the contents of a JSON string decode to.
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

    /// Four hex digits as a number; in a text that was not scanned U+DFFF, a surrogate that begins no pair.
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

/// Whether the contents of a JSON string decode to `text`.
pub(super) fn unescapes_to(contents: &str, text: &str) -> bool {
    Unescaped { rest: contents }.eq(text.chars())
}

/// The contents of a JSON string, decoded.
pub(super) fn unescape(contents: &str) -> String {
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
pub(super) fn unescape_into<'b>(contents: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let mut len = 0;
    for char in (Unescaped { rest: contents }) {
        let space = buffer.get_mut(len..len + char.len_utf8())?;
        len += char.encode_utf8(space).len();
    }
    buffer.get(..len)
}
