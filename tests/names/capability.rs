//! Capability files: what is written, what is trusted, what is removed.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use udsmsg::os::{CapabilityDir, Random};
use udsmsg::peers::{ProcessIdentity, ProcessState};
use udsmsg::{Address, ErrorKind};

use crate::util::{Place, chmod, expect_error, give_away, mode, token};
use crate::watchdog::watch;

fn address() -> Address {
    Address::parse("/run/x/s.sock").unwrap()
}

/// A published file to spoil.
struct Published {
    place: Place,
    dir: CapabilityDir,
    path: PathBuf,
}

impl Published {
    fn new() -> Self {
        let place = Place::new();
        let dir = place.capabilities();
        dir.publish(&address(), &token(1), &mut Random::from_seed([1; 32])).unwrap();
        let path = dir.path().join(CapabilityDir::file_name(&address()));
        Self { place, dir, path }
    }

    fn replace(&self, contents: impl AsRef<[u8]>) {
        fs::write(&self.path, contents).unwrap();
        chmod(&self.path, 0o600);
    }

    #[track_caller]
    fn expect_unusable(&self, words: &[&str]) {
        let before = self.place.everything();
        expect_error(self.dir.read(&address()), ErrorKind::CapabilityUnusable, words);
        assert_eq!(self.place.everything(), before);
    }
}

/// The contents of a good file with `more` keys.
fn contents(more: &str) -> String {
    format!(r#"{{"socketPath":"/run/x/s.sock","authToken":"{}"{more}}}"#, token(1).expose())
}

#[test]
fn the_name_is_the_hash_of_the_path_as_given() {
    let table = [
        ("/run/x/s.sock", "41199006e48c335c813354b571a64bfadcb752c83deae09294a9c7e18ec4df8c.json"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.json"),
    ];
    for (path, name) in table {
        assert_eq!(CapabilityDir::file_name(&Address::parse(path).unwrap()), name);
    }
    let names: Vec<_> = ["p/s.sock", "p//s.sock", "./p/s.sock", "p/./s.sock", "uds:x", "x"]
        .map(|path| CapabilityDir::file_name(&Address::from_path(path).unwrap()))
        .into();
    assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)));
}

#[test]
fn published_file_is_private_complete_and_readable() {
    let published = Published::new();
    assert_eq!((mode(&published.path), mode(published.dir.path())), (0o600, 0o700));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&published.path).unwrap()).unwrap();
    assert_eq!(json["socketPath"], "/run/x/s.sock");
    assert_eq!(json["authToken"], token(1).expose());
    assert_eq!(json["pid"], std::process::id());
    let read = published.dir.read(&address()).unwrap();
    assert_eq!(read.address, address());
    assert!(read.auth_token.matches(token(1).expose().as_bytes()));
    assert_eq!(read.process, Some(ProcessIdentity::current()));
    if cfg!(target_os = "linux") {
        assert!(json["process"]["startTime"].as_u64().is_some() && json["process"]["bootId"].is_string());
        assert!(read.process.is_some_and(|process| process.state() != ProcessState::Dead));
    }
    assert!(read.published_at.as_millis() > 1_704_067_200_000);
    // The next server at the same path replaces it, and leaves nothing else.
    published.dir.publish(&address(), &token(2), &mut Random::from_seed([2; 32])).unwrap();
    assert!(published.dir.read(&address()).unwrap().auth_token.matches(token(2).expose().as_bytes()));
    assert_eq!(fs::read_dir(published.dir.path()).unwrap().count(), 1);
}

#[test]
fn no_debug_text_shows_a_token() {
    let published = Published::new();
    let text = format!("{:?} {:?}", published.dir.read(&address()).unwrap(), published.dir);
    assert!(!text.contains(token(1).expose()) && text.contains("redacted"), "{text}");
}

#[test]
fn missing_capability_has_its_own_error() {
    let place = Place::new();
    expect_error(place.capabilities().read(&address()), ErrorKind::CapabilityMissing, &["does not exist"]);
    assert!(place.everything().is_empty());
    let published = Published::new();
    let other = Address::parse("/run/x/./s.sock").unwrap();
    expect_error(published.dir.read(&other), ErrorKind::CapabilityMissing, &["is the server running"]);
}

#[test]
fn only_a_private_regular_file_of_our_own_is_read() {
    let published = Published::new();
    for bits in [0o604, 0o640, 0o644, 0o601, 0o620] {
        chmod(&published.path, bits);
        published.expect_unusable(&[&format!("{bits:04o}"), "lets others in"]);
    }
    for bits in [0o400, 0o600, 0o700] {
        chmod(&published.path, bits);
        published.dir.read(&address()).unwrap();
    }
    if give_away(&published.path) {
        published.expect_unusable(&["belongs to uid 65534"]);
    }

    let published = Published::new();
    let elsewhere = published.place.path("elsewhere");
    fs::rename(&published.path, &elsewhere).unwrap();
    symlink(&elsewhere, &published.path).unwrap();
    published.expect_unusable(&["a symbolic link"]);
    // A hard link is the file itself.
    fs::remove_file(&published.path).unwrap();
    fs::hard_link(&elsewhere, &published.path).unwrap();
    published.dir.read(&address()).unwrap();

    fs::remove_file(&published.path).unwrap();
    fs::create_dir(&published.path).unwrap();
    published.expect_unusable(&["a directory"]);
    fs::remove_dir(&published.path).unwrap();
    mknod(&published.path, SFlag::S_IFSOCK, Mode::S_IRUSR | Mode::S_IWUSR, 0).unwrap();
    published.expect_unusable(&["a socket"]);
    fs::remove_file(&published.path).unwrap();
    nix::unistd::mkfifo(&published.path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let _watchdog = watch("a capability that is a FIFO");
    published.expect_unusable(&["a FIFO"]);
}

#[test]
fn the_size_is_looked_at_before_the_contents() {
    let published = Published::new();
    let padded = |len: usize| format!("{:<len$}", contents(""));
    published.replace(padded(4096));
    published.dir.read(&address()).unwrap();
    published.replace(padded(4097));
    published.expect_unusable(&["4097 bytes", "4096"]);
    // So large that nothing could read it in time or in memory.
    File::options().write(true).open(&published.path).unwrap().set_len(1 << 40).unwrap();
    let _watchdog = watch("a capability of 1 TiB");
    published.expect_unusable(&["1099511627776 bytes"]);
}

#[test]
fn each_fault_of_the_contents_has_its_own_text_without_a_token() {
    let published = Published::new();
    let secret = token(1).expose().to_owned();
    let not_json = "no JSON object";
    let table: [(String, &str); 15] = [
        (String::new(), not_json),
        (secret.clone(), not_json),
        (format!("\"{secret}\""), not_json),
        (format!("[\"{secret}\"]"), not_json),
        (String::from("{}"), not_json),
        (contents("").replace("socketPath", "socketpath"), not_json),
        (contents("").replace("authToken", secret.as_str()), not_json),
        (contents("").replace("\"/run/x/s.sock\"", "7"), not_json),
        (contents("").replace(&format!("\"{secret}\""), "null"), not_json),
        (contents(&format!(r#","authToken":"{secret}""#)), not_json),
        (contents("") + "x", not_json),
        (contents("").replace("/run/x", "/run/\\u0079"), r#"for the socket "/run/y/s.sock""#),
        (contents("").replace(&secret, &secret.to_uppercase().replace('0', "A")), "64 lower-case hex digits"),
        (contents("").replace(&secret, &format!("{secret}0")), "64 lower-case hex digits"),
        (contents("").replace(&secret, ""), "64 lower-case hex digits"),
    ];
    for (contents, words) in table {
        published.replace(&contents);
        published.expect_unusable(&[words]);
        let error = published.dir.read(&address()).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains(&secret) && !text.contains(&secret.to_uppercase()), "{text}");
    }
    published.replace(b"{\"socketPath\":\"/run/x/s.sock\xff\"}");
    published.expect_unusable(&[not_json]);
}

#[test]
fn keys_that_are_not_needed_may_be_missing_new_or_wrong() {
    let published = Published::new();
    let full = r#","pid":7,"process":{"machineId":"m","bootId":"b","pidNamespace":1,"startTime":2}"#;
    for (more, pid, start_time) in [
        ("", None, None),
        (r#","pid":7"#, Some(7), None),
        (full, Some(7), Some(2)),
        (r#","pid":7,"process":{"startTime":2,"future":[]}"#, Some(7), Some(2)),
        (r#","pid":7,"process":{"startTime":"2"}"#, Some(7), None),
        (r#","pid":7,"process":null,"x":{"y":[1e400]}"#, Some(7), None),
        (r#","pid":-7"#, None, None),
        (r#","pid":4294967296"#, None, None),
        (r#","pid":"7","process":[]"#, None, None),
    ] {
        published.replace(contents(more));
        let process = published.dir.read(&address()).unwrap().process;
        assert_eq!(process.as_ref().map(|process| process.pid), pid, "{more}");
        assert_eq!(process.and_then(|process| process.start.start_time), start_time, "{more}");
    }
}

#[test]
fn only_a_file_with_our_token_is_removed() {
    let published = Published::new();
    assert!(!published.dir.remove_if_ours(&address(), &token(2)).unwrap());
    assert!(!published.dir.remove_if_ours(&Address::parse("/x").unwrap(), &token(1)).unwrap());
    assert!(published.path.exists());
    // Its mode does not matter for that.
    chmod(&published.path, 0o644);
    assert!(published.dir.remove_if_ours(&address(), &token(1)).unwrap());
    assert!(!published.dir.remove_if_ours(&address(), &token(1)).unwrap());
    assert_eq!(fs::read_dir(published.dir.path()).unwrap().count(), 0);
    assert!(!CapabilityDir::at("/nonexistent/x").remove_if_ours(&address(), &token(1)).unwrap());
    let published = Published::new();
    fs::write(&published.path, "not ours").unwrap();
    expect_error(published.dir.remove_if_ours(&address(), &token(1)), ErrorKind::CapabilityUnusable, &[]);
    assert!(published.path.exists());
}

#[test]
fn failed_publication_leaves_no_files() {
    let published = Published::new();
    fs::remove_file(&published.path).unwrap();
    fs::create_dir(&published.path).unwrap();
    let refused = published.dir.publish(&address(), &token(1), &mut Random::from_seed([1; 32]));
    expect_error(refused, ErrorKind::Io, &["cannot publish"]);
    let names: Vec<_> =
        fs::read_dir(published.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [published.path.as_path() as &Path]);
}
