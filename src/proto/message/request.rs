//! What a line asks for: rules 1 to 4 of the protocol, in their order.

use super::has_valid_types;
use crate::proto::auth::AuthToken;
use crate::proto::error::CloseReason;
use crate::proto::json::{self, Redacted, Scan};

/// What one line of a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Request<'a> {
    /// Nothing: the line holds only spaces, tabs and carriage returns.
    Blank,
    /// To put this message, its token cut out, into the inbox.
    Deliver(Redacted<'a>),
    /// To be answered with [`Reply::Pong`](super::Reply::Pong). A ping never enters the inbox.
    Ping,
    /// Something that the protocol refuses: the connection is to be closed for this reason.
    Refuse(CloseReason),
}

impl<'a> Request<'a> {
    /// What `line`, its newline taken off, asks for, and whether it has proven that its sender holds
    /// `auth_token`. A line that carries the token and is refused for its types has.
    ///
    /// Copies nothing and takes no memory.
    pub fn from_line(line: &'a [u8], auth_token: &AuthToken) -> (Self, bool) {
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            return (Self::Blank, false);
        }
        let unreadable = (Self::Refuse(CloseReason::InvalidFrame), false);
        let Ok(line) = simdutf8::basic::from_utf8(line) else { return unreadable };
        let Ok(scan) = json::scan(line) else { return unreadable };
        if !carries(&scan, line, auth_token) {
            return (Self::Refuse(CloseReason::Unauthorized), false);
        }
        let fields = scan.fields();
        let request = if !has_valid_types(&fields) {
            Self::Refuse(CloseReason::InvalidFrame)
        } else if fields.kind.is_some_and(|kind| kind.is(line, "ping")) {
            Self::Ping
        } else {
            Self::Deliver(scan.redact(line))
        };
        (request, true)
    }
}

/// Whether `line` carries the token. A missing one is compared as well, and takes as long as a wrong one.
///
/// An escaped candidate is decoded first; one that is longer than any token counts as missing.
fn carries(scan: &Scan, line: &str, auth_token: &AuthToken) -> bool {
    let mut decoded = [0; 64];
    let candidate = scan.auth_token().and_then(|field| field.text_bytes(line, &mut decoded));
    auth_token.matches(candidate.unwrap_or_default())
}
