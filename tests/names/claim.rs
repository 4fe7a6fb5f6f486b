//! A name from its start to its end: taken, held, given back.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::Mode;
use udsmsg::os;
use udsmsg::os::CapabilityDir;
use udsmsg::{Address, ErrorKind};

use crate::child::Part;
use crate::util::{Place, chmod, expect_error, give_away, leave_stale, mode, token, wait_until_refused};

/// The capability file of the socket at `path`.
fn capability(place: &Place, path: &Path) -> std::path::PathBuf {
    place.capabilities().path().join(CapabilityDir::file_name(&Address::from_path(path).unwrap()))
}

#[test]
fn a_name_is_taken_published_and_given_back() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, mut claim) = place.bind(&path).unwrap();
    assert_eq!((mode(&path), mode(&capability(&place, &path))), (0o600, 0o600));
    assert!(claim.still_there());
    assert_eq!(claim.address().path(), path.to_str().unwrap());
    let flags = OFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFL).unwrap());
    let descriptor = FdFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(OFlag::O_NONBLOCK) && descriptor.contains(FdFlag::FD_CLOEXEC));

    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    let (uid, pid) = (os::effective_uid(), Some(std::process::id()));
    for end in [&client, &server] {
        let peer = os::peer_identity(end).unwrap();
        assert_eq!(peer.uid(), Some(uid));
        assert!(peer.pid() == pid || !cfg!(target_os = "linux"));
        assert!(os::Owner::with_uid(uid).trusts(peer) && os::Owner::with_uid(0).trusts(peer) == (uid == 0));
    }
    assert_eq!(os::send(&client, b"abc").unwrap(), 3);
    drop(server);
    // A signal would end this program here.
    assert!(os::send(&client, b"abc").is_err());

    claim.release(&listener).unwrap();
    assert!(!claim.still_there());
    claim.release(&listener).unwrap();
    drop(claim);
    // Directories of the caller's choice stay, also those that were made for it.
    let left: Vec<_> = place.everything().into_iter().collect();
    assert_eq!(left, ["config", "config/messaging-capabilities", "d"]);
    place.bind(&path).unwrap();
}

#[test]
fn dropping_a_claim_gives_it_back() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let bound = place.bind(&path).unwrap();
    drop(bound.1);
    assert!(!path.exists() && !capability(&place, &path).exists());
}

#[test]
fn existing_file_at_the_path_is_refused_by_name_and_kept() {
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    let path = dir.join("s.sock");
    let cases: [(&str, &dyn Fn()); 6] = [
        ("a regular file", &|| fs::write(&path, "x").unwrap()),
        ("a directory", &|| fs::create_dir(&path).unwrap()),
        ("a FIFO", &|| nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap()),
        ("a symbolic link", &|| symlink("nowhere", &path).unwrap()),
        ("a symbolic link", &|| {
            leave_stale(&dir.join("stale"));
            symlink("stale", &path).unwrap();
        }),
        ("a symbolic link", &|| symlink("/dev/null", &path).unwrap()),
    ];
    for (name, make) in cases {
        make();
        let (before, facts) = (place.everything(), path.symlink_metadata().unwrap());
        expect_error(place.bind(&path), ErrorKind::PathOccupied, &[name, "s.sock"]);
        assert_eq!(place.everything(), before);
        assert_eq!(path.symlink_metadata().unwrap().ino(), facts.ino());
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
    }
    leave_stale(&path);
    if give_away(&path) {
        expect_error(place.bind(&path), ErrorKind::PathOccupied, &["uid 65534"]);
        assert!(path.exists());
    }
}

#[test]
fn live_server_of_any_kind_keeps_its_name() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, mut claim) = place.bind(&path).unwrap();
    let pid = if cfg!(target_os = "linux") { format!("pid {}", std::process::id()) } else { String::new() };
    expect_error(place.bind_with(&path, &token(2)), ErrorKind::AlreadyRunning, &["live server", &pid]);
    assert!(claim.still_there());
    let published = place.capabilities().read(claim.address()).unwrap();
    assert!(published.auth_token.matches(token(1).expose().as_bytes()));
    // Not even its mode is changed by a start that looks at it.
    chmod(&path, 0o000);
    expect_error(place.bind_with(&path, &token(2)), ErrorKind::AlreadyRunning, &["live server"]);
    assert_eq!(mode(&path), 0o000);
    claim.release(&listener).unwrap();

    // A program with another protocol: a datagram socket.
    let datagram = UnixDatagram::bind(&path).unwrap();
    expect_error(place.bind(&path), ErrorKind::PathOccupied, &["cannot be asked"]);
    assert!(path.exists());
    drop(datagram);
    // A process that another test starts holds a copy of it until it runs another program.
    let mut attempts = 0;
    while place.bind(&path).is_err() {
        attempts += 1;
        assert!(attempts < 3_000, "the name of a datagram socket that is gone is not free");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn full_backlog_counts_as_alive() {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let name = UnixAddr::new(&path).unwrap();
    let new = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let listener = new();
    bind(listener.as_raw_fd(), &name).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let clients: Vec<_> = std::iter::repeat_with(|| {
        let client = new();
        (connect(client.as_raw_fd(), &name), client)
    })
    .take(4)
    .collect();
    assert_eq!(clients.last().unwrap().0, Err(nix::errno::Errno::EAGAIN));
    expect_error(place.bind(&path), ErrorKind::AlreadyRunning, &["live server"]);
    assert!(path.exists());
}

#[test]
fn a_dead_servers_socket_is_replaced() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    for bits in [0o755, 0o600, 0o000] {
        leave_stale(&path);
        chmod(&path, bits);
        let old = path.metadata().unwrap().ino();
        let hold = fs::hard_link(&path, place.path("d/hold"));
        let (_listener, claim) = place.bind(&path).unwrap();
        assert!(hold.is_err() || path.metadata().unwrap().ino() != old);
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).unwrap();
        drop(claim);
        let _ = fs::remove_file(place.path("d/hold"));
    }
}

#[test]
fn later_file_of_another_is_not_removed() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, mut claim) = place.bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!claim.still_there());
    let successor = UnixListener::bind(&path).unwrap();
    assert!(!claim.still_there());
    place
        .capabilities()
        .publish(claim.address(), &token(2), &mut udsmsg::os::Random::from_os().unwrap())
        .unwrap();
    claim.release(&listener).unwrap();
    UnixStream::connect(&path).unwrap();
    assert!(capability(&place, &path).exists());
    drop(successor);

    // A successor that stands in another directory of the same name.
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, mut claim) = place.bind(&path).unwrap();
    fs::rename(place.path("d"), place.path("moved")).unwrap();
    assert!(!claim.still_there());
    let (other, mut successor) = place.bind_with(&path, &token(2)).unwrap();
    claim.release(&listener).unwrap();
    assert!(successor.still_there() && !place.path("moved/s.sock").exists());
    successor.release(&other).unwrap();
}

#[test]
fn a_capability_file_that_was_spoiled_does_not_keep_a_server_from_stopping() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, mut claim) = place.bind(&path).unwrap();
    fs::write(capability(&place, &path), "not what we wrote").unwrap();
    claim.release(&listener).unwrap();
    assert!(!path.exists() && capability(&place, &path).exists());
}

#[test]
fn reused_inode_number_is_not_taken_for_our_socket() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    for _ in 0..20 {
        let (listener, claim) = place.bind(&path).unwrap();
        drop(listener);
        fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path).unwrap();
        drop(claim);
        assert!(path.exists() || !cfg!(target_os = "linux"));
        drop(successor);
        let _ = fs::remove_file(&path);
    }
}

#[test]
fn a_start_that_fails_removes_exactly_what_it_made() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    // The capability cannot be published: its directory is open to others.
    place.make_dir("config", 0o700);
    place.make_dir("config/messaging-capabilities", 0o755);
    expect_error(place.bind(&path), ErrorKind::DirectoryNotPrivate, &["capability files", "chmod 700"]);
    // The directory of the socket was made for this start.
    assert_eq!(
        place.everything().into_iter().collect::<Vec<_>>(),
        ["config", "config/messaging-capabilities"]
    );
    // Or the name of the file is taken by a directory; a drawn location goes away with its own directory.
    chmod(&place.path("config/messaging-capabilities"), 0o700);
    fs::create_dir(capability(&place, &path)).unwrap();
    expect_error(place.bind(&path), ErrorKind::Io, &["cannot publish"]);
    assert!(
        !path.exists() && fs::read_dir(place.path("config/messaging-capabilities")).unwrap().count() == 1
    );

    chmod(&place.path("config/messaging-capabilities"), 0o755);
    let mut random = udsmsg::os::Random::from_os().unwrap();
    let namespace = udsmsg::Namespace::default();
    let location = udsmsg::Location::draw(&namespace, &place.environment(), &mut random).unwrap();
    let refused = udsmsg::os::Claim::bind(location, &place.capabilities(), &token(1), &mut random);
    expect_error(refused, ErrorKind::DirectoryNotPrivate, &[]);
    assert!(!place.path("tmp").exists(), "it and what is in it was made for this start");
}

#[test]
fn a_refused_start_removes_the_directories_it_made_but_not_those_that_were_there_or_are_used() {
    let place = Place::new();
    place.make_dir("there", 0o700);
    // The path is too deep in what is no directory; then the name of the capability file is taken.
    let path = place.path("there/a/b/s.sock");
    fs::create_dir_all(capability(&place, &path)).unwrap();
    chmod(&place.path("config"), 0o700);
    chmod(&place.path("config/messaging-capabilities"), 0o700);
    expect_error(place.bind(&path), ErrorKind::Io, &["cannot publish"]);
    assert!(place.path("there").exists() && !place.path("there/a").exists());

    // The directory of capability files and its parents go too, if they were made for it.
    let place = Place::new();
    let path = place.path("d/s.sock");
    fs::create_dir(place.path("d")).unwrap();
    chmod(&place.path("d"), 0o700);
    fs::write(&path, "not a socket").unwrap();
    let before = place.everything();
    expect_error(place.bind(&path), ErrorKind::PathOccupied, &["a regular file"]);
    assert_eq!(place.everything(), before);
}

/// A dead-looking socket at `path`, for which a process that runs has published.
fn live_process_at(place: &Place, path: &Path) -> Part {
    let mut part = Part::start(&[
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", place.capabilities().path().as_os_str()),
    ]);
    assert!(part.step().starts_with("bound"));
    fs::remove_file(path).unwrap();
    leave_stale(path);
    part
}

#[test]
fn refusing_socket_is_not_replaced_while_its_publisher_runs() {
    if !crate::published::can_prove() {
        crate::machine::skip("nothing can be proven of a process on this machine");
        return;
    }
    let place = Place::new();
    let path = place.path("d/s.sock");
    let mut part = live_process_at(&place, &path);
    let (before, pid) = (fs::read(capability(&place, &path)).unwrap(), part.pid().to_string());
    let inode = path.symlink_metadata().unwrap().ino();
    expect_error(place.bind(&path), ErrorKind::AlreadyRunning, &[&pid, "lives", "use another path"]);
    assert_eq!(path.symlink_metadata().unwrap().ino(), inode);
    assert!(before == fs::read(capability(&place, &path)).unwrap());
    part.kill();
    place.bind(&path).unwrap();
}

#[test]
fn lost_server_of_our_own_process_is_replaced() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, claim) = place.bind(&path).unwrap();
    std::mem::forget(claim);
    drop(listener);
    wait_until_refused(&path);
    let (_listener, claim) = place.bind_with(&path, &token(2)).unwrap();
    assert!(claim.still_there() && claim.still_published());
}

/// Where the process cannot be checked, a refused connection counts if the file system belongs to this kernel
/// alone.
#[test]
#[cfg(target_os = "linux")]
fn a_capability_file_of_an_unknown_process_keeps_no_name_on_a_local_file_system() {
    use serde_json::json;
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    if !is_local(&place.path("d")) {
        crate::machine::skip("the temporary directory is on no file system that is known to be local");
        return;
    }
    let mut contents = crate::published::contents(&path);
    contents["process"] = json!({"machineId": "0".repeat(32), "bootId": "0".repeat(32)});
    for contents in [contents.to_string(), String::from("not what a server writes")] {
        leave_stale(&path);
        let file = crate::published::publish(&place, &path, &json!({}));
        fs::write(file, contents).unwrap();
        let (listener, mut claim) = place.bind(&path).unwrap();
        claim.release(&listener).unwrap();
    }
}

#[cfg(target_os = "linux")]
fn is_local(dir: &Path) -> bool {
    use nix::sys::statfs;
    let local =
        [statfs::TMPFS_MAGIC, statfs::EXT4_SUPER_MAGIC, statfs::XFS_SUPER_MAGIC, statfs::BTRFS_SUPER_MAGIC];
    local.contains(&statfs::statfs(dir).unwrap().filesystem_type())
}

/// An overlay shows the socket of a live server below it, with another inode: connecting is refused.
#[test]
#[cfg(target_os = "linux")]
fn a_live_server_seen_through_an_overlay_keeps_its_name() {
    use serde_json::json;
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    let path = dir.join("s.sock");
    place.make_dir("d-upper", 0o700);
    place.make_dir("d-work", 0o700);
    let capabilities = place.capabilities();
    let variables = [
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", capabilities.path().as_os_str()),
        ("NAMES_OVERLAY", dir.as_os_str()),
    ];
    let (listener, mut claim) = place.bind(&path).unwrap();
    let said = Part::start(&variables).step();
    if said.is_empty() {
        crate::machine::skip("no overlay can be mounted here");
        return;
    }
    if crate::published::can_prove() {
        assert!(said.starts_with("already_running: "), "{said}");
    }
    assert!(claim.still_there() && claim.still_published(), "{said}");
    claim.release(&listener).unwrap();

    // One whose process cannot be seen from here is not replaced either.
    leave_stale(&path);
    let mut contents = crate::published::contents(&path);
    contents["process"] = json!({"machineId": "0".repeat(32), "bootId": "0".repeat(32)});
    let file = crate::published::publish(&place, &path, &contents);
    let before = fs::read(&file).unwrap();
    let said = Part::start(&variables).step();
    assert!(said.starts_with("path_occupied: ") && said.contains("cannot be told"), "{said}");
    assert!(path.exists() && before == fs::read(&file).unwrap());

    // One of this boot that has ended is, also if the machine has no id.
    let mut contents = crate::published::contents(&path);
    contents["process"].as_object_mut().unwrap().remove("machineId");
    contents["pid"] = json!(i32::MAX);
    crate::published::publish(&place, &path, &contents);
    let said = Part::start(&variables).step();
    assert!(said.starts_with("bound "), "{said}");

    // So is one of an earlier boot, if no other machine can have written that down.
    if crate::published::can_prove() && is_local(capabilities.path()) {
        let mut contents = crate::published::contents(&path);
        contents["process"]["bootId"] = json!("0".repeat(36));
        crate::published::publish(&place, &path, &contents);
        let said = Part::start(&variables).step();
        assert!(said.starts_with("bound "), "{said}");
    }
}

#[test]
fn a_directory_with_something_else_in_it_stays() {
    let place = Place::new();
    let mut random = udsmsg::os::Random::from_os().unwrap();
    let namespace = udsmsg::Namespace::default();
    let location = udsmsg::Location::draw(&namespace, &place.environment(), &mut random).unwrap();
    let (listener, mut claim) =
        udsmsg::os::Claim::bind(location, &place.capabilities(), &token(1), &mut random).unwrap();
    let path = Path::new(claim.address().path()).to_owned();
    fs::write(path.with_file_name("note"), "").unwrap();
    claim.release(&listener).unwrap();
    assert!(!path.exists() && path.with_file_name("note").exists());
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    for mask in ["0", "777", "277", "022"] {
        let place = Place::new();
        let path = place.path("a/b/s.sock");
        let config = place.path("home/config/messaging-capabilities");
        let mut part = Part::start(&[
            ("NAMES_SOCKET", path.as_os_str()),
            ("NAMES_CONFIG", config.as_os_str()),
            ("NAMES_UMASK", mask.as_ref()),
        ]);
        assert_eq!(part.step(), format!("bound {} 0600", path.display()), "umask {mask}");
        for dir in ["a", "a/b", "home", "home/config", "home/config/messaging-capabilities"] {
            assert_eq!(mode(&place.path(dir)), 0o700, "{dir} under umask {mask}");
        }
        let file = config.join(CapabilityDir::file_name(&Address::from_path(&path).unwrap()));
        assert_eq!(mode(&file), 0o600);
        assert_eq!(part.step(), "released true false");
        assert!(!path.exists() && !file.exists());
    }
}

#[test]
fn a_relative_path_belongs_to_the_directory_of_the_start() {
    for socket in ["s.sock", "./s.sock", "d//./s.sock"] {
        let place = Place::new();
        let config = place.path("config");
        let mut part = Part::start(&[
            ("NAMES_SOCKET", socket.as_ref()),
            ("NAMES_CONFIG", config.as_os_str()),
            ("NAMES_CWD", place.path("").as_os_str()),
            ("NAMES_AFTER", "chdir".as_ref()),
        ]);
        assert_eq!(part.step(), format!("bound {socket} 0600"));
        UnixStream::connect(place.path(socket)).unwrap();
        CapabilityDir::at(&config).read(&Address::parse(socket).unwrap()).unwrap();
        assert_eq!(part.step(), "released true false");
        assert!(!place.path(socket).exists());
        assert_eq!(fs::read_dir(&config).unwrap().count(), 0);
    }
    // A current directory that others can look into is no place for a bare name.
    let place = Place::open();
    let mut part = Part::start(&[
        ("NAMES_SOCKET", "s.sock".as_ref()),
        ("NAMES_CONFIG", place.path("config").as_os_str()),
        ("NAMES_CWD", place.path("").as_os_str()),
    ]);
    assert!(part.step().starts_with("directory_not_private: "));
}

#[test]
fn a_forked_child_removes_nothing() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let mut part = Part::start(&[
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", place.capabilities().path().as_os_str()),
        ("NAMES_AFTER", "fork".as_ref()),
    ]);
    assert!(part.step().starts_with("bound"));
    // `true`: after the child was done, the name was still there.
    assert_eq!(part.step(), "released true false");
}

#[test]
fn after_a_crash_the_next_start_succeeds() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let capabilities = place.capabilities();
    let variables = [("NAMES_SOCKET", path.as_os_str()), ("NAMES_CONFIG", capabilities.path().as_os_str())];
    let mut part = Part::start(&variables);
    assert!(part.step().starts_with("bound"));
    let address = Address::from_path(&path).unwrap();
    let process = capabilities.read(&address).unwrap().process.unwrap();
    assert_eq!(process.pid, part.pid());
    part.kill();
    assert!(path.exists());
    let (_listener, claim) = place.bind(&path).unwrap();
    assert!(claim.still_there());
    assert_eq!(capabilities.read(&address).unwrap().process.unwrap().pid, std::process::id());
}

#[test]
fn another_user_cannot_start_in_our_directories() {
    if !crate::util::is_root() {
        return;
    }
    let place = Place::open();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let (listener, _claim) = place.bind(&path).unwrap();
    let other_uid = crate::util::OTHER_UID.to_string();
    let own = place.make_dir("own", 0o700);
    assert!(give_away(&own));
    // In our directory; in a new directory below our place; and in a directory of its own, where it may.
    for (socket, answer) in [
        (path.clone(), "directory_not_private: "),
        (place.path("new/s.sock"), "io: "),
        (own.join("s.sock"), "bound "),
    ] {
        let mut part = Part::start(&[
            ("NAMES_SOCKET", socket.as_os_str()),
            ("NAMES_CONFIG", own.join("config").as_os_str()),
            ("NAMES_UID", other_uid.as_ref()),
        ]);
        let said = part.step();
        assert!(said.starts_with(answer), "{said}");
        if answer == "bound " {
            // Root is refused as well: the directory is not root's own.
            expect_error(place.bind(&socket), ErrorKind::DirectoryNotPrivate, &["uid 65534"]);
            assert_eq!(part.step(), "released true false");
        }
    }
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn socket_whose_mode_excludes_its_owner_is_still_probed() {
    if !crate::util::is_root() {
        return;
    }
    // Root may connect everywhere; another user has to change the mode to probe, and then changes it back.
    let place = Place::open();
    let own = place.make_dir("own", 0o700);
    assert!(give_away(&own));
    let (path, config) = (own.join("s.sock"), own.join("config"));
    let other_uid = crate::util::OTHER_UID.to_string();
    let variables = [
        ("NAMES_SOCKET", path.as_os_str()),
        ("NAMES_CONFIG", config.as_os_str()),
        ("NAMES_UID", other_uid.as_ref()),
    ];
    let mut parts = [(); 3].map(|()| Part::start(&variables));
    assert!(parts[0].step().starts_with("bound"));
    chmod(&path, 0o000);
    assert!(parts[1].step().starts_with("already_running"));
    assert_eq!(mode(&path), 0o000);
    parts[0].kill();
    assert!(parts[2].step().ends_with("0600"));
}

#[test]
fn writing_to_a_vanished_peer_gives_an_error_and_no_signal() {
    let place = Place::new();
    let mut part = Part::start(&[
        ("NAMES_SOCKET", place.path("d/s.sock").as_os_str()),
        ("NAMES_CONFIG", place.capabilities().path().as_os_str()),
        ("NAMES_AFTER", "sigpipe".as_ref()),
    ]);
    assert!(part.step().starts_with("bound"));
    assert_eq!(part.step(), "released true false");
}

#[test]
fn release_and_start_wait_for_a_held_lock_only_until_their_timeout() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (listener, mut claim) = place.bind(&path).unwrap();
    let lock = fs::File::open(place.path("d")).unwrap();
    lock.lock().unwrap();
    let asked = Instant::now();
    expect_error(claim.release(&listener), ErrorKind::TimedOut, &["starting or stopping", "2000 ms"]);
    assert!(asked.elapsed() >= Duration::from_secs(2) && claim.still_there());
    let left = claim.release_within(&listener, Duration::ZERO);
    expect_error(left, ErrorKind::TimedOut, &["within 0 ms", "left behind", "d/s.sock", ".json"]);
    expect_error(place.bind(&place.path("d/other.sock")), ErrorKind::TimedOut, &["starting or stopping"]);
    lock.unlock().unwrap();
    claim.release(&listener).unwrap();
    assert!(!path.exists() && !place.path("d/other.sock").exists());
}

#[test]
fn no_debug_text_shows_a_token() {
    let place = Place::new();
    let (_listener, claim) = place.bind(&place.path("d/s.sock")).unwrap();
    let text = format!("{claim:?}");
    assert!(!text.contains(token(1).expose()) && text.contains("redacted"), "{text}");
}

#[test]
fn many_rounds_in_one_process_leak_nothing() {
    let place = Place::new();
    let rounds = crate::util::rounds(200).to_string();
    let mut part = Part::start(&[
        ("NAMES_SOCKET", place.path("d/s.sock").as_os_str()),
        ("NAMES_CONFIG", place.capabilities().path().as_os_str()),
        ("NAMES_ROUNDS", rounds.as_ref()),
    ]);
    assert_eq!(part.step(), "left nothing");
    let left: Vec<_> = place.everything().into_iter().collect();
    assert_eq!(left, ["config", "config/messaging-capabilities", "d"]);
    eprintln!("{rounds} starts and stops in one process left no descriptor, file or thread");
}
