//! Any bytes as a line: the scanner against `from_utf8`, serde_json's `IgnoredAny` and a counter of depth.
//! Then every use of a line that was accepted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use udsmsg::Message;
use udsmsg::parts::json::{DEPTH_MAX, Fault, scan};
use udsmsg::parts::{Answer, AuthToken, CloseReason, Request};

/// The result for a line that is not UTF-8 or not JSON.
const UNREADABLE: (Request<'_>, bool) = (Request::Refuse(CloseReason::InvalidFrame), false);

fuzz_target!(|data: &[u8]| {
    // A short token in the input stands for the real one, so that the fuzzer need not guess it.
    let auth_token = AuthToken::from_bytes([0xa5; 32]);
    let Ok(line) = std::str::from_utf8(data) else {
        assert_eq!(Request::from_line(data, &auth_token), UNREADABLE);
        return;
    };
    let line = &line.replace("$T", auth_token.expose());
    let _ = Answer::from_line(line.as_bytes());

    let is_json = serde_json::from_str::<IgnoredAny>(line).is_ok();
    let found = match scan(line) {
        Ok(found) => found,
        Err(refusal) => {
            assert!(refusal.at <= line.len());
            match refusal.fault {
                Fault::Syntax => assert!(!is_json, "refused: {line}"),
                Fault::TooDeep => assert!(!is_json || depth(line) > DEPTH_MAX, "not deep: {line}"),
                // Whether they are the same is for the tests to say; the rest of the line was not read.
                Fault::Repeated => assert!(line.matches(':').count() >= 2, "not repeated: {line}"),
                other => panic!("{other:?}: {line}"),
            }
            let is_blank = line.chars().all(|char| matches!(char, ' ' | '\t' | '\r'));
            let expected = if is_blank { (Request::Blank, false) } else { UNREADABLE };
            assert_eq!(Request::from_line(line.as_bytes(), &auth_token), expected);
            return;
        }
    };
    assert!(is_json, "taken: {line}");
    assert!(depth(line) <= DEPTH_MAX, "too deep: {line}");

    // What is left without the token is JSON, has none, and its fields lie where they are said to lie.
    let redacted = found.redact(line);
    let text = format!("{}{}", redacted.head, redacted.tail);
    let again = scan(&text).expect("what is left is JSON");
    assert_eq!(again.fields(), redacted.fields);
    assert_eq!(again.auth_token(), None);
    assert_eq!(text.len(), redacted.len());
    if found.auth_token().is_none() {
        assert_eq!(text, line.trim_matches([' ', '\t', '\r', '\n']));
    }

    let fields = again.fields();
    for field in [fields.kind, fields.data, fields.from, fields.ts, fields.meta].into_iter().flatten() {
        if let Ok(expected) = serde_json::from_str::<String>(field.raw(&text)) {
            assert_eq!(field.text(&text).as_deref(), Some(&*expected));
        }
    }
    match Request::from_line(line.as_bytes(), &auth_token) {
        (Request::Deliver(delivered), true) => {
            assert_eq!(delivered, redacted);
            assert!(!text.contains(auth_token.expose()) || line.matches(auth_token.expose()).count() > 1);
            let message = Message::from_json(&text).expect("what is delivered is a message");
            assert_eq!(message.json(), text);
            let _ =
                (message.kind(), message.data().and_then(|data| data.text()), message.from(), message.ts());
            assert!(format!("{message:?}").len() < 500);
        }
        (Request::Ping | Request::Refuse(CloseReason::InvalidFrame), true)
        | (Request::Refuse(CloseReason::Unauthorized), false) => {}
        other => panic!("scanned, and yet {other:?}: {line}"),
    }
});

/// How deep valid JSON is nested; of other text, at least as deep as what is valid at its start.
fn depth(json: &str) -> u32 {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_u32, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
