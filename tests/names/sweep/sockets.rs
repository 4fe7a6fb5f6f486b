//! What dead servers leave besides files on Unix: sockets and directories, also in a race with starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use udsmsg::os::{CapabilityDir, Claim, Random};
use udsmsg::peers::{Fate, ProcessIdentity, Remains};
use udsmsg::{ErrorKind, Location, Namespace};

use super::{NOBODYS_PID, Over, expect_swept, of_dead, snapshot};
use crate::published::{can_prove, contents, environment, publish, sweep};
use crate::util::{Place, chmod, give_away, leave_stale, once_free, rounds, token};

#[test]
fn only_a_dead_socket_is_removed_at_a_dead_servers_path() {
    if !can_prove() {
        return;
    }
    let place = Place::open();
    let dir = place.make_dir("d", 0o700);
    // The capability is removed in each case but the last four, together with the named files.
    type Make = fn(&Path) -> bool;
    let cases: [(&str, Make, &[&str]); 9] = [
        ("a stale socket", |path| stale(path), &["socket", "capability"]),
        ("nothing", |_| true, &["capability"]),
        ("a file", |path| fs::write(path, "").is_ok(), &["capability"]),
        ("a link", |path| symlink("note", path).is_ok(), &["capability"]),
        ("a directory", |path| fs::create_dir(path).is_ok(), &["capability"]),
        ("a foreign socket", |path| stale(path) && give_away(path), &["capability"]),
        ("a live listener", |path| listens(path), &[]),
        ("a listener behind a mode", |path| listens(path) && hidden(path), &[]),
        ("a datagram socket", datagram, &[]),
    ];
    let mut expected = Vec::new();
    for (number, (name, make, gone)) in cases.iter().enumerate() {
        let path = dir.join(format!("{number}.sock"));
        if !make(&path) {
            continue;
        }
        let file = publish(&place, &path, &of_dead(&path));
        for gone in *gone {
            expected.push(if *gone == "socket" { path.clone() } else { file.clone() });
        }
        assert!(!name.is_empty());
    }
    // A directory that is gone, one that others can open, and a path that belongs to some directory.
    let path = place.path("gone/s.sock");
    expected.push(publish(&place, &path, &of_dead(&path)));
    let path = place.make_dir("open", 0o755).join("s.sock");
    leave_stale(&path);
    publish(&place, &path, &of_dead(&path));
    publish(&place, Path::new("s.sock"), &of_dead(Path::new("s.sock")));
    expect_swept(&place, &expected);
}

fn stale(path: &Path) -> bool {
    leave_stale(path);
    true
}

/// Leaks the listener: it is to live as long as the test program.
fn listens(path: &Path) -> bool {
    std::mem::forget(UnixListener::bind(path).unwrap());
    true
}

fn hidden(path: &Path) -> bool {
    chmod(path, 0o000);
    true
}

fn datagram(path: &Path) -> bool {
    std::mem::forget(std::os::unix::net::UnixDatagram::bind(path).unwrap());
    true
}

/// A default location, as it was drawn by a process that has ended.
fn drawn(place: &Place, pid: u32, digit: &str) -> PathBuf {
    place.make_dir(&format!("tmp/claude-code-socks/{pid}-{}", digit.repeat(32)), 0o700)
}

#[test]
fn directory_of_a_dead_server_is_removed_if_otherwise_empty() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let mut expected = Vec::new();
    place.make_dir("tmp", 0o700);
    place.make_dir("tmp/claude-code-socks", 0o700);
    // With a capability: a socket in it, nothing in it, more in it, the directory of another pid, of no pid.
    for (pid, digit, has_socket, has_more, name) in [
        (NOBODYS_PID, "0", true, false, None),
        (NOBODYS_PID, "1", false, false, None),
        (NOBODYS_PID, "2", true, true, None),
        (1, "3", true, false, None),
        (NOBODYS_PID, "4", true, false, Some("mine")),
    ] {
        let dir = match name {
            Some(name) => place.make_dir(&format!("tmp/claude-code-socks/{name}"), 0o700),
            None => drawn(&place, pid, digit),
        };
        let path = dir.join("messaging.sock");
        expected.push(publish(&place, &path, &of_dead(&path)));
        if has_socket {
            leave_stale(&path);
            expected.push(path);
        }
        if has_more {
            fs::write(dir.join("note"), "").unwrap();
        }
        if !has_more && name.is_none() && pid == NOBODYS_PID {
            expected.push(dir);
        }
    }
    expect_swept(&place, &expected);
}

#[test]
fn directory_without_a_capability_is_removed_if_process_and_listener_are_gone() {
    let place = Place::open();
    place.make_dir("tmp", 0o700);
    place.make_dir("tmp/claude-code-socks", 0o700);
    let live = std::process::id();
    let mut expected = Vec::new();
    // Empty, and with a stale socket.
    expected.push(drawn(&place, NOBODYS_PID, "0"));
    let dir = drawn(&place, NOBODYS_PID, "1");
    leave_stale(&dir.join("messaging.sock"));
    expected.extend([dir.join("messaging.sock"), dir]);
    // What stays: a live process, a live listener, more than a socket, other names, not private, foreign.
    leave_stale(&drawn(&place, live, "2").join("messaging.sock"));
    drawn(&place, live, "3");
    listens(&drawn(&place, NOBODYS_PID, "4").join("messaging.sock"));
    fs::write(drawn(&place, NOBODYS_PID, "5").join("note"), "").unwrap();
    leave_stale(&drawn(&place, NOBODYS_PID, "6").join("other.sock"));
    fs::create_dir(drawn(&place, NOBODYS_PID, "7").join("messaging.sock")).unwrap();
    for name in
        ["x", "2147483647", "2147483647-", "02147483647-0", "2147483647-ABCDEFABCDEFABCDEFABCDEFABCDEFAB"]
    {
        place.make_dir(&format!("tmp/claude-code-socks/{name}"), 0o700);
    }
    chmod(&drawn(&place, NOBODYS_PID, "8"), 0o755);
    let foreign = drawn(&place, NOBODYS_PID, "9");
    if !give_away(&foreign) {
        fs::remove_dir(&foreign).unwrap();
    }
    fs::write(place.path(&format!("tmp/claude-code-socks/{NOBODYS_PID}-{}", "a".repeat(32))), "").unwrap();
    let target = place.make_dir("target", 0o700);
    symlink(target, place.path(&format!("tmp/claude-code-socks/{NOBODYS_PID}-{}", "b".repeat(32)))).unwrap();
    expect_swept(&place, &expected);
}

#[test]
fn a_default_location_in_tmp_itself_is_found() {
    let place = Place::new();
    let namespace = Namespace::new(&format!("t{}", std::process::id())).unwrap();
    let dir = PathBuf::from(format!("/tmp/{namespace}-{NOBODYS_PID}-{}", "0".repeat(32)));
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o700);
    leave_stale(&dir.join("messaging.sock"));
    let environment = place.environment();
    let report = udsmsg::Peers::in_namespace(&namespace, &environment).unwrap().sweep(false).unwrap();
    let removed: Vec<_> = report.swept.iter().map(|swept| (swept.remains, swept.fate)).collect();
    assert_eq!(
        removed,
        [(Remains::Socket, Fate::Removed), (Remains::Directory, Fate::Removed)],
        "{report:?}"
    );
    assert!(!dir.exists());
}

/// Starts on stale names while others sweep without a pause: what a start has made stays.
fn race(rounds: usize, make: impl Fn(&Place) -> Location + Sync) -> (usize, usize) {
    let place = Place::new();
    let is_over = AtomicBool::new(false);
    let (swept, absent) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Before the first start there is no directory.
                    let report = sweep(&place, false);
                    let removed = report.swept.iter().filter(|swept| swept.fate == Fate::Removed);
                    swept.fetch_add(removed.count(), Ordering::Relaxed);
                    let failed: Vec<_> =
                        report.swept.iter().filter(|swept| swept.fate == Fate::Failed).collect();
                    assert!(failed.is_empty(), "{failed:?}");
                    // Without a pause the lock would always be held and no start could succeed.
                    thread::sleep(std::time::Duration::from_micros(50));
                }
            });
        }
        scope.spawn(|| {
            let over = Over(&is_over);
            let mut random = Random::from_os().unwrap();
            for _ in 0..rounds {
                let location = make(&place);
                let path = PathBuf::from(location.address().path());
                let auth_token = random.auth_token();
                let bind = || Claim::bind(location.clone(), &place.capabilities(), &auth_token, &mut random);
                let (listener, mut claim) = once_free(bind).unwrap();
                for _ in 0..20 {
                    assert!(claim.still_there());
                    UnixStream::connect(&path).unwrap();
                    match place.capabilities().read(claim.address()) {
                        Ok(read) => assert!(read.auth_token.matches(auth_token.expose().as_bytes())),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::CapabilityMissing, "{error}");
                            absent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    thread::yield_now();
                }
                // A file that was moved aside is put back, however long the sweep is delayed.
                let begun = std::time::Instant::now();
                let read = loop {
                    match place.capabilities().read(claim.address()) {
                        Err(_) if begun.elapsed().as_secs() < 30 => absent.fetch_add(1, Ordering::Relaxed),
                        read => break read.unwrap(),
                    };
                };
                assert!(read.auth_token.matches(auth_token.expose().as_bytes()));
                once_free(|| claim.release(&listener)).unwrap();
                assert!(!path.exists());
            }
            drop(over);
        });
    });
    let left = fs::read_dir(place.capabilities().path()).unwrap().count();
    let _ = sweep(&place, false);
    assert!(left <= 1, "{:?}", place.everything());
    (swept.into_inner(), absent.into_inner())
}

#[test]
fn a_start_on_a_stale_name_loses_nothing_to_a_sweep() {
    if !can_prove() {
        return;
    }
    let rounds = rounds(100);
    // On a busy machine the starts may all be faster than the sweeps; then nothing was shown yet.
    for _ in 0..20 {
        let (swept, absent) = race(rounds, |place| {
            let path = place.make_dir("d", 0o700).join("s.sock");
            publish(place, &path, &of_dead(&path));
            // A sweep may have been faster than the bind.
            let _ = UnixListener::bind(&path);
            udsmsg::Address::from_path(&path).unwrap().into()
        });
        assert_eq!(absent, 0, "under the lock a capability is never missing");
        if swept > 0 {
            eprintln!("{rounds} starts on stale names during sweeps: none disturbed, {swept} things swept");
            return;
        }
    }
    panic!("no sweep ever met a start");
}

#[test]
fn a_start_where_the_directory_is_gone_loses_nothing_to_a_sweep() {
    if !can_prove() {
        return;
    }
    let rounds = rounds(100);
    let (swept, absent) = race(rounds, |place| {
        let path = place.path("d/s.sock");
        let _ = fs::remove_dir(place.path("d"));
        publish(place, &path, &of_dead(&path));
        udsmsg::Address::from_path(&path).unwrap().into()
    });
    eprintln!(
        "{rounds} starts without a directory during sweeps: {swept} swept, \
         {absent} looks at a file taken aside"
    );
}

#[test]
fn a_start_at_a_default_location_loses_nothing_to_a_sweep() {
    let rounds = rounds(100);
    let (_, absent) = race(rounds, |place| {
        Location::draw(&Namespace::default(), &environment(place), &mut Random::from_os().unwrap()).unwrap()
    });
    assert_eq!(absent, 0);
    eprintln!("{rounds} starts at default locations during sweeps: none disturbed");
}

#[test]
fn a_live_server_is_reported_as_kept() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let (_listener, claim) = place.bind(&place.path("d/s.sock")).unwrap();
    let before = snapshot(&place);
    let report = sweep(&place, false);
    assert_eq!(snapshot(&place), before);
    let file = place.capabilities().path().join(CapabilityDir::file_name(claim.address()));
    assert_eq!(report.swept.len(), 1);
    assert_eq!((&report.swept[0].path, report.swept[0].fate), (&file, Fate::Kept));
    assert_eq!(report.swept[0].reason, "its process runs");
    assert_eq!(ProcessIdentity::current().state_and_reason().1, "its process runs");
    let _ = token(1);
}

#[test]
fn file_published_while_a_sweep_waits_for_the_lock_is_checked_again() {
    if !can_prove() {
        return;
    }
    // On a busy machine the sweep may not have read the stale file yet when the start runs.
    for head_start in [100, 200, 400, 800, 1_600] {
        let place = Place::new();
        let path = place.make_dir("d", 0o700).join("s.sock");
        leave_stale(&path);
        let file = publish(&place, &path, &of_dead(&path));
        let lock = fs::File::open(place.path("d")).unwrap();
        lock.lock().unwrap();
        let report = thread::scope(|scope| {
            let sweep = scope.spawn(|| sweep(&place, false));
            // It has read the stale file and waits; a start works under the lock.
            thread::sleep(std::time::Duration::from_millis(head_start));
            publish(&place, &path, &contents(&path));
            lock.unlock().unwrap();
            sweep.join().unwrap()
        });
        assert!(path.exists() && file.exists(), "{report:?}");
        if report.swept[0].reason == "it has changed meanwhile" {
            return;
        }
    }
    panic!("no sweep ever waited for the lock after it had read the stale file");
}
