//! A sweep removes what dead servers left, and nothing else: by table, and in a dry run.

#[cfg(unix)]
mod sockets;

use std::collections::BTreeSet;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use sha2::Digest;
#[cfg(target_os = "linux")]
use udsmsg::os::CapabilityDir;
use udsmsg::os::Random;
use udsmsg::peers::{Fate, PeerState, ProcessIdentity};

use crate::published::{CHANGES, can_prove, contents, publish, sweep};
use crate::util::{Place, facts, make_private_dir, rounds, write_private};
#[cfg(target_os = "linux")]
use crate::{published::peers, util::leave_stale};

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
        let (id, mode, modified) = facts(&place.path(&name));
        (name, id, mode, modified)
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
    let mut expected = Vec::new();
    for (number, (_, change, state, _)) in CHANGES.iter().enumerate() {
        let path = place.server(&format!("{number}.sock"));
        // On Windows a dead server leaves nothing there.
        #[cfg(unix)]
        crate::util::leave_stale(&path);
        let mut contents = contents(&path);
        change(&mut contents);
        let file = publish(&place, &path, &contents);
        if *state == PeerState::Dead {
            #[cfg(unix)]
            expected.push(path);
            expected.push(file);
        }
    }
    #[cfg(unix)]
    std::fs::write(place.path("d/note"), "").unwrap();
    let dead = CHANGES.iter().filter(|(_, _, state, _)| *state == PeerState::Dead).count();
    assert_eq!(expected.len(), if cfg!(unix) { 2 * dead } else { dead });
    expect_swept(&place, &expected);
    eprintln!("{dead} of {} capabilities swept", CHANGES.len());
}

/// A child may serve on with the token of its dead parent.
#[cfg(windows)]
#[test]
fn capability_of_a_dead_server_is_kept_while_its_pipe_answers() {
    let place = Place::new();
    let path = place.server("served");
    let file = publish(&place, &path, &of_dead(&path));
    let pipe = mio::windows::NamedPipe::new(&path).unwrap();
    let report = sweep(&place, false);
    assert_eq!((report.swept.len(), report.swept[0].fate), (1, Fate::Kept), "{report:?}");
    assert!(report.swept[0].reason.contains("still something at its pipe path"), "{report:?}");
    drop(pipe);
    expect_swept(&place, &[file]);
}

#[test]
fn temporary_capability_files_are_removed_if_they_name_a_dead_owner() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let path = place.server("s.sock");
    let dir = place.path("config/messaging-capabilities");
    make_private_dir(&dir);
    let hash = "0".repeat(64);
    let nonce = "a".repeat(32);
    let write = |name: String, contents: &str| {
        write_private(&dir.join(&name), contents);
        dir.join(name)
    };
    let dead = of_dead(&path).to_string();
    let live = contents(&path).to_string();
    let own_pid = std::process::id();
    let mark = own_mark(0).unwrap();
    let recycled = own_mark(1).unwrap();
    let expected = [
        write(format!(".{hash}.{NOBODYS_PID}-{nonce}.tmp"), &dead),
        write(format!(".{hash}.{NOBODYS_PID}-{nonce}.{mark}.tmp"), ""),
        write(format!(".{hash}.{own_pid}-{nonce}.{recycled}.tmp"), ""),
    ];
    write(format!(".{hash}.{own_pid}-{nonce}.{mark}.tmp"), &dead);
    // Empty, cut short, with another pid than in its name, of a running process; and names that are not ours.
    write(format!(".{hash}.{NOBODYS_PID}-{}.tmp", "b".repeat(32)), "");
    write(format!(".{hash}.{NOBODYS_PID}-{}.tmp", "c".repeat(32)), &dead[..40]);
    write(format!(".{hash}.{}-{nonce}.tmp", NOBODYS_PID - 1), &dead);
    write(format!(".{hash}.{own_pid}-{nonce}.tmp"), &live);
    write(format!(".{hash}.{NOBODYS_PID}-{nonce}.x-y-1-2.tmp"), "");
    let digest = "0".repeat(16);
    let foreign = if cfg!(windows) { format!("{digest}-1") } else { format!("{digest}-{digest}-1-2") };
    write(format!(".{hash}.{NOBODYS_PID}-{nonce}.{foreign}.tmp"), &dead);
    write(format!(".{hash}.{NOBODYS_PID}-{nonce}.{foreign}.more.tmp"), &dead);
    write(format!(".{hash}.{NOBODYS_PID}.tmp"), &dead);
    write(format!(".{hash}.tmp"), &dead);
    write(String::from(".vimrc.tmp"), &dead);
    write(format!("{hash}.tmp"), &dead);
    #[cfg(unix)]
    symlink("x", dir.join(format!(".{hash}.{NOBODYS_PID}-{}.tmp", "d".repeat(32)))).unwrap();
    expect_swept(&place, &expected);
}

/// Tells the others to stop, also after a failure.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// No directory, so no lock: a capability that is published while the stale one is being removed is there in
/// the end.
#[test]
fn publication_survives_the_removal_of_a_stale_one() {
    if !can_prove() {
        return;
    }
    let place = Place::new();
    let path = if cfg!(unix) { place.path("gone/s.sock") } else { place.server("s.sock") };
    let address = udsmsg::Address::from_path(&path).unwrap();
    let stale = of_dead(&path).to_string();
    let file = publish(&place, &path, &of_dead(&path));
    // Wine takes a hundred times longer for each.
    let rounds = rounds(if cfg!(windows) { 50 } else { 500 });
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
            write_private(&aside, &stale);
            // On Windows it may be refused while the sweep reads the file.
            while let Err(error) = std::fs::rename(&aside, &file) {
                assert!(cfg!(windows) && error.kind() == std::io::ErrorKind::PermissionDenied, "{error}");
            }
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

/// What identifies this process in the names of its temporary files, or one that started `earlier` by so much.
fn own_mark(earlier: u64) -> Option<String> {
    let start = ProcessIdentity::current().start;
    let start_time = start.start_time? - earlier;
    let digest = |id: String| {
        let digest: [u8; 32] = sha2::Sha256::digest(id.as_bytes()).into();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let machine = digest(start.machine_id?);
    if cfg!(windows) {
        return Some(format!("{machine}-{start_time}"));
    }
    let boot = digest(start.boot_id?);
    let clock = start.time_namespace.map_or_else(String::new, |inode| format!("-{inode}"));
    Some(format!("{machine}-{boot}-{}-{start_time}{clock}", start.pid_namespace?))
}

/// A file that a crash leaves before a publication shows the same in its name.
#[cfg(target_os = "linux")]
#[test]
fn a_temporary_file_of_another_boot_on_a_shared_file_system_is_kept() {
    let Some(mark) = own_mark(0) else { return };
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
        write_private(&dir.join(&name), "");
        expect_swept(&place, &[dir.join(&name)]);
    }
}
