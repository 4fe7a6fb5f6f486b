//! Another user at every way to reach a server, also while a server starts.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use udsmsg::os::CapabilityDir;

use crate::child::Part;
use crate::util::{OTHER_UID, Place, chmod, is_root, rounds};

/// The result of each way that the child tries, by the name of the way.
fn attempts(part: &mut Part) -> Vec<(String, String)> {
    let said = part.step();
    said.split("; ")
        .map(|one| {
            let (way, answer) = one.split_once('=').unwrap_or_else(|| panic!("{said:?}"));
            (way.to_owned(), answer.to_owned())
        })
        .collect()
}

#[test]
fn another_user_is_refused_everywhere() {
    if !is_root() {
        return;
    }
    let place = Place::open();
    let path = place.path("d/s.sock");
    let (listener, claim) = place.bind(&path).unwrap();
    let other_uid = OTHER_UID.to_string();
    let file = place.capabilities().path().join(CapabilityDir::file_name(claim.address()));
    let (dir, config) = (place.path("d"), place.path("config"));
    let variables: [(&str, &OsStr); 4] = [
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", place.capabilities().path().as_os_str()),
        ("NAMES_UID", other_uid.as_ref()),
        ("NAMES_ATTEMPT", "1".as_ref()),
    ]
    .map(|(name, value)| (name, Box::leak(value.to_owned().into_boxed_os_str()) as &OsStr));
    // Each row removes one protection; the others still hold.
    type Open<'a> = &'a dyn Fn();
    let rows: [(&str, Open<'_>, [&str; 6]); 4] = [
        (
            "all in place",
            &|| {},
            ["PermissionDenied", "PermissionDenied", "io", "io", "io", "directory_not_private"],
        ),
        (
            "the socket's directory open",
            &|| chmod(&dir, 0o755),
            ["PermissionDenied", "PermissionDenied", "io", "io", "io", "directory_not_private"],
        ),
        (
            "the config home open",
            &|| chmod(&config, 0o755),
            [
                "PermissionDenied",
                "PermissionDenied",
                "directory_not_private",
                "directory_not_private",
                "directory_not_private",
                "directory_not_private",
            ],
        ),
        (
            "the capability directory open",
            &|| chmod(place.capabilities().path(), 0o755),
            [
                "PermissionDenied",
                "PermissionDenied",
                "directory_not_private",
                "directory_not_private",
                "directory_not_private",
                "directory_not_private",
            ],
        ),
    ];
    let mut refusals = 0;
    for (name, open, expected) in rows {
        open();
        let answers = attempts(&mut Part::start(&variables));
        assert_eq!(answers.len(), expected.len());
        for ((way, answer), expected) in answers.iter().zip(expected) {
            assert_eq!(answer, expected, "{way} with {name}: {answers:?}");
            refusals += 1;
        }
    }
    assert!(claim.still_there() && file.exists());
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    eprintln!("uid {OTHER_UID} refused {refusals} times in 6 ways");
}

/// The directory and the socket are open to others; only the check of the peer's uid is left.
#[test]
#[cfg(feature = "server")]
fn another_user_who_reaches_the_socket_is_closed_unread() {
    if !is_root() {
        return;
    }
    let place = Place::open();
    let path = place.path("d/s.sock");
    let address = udsmsg::Address::from_path(&path).unwrap();
    let environment = crate::published::environment(&place);
    let mut server = udsmsg::Server::builder().address(address).environment(environment).start().unwrap();
    chmod(&place.path("d"), 0o755);
    chmod(&path, 0o666);
    let other_uid = OTHER_UID.to_string();
    let mut part = Part::start(&[
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", place.path("config").as_os_str()),
        ("NAMES_UID", other_uid.as_ref()),
        ("NAMES_PROBE", "read".as_ref()),
    ]);
    part.go_on();
    let said = thread::scope(|scope| {
        let said = scope.spawn(|| part.says());
        while !said.is_finished() {
            let _ = server.turn(Some(std::time::Duration::from_millis(5))).unwrap();
        }
        said.join().unwrap()
    });
    assert!(said == "closed 0" || said == "ConnectionReset" || said == "BrokenPipe", "{said}");
    assert_eq!(server.inbox_len(), 0);
}

/// Two ways to look for a moment in which a socket is open to others: a thread that only looks at the mode,
/// and another user with the right to search every directory, so that only the mode of the socket protects
/// it.
#[test]
#[cfg(target_os = "linux")]
fn no_start_under_a_umask_of_0_lets_another_user_in_at_any_moment() {
    if !is_root() {
        return;
    }
    let place = Place::open();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let (mask, other_uid, starts) = ("0", OTHER_UID.to_string(), rounds(200).to_string());
    let (mut looks, mut denied, mut other) = (0, 0, 0);
    // On a busy machine the two may never meet in so few starts.
    for _ in 0..20 {
        let is_over = AtomicBool::new(false);
        let (looked, wide) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut prober = Part::start(&[
            ("NAMES_SOCKET", path.as_os_str()),
            ("NAMES_CONFIG", place.path("own").as_os_str()),
            ("NAMES_UID", other_uid.as_ref()),
            ("NAMES_SEARCH", "1".as_ref()),
            ("NAMES_PROBE", "connect".as_ref()),
        ]);
        let mut starter = Part::start(&[
            ("NAMES_SOCKET", path.as_os_str()),
            ("NAMES_CONFIG", place.capabilities().path().as_os_str()),
            ("NAMES_UMASK", mask.as_ref()),
            ("NAMES_ROUNDS", starts.as_ref()),
        ]);
        let (started, probed) = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(meta) = path.symlink_metadata() {
                        looked.fetch_add(1, Ordering::Relaxed);
                        wide.fetch_add(usize::from(meta.mode() & 0o177 != 0), Ordering::Relaxed);
                    }
                }
            });
            prober.go_on();
            let started = starter.step();
            is_over.store(true, Ordering::Relaxed);
            (started, prober.step())
        });
        assert_eq!(started, "left nothing");
        // The second step ends it: how often it connected, was refused by the mode, and found no listener.
        let counts: Vec<usize> = probed.split(' ').map(|count| count.parse().unwrap()).collect();
        let [connected, refused, absent] = counts[..] else { panic!("{probed}") };
        assert_eq!((connected, wide.into_inner()), (0, 0), "{probed}");
        (looks, denied, other) = (looks + looked.into_inner(), denied + refused, other + absent);
        if denied > 0 && looks > 0 {
            break;
        }
    }
    assert!(denied > 0 && looks > 0, "the prober never met a socket");
    eprintln!(
        "{starts} starts under umask 0: {looks} looks at a mode, none wide; another user tried {} times, \
         {denied} times with a socket there, and never got in",
        denied + other
    );
    // The probe works: with a wide mode it connects.
    let (listener, _claim) = place.bind(&path).unwrap();
    chmod(&path, 0o666);
    let mut prober = Part::start(&[
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", place.path("own").as_os_str()),
        ("NAMES_UID", other_uid.as_ref()),
        ("NAMES_SEARCH", "1".as_ref()),
        ("NAMES_PROBE", "connect".as_ref()),
    ]);
    prober.go_on();
    while listener.accept().is_err() {
        thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(!prober.step().starts_with("0 "));
    let _ = (UnixStream::connect(&path), fs::remove_file(&path));
}

/// What fits on one end fits on the other.
#[test]
#[cfg(feature = "server")]
fn paths_of_100_to_120_bytes_fit_or_are_refused_on_both_ends() {
    use udsmsg::{Address, Client, ErrorKind, SendOutcome, Server};

    let place = Place::new();
    let environment = crate::published::environment(&place);
    let mut client = Client::in_namespace(&udsmsg::Namespace::default(), &environment).unwrap();
    let parent = place.make_dir("d", 0o700);
    let mut reached = Vec::new();
    for len in 100..=120 {
        let path = parent.join("s".repeat(len - parent.as_os_str().len() - 1));
        let address = Address::from_path(&path).unwrap();
        match Server::builder().address(address.clone()).environment(environment.clone()).start() {
            Ok(mut server) => {
                let outcome = thread::scope(|scope| {
                    let ping = scope.spawn(|| client.ping(&address));
                    while !ping.is_finished() {
                        let _ = server.turn(Some(std::time::Duration::from_millis(5))).unwrap();
                    }
                    ping.join().unwrap()
                });
                assert!(outcome.is_accepted(), "{len}: {outcome}");
                reached.push(len);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PathTooLong, "{error}");
                let before = place.everything();
                match client.ping(&address) {
                    SendOutcome::NotSent(error) => {
                        assert_eq!(error.kind(), ErrorKind::PathTooLong, "{error}");
                        let text = error.to_string();
                        let limit = Address::BYTES_MAX.to_string();
                        assert!(text.contains(&len.to_string()) && text.contains(&limit), "{text}");
                    }
                    outcome => panic!("{outcome:?}"),
                }
                assert_eq!(place.everything(), before);
            }
        }
    }
    assert_eq!(reached, (100..=Address::BYTES_MAX).collect::<Vec<_>>());
    eprintln!(
        "path lengths 100 to {} reached, {} to 120 refused on both ends",
        Address::BYTES_MAX,
        Address::BYTES_MAX + 1
    );
}
