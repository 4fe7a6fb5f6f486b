//! Paths chosen by others on a file system that never answers: no call waits for it.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;
use udsmsg::Address;
use udsmsg::peers::{Fate, PeerState, SweepReport};

use crate::fuse::with_hung_mount;
use crate::peers::answering;
use crate::published::{contents, environment, peers, publish};
use crate::shared_mount::with_shared_mount;
use crate::util::Place;

/// A pid that no process has.
const NOBODYS_PID: u32 = i32::MAX as u32;

/// Paths that lead into `hung`: straight, through links, back and forth, and the mount itself.
fn ways_into(place: &Place, hung: &Path) -> Vec<PathBuf> {
    symlink(hung, place.path("link")).unwrap();
    let inside = |path: &str| place.path(path);
    vec![
        hung.join("s.sock"),
        hung.join("deeper/s.sock"),
        inside("link/s.sock"),
        inside("d/../hung/s.sock"),
        inside("link/../link/s.sock"),
        hung.to_owned(),
    ]
}

#[track_caller]
fn expect_kept(report: &SweepReport, file: &Path, hung: &Path) {
    let swept = report.swept.iter().find(|swept| swept.path == file).unwrap();
    assert_eq!(swept.fate, Fate::Kept, "{swept:?}");
    assert!(swept.reason.contains("may not answer (fuse.hung at"), "{swept:?}");
    assert!(swept.reason.contains(hung.to_str().unwrap()), "{swept:?}");
}

#[test]
fn peers_and_sweep_do_not_touch_a_planted_path_on_a_hung_mount() {
    let place = Place::new();
    let hung = place.make_dir("hung", 0o700);
    place.make_dir("d", 0o700);
    let was_run = with_hung_mount(&hung, || {
        let mut files = Vec::new();
        for path in ways_into(&place, &hung) {
            let mut of_dead = contents(&path);
            of_dead["pid"] = json!(NOBODYS_PID);
            files.push((publish(&place, &path, &of_dead), path));
        }
        let report = peers(&place).sweep(true).unwrap();
        files.iter().for_each(|(file, _)| expect_kept(&report, file, &hung));
        let report = peers(&place).sweep(false).unwrap();
        files.iter().for_each(|(file, _)| expect_kept(&report, file, &hung));
        // The same for a running process, which is asked for an answer.
        files.iter().for_each(|(_, path)| drop(publish(&place, path, &contents(path))));
        let list = peers(&place).list().unwrap();
        assert_eq!(list.peers.len(), files.len());
        for peer in &list.peers {
            assert_eq!(peer.state, PeerState::Unknown, "{peer:?}");
            assert!(peer.reason.contains("may not answer (fuse.hung at"), "{peer:?}");
        }
    });
    if was_run {
        eprintln!("six ways into a hung mount: none taken");
    }
}

/// Containers and virtual machines have file systems of any type: those on which our own directories lie are
/// used.
#[test]
fn peers_on_the_file_system_of_the_default_sockets_are_asked() {
    let place = Place::new();
    let shared = place.make_dir("shared", 0o700);
    with_shared_mount(&shared, ("file", ""), || {
        let path = shared.join("s.sock");
        answering(&path, r#"{"type":"pong"}"#);
        publish(&place, &path, &contents(&path));
        let peer = peer_with_tmpdir(&place, &place.path("tmp"));
        assert_eq!(peer.state, PeerState::Unknown, "{peer:?}");
        assert!(peer.reason.contains("may not answer (fuse.shared at"), "{peer:?}");
        let peer = peer_with_tmpdir(&place, &shared);
        assert_eq!(peer.state, PeerState::Live, "{peer:?}");
        // What a person or the host itself names is connected to as it is.
        let mut client =
            udsmsg::Client::in_namespace(&udsmsg::Namespace::default(), &environment(&place)).unwrap();
        assert!(client.ping(&Address::from_path(&path).unwrap()).is_accepted());
    });
}

/// Where others can make directories, they can mount something: a start goes on to the next place.
#[test]
fn a_default_location_that_is_a_hung_mount_is_skipped() {
    use udsmsg::Location;
    let place = Place::new();
    place.make_dir("tmp", 0o700);
    let squatted = place.make_dir("tmp/claude-code-socks", 0o700);
    with_hung_mount(&squatted, || {
        let mut random = udsmsg::os::Random::from_os().unwrap();
        let draw = [Location::preview, Location::draw];
        for draw in draw {
            let location = draw(&udsmsg::Namespace::default(), &environment(&place), &mut random).unwrap();
            let uid = udsmsg::os::effective_uid();
            assert!(
                location.address().path().contains(&format!("/claude-code-socks-{uid}/")),
                "{location:?}"
            );
            let [skipped] = location.skipped() else { panic!("{location:?}") };
            assert_eq!(skipped.kind, udsmsg::ErrorKind::NotLocal);
        }
        assert_eq!(peers(&place).sweep(false).unwrap().swept[0].fate, Fate::Kept);
    });
}

/// A home directory can lie below a directory of an automounter, where every other name can wait for a
/// server.
#[test]
fn a_file_system_that_we_depend_on_is_reached_through_one_that_may_not_answer() {
    use nix::mount::{MsFlags, mount};
    let place = Place::new();
    let outer = place.make_dir("outer", 0o700);
    let inner = outer.join("home");
    let mount_both = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let (none, no_flags) = (None::<&str>, MsFlags::empty());
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("test"), &outer, Some("hugetlbfs"), no_flags, Some("mode=700"))?;
        fs::create_dir(&inner).map_err(|_| nix::Error::EIO)?;
        mount(Some("test"), &inner, Some("tmpfs"), no_flags, Some("mode=700"))
    };
    let body = || {
        if let Err(cause) = mount_both() {
            crate::machine::skip(&format!("a file system of an unknown type cannot be had here: {cause}"));
            return;
        }
        let path = inner.join("s.sock");
        answering(&path, r#"{"type":"pong"}"#);
        publish(&place, &path, &contents(&path));
        let peer = peer_with_tmpdir(&place, &place.path("tmp"));
        assert_eq!(peer.state, PeerState::Unknown, "{peer:?}");
        assert!(peer.reason.contains("may not answer (hugetlbfs at"), "{peer:?}");
        let peer = peer_with_tmpdir(&place, &inner);
        assert_eq!(peer.state, PeerState::Live, "{peer:?}");
    };
    std::thread::scope(|scope| scope.spawn(body).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// The only peer, as it is seen with this `$TMPDIR`.
fn peer_with_tmpdir(place: &Place, tmpdir: &Path) -> udsmsg::peers::Peer {
    let variables = [("CLAUDE_CONFIG_DIR", place.path("config")), ("TMPDIR", tmpdir.into())];
    let environment = place.environment_with(variables);
    let peers = udsmsg::Peers::in_namespace(&udsmsg::Namespace::default(), &environment).unwrap();
    peers.list().unwrap().peers.remove(0)
}

#[test]
fn a_directory_of_a_server_on_a_hung_mount_is_not_swept() {
    let place = Place::new();
    place.make_dir("tmp", 0o700);
    place.make_dir("tmp/claude-code-socks", 0o700);
    let own = place.make_dir(&format!("tmp/claude-code-socks/{NOBODYS_PID}-{}", "0".repeat(32)), 0o700);
    with_hung_mount(&own, || {
        let report = peers(&place).sweep(false).unwrap();
        expect_kept(&report, &own, &own);
    });
}

#[test]
fn a_capability_file_that_is_a_hung_mount_is_not_read() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let file = publish(&place, &path, &contents(&path));
    with_hung_mount(&file, || {
        let list = peers(&place).list().unwrap();
        assert_eq!(list.peers[0].state, PeerState::Unusable, "{list:?}");
        assert!(list.peers[0].reason.contains("mounted"), "{list:?}");
        let address = Address::from_path(&path).unwrap();
        assert!(place.capabilities().read(&address).unwrap_err().to_string().contains("mounted"));
        let report = peers(&place).sweep(false).unwrap();
        assert_eq!(report.swept[0].fate, Fate::Kept, "{report:?}");
    });
}

/// What has no capability file of ours is not touched at all: to be asked for an answer is not enough.
#[cfg(feature = "server")]
mod reply {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use udsmsg::os::CapabilityDir;
    use udsmsg::{Client, ErrorKind, Outgoing, SendOutcome, Server, ServerEvent};

    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn server(place: &Place) -> Server {
        place.make_dir("own", 0o700);
        let address = Address::from_path(&place.path("own/s.sock")).unwrap();
        Server::builder().environment(environment(place)).address(address).start().unwrap()
    }

    /// Sends one message with this `from` to `server`, which answers it.
    fn reply_to(place: &Place, server: &mut Server, from: &Path) -> Result<udsmsg::SendId, udsmsg::Error> {
        let mut client = Client::in_namespace(&udsmsg::Namespace::default(), &environment(place)).unwrap();
        let message = Outgoing::new("text").with_from(from.to_str().unwrap());
        client.start(server.address(), &message).unwrap();
        while server.inbox_len() == 0 {
            let _ = server.turn(SOON).unwrap();
        }
        let batch = server.drain();
        let entry = batch.iter().next().unwrap();
        server.reply(&entry, Outgoing::new("text"), TIMEOUT)
    }

    #[test]
    fn reply_does_not_wait_for_a_claimed_path_on_a_hung_mount() {
        let place = Place::new();
        let hung = place.make_dir("hung", 0o700);
        place.make_dir("d", 0o700);
        let was_run = with_hung_mount(&hung, || {
            let mut server = server(&place);
            for path in ways_into(&place, &hung) {
                let told = reply_to(&place, &mut server, &path).unwrap_err();
                assert_eq!(told.kind(), ErrorKind::NoSuchPeer, "{told}");
                assert!(told.to_string().contains("no capability file"), "{told}");
                publish(&place, &path, &contents(&path));
                let told = reply_to(&place, &mut server, &path).unwrap_err();
                assert_eq!(told.kind(), ErrorKind::NotLocal, "{told}");
                assert!(told.to_string().contains("may not answer (fuse.hung at"), "{told}");
            }
            assert_eq!(server.outstanding(), 0);
        });
        if was_run {
            eprintln!("six claimed paths on a hung mount: each refused at once");
        }
    }

    /// A path can lead elsewhere when the connection is made than when the reply was accepted.
    #[test]
    fn a_reply_whose_path_turns_to_a_hung_mount_before_the_turn_is_not_sent() {
        let place = Place::new();
        let hung = place.make_dir("hung", 0o700);
        let good = place.make_dir("good", 0o700);
        with_hung_mount(&hung, || {
            let mut server = server(&place);
            let _peer = UnixListener::bind(good.join("s.sock")).unwrap();
            symlink(&good, place.path("way")).unwrap();
            let from = place.path("way/s.sock");
            publish(&place, &from, &contents(&from));
            reply_to(&place, &mut server, &from).unwrap();
            fs::remove_file(place.path("way")).unwrap();
            symlink(&hung, place.path("way")).unwrap();
            let outcome = loop {
                let _ = server.turn(SOON).unwrap();
                if let Some(ServerEvent::Sent { outcome, .. }) = server.next_event() {
                    break outcome;
                }
            };
            let SendOutcome::NotSent(error) = outcome else { panic!("{outcome:?}") };
            assert_eq!(error.kind(), ErrorKind::NotLocal, "{error}");
        });
    }

    /// A file system that is neither known to be local nor ours is refused for claimed paths only.
    #[test]
    fn a_reply_reaches_a_peer_through_links_and_local_mounts() {
        let place = Place::new();
        let good = place.make_dir("good", 0o700);
        let peer = UnixListener::bind(good.join("s.sock")).unwrap();
        let mut server = server(&place);
        symlink(place.path("a/../b"), place.path("way")).unwrap();
        place.make_dir("a", 0o700);
        symlink("good/.", place.path("b")).unwrap();
        for from in ["good/s.sock", "way/s.sock", "a/../good//./s.sock"] {
            let from = place.path(from);
            publish(&place, &from, &contents(&from));
            reply_to(&place, &mut server, &from).unwrap();
            let _ = server.turn(SOON).unwrap();
            peer.accept().unwrap();
        }
        assert!(place.capabilities().path().join(CapabilityDir::file_name(server.address())).exists());
    }
}
