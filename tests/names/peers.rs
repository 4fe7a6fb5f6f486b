//! Peers: every state of a peer, within the timeout, for every content of its files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::json;
use udsmsg::os::CapabilityDir;
use udsmsg::peers::{Peer, PeerState};
use udsmsg::{Address, ErrorKind};

use crate::child::Part;
use crate::published::{CHANGES, can_prove, contents, peers, publish, sweep};
use crate::util::{Place, chmod, expect_error, give_away, is_root, leave_stale, token};
use crate::watchdog::watch;
use crate::with_time_enough;

/// A process that has ended and was not waited for.
pub fn zombie() -> Child {
    let child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags).unwrap();
    child
}

/// Answers every line that comes to `path` with `answer`.
pub fn answering(path: &Path, answer: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
            let _ = writeln!(stream, "{answer}");
        }
    });
}

fn find<'p>(found: &'p [Peer], path: &Path) -> &'p Peer {
    let file_name = CapabilityDir::file_name(&Address::from_path(path).unwrap());
    found.iter().find(|peer| peer.file_name == file_name).unwrap_or_else(|| panic!("no peer for {path:?}"))
}

#[track_caller]
fn expect(peer: &Peer, state: PeerState, words: &str) {
    assert_eq!(peer.state, state, "{peer:?}");
    assert!(peer.reason.contains(words), "{words:?} is not in: {peer:?}");
}

#[test]
fn missing_directory_lists_no_peers_and_is_not_made() {
    let place = Place::new();
    let list = peers(&place).list().unwrap();
    assert!(list.peers.is_empty() && list.is_complete);
    assert!(sweep(&place, false).swept.is_empty());
    assert!(place.everything().is_empty());
    place.make_dir("config", 0o700);
    place.make_dir("config/messaging-capabilities", 0o755);
    expect_error(peers(&place).list(), ErrorKind::DirectoryNotPrivate, &["chmod 700"]);
    expect_error(peers(&place).sweep(false), ErrorKind::DirectoryNotPrivate, &["chmod 700"]);
}

#[test]
fn process_decides_the_state_of_a_server_that_does_not_answer() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    let mut paths = Vec::new();
    for (number, (_, change, ..)) in CHANGES.iter().enumerate() {
        let path = dir.join(format!("{number}.sock"));
        leave_stale(&path);
        let mut contents = contents(&path);
        change(&mut contents);
        publish(&place, &path, &contents);
        paths.push(path);
    }
    let mut zombie = zombie();
    let path = dir.join("zombie.sock");
    let mut of_zombie = contents(&path);
    of_zombie["pid"] = json!(zombie.id());
    publish(&place, &path, &of_zombie);
    let before = place.everything();
    let list = peers(&place).list().unwrap();
    assert_eq!(place.everything(), before);
    assert!(list.is_complete);
    assert_eq!(list.peers.len(), CHANGES.len() + 1);
    for ((name, _, state, words), path) in CHANGES.iter().zip(&paths) {
        let peer = find(&list.peers, path);
        expect(peer, *state, words);
        assert_eq!(peer.address.as_ref().unwrap().path(), path.to_str().unwrap(), "{name}");
        assert!(peer.age.unwrap() < Duration::from_secs(60) && peer.published_at.is_some());
    }
    expect(find(&list.peers, &path), PeerState::Dead, "its parent has not noticed");
    zombie.wait().unwrap();
    expect(find(&peers(&place).list().unwrap().peers, &path), PeerState::Dead, "no such process");
    // The live first, the unusable last.
    assert!(list.peers.is_sorted_by_key(|peer| peer.state));
    eprintln!("{} states of a process told apart", CHANGES.len() + 2);
}

#[test]
fn answering_server_is_alive_and_silent_server_is_unknown() {
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    let path = |name: &str| dir.join(name);
    let lives = PeerState::Live;
    let answers = [
        ("pong", r#"{"type":"pong"}"#, lives, "it answered"),
        ("receipt", r#"{"type":"response","data":"ok"}"#, lives, "it answered"),
        ("busy", r#"{"type":"error","data":"too many clients"}"#, lives, "it answered"),
        ("refused", r#"{"type":"error","data":"unauthorized"}"#, PeerState::Unusable, "\"unauthorized\""),
        (
            "escaped",
            r#"{"type":"error","data":"\u001b[2J\u202e"}"#,
            PeerState::Unusable,
            r"\u{1b}[2J\u{202e}",
        ),
        ("nonsense", "x", PeerState::Unknown, "Invalid UDS response frame"),
    ];
    for (name, answer, ..) in answers {
        answering(&path(name), answer);
        publish(&place, &path(name), &contents(&path(name)));
    }
    // A server that answers is alive, also if its file names another machine.
    answering(&path("container"), r#"{"type":"pong"}"#);
    let mut elsewhere = contents(&path("container"));
    elsewhere["process"]["machineId"] = json!("0".repeat(32));
    publish(&place, &path("container"), &elsewhere);
    let _silent = UnixListener::bind(path("silent")).unwrap();
    publish(&place, &path("silent"), &contents(&path("silent")));
    publish(&place, Path::new("rel/s.sock"), &contents(Path::new("rel/s.sock")));
    publish(&place, &path("nothing"), &contents(&path("nothing")));
    fs::write(path("file"), "").unwrap();
    publish(&place, &path("file"), &contents(&path("file")));
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    publish(&place, &long, &contents(&long));

    // On a busy machine not all that answer may have done so.
    let list = with_time_enough(Duration::from_secs(1), |timeout| {
        let list = peers(&place).with_timeout(timeout).list().unwrap();
        let unanswered = |peer: &&Peer| peer.reason.contains("no answer came in time");
        (list.peers.iter().filter(unanswered).count() == 1).then_some(list)
    });
    for (name, _, state, words) in answers {
        expect(find(&list.peers, &path(name)), state, words);
    }
    expect(find(&list.peers, &path("container")), lives, "it answered");
    expect(find(&list.peers, &path("silent")), PeerState::Unknown, "no answer came in time");
    expect(find(&list.peers, Path::new("rel/s.sock")), PeerState::Unknown, "relative");
    expect(find(&list.peers, &path("nothing")), PeerState::Unknown, "there is no socket");
    expect(find(&list.peers, &path("file")), PeerState::Unknown, "no process listens");
    expect(find(&list.peers, &long), PeerState::Unusable, "125 bytes");
    assert_eq!(list.peers.len(), answers.len() + 6);
}

/// Each kind of file that must not be trusted.
#[test]
fn invalid_capability_file_is_listed_with_its_reason() {
    let place = Place::new();
    let dir = place.make_dir("config/messaging-capabilities", 0o700);
    let elsewhere = place.path("elsewhere");
    type Make<'a> = &'a dyn Fn(&Path, &Path) -> bool;
    let write = |file: &Path, text: &str| {
        fs::write(file, text).unwrap();
        chmod(file, 0o600);
        true
    };
    let good = |path: &Path| contents(path).to_string();
    let cases: [(&str, Make<'_>); 13] = [
        ("0644", &|file, path| {
            write(file, &good(path));
            chmod(file, 0o644);
            true
        }),
        ("a symbolic link", &|file, path| {
            write(&elsewhere, &good(path));
            symlink(&elsewhere, file).is_ok()
        }),
        ("a symbolic link", &|file, _| symlink("/dev/zero", file).is_ok()),
        ("a FIFO", &|file, _| nix::unistd::mkfifo(file, Mode::S_IRUSR | Mode::S_IWUSR).is_ok()),
        ("a directory", &|file, _| fs::create_dir(file).is_ok()),
        ("a socket", &|file, _| mknod(file, SFlag::S_IFSOCK, Mode::S_IRUSR, 0).is_ok()),
        ("5000 bytes", &|file, path| write(file, &format!("{:<5000}", good(path)))),
        ("1099511627776 bytes", &|file, path| {
            write(file, &good(path))
                && fs::File::options().write(true).open(file).unwrap().set_len(1 << 40).is_ok()
        }),
        ("no JSON object", &|file, _| write(file, "")),
        ("no JSON object", &|file, _| write(file, "{\"socketPath\":")),
        ("for the socket \"/x\\u{1b}\\u{202e}\"", &|file, _| {
            write(file, &contents(Path::new("/x\u{1b}\u{202e}")).to_string())
        }),
        ("64 lower-case hex digits", &|file, path| {
            let mut contents = contents(path);
            contents["authToken"] = json!("x");
            write(file, &contents.to_string())
        }),
        ("belongs to uid 65534", &|file, path| write(file, &good(path)) && give_away(file)),
    ];
    let mut expected = BTreeMap::new();
    for (number, (words, make)) in cases.iter().enumerate() {
        let path = place.path(&format!("{number}.sock"));
        let name = CapabilityDir::file_name(&Address::from_path(&path).unwrap());
        if make(&dir.join(&name), &path) {
            expected.insert(name, *words);
        } else {
            let _ = fs::remove_file(dir.join(&name));
        }
    }
    // What is not named like a capability file is none.
    for other in ["notes.json", ".hidden", "README", &"0".repeat(64), &format!("{}.json", "G".repeat(64))] {
        fs::write(dir.join(other), "x").unwrap();
    }
    let before = place.everything();
    let _watchdog = watch("invalid_capability_file_is_listed_with_its_reason");
    let list = peers(&place).list().unwrap();
    assert_eq!(list.peers.len(), expected.len());
    for peer in &list.peers {
        expect(peer, PeerState::Unusable, expected[&peer.file_name]);
        let secret = token(1);
        assert!(!format!("{peer:?}").contains(secret.expose()));
        assert!(!peer.reason.chars().any(|c| c.is_control() || c == '\u{202e}'), "{peer:?}");
    }
    // Nothing that cannot be believed is removed.
    let report = sweep(&place, false);
    assert!(report.swept.iter().all(|swept| swept.fate == udsmsg::peers::Fate::Kept), "{report:?}");
    assert_eq!(place.everything(), before);
    eprintln!("{} kinds of files not believed", expected.len());
}

#[test]
fn a_server_of_another_user_gets_no_token() {
    if !is_root() {
        return;
    }
    let place = Place::open();
    let own = place.make_dir("own", 0o700);
    assert!(give_away(&own));
    let path = own.join("s.sock");
    let other_uid = crate::util::OTHER_UID.to_string();
    let mut part = Part::start(&[
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", own.join("config").as_os_str()),
        ("NAMES_UID", other_uid.as_ref()),
    ]);
    assert!(part.step().starts_with("bound"));
    publish(&place, &path, &contents(&path));
    expect(find(&peers(&place).list().unwrap().peers, &path), PeerState::Unusable, "user id 65534");
}

#[test]
fn many_silent_peers_are_listed_within_the_timeout() {
    const SILENT: usize = 150;
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    let mut listeners = Vec::new();
    for number in 0..SILENT {
        let path = dir.join(format!("{number}"));
        listeners.push(UnixListener::bind(&path).unwrap());
        publish(&place, &path, &contents(&path));
    }
    // A busy machine may need longer to ask all of them.
    let (allowed, took) = with_time_enough(Duration::from_millis(400), |allowed| {
        let asked = Instant::now();
        let list = peers(&place).with_timeout(allowed).list().unwrap();
        let took = asked.elapsed();
        assert_eq!(list.peers.len(), SILENT);
        assert!(list.peers.iter().all(|peer| peer.state == PeerState::Unknown));
        // Peers behind the silent ones were asked as well.
        let asked = listeners.iter().filter(|listener| {
            listener.set_nonblocking(true).unwrap();
            listener.accept().is_ok()
        });
        (asked.count() == SILENT).then_some((allowed, took))
    });
    // One after another they would take 150 times as long.
    assert!(took < 50 * allowed, "{took:?}, {allowed:?} were allowed");
    let no_time = peers(&place).with_timeout(Duration::ZERO).list().unwrap();
    assert!(no_time.peers.iter().all(|peer| peer.reason.contains("the time was over")), "{no_time:?}");
    eprintln!("{SILENT} silent peers asked in {took:?}, of {allowed:?} allowed");
}

#[test]
fn a_full_backlog_does_not_block() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    publish(&place, &path, &contents(&path));
    let _watchdog = watch("a_full_backlog_does_not_block");
    let list = peers(&place).list().unwrap();
    assert_ne!(list.peers[0].state, PeerState::Dead);
}
