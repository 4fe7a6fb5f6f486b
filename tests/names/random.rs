//! Tokens, nonces and clocks.

use std::collections::HashSet;

use udsmsg::os::{Clock, Random};

#[test]
fn tokens_and_nonces_have_their_form_and_never_repeat() {
    let mut random = Random::from_os().unwrap();
    let mut other = Random::from_os().unwrap();
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        for random in [&mut random, &mut other] {
            let (token, nonce) = (random.auth_token(), random.nonce());
            assert_eq!((token.expose().len(), nonce.len()), (64, 32));
            assert!(
                token.expose().bytes().chain(nonce.bytes()).all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            );
            assert!(seen.insert(token.expose().to_owned()) && seen.insert(nonce));
        }
    }
}

#[test]
fn same_seed_gives_the_same_values() {
    let draw = |seed| {
        let mut random = Random::from_seed([seed; 32]);
        (random.nonce(), random.auth_token().expose().to_owned(), random.nonce())
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    assert_ne!(draw(7).0, draw(7).2);
}

#[test]
fn debug_text_of_a_generator_shows_no_state() {
    assert_eq!(format!("{:?}", Random::from_seed([7; 32])), "Random { seeded_in: None, .. }");
}

#[test]
fn a_clock_begins_near_zero_and_goes_forward() {
    let clock = Clock::new();
    let (first, second) = (clock.now(), clock.now());
    assert!(first.mono <= second.mono && first.mono.as_nanos() < 60_000_000_000);
    // 2024-01-01, and not yet the end of the calendar.
    assert!(first.wall.as_millis() > 1_704_067_200_000 && first.wall < udsmsg::Wall::MAX);
}
