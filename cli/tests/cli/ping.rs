//! `udsmsg ping` with several questions: its summary, and the answers that are lost.

use std::io::Write;

use crate::util::{Fake, Home, parsed, read_line};

#[test]
fn several_pings_print_a_summary() {
    let home = Home::new();
    let serve = home.serve(&["--no-drain"]);
    let ended = home.run(&["ping", "--count", "25", "--interval", "0", &serve.socket]);
    let lines = parsed(&ended.assert_code(0).stdout);
    assert_eq!(lines.len(), 26);
    assert!(lines.iter().take(25).all(|line| line["event"] == "pong"), "{ended:?}");
    let mut took: Vec<f64> = lines.iter().filter_map(|line| line["millis"].as_f64()).collect();
    took.sort_by(f64::total_cmp);
    let summary = lines.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(
        (&summary["sent"], &summary["received"], &summary["lost"]),
        (&25.into(), &25.into(), &0.into())
    );
    for (name, rank) in [("minMillis", 0), ("medianMillis", 12), ("p99Millis", 24), ("maxMillis", 24)] {
        assert_eq!(summary[name].as_f64().as_ref(), took.get(rank), "{name}: {summary}");
    }
    assert!(serve.stop().assert_clean(0).entries.is_empty());
}

/// Every second connection ends without an answer; the next ping is not delayed.
#[test]
fn unanswered_pings_are_counted_as_lost() {
    let home = Home::new();
    let fake = Fake::start(&home, |mut stream, number, _| {
        read_line(&stream);
        if number % 2 == 0 {
            let _ = stream.write_all(b"{\"type\":\"pong\"}\n");
        }
    });
    home.publish(&fake.socket);
    let ended = home.run(&["ping", "--count=4", "--interval=0.05", "--timeout=2", &fake.socket]);
    let lines = parsed(&ended.assert_code(1).stdout);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["sent"], &summary["received"], &summary["lost"]), (&4.into(), &2.into(), &2.into()));
    assert!(ended.stderr.starts_with("ping 2: UDS socket ended before response"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 2, "{ended:?}");
}

#[test]
fn impossible_option_values_are_refused() {
    let home = Home::new();
    for args in [["--count", "0"], ["--count", "-1"], ["--interval", "-1"], ["--timeout", "0"]] {
        let ended = home.run(&[&["ping"][..], &args, &["s"]].concat());
        ended.assert_code(2);
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{args:?}: {ended:?}");
    }
}
