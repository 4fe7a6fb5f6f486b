//! What the core allocates: nothing per message once it is warm, and little per connection. Its own binary,
//! because the counting allocator serves the whole process.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "an allocator cannot be written without unsafe, and a test may fail loudly"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use udsmsg::parts::{AuthToken, ConnKey, Mono, Now, Step};
use udsmsg::{Batch, Endpoint, Limits, PeerIdentity, Wall};

struct Counting;

thread_local! {
    // Per thread, so that what the test harness allocates does not count.
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(calls: u64, bytes: i64) {
    CALLS.set(CALLS.get() + calls);
    BYTES.set(BYTES.get() + bytes);
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; the counters
// touch no memory that is handed out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's guarantees about `layout` are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: `memory` came from `alloc` above, so from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn token() -> AuthToken {
    AuthToken::from_bytes([7; 32])
}

fn line(kind: &str) -> Vec<u8> {
    let data = "x".repeat(180);
    let token = token();
    format!(
        r#"{{"type":"{kind}","data":"{data}","from":"/tmp/a.sock","meta":{{"a":1,"authToken":"{}"}}}}{}"#,
        token.expose(),
        '\n'
    )
    .into_bytes()
}

fn at(millis: u64) -> Now {
    Now { mono: Mono::from_nanos(millis * 1_000_000), wall: Wall::from_millis(1_795_341_600_000 + millis) }
}

fn endpoint() -> Endpoint {
    Endpoint::new("/run/a.sock", token(), Limits::default()).unwrap()
}

fn connect(endpoint: &mut Endpoint, now: Now) -> ConnKey {
    endpoint.accepted(PeerIdentity::unix(0, Some(1)), now).unwrap()
}

/// One turn: `bytes` come from `key`, all answers are taken, the owner drains.
fn turn(endpoint: &mut Endpoint, key: ConnKey, bytes: &[u8], batch: &mut Batch, now: Now) -> usize {
    assert_eq!(endpoint.received_bytes(key, bytes, now), bytes.len());
    while let Some((key, step)) = endpoint.next_step() {
        assert_eq!(step, Step::Write);
        let n = endpoint.output(key).len();
        endpoint.sent(key, n, now);
    }
    endpoint.deadlines_reached(now);
    endpoint.turn_ended();
    endpoint.next_deadline().unwrap();
    endpoint.drain_into(batch)
}

#[test]
fn nothing_is_allocated_per_message() {
    let mut endpoint = endpoint();
    let keys: Vec<ConnKey> = (0..8).map(|_| connect(&mut endpoint, at(0))).collect();
    let burst = [line("text"), line("ping"), line("a type of one's own")].concat().repeat(5);
    let mut batch = Batch::new();
    let mut taken = 0;
    let mut before = 0;
    for round in 0..1_000 {
        if round == 10 {
            before = CALLS.get();
        }
        for key in &keys {
            taken += turn(&mut endpoint, *key, &burst, &mut batch, at(round));
            for entry in &batch {
                assert!(entry.message().data().unwrap().text().is_some());
            }
        }
    }
    let calls = CALLS.get() - before;
    eprintln!("{calls} allocations for {taken} messages");
    assert_eq!(taken, 1_000 * 8 * 10);
    assert_eq!(calls, 0);
}

#[test]
fn idle_connection_takes_only_its_slot() {
    let mut endpoint = endpoint();
    let mut batch = Batch::new();
    let first = connect(&mut endpoint, at(0));
    // Both halves of the inbox are reserved when they are first used.
    for _ in 0..2 {
        turn(&mut endpoint, first, &line("text"), &mut batch, at(0));
    }
    let before = BYTES.get();
    for _ in 0..127 {
        let key = connect(&mut endpoint, at(0));
        turn(&mut endpoint, key, &line("text"), &mut batch, at(0));
    }
    assert_eq!(BYTES.get(), before, "slots are reserved at the start");
    let reserved = |clients_max: usize| {
        let mut limits = Limits::default();
        limits.clients_max = clients_max;
        let before = BYTES.get();
        let endpoint = Endpoint::new("/run/a.sock", token(), limits).unwrap();
        let reserved = BYTES.get() - before;
        drop(endpoint);
        reserved
    };
    let each = (reserved(1_128) - reserved(128)) / 1_000;
    eprintln!("a client costs {each} bytes, with the slot in which it may be closing");
    assert!(each <= 1_024, "{each} bytes");
}
