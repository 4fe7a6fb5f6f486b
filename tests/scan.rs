//! The pass over a line: what is JSON, where the keys are, what is cut with the token. Tables, then
//! comparison with serde_json on generated and damaged lines.
//!
//! `UDSMSG_TEST_SCALE` multiplies the number of generated lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::indexing_slicing, clippy::string_slice, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use udsmsg::ErrorKind;
use udsmsg::parts::json::{DEPTH_MAX, Fault, Fields, Kind, Redacted, scan};

/// Whether a line is accepted, and if not, its fault.
fn verdict(line: &str) -> Result<(), Fault> {
    scan(line).map(|_| ()).map_err(|refusal| {
        assert!(refusal.at <= line.len(), "{refusal} lies outside {line}");
        assert_eq!(udsmsg::Error::from(refusal).kind(), ErrorKind::InvalidMessage);
        refusal.fault
    })
}

#[test]
fn takes_what_rfc_8259_allows() {
    for line in [
        "0 -0 1 10 -12.50 1e5 1E+05 0e-0 1.0e10 1e400 -1e-400 123456789012345678901234567890",
        r#"null true false "" "x" [] {} [1,2] {"":0} {"a":1} {"a":1,"a":2} [[[[{"a":[{}]}]]]]"#,
        r#""\"\\\/\b\f\n\r\t\u0000\uABcd" "\ud83d" "\ude00\ud83d" {"\ud83d":1}"#,
        r#"[{"type":1,"type":2}] {"authToken":1,"authToken":2} {"Type":1,"type":2,"types":3,"typ":4}"#,
        r#"{"a":{"type":1,"type":2,"authToken":1,"authToken":2}} {"meta":{"type":1,"type":2,"meta":3}}"#,
        r#"{"meta":[{"authToken":1,"authToken":1}]} {"meta":{"a":{"authToken":1,"authToken":1}}}"#,
    ]
    .iter()
    .flat_map(|row| row.split(' '))
    .chain([
        " \t\r\n0\r",
        "[ ]",
        "{ }",
        "[ 1 , [ ] , { } ]",
        "{ \"a\" : { } , \"b\" : [ null ] }",
        "\"\u{7f}\u{80}é\u{2028}😀\u{ffff}\"",
    ]) {
        assert_eq!(verdict(line), Ok(()), "{line}");
        assert!(serde_json::from_str::<IgnoredAny>(line).is_ok(), "the table is wrong about {line}");
    }
}

#[test]
fn refuses_what_rfc_8259_does_not_allow() {
    for line in [
        "nul nulll True NaN Infinity - +1 01 -01 1. .5 1.e5 1e 1e+ 0x10 1,",
        "[ ] [1 [1, [1,] [,1] [1} [1,,2] { } {]",
        r#"" "x 'x' "\" "\x" "\u12" "\u12g4" "\u+123" "\ "\u "a"b [1]] [[1] [{"a":[}] {"a":[1} {,} {}{}"#,
        r#"{"a" {"a": {"a":1 {"a":1, {"a":1,} {a:1} {1:1} {"a":} {"a":1] {"a"=1} {"a":1}} {"type":}"#,
        r#"{"meta":{} {"meta":{]} {"meta":{"authToken":"x",}} {"meta":{"authToken"}} {"meta":{,"a":1}}"#,
    ]
    .iter()
    .flat_map(|row| row.split(' '))
    .chain([
        "",
        " ",
        "\r",
        "1 2",
        "[1 2]",
        "// 1",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1} x",
        "\"\t\"",
        "\"\u{0}\"",
        "\"\u{1f}\"",
        "[\"a\u{7}\"]",
        "\u{a0}1",
        "\u{feff}1",
        "\u{b}1",
        "\"\\u\u{e9}\u{e9}\"",
    ]) {
        assert_eq!(verdict(line), Err(Fault::Syntax), "{line}");
        assert!(serde_json::from_str::<IgnoredAny>(line).is_err(), "the table is wrong about {line}");
    }
}

#[test]
fn byte_in_a_string_is_treated_alike_at_any_position() {
    for filler in ["x", "\u{80}", "!", " "] {
        for at in 0..80 {
            for byte in 0..=0x7f {
                let line = format!("\"{}{}n######\"", filler.repeat(at), char::from(byte));
                let expected = serde_json::from_str::<IgnoredAny>(&line).is_ok();
                assert_eq!(verdict(&line).is_ok(), expected, "byte {byte:#x} behind {at} of {filler:?}");
            }
        }
    }
}

#[test]
fn depth_is_counted_from_the_outermost() {
    assert_eq!(DEPTH_MAX, 127);
    let array = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let object = |depth: usize| format!("{}{{}}{}", "{\"a\":".repeat(depth - 1), "}".repeat(depth - 1));
    let in_data = |depth: usize| format!("{{\"type\":\"t\",\"data\":{}}}", array(depth - 1));
    let in_other = |depth: usize| format!("{{\"other\":{}}}", object(depth - 1));
    let in_meta = |depth: usize| format!("{{\"meta\":{{\"a\":{}}}}}", array(depth - 2));
    let mixed = |depth: usize| format!("[{}]", object(depth - 1));
    // What is closed no longer counts.
    let wide = |depth: usize| format!("[{},{}]", vec!["[{}]"; 500].join(","), array(depth - 1));
    let shapes: [&dyn Fn(usize) -> String; 7] =
        [&array, &object, &in_data, &in_other, &in_meta, &mixed, &wide];
    for shape in shapes {
        assert_eq!(verdict(&shape(127)), Ok(()), "{}", shape(127));
        assert_eq!(verdict(&shape(128)), Err(Fault::TooDeep), "{}", shape(128));
    }
    assert_eq!(verdict(&"[".repeat(60_000)), Err(Fault::TooDeep), "refused without recursion");
    assert_eq!(verdict(&format!("\"{}\"", "[{".repeat(200))), Ok(()), "brackets in a string are text");
}

#[test]
fn repeated_protocol_key_is_refused() {
    for line in [
        r#"{"type":"a","type":"a"}"#,
        r#"{"type":"a","\u0074ype":"b"}"#,
        r#"{"\u0064ata":1,"x":2,"data":3}"#,
        r#"{"from":null,"from":null}"#,
        r#"{"ts":1,"\u0074\u0073":1}"#,
        r#"{"meta":{},"meta":{}}"#,
        r#"{"meta":1,"meta":{}}"#,
        r#"{"meta":{},"m\u0065ta":1}"#,
        r#"{"meta":{"authToken":"a"},"meta":{"authToken":"a"}}"#,
        r#"{"meta":{"authToken":"a"},"meta":{}}"#,
        r#"{"meta":{"authToken":"a","authToken":"a"}}"#,
        r#"{"meta":{"authToken":1,"\u0061uth\u0054oken":"a"}}"#,
    ] {
        assert_eq!(verdict(line), Err(Fault::Repeated), "{line}");
    }
}

#[test]
fn finds_the_values_of_the_keys() {
    // `type`, `data`, `from`, `ts`, `meta` and `meta.authToken` as they are written; "" for none.
    for (line, values) in [
        ("{}", [""; 6]),
        ("[{\"type\":1}]", [""; 6]),
        ("\"type\"", [""; 6]),
        (
            r#" {"type" : "a" , "data":[1, {}],"from":null,"ts":-1.5e3 ,"meta":{ "authToken" : "x" } } "#,
            [r#""a""#, "[1, {}]", "null", "-1.5e3", r#"{ "authToken" : "x" }"#, r#""x""#],
        ),
        (
            r#"{"\u0074ype":"\u0061","met\u0061":{"auth\u0054oken":{"a":1}},"x":{"data":1},"type\u0000":2}"#,
            [r#""\u0061""#, "", "", "", r#"{"auth\u0054oken":{"a":1}}"#, r#"{"a":1}"#],
        ),
        (r#"{"meta":["authToken"],"authToken":"x"}"#, ["", "", "", "", r#"["authToken"]"#, ""]),
        (
            r#"{"meta":{"a":{"authToken":1},"authTokens":2,"authToke":3,"\ud83dauthToken":4}}"#,
            ["", "", "", "", r#"{"a":{"authToken":1},"authTokens":2,"authToke":3,"\ud83dauthToken":4}"#, ""],
        ),
    ] {
        let found = scan(line).unwrap();
        let raw = five(found.fields()).into_iter().chain([found.auth_token()]);
        let raw: Vec<_> = raw.map(|field| field.map_or("", |field| field.raw(line))).collect();
        assert_eq!(raw, values, "{line}");
    }
    assert!(scan(" {} ").unwrap().is_object());
    assert!(!scan("[]").unwrap().is_object());
}

fn five(fields: Fields) -> [Option<udsmsg::parts::json::Field>; 5] {
    [fields.kind, fields.data, fields.from, fields.ts, fields.meta]
}

#[test]
fn reports_the_kind_of_each_value() {
    for (value, kind) in [
        ("null", Kind::Null),
        ("true", Kind::Bool),
        ("false", Kind::Bool),
        ("-0.5", Kind::Number),
        ("\"a\"", Kind::Text { escaped: false }),
        ("\"\\n\"", Kind::Text { escaped: true }),
        ("[\"\\n\"]", Kind::Array),
        ("{\"\\n\":1}", Kind::Object),
    ] {
        for (at, key) in ["type", "data", "from", "ts", "meta"].into_iter().enumerate() {
            let line = format!("{{\"{key}\":{value}}}");
            let kinds = five(scan(&line).unwrap().fields()).map(|field| field.map(|field| field.kind()));
            let mut expected = [None; 5];
            expected[at] = Some(kind);
            assert_eq!(kinds, expected, "{line}");
        }
    }
}

/// `line` without its token, after a look at whether the fields that come with it are those of that text.
fn redacted(line: &str) -> String {
    let found = scan(line).unwrap();
    let Redacted { head, tail, fields } = found.redact(line);
    let text = format!("{head}{tail}");
    assert_eq!(found.redact(line).len(), text.len());
    let again = scan(&text).unwrap_or_else(|refusal| panic!("{line} became {text}: {refusal}"));
    assert_eq!(again.fields(), fields, "the fields of {line} cut to {text}");
    assert_eq!(again.auth_token(), None, "{line} cut to {text}");
    text
}

#[test]
fn the_token_is_cut_out_with_one_comma() {
    for (line, expected) in [
        // The only member of `meta`: `meta` is cut out too.
        (r#"{"type":"text","meta":{"authToken":"x"},"data":"y"}"#, r#"{"type":"text","data":"y"}"#),
        (r#"{"type":"text","meta":{"authToken":"x"}}"#, r#"{"type":"text"}"#),
        (r#"{"meta":{"authToken":"x"},"type":"text"}"#, r#"{"type":"text"}"#),
        (r#"{"meta":{"authToken":"x"}, "type":"text"}"#, r#"{"type":"text"}"#),
        (r#"{ "meta" : { "authToken" : "x" } , "type":"text" }"#, r#"{ "type":"text" }"#),
        (r#"{ "a":1 , "meta" : { "authToken" : "x" } , "b":2 }"#, r#"{ "a":1  , "b":2 }"#),
        (r#"{"meta":{"authToken":"x"}}"#, "{}"),
        (r#"{ "meta":{"authToken":"x"} }"#, "{  }"),
        // There are others in it.
        (r#"{"type": "text", "meta": {"authToken": "t", "a": 1}}"#, r#"{"type": "text", "meta": {"a": 1}}"#),
        (r#"{"meta":{"a":1,"authToken":"t"},"type":"t"}"#, r#"{"meta":{"a":1},"type":"t"}"#),
        (r#"{"meta":{"a":1,"authToken":"t","b":2},"type":"t"}"#, r#"{"meta":{"a":1,"b":2},"type":"t"}"#),
        (r#"{"meta":{ "a":1 , "authToken" : "t" , "b":2 }}"#, r#"{"meta":{ "a":1  , "b":2 }}"#),
        ("{\"meta\":{ \"authToken\" : \"t\" ,\t \"b\":2 }}", r#"{"meta":{ "b":2 }}"#),
        (r#"{"meta":{"authToken":[{}],"a":"authToken"}}"#, r#"{"meta":{"a":"authToken"}}"#),
        // Escapes and wide characters, in the key and around it.
        (r#"{"m\u0065ta":{"\u0061uthToken":"\u0074"},"type":"t"}"#, r#"{"type":"t"}"#),
        (r#"{"é":"😀","meta":{"authToken":"ü"},"ts":"ß"}"#, r#"{"é":"😀","ts":"ß"}"#),
        // The white space around it is cut, the rest stays.
        (" { \"meta\":{\"authToken\":\"t\"},\"ts\":\"1\" } ", r#"{ "ts":"1" }"#),
        (" \t{\"type\":\"t\" ,\"meta\":{ }}\r", r#"{"type":"t" ,"meta":{ }}"#),
        (r#"{"meta":"authToken","authToken":"x"}"#, r#"{"meta":"authToken","authToken":"x"}"#),
        (
            r#"{"x":{"authToken":1},"meta":{"m":{"authToken":1}}}"#,
            r#"{"x":{"authToken":1},"meta":{"m":{"authToken":1}}}"#,
        ),
        (" 17 ", "17"),
    ] {
        assert_eq!(redacted(line), expected, "{line}");
    }
}

#[test]
fn debug_text_does_not_show_what_was_cut() {
    let line = r#"{"type":"t","data":"secret","meta":{"authToken":"x"}}"#;
    assert_eq!(format!("{:?}", scan(line).unwrap().redact(line)), "Redacted(27 + 1 bytes)");
}

#[test]
fn strings_are_decoded_and_lone_surrogates_replaced() {
    for (raw, decoded) in [
        (r#""""#, ""),
        (r#""plain é 😀""#, "plain é 😀"),
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""a\u0041\u00e9\u20AC\u0000z""#, "aAé€\0z"),
        (r#""\ud83d\ude00""#, "😀"),
        (r#""\uD83D\uDE00!""#, "😀!"),
        (r#""\ud83d""#, "\u{fffd}"),
        (r#""\ude00""#, "\u{fffd}"),
        (r#""\ud83dx""#, "\u{fffd}x"),
        (r#""\ud83d\n""#, "\u{fffd}\n"),
        (r#""\ud83d\u0041""#, "\u{fffd}A"),
        (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\udbff\udfff\ud800\udc00""#, "\u{10ffff}\u{10000}"),
        (r#""\ud83d\\ude00""#, "\u{fffd}\\ude00"),
        (r#""\ud83d\ue000\ud83d\udbff""#, "\u{fffd}\u{e000}\u{fffd}\u{fffd}"),
        (r#""\ud7ff\udc00\udc00\udfff""#, "\u{d7ff}\u{fffd}\u{fffd}\u{fffd}"),
    ] {
        let line = format!("{{\"data\":{raw}}}");
        let field = scan(&line).unwrap().fields().data.unwrap();
        let text = field.text(&line).unwrap();
        assert_eq!(text, decoded, "{raw}");
        assert_eq!(matches!(text, Cow::Borrowed(_)), !raw.contains('\\'), "{raw} is copied if it must be");
        assert_eq!(decode_by_utf16(raw), decoded, "the reference is wrong about {raw}");
        assert_eq!(field.raw("{}"), "", "a field read in another text is empty");
    }
    let line = r#"{"data":["a"]}"#;
    assert_eq!(scan(line).unwrap().fields().data.unwrap().text(line), None);
}

// Comparison with serde_json.

/// The members of an object in their order, repeated ones too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The members of valid JSON: none if it is no object, `None` if serde_json cannot read one of its keys.
fn members(json: &str) -> Option<Vec<(String, &str)>> {
    if !json.trim_ascii().starts_with('{') {
        return Some(Vec::new());
    }
    let members = serde_json::from_str::<Members<'_>>(json).ok()?;
    Some(members.0.into_iter().map(|(key, value)| (key, value.get())).collect())
}

/// How deep valid JSON is nested.
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
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// The value of the one member called `key`; `Err` if there are two.
fn unique<'a>(members: &[(String, &'a str)], key: &str) -> Result<Option<&'a str>, ()> {
    let mut values = members.iter().filter(|(name, _)| name == key).map(|(_, value)| *value);
    let first = values.next();
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

/// A JSON string decoded by way of UTF-16, as JavaScript has it.
fn decode_by_utf16(raw: &str) -> String {
    let mut chars = raw[1..raw.len() - 1].chars();
    let mut units = Vec::new();
    while let Some(char) = chars.next() {
        let decoded = match char {
            '\\' => match chars.next().unwrap() {
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap());
                    continue;
                }
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                itself => itself,
            },
            plain => plain,
        };
        units.extend(decoded.encode_utf16(&mut [0; 2]).iter());
    }
    String::from_utf16_lossy(&units)
}

/// Compares the scan of one line with serde_json in everything in which they must agree.
fn compare(line: &str) -> Result<(), TestCaseError> {
    let ours = scan(line);
    let fault = ours.map(|_| ()).map_err(|refusal| refusal.fault);
    if serde_json::from_str::<IgnoredAny>(line).is_err() {
        prop_assert!(ours.is_err(), "not JSON: {}", line);
        return Ok(());
    }
    if depth(line) > DEPTH_MAX {
        prop_assert!(ours.is_err(), "too deep: {}", line);
        return Ok(());
    }
    // With a key that serde_json does not read, it only proves that the grammar is right.
    prop_assert_ne!(fault, Err(Fault::Syntax), "JSON: {}", line);
    let Some(top) = members(line) else { return Ok(()) };
    let known = ["type", "data", "from", "ts", "meta"].map(|key| unique(&top, key));
    let Some(meta) = members(known[4].ok().flatten().unwrap_or("null")) else { return Ok(()) };
    let auth_token = unique(&meta, "authToken");
    if known.iter().chain([&auth_token]).any(Result::is_err) {
        prop_assert_eq!(fault, Err(Fault::Repeated), "{}", line);
        return Ok(());
    }
    prop_assert_eq!(fault, Ok(()), "{}", line);

    let found = ours.unwrap();
    let fields = five(found.fields()).into_iter().chain([found.auth_token()]);
    for (field, value) in fields.zip(known.into_iter().chain([auth_token])) {
        prop_assert_eq!(field.map(|field| field.raw(line)), value.unwrap(), "{}", line);
        let Some((field, raw)) = field.zip(value.unwrap()) else { continue };
        let text = field.text(line).map(Cow::into_owned);
        prop_assert_eq!(&text, &raw.starts_with('"').then(|| decode_by_utf16(raw)), "{}", line);
        if let Ok(string) = serde_json::from_str::<String>(raw) {
            prop_assert_eq!(text, Some(string), "{}", line);
        }
    }

    let cut = redacted(line);
    if auth_token == Ok(None) {
        prop_assert_eq!(&cut, line.trim_matches([' ', '\t', '\r', '\n']));
        return Ok(());
    }
    // Everything else is still there, in its order and as it was written.
    let cut_top = members(&cut).unwrap();
    let cut_meta = unique(&cut_top, "meta").unwrap();
    let without = |members: &[(String, &str)], key: &str| -> Vec<(String, String)> {
        let left = members.iter().filter(|(name, _)| name != key);
        left.map(|(name, value)| (name.clone(), (*value).to_owned())).collect()
    };
    prop_assert_eq!(without(&cut_top, "meta"), without(&top, "meta"), "{}", line);
    prop_assert_eq!(cut_meta.is_none(), meta.len() == 1, "{}", line);
    let cut_meta = members(cut_meta.unwrap_or("{}")).unwrap();
    prop_assert_eq!(without(&cut_meta, ""), without(&without_token(&meta), ""), "{}", line);
    let position = |members: &[(String, &str)]| members.iter().position(|(name, _)| name == "meta");
    prop_assert!(cut_meta.is_empty() || position(&cut_top) == position(&top), "{}", line);
    Ok(())
}

fn without_token<'a>(meta: &[(String, &'a str)]) -> Vec<(String, &'a str)> {
    meta.iter().filter(|(name, _)| name != "authToken").cloned().collect()
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just(""), 2 => Just(" "), 1 => Just("\t\r\n ")]
}

fn string() -> impl Strategy<Value = String> {
    let escapes =
        ["\\n", "\\\"", "\\\\", "\\/", "\\u0041", "\\ud83d", "\\ude00", "\\ud83d\\ude00", "\\uDBFF"];
    let piece = prop_oneof![
        4 => "[a-z !#\\[\\]{},:]{0,12}",
        1 => "[a-z]{30,80}",
        2 => "\\PC{0,4}".prop_map(|text| text.replace(['"', '\\'], "")),
        2 => select(escapes.to_vec()).prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn key() -> impl Strategy<Value = String> {
    let known = ["type", "data", "from", "ts", "meta", "authToken"];
    let escaped = ["\\u0074ype", "met\\u0061", "auth\\u0054oken", "t\\u0073"];
    let known = select([&known[..], &escaped].concat()).prop_map(|key| format!("\"{key}\""));
    prop_oneof![1 => known, 2 => string()]
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((key(), blank(), value, blank()), 0..5).prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(key, a, value, b)| format!("{a}{key}{b}:{a}{value}{b}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn value() -> impl Strategy<Value = String> {
    let plain = select(vec!["null", "true", "false", "0", "-1", "1.5", "1e400", "-0.0E+7", "[]", "{ }"]);
    let leaf = prop_oneof![string(), plain.prop_map(String::from)];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let array = (prop::collection::vec(inner.clone(), 0..5), blank())
            .prop_map(|(items, blank)| format!("[{blank}{}{blank}]", items.join(&format!("{blank},"))));
        prop_oneof![array, object(inner)]
    })
}

/// `object` and one member more, in front of the others or behind them.
fn insert(object: &str, member: &str, is_front: bool) -> String {
    match object[1..object.len() - 1].trim_ascii() {
        "" => format!("{{{member}}}"),
        others if is_front => format!("{{{member},{others}}}"),
        others => format!("{{{others},{member}}}"),
    }
}

fn line() -> impl Strategy<Value = String> {
    let with_token = (object(value()), object(value()), blank(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(top, meta, blank, is_alone, is_front, is_top_front)| {
            let meta = if is_alone { "{}" } else { &meta };
            let meta = insert(meta, &format!("{blank}\"authToken\":{blank}\"t\"{blank}"), is_front);
            insert(&top, &format!("{blank}\"meta\"{blank}:{meta}{blank}"), is_top_front)
        });
    let line = prop_oneof![1 => value(), 2 => object(value()), 3 => with_token];
    (blank(), line, blank()).prop_map(|(before, line, behind)| format!("{before}{line}{behind}"))
}

/// Bytes with and without a meaning in JSON, where they are put, and how.
fn damage() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    let meaningful = select(b"\"\\{}[],: \t\n0123456789eE+-.untrfalse/".to_vec());
    let byte = prop_oneof![4 => meaningful, 1 => any::<u8>()];
    prop::collection::vec((any::<Index>(), 0..4_u8, byte), 0..4)
}

/// Cases for one property: `short` times `UDSMSG_TEST_SCALE`.
fn cases(short: u32) -> ProptestConfig {
    let scale = std::env::var("UDSMSG_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    ProptestConfig {
        cases: short.saturating_mul(scale),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn agrees_with_serde_json(line in line()) {
        compare(&line)?;
    }

    #[test]
    fn agrees_with_serde_json_about_damaged_lines(line in line(), damage in damage()) {
        let mut bytes = line.into_bytes();
        for (at, how, byte) in damage {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at.max(bytes.len() / 2)),
                _ if at == bytes.len() => bytes.push(byte),
                2 => bytes[at] = byte,
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(line) = std::str::from_utf8(&bytes) {
            compare(line)?;
        }
    }
}
