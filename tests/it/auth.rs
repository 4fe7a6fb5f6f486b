//! Authentication: which peers are served, in which order a message is checked, and what the owner gets.

use udsmsg::PeerIdentity;

use crate::util::conversation::{Case, Expect, ExpectEnd, Inbox, accepted, check, refused, send};
use crate::util::sim::{OWNER, Sim};
use crate::util::{error, ok, ping, stored, text};

const INVALID: &str = "invalid frame";
const UNAUTHORIZED: &str = "unauthorized";

#[test]
fn json_is_checked_before_the_token() {
    check(&[
        refused("no JSON", "hello", INVALID),
        refused("half an object", r#"{"type":"text""#, INVALID),
        refused("two values", r#"{"type":"text","meta":{"authToken":"$TOKEN"}} {}"#, INVALID),
        refused("a trailing comma", r#"{"type":"text",}"#, INVALID),
        refused("invalid UTF-8", b"{\"type\":\"t\xff\",\"meta\":{\"authToken\":\"$TOKEN\"}}", INVALID),
        refused(
            "a byte order mark",
            "\u{feff}{\"type\":\"text\",\"meta\":{\"authToken\":\"$TOKEN\"}}",
            INVALID,
        ),
        refused(
            "a bad number behind a wrong token",
            r#"{"meta":{"authToken":"no"},"type":"text","x":01}"#,
            INVALID,
        ),
        refused("a control character", "{\"type\":\"a\x01\"}", INVALID),
        refused("NaN", r#"{"type":"text","data":NaN}"#, INVALID),
    ]);
}

#[test]
fn the_token_is_checked_before_the_types() {
    check(&[
        refused("no token and no type", "{}", UNAUTHORIZED),
        refused("no token and a bad type", r#"{"type":5}"#, UNAUTHORIZED),
        refused("an array", "[]", UNAUTHORIZED),
        refused("a string", r#""$TOKEN""#, UNAUTHORIZED),
        refused("a number", "7", UNAUTHORIZED),
        refused("null", "null", UNAUTHORIZED),
        refused("true", "true", UNAUTHORIZED),
        refused("meta is an array", r#"{"type":"text","meta":["$TOKEN"]}"#, UNAUTHORIZED),
        refused("meta is a string", r#"{"type":"text","meta":"$TOKEN"}"#, UNAUTHORIZED),
        refused("meta is null", r#"{"type":"text","meta":null}"#, UNAUTHORIZED),
        refused("the token is an array", r#"{"type":"text","meta":{"authToken":["$TOKEN"]}}"#, UNAUTHORIZED),
        refused("the token is null", r#"{"type":"text","meta":{"authToken":null}}"#, UNAUTHORIZED),
        refused("the token is empty", r#"{"type":"text","meta":{"authToken":""}}"#, UNAUTHORIZED),
        refused("one digit more", r#"{"type":"text","meta":{"authToken":"$TOKEN0"}}"#, UNAUTHORIZED),
        refused("a space before it", r#"{"type":"text","meta":{"authToken":" $TOKEN"}}"#, UNAUTHORIZED),
        refused("a NUL behind it", r#"{"type":"text","meta":{"authToken":"$TOKEN\u0000"}}"#, UNAUTHORIZED),
        refused("the key in other letters", r#"{"type":"text","meta":{"authtoken":"$TOKEN"}}"#, UNAUTHORIZED),
        refused("at the top", r#"{"type":"text","authToken":"$TOKEN"}"#, UNAUTHORIZED),
        refused("one level too deep", r#"{"type":"text","meta":{"x":{"authToken":"$TOKEN"}}}"#, UNAUTHORIZED),
        refused("a ping without token", r#"{"type":"ping"}"#, UNAUTHORIZED),
    ]);
}

#[test]
fn the_types_are_checked_last() {
    let with = |members: &str| format!("{{{members}\"meta\":{{\"authToken\":\"$TOKEN\"}}}}");
    check(&[
        refused("no type", with(""), INVALID),
        refused("type is null", with(r#""type":null,"#), INVALID),
        refused("type is a number", with(r#""type":1,"#), INVALID),
        refused("type is an array", with(r#""type":["ping"],"#), INVALID),
        refused("from is a number", with(r#""type":"text","from":1,"#), INVALID),
        refused("from is an object", with(r#""type":"text","from":{},"#), INVALID),
        refused("ts is a number", with(r#""type":"text","ts":17,"#), INVALID),
        refused("ts is false", with(r#""type":"ping","ts":false,"#), INVALID),
        accepted(
            "from and ts may be null",
            with(r#""type":"text","from":null,"ts":null,"#),
            r#"{"type":"text","from":null,"ts":null}"#,
        ),
        accepted("any type goes through", with(r#""type":"","#), r#"{"type":""}"#),
        accepted("PING is no ping", with(r#""type":"PING","#), r#"{"type":"PING"}"#),
        accepted(
            "data of any kind",
            with(r#""type":"q","data":[1e400,{"a":null}],"#),
            r#"{"type":"q","data":[1e400,{"a":null}]}"#,
        ),
        accepted(
            "a number of 30 digits",
            with(r#""type":"q","n":123456789012345678901234567890,"#),
            r#"{"type":"q","n":123456789012345678901234567890}"#,
        ),
        accepted(
            "a lone surrogate",
            with(r#""type":"q","data":"\ud83d","#),
            r#"{"type":"q","data":"\ud83d"}"#,
        ),
    ]);
}

#[test]
fn repeated_keys_are_refused_where_they_matter() {
    let with =
        |members: &str| format!("{{\"type\":\"text\",{members}\"meta\":{{\"authToken\":\"$TOKEN\"}}}}");
    check(&[
        refused("type", with(r#""type":"text","#), INVALID),
        refused("type, escaped", with(r#""\u0074ype":"text","#), INVALID),
        refused("data", with(r#""data":1,"data":1,"#), INVALID),
        refused("from", with(r#""from":"a","from":"a","#), INVALID),
        refused("ts", with(r#""ts":null,"ts":null,"#), INVALID),
        refused("meta", with(r#""meta":{},"#), INVALID),
        refused(
            "the token",
            r#"{"type":"text","meta":{"authToken":"$TOKEN","authToken":"$TOKEN"}}"#,
            INVALID,
        ),
        refused(
            "the token, escaped",
            r#"{"type":"text","meta":{"authToken":"$TOKEN","auth\u0054oken":"$TOKEN"}}"#,
            INVALID,
        ),
        accepted("another key", with(r#""x":1,"x":2,"#), r#"{"type":"text","x":1,"x":2}"#),
        accepted(
            "another key in meta",
            r#"{"type":"text","meta":{"authToken":"$TOKEN","x":1,"x":2}}"#,
            r#"{"type":"text","meta":{"x":1,"x":2}}"#,
        ),
        accepted(
            "keys of the protocol deeper down",
            with(r#""data":{"type":1,"type":2},"#),
            r#"{"type":"text","data":{"type":1,"type":2}}"#,
        ),
    ]);
}

#[test]
fn escaped_keys_and_tokens_are_recognised() {
    let escaped: String =
        crate::util::sim::token().expose().bytes().map(|b| format!("\\u{:04x}", u32::from(b))).collect();
    let mut sim = Sim::new(|_| ());
    let peer = sim.join();
    let line = format!("{{\"type\":\"text\",\"meta\":{{\"authToken\":\"{escaped}\"}}}}\n");
    assert!(sim.ask(peer, line.as_bytes()).contains("uds-1"));
    let line = "{\"\\u0074ype\":\"p\\u0069ng\",\"met\\u0061\":{\"\\u0061uthToken\":\"$TOKEN\"}}\n";
    assert!(sim.ask(peer, line.as_bytes()).contains("pong"));
    assert_eq!(sim.drain(), [r#"{"type":"text"}"#]);
}

#[test]
fn nesting_deeper_than_127_is_refused() {
    // The outermost object is level 1; "meta" is beside the nested value, not around it.
    let nested = |depth: usize| {
        let inner = depth - 1;
        format!(
            "{{\"type\":\"q\",\"data\":{}{},\"meta\":{{\"authToken\":\"$TOKEN\"}}}}",
            "[".repeat(inner),
            "]".repeat(inner)
        )
    };
    let stored = nested(127).replace(r#","meta":{"authToken":"$TOKEN"}"#, "");
    check(&[
        accepted("127", nested(127), &stored),
        refused("128", nested(128), INVALID),
        refused("128, without a token", "[".repeat(128) + &"]".repeat(128), INVALID),
        refused("127, without a token", "[".repeat(127) + &"]".repeat(127), UNAUTHORIZED),
    ]);
}

#[test]
fn token_is_required_on_every_message() {
    check(&[Case::new(
        "the second message has none",
        vec![
            send(text("a")),
            Expect(ok(1)),
            send("{\"type\":\"text\",\"data\":\"b\"}\n"),
            Expect(error(UNAUTHORIZED)),
            ExpectEnd,
            Inbox(vec![stored("a")]),
        ],
    )]);
}

/// A wrong digit at any position is refused.
#[test]
fn every_digit_of_the_token_counts() {
    let token = crate::util::sim::token();
    for at in 0..64 {
        let mut wrong = token.expose().as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
        let wrong = String::from_utf8(wrong).unwrap();
        let mut sim = Sim::new(|_| ());
        let peer = sim.join();
        let line = format!("{{\"type\":\"text\",\"meta\":{{\"authToken\":\"{wrong}\"}}}}\n");
        sim.send(peer, line.as_bytes());
        sim.run();
        sim.expect_error(peer, UNAUTHORIZED);
    }
}

/// A message whose types are wrong is closed as an invalid frame although its token is right, and the line
/// behind it is not answered.
#[test]
fn malformed_message_with_the_token_is_an_invalid_frame() {
    check(&[Case::new(
        "malformed, then good",
        vec![
            send([b"{\"meta\":{\"authToken\":\"$TOKEN\"}}\n".to_vec(), ping()].concat()),
            Expect(error(INVALID)),
            ExpectEnd,
        ],
    )]);
}

#[test]
fn peers_of_other_users_are_closed_without_an_error_line_and_root_is_served() {
    let mut sim = Sim::new(|_| ());
    let foreign = sim.connect_as(PeerIdentity::unix(OWNER + 1, Some(1)));
    let root = sim.connect_as(PeerIdentity::unix(0, None));
    sim.run();
    assert!(sim.peer(foreign).is_turned_away);
    assert_eq!((sim.endpoint.stats().strangers, sim.endpoint.stats().connections), (1, 1));
    assert!(sim.take(foreign).is_empty());
    assert!(sim.ask(root, &ping()).contains("pong"));
}
