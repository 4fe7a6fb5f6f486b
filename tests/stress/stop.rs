//! A stop under load.

use std::collections::BTreeMap;
use std::time::Duration;

use super::host::Host;
use super::util::text;
use super::{alone, times};

/// Eight clients send without pause, one never reads, one is in the middle of a line: the stop ends after its
/// grace, and every message answered `ok` is in the inbox.
#[test]
fn stop_under_load_keeps_its_grace_and_all_accepted_messages() {
    const GRACE: Duration = Duration::from_millis(400);
    let _alone = alone("stop_under_load_keeps_its_grace_and_all_accepted_messages");
    for _ in 0..times(2, 20) {
        // Only the grace ends the wait for unread answers.
        let limits = [
            ("inbox_entries_max", 1 << 20),
            ("inbox_bytes_max", 1 << 28),
            ("output_timeout", 1_000_000),
            ("closing_timeout", 1_000_000),
        ];
        let mut host = Host::start(&limits);
        let drained = host.home.path().join("t").join("drained");
        let stuck = host.connect_known();
        let burst = host.fill(&text("stuck")).repeat(100);
        host.stuff(&[&stuck.stream], &burst, usize::MAX);
        let mut half = host.connect_known();
        half.send(b"{\"type\":\"half");
        let (took, told) = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..8)
                .map(|sender| {
                    let mut peer = host.connect();
                    scope.spawn(move || {
                        let mut told = Vec::new();
                        for number in (0..).step_by(20) {
                            let data = |at: usize| format!("{sender}/{}", number + at);
                            let lines: Vec<u8> = (0..20).flat_map(|at| text(&data(at))).collect();
                            peer.send(&lines);
                            for at in 0..20 {
                                let Some(answer) = line_unless_cut(&mut peer) else { return told };
                                let (_, id) = answer.split_once(r#""id":""#).expect("it is accepted");
                                told.push((id.split_once('"').unwrap().0.to_owned(), data(at)));
                            }
                        }
                        told
                    })
                })
                .collect();
            let before = host.figure("messages");
            host.wait_for("messages", |messages| messages > before + 2_000);
            let took = host.tell(&format!("stop {}", GRACE.as_millis()));
            let told: Vec<_> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
            (Duration::from_millis(took.parse().unwrap()), told)
        });
        let text = std::fs::read_to_string(drained).unwrap();
        let found: BTreeMap<&str, &str> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        println!(
            "stopped under load within {took:?} of {GRACE:?}: {} answered, {} in the inbox",
            told.len(),
            found.len()
        );
        assert!(told.len() > 100, "there was a load");
        for (id, data) in &told {
            assert_eq!(found.get(id.as_str()), Some(&data.as_str()), "{id} was answered");
        }
        assert!(took >= GRACE, "the one that does not read is waited for: {took:?}");
        // A later end would be reported by the watchdog.
    }
}

/// The next line, or nothing at the end, which may be in the middle of one: the stop did not wait for it.
fn line_unless_cut(peer: &mut super::util::real::RawPeer) -> Option<String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.line())).ok().flatten()
}
