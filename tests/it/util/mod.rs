//! Shared by the tests: a virtual world, a real one, and conversations that run in both.

pub mod conversation;
pub mod machine;
pub mod outbox_sim;
#[cfg(feature = "server")]
pub mod real;
#[cfg(unix)]
pub mod rights;
pub mod sim;
#[cfg(feature = "server")]
pub mod stream;
#[cfg(feature = "server")]
#[allow(dead_code, reason = "not every test program needs it")]
pub mod thread_time;
pub mod trace;
pub mod watchdog;

#[allow(unused_imports, reason = "not every test program needs it")]
pub use machine::with_time_enough;

/// How much longer the long tests shall run: `UDSMSG_TEST_SCALE`, 1 unless set.
pub fn scale() -> usize {
    std::env::var("UDSMSG_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1).max(1)
}

/// Pseudo-random numbers with a seed that a failing test can name (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// A `text` message with `data` and the token, newline included. `$TOKEN` stands for the token.
pub fn text(data: &str) -> Vec<u8> {
    format!("{{\"type\":\"text\",\"data\":\"{data}\",\"meta\":{{\"authToken\":\"$TOKEN\"}}}}\n").into_bytes()
}

/// What the owner gets of [`text`].
pub fn stored(data: &str) -> String {
    format!("{{\"type\":\"text\",\"data\":\"{data}\"}}")
}

/// A `ping` with the token, newline included.
pub fn ping() -> Vec<u8> {
    b"{\"type\":\"ping\",\"meta\":{\"authToken\":\"$TOKEN\"}}\n".to_vec()
}

/// The answer to the message that became number `number`.
pub fn ok(number: usize) -> String {
    format!(r#"{{"type":"response","data":"ok","ts":"$TS","meta":{{"id":"uds-{number}"}}}}"#)
}

/// The answer to a ping.
pub fn pong() -> String {
    r#"{"type":"pong","from":"$PATH","ts":"$TS"}"#.to_owned()
}

/// The last line of a connection that ends for `reason`.
pub fn error(reason: &str) -> String {
    format!(r#"{{"type":"error","data":"{reason}","ts":"$TS"}}"#)
}

/// A message of exactly `len` bytes once it is stored, newline included in what is sent.
pub fn text_stored_as(len: usize) -> Vec<u8> {
    text(&"x".repeat(len - stored("").len()))
}

/// A message whose line, newline not counted and token filled in, has exactly `len` bytes.
pub fn text_of_line(len: usize) -> Vec<u8> {
    let empty = text("").len() - 1 - "$TOKEN".len() + 64;
    text(&"x".repeat(len - empty))
}

/// Replaces `$TOKEN` and `$PATH`.
pub fn fill(template: &[u8], token: &str, path: &str) -> Vec<u8> {
    let mut filled = Vec::with_capacity(template.len() + 128);
    let mut rest = template;
    while let Some(at) = memchr_dollar(rest) {
        filled.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let (value, len) = if rest.starts_with(b"$TOKEN") {
            (token, 6)
        } else if rest.starts_with(b"$PATH") {
            (path, 5)
        } else {
            ("$", 1)
        };
        filled.extend_from_slice(value.as_bytes());
        rest = &rest[len..];
    }
    filled.extend_from_slice(rest);
    filled
}

/// A path as it stands in JSON.
#[allow(dead_code, reason = "not every test program needs it")]
pub fn in_json(path: &std::path::Path) -> String {
    path.to_str().unwrap().replace('\\', "\\\\")
}

fn memchr_dollar(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'$')
}

/// Whether `line` is what `pattern` says: byte for byte, but `$TS` stands for any RFC 3339 time in UTC with
/// milliseconds, `$N` for any number.
pub fn matches(pattern: &str, line: &str) -> bool {
    let (mut pattern, mut line) = (pattern, line);
    loop {
        let Some(at) = pattern.find('$') else { return pattern == line };
        if !line.starts_with(&pattern[..at]) {
            return false;
        }
        (pattern, line) = (&pattern[at..], &line[at..]);
        if let Some(rest) = pattern.strip_prefix("$TS") {
            if line.len() < 24 || !is_timestamp(&line[..24]) {
                return false;
            }
            (pattern, line) = (rest, &line[24..]);
        } else if let Some(rest) = pattern.strip_prefix("$N") {
            let digits = line.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return false;
            }
            (pattern, line) = (rest, &line[digits..]);
        } else {
            return false;
        }
    }
}

/// Whether `text` looks like `2026-11-22T10:00:00.000Z`.
pub fn is_timestamp(text: &str) -> bool {
    let shape = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(byte, want)| if want == b'd' { byte.is_ascii_digit() } else { byte == want })
}
