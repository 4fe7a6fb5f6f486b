//! `udsmsg run`: a command with an inbox, which lives as long as the command.

use std::fs;
use std::io::{BufRead, BufReader, Write};
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

#[cfg(unix)]
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::util::{Home, Process, Serve, text_line};

const UDSMSG: &str = env!("CARGO_BIN_EXE_udsmsg");

#[test]
fn command_gets_messages_as_lines_on_stdin() {
    let home = Home::new();
    // The command sends to itself, through the variable.
    let shell = if cfg!(unix) {
        let script = r#""$0" send text to-my-parent >&2 && read -r line && printf '%s\n' "$line" && exit 7"#;
        ["sh", "-c", script, UDSMSG]
    } else {
        let script = "udsmsg send text to-my-parent 1>&2 & set /p line=& echo !line!& exit 7";
        ["cmd", "/v:on", "/c", script]
    };
    let mut command = home.udsmsg(&[&["run", "--stdin", "--"][..], &shell].concat());
    command.current_dir(Path::new(UDSMSG).parent().unwrap());
    let ended = Process::spawn(command).end();
    ended.assert_code(7);
    let entry: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!((&entry["id"], &entry["status"]), (&json!("uds-1"), &json!("processed")));
    assert_eq!(entry["message"]["data"], "to-my-parent");
    assert!(home.traces().is_empty(), "{:?}", home.traces());
}

// The script is one of a Unix shell.
#[cfg(unix)]
#[test]
fn messages_are_printed_without_the_stdin_option() {
    let home = Home::new();
    let script = r#"exec 3>&1 >&2
        echo "$CLAUDE_CODE_MESSAGING_SOCKET"; "$0" send text one; "$0" send text two
        exec cat >&3"#;
    let mut command = home.udsmsg(&["run", "sh", "-c", script, UDSMSG]);
    // The command reads the standard input of `run`.
    let input = home.path().join("input");
    fs::write(&input, "of the command\n").unwrap();
    command.stdin(fs::File::open(input).unwrap());
    let ended = Process::spawn(command).end();
    ended.assert_code(0);
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    let own = lines.iter().position(|line| *line == "of the command").unwrap_or_else(|| panic!("{ended:?}"));
    lines.remove(own);
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, one, two] = &*lines else { panic!("{ended:?}") };
    assert_eq!(first["event"], "listening");
    assert_eq!(ended.stderr.lines().next(), first["socket"].as_str());
    assert_eq!((&one["message"]["data"], &two["message"]["data"]), (&json!("one"), &json!("two")));
    assert!(home.traces().is_empty());
}

#[test]
fn run_ends_with_the_status_of_its_command() {
    let home = Home::new();
    let not_executable = home.path().join("data");
    fs::write(&not_executable, "#!/bin/sh\n").unwrap();
    #[cfg(unix)]
    fs::set_permissions(&not_executable, fs::Permissions::from_mode(0o600)).unwrap();
    #[cfg(windows)]
    let table: [(&[&str], i32); 6] = [
        (&["cmd", "/c", "exit 0"], 0),
        (&["--", "cmd", "/c", "exit 200"], 200),
        // All bits of it.
        (&["--stdin", "cmd", "/c", "exit -1073741819"], -1_073_741_819),
        (&["no-such-command"], 127),
        (&[not_executable.to_str().unwrap()], 126),
        (&[], 2),
    ];
    #[cfg(unix)]
    let table: [(&[&str], i32); 9] = [
        (&["true"], 0),
        (&["false"], 1),
        (&["--", "sh", "-c", "exit 200"], 200),
        (&["--stdin", "--", "sh", "-c", "kill -KILL $$"], 137),
        (&["--stdin", "sh", "-c", "kill -TERM $$"], 143),
        // Options after the command belong to the command.
        (&["sh", "-c", r#"test "$1" = --stdin"#, "sh", "--stdin"], 0),
        (&["no-such-command"], 127),
        (&[not_executable.to_str().unwrap()], 126),
        (&[], 2),
    ];
    for (args, code) in table {
        let ended = home.run(&[&["run"], args].concat());
        ended.assert_code(code);
        assert!(home.traces().is_empty(), "{args:?}: {:?}", home.traces());
        assert_eq!(ended.stderr.is_empty(), !(126..=127).contains(&code) && code != 2, "{args:?}: {ended:?}");
    }
    // Without an inbox the command is not started.
    let marker = home.path().join("marker");
    let ended = home.run(&["run", "--socket", "d#token=x", "touch", marker.to_str().unwrap()]);
    ended.assert_refused("must not include an inline auth token");
    assert!(!marker.exists());
}

/// Until the command has said so: the inbox was there before it.
fn wait_until_ready(process: &mut Process) {
    let mut line = String::new();
    BufReader::new(process.take_stdout()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

// Windows has no signals.
#[cfg(unix)]
#[test]
fn signals_are_passed_on_and_leave_no_files() {
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGHUP, "HUP")] {
        let home = Home::new();
        // The command ends later than the signal: its inbox exists until then.
        let script = format!(
            r#"trap '"$0" send text "got {name}" >&2; exit 9' {name}
               echo ready; for i in $(seq 200); do sleep 0.05; done"#
        );
        let mut process = Process::spawn(home.udsmsg(&["run", "--", "sh", "-c", &script, UDSMSG]));
        let mut out = BufReader::new(process.take_stdout()).lines().map(Result::unwrap);
        assert!(out.by_ref().any(|line| line == "ready"));
        assert_eq!(home.traces().len(), 2);
        process.signal(signal);
        let last = out.last().unwrap();
        assert!(last.contains(&format!("\"data\":\"got {name}\"")), "{last}");
        process.end().assert_code(9);
        assert!(home.traces().is_empty(), "{name}: {:?}", home.traces());
    }
    // A command that does not handle the signal ends by it.
    let home = Home::new();
    let mut process =
        Process::spawn(home.udsmsg(&["run", "--stdin", "--", "sh", "-c", "echo ready; exec sleep 60"]));
    wait_until_ready(&mut process);
    process.ask_to_stop();
    process.end().assert_code(143);
    assert!(home.traces().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn token_is_not_in_arguments_or_environment() {
    let home = Home::new();
    let process = Process::spawn(home.udsmsg(&["run", "--stdin", "--", "sleep", "60"]));
    let child = loop {
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        let children = fs::read_to_string(children).unwrap();
        if let Ok(pid) = children.trim().parse::<u32>()
            && fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == "sleep"
        {
            break pid;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let socket = home.traces().into_iter().find(|path| path.ends_with("messaging.sock")).unwrap();
    let socket = socket.to_str().unwrap();
    let token = home.token(socket);
    for pid in [process.pid(), child] {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!bytes.is_empty() && !String::from_utf8_lossy(&bytes).contains(&token), "{pid} {file}");
        }
    }
    let environ = fs::read(format!("/proc/{child}/environ")).unwrap();
    let variable = format!("CLAUDE_CODE_MESSAGING_SOCKET={socket}");
    assert!(environ.split(|byte| *byte == 0).any(|pair| pair == variable.as_bytes()));
    // The command inherits neither the listener nor another descriptor of the inbox.
    let links = fs::read_dir(format!("/proc/{child}/fd")).unwrap();
    let open: Vec<_> = links.map(|link| fs::read_link(link.unwrap().path()).unwrap()).collect();
    let ours = |link: &str| link.starts_with("socket:") || link.starts_with("anon_inode:");
    assert!(!open.iter().any(|link| ours(&link.to_string_lossy())), "{open:?}");
    process.ask_to_stop();
    process.end().assert_code(143);
}

/// Messages that the command does not read stay in the inbox; once it is full, senders read `inbox full`.
// The script is one of a Unix shell.
#[cfg(unix)]
#[test]
fn unread_command_stdin_does_not_block_senders() {
    for closes_stdin in [false, true] {
        let home = Home::new();
        let script =
            if closes_stdin { "exec <&-; echo ready; exec sleep 60" } else { "echo ready; exec sleep 60" };
        let socket = home.socket("d/s");
        let mut process =
            Process::spawn(home.udsmsg(&["run", "--stdin", "--socket", &socket, "--", "sh", "-c", script]));
        wait_until_ready(&mut process);
        let mut peer = crate::util::Peer::connect(&socket, &home.token(&socket));
        let mut accepted = 0;
        let answer = loop {
            let answer = peer.ask(&text_line(&"x".repeat(60_000)));
            if answer["data"] != "ok" {
                break answer;
            }
            accepted += 1;
            assert!(accepted < 200, "memory is bounded");
        };
        assert_eq!(answer["data"], "inbox full");
        home.run(&["ping", &socket]).assert_code(0);
        process.ask_to_stop();
        let ended = process.end();
        ended.assert_code(143);
        assert!(ended.stderr.contains("messages not printed before the command ended: "), "{ended:?}");
        let left: usize = ended.stderr.trim().rsplit(' ').next().unwrap().parse().unwrap();
        // What the pipe holds counts as taken.
        assert!(left <= accepted && left + 3 >= accepted, "{left} of {accepted}");
        assert!(home.traces().is_empty());
    }
}

/// The command goes on, and its status is the exit status.
// The script is one of a Unix shell.
#[cfg(unix)]
#[test]
fn closed_stdout_does_not_end_the_command() {
    let home = Home::new();
    let mut command = home.udsmsg(&["run", "--", "sh", "-c", "read -r line; exit 5"]);
    command.stdin(Stdio::piped());
    let mut run = Serve::start(command);
    run.close_stdout();
    // More than one: a process that another test starts may hold a copy of the other end for a moment.
    for _ in 0..4 {
        home.run(&["send", &run.socket, "text", "not read"]).assert_code(0);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(run.is_running());
    run.take_stdin().write_all(b"go\n").unwrap();
    let stopped = run.end();
    stopped.assert_clean(5);
    assert!(stopped.ended.stderr.contains("messages not printed"), "{stopped:?}");
    assert!(home.traces().is_empty());
}
