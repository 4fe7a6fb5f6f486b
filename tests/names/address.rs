//! Addresses: what is taken off, what is refused, what fits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use udsmsg::{Address, ErrorKind};

use crate::util::{Place, expect_error};

#[test]
fn exactly_one_scheme_is_taken_off() {
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
    for (target, path) in table {
        let address = Address::parse(target).unwrap();
        assert_eq!(address.path(), path, "{target}");
        assert_eq!(address.to_string(), format!("uds:{path}"));
        assert_eq!(Address::parse(&address.to_string()).unwrap(), address);
    }
    assert_eq!(Address::from_path("uds:x").unwrap().path(), "uds:x");
    assert_eq!(Address::parse(Path::new("uds:x")).unwrap().path(), "x");
}

#[test]
fn invalid_addresses_are_refused_by_kind() {
    expect_error(Address::parse(""), ErrorKind::InvalidAddress, &["empty"]);
    expect_error(Address::parse("uds:"), ErrorKind::InvalidAddress, &["empty"]);
    expect_error(Address::parse("/a\0b"), ErrorKind::InvalidAddress, &["NUL", r"/a\0b"]);
    expect_error(
        Address::parse(OsStr::from_bytes(b"/a\xffb")),
        ErrorKind::InvalidAddress,
        &["UTF-8", r"\xFF"],
    );
    expect_error(Address::from_path(Path::new("")), ErrorKind::InvalidAddress, &["empty"]);
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
    let raw = [b"/\xff#token=".as_slice(), secret.as_bytes()].concat();
    let error = Address::parse(OsStr::from_bytes(&raw)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InlineAuthToken);
    assert!(!format!("{error:?}").contains(secret), "{error}");
}

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

#[test]
fn a_path_that_names_a_directory_cannot_be_bound() {
    let place = Place::new();
    for end in ["sub/", ".", "sub/.", "sub/.."] {
        let path = format!("{}/{end}", place.path("d").display());
        expect_error(place.bind(Path::new(&path)), ErrorKind::InvalidAddress, &["names a directory"]);
    }
    assert!(place.everything().is_empty());
}
