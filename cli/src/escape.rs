//! Text of other programs, printed so that a terminal neither obeys it nor hides anything because of it.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::LazyLock;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

static STDOUT_IS_TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());

/// Whether a terminal might obey `c` or hide text with it: categories Cc, Cf, Zl and Zp.
fn is_control_or_format(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Text with every control and format character written as an escape.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_control_or_format(c) {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Valid JSON on one line, with the same value: control characters become JSON escapes, and line breaks,
/// which can only be white space there, become spaces. On a terminal every format character is escaped as
/// well.
pub(crate) struct Json<T: fmt::Display>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(JsonWriter(f), "{}", self.0)
    }
}

struct JsonWriter<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl JsonWriter<'_, '_> {
    fn must_be_escaped(c: char) -> bool {
        match c {
            ' '..='~' | '\t' => false,
            '\0'..='\u{9f}' => true,
            _ => *STDOUT_IS_TERMINAL && is_control_or_format(c),
        }
    }
}

impl fmt::Write for JsonWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(Self::must_be_escaped) {
            let (plain, after) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = after.chars();
            match chars.next() {
                // These stand outside of a string, where an escape would not be JSON.
                Some('\r' | '\n') => self.0.write_str(" ")?,
                Some(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}")?;
                    }
                }
                None => {}
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}
