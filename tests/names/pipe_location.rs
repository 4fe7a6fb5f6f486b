//! The default location on Windows.

use udsmsg::os::Random;
use udsmsg::{Location, Namespace};

use crate::util::Place;

/// A pipe stands in no directory, so nothing can be wrong with one.
#[test]
fn default_location_is_a_pipe_with_pid_and_nonce() {
    let place = Place::new();
    let mut random = Random::from_os().unwrap();
    let longest = "a".repeat(32);
    for name in ["claude-code", "my-app", &longest] {
        let namespace = Namespace::new(name).unwrap();
        let mut draw = || Location::draw(&namespace, &place.environment(), &mut random).unwrap();
        let (one, other) = (draw(), draw());
        assert_ne!(one.address(), other.address());
        assert!(one.skipped().is_empty());
        one.address().check_length().unwrap();
        let rest = one.address().path().strip_prefix(&format!(r"\\.\pipe\{name}-")).unwrap();
        let (pid, nonce) = rest.split_once('-').unwrap();
        assert_eq!(pid, std::process::id().to_string());
        assert!(
            nonce.len() == 32 && nonce.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "{nonce}"
        );
    }
    assert!(place.everything().is_empty());
}
