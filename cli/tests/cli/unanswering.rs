//! The tool with a path of another process on a mount that never answers.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::fuse::with_hung_mount;
use crate::util::Home;

#[test]
fn commands_do_not_wait_for_a_planted_path_on_a_hung_mount() {
    let home = Home::new();
    let hung = home.private("hung");
    symlink(&hung, home.path().join("link")).unwrap();
    with_hung_mount(&hung, || {
        let paths =
            ["hung/s.sock", "link/s.sock", "hung"].map(|path| home.path().join(path).display().to_string());
        // Without a capability file the path is not touched.
        for path in &paths {
            let ended = home.run(&["ping", path]);
            ended.assert_code(1);
            assert!(ended.stderr.contains("without auth token"), "{ended:?}");
        }
        // The capability files say that this process listens there, or one that has ended.
        let start = udsmsg::peers::ProcessIdentity::current().start;
        for (path, pid) in paths.iter().zip([std::process::id(), std::process::id(), i32::MAX as u32]) {
            let contents = json!({
                "socketPath": path, "authToken": "0".repeat(64), "pid": pid, "process": start,
            });
            home.write_capability(path, &contents.to_string());
        }
        let lines = |args: &[&str]| -> Vec<Value> {
            let mut command = home.udsmsg(args);
            command.env("CLAUDE_CODE_MESSAGING_SOCKET", &paths[0]);
            let ended = crate::util::Process::spawn(command).end();
            ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let peers = lines(&["peers"]);
        let states: Vec<_> = peers.iter().map(|peer| peer["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["unknown", "unknown", "dead"], "{peers:?}");
        for peer in &peers[..2] {
            assert!(peer["reason"].as_str().unwrap().contains("may not answer (fuse.hung at"), "{peer}");
        }
        for args in [&["sweep"][..], &["sweep", "--dry-run"]] {
            let swept = lines(args);
            assert_eq!(swept.len(), 3, "{swept:?}");
            assert!(swept.iter().all(|swept| swept["event"] == "kept"), "{swept:?}");
        }
        let doctor = lines(&["doctor"]);
        let parent = doctor.iter().find(|it| it["check"] == "parent_socket").unwrap();
        assert!(parent["detail"].as_str().unwrap().contains("may not answer (fuse.hung at"), "{parent}");
    });
}

#[test]
fn doctor_and_serve_do_not_wait_for_a_hung_default_directory() {
    let home = Home::new();
    let squatted = home.private("t/claude-code-socks");
    with_hung_mount(&squatted, || {
        let ended = home.run(&["doctor"]);
        ended.assert_code(0);
        assert!(ended.stdout.contains("may not answer (fuse.hung at"), "{ended:?}");
        home.serve(&[]).stop().assert_clean(0);
    });
}
