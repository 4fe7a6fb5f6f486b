//! Output that is not read or cannot be written: terminals, pipes, sockets, full disks. The loop goes on, and
//! a stop comes to its end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{FlowArg, tcflow};
use serde_json::Value;

use crate::util::{CONTROLS, Home, Peer, Process, WATCHDOG, full_pipe, text_line};

const UDSMSG: &str = env!("CARGO_BIN_EXE_udsmsg");

/// A server whose stdout is `out`, and a client of it.
struct Served {
    process: Process,
    peer: Peer,
    socket: String,
}

/// Starts `command` with `out` as its stdout and with a path to listen at.
fn start(home: &Home, mut command: Command, out: impl Into<Stdio>) -> Served {
    let socket = home.socket("d/s");
    command.args(["--socket", &socket]).stdout(out).stderr(Stdio::piped());
    let process = Process::spawn_as_is(command, WATCHDOG);
    let peer = connect(home, &socket);
    Served { process, peer, socket }
}

/// Waits for a server at `socket`.
fn connect(home: &Home, socket: &str) -> Peer {
    let begun = Instant::now();
    while UnixStream::connect(socket).is_err() || !home.capability_file(socket).exists() {
        assert!(begun.elapsed() < WATCHDOG, "nothing listens at {socket}");
        thread::sleep(Duration::from_millis(5));
    }
    Peer::connect(socket, &home.token(socket))
}

/// Sends texts of `len` bytes until one is refused; the reason, and how many were accepted.
fn send_until_refused(peer: &mut Peer, len: usize) -> (String, usize) {
    for accepted in 0..20_000 {
        let answer = peer.ask(&text_line(&"x".repeat(len)));
        if answer["data"] != "ok" {
            return (answer["data"].as_str().unwrap().to_owned(), accepted);
        }
    }
    panic!("pending output is not bounded");
}

fn set_nonblocking(fd: impl AsFd) {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
}

fn terminal() -> (File, OwnedFd) {
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    (File::from(master), slave)
}

/// Checks a server whose output, to what `out` makes, is not read: senders read `inbox full`, other clients
/// are served, and the server stops.
#[track_caller]
fn assert_goes_on_unread(out: impl FnOnce() -> (OwnedFd, OwnedFd)) {
    let home = Home::new();
    let (unread, out) = out();
    let shared = out.try_clone().unwrap();
    let mut served = start(&home, home.serve_command(&[]), out);
    assert_eq!(send_until_refused(&mut served.peer, 1_000).0, "inbox full");
    connect(&home, &served.socket).ping();
    assert!(!is_nonblocking(&shared), "a flag of a file that others share was changed");
    served.process.ask_to_stop();
    let ended = served.process.end();
    ended.assert_code(1);
    assert!(ended.stderr.contains("bytes of messages were not printed"), "{ended:?}");
    assert!(home.traces().is_empty(), "{:?}", home.traces());
    drop((unread, shared));
}

#[test]
fn unread_terminal_does_not_block_the_server() {
    assert_goes_on_unread(|| {
        let (screen, out) = terminal();
        (screen.into(), out)
    });
}

#[test]
fn stopped_terminal_does_not_block_the_server() {
    assert_goes_on_unread(|| {
        let (screen, out) = terminal();
        tcflow(&out, FlowArg::TCOOFF).unwrap();
        (screen.into(), out)
    });
}

#[test]
fn unread_socket_as_stdout_does_not_block_the_server() {
    assert_goes_on_unread(|| {
        let (unread, out) = UnixStream::pair().unwrap();
        (unread.into(), out.into())
    });
}

#[test]
fn unread_pipe_does_not_block_the_server() {
    assert_goes_on_unread(|| {
        let (unread, out) = std::io::pipe().unwrap();
        (unread.into(), out.into())
    });
}

/// Another process writes to the same terminal and waits there, so it holds the lock of the terminal.
#[test]
fn terminal_locked_by_another_writer_does_not_block_the_server() {
    assert_goes_on_unread(|| {
        let (screen, out) = terminal();
        let mut other = File::from(out.try_clone().unwrap());
        thread::spawn(move || other.write_all(&[b'x'; 1 << 20]));
        thread::sleep(Duration::from_millis(100));
        (screen.into(), out)
    });
}

/// Another process has set `O_NONBLOCK` on the terminal: output that it does not take at once is written
/// later.
#[test]
fn nonblocking_terminal_gets_every_message() {
    let home = Home::new();
    let (screen, out) = terminal();
    set_nonblocking(&out);
    let mut served = start(&home, home.serve_command(&["--json"]), out);
    for _ in 0..30 {
        served.peer.send_text(&"x".repeat(3_000));
    }
    let mut lines = BufReader::new(screen).lines().map_while(Result::ok);
    assert!(lines.next().unwrap().contains("listening"));
    for number in 1..=30 {
        let entry: Value = serde_json::from_str(&lines.next().expect("the next message")).unwrap();
        assert_eq!(entry["id"], format!("uds-{number}"));
    }
    served.process.ask_to_stop();
    served.process.end().assert_code(0);
}

#[test]
fn unread_stderr_does_not_block_the_server() {
    for is_terminal in [false, true] {
        let home = Home::new();
        let (unread, errors): (OwnedFd, OwnedFd) = if is_terminal {
            let (screen, out) = terminal();
            (screen.into(), out)
        } else {
            let (unread, out) = std::io::pipe().unwrap();
            (unread.into(), out.into())
        };
        let socket = home.socket("d/s");
        let mut command = home.serve_command(&["--socket", &socket]);
        command.stdout(Stdio::null()).stderr(errors);
        let mut process = Process::spawn_as_is(command, WATCHDOG);
        let mut peer = connect(&home, &socket);
        for _ in 0..1_000 {
            process.ask_for_summary();
            peer.ping();
        }
        // A later line says how many lines were dropped before it.
        let reader = thread::spawn(move || {
            let lines = BufReader::new(File::from(unread)).lines();
            lines.map_while(Result::ok).any(|line| line.contains("lines for stderr were dropped"))
        });
        process.ask_to_stop();
        assert_eq!(process.wait().code(), Some(0));
        assert!(reader.join().unwrap(), "nothing says that lines are missing");
    }
}

/// A command that was not understood ends, although stderr takes nothing.
#[test]
fn usage_error_does_not_wait_for_an_unread_stderr() {
    let home = Home::new();
    for args in [&["--nonsense"][..], &["serve", "--max-clients=many"], &[]] {
        let (unread, full, _) = full_pipe();
        let mut command = home.udsmsg(args);
        command.stdout(Stdio::null()).stderr(full);
        let mut process = Process::spawn_as_is(command, WATCHDOG);
        assert_eq!(process.wait().code(), Some(2), "{args:?}");
        drop(unread);
    }
}

/// Stdout and stderr are not read: the inbox goes on until the command ends.
#[test]
fn unread_terminal_does_not_block_run() {
    let home = Home::new();
    let (screen, out) = terminal();
    let socket = home.socket("d/s");
    let mut command = home.udsmsg(&["run", "--socket", &socket, "--", "sh", "-c", "read -r line; exit 7"]);
    command.stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(out);
    let process = Process::spawn_as_is(command, WATCHDOG);
    let mut peer = connect(&home, &socket);
    assert_eq!(send_until_refused(&mut peer, 1_000).0, "inbox full");
    connect(&home, &socket).ping();
    process.take_stdin().write_all(b"go\n").unwrap();
    process.end().assert_code(7);
    assert!(home.traces().is_empty());
    drop(screen);
}

/// The sender goes on while its receipts are not read, as long as they fit into its buffer.
#[test]
fn unread_terminal_does_not_block_ndjson() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let (screen, out) = terminal();
    let input = home.path().join("input");
    let total = 3_000;
    fs::write(&input, "{\"type\":\"text\"}\n".repeat(total)).unwrap();
    let mut command = home.udsmsg(&["--json", "send", "--ndjson", &serve.socket]);
    command.stdin(File::open(input).unwrap()).stdout(out).stderr(Stdio::piped());
    let process = Process::spawn_as_is(command, WATCHDOG);
    for number in 1..=total {
        assert_eq!(serve.entry().id, format!("uds-{number}"));
    }
    let lines = BufReader::new(screen).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take(total + 1).collect();
    assert!(lines.last().unwrap().contains("\"accepted\":3000"), "{:?}", lines.last());
    process.end().assert_code(0);
    serve.stop().assert_clean(0);
}

/// Messages that were answered `ok` are in the file, although the stop has to wait for a lock.
#[test]
fn stop_under_a_held_lock_prints_accepted_messages() {
    let home = Home::new();
    let dir = home.private("d");
    let path = home.path().join("out");
    let mut served = start(&home, home.serve_command(&["--no-drain"]), File::create(&path).unwrap());
    for _ in 0..100 {
        served.peer.send_text(&"x".repeat(10_000));
    }
    let _held = Flock::lock(File::open(dir).unwrap(), FlockArg::LockExclusive).unwrap();
    served.process.ask_to_stop();
    let ended = served.process.end();
    let printed = fs::read_to_string(path).unwrap();
    assert_eq!(printed.lines().count(), 101, "{ended:?}");
}

/// A stop has one limit of time, for a held lock as for an unread stdout. The test measures both at the same
/// time, so that a busy machine delays both.
#[test]
fn stop_under_a_held_lock_takes_no_longer_than_with_an_unread_stdout() {
    let (locked, unread) = (Home::new(), Home::new());
    let dir = locked.private("d");
    let file = File::create(locked.path().join("out")).unwrap();
    let mut under_lock = start(&locked, locked.serve_command(&[]), file);
    let (_reader, full, _) = full_pipe();
    let mut behind = start(&unread, unread.serve_command(&[]), full);
    for served in [&mut under_lock, &mut behind] {
        served.peer.send_text("x");
    }
    let held = Flock::lock(File::open(dir).unwrap(), FlockArg::LockExclusive).unwrap();
    let begun = Instant::now();
    let [under_lock, behind] = [under_lock, behind].map(|mut served| {
        served.process.ask_to_stop();
        thread::spawn(move || (served.process.wait().code(), begun.elapsed()))
    });
    let [(code, took), (_, allowed)] = [under_lock, behind].map(|ended| ended.join().unwrap());
    assert!(took < 2 * allowed, "{took:?}, and {allowed:?} with an unread stdout");
    assert_eq!(code, Some(1), "the socket cannot be removed while the lock is held");
    drop(held);
}

#[test]
fn full_disk_stops_with_a_reason() {
    let home = Home::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = home.serve_command(&[]);
    command.stdout(full()).stderr(Stdio::piped());
    let ended = Process::spawn_as_is(command, WATCHDOG).end();
    ended.assert_refused("cannot write to stdout: ");
    home.publish("/nowhere");
    let mut command = home.udsmsg(&["send", "--ndjson", "/nowhere"]);
    let input = home.path().join("input");
    fs::write(&input, "{\"type\":\"text\"}\n").unwrap();
    command.stdin(File::open(input).unwrap()).stdout(full()).stderr(Stdio::piped());
    let ended = Process::spawn_as_is(command, WATCHDOG).end();
    ended.assert_refused("cannot write to stdout: ");
}

/// `run` counts the messages that it could not print; its first line is none.
#[test]
fn first_line_of_run_is_not_counted_as_a_message() {
    let home = Home::new();
    let mut command = home.udsmsg(&["run", "--", "sh", "-c", "exit 3"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let ended = Process::spawn_as_is(command, WATCHDOG).end();
    ended.assert_code(3);
    assert!(ended.stderr.contains("cannot write to stdout: "), "{ended:?}");
    assert!(!ended.stderr.contains("messages not printed"), "{ended:?}");
}

/// A file size limit is an error with a reason, not the end by a signal.
#[test]
fn file_size_limit_stops_with_a_reason() {
    let home = Home::new();
    let limited = |limit: u32| {
        let mut command = home.command("sh");
        command.args([
            "-c",
            r#"ulimit -f "$1" && shift && exec "$@""#,
            "sh",
            &limit.to_string(),
            UDSMSG,
            "serve",
        ]);
        command
    };
    // The capability cannot be written.
    let ended = Process::spawn(limited(0)).end();
    ended.assert_refused("File too large");
    assert!(home.traces().is_empty(), "{:?}", home.traces());
    // Only some messages can be printed.
    let path = home.path().join("out");
    let served = start(&home, limited(8), File::create(&path).unwrap());
    let line = text_line(&"x".repeat(1_000)).replace("TOKEN", &home.token(&served.socket));
    let mut stream = served.peer.stream();
    while stream.write_all(format!("{line}\n").as_bytes()).is_ok() {}
    let ended = served.process.end();
    ended.assert_code(1);
    assert!(ended.stderr.contains("cannot write to stdout: File too large"), "{ended:?}");
    assert!(home.traces().is_empty(), "{:?}", home.traces());
}

/// After `su` the terminal belongs to another user, and cannot be opened a second time.
#[test]
fn unread_terminal_of_another_user_does_not_block_the_server() {
    const OTHER: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        crate::machine::skip("not root, so there is no second user");
        return;
    }
    let home = Home::new();
    let (screen, out) = terminal();
    fs::set_permissions(format!("/proc/self/fd/{}", out.as_raw_fd()), fs::Permissions::from_mode(0o600))
        .unwrap();
    let dir = home.private("d");
    for path in [home.path(), &home.tmp(), &dir] {
        chown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
    let socket = dir.join("s").to_str().unwrap().to_owned();
    // The other user may have no access to the directory of the build.
    let udsmsg = home.path().join("udsmsg");
    fs::copy(UDSMSG, &udsmsg).unwrap();
    let mut command = home.command(udsmsg);
    command.args(["serve", "--socket", &socket]);
    command.uid(OTHER).gid(OTHER).stdout(out).stderr(Stdio::piped());
    let process = Process::spawn_as_is(command, WATCHDOG);
    let mut peer = connect(&home, &socket);
    assert_eq!(send_until_refused(&mut peer, 1_000).0, "inbox full");
    connect(&home, &socket).ping();
    process.ask_to_stop();
    let ended = process.end();
    ended.assert_code(1);
    assert!(ended.stderr.contains("bytes of messages were not printed"), "{ended:?}");
    let mut printed = String::new();
    let mut screen = BufReader::new(screen);
    screen.read_line(&mut printed).unwrap();
    assert!(printed.starts_with("listening at "), "{printed}");
}

/// The line that a server prints on a terminal for a message with `text`.
fn on_a_terminal(args: &[&str], text: &str) -> String {
    let home = Home::new();
    let (screen, out) = terminal();
    let mut served = start(&home, home.serve_command(args), out);
    let answer = served.peer.ask(&text_line(text));
    assert_eq!(answer["data"], "ok", "{text:?}");
    let line = BufReader::new(screen).lines().nth(1).unwrap().unwrap();
    served.process.ask_to_stop();
    served.process.end().assert_code(0);
    line.trim_end_matches('\r').to_owned()
}

#[test]
fn control_and_format_characters_are_escaped_on_a_terminal() {
    let text: String = CONTROLS.iter().flat_map(|c| [*c, 'ü', '日']).collect();
    let line = on_a_terminal(&[], &text);
    let escaped: String = CONTROLS.iter().map(|c| format!("{}ü日", c.escape_unicode())).collect();
    assert!(line.ends_with(&escaped), "{line:?}");
    let line = on_a_terminal(&["--json"], &text);
    assert!(!line.contains(|c: char| CONTROLS.contains(&c)), "{line:?}");
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["message"]["data"], text);
}

/// In JSON for a program, control characters are escaped; all others are as sent.
#[test]
fn controls_in_json_lines_are_escaped_and_stay_valid() {
    let home = Home::new();
    let mut serve = home.serve(&[]);
    let text: String = CONTROLS.iter().flat_map(|c| [*c, 'ü']).collect();
    serve.peer(&home.token(&serve.socket)).send_text(&text);
    let line = serve.line();
    for c in CONTROLS {
        assert_eq!(line.contains(c), !c.is_control(), "{c:?} in {line:?}");
    }
    assert!(line.contains(r"\u007fü\u0080ü\u0085ü\u009bü\u009dü\u009fü"), "{line}");
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["message"]["data"], text);
    serve.stop().assert_clean(0);
}
