//! What a server writes: the answer to each message, or the error line before it closes.

use std::str;

use crate::proto::json;

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
        /// The server's own socket path as a JSON string: [`json::quote`] once, and kept.
        from_json: &'a str,
    },
    /// The last line before the connection is closed.
    Error {
        /// What was wrong, in the words of the protocol.
        text: &'a str,
    },
}

impl Reply<'_> {
    /// Appends the reply and its newline to `out`.
    ///
    /// `ts` is the time as [`Wall`](crate::proto::time::Wall) shows it, formatted once per turn at most; it
    /// is written as it is.
    pub fn encode(&self, ts: &str, out: &mut Vec<u8>) {
        debug_assert!(json::is_plain(ts), "`ts` has to be escaped: {ts:?}");
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
                put(&[r#"{"type":"error","data":"#, &json::quote(text), r#","ts":""#, ts, "\"}\n"]);
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
