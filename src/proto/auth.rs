//! The token that says who may put messages into an inbox, and its comparison in constant time.

use std::fmt;

use subtle::ConstantTimeEq;

use super::error::{Error, ErrorKind};

/// Hex digits in a token.
const DIGITS: usize = 64;

/// A server's capability token: 32 random bytes, written as 64 lower-case hex digits.
///
/// It is never printed: `Debug` shows that there is one, and there is no `Display`.
#[derive(Clone)]
pub struct AuthToken([u8; DIGITS]);

impl AuthToken {
    /// The token whose random bytes are `bytes`.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut digits = [0; DIGITS];
        // Constant-time, as all that touches a token.
        let written = base16ct::lower::encode(&bytes, &mut digits);
        debug_assert!(written.is_ok(), "two digits for each byte");
        Self(digits)
    }

    /// The token written as `text`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAuthToken`] if `text` is not 64 lower-case hex digits; the text is not repeated.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match <[u8; DIGITS]>::try_from(text.as_bytes()) {
            Ok(digits) if digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) => Ok(Self(digits)),
            _ => {
                let len = text.len();
                let sentence =
                    format!("a token must be {DIGITS} lower-case hex digits; this one is not ({len} bytes)");
                Err(Error::new(ErrorKind::InvalidAuthToken, sentence))
            }
        }
    }

    /// The 64 digits, for the two places that must write them: a capability file and a message to be sent.
    pub fn expose(&self) -> &str {
        // The digits are ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether `candidate` is this token. The time it takes says nothing about the token.
    ///
    /// The difference is folded over words and compared once (bench `message`); a comparison that is
    /// constant-time byte by byte takes ten times as long. A wrong length takes the same time.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let (theirs, wrong_length) = match <&[u8; DIGITS]>::try_from(candidate) {
            Ok(theirs) => (theirs, 0),
            Err(_) => (&[0; DIGITS], 1),
        };
        let mut difference = wrong_length;
        for (a, b) in self.0.as_chunks::<8>().0.iter().zip(theirs.as_chunks::<8>().0) {
            difference |= u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
        }
        difference.ct_eq(&0).into()
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthToken(redacted)")
    }
}
