//! What lines mean: the view of a message, the order in which a line is checked, every byte that is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use udsmsg::parts::json::{Kind, Redacted, quote};
use udsmsg::parts::{Answer, AuthToken, CloseReason, Reply, Request};
use udsmsg::{ErrorKind, Message, Outgoing, Wall};

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const NOW: &str = "2026-11-22T10:00:00.000Z";

fn auth_token() -> AuthToken {
    AuthToken::parse(TOKEN).unwrap()
}

/// What `line` asks for, in one word, or the message without its token.
fn verdict(line: impl AsRef<[u8]>) -> String {
    let line = line.as_ref();
    match Request::from_line(line, &auth_token()) {
        (Request::Blank, false) => "blank".to_owned(),
        (Request::Refuse(CloseReason::InvalidFrame), false) => "unreadable".to_owned(),
        (Request::Refuse(CloseReason::InvalidFrame), true) => "malformed".to_owned(),
        (Request::Refuse(CloseReason::Unauthorized), false) => "unauthorized".to_owned(),
        (Request::Ping, true) => "ping".to_owned(),
        (Request::Deliver(Redacted { head, tail, .. }), true) => format!("{head}{tail}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn line_is_checked_in_the_order_of_the_protocol() {
    let escaped_token: String = TOKEN.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    for (line, expected) in [
        // JSON comes first, to the last byte of the line.
        (r#"{"type":"text","meta":{"authToken":"$T"}} x"#, "unreadable"),
        (r#"{"type":"text","meta":{"authToken":"wrong"}"#, "unreadable"),
        (r#"{"type":"text","type":"text","meta":{"authToken":"wrong"}}"#, "unreadable"),
        (r#"{"type":"text","meta":{"authToken":"$T","authToken":"$T"}}"#, "unreadable"),
        (r#"{"type":"ping","meta":{"authToken":"$T"},"data":01}"#, "unreadable"),
        // Then the token.
        ("null", "unauthorized"),
        ("\"$T\"", "unauthorized"),
        (r#"[{"type":"text","meta":{"authToken":"$T"}}]"#, "unauthorized"),
        ("{}", "unauthorized"),
        (r#"{"type":"text"}"#, "unauthorized"),
        (r#"{"type":"text","authToken":"$T"}"#, "unauthorized"),
        (r#"{"type":"text","meta":null}"#, "unauthorized"),
        (r#"{"type":"text","meta":"$T"}"#, "unauthorized"),
        (r#"{"type":"text","meta":["authToken","$T"]}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"authToken":["$T"]}}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"authToken":null}}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"authToken":""}}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"authToken":"$T0"}}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"authToken":"$T\u0000"}}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"authToken":" $T"}}"#, "unauthorized"),
        (r#"{"type":"text","meta":{"meta":{"authToken":"$T"}}}"#, "unauthorized"),
        (r#"{"type":"ping","meta":{"authToken":"wrong"}}"#, "unauthorized"),
        (r#"{"type":7,"from":8}"#, "unauthorized"),
        // Then the types.
        (r#"{"meta":{"authToken":"$T"}}"#, "malformed"),
        (r#"{"type":null,"meta":{"authToken":"$T"}}"#, "malformed"),
        (r#"{"type":["ping"],"meta":{"authToken":"$T"}}"#, "malformed"),
        (r#"{"type":"ping","from":1,"meta":{"authToken":"$T"}}"#, "malformed"),
        (r#"{"type":"text","ts":{},"meta":{"authToken":"$T"}}"#, "malformed"),
        (r#"{"type":"text","ts":false,"meta":{"authToken":"$T"}}"#, "malformed"),
        // Then what is requested.
        (r#"{"type":"ping","meta":{"authToken":"$T"}}"#, "ping"),
        (r#"{"type":"\u0070ing","data":[],"from":null,"ts":null,"meta":{"authToken":"$T"}}"#, "ping"),
        (r#"{"type":"Ping","meta":{"authToken":"$T"}}"#, r#"{"type":"Ping"}"#),
        (r#"{"type":"pin","meta":{"authToken":"$T"}}"#, r#"{"type":"pin"}"#),
        (r#"{"type":"","from":null,"meta":{"authToken":"$T"}}"#, r#"{"type":"","from":null}"#),
        (r#"{"type":"pong","meta":{"authToken":"$T"},"x":1e400}"#, r#"{"type":"pong","x":1e400}"#),
        (
            r#"{"type":"\ud83d","data":"\ude00","meta":{"authToken":"$T"}}"#,
            r#"{"type":"\ud83d","data":"\ude00"}"#,
        ),
        (" {\"meta\":{\"authToken\":\"$T\",\"a\":1},\"type\":\"t\"}\r", r#"{"meta":{"a":1},"type":"t"}"#),
        (r#"{"type":"t","meta":{"\u0061uthToken":"$E"}}"#, r#"{"type":"t"}"#),
        (r#"{"type":"t","meta":{"authToken":"$E0"}}"#, "unauthorized"),
        (r#"{"type":"t","meta":{"authToken":"$E\ud83d"}}"#, "unauthorized"),
    ] {
        let line = line.replace("$T", TOKEN).replace("$E", &escaped_token);
        assert_eq!(verdict(&line), expected, "{line}");
    }
    let at_each_digit = (0..64).map(|at| {
        let mut digits = TOKEN.as_bytes().to_vec();
        digits.swap(at, (at + 1) % 64);
        String::from_utf8(digits).unwrap()
    });
    for wrong in at_each_digit.chain([TOKEN.to_uppercase(), TOKEN.chars().take(63).collect()]) {
        assert_eq!(
            verdict(format!("{{\"type\":\"t\",\"meta\":{{\"authToken\":\"{wrong}\"}}}}")),
            "unauthorized",
            "{wrong}"
        );
    }
}

#[test]
fn a_line_that_is_not_utf_8_is_unreadable() {
    for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"] {
        let line =
            [br#"{"type":"t","data":""#, bad, br#"","meta":{"authToken":""#, TOKEN.as_bytes(), br#""}}"#];
        assert_eq!(verdict(line.concat()), "unreadable", "{bad:?}");
    }
}

#[test]
fn a_message_is_decoded_on_demand() {
    let json = r#" {"type":"t\u0065xt","data":"a\nb","from":"/s.sock","ts":null,"meta":{ "a": 1 },"x":[1]} "#;
    let message = Message::from_json(json).unwrap();
    assert_eq!(message.json(), json.trim());
    assert_eq!(message.kind(), "text");
    assert!(matches!(message.from(), Some(Cow::Borrowed("/s.sock"))));
    assert_eq!(message.ts(), None);
    assert_eq!(message.meta(), Some("{ \"a\": 1 }"));
    let data = message.data().unwrap();
    assert_eq!(
        (data.text().as_deref(), data.json(), data.kind()),
        (Some("a\nb"), r#""a\nb""#, Kind::Text { escaped: true })
    );
    assert_eq!(data.parse::<String>().unwrap(), "a\nb");

    #[derive(Deserialize, Debug, PartialEq)]
    struct Typed<'a> {
        from: &'a str,
        x: Vec<u8>,
    }
    assert_eq!(message.parse::<Typed<'_>>().unwrap(), Typed { from: "/s.sock", x: vec![1] });

    let message = Message::from_json(r#"{"data":[1e400, "\ud83d"],"type":"\ud83d!"}"#).unwrap();
    assert_eq!(message.kind(), "\u{fffd}!");
    assert_eq!((message.from(), message.ts(), message.meta()), (None, None, None));
    let data = message.data().unwrap();
    assert_eq!((data.text(), data.json(), data.kind()), (None, r#"[1e400, "\ud83d"]"#, Kind::Array));
    assert_eq!(data.parse::<serde_json::Value>().unwrap_err().kind(), ErrorKind::InvalidMessage);

    let message = Message::from_json(r#"{"type":"","data":null}"#).unwrap();
    assert_eq!((message.kind().as_ref(), message.data().unwrap().json()), ("", "null"));
    assert!(Message::from_json(r#"{"type":""}"#).unwrap().data().is_none());
}

#[test]
fn line_that_is_not_a_message_is_refused() {
    for json in
        ["", "[]", "null", "{}", "{", r#"{"type":1}"#, r#"{"type":"t","ts":1}"#, r#"{"type":"t","from":[]}"#]
    {
        assert_eq!(Message::from_json(json).unwrap_err().kind(), ErrorKind::InvalidMessage, "{json}");
    }
}

#[test]
fn tokens_and_payloads_are_not_printed() {
    let json = format!(
        "{{\"type\":\"{}\",\"data\":\"payload\",\"meta\":{{\"authToken\":\"{TOKEN}\"}}}}",
        "long ".repeat(50)
    );
    let message = Message::from_json(&json).unwrap();
    assert_eq!(message.json(), json, "it is not taken out of what its owner keeps");
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "read in vain")]
    struct Wrong {
        meta: std::collections::BTreeMap<String, u8>,
    }
    let error = message.parse::<Wrong>().unwrap_err();
    let outgoing = Outgoing::new("text").with_text("payload").with_meta(&json!({"a": "payload"})).unwrap();
    for shown in [
        format!("{message:?}"),
        format!("{:?}", message.data().unwrap()),
        format!("{error:?} {error}"),
        format!("{outgoing:?}"),
        format!("{:?}", Request::from_line(json.as_bytes(), &auth_token())),
    ] {
        assert!(!shown.contains(TOKEN) && !shown.contains("payload"), "{shown}");
        assert!(shown.len() < 150, "{shown}");
    }
    let error = Message::from_json(r#"{"type":"t","data":"x"}"#).unwrap().parse::<Wrong>().unwrap_err();
    assert!(error.to_string().contains("missing field `meta`"), "{error}");
}

#[test]
fn replies_are_written_byte_for_byte() {
    let path = "/tmp/a \"b\"\\\u{1}é.sock";
    let from_json = quote(path);
    for (reply, expected) in [
        (Reply::Response { number: 1 }, r#"{"type":"response","data":"ok","ts":"$N","meta":{"id":"uds-1"}}"#),
        (Reply::Response { number: 0 }, r#"{"type":"response","data":"ok","ts":"$N","meta":{"id":"uds-0"}}"#),
        (
            Reply::Response { number: 1090 },
            r#"{"type":"response","data":"ok","ts":"$N","meta":{"id":"uds-1090"}}"#,
        ),
        (
            Reply::Response { number: u64::MAX },
            r#"{"type":"response","data":"ok","ts":"$N","meta":{"id":"uds-18446744073709551615"}}"#,
        ),
        (
            Reply::Pong { from_json: &from_json },
            r#"{"type":"pong","from":"/tmp/a \"b\"\\\u0001é.sock","ts":"$N"}"#,
        ),
        (Reply::Error { text: "invalid frame" }, r#"{"type":"error","data":"invalid frame","ts":"$N"}"#),
        (Reply::Error { text: "\"\n" }, r#"{"type":"error","data":"\"\n","ts":"$N"}"#),
    ] {
        let mut out = b"before ".to_vec();
        reply.encode(NOW, &mut out);
        let expected = format!("before {}\n", expected.replace("$N", NOW));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn text_is_quoted_as_serde_json_quotes_it() {
    let every: String = (0..=0x2ff).filter_map(char::from_u32).collect();
    for text in [
        "",
        "plain",
        "\"",
        "\\",
        "a long text that ends in a quote \"",
        "\n\n",
        "é\u{7f}😀\u{2028}\"x",
        &every,
    ] {
        assert_eq!(quote(text), serde_json::to_string(text).unwrap());
    }
}

/// The line for `outgoing`, its newline taken off and the token replaced by `$T`.
fn encoded(outgoing: &Outgoing, from: Option<&str>, now: Option<&str>) -> String {
    let line = outgoing.encode(&auth_token(), from, now, 65_536).unwrap();
    assert!(Request::from_line(line.strip_suffix(b"\n").unwrap(), &auth_token()).1);
    assert_eq!(memchr::memchr_iter(b'\n', &line).count(), 1, "one line");
    String::from_utf8(line).unwrap().trim_end_matches('\n').replace(TOKEN, "$T")
}

#[test]
fn messages_are_written_byte_for_byte() {
    let raw = |json: &str| serde_json::from_str::<Box<RawValue>>(json).unwrap();
    let text = Outgoing::new("text").with_text("a\n\"b\"");
    for (outgoing, from, now, expected) in [
        (Outgoing::new("ping"), None, None, r#"{"type":"ping","meta":{"authToken":"$T"}}"#),
        (Outgoing::new(""), None, None, r#"{"type":"","meta":{"authToken":"$T"}}"#),
        (
            text.clone(),
            Some("/\"x\".sock"),
            Some(NOW),
            r#"{"type":"text","data":"a\n\"b\"","from":"/\"x\".sock","ts":"$N","meta":{"authToken":"$T"}}"#,
        ),
        (
            text.with_from("/other").with_ts("then"),
            Some("/me"),
            Some(NOW),
            r#"{"type":"text","data":"a\n\"b\"","from":"/other","ts":"then","meta":{"authToken":"$T"}}"#,
        ),
        (
            Outgoing::new("q\"").with_data(&json!({"b": [1, null]})).unwrap(),
            None,
            Some(NOW),
            r#"{"type":"q\"","data":{"b":[1,null]},"ts":"$N","meta":{"authToken":"$T"}}"#,
        ),
        (
            Outgoing::new("q").with_data(&raw(" [1e400,\n\"\\ud83d\"] ")).unwrap(),
            Some("/me"),
            None,
            r#"{"type":"q","data":[1e400, "\ud83d"],"from":"/me","meta":{"authToken":"$T"}}"#,
        ),
        (
            Outgoing::new("q").with_data("text").unwrap().with_meta(&json!({"queryId": "1"})).unwrap(),
            None,
            None,
            r#"{"type":"q","data":"text","meta":{"queryId":"1","authToken":"$T"}}"#,
        ),
        (
            Outgoing::new("q").with_meta(&raw("{\n \"a\": {\"authToken\": 1}\n}")).unwrap(),
            None,
            None,
            r#"{"type":"q","meta":{  "a": {"authToken": 1} ,"authToken":"$T"}}"#,
        ),
        (
            Outgoing::new("q").with_meta(&raw("{ }")).unwrap(),
            None,
            None,
            r#"{"type":"q","meta":{ "authToken":"$T"}}"#,
        ),
    ] {
        assert_eq!(encoded(&outgoing, from, now), expected.replace("$N", NOW));
    }
}

#[test]
fn the_owner_gets_the_meta_that_was_given() {
    for meta in [r#"{"a":1}"#, r#"{ "a": 1, "b": {} }"#] {
        let raw = serde_json::from_str::<&RawValue>(meta).unwrap();
        let outgoing = Outgoing::new("t").with_meta(raw).unwrap();
        let line = outgoing.encode(&auth_token(), None, None, 65_536).unwrap();
        assert_eq!(verdict(line.trim_ascii()), format!("{{\"type\":\"t\",\"meta\":{meta}}}"));
    }
}

#[test]
fn invalid_outgoing_message_is_refused_before_it_is_sent() {
    let with_meta =
        |json: &str| Outgoing::new("t").with_meta(serde_json::from_str::<&RawValue>(json).unwrap());
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for meta in ["null", "[]", "1", "\"{}\"", r#"{"authToken":"x"}"#, r#"{"a":1,"\u0061uthToken":null}"#] {
        assert_eq!(with_meta(meta).unwrap_err().kind(), ErrorKind::InvalidMessage, "{meta}");
    }
    let with_data =
        |json: &str| Outgoing::new("t").with_data(serde_json::from_str::<&RawValue>(json).unwrap());
    let encode = |outgoing: Outgoing| outgoing.encode(&auth_token(), None, None, 65_536);
    assert!(encode(with_data(&deep(126)).unwrap()).is_ok());
    assert_eq!(encode(with_data(&deep(127)).unwrap()).unwrap_err().kind(), ErrorKind::InvalidMessage);
    assert_eq!(with_data(&deep(128)).unwrap_err().kind(), ErrorKind::InvalidMessage);
    let unwritable = std::collections::BTreeMap::from([(vec![1], 1)]);
    assert_eq!(Outgoing::new("t").with_data(&unwritable).unwrap_err().kind(), ErrorKind::InvalidMessage);
}

#[test]
fn a_message_over_the_frame_limit_is_refused_with_both_figures() {
    let outgoing = Outgoing::new("t").with_text("xyz");
    let len = outgoing.encode(&auth_token(), None, None, 65_536).unwrap().len() - 1;
    assert_eq!(
        outgoing.encode(&auth_token(), None, None, len).unwrap().len(),
        len + 1,
        "the newline is not counted"
    );
    let error = outgoing.encode(&auth_token(), None, None, len - 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
    let text = error.to_string();
    assert!(text.contains(&len.to_string()) && text.contains(&(len - 1).to_string()), "{text}");
    assert!(!text.contains(TOKEN), "{text}");
}

#[test]
fn answers_are_read() {
    let accepted = |id: Option<&str>| Answer::Accepted { id: id.map(str::to_owned) };
    let rejected = |reason: Option<&'static str>| Answer::Rejected { reason: reason.map(Cow::Borrowed) };
    for (line, expected) in [
        (r#"{"type":"response","data":"ok","ts":"x","meta":{"id":"uds-7"}}"#, accepted(Some("uds-7"))),
        (r#"{"type":"r\u0065sponse","meta":{"n":1e400,"s":"\ud83d","id":"\u0061"}}"#, accepted(Some("a"))),
        (r#"{"type":"response"}"#, accepted(None)),
        (r#"{"type":"response","meta":{}}"#, accepted(None)),
        (r#"{"type":"response","meta":{"id":7}}"#, accepted(None)),
        (r#"{"type":"response","meta":["uds-7"]}"#, accepted(None)),
        (r#"{"type":"pong","from":"/x","ts":"x"}"#, Answer::Pong),
        (r#"{"type":"error","data":"unauthorized"}"#, rejected(Some("unauthorized"))),
        (r#"{"type":"error","data":"a\u0062"}"#, rejected(Some("ab"))),
        (r#"{"type":"error","data":{"a": 1}}"#, rejected(Some(r#"{"a": 1}"#))),
        (r#"{"type":"error","data":null}"#, rejected(None)),
        (" {\"type\":\"error\"}\r", rejected(None)),
        (r#"{"type":"notification","data":"x"}"#, Answer::Other),
        (r#"{"type":["response"]}"#, Answer::Other),
        ("{}", Answer::Other),
    ] {
        assert_eq!(Answer::from_line(line.as_bytes()).unwrap(), expected, "{line}");
    }
    for line in
        [&b""[..], b"ok", b"null", b"[]", b"\"response\"", b"{\"type\":\"response\"", b"{\"type\":\"\xff\"}"]
    {
        assert_eq!(Answer::from_line(line).unwrap_err().kind(), ErrorKind::InvalidMessage, "{line:?}");
    }
    let mut own = Vec::new();
    Reply::Response { number: 12 }.encode(NOW, &mut own);
    assert_eq!(Answer::from_line(&own).unwrap(), accepted(Some("uds-12")), "a newline is white space");
}

#[test]
fn wall_time_is_shown_in_utc_with_milliseconds() {
    for (millis, shown) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_827_696_078, "2000-02-29T12:34:56.078Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (u64::MAX, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(Wall::from_millis(millis).to_string(), shown);
    }
}
