//! Signals that are ignored from the start, come from a terminal, or reach a process that adopts orphans; and
//! what the command of `run` inherits.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::util::{Home, Process, Serve, WATCHDOG};

const UDSMSG: &str = env!("CARGO_BIN_EXE_udsmsg");

/// Ignores SIGHUP, SIGINT and SIGQUIT as `nohup` and shells do, and executes its arguments.
const IGNORING: &str = r#"trap '' HUP INT QUIT; exec "$@""#;

fn ignoring(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command("sh");
    command.args(["-c", IGNORING, "sh", UDSMSG]).args(args);
    command
}

#[test]
fn ignored_signals_do_not_stop_serve() {
    let home = Home::new();
    let serve = Serve::start(ignoring(&home, &["serve"]));
    let mut peer = serve.peer(&home.token(&serve.socket));
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        serve.signal(signal);
        peer.send_text("still here");
    }
    assert_eq!(serve.stop().assert_clean(0).entries.len(), 3);
}

#[test]
fn command_of_run_inherits_ignored_signals_and_otherwise_defaults() {
    let home = Home::new();
    for (signal, code) in [("HUP", 129), ("INT", 130), ("QUIT", 131), ("USR1", 138), ("XFSZ", 153)] {
        let script = format!("ulimit -c 0; kill -{signal} $$; exit 5");
        let args = ["run", "--stdin", "--", "sh", "-c", &script];
        home.run(&args).assert_code(code);
        let inherits = ["HUP", "INT", "QUIT"].contains(&signal);
        Process::spawn(ignoring(&home, &args)).end().assert_code(if inherits { 5 } else { code });
    }
    assert!(home.traces().is_empty());
}

/// Starts `udsmsg` with `args` in the foreground of a terminal of its own.
fn at_terminal(home: &Home, args: &[&str]) -> (File, Process) {
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let mut mode = tcgetattr(&slave).unwrap();
    mode.local_flags.remove(LocalFlags::ECHO);
    // Without this flag, output printed while the key is handled is dropped.
    mode.local_flags.insert(LocalFlags::NOFLSH);
    tcsetattr(&slave, SetArg::TCSANOW, &mode).unwrap();
    let mut command = home.command("setsid");
    command.args(["--ctty", UDSMSG]).args(args);
    command.stdin(slave.try_clone().unwrap()).stdout(slave).stderr(Stdio::piped());
    (File::from(master), Process::spawn_as_is(command, WATCHDOG))
}

/// Prints each signal that it gets, and ends at SIGTERM.
const COUNTS: &str = "\
import os, signal
wanted = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
os.write(1, b'ready\\n')
while True:
    number = signal.sigwait(wanted)
    if number == signal.SIGTERM:
        os.write(1, b'end\\n')
        os._exit(7)
    os.write(1, b'got %d\\n' % number)
";

#[cfg(target_os = "linux")]
#[test]
fn terminal_key_reaches_the_command_of_run_once() {
    for (key, got) in [(b"\x03", "got 2"), (b"\x1c", "got 3")] {
        let home = Home::new();
        let (screen, process) = at_terminal(&home, &["run", "--", "python3", "-c", COUNTS]);
        let mut keys = screen.try_clone().unwrap();
        let mut lines = BufReader::new(screen).lines().map_while(Result::ok);
        let mut next = || lines.by_ref().find(|line| !line.contains("listening")).expect("a line");
        assert_eq!(next(), "ready");
        keys.write_all(key).unwrap();
        assert_eq!(next(), got);
        // A signal from another process is passed on, after all signals before it.
        process.ask_to_stop();
        assert_eq!(next(), "end");
        process.end().assert_code(7);
        assert!(home.traces().is_empty());
    }
}

/// A command that is not in the foreground group of the terminal gets nothing from it.
#[cfg(target_os = "linux")]
#[test]
fn terminal_key_is_passed_on_to_a_command_in_another_group() {
    let home = Home::new();
    let script = format!("import os; os.setpgid(0, 0)\n{COUNTS}");
    let (screen, process) = at_terminal(&home, &["run", "--", "python3", "-c", &script]);
    let mut keys = screen.try_clone().unwrap();
    let mut lines = BufReader::new(screen).lines().map_while(Result::ok);
    let mut next = || lines.by_ref().find(|line| !line.contains("listening")).expect("a line");
    assert_eq!(next(), "ready");
    keys.write_all(b"\x03").unwrap();
    assert_eq!(next(), "got 2");
    process.ask_to_stop();
    process.end().assert_code(7);
}

/// A shell ends its loop only if the signal ended the command. No files are left behind.
#[cfg(target_os = "linux")]
#[test]
fn terminal_key_ends_serve_by_its_signal() {
    use std::os::unix::process::ExitStatusExt;

    let home = Home::new();
    let (screen, mut process) = at_terminal(&home, &["serve"]);
    let mut keys = screen.try_clone().unwrap();
    let mut first = String::new();
    BufReader::new(screen).read_line(&mut first).unwrap();
    keys.write_all(b"\x03").unwrap();
    assert_eq!(process.wait().signal(), Some(2));
    assert!(home.traces().is_empty(), "{:?}", home.traces());
}

/// The same for `run`, if the signal ends its command; a command that handles the signal has its own status.
#[cfg(target_os = "linux")]
#[test]
fn terminal_key_ends_run_as_it_ended_the_command() {
    use std::os::unix::process::ExitStatusExt;

    for (script, ends) in [
        ("echo ready; exec sleep 60", (None, Some(2))),
        ("trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done", (Some(9), None)),
    ] {
        let home = Home::new();
        let (screen, mut process) = at_terminal(&home, &["run", "--", "sh", "-c", script]);
        let mut keys = screen.try_clone().unwrap();
        let mut lines = BufReader::new(screen).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"));
        keys.write_all(b"\x03").unwrap();
        let status = process.wait();
        assert_eq!((status.code(), status.signal()), ends, "{script}");
        assert!(home.traces().is_empty(), "{:?}", home.traces());
    }
}

#[test]
fn fatal_signals_to_run_are_passed_on_and_leave_no_files() {
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGQUIT, Signal::SIGALRM, Signal::SIGXCPU] {
        let home = Home::new();
        let script = format!(
            "ulimit -c 0; trap 'exit 9' {}; echo ready; for i in $(seq 400); do sleep 0.05; done",
            signal as i32
        );
        let mut process = Process::spawn(home.udsmsg(&["run", "--", "sh", "-c", &script]));
        let mut out = BufReader::new(process.take_stdout()).lines().map(Result::unwrap);
        assert!(out.any(|line| line == "ready"));
        process.signal(signal);
        process.end().assert_code(9);
        assert!(home.traces().is_empty(), "{signal}: {:?}", home.traces());
    }
}

/// A process that adopts orphans, as process 1 does, must take their status, or they stay as zombies.
#[cfg(target_os = "linux")]
#[test]
fn run_reaps_the_orphans_that_it_adopts() {
    const ADOPTING: &str = "\
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";
    let home = Home::new();
    // Both processes lose their parent at once, and end a little later; one ends by a signal without a name.
    let script = "for end in 'exit 3' 'kill -40 $$'; do \
                  (sh -c \"echo orphan \\$\\$; sleep 0.1; $end\" &); done; read -r line; exit 4";
    let mut command = home.command("python3");
    command.args(["-c", ADOPTING, UDSMSG, "run", "--", "sh", "-c", script]).stdin(Stdio::piped());
    let mut process = Process::spawn(command);
    let out = BufReader::new(process.take_stdout()).lines().map_while(Result::ok);
    let orphans: Vec<String> =
        out.filter_map(|line| line.strip_prefix("orphan ").map(str::to_owned)).take(2).collect();
    assert_eq!(orphans.len(), 2);
    let begun = Instant::now();
    for pid in orphans {
        while fs::exists(format!("/proc/{pid}")).unwrap() {
            assert!(
                begun.elapsed() < WATCHDOG / 2,
                "{pid} stays: {:?}",
                fs::read_to_string(format!("/proc/{pid}/stat"))
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
    process.take_stdin().write_all(b"go\n").unwrap();
    process.end().assert_code(4);
}

#[test]
fn command_of_run_finds_a_relative_socket_from_any_directory() {
    let home = Home::new();
    home.private("d");
    for socket in ["d/s.sock", "uds:d/s.sock"] {
        let script = r#"cd / && exec "$0" send text hello"#;
        let ended = home.run(&["run", "--socket", socket, "--", "sh", "-c", script, UDSMSG]);
        ended.assert_code(0);
        let path = home.path().join("d/s.sock");
        assert!(ended.stdout.contains(path.to_str().unwrap()), "{ended:?}");
        assert!(ended.stdout.contains("hello"), "{ended:?}");
    }
}

#[test]
fn address_prefix_is_removed_from_a_socket_once() {
    let home = Home::new();
    let plain = home.private("d").join("s.sock").to_str().unwrap().to_owned();
    let serve = home.serve(&["--socket", &format!("uds:{plain}")]);
    assert_eq!(serve.socket, plain);
    home.run(&["send", &plain, "text", "hello"]).assert_code(0);
    serve.stop().assert_clean(0);
    let serve = home.serve(&["--socket", "uds:uds:s.sock"]);
    assert_eq!(serve.socket, "uds:s.sock");
    home.run(&["send", "uds:uds:s.sock", "text", "hello"]).assert_code(0);
    serve.stop().assert_clean(0);
}

/// Another process has set `O_NONBLOCK` on the pipe.
#[test]
fn nonblocking_stdin_is_waited_for() {
    for args in [&["--stdin"][..], &["--ndjson"]] {
        let home = Home::new();
        let mut serve = home.serve(&[]);
        let (input, mut writer) = std::io::pipe().unwrap();
        fcntl(&input, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut command = home.udsmsg(&["send"]);
        command.args(args).arg(&serve.socket).stdin(input);
        if args == ["--stdin"] {
            command.arg("text");
        }
        let process = Process::spawn(command);
        // Long enough for `send` to find the pipe empty.
        thread::sleep(Duration::from_millis(200));
        writer.write_all(b"{\"type\":\"text\",").unwrap();
        thread::sleep(Duration::from_millis(200));
        writer.write_all(b"\"data\":\"x\"}\n").unwrap();
        drop(writer);
        process.end().assert_code(0);
        let data = serve.entry().json()["data"].as_str().unwrap().to_owned();
        assert_eq!(data, if args == ["--stdin"] { "{\"type\":\"text\",\"data\":\"x\"}\n" } else { "x" });
        serve.stop().assert_clean(0);
    }
}
