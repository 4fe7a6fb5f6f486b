//! What a server writes: the answer to each message, or the error line before it closes.

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
        let mut put = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        let ts = ts.as_bytes();
        match *self {
            Self::Response { number } => {
                put(&[
                    br#"{"type":"response","data":"ok","ts":""#,
                    ts,
                    br#"","meta":{"id":"uds-"#,
                    decimal(number, &mut [0; 20]),
                    b"\"}}\n",
                ]);
            }
            Self::Pong { from_json } => {
                put(&[br#"{"type":"pong","from":"#, from_json.as_bytes(), br#","ts":""#, ts, b"\"}\n"]);
            }
            Self::Error { text } => {
                let data = json::quote(text);
                put(&[br#"{"type":"error","data":"#, data.as_bytes(), br#","ts":""#, ts, b"\"}\n"]);
            }
        }
    }
}

/// `number` in decimal, written to the end of `digits`.
fn decimal(number: u64, digits: &mut [u8; 20]) -> &[u8] {
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
    digits.get(first..).unwrap_or_default()
}
