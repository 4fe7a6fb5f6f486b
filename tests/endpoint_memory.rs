//! What an endpoint holds for answers that clients leave unread, counted in bytes of heap against `Limits`.
//! Alone in its program, because it counts what is allocated.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an allocator cannot be written without unsafe, and a test may fail loudly"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use udsmsg::parts::{AuthToken, ConnKey, Now};
use udsmsg::{Endpoint, Limits, PeerIdentity};

struct Counting;

thread_local! {
    // Per thread, because tests run in parallel.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size() as i64);
        // SAFETY: the caller keeps the contract of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size() as i64);
        // SAFETY: the caller keeps the contract of `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOKEN: [u8; 32] = [7; 32];

fn endpoint(tweak: impl FnOnce(&mut Limits)) -> Endpoint {
    let mut limits = Limits::default();
    tweak(&mut limits);
    Endpoint::new("/run/a.sock", AuthToken::from_bytes(TOKEN), limits).unwrap()
}

fn pings(n: usize) -> Vec<u8> {
    let token = AuthToken::from_bytes(TOKEN);
    format!("{{\"type\":\"ping\",\"meta\":{{\"authToken\":\"{}\"}}}}\n", token.expose())
        .repeat(n)
        .into_bytes()
}

fn connect(endpoint: &mut Endpoint) -> ConnKey {
    endpoint.accepted(PeerIdentity::unix(0, Some(1)), Now::default()).unwrap()
}

/// One turn in which `bytes` arrive from `key`; all of them are processed, or as many as there is room to
/// answer.
fn turn(endpoint: &mut Endpoint, key: ConnKey, bytes: &[u8]) {
    endpoint.work(Now::default());
    endpoint.received_bytes(key, bytes, Now::default());
    while endpoint.next_step().is_some() {}
    endpoint.deadlines_reached(Now::default());
    endpoint.turn_ended();
}

/// The client takes answers until `left` bytes are unread.
fn take_all_but(endpoint: &mut Endpoint, key: ConnKey, left: usize) {
    let n = endpoint.output(key).len().saturating_sub(left);
    endpoint.sent(key, n, Now::default());
}

#[test]
fn memory_of_a_client_that_never_reads_all_does_not_grow() {
    let mut endpoint = endpoint(|_| ());
    let key = connect(&mut endpoint);
    let line = pings(1);
    let mut early = 0;
    for round in 0..100_000 {
        turn(&mut endpoint, key, &line);
        assert!(!endpoint.output(key).is_empty());
        take_all_but(&mut endpoint, key, 80);
        if round == 100 {
            early = HELD.get();
        }
    }
    let grown = HELD.get() - early;
    assert!(grown <= 4_096, "{grown} bytes more are held for 80 that are unread");
}

/// The same while much is unread all the time: at most one and a half times the bound.
#[test]
fn memory_of_a_client_that_leaves_much_unread_stays_below_one_and_a_half_bounds() {
    let output_bytes_max = 1 << 20;
    let mut endpoint = endpoint(|l| l.output_bytes_max = output_bytes_max);
    let key = connect(&mut endpoint);
    turn(&mut endpoint, key, &pings(1));
    let before = HELD.get();
    let lines = pings(16);
    let (mut most, mut taken) = (0, 0);
    for _ in 0..60_000 {
        turn(&mut endpoint, key, &lines);
        let unread = endpoint.output(key).len();
        if unread > 900_000 {
            take_all_but(&mut endpoint, key, 898_000);
            taken += unread - 898_000;
        }
        most = most.max(HELD.get() - before);
    }
    assert!(taken > 20 * output_bytes_max, "{taken} bytes were taken");
    // The input of one client, and a little for the queues.
    let bound = output_bytes_max as i64 * 3 / 2 + 80_000;
    assert!(most <= bound, "{most} bytes are held, and {bound} are allowed");
}

#[test]
fn memory_for_many_unread_answers_is_given_back_when_they_are_taken() {
    let mut endpoint = endpoint(|l| l.output_bytes_max = 4 << 20);
    let keys: Vec<ConnKey> = (0..4).map(|_| connect(&mut endpoint)).collect();
    for key in &keys {
        turn(&mut endpoint, *key, &pings(1));
        take_all_but(&mut endpoint, *key, 0);
    }
    let before = HELD.get();
    let lines = pings(16);
    for key in &keys {
        while endpoint.output(*key).len() < 3 << 20 {
            turn(&mut endpoint, *key, &lines);
        }
    }
    let full = HELD.get() - before;
    assert!(full > 12 << 20, "{full} bytes are held for answers");
    for key in &keys {
        take_all_but(&mut endpoint, *key, 0);
    }
    let kept = HELD.get() - before;
    assert!(kept <= 256 << 10, "{kept} bytes are kept for answers that were taken");
}

/// Every client at its bound: the memory is within the sum that `Limits` documents.
#[test]
fn all_clients_at_their_bound_hold_what_limits_say() {
    let (clients_max, output_bytes_max) = (64, 65_536);
    let mut endpoint = endpoint(|l| (l.clients_max, l.output_bytes_max) = (clients_max, output_bytes_max));
    let before = HELD.get();
    let lines = pings(16);
    for _ in 0..clients_max {
        let key = connect(&mut endpoint);
        loop {
            let unread = endpoint.output(key).len();
            turn(&mut endpoint, key, &lines);
            if endpoint.output(key).len() == unread {
                break;
            }
        }
        assert!(endpoint.output(key).len() > output_bytes_max - 1_024);
    }
    let held = HELD.get() - before;
    let limits = Limits::default();
    // Each holds a buffer of input that is not taken up as well.
    let bound = clients_max * (output_bytes_max * 3 / 2 + limits.frame_bytes_max + 2_048);
    assert!(held <= bound as i64, "{held} bytes are held, and {bound} are allowed");
}
