//! A stdout that fails: every command says so and ends with a failure.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::util::{Ended, Home, Process, WATCHDOG, full_pipe};

fn run_into(home: &Home, stdout: impl Into<OwnedFd>, args: &[&str]) -> Ended {
    let mut command = home.udsmsg(args);
    command.stdout(stdout.into()).stderr(Stdio::piped());
    Process::spawn_as_is(command, WATCHDOG).end()
}

/// Every command that prints without a loop, with a live `socket`.
fn commands(socket: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["peers"],
        vec!["peers", "--json"],
        vec!["sweep"],
        vec!["sweep", "--dry-run", "--json"],
        vec!["doctor"],
        vec!["ping", socket],
        vec!["ping", "--count=3", "--interval=0", socket],
        vec!["send", socket, "text", "x"],
        vec!["send", "--json", socket, "text", "x"],
        vec!["--help"],
        vec!["send", "--help"],
        vec!["--version"],
    ]
}

#[cfg(target_os = "linux")]
#[test]
fn failing_stdout_is_a_failure_with_a_reason() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    // A stale socket, so that `sweep` has something to print.
    let stale = home.private(&format!("t/claude-code-socks/{}-{}", i32::MAX, "0".repeat(32)));
    crate::util::leave_stale(&stale.join("messaging.sock"));
    for args in commands(&serve.socket) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = run_into(&home, full, &args);
        ended.assert_code(1);
        assert!(ended.stderr.contains("No space left on device"), "{args:?}: {ended:?}");
        // The reason is printed once.
        assert_eq!(ended.stderr.lines().count(), 1, "{args:?}: {ended:?}");
        if args[0] == "send" && args.len() > 2 {
            assert!(ended.stderr.starts_with("accepted as uds-"), "{ended:?}");
        }
    }
    serve.stop().assert_clean(0);
}

/// Stderr says how many messages were accepted.
#[cfg(target_os = "linux")]
#[test]
fn lost_receipts_of_ndjson_are_summed_up_on_stderr() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    let input = home.path().join("input");
    std::fs::write(&input, "{\"type\":\"text\"}\n".repeat(3)).unwrap();
    let mut command = home.udsmsg(&["send", "--ndjson", &serve.socket]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.stdin(std::fs::File::open(&input).unwrap()).stdout(full).stderr(Stdio::piped());
    let ended = Process::spawn_as_is(command, WATCHDOG).end();
    // Other messages may be on their way when the first receipt fails.
    assert!([Some(1), Some(3)].contains(&ended.status.code()), "{ended:?}");
    let words = ["No space left on device", "until then: ", "accepted"];
    assert!(words.iter().all(|word| ended.stderr.contains(word)), "{ended:?}");
    serve.stop().assert_clean(0);
}

/// The reader closed stdout on purpose; only an accepted message is worth a line.
#[test]
fn closed_stdout_is_a_failure_that_reports_accepted_messages() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    for args in commands(&serve.socket) {
        let (_, writer) = std::io::pipe().unwrap();
        let ended = run_into(&home, writer, &args);
        ended.assert_code(1);
        if args[0] == "send" && args.len() > 2 {
            assert!(ended.stderr.starts_with("accepted as uds-"), "{ended:?}");
        } else {
            assert_eq!(ended.stderr, "", "{args:?}: {ended:?}");
        }
    }
    serve.stop().assert_clean(0);
}

/// Another process has set `O_NONBLOCK` on stdout.
#[test]
fn full_nonblocking_stdout_is_waited_for() {
    let home = Home::new();
    let serve = home.serve(&["--quiet"]);
    for args in [&["peers"][..], &["doctor"], &["ping", &serve.socket], &["send", &serve.socket, "text", "x"]]
    {
        let (mut reader, writer, filled) = full_pipe();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut command = home.udsmsg(args);
        command.stdout(writer).stderr(Stdio::piped());
        let process = Process::spawn_as_is(command, WATCHDOG);
        // Long enough for the command to find the pipe full; a slower one finds room and passes too.
        std::thread::sleep(Duration::from_millis(300));
        let mut printed = String::new();
        reader.read_to_string(&mut printed).unwrap();
        let ended = process.end();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
        let printed = printed.get(filled..).unwrap();
        assert!(printed.starts_with("{\"") && printed.ends_with("}\n"), "{args:?}: {printed:?}");
    }
    serve.stop().assert_clean(0);
}
