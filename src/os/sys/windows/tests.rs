//! The facts of Windows, against Windows or Wine. What Wine does not do is said on standard error.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mio::windows::NamedPipe;
use tempfile::TempDir;
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::{s, w};

use super::*;
use crate::proto::peer::PeerIdentity;
use crate::proto::sid::Sid;

const EVERYONE: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
const SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const ADMINISTRATORS: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];
const OWNER_RIGHTS: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0];
/// `S-1-5-21-7`, the owner in the tables.
const OWNER: [u8; 16] = [1, 2, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 7, 0, 0, 0];

/// Whether this runs under Wine, which enforces no access list and much else not.
fn is_wine() -> bool {
    // SAFETY: the names end with a 0, and every process has this library for as long as it runs.
    unsafe { GetProcAddress(GetModuleHandleW(w!("ntdll.dll")), s!("wine_get_version")).is_some() }
}

/// Whether `what` can be seen here; if not, that is said.
fn can_be_seen(what: &str) -> bool {
    if is_wine() {
        // Not through a macro: those are silent in a test that passes.
        writeln!(io::stderr(), "not seen under Wine: {what}").unwrap();
    }
    !is_wine()
}

fn sid(bytes: &[u8]) -> Sid {
    Sid::from_bytes(bytes).unwrap()
}

fn temp_dir() -> (TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("private");
    make_dir(&path).unwrap();
    let dir = open_dir(&path).unwrap();
    (temp, dir)
}

fn is_error<T>(result: &io::Result<T>, number: u32) -> bool {
    result.as_ref().err().and_then(io::Error::raw_os_error) == Some(number.cast_signed())
}

#[test]
fn we_are_the_user_of_our_own_process() {
    let own = own_sid().unwrap();
    assert_eq!(sid_of_process(std::process::id()).unwrap(), own);
    let text = own.to_string();
    assert!(text.starts_with("S-1-5-21-") || text.starts_with("S-1-12-1-") || text == "S-1-5-18", "{text}");
    assert_eq!(Owner::current(), Owner::with_sid(own));
}

#[test]
fn an_owner_trusts_its_own_user_and_the_system_only() {
    let owner = Owner::with_sid(sid(&OWNER));
    let peers = [
        (PeerIdentity::windows(sid(&OWNER), Some(1)), true),
        (PeerIdentity::windows(sid(&OWNER), None), true),
        (PeerIdentity::windows(sid(&SYSTEM), Some(1)), true),
        (PeerIdentity::windows(sid(&ADMINISTRATORS), Some(1)), false),
        (PeerIdentity::windows(sid(&EVERYONE), Some(1)), false),
        (PeerIdentity::unix(0, Some(1)), false),
    ];
    for (peer, is_trusted) in peers {
        assert_eq!(owner.trusts(peer), is_trusted, "{peer}");
    }
}

/// An entry of an access list.
fn entry(kind: u8, flags: u8, permitted: u32, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + rest.len()).unwrap().to_le_bytes();
    [&[kind, flags, len[0], len[1]], &permitted.to_le_bytes()[..], rest].concat()
}

type Entries = Vec<Vec<u8>>;

/// An access list with these entries.
fn list(entries: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    let entries = entries.concat();
    let len = u16::try_from(8 + entries.len()).unwrap().to_le_bytes();
    [&[2, 0, len[0], len[1], count[0], count[1], 0, 0], &entries[..]].concat()
}

#[test]
fn an_access_list_names_the_first_stranger_who_has_access() {
    let allow = |who: &[u8]| entry(0, 0, 1, who);
    let stranger = Some(Stranger::User(sid(&EVERYONE)));
    let cases: [(&str, Entries, Option<Stranger>); 14] = [
        ("empty", vec![], None),
        ("owner", vec![allow(&OWNER)], None),
        ("system", vec![allow(&SYSTEM)], None),
        ("administrators", vec![allow(&ADMINISTRATORS)], None),
        ("owner rights", vec![allow(&OWNER_RIGHTS)], None),
        ("all four", vec![allow(&OWNER), allow(&SYSTEM), allow(&ADMINISTRATORS), allow(&OWNER_RIGHTS)], None),
        ("everyone", vec![allow(&OWNER), allow(&EVERYONE)], stranger),
        ("inherited", vec![entry(0, 0x10, 1, &EVERYONE)], stranger),
        ("only for what is made in it", vec![entry(0, 0x0b, 1, &EVERYONE)], None),
        ("nothing permitted", vec![entry(0, 0, 0, &EVERYONE)], None),
        ("denied", vec![entry(1, 0, 1, &EVERYONE)], None),
        ("denied first", vec![entry(1, 0, 1, &EVERYONE), allow(&EVERYONE)], stranger),
        ("on a condition", vec![entry(9, 0, 1, &[&EVERYONE[..], b"artx"].concat())], stranger),
        ("another type", vec![entry(5, 0, 1, &OWNER)], Some(Stranger::Entry(5))),
    ];
    for (what, entries, expected) in cases {
        assert_eq!(stranger_in(&list(&entries), &sid(&OWNER)), expected, "{what}");
    }
}

#[test]
fn an_access_list_that_is_cut_off_counts_as_open() {
    let whole = list(&[entry(0, 0, 1, &OWNER), entry(0, 0, 1, &SYSTEM)]);
    assert_eq!(stranger_in(&whole, &sid(&OWNER)), None);
    for len in 0..whole.len() {
        assert_eq!(stranger_in(&whole[..len], &sid(&OWNER)), Some(Stranger::List), "{len} bytes");
    }
    let mut short = list(&[entry(0, 0, 1, &OWNER)]);
    short[8 + 2] = 4;
    assert_eq!(stranger_in(&short, &sid(&OWNER)), Some(Stranger::List), "an entry shorter than its head");
    assert_eq!(
        stranger_in(&list(&[entry(0, 0, 1, &OWNER[..12])]), &sid(&OWNER)),
        Some(Stranger::List),
        "an entry shorter than its identifier"
    );
}

#[test]
fn what_we_make_is_ours_alone() {
    let (_temp, dir) = temp_dir();
    let mut file = create_private(&dir, "file").unwrap();
    file.write_all(b"four").unwrap();
    let facts = facts_of(&file).unwrap();
    assert_eq!((facts.kind, facts.len, facts.stranger), (FileKind::Regular, 4, None));
    assert!(facts.is_ours() && !facts.is_open_to_others(), "{facts:?}");
    let facts = facts_of(dir.file()).unwrap();
    assert_eq!((facts.kind, facts.stranger), (FileKind::Directory, None));
    assert!(facts.is_ours(), "{}", facts.whose());
    // What others make there is for us alone too.
    fs::write(dir.path().join("plain"), b"").unwrap();
    if can_be_seen("inheritance of an access list") {
        assert_eq!(facts_at(&dir, "plain").unwrap().stranger, None);
    }
}

#[test]
fn a_file_that_everyone_may_read_is_open_to_others() {
    let (_temp, dir) = temp_dir();
    let own = own_sid().unwrap();
    let access = OwnerOnly::from_text(&format!("O:{own}D:P(A;;FA;;;{own})(A;;FR;;;WD)")).unwrap();
    let file = create(&dir.path().join("open"), &access).unwrap();
    let facts = facts_of(&file).unwrap();
    assert_eq!(facts.stranger, Some(Stranger::User(sid(&EVERYONE))));
    assert!(facts.is_open_to_others() && facts.is_ours());
}

#[test]
fn a_file_without_an_access_list_is_open_to_everyone() {
    let (_temp, dir) = temp_dir();
    let own = own_sid().unwrap();
    let access = OwnerOnly::from_text(&format!("O:{own}D:NO_ACCESS_CONTROL")).unwrap();
    let file = create(&dir.path().join("open"), &access).unwrap();
    if can_be_seen("a file without an access list") {
        assert_eq!(facts_of(&file).unwrap().stranger, Some(Stranger::Everyone));
    }
}

#[test]
fn what_exists_is_not_made_again() {
    let (_temp, dir) = temp_dir();
    drop(create_private(&dir, "file").unwrap());
    assert_eq!(create_private(&dir, "file").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(make_dir(dir.path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(create_private(&dir, "no\0name").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn files_are_told_apart_by_their_ids() {
    let (_temp, dir) = temp_dir();
    let first = create_private(&dir, "first").unwrap();
    let second = create_private(&dir, "second").unwrap();
    let facts = facts_of(&first).unwrap();
    assert!(facts.is_as(&facts_at(&dir, "first").unwrap()));
    assert_ne!(facts.id, facts_of(&second).unwrap().id);
    link_in(&dir, "first", "third").unwrap();
    assert_eq!(facts_at(&dir, "third").unwrap().id, facts.id);
    assert_eq!(link_in(&dir, "first", "second").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(facts.modified.as_millis() > 1_600_000_000_000, "{:?}", facts.modified);
}

#[test]
fn a_file_is_renamed_over_another_and_removed() {
    let (_temp, dir) = temp_dir();
    create_private(&dir, "new").unwrap().write_all(b"new").unwrap();
    create_private(&dir, "old").unwrap().write_all(b"old").unwrap();
    rename_in(&dir, "new", "old").unwrap();
    let mut text = String::new();
    open_to_read(&dir, "old").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "new");
    assert_eq!(facts_at(&dir, "new").unwrap_err().kind(), ErrorKind::NotFound);
    remove_at(&dir, "old").unwrap();
    assert_eq!(open_to_read(&dir, "old").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_no_regular_file_is_opened_and_told() {
    let (_temp, dir) = temp_dir();
    make_dir(&dir.path().join("inner")).unwrap();
    assert_eq!(facts_of(&open_to_read(&dir, "inner").unwrap()).unwrap().kind, FileKind::Directory);
    let device = OpenOptions::new().read(true).open("NUL").unwrap();
    assert_eq!(facts_of(&device).unwrap_err().kind(), ErrorKind::InvalidInput);
    if can_be_seen("a reparse point is not followed") {
        let (link, target) = (dir.path().join("link"), dir.path().join("inner"));
        // A junction: a link needs a privilege.
        let mut make = Command::new("cmd");
        make.args([OsStr::new("/c"), "mklink".as_ref(), "/j".as_ref(), link.as_ref(), target.as_ref()]);
        assert!(make.stdout(Stdio::null()).status().unwrap().success());
        assert_eq!(facts_at(&dir, "link").unwrap().kind, FileKind::Link);
    }
}

#[test]
fn a_path_longer_than_260_units_is_a_path_like_others() {
    let (temp, _) = temp_dir();
    let mut path = temp.path().to_owned();
    for _ in 0..3 {
        path.push("d".repeat(100));
        make_dir(&path).unwrap();
    }
    let dir = open_dir(&path).unwrap();
    create_private(&dir, "file").unwrap().write_all(b"x").unwrap();
    assert_eq!(facts_at(&dir, "file").unwrap().len, 1);
}

#[test]
fn a_directory_that_is_held_stays_in_its_place() {
    let (temp, dir) = temp_dir();
    let elsewhere = temp.path().join("elsewhere");
    assert!(fs::rename(dir.path(), &elsewhere).is_err());
    assert!(fs::remove_dir(dir.path()).is_err());
    if can_be_seen("a directory above one that is held is not renamed") {
        assert!(fs::rename(temp.path(), temp.path().with_extension("moved")).is_err());
    }
    let path = dir.path().to_owned();
    drop(dir);
    fs::rename(&path, &elsewhere).unwrap();
}

#[test]
fn names_are_drawn_where_there_are_too_many() {
    let (_temp, dir) = temp_dir();
    for name in ["a1", "a2", "a3", "b"] {
        drop(create_private(&dir, name).unwrap());
    }
    let wanted = |name: &str| name.starts_with('a');
    let (mut names, is_all) = names_in(&dir, 3, wanted, |_| 0).unwrap();
    names.sort();
    assert_eq!((names, is_all), (vec!["a1".to_owned(), "a2".into(), "a3".into()], true));
    let (names, is_all) = names_in(&dir, 2, wanted, |below| below - 1).unwrap();
    assert_eq!((names.len(), is_all), (2, false));
}

#[test]
fn a_temporary_file_is_on_this_machine_and_its_directory_writable() {
    let (_temp, dir) = temp_dir();
    assert!(is_local(dir.file()));
    assert!(is_writable(dir.path()));
    assert!(!is_writable(&dir.path().join("absent")));
    assert!(home_directory().is_some_and(|home| home.is_dir()));
}

#[test]
fn this_process_runs_since_its_start() {
    let pid = std::process::id();
    assert_eq!(process(pid), Found::Running { started: own_start().unwrap() });
    // The next number is no process, even where the system takes it for this one.
    assert_eq!(process(pid + 1), Found::Nothing);
    assert_eq!(process(0), Found::Unknown);
}

#[test]
fn a_process_that_has_ended_is_nothing_even_with_the_status_of_one_that_runs() {
    let mut child = Command::new("cmd").args(["/c", "exit 259"]).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(259));
    // `child` holds the process, so its number is not given to another one.
    assert_eq!(process(child.id()), Found::Nothing);
}

#[test]
fn another_process_was_started_after_this_one() {
    // It waits for its input.
    let mut command = Command::new("cmd");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let Found::Running { started } = process(child.id()) else { panic!("{:?}", process(child.id())) };
    assert!(started >= own_start().unwrap());
    assert_eq!(sid_of_process(child.id()).unwrap(), own_sid().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_machine_has_an_id() {
    let id = machine_id().unwrap();
    assert_eq!((id.len(), machine_id()), (36, Some(id.clone())), "{id}");
}

fn pipe_path(name: &str) -> PathBuf {
    Path::new(r"\\.\pipe").join(format!("udsmsg-test-{}-{name}", std::process::id()))
}

fn ends(path: &Path) -> (NamedPipe, NamedPipe) {
    let server = new_instance(path, true, &OwnerOnly::pipe().unwrap()).unwrap();
    (server, open_pipe(path).unwrap())
}

#[test]
fn both_ends_of_a_pipe_know_who_is_at_the_other() {
    let (server, client) = ends(&pipe_path("identity"));
    let us = PeerIdentity::windows(own_sid().unwrap(), Some(std::process::id()));
    assert_eq!(client_identity(&server).unwrap(), us);
    assert_eq!(server_identity(&client).unwrap(), us);
    assert!(Owner::current().trusts(us));
}

#[test]
fn a_pipe_is_absent_busy_or_free() {
    let path = pipe_path("instances");
    assert_eq!(open_pipe(&path).unwrap_err().kind(), ErrorKind::NotFound);
    let (_server, _client) = ends(&path);
    assert!(is_error(&open_pipe(&path), ERROR_PIPE_BUSY));
    let _next = new_instance(&path, false, &OwnerOnly::pipe().unwrap()).unwrap();
    open_pipe(&path).unwrap();
}

#[test]
fn a_second_first_instance_is_refused() {
    let path = pipe_path("first");
    let _first = new_instance(&path, true, &OwnerOnly::pipe().unwrap()).unwrap();
    let second = new_instance(&path, true, &OwnerOnly::pipe().unwrap());
    if can_be_seen("a second first instance is refused") {
        assert!(is_error(&second, ERROR_ACCESS_DENIED), "{second:?}");
    }
}

#[test]
fn the_longest_pipe_name_is_taken() {
    let mut path = pipe_path("long").into_os_string();
    path.push("x".repeat(NAME_UNITS_MAX - path.len()));
    assert_eq!(path.len(), NAME_UNITS_MAX);
    let (server, client) = ends(Path::new(&path));
    assert_eq!(client_identity(&server).unwrap(), server_identity(&client).unwrap());
}

#[test]
fn a_pipe_name_with_a_nul_is_refused() {
    let refused = new_instance(Path::new("\\\\.\\pipe\\a\0b"), true, &OwnerOnly::pipe().unwrap());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(open_pipe(Path::new("\\\\.\\pipe\\a\0b")).unwrap_err().kind(), ErrorKind::InvalidInput);
}
