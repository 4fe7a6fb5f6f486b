//! Identifiers in their binary form.

use super::*;

/// Bytes, and how Windows writes what they are.
const KNOWN: [(&[u8], &str); 5] = [
    (&[1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "S-1-1-0"),
    (&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0], "S-1-5-18"),
    (
        &[1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 3, 0, 0, 0, 233, 3, 0, 0],
        "S-1-5-21-1-4294967295-3-1001",
    ),
    (&[1, 0, 0, 0, 0, 0, 0, 5], "S-1-5"),
    (&[1, 1, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0], "S-1-0x010203040506-7"),
];

#[test]
fn an_identifier_is_written_as_windows_writes_it_and_gives_its_bytes_back() {
    for (bytes, text) in KNOWN {
        let sid = Sid::from_bytes(bytes).unwrap();
        assert_eq!((sid.to_string().as_str(), sid.as_bytes()), (text, bytes));
        assert_eq!(format!("{sid:?}"), format!("Sid({text})"));
    }
}

#[test]
fn the_longest_identifier_has_fifteen_numbers() {
    let mut bytes = [1; 8 + 15 * 4];
    bytes[1] = 15;
    assert_eq!(Sid::from_bytes(&bytes).unwrap().as_bytes(), bytes);
    let mut longer = [1; 8 + 16 * 4];
    longer[1] = 16;
    assert_eq!(Sid::from_bytes(&longer), None);
}

#[test]
fn what_is_no_identifier_is_refused() {
    let good = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    for len in 0..good.len() {
        assert_eq!(Sid::from_bytes(&good[..len]), None, "{len} bytes");
    }
    assert_eq!(Sid::from_bytes(&[&good[..], &[0]].concat()), None, "a byte more");
    assert_eq!(Sid::from_bytes(&[2, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]), None, "another revision");
}

#[test]
fn identifiers_are_equal_if_their_bytes_are() {
    let [everyone, system, ..] = KNOWN.map(|(bytes, _)| Sid::from_bytes(bytes).unwrap());
    assert_ne!(everyone, system);
    assert_eq!(system, Sid::from_bytes(system.as_bytes()).unwrap());
}
