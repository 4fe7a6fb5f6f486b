//! What the library reports while the tool works, on stderr.

use std::io::{BufRead, BufReader, PipeReader};
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;

use crate::util::{Home, PING_LINE, Peer, Process, Serve, WATCHDOG, private_dir};

#[test]
fn library_warnings_reach_stderr_at_the_level_asked_for() {
    type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (&[], None, &["WARN default location not used"], &["DEBUG", "INFO"]),
        (&[], Some(""), &["WARN default location not used"], &["DEBUG"]),
        (&["-q"], None, &[], &["WARN"]),
        (&["-q"], Some("debug"), &[], &["WARN", "DEBUG"]),
        (&[], Some("off"), &[], &["WARN"]),
        (&[], Some("error"), &[], &["WARN"]),
        (&[], Some("info"), &["WARN", "default location not used", "listening"], &["DEBUG"]),
        (&["-v"], Some("off"), &["default location not used", "client connected"], &["TOKEN"]),
        (&[], Some("loud"), &["UDSMSG_LOG", "loud", "default location not used"], &["DEBUG"]),
    ];
    for (args, level, wanted, unwanted) in cases {
        let home = Home::new();
        let long = home.path().join("x".repeat(60));
        private_dir(&long);
        let mut command = home.serve_command(args);
        command.env("TMPDIR", &long);
        if let Some(level) = level {
            command.env("UDSMSG_LOG", level);
        }
        let serve = Serve::start(command);
        let token = home.token(&serve.socket);
        serve.peer(&token).ping();
        let stopped = serve.stop();
        stopped.assert_clean(0);
        let stderr = &stopped.ended.stderr;
        for word in wanted {
            assert!(stderr.contains(word), "{args:?} {level:?}: no {word:?} in {stderr:?}");
        }
        for word in unwanted {
            assert!(!stderr.contains(word), "{args:?} {level:?}: {word:?} in {stderr:?}");
        }
        assert!(!stderr.contains(&token));
        // One line for each event, and no empty line.
        assert!(!wanted.is_empty() || stderr.is_empty(), "{args:?} {level:?}: {stderr:?}");
        assert!(stderr.lines().all(|line| !line.trim().is_empty()), "{stderr:?}");
    }
}

/// The lines of `stderr` up to one with `word`, and that one.
fn lines_until(stderr: &mut BufReader<PipeReader>, word: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without {word:?}: {lines:?}");
        let is_last = line.contains(word);
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

/// A client can make a server run out of descriptors again and again. The server reports it a limited number
/// of times.
#[test]
fn descriptor_exhaustion_is_reported_a_limited_number_of_times() {
    const REPORT: &str = "cannot accept for now";
    let home = Home::new();
    let mut command = home.command("sh");
    command.args(["-c", "ulimit -n 24; exec \"$0\" serve", env!("CARGO_BIN_EXE_udsmsg")]);
    let (stderr, to_stderr) = std::io::pipe().unwrap();
    command.stdout(Stdio::piped()).stderr(to_stderr);
    let mut process = Process::spawn_as_is(command, WATCHDOG * 3);
    let mut stderr = BufReader::new(stderr);
    let mut stdout = BufReader::new(process.take_stdout());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    let first: Value = serde_json::from_str(&first).unwrap();
    let socket = first["socket"].as_str().unwrap();
    let token = home.token(socket);

    let begun = Instant::now();
    let mut peers: Vec<Peer> = (0..60).map(|_| Peer::connect(socket, &token)).collect();
    for peer in &mut peers {
        peer.write(PING_LINE);
    }
    let mut lines = lines_until(&mut stderr, REPORT);
    process.ask_for_summary();
    let mut after = lines_until(&mut stderr, "summary");
    let summary: Value = serde_json::from_str(&after.pop().unwrap()).unwrap();
    lines.extend(after);
    let inside = usize::try_from(summary["clients"].as_u64().unwrap()).unwrap();
    const ROUNDS: usize = 30;
    assert!(inside > 0 && inside + ROUNDS <= peers.len(), "{inside} were accepted");
    for round in 0..ROUNDS {
        // A client that leaves makes room for exactly one other.
        drop(peers.remove(0));
        assert!(peers[inside - 1].read().contains("pong"), "round {round}: a waiting client is accepted");
    }
    process.ask_for_summary();
    lines.extend(lines_until(&mut stderr, "summary"));
    let windows = begun.elapsed().as_secs() / 10 + 1;
    let reports = lines.iter().filter(|line| line.contains(REPORT)).count();
    assert!(reports > 0);
    assert!(u64::try_from(reports).unwrap() <= 10 * windows, "{reports} reports, {lines:?}");
    println!("{ROUNDS} times without a descriptor: {reports} lines");
    process.ask_to_stop();
    assert!(process.wait().success());
}
