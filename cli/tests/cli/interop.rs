//! The same protocol from another language: `tests/node/peer.mjs` as client and as server.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::util::{Ended, FRAME_BYTES_MAX, Home, Process, Serve, empty_text_len, exists, scale};

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/peer.mjs");

/// The client of a first-time reader of README.
const FIRST_CLIENT: &str = r#"
const s = process.argv[1].replace(/^uds:/, '');
const h = require('crypto').createHash('sha256').update(s).digest('hex');
const f = `${process.env.CLAUDE_CONFIG_DIR}/messaging-capabilities/${h}.json`;
const t = JSON.parse(require('fs').readFileSync(f)).authToken;
require('net').connect(s).on('data', d => process.stdout.write(d))
  .end(JSON.stringify({ type: 'text', data: 'hello from node', meta: { authToken: t } }) + '\n');
"#;

/// `node` with `args`. Without Node the tests fail: a skipped test shows nothing.
fn node(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command("node");
    let version = Command::new("node").arg("--version").stdout(Stdio::null()).status();
    assert!(
        version.is_ok_and(|status| status.success()),
        "`node` is needed for the interop tests and cannot be run: install Node.js 18 or newer"
    );
    command.args(args);
    command
}

/// A running server in Node.
#[track_caller]
pub(crate) fn node_server(home: &Home) -> Serve {
    let socket = home.path().join("theirs/s.sock").to_str().unwrap().to_owned();
    let mut command = node(home, &[PEER, "serve", &socket]);
    command.stdin(Stdio::piped());
    let server = Serve::start(command);
    assert_eq!(server.socket, socket);
    server
}

#[track_caller]
fn run(home: &Home, args: &[&str]) -> Ended {
    Process::spawn(node(home, args)).end()
}

#[track_caller]
fn answers(home: &Home, args: &[&str]) -> Value {
    let ended = run(home, args);
    ended.assert_code(0);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[test]
fn node_client_of_a_few_lines_delivers_a_message() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let ended = run(&home, &["-e", FIRST_CLIENT, &format!("uds:{}", serve.socket)]);
    let answer: Value = serde_json::from_str(&ended.assert_code(0).stdout).unwrap();
    assert_eq!((&answer["type"], &answer["data"]), (&json!("response"), &json!("ok")));
    assert_eq!(answer["meta"], json!({"id": "uds-1"}));
    assert_eq!(serve.entry().message.get(), r#"{"type":"text","data":"hello from node"}"#);
    serve.stop().assert_clean(0);
}

#[test]
fn burst_of_messages_is_answered_in_order_after_a_half_close() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    // The last text ends in the middle of an emoji, as JavaScript can cut it.
    let messages = r#"[
        {"type":"text","data":"plain","ts":null},
        {"type":"ping"},
        {"type":"query","data":{"deep":[1,{"a":null}]},"from":"/tmp/x.sock",
         "meta":{"queryId":"q-1","hops":2}},
        {"type":"own","data":"zażółć 日本 🎉 \u2028","more":[true]},
        {"type":"text","data":"cut \ud83d","ts":"2026-11-22T10:00:00.000Z"}
    ]"#;
    let answers = answers(&home, &[PEER, "burst", &serve.socket, messages]);
    let kinds: Vec<_> =
        answers.as_array().unwrap().iter().map(|answer| answer["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["response", "pong", "response", "response", "response"]);
    assert_eq!(answers[1]["from"], *serve.socket);
    let ids: Vec<_> =
        [0, 2, 3, 4].iter().map(|&n: &usize| answers[n]["meta"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["uds-1", "uds-2", "uds-3", "uds-4"]);

    assert_eq!(serve.entry().message.get(), r#"{"ts":null,"type":"text","data":"plain"}"#);
    let query = serve.entry().json();
    assert_eq!((&query["data"], &query["from"]), (&json!({"deep": [1, {"a": null}]}), &json!("/tmp/x.sock")));
    assert_eq!(query["meta"], json!({"queryId": "q-1", "hops": 2}));
    let own = serve.entry().json();
    assert_eq!((&own["data"], &own["more"]), (&json!("zażółć 日本 🎉 \u{2028}"), &json!([true])));
    let cut = serve.entry();
    assert!(cut.message.get().contains(r#""data":"cut \ud83d""#), "{}", cut.message.get());
    serve.stop().assert_clean(0);
}

#[test]
fn messages_after_a_bad_frame_are_dropped() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let messages = r#"[{"type":"text","data":"good"},{"type":7},{"type":"text","data":"too late"}]"#;
    let answers = answers(&home, &[PEER, "burst", &serve.socket, messages]);
    let data: Vec<_> = answers.as_array().unwrap().iter().map(|answer| &answer["data"]).collect();
    assert_eq!(data, ["ok", "invalid frame"]);
    let stopped = serve.stop();
    assert_eq!(stopped.assert_clean(0).entries.len(), 1);
}

#[test]
fn message_sent_byte_by_byte_is_accepted() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let answers = answers(&home, &[PEER, "crumbs", &serve.socket]);
    assert_eq!(answers[0]["meta"]["id"], "uds-1");
    assert_eq!(serve.entry().json()["data"], "brösel 🍞");
    serve.stop().assert_clean(0);
}

#[test]
fn thousand_messages_of_fifty_clients_arrive_exactly_once() {
    for _ in 0..scale() {
        let home = Home::new();
        let serve = home.serve(&[]);
        let pairs = answers(&home, &[PEER, "flood", &serve.socket, "50", "20"]);
        let pairs: Vec<(String, String)> = serde_json::from_value(pairs).unwrap();
        let answered: BTreeMap<String, String> = pairs.into_iter().collect();
        let stopped = serve.stop();
        let printed = &stopped.assert_clean(0).entries;
        let ids: Vec<_> = printed.iter().map(|entry| entry.id.clone()).collect();
        assert_eq!(ids, (1..=1_000).map(|number| format!("uds-{number}")).collect::<Vec<_>>());
        let arrived: BTreeMap<String, String> = printed
            .iter()
            .map(|entry| (entry.id.clone(), entry.json()["data"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(arrived, answered);
        let mut data: Vec<_> = arrived.values().collect();
        data.sort();
        data.dedup();
        assert_eq!(data.len(), 1_000);
    }
}

#[test]
fn commands_reach_a_node_server() {
    let home = Home::new();
    let mut server = node_server(&home);
    let socket = server.socket.clone();

    let pong: Value = serde_json::from_str(&home.run(&["ping", &socket]).assert_code(0).stdout).unwrap();
    assert_eq!(pong["event"], "pong");
    let uds = format!("uds:{socket}");
    for (number, data) in ["hello", "", "-x", "zażółć 日本 🎉", "\"\\\n"].into_iter().enumerate() {
        let ended = home.run(&["send", &uds, "text", data]);
        let receipt: Value = serde_json::from_str(&ended.assert_code(0).stdout).unwrap();
        let line = server.line();
        let arrived: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&receipt["id"], &arrived["id"]), (&json!(format!("uds-{}", number + 1)), &receipt["id"]));
        assert_eq!(
            (&arrived["message"]["type"], &arrived["message"]["data"]),
            (&json!("text"), &json!(data))
        );
        assert_eq!(arrived["message"].get("meta"), None, "only the token was in `meta`");
    }
    home.run(&["send", &uds, "text", "refuse me"]).assert_refused("inbox full");

    // A wrong token is refused by the server; without a token there is no connection.
    let file = home.capability_file(&socket);
    home.publish(&socket);
    home.run(&["send", &uds, "text", "x"]).assert_refused("unauthorized");
    std::fs::remove_file(&file).unwrap();
    home.run(&["send", &uds, "text", "x"]).assert_refused("Cannot send UDS message without auth token");
    assert!(!exists(&file) && server.is_running());
}

#[test]
fn message_at_the_frame_limit_passes_in_both_directions() {
    let home = Home::new();
    let mut server = node_server(&home);
    let socket = server.socket.clone();
    let data = "x".repeat(FRAME_BYTES_MAX - empty_text_len());
    home.run(&["send", &socket, "text", &data]).assert_code(0);
    let arrived: Value = serde_json::from_str(&server.line()).unwrap();
    assert_eq!(arrived["message"]["data"], *data);

    let mut ours = home.serve(&[]);
    let message = |len: usize| {
        json!([{"type": "text", "data": "x".repeat(len), "ts": "2026-11-22T10:00:00.000Z"}]).to_string()
    };
    let fitting = answers(&home, &[PEER, "burst", &ours.socket, &message(data.len())]);
    assert_eq!(fitting[0]["data"], "ok");
    assert_eq!(ours.entry().json()["data"], *data);
    let beyond = answers(&home, &[PEER, "burst", &ours.socket, &message(data.len() + 1)]);
    assert_eq!(beyond[0]["data"], "NDJSON frame exceeded 65536 bytes (65537)");
    ours.stop().assert_clean(0);
}
