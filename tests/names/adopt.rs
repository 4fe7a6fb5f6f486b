//! A listener made by another program: which one is adopted, which is refused, and what is kept when it is
//! given back.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use udsmsg::os::{CapabilityDir, Claim, Random};
use udsmsg::{Address, Error, ErrorKind};

use crate::util::{Place, chmod, expect_error, give_away, token};

fn adopt(place: &Place, listener: UnixListener) -> Result<(UnixListener, Claim), Error> {
    Claim::adopt(listener, &place.capabilities(), &token(1), &mut Random::from_os().unwrap())
}

/// A private listener as a careful service manager makes it.
fn listener(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    chmod(path, 0o600);
    listener
}

#[test]
fn private_listener_is_adopted_published_and_kept_at_the_end() {
    for is_dropped in [false, true] {
        let place = Place::new();
        let path = place.make_dir("d", 0o700).join("s.sock");
        let given = listener(&path);
        fcntl(&given, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let (listener, mut claim) = adopt(&place, given).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFL).unwrap());
        let descriptor = FdFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK) && descriptor.contains(FdFlag::FD_CLOEXEC));
        assert_eq!(claim.address().path(), path.to_str().unwrap());
        assert!(claim.still_there());
        let published = place.capabilities().read(claim.address()).unwrap();
        assert!(published.auth_token.matches(token(1).expose().as_bytes()));
        assert_eq!(published.process.unwrap().pid, std::process::id());
        UnixStream::connect(&path).unwrap();
        // A start by another program finds a live server.
        expect_error(place.bind_with(&path, &token(2)), ErrorKind::AlreadyRunning, &["live server"]);
        if is_dropped {
            drop(claim);
        } else {
            claim.release(&listener).unwrap();
            assert!(!claim.still_there());
            claim.release(&listener).unwrap();
        }
        UnixStream::connect(&path).unwrap();
        let left: Vec<_> = place.everything().into_iter().collect();
        assert_eq!(left, ["config", "config/messaging-capabilities", "d", "d/s.sock"]);
    }
}

#[test]
fn waiting_connections_survive_an_adoption() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let given = listener(&path);
    let _client = UnixStream::connect(&path).unwrap();
    let (listener, _claim) = adopt(&place, given).unwrap();
    listener.accept().unwrap();
    // No other connection is waiting: the start did not probe, because one was waiting already.
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn socket_that_is_not_a_listener_with_a_path_is_refused() {
    let place = Place::new();
    let dir = place.make_dir("d", 0o700);
    type Make<'a> = &'a dyn Fn() -> OwnedFd;
    let unlistened = || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
        use std::os::fd::AsRawFd;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&dir.join("unlistened")).unwrap()).unwrap();
        fd
    };
    let cases: [(&str, Make<'_>); 5] = [
        ("not a stream socket that listens", &|| UnixStream::pair().unwrap().0.into()),
        ("not a stream socket that listens", &|| UnixDatagram::bind(dir.join("datagram")).unwrap().into()),
        ("not a stream socket that listens", &unlistened),
        ("which Unix socket", &|| TcpListener::bind("127.0.0.1:0").unwrap().into()),
        ("which Unix socket", &|| fs::File::open("/dev/null").unwrap().into()),
    ];
    for (words, make) in cases {
        expect_error(adopt(&place, make().into()), ErrorKind::InvalidListener, &[words]);
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let name = format!("udsmsg-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        expect_error(adopt(&place, listener), ErrorKind::InvalidListener, &["abstract"]);
        // Listening without a name: the kernel gives none by itself.
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, listen, socket};
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        if listen(&fd, Backlog::new(1).unwrap()).is_ok() {
            expect_error(adopt(&place, fd.into()), ErrorKind::InvalidListener, &["no path"]);
        }
    }
    assert!(!place.capabilities().path().exists());
}

/// What can be wrong with the file or its directory, in the words of the error.
#[test]
fn a_listener_that_is_not_private_or_not_reached_is_refused() {
    type Spoil = fn(&Path, &Path) -> bool;
    let cases: [(Spoil, ErrorKind, &[&str]); 11] = [
        (|_, path| mode(path, 0o666), ErrorKind::InvalidListener, &["0666", "mode 0600"]),
        (|_, path| mode(path, 0o620), ErrorKind::InvalidListener, &["0620"]),
        (|_, path| mode(path, 0o700), ErrorKind::InvalidListener, &["0700"]),
        (|dir, _| mode(dir, 0o755), ErrorKind::DirectoryNotPrivate, &["0755", "of your own"]),
        (|dir, _| mode(dir, 0o710), ErrorKind::DirectoryNotPrivate, &["0710"]),
        (|_, path| fs::remove_file(path).is_ok(), ErrorKind::InvalidListener, &["vanished"]),
        (
            |dir, _| fs::remove_dir_all(dir).is_ok(),
            ErrorKind::InvalidListener,
            &["directory", "does not exist"],
        ),
        (
            |_, path| fs::remove_file(path).and_then(|()| fs::write(path, "")).is_ok(),
            ErrorKind::InvalidListener,
            &["is a regular file now"],
        ),
        (
            |_, path| fs::remove_file(path).and_then(|()| symlink("elsewhere", path)).is_ok(),
            ErrorKind::InvalidListener,
            &["is a symbolic link now"],
        ),
        (|_, path| give_away(path), ErrorKind::InvalidListener, &["belongs to uid 65534"]),
        (|dir, _| give_away(dir), ErrorKind::DirectoryNotPrivate, &["belongs to uid 65534"]),
    ];
    for (spoil, kind, words) in cases {
        let place = Place::open();
        let dir = place.make_dir("d", 0o700);
        let path = dir.join("s.sock");
        let given = listener(&path);
        if !spoil(&dir, &path) {
            continue;
        }
        expect_error(adopt(&place, given), kind, words);
        assert!(!place.capabilities().path().exists(), "{words:?}");
    }
    for narrower in [0o600, 0o200, 0o400] {
        let place = Place::new();
        let path = place.make_dir("d", 0o700).join("s.sock");
        let given = listener(&path);
        chmod(&path, narrower);
        // A user other than root cannot even connect to a socket without write permission.
        let adopted = adopt(&place, given);
        assert!(adopted.is_ok() || !crate::util::is_root(), "{adopted:?}");
    }
}

fn mode(path: &Path, mode: u32) -> bool {
    chmod(path, mode);
    true
}

#[test]
fn the_name_of_another_live_server_is_not_taken() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let given = listener(&path);
    fs::remove_file(&path).unwrap();
    let (_other, other) = place.bind_with(&path, &token(2)).unwrap();
    expect_error(adopt(&place, given), ErrorKind::PathOccupied, &["another socket"]);
    assert!(other.still_there());
    let published = place.capabilities().read(other.address()).unwrap();
    assert!(published.auth_token.matches(token(2).expose().as_bytes()));
}

#[test]
fn adoption_that_cannot_publish_changes_nothing() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let given = listener(&path);
    let file =
        place.capabilities().path().join(CapabilityDir::file_name(&Address::from_path(&path).unwrap()));
    place.make_dir("config/messaging-capabilities", 0o700);
    fs::create_dir(&file).unwrap();
    let before = place.everything();
    let kept = given.try_clone().unwrap();
    expect_error(adopt(&place, given), ErrorKind::Io, &["cannot publish"]);
    assert_eq!(place.everything(), before);
    fs::remove_dir(&file).unwrap();
    adopt(&place, kept).unwrap();
}

#[test]
fn removed_socket_is_noticed() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let (listener, mut claim) = adopt(&place, listener(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!claim.still_there());
    let _successor = UnixListener::bind(&path).unwrap();
    assert!(!claim.still_there());
    claim.release(&listener).unwrap();
    assert!(path.exists());
}
