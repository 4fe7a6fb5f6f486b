//! The memory of an outbox while it writes to a receiver that never reads everything. A binary of its own,
//! because it counts every allocated byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use udsmsg::parts::{AuthToken, ConnKey, LinkStep, Mono, Now, Outbox};
use udsmsg::{Error, ErrorKind, Limits, Outgoing, Wall};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Held by the test that counts.
static COUNTS: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged to the system's allocator.
#[allow(unsafe_code, reason = "there is no other way to count allocations")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `System`.
        unsafe { System.dealloc(place, layout) }
    }
}

/// 32 MB pass through an outbox that always has a little left to write; it uses no more memory at the end
/// than near the start.
#[test]
fn outbox_that_is_never_empty_does_not_grow() {
    let _alone = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut outbox = Outbox::new(Limits::default()).unwrap();
    let now = Now::default();
    let message = Outgoing::new("text").with_text(&"x".repeat(16_000));
    let send = |outbox: &mut Outbox| {
        let _ = outbox.send("/r", &message, None, Duration::from_secs(5), now).unwrap();
    };
    let mut link: Option<ConnKey> = None;
    let mut steps = |outbox: &mut Outbox| {
        while let Some((key, step)) = outbox.next_step() {
            if step == LinkStep::Connect {
                outbox.connected(key, AuthToken::from_bytes([0; 32]), now);
            }
            link = Some(key);
        }
        link.unwrap()
    };
    send(&mut outbox);
    let (mut written, mut early) = (0_usize, 0);
    let answer = b"{\"type\":\"response\"}\n";
    let mut unanswered = 0;
    for round in 0..2_000 {
        send(&mut outbox);
        let key = steps(&mut outbox);
        // All but a hundred bytes are written, so something is always left.
        let len = outbox.output(key).len() - 100;
        let lines = outbox.output(key).iter().take(len).filter(|byte| **byte == b'\n').count();
        outbox.sent(key, len);
        written += len;
        unanswered += lines;
        while unanswered > 0 {
            let mut space = outbox.recv_space(key).unwrap();
            space.get_mut(..answer.len()).unwrap().copy_from_slice(answer);
            space.received(answer.len(), now);
            unanswered -= 1;
        }
        while let Some((_, outcome)) = outbox.next_outcome() {
            assert!(outcome.is_accepted(), "{outcome}");
        }
        outbox.turn_ended();
        if round == 50 {
            early = HELD.load(Ordering::Relaxed);
        }
    }
    let late = HELD.load(Ordering::Relaxed);
    assert!(written > 30_000_000, "{written} bytes were written");
    assert!(late < 2 * early, "{late} bytes are held; it was {early} at the start");
}

/// A host sends without end to a busy receiver, and nearly all its messages expire behind one that waits for
/// an hour.
#[test]
fn messages_expired_behind_a_waiting_one_take_no_memory() {
    let _alone = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut limits = Limits::default();
    limits.outbox_entries_max = 10;
    let mut outbox = Outbox::new(limits).unwrap();
    let message = Outgoing::new("text");
    let busy = Error::new(ErrorKind::Busy, "its backlog is full");
    let mut early = 0;
    for ms in 0..100_000 {
        let now = Now { mono: Mono::from_nanos(ms * 1_000_000), wall: Wall::from_millis(0) };
        let timeout = Duration::from_millis(if ms == 0 { 3_600_000 } else { 1 });
        let _ = outbox.send("/r", &message, None, timeout, now).unwrap();
        outbox.deadlines_reached(now);
        while let Some((key, step)) = outbox.next_step() {
            assert_eq!(step, LinkStep::Connect);
            outbox.connect_failed(key, &busy, now);
        }
        outbox.turn_ended();
        while let Some((_, outcome)) = outbox.next_outcome() {
            assert_eq!(outcome.code(), "not_sent");
        }
        if ms == 1_000 {
            early = HELD.load(Ordering::Relaxed);
        }
    }
    let late = HELD.load(Ordering::Relaxed);
    assert!(late < early + 1_000, "{late} bytes are held; it was {early} at the start");
}
