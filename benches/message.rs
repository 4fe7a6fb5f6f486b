//! The cost of one message: the pass over its line, the token, the answer; serde_json for comparison.
//!
//! `cargo bench --no-default-features --bench message`

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot run should say so")]

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use udsmsg::parts::json::scan;
use udsmsg::parts::{AuthToken, Reply, Request};
use udsmsg::{Message, Outgoing};

const NOW: &str = "2026-11-22T10:00:00.000Z";
const FROM: &str = "/tmp/claude-code-socks/12345-0123456789abcdef0123456789abcdef/messaging.sock";

fn auth_token() -> AuthToken {
    AuthToken::from_bytes([0xa5; 32])
}

/// A line, without its newline, whose payload is `text`.
fn line(text: &str) -> Vec<u8> {
    let mut line =
        Outgoing::new("text").with_text(text).encode(&auth_token(), Some(FROM), Some(NOW), 1 << 20).unwrap();
    line.pop();
    line
}

/// 330 bytes, the size of a typical message.
fn typical() -> Vec<u8> {
    let line = line(
        "The build is green again; the parser test was flaky because of a shared socket path. Merge it away!",
    );
    assert_eq!(line.len(), 330);
    line
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read for the cost of reading")]
struct Borrowed<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    data: Cow<'a, str>,
    from: Option<&'a str>,
    ts: Option<&'a str>,
    #[serde(borrow)]
    meta: BorrowedMeta<'a>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read for the cost of reading")]
#[serde(rename_all = "camelCase")]
struct BorrowedMeta<'a> {
    auth_token: &'a str,
}

fn lines(c: &mut Criterion) {
    let token = auth_token();
    let spaced =
        String::from_utf8(typical()).unwrap().replace("\":", "\": ").replace(",\"", ", \"").into_bytes();
    let escaped = line(&"a \"quoted\" word,\n".repeat(1_620));
    for (name, line) in [
        ("330 bytes", typical()),
        ("330 bytes, spaced", spaced),
        ("32 KiB of text", line(&"x".repeat(32_500))),
        ("32 KiB, three escapes in 20 bytes", escaped),
        ("32 KiB, every fourth letter beyond ASCII", line(&"über Größe ".repeat(2_300))),
    ] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function("UTF-8, std", |b| {
            b.iter(|| std::str::from_utf8(black_box(&line)).unwrap().len())
        });
        group.bench_function("UTF-8, simdutf8", |b| {
            b.iter(|| simdutf8::basic::from_utf8(black_box(&line)).unwrap().len());
        });
        let text = std::str::from_utf8(&line).unwrap();
        group.bench_function("scan", |b| b.iter(|| scan(black_box(text)).unwrap()));
        group.bench_function("request", |b| {
            b.iter(|| {
                let read = Request::from_line(black_box(&line), black_box(&token));
                assert!(matches!(read, (Request::Deliver(_), true)));
            });
        });
        group.bench_function("serde_json, borrowed", |b| {
            b.iter(|| serde_json::from_slice::<Borrowed<'_>>(black_box(&line)).unwrap());
        });
        group.bench_function("serde_json, Value", |b| {
            b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&line)).unwrap());
        });
        group.finish();
    }
}

fn auth(c: &mut Criterion) {
    let token = auth_token();
    let other = AuthToken::from_bytes([0x5a; 32]);
    c.bench_function("token, right", |b| b.iter(|| token.matches(black_box(token.expose().as_bytes()))));
    c.bench_function("token, wrong", |b| b.iter(|| token.matches(black_box(other.expose().as_bytes()))));
    c.bench_function("token, missing", |b| b.iter(|| token.matches(black_box(b""))));
}

fn views(c: &mut Criterion) {
    let line = String::from_utf8(typical()).unwrap();
    let message = Message::from_json(&line).unwrap();
    c.bench_function("view: kind, data, from, ts", |b| {
        b.iter(|| {
            let message = black_box(message);
            (message.kind(), message.data().and_then(|data| data.text()), message.from(), message.ts())
        });
    });
}

fn replies(c: &mut Criterion) {
    let mut out = Vec::with_capacity(4096);
    let from_json = udsmsg::parts::json::quote(FROM);
    for (name, reply) in [
        ("reply: response", Reply::Response { number: 123_456 }),
        ("reply: pong", Reply::Pong { from_json: &from_json }),
        ("reply: error", Reply::Error { text: "invalid frame" }),
    ] {
        c.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                black_box(&reply).encode(black_box(NOW), &mut out);
                black_box(out.len())
            });
        });
    }
    let outgoing = Outgoing::new("text").with_text("The build is green again");
    let token = auth_token();
    c.bench_function("outgoing: encode", |b| {
        b.iter(|| black_box(&outgoing).encode(&token, Some(FROM), Some(NOW), 65_536).unwrap());
    });
}

criterion_group!(benches, lines, auth, views, replies);
criterion_main!(benches);
