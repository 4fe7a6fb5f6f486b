//! Addresses: what is taken off, what is refused, what fits.

use std::ffi::OsString;
use std::path::Path;

use udsmsg::{Address, ErrorKind};

#[cfg(unix)]
use crate::util::Place;
use crate::util::expect_error;

/// A path that can be an address.
const PATH: &str = if cfg!(windows) { r"\\.\pipe\s" } else { "/run/s.sock" };

#[test]
fn exactly_one_scheme_is_taken_off() {
    #[cfg(unix)]
    let table = [
        ("/run/s.sock", "/run/s.sock"),
        ("uds:/run/s.sock", "/run/s.sock"),
        ("uds:uds:/run/s.sock", "uds:/run/s.sock"),
        ("UDS:/run/s.sock", "UDS:/run/s.sock"),
        ("s.sock", "s.sock"),
        ("uds:rel/s.sock", "rel/s.sock"),
        ("p//./s.sock", "p//./s.sock"),
        (" a b\n", " a b\n"),
        ("uds:/grüße.sock", "/grüße.sock"),
        ("/x#token", "/x#token"),
    ];
    #[cfg(windows)]
    let table = [
        (r"\\.\pipe\s", r"\\.\pipe\s"),
        (r"uds:\\.\pipe\s", r"\\.\pipe\s"),
        (r"uds:\\.\PIPE\S", r"\\.\PIPE\S"),
        (r"\\.\Pipe\ a b", r"\\.\Pipe\ a b"),
        (r"\\.\pipe\uds:s", r"\\.\pipe\uds:s"),
        (r"\\.\pipe\..s", r"\\.\pipe\..s"),
        (r"\\.\pipe\grüße", r"\\.\pipe\grüße"),
        (r"\\.\pipe\x#token", r"\\.\pipe\x#token"),
    ];
    for (target, path) in table {
        let address = Address::parse(target).unwrap();
        assert_eq!(address.path(), path, "{target}");
        assert_eq!(address.to_string(), format!("uds:{path}"));
        assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
    }
    let with_scheme = format!("uds:{PATH}");
    assert_eq!(Address::parse(Path::new(&with_scheme)).unwrap().path(), PATH);
    let as_path = Address::from_path(&with_scheme);
    #[cfg(unix)]
    assert_eq!(as_path.unwrap().path(), with_scheme);
    #[cfg(windows)]
    expect_error(as_path, ErrorKind::InvalidAddress, &["no pipe of this machine"]);
}

#[test]
fn invalid_addresses_are_refused_by_kind() {
    expect_error(Address::parse(""), ErrorKind::InvalidAddress, &["empty"]);
    expect_error(Address::parse("uds:"), ErrorKind::InvalidAddress, &["empty"]);
    expect_error(Address::parse(&format!("{PATH}\0b")), ErrorKind::InvalidAddress, &["NUL", r"\0b"]);
    let shown = if cfg!(windows) { r"\u{d800}" } else { r"\xFF" };
    expect_error(Address::parse(&not_utf8("b")), ErrorKind::InvalidAddress, &["UTF-8", shown]);
    expect_error(Address::from_path(Path::new("")), ErrorKind::InvalidAddress, &["empty"]);
}

/// An address that is no Unicode, with `rest` behind that.
fn not_utf8(rest: &str) -> OsString {
    #[cfg(unix)]
    let mut text = std::os::unix::ffi::OsStringExt::from_vec(b"/a\xff".to_vec());
    #[cfg(windows)]
    let mut text: OsString = std::os::windows::ffi::OsStringExt::from_wide(&[0x61, 0xd800]);
    OsString::push(&mut text, rest);
    text
}

/// What is no pipe of this machine must never be opened: a peer may have chosen it.
#[cfg(windows)]
#[test]
fn what_is_no_pipe_of_this_machine_is_refused() {
    let elsewhere = "no pipe of this machine";
    let table = [
        (r"\\host\pipe\s", elsewhere),
        (r"\\.\UNC\host\pipe\s", elsewhere),
        (r"\\?\pipe\s", elsewhere),
        (r"//./pipe/s", elsewhere),
        (r"\\.\pipe", elsewhere),
        (r"\\.\pipes\s", elsewhere),
        (r"\\.\C:\s", elsewhere),
        (r"C:\s", elsewhere),
        (r"pipe\s", elsewhere),
        ("s", elsewhere),
        (" \\\\.\\pipe\\s", elsewhere),
        ("\\\\.\\pipä\\s", elsewhere),
        (r"\\.\pipe\", "no name"),
        (r"\\.\pipe\a\b", "separator"),
        (r"\\.\pipe\..\C:\s", "separator"),
        (r"\\.\pipe\../UNC/host/s", "separator"),
        (r"\\.\pipe\.", "dot"),
        (r"\\.\pipe\..", "dot"),
        (r"\\.\pipe\s.", "dot"),
        (r"\\.\pipe\s ", "blank"),
    ];
    for (path, words) in table {
        expect_error(Address::parse(path), ErrorKind::InvalidAddress, &[words]);
        expect_error(Address::from_path(path), ErrorKind::InvalidAddress, &[words]);
    }
}

#[cfg(windows)]
#[test]
fn a_pipe_path_that_does_not_fit_is_refused_with_both_figures() {
    assert_eq!(Address::UNITS_MAX, 256);
    for (name, units) in [("s".repeat(247), 256), ("ß".repeat(247), 256), ("s".repeat(248), 257)] {
        let address = Address::parse(&format!(r"\\.\pipe\{name}")).unwrap();
        if units == 256 {
            address.check_length().unwrap();
        } else {
            expect_error(address.check_length(), ErrorKind::PathTooLong, &["257 UTF-16 units", "256 fit"]);
        }
    }
    // Outside the basic plane a character has two units.
    let address = Address::parse(&format!(r"\\.\pipe\{}", "😀".repeat(124))).unwrap();
    expect_error(address.check_length(), ErrorKind::PathTooLong, &["257 UTF-16 units", "256 fit"]);
}

#[test]
fn an_inline_token_is_refused_and_not_repeated() {
    let secret = "5ec2e7";
    for target in
        [format!("uds:/x#token={secret}"), format!("/x#token={secret}\0"), format!("#token={secret}")]
    {
        let error = Address::parse(&target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InlineAuthToken);
        assert!(error.to_string().contains("must not include an inline auth token"), "{error}");
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
    let error = Address::parse(&not_utf8(&format!("#token={secret}"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InlineAuthToken);
    assert!(!format!("{error:?}").contains(secret), "{error}");
}

#[cfg(unix)]
#[test]
fn a_path_that_does_not_fit_is_refused_with_both_figures_before_anything_is_done() {
    let place = Place::new();
    let longest = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };
    assert_eq!(Address::BYTES_MAX, longest);
    let parent = place.path("d");
    for len in 100..=120 {
        let name = "s".repeat(len - parent.as_os_str().len() - 1);
        let path = parent.join(name);
        let address = Address::from_path(&path).unwrap();
        assert_eq!(address.path().len(), len);
        if len <= longest {
            address.check_length().unwrap();
            let (_listener, claim) = place.bind(&path).unwrap();
            std::os::unix::net::UnixStream::connect(&path).unwrap();
            drop(claim);
            assert!(!path.exists());
            std::fs::remove_dir(&parent).unwrap();
        } else {
            let figures = [format!("{len} bytes"), format!("{longest} fit")];
            expect_error(address.check_length(), ErrorKind::PathTooLong, &[&figures[0], &figures[1]]);
            expect_error(place.bind(&path), ErrorKind::PathTooLong, &[&figures[0], &figures[1]]);
            assert!(!parent.exists());
        }
    }
}

#[cfg(unix)]
#[test]
fn a_path_that_names_a_directory_cannot_be_bound() {
    let place = Place::new();
    for end in ["sub/", ".", "sub/.", "sub/.."] {
        let path = format!("{}/{end}", place.path("d").display());
        expect_error(place.bind(Path::new(&path)), ErrorKind::InvalidAddress, &["names a directory"]);
    }
    assert!(place.everything().is_empty());
}
