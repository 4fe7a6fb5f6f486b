//! Private directories: how they are made, and every fault by its error, for sockets and for capability
//! files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use udsmsg::os::{CapabilityDir, Random};
use udsmsg::{Address, Error, ErrorKind};

use crate::machine;
use crate::util::{Place, chmod, expect_error, give_away, mode, token};

/// Both uses of a private directory at `dir`: a socket in it, and a capability file in it.
fn uses(place: &Place, dir: &Path) -> [Result<(), Error>; 2] {
    let socket = place.bind(&dir.join("s.sock")).map(drop);
    let address = Address::parse("/somewhere/s.sock").unwrap();
    let published = CapabilityDir::at(dir).publish(&address, &token(1), &mut Random::from_os().unwrap());
    [socket, published]
}

#[track_caller]
fn expect_refused(place: &Place, dir: &Path, words: &[&str]) {
    let before = place.everything();
    for result in uses(place, dir) {
        expect_error(result, ErrorKind::DirectoryNotPrivate, words);
    }
    let read = CapabilityDir::at(dir).read(&Address::parse("/somewhere/s.sock").unwrap());
    expect_error(read, ErrorKind::DirectoryNotPrivate, words);
    assert_eq!(place.everything(), before);
}

#[test]
fn a_directory_that_others_can_open_is_refused_and_left_as_it_is() {
    let place = Place::new();
    for bits in [0o750, 0o705, 0o710, 0o701, 0o720, 0o702, 0o755, 0o777, 0o1777, 0o2770] {
        let dir = place.make_dir("d", bits);
        expect_refused(&place, &dir, &[&format!("{bits:04o}"), "of your own"]);
        assert_eq!(mode(&dir), bits);
    }
    // Set-group-id and sticky bits alone give no access.
    for bits in [0o700, 0o2700, 0o1700] {
        let dir = place.make_dir("d", bits);
        for result in uses(&place, &dir) {
            result.unwrap();
        }
    }
}

#[test]
fn a_link_a_file_and_a_foreign_directory_are_refused_by_name() {
    let place = Place::open();
    let real = place.make_dir("real", 0o700);
    symlink(&real, place.path("link")).unwrap();
    symlink(place.path("nowhere"), place.path("dangling")).unwrap();
    fs::write(place.path("file"), "").unwrap();
    for name in ["link", "link/", "link/.", "link//", "dangling"] {
        let dir = PathBuf::from(format!("{}{name}", place.path("").display()));
        expect_refused(&place, &dir, &["symbolic link"]);
    }
    expect_refused(&place, &place.path("file"), &["a regular file"]);
    expect_refused(&place, &place.path("file/below"), &["a regular file", "on the way"]);
    let foreign = place.make_dir("foreign", 0o700);
    if give_away(&foreign) {
        expect_refused(&place, &foreign, &["belongs to uid 65534", "of your own"]);
        expect_refused(&place, &foreign.join("below"), &["belongs to uid 65534", "on the way"]);
    }
    assert!(!place.path("nowhere").exists());
}

#[test]
fn parent_that_others_can_change_is_refused() {
    let place = Place::open();
    let open = place.make_dir("open", 0o777);
    expect_refused(&place, &open.join("d"), &["can be changed by others", "of your own"]);
    fs::create_dir(open.join("d")).unwrap();
    chmod(&open.join("d"), 0o700);
    expect_refused(&place, &open.join("d"), &["can be changed by others"]);
    // In a sticky directory only the owner of an entry can replace it.
    chmod(&open, 0o1777);
    for result in uses(&place, &open.join("d")).into_iter().chain(uses(&place, &open.join("new/and/deeper")))
    {
        result.unwrap();
    }
    // A link in a path is followed if root or we made it; its target is checked as well.
    symlink(&open, place.path("link")).unwrap();
    for result in
        uses(&place, &place.path("link/d")).into_iter().chain(uses(&place, &place.path("link/../made")))
    {
        result.unwrap();
    }
    symlink("loop", place.path("loop")).unwrap();
    expect_refused(&place, &place.path("loop/d"), &["too many links"]);
    let foreign = place.path("foreign");
    symlink(&open, &foreign).unwrap();
    if give_away(&foreign) {
        expect_refused(&place, &foreign.join("d"), &["the link", "belongs to uid 65534"]);
    }
    chmod(&open, 0o777);
    expect_refused(&place, &place.path("link/d"), &["can be changed by others"]);
}

/// A group with other members can change a parent directory. A user whose own group it is stands in no list
/// of members, and a name service may know others.
#[test]
#[cfg(target_os = "linux")]
fn group_write_permission_is_refused_unless_the_group_is_private() {
    const OURS: &str = "root:x:0:4242::/:/bin/sh\nbob:x:7:7::/:/bin/sh\n";
    const FILES: &str = "passwd: files\ngroup: files # and nothing else\n";
    let root = "root:x:0:\n";
    let cases = [
        ("it has no members", true, OURS, "g:x:4242:\n", FILES),
        ("root is listed", true, OURS, "g:x:4242:root\n", FILES),
        ("no group has the number", true, OURS, root, FILES),
        (
            "systemd has no accounts",
            true,
            OURS,
            "g:x:4242:\n",
            "passwd: files systemd\ngroup: files systemd\n",
        ),
        ("another is listed", false, OURS, "g:x:4242:root,bob\n", FILES),
        ("another is listed in a second line", false, OURS, "g:x:4242:\nh:x:4242:bob\n", FILES),
        ("it is the own group of another", false, "root:x:0:0:::\nbob:x:7:4242:::\n", "g:x:4242:\n", FILES),
        ("a line that means something else", false, "root:x:0:0:::\n+::::::\n", "g:x:4242:\n", FILES),
        ("a group that means something else", false, OURS, "+:::\n", FILES),
        ("accounts from the network", false, OURS, "g:x:4242:\n", "passwd: files sss\ngroup: files\n"),
        ("members from the network", false, OURS, "g:x:4242:\n", "passwd: files\ngroup:files ldap\n"),
        ("more members from the network", false, OURS, "g:x:4242:\n", "group: files\ninitgroups: sss\n"),
        ("a rule", false, OURS, "g:x:4242:\n", "passwd: files\ngroup: files [SUCCESS=merge] files\n"),
    ];
    let place = Place::open();
    let shared = place.make_dir("shared", 0o775);
    if !crate::util::is_root() || std::os::unix::fs::chown(&shared, None, Some(4242)).is_err() {
        machine::skip("not root, so there are no accounts to choose");
        return;
    }
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // A thread with mounts of its own sees accounts of its own.
                use nix::mount::{MsFlags, mount};
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
                for name in ["passwd", "group", "nsswitch.conf"] {
                    fs::write(place.path(name), "").unwrap();
                    let file = place.path(name);
                    let bind = MsFlags::MS_BIND;
                    mount(Some(&file), &Path::new("/etc").join(name), None::<&str>, bind, None::<&str>)?;
                }
                for (name, is_fine, accounts, groups, services) in cases {
                    fs::write(place.path("passwd"), accounts).unwrap();
                    fs::write(place.path("group"), groups).unwrap();
                    fs::write(place.path("nsswitch.conf"), services).unwrap();
                    chmod(&shared, 0o775);
                    for result in uses(&place, &shared.join("d")) {
                        match result {
                            Ok(()) => assert!(is_fine, "{name}: it must be refused"),
                            Err(error) => {
                                assert!(!is_fine, "{name}: {error}");
                                let words = ["can be changed by others", "group 4242"];
                                expect_error(Err::<(), _>(error), ErrorKind::DirectoryNotPrivate, &words);
                            }
                        }
                    }
                    let _ = fs::remove_dir_all(shared.join("d"));
                    // In a sticky directory only the owner of an entry can replace it.
                    chmod(&shared, 0o1775);
                    for result in uses(&place, &shared.join("d")) {
                        result.unwrap();
                    }
                    fs::remove_dir_all(shared.join("d")).unwrap();
                }
                nix::Result::Ok(())
            })
            .join()
            .unwrap()
    });
    if let Err(error) = outcome {
        machine::skip(&format!("no mounts of one's own: {error}"));
    }
}

/// Gives user 65534 the `permissions` on `path` by an access list; false if that is not possible here.
#[cfg(target_os = "linux")]
fn share_by_access_list(path: &Path, permissions: u16) -> bool {
    // The user, another user, the group, the mask, others; only the second has an id.
    let owner = 6 | if path.is_dir() { 1 } else { 0 };
    let entries: [(u16, u16, u32); 5] = [
        (0x01, owner, u32::MAX),
        (0x02, permissions, 65_534),
        (0x04, 0, u32::MAX),
        (0x10, permissions, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes().into_iter().chain(permissions.to_le_bytes()).chain(id.to_le_bytes()));
    }
    let set = rustix::fs::lsetxattr(path, c"system.posix_acl_access", &list, rustix::fs::XattrFlags::empty());
    if let Err(error) = set {
        machine::skip(&format!("the temporary directory keeps no access lists: {error}"));
    }
    set.is_ok()
}

#[test]
#[cfg(target_os = "linux")]
fn access_list_on_a_parent_or_the_directory_is_refused() {
    let place = Place::open();
    let way = place.make_dir("way", 0o700);
    if !share_by_access_list(&way, 7) {
        return;
    }
    expect_refused(&place, &way.join("d"), &["can be changed by", "0770", "an access list", "getfacl"]);
    expect_refused(&place, &way, &["0770", "an access list", "lets others in"]);
    // Read permission only: no entry can be replaced.
    assert!(share_by_access_list(&way, 5));
    for result in uses(&place, &way.join("d")) {
        result.unwrap();
    }
    // An entry that its mask cancels gives no access.
    chmod(&way, 0o700);
    for result in uses(&place, &way) {
        result.unwrap();
    }
    // A capability file that another user can read.
    let capabilities = place.capabilities();
    let address = Address::parse("/somewhere/s.sock").unwrap();
    capabilities.publish(&address, &token(1), &mut Random::from_os().unwrap()).unwrap();
    assert!(share_by_access_list(&capabilities.path().join(CapabilityDir::file_name(&address)), 4));
    expect_error(capabilities.read(&address), ErrorKind::CapabilityUnusable, &["0640", "an access list"]);
}

#[test]
fn missing_parents_are_made_private() {
    let place = Place::new();
    for result in uses(&place, &place.path("a/b/c")) {
        result.unwrap();
    }
    for name in ["a", "a/b", "a/b/c"] {
        assert_eq!(mode(&place.path(name)), 0o700);
    }
    // What is there already may be open, as a home directory is.
    place.make_dir("home", 0o755);
    for result in uses(&place, &place.path("home/new")) {
        result.unwrap();
    }
    assert_eq!((mode(&place.path("home")), mode(&place.path("home/new"))), (0o755, 0o700));
}

#[test]
fn our_own_permissions_are_mended_for_capability_files_only() {
    let place = Place::new();
    for bits in [0o500, 0o000, 0o300, 0o600] {
        let dir = place.make_dir("d", bits);
        let [_, published] = uses(&place, &dir);
        published.unwrap();
        assert_eq!(mode(&dir), 0o700);
    }
    let dir = place.make_dir("d", 0o500);
    let _ = place.bind(&dir.join("s.sock")).map(drop);
    assert_eq!(mode(&dir), 0o500);
    let _ = CapabilityDir::at(&dir).read(&Address::parse("/somewhere/s.sock").unwrap());
    assert_eq!(mode(&dir), 0o500);
    // So that a user other than root can remove it.
    chmod(&dir, 0o700);
}

/// What a refusal advises; it must never advise to change what others rely on.
#[test]
fn advice_to_change_modes_names_only_our_own_directories() {
    let place = Place::open();
    let uid = udsmsg::os::effective_uid();
    let advice = |path: &Path| {
        let error = place.bind(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DirectoryNotPrivate, "{error}");
        error.to_string().split_once("; to mend it: ").unwrap().1.to_owned()
    };
    let new_in = |parent: &str| format!("use a directory of your own: mkdir -m 700 {parent}udsmsg-{uid}");
    // A shared directory, system directories, one made by a user, one whose name needs quotes.
    assert!(
        advice(Path::new("/tmp/x.sock")).starts_with(&new_in("/tmp/")),
        "{}",
        advice(Path::new("/tmp/x.sock"))
    );
    let other = place.make_dir("other", 0o755);
    assert!(advice(&other.join("x.sock")).starts_with(&new_in(&format!("{}/", other.display()))));
    let odd = place.make_dir("it's $odd", 0o755);
    let quoted = format!(
        "mkdir -m 700 '{}/it'\\''s $odd/udsmsg-{uid}'",
        place.path("").display().to_string().trim_end_matches('/')
    );
    assert!(advice(&odd.join("x.sock")).contains(&quoted), "{} {quoted}", advice(&odd.join("x.sock")));
    let control = place.make_dir("x\u{1b}", 0o755);
    assert!(advice(&control.join("x.sock")).starts_with(&new_in("~/")));
    for shared in [0o777, 0o773] {
        let shared = place.make_dir("shared", shared);
        assert!(advice(&shared.join("x.sock")).starts_with(&new_in("~/")));
        assert!(advice(&shared.join("d/x.sock")).starts_with(&new_in("~/")));
    }
    // What we make ourselves, and under no other circumstances.
    let socks = place.make_dir("claude-code-socks", 0o755);
    assert_eq!(advice(&socks.join("x.sock")), format!("chmod 700 {}", socks.display()));
    chmod(&socks, 0o1777);
    assert!(advice(&socks.join("x.sock")).starts_with(&new_in(&format!("{}/", socks.display()))));
    for system in ["/", "/etc", "/usr/bin", "/dev", "/var/tmp"] {
        if Path::new(system).is_dir() {
            let advice = advice(&Path::new(system).join("x.sock"));
            assert!(!advice.contains("chmod") && advice.contains("mkdir -m 700"), "{advice}");
        }
    }
}
