//! A sweep removes what dead servers left, and nothing else: by table, in a dry run, and in a race with
//! starts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use udsmsg::os::{CapabilityDir, Claim, Random};
use udsmsg::peers::{Fate, PeerState, ProcessIdentity, Remains};
use udsmsg::{ErrorKind, Location, Namespace};

use crate::peers::{CHANGES, can_prove, contents, environment, peers, publish, sweep};
use crate::util::{Place, chmod, give_away, leave_stale, once_free, rounds, token};

/// A pid that no process has.
const NOBODYS_PID: u32 = i32::MAX as u32;

/// A capability file of a process that has ended.
fn of_dead(path: &Path) -> Value {
    let mut contents = contents(path);
    contents["pid"] = json!(NOBODYS_PID);
    contents
}

/// Everything below `place`, and which file it is.
fn snapshot(place: &Place) -> BTreeSet<(String, u64, u32, i64)> {
    let facts = |name: String| {
        let meta = place.path(&name).symlink_metadata().unwrap();
        (name, meta.ino(), meta.mode(), meta.mtime_nsec())
    };
    place.everything().into_iter().map(facts).collect()
}

/// Sweeps dry and then in earnest; checks that exactly `expected` went, as it was foretold.
#[track_caller]
fn expect_swept(place: &Place, expected: &[PathBuf]) {
    let before = snapshot(place);
    let dry = sweep(place, true);
    assert_eq!(snapshot(place), before, "a dry run changed something");
    let real = sweep(place, false);
    let paths = |report: &udsmsg::peers::SweepReport, fate| {
        let found = report.swept.iter().filter(|swept| swept.fate == fate).map(|swept| swept.path.clone());
        found.collect::<BTreeSet<_>>()
    };
    let expected: BTreeSet<_> = expected.iter().cloned().collect();
    assert_eq!(paths(&dry, Fate::WouldBeRemoved), expected, "{dry:#?}");
    assert_eq!(paths(&real, Fate::Removed), expected, "{real:#?}");
    assert!(dry.is_complete && real.is_complete);
    assert!(real.swept.iter().all(|swept| swept.fate != Fate::Failed && !swept.reason.is_empty()));
    let mut after = before;
    after.retain(|(name, ..)| !expected.contains(&place.path(name)));
    let names =
        |all: BTreeSet<(String, u64, u32, i64)>| all.into_iter().map(|it| (it.0, it.1)).collect::<Vec<_>>();
    assert_eq!(names(snapshot(place)), names(after));
    assert!(sweep(place, false).swept.iter().all(|swept| swept.fate == Fate::Kept));
}

#[test]
fn sweep_removes_exactly_what_proven_dead_servers_left() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    let mut expected = Vec::new();
    for (number, (_, change, state, _)) in CHANGES.iter().enumerate() {
        let path = dir.join(format!("{number}.sock"));
        leave_stale(&path);
        let mut contents = contents(&path);
        change(&mut contents);
        let file = publish(&place, &path, &contents);
        if *state == PeerState::Dead {
            expected.extend([path, file]);
        }
    }
    fs::write(dir.join("note"), "").unwrap();
    assert_eq!(expected.len(), 6);
    expect_swept(&place, &expected);
    eprintln!("{} of {} capabilities swept, each with its socket", expected.len() / 2, CHANGES.len());
}

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
fn temporary_capability_files_are_removed_if_they_name_a_dead_owner() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let path = place.path("d/s.sock");
    let dir = place.make_dir("config/messaging-capabilities", 0o700);
    let hash = "0".repeat(64);
    let nonce = "a".repeat(32);
    let write = |name: String, contents: &str| {
        fs::write(dir.join(&name), contents).unwrap();
        chmod(&dir.join(&name), 0o600);
        dir.join(name)
    };
    let dead = of_dead(&path).to_string();
    let live = contents(&path).to_string();
    let own_pid = std::process::id();
    let expected = [write(format!(".{hash}.{NOBODYS_PID}-{nonce}.tmp"), &dead)];
    // Empty, cut short, with another pid than in its name, of a running process; and names that are not ours.
    write(format!(".{hash}.{NOBODYS_PID}-{}.tmp", "b".repeat(32)), "");
    write(format!(".{hash}.{NOBODYS_PID}-{}.tmp", "c".repeat(32)), &dead[..40]);
    write(format!(".{hash}.{}-{nonce}.tmp", NOBODYS_PID - 1), &dead);
    write(format!(".{hash}.{own_pid}-{nonce}.tmp"), &live);
    write(format!(".{hash}.{NOBODYS_PID}-{nonce}.x-y-1-2.tmp"), "");
    let digest = "0".repeat(16);
    write(format!(".{hash}.{NOBODYS_PID}-{nonce}.{digest}-{digest}-1-2.tmp"), &dead);
    write(format!(".{hash}.{NOBODYS_PID}-{nonce}.{digest}-{digest}-1-2.more.tmp"), &dead);
    write(format!(".{hash}.{NOBODYS_PID}.tmp"), &dead);
    write(format!(".{hash}.tmp"), &dead);
    write(String::from(".vimrc.tmp"), &dead);
    write(format!("{hash}.tmp"), &dead);
    symlink("x", dir.join(format!(".{hash}.{NOBODYS_PID}-{}.tmp", "d".repeat(32)))).unwrap();
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

/// Tells the others to stop, also after a failure.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
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

/// No directory, so no lock: a capability that is published while the stale one is being removed is there in
/// the end.
#[test]
fn publication_survives_the_removal_of_a_stale_one() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let path = place.path("gone/s.sock");
    let address = udsmsg::Address::from_path(&path).unwrap();
    let stale = of_dead(&path).to_string();
    let file = publish(&place, &path, &of_dead(&path));
    let rounds = rounds(500);
    let is_over = AtomicBool::new(false);
    let absent = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = sweep(&place, false);
            }
        });
        let over = Over(&is_over);
        let mut random = Random::from_os().unwrap();
        let mut absent = 0;
        for round in 0..rounds {
            let aside = file.with_extension("new");
            fs::write(&aside, &stale).unwrap();
            chmod(&aside, 0o600);
            fs::rename(&aside, &file).unwrap();
            // At another point of the sweep in each round.
            (0..round % 97).for_each(|_| drop(path.symlink_metadata()));
            let auth_token = random.auth_token();
            place.capabilities().publish(&address, &auth_token, &mut random).unwrap();
            let begun = std::time::Instant::now();
            loop {
                match place.capabilities().read(&address) {
                    Ok(read) => {
                        assert!(read.auth_token.matches(auth_token.expose().as_bytes()));
                        break;
                    }
                    Err(_) => absent += 1,
                }
                assert!(begun.elapsed().as_secs() < 30, "lost in round {round}");
            }
        }
        drop(over);
        absent
    });
    eprintln!(
        "{rounds} publications in place of stale ones during sweeps: none lost, \
         {absent} looks while one was aside"
    );
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

/// Two machines made from one image have one machine-id; where they share a directory of capability files,
/// another boot can be another machine that runs.
#[cfg(target_os = "linux")]
#[test]
fn another_boot_on_a_shared_file_system_proves_nothing() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    leave_stale(&path);
    let mut of_other = contents(&path);
    of_other["process"]["bootId"] = json!("0".repeat(32));
    let dir = place.make_dir("config/messaging-capabilities", 0o700);
    let name = CapabilityDir::file_name(&udsmsg::Address::from_path(&path).unwrap());
    let was_run = crate::shared_mount::with_shared_mount(&dir, (&name, &of_other.to_string()), || {
        let report = peers(&place).sweep(false).unwrap();
        assert_eq!(report.swept.len(), 1, "{report:?}");
        assert_eq!(report.swept[0].fate, Fate::Kept, "{report:?}");
        assert!(report.swept[0].reason.contains("another one with the same id"), "{report:?}");
        assert!(path.exists());
        let list = peers(&place).list().unwrap();
        assert_eq!(list.peers[0].state, PeerState::Unknown, "{list:?}");
    });
    if was_run {
        // The same in a directory that is this machine's alone.
        let file = publish(&place, &path, &of_other);
        expect_swept(&place, &[path, file]);
    }
}

/// What identifies this process in the names of its temporary files.
fn own_mark() -> Option<String> {
    let start = ProcessIdentity::current().start;
    // A capability file has the digest of a text in its name.
    let digest =
        |id: String| CapabilityDir::file_name(&udsmsg::Address::from_path(&id).unwrap())[..16].to_owned();
    let (machine, boot) = (digest(start.machine_id?), digest(start.boot_id?));
    let clock = start.time_namespace.map_or_else(String::new, |inode| format!("-{inode}"));
    Some(format!("{machine}-{boot}-{}-{}{clock}", start.pid_namespace?, start.start_time?))
}

/// A file that a crash leaves before a publication shows the same in its name.
#[cfg(target_os = "linux")]
#[test]
fn a_temporary_file_of_another_boot_on_a_shared_file_system_is_kept() {
    let Some(mark) = own_mark() else { return };
    let place = Place::new();
    let dir = place.make_dir("config/messaging-capabilities", 0o700);
    let mut parts: Vec<_> = mark.split('-').map(str::to_owned).collect();
    parts[1] = "0".repeat(16);
    let name = format!(".{}.{NOBODYS_PID}-{}.{}.tmp", "0".repeat(64), "a".repeat(32), parts.join("-"));
    let was_run = crate::shared_mount::with_shared_mount(&dir, (&name, ""), || {
        let report = peers(&place).sweep(false).unwrap();
        assert_eq!(report.swept[0].fate, Fate::Kept, "{report:?}");
        assert!(report.swept[0].reason.contains("another one with the same id"), "{report:?}");
    });
    if was_run {
        fs::write(dir.join(&name), "").unwrap();
        chmod(&dir.join(&name), 0o600);
        expect_swept(&place, &[dir.join(&name)]);
    }
}
