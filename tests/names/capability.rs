//! Capability files: what is written, what is trusted, what is removed.

use std::fs::{self, File};
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use nix::sys::stat::{Mode, SFlag, mknod};
use udsmsg::os::{CapabilityDir, Random};
use udsmsg::peers::{ProcessIdentity, ProcessState};
use udsmsg::{Address, ErrorKind};

use crate::util::{Place, expect_error, token, write_private};
#[cfg(unix)]
use crate::util::{chmod, give_away, mode};
use crate::watchdog::watch;

/// The path of a server, one of another server, and one that means the same to the system and is another
/// text.
const PATHS: [&str; 3] = if cfg!(windows) {
    [r"\\.\pipe\x", r"\\.\pipe\y", r"\\.\pipe\X"]
} else {
    ["/run/x/s.sock", "/run/y/s.sock", "/run/x/./s.sock"]
};

fn address() -> Address {
    Address::parse(PATHS[0]).unwrap()
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
        write_private(&self.path, contents);
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
    let path = serde_json::to_string(PATHS[0]).unwrap();
    format!(r#"{{"socketPath":{path},"authToken":"{}"{more}}}"#, token(1).expose())
}

#[test]
fn the_name_is_the_hash_of_the_path_as_given() {
    #[cfg(windows)]
    let table = [
        (r"\\.\pipe\x", "6cf349c987f59aa7e6ef9ddb85e6e53703d238740782181f448de3471be73e40.json"),
        (r"\\.\pipe\abc", "50198694d67146049bc0286ece3d9acc4f200f24e3b7902cc6bfb019d9948d42.json"),
    ];
    #[cfg(unix)]
    let table = [
        ("/run/x/s.sock", "41199006e48c335c813354b571a64bfadcb752c83deae09294a9c7e18ec4df8c.json"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad.json"),
    ];
    for (path, name) in table {
        assert_eq!(CapabilityDir::file_name(&Address::parse(path).unwrap()), name);
    }
    #[cfg(windows)]
    let spellings = [r"\\.\pipe\x", r"\\.\pipe\X", r"\\.\PIPE\x", r"\\.\pipe\uds:x"];
    #[cfg(unix)]
    let spellings = ["p/s.sock", "p//s.sock", "./p/s.sock", "p/./s.sock", "uds:x", "x"];
    let names: Vec<_> =
        spellings.map(|path| CapabilityDir::file_name(&Address::from_path(path).unwrap())).into();
    assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)));
}

#[test]
fn published_file_is_private_complete_and_readable() {
    let published = Published::new();
    // On Windows a reader checks the access list of both, as below.
    #[cfg(unix)]
    assert_eq!((mode(&published.path), mode(published.dir.path())), (0o600, 0o700));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&published.path).unwrap()).unwrap();
    assert_eq!(json["socketPath"], PATHS[0]);
    assert_eq!(json["authToken"], token(1).expose());
    assert_eq!(json["pid"], std::process::id());
    let read = published.dir.read(&address()).unwrap();
    assert_eq!(read.address, address());
    assert!(read.auth_token.matches(token(1).expose().as_bytes()));
    assert_eq!(read.process, Some(ProcessIdentity::current()));
    if cfg!(any(target_os = "linux", windows)) {
        assert!(json["process"]["startTime"].as_u64().is_some());
        assert_eq!(json["process"]["bootId"].is_string(), cfg!(unix));
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
    let other = Address::parse(PATHS[2]).unwrap();
    expect_error(published.dir.read(&other), ErrorKind::CapabilityMissing, &["is the server running"]);
}

/// Modes, owners and kinds of files that Windows does not have; its access lists are tested beside the code
/// that reads them.
#[cfg(unix)]
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
    fs::remove_file(&published.path).unwrap();
    mknod(&published.path, SFlag::S_IFSOCK, Mode::S_IRUSR | Mode::S_IWUSR, 0).unwrap();
    published.expect_unusable(&["a socket"]);
    fs::remove_file(&published.path).unwrap();
    nix::unistd::mkfifo(&published.path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let _watchdog = watch("a capability that is a FIFO");
    published.expect_unusable(&["a FIFO"]);
}

#[test]
fn a_directory_is_no_capability_and_a_hard_link_is() {
    let published = Published::new();
    let elsewhere = published.place.path("elsewhere");
    fs::rename(&published.path, &elsewhere).unwrap();
    fs::hard_link(&elsewhere, &published.path).unwrap();
    published.dir.read(&address()).unwrap();
    fs::remove_file(&published.path).unwrap();
    fs::create_dir(&published.path).unwrap();
    published.expect_unusable(&["a directory"]);
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
    let json_of = |path: &str| serde_json::to_string(path).unwrap();
    let of_other = format!("for the {} {:?}", if cfg!(windows) { "pipe" } else { "socket" }, PATHS[1]);
    let table: [(String, &str); 15] = [
        (String::new(), not_json),
        (secret.clone(), not_json),
        (format!("\"{secret}\""), not_json),
        (format!("[\"{secret}\"]"), not_json),
        (String::from("{}"), not_json),
        (contents("").replace("socketPath", "socketpath"), not_json),
        (contents("").replace("authToken", secret.as_str()), not_json),
        (contents("").replace(&json_of(PATHS[0]), "7"), not_json),
        (contents("").replace(&format!("\"{secret}\""), "null"), not_json),
        (contents(&format!(r#","authToken":"{secret}""#)), not_json),
        (contents("") + "x", not_json),
        (contents("").replace(&json_of(PATHS[0]), &json_of(PATHS[1]).replace('y', "\\u0079")), &of_other),
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
    published.replace(b"{\"socketPath\":\"x\xff\"}");
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
    assert!(!published.dir.remove_if_ours(&Address::parse(PATHS[1]).unwrap(), &token(1)).unwrap());
    assert!(published.path.exists());
    // Its mode does not matter for that.
    #[cfg(unix)]
    chmod(&published.path, 0o644);
    assert!(published.dir.remove_if_ours(&address(), &token(1)).unwrap());
    assert!(!published.dir.remove_if_ours(&address(), &token(1)).unwrap());
    assert_eq!(fs::read_dir(published.dir.path()).unwrap().count(), 0);
    assert!(
        !CapabilityDir::at(published.place.path("nonexistent/x"))
            .remove_if_ours(&address(), &token(1))
            .unwrap()
    );
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

#[test]
fn check_says_whether_the_directory_is_there_and_makes_nothing() {
    let place = Place::new();
    let capabilities = place.capabilities();
    assert!(!capabilities.check().unwrap());
    assert!(place.everything().is_empty());
    capabilities.publish(&address(), &token(1), &mut Random::from_seed([1; 32])).unwrap();
    assert!(capabilities.check().unwrap());
    let file = capabilities.path().join(CapabilityDir::file_name(&address()));
    expect_error(CapabilityDir::at(&file).check(), ErrorKind::DirectoryNotPrivate, &["not a directory"]);
    let below = CapabilityDir::at(file.join("x").join("y"));
    expect_error(below.check(), ErrorKind::DirectoryNotPrivate, &["on the way to it", "not a directory"]);
    let refused = below.publish(&address(), &token(1), &mut Random::from_seed([1; 32]));
    expect_error(refused, ErrorKind::DirectoryNotPrivate, &["on the way to it", "not a directory"]);
}

#[test]
fn failed_publication_removes_the_directories_that_it_made() {
    let place = Place::new();
    let too_long = Address::parse(&format!("{}{}", PATHS[0], "x".repeat(256))).unwrap();
    let refused = place.capabilities().publish(&too_long, &token(1), &mut Random::from_seed([1; 32]));
    expect_error(refused, ErrorKind::PathTooLong, &[]);
    assert!(place.everything().is_empty(), "{:?}", place.everything());
}
