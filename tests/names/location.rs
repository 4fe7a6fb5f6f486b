//! Default locations: the regular one, and every step to the side.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use udsmsg::os::{Claim, Random};
use udsmsg::{Address, Environment, ErrorKind, Location, Namespace};

use crate::util::{Place, chmod, give_away, is_root, mode, token};

fn draw(environment: &Environment) -> Location {
    Location::draw(&Namespace::default(), environment, &mut Random::from_os().unwrap()).unwrap()
}

/// Starts and stops at `location`, and checks that only the shared directory is left of it.
fn check_round(place: &Place, location: &Location) {
    let path = PathBuf::from(location.address().path());
    let own_dir = path.parent().unwrap();
    assert!(!own_dir.exists());
    let mut random = Random::from_os().unwrap();
    let (listener, mut claim) =
        Claim::bind(location.clone(), &place.capabilities(), &token(1), &mut random).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!((mode(own_dir), mode(&path)), (0o700, 0o600));
    assert_eq!(claim.location().skipped(), location.skipped());
    claim.release(&listener).unwrap();
    assert!(!own_dir.exists() && own_dir.parent().unwrap().exists());
}

/// Checks the directory that was chosen and the ones that were not.
#[track_caller]
fn check(location: &Location, chosen: &Path, skipped: &[(PathBuf, ErrorKind)]) {
    let found: Vec<_> = location.skipped().iter().map(|s| (PathBuf::from(&s.directory), s.kind)).collect();
    assert_eq!(found, skipped, "{:?}", location.skipped());
    let socket = Path::new(location.address().path());
    assert_eq!(socket.parent().unwrap().parent().unwrap(), chosen);
    assert!(location.address().check_length().is_ok());
}

#[test]
fn default_location_is_below_tmpdir() {
    let place = Place::new();
    let tmp = place.path("tmp");
    let shared = tmp.join("claude-code-socks");
    for spelling in [tmp.clone().into_os_string(), tmp.join("").into_os_string(), {
        let mut slashes = tmp.clone().into_os_string();
        slashes.push("///");
        slashes
    }] {
        let location = draw(&place.environment_with([("TMPDIR", spelling)]));
        check(&location, &shared, &[]);
        let rest = location.address().path().strip_prefix(shared.to_str().unwrap()).unwrap();
        let (pid, rest) = rest.strip_prefix('/').unwrap().split_once('-').unwrap();
        assert_eq!(pid, std::process::id().to_string());
        let (nonce, name) = rest.split_once('/').unwrap();
        assert!(
            nonce.len() == 32 && nonce.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "{nonce}"
        );
        assert_eq!(name, "messaging.sock");
        assert_eq!((mode(&tmp), mode(&shared)), (0o700, 0o700));
        check_round(&place, &location);
    }
    let (one, other) = (draw(&place.environment()), draw(&place.environment()));
    assert_ne!(one.address(), other.address());
}

#[test]
fn a_namespace_has_its_own_directory_and_the_longest_one_fits() {
    let place = Place::new();
    let mut random = Random::from_os().unwrap();
    let own = Namespace::new("my-app").unwrap();
    let location = Location::draw(&own, &place.environment(), &mut random).unwrap();
    check(&location, &place.path("tmp/my-app-socks"), &[]);
    let longest = Namespace::new(&"a".repeat(32)).unwrap();
    let too_long = place.path(&"t".repeat(60));
    let location =
        Location::draw(&longest, &place.environment_with([("TMPDIR", too_long)]), &mut random).unwrap();
    check_round(&place, &location);
}

#[test]
fn a_long_tmpdir_leads_to_the_runtime_dir_or_to_tmp() {
    let place = Place::new();
    let long = place.path(&"t".repeat(60 - place.path("").as_os_str().len()));
    assert_eq!(long.as_os_str().len(), 60);
    let in_tmpdir = long.join("claude-code-socks");
    let in_runtime = place.path("run/claude-code-socks");
    let with_uid = PathBuf::from(format!("{}-{}", in_tmpdir.display(), nix::unistd::geteuid()));

    let location =
        draw(&place.environment_with([("TMPDIR", &long), ("XDG_RUNTIME_DIR", &place.path("run"))]));
    check(&location, &in_runtime, &[(in_tmpdir.clone(), ErrorKind::PathTooLong)]);
    check_round(&place, &location);

    let location = draw(&place.environment_with([("TMPDIR", &long)]));
    let too_long = [(in_tmpdir, ErrorKind::PathTooLong), (with_uid, ErrorKind::PathTooLong)];
    check(&location, Path::new("/tmp"), &too_long);
    assert!(location.skipped()[0].to_string().contains("bytes long"), "{}", location.skipped()[0]);
    check_round(&place, &location);
    assert!(!long.exists());
}

#[test]
fn unusable_variable_is_reported_and_skipped() {
    let place = Place::new();
    let shared = place.path("run/claude-code-socks");
    for bad in [OsString::from("rel/tmp"), OsString::from("."), OsString::from_vec(b"/tmp/\xff".to_vec())] {
        let variables = [("TMPDIR", bad.clone()), ("XDG_RUNTIME_DIR", place.path("run").into_os_string())];
        let location = draw(&place.environment_with(variables));
        assert_eq!(location.skipped().len(), 1, "{bad:?}");
        assert_eq!(location.skipped()[0].kind, ErrorKind::InvalidAddress);
        assert!(location.address().path().starts_with(shared.to_str().unwrap()));
    }
}

#[test]
fn a_squatted_directory_is_never_shared() {
    let place = Place::open();
    let tmp = place.make_dir("tmp", 0o1777);
    let shared = tmp.join("claude-code-socks");
    let with_uid = tmp.join(format!("claude-code-socks-{}", nix::unistd::geteuid()));
    let environment = place.environment();
    let not_private = |path: &PathBuf| (path.clone(), ErrorKind::DirectoryNotPrivate);

    // Each way to squat, and whether it takes a second user.
    type Squat = fn(&Path) -> bool;
    let squats: [(&str, Squat); 5] = [
        ("open to others", |path| {
            fs::create_dir(path).unwrap();
            chmod(path, 0o755);
            true
        }),
        ("foreign", |path| {
            fs::create_dir(path).unwrap();
            chmod(path, 0o700);
            give_away(path)
        }),
        ("a link", |path| {
            let target = path.with_extension("target");
            fs::create_dir_all(&target).unwrap();
            chmod(&target, 0o700);
            symlink(&target, path).unwrap();
            true
        }),
        ("a dangling link", |path| symlink("/nonexistent/x", path).is_ok()),
        ("a file", |path| fs::write(path, "").is_ok()),
    ];
    for (name, squat) in squats {
        if !squat(&shared) {
            fs::remove_dir(&shared).unwrap();
            continue;
        }
        let before = place.everything();
        let location = draw(&environment);
        check(&location, &with_uid, &[not_private(&shared)]);
        check_round(&place, &location);
        fs::remove_dir(&with_uid).unwrap();
        // The second name is squatted as well: what is left is a new directory in `/tmp`.
        squat(&with_uid);
        let location = draw(&environment);
        check(&location, Path::new("/tmp"), &[not_private(&shared), not_private(&with_uid)]);
        check_round(&place, &location);
        let remove = |path: &Path| fs::remove_file(path).or_else(|_| fs::remove_dir(path)).unwrap();
        remove(&with_uid);
        let mut after = place.everything();
        after.retain(|path| !path.starts_with("config") && !path.ends_with(".target"));
        let mut before = before;
        before.retain(|path| !path.starts_with("config") && !path.ends_with(".target"));
        assert_eq!(before, after, "{name}");
        remove(&shared);
    }
}

#[test]
fn tmpdir_that_others_can_change_is_skipped() {
    let place = Place::open();
    let open = place.make_dir("open", 0o777);
    let location =
        draw(&place.environment_with([("TMPDIR", &open), ("XDG_RUNTIME_DIR", &place.path("run"))]));
    check(
        &location,
        &place.path("run/claude-code-socks"),
        &[(open.join("claude-code-socks"), ErrorKind::DirectoryNotPrivate)],
    );
    assert!(location.skipped()[0].reason.contains("of your own"), "{}", location.skipped()[0]);
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    if is_root() {
        let foreign = place.make_dir("foreign", 0o755);
        assert!(give_away(&foreign));
        let location =
            draw(&place.environment_with([("TMPDIR", &foreign), ("XDG_RUNTIME_DIR", &place.path("run"))]));
        assert_eq!(location.skipped()[0].kind, ErrorKind::DirectoryNotPrivate);
    }
}

#[test]
fn a_shared_directory_squatted_between_draw_and_start_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::open();
    let tmp = place.make_dir("tmp", 0o1777);
    let location = draw(&place.environment());
    let shared = tmp.join("claude-code-socks");
    assert!(give_away(&shared));
    let refused = Claim::bind(location, &place.capabilities(), &token(1), &mut Random::from_os().unwrap());
    crate::util::expect_error(refused, ErrorKind::DirectoryNotPrivate, &["65534"]);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}

#[test]
fn a_location_of_the_caller_skips_nothing() {
    let location = Location::from(Address::parse("uds:/x/s.sock").unwrap());
    assert_eq!(location.address().path(), "/x/s.sock");
    assert!(location.skipped().is_empty());
}
