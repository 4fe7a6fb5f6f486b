//! A real server from start to stop.

use std::io::{Read, Write};
#[cfg(unix)]
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[cfg(unix)]
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use crate::util::real::{Home, RawPeer, Real};
use crate::util::stream::can_connect;
use crate::util::{error, matches, ping, stored, text, watchdog};

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

/// Every name below `dir`, but those of empty directories that were there before.
fn names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.to_str().unwrap().to_owned());
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(names(&path));
        }
    }
    found
}

#[test]
fn files_are_private_and_removed_with_the_server() {
    let _watchdog = watchdog::watch("files_are_private_and_removed_with_the_server");
    for is_polite in [true, false] {
        let home = Home::new();
        let mut server = home.start(|_| ());
        let socket = Path::new(server.address().path()).to_owned();
        let capabilities = home.path().join("config/messaging-capabilities");
        // Access lists are another test's.
        #[cfg(unix)]
        for (path, expected) in [
            (&*socket, 0o600),
            (socket.parent().unwrap(), 0o700),
            (socket.parent().unwrap().parent().unwrap(), 0o700),
            (&capabilities, 0o700),
        ] {
            assert_eq!(mode(path), expected, "{path:?}");
        }
        let files = names(&capabilities);
        assert_eq!(files.len(), 1, "{files:?}");
        #[cfg(unix)]
        assert_eq!(mode(Path::new(&files[0])), 0o600);
        let [(variable, value)] = server.child_env();
        assert_eq!(
            (variable.as_str(), value.as_str()),
            ("CLAUDE_CODE_MESSAGING_SOCKET", socket.to_str().unwrap())
        );
        if is_polite {
            server.shutdown(Duration::from_secs(1)).unwrap();
        } else {
            drop(server);
        }
        assert_eq!(names(&capabilities), Vec::<String>::new());
        assert!(!can_connect(&socket));
        #[cfg(unix)]
        assert!(!socket.exists() && !socket.parent().unwrap().exists());
    }
}

#[test]
fn shutdown_flushes_pending_answers() {
    let _watchdog = watchdog::watch("shutdown_flushes_pending_answers");
    let home = Home::new();
    let mut server = home.start(|l| {
        l.inbox_entries_max = 1 << 20;
        l.inbox_bytes_max = 1 << 26;
    });
    let token = home.token_of(&server);
    let mut peer = RawPeer::connect(Path::new(server.address().path()), &token);
    peer.stream.set_nonblocking(true).unwrap();
    let lines = peer.fill(&text("a").repeat(100));
    // Until unread answers pile up.
    let mut accepted = 0;
    let mut quiet_turns = 0;
    let mut rest: &[u8] = &[];
    while quiet_turns < 20 {
        if rest.is_empty() {
            rest = &lines;
        }
        if let Ok(n) = peer.stream.write(rest) {
            rest = &rest[n..];
        }
        let turn = server.turn(Some(Duration::from_millis(1))).unwrap();
        accepted += turn.enqueued;
        quiet_turns = if turn.enqueued == 0 { quiet_turns + 1 } else { 0 };
    }
    assert!(accepted > 1_000, "{accepted}");
    let reader = std::thread::spawn(move || {
        peer.stream.set_nonblocking(false).unwrap();
        let mut answers = 0;
        while let Some(line) = peer.line() {
            assert!(line.contains("\"ok\""), "a stop sends no error line: {line}");
            answers += 1;
        }
        answers
    });
    server.shutdown(Duration::from_secs(1_000)).unwrap();
    assert_eq!(reader.join().unwrap(), accepted, "one answer for each message that was taken");
    assert_eq!(server.drain().len(), accepted, "the inbox can still be drained");
}

#[test]
fn shutdown_ends_after_its_grace() {
    let _watchdog = watchdog::watch("shutdown_ends_after_its_grace");
    let home = Home::new();
    let mut server = home.start(|l| l.closing_timeout = Duration::from_secs(1_000));
    let token = home.token_of(&server);
    let mut peer = RawPeer::connect(Path::new(server.address().path()), &token);
    peer.stream.set_nonblocking(true).unwrap();
    let lines = peer.fill(&ping().repeat(100));
    for _ in 0..2_000 {
        let _ = peer.stream.write(&lines);
        let _ = server.turn(Some(Duration::ZERO)).unwrap();
    }
    // Far less than the closing timeout and the watchdog have.
    let grace = Duration::from_millis(100);
    let begun = Instant::now();
    server.shutdown(grace).unwrap();
    assert!(begun.elapsed() >= grace, "there was something to wait for");
}

#[test]
fn stopped_server_accepts_and_reads_nothing() {
    let _watchdog = watchdog::watch("stopped_server_accepts_and_reads_nothing");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let path = Path::new(server.address().path()).to_owned();
    let token = home.token_of(&server);
    let mut late = RawPeer::connect(&path, &token);
    late.send(&text("a"));
    server.shutdown(Duration::from_millis(200)).unwrap();
    assert!(!can_connect(&path));
    let turn = server.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!((turn.enqueued, turn.more), (0, false));
    assert_eq!(server.inbox_len(), 0);
    server.shutdown(Duration::from_millis(200)).unwrap();
}

/// The one that is there goes on, and its name is free when it is gone.
#[test]
fn second_server_at_the_same_address_is_told_who_has_it() {
    let _watchdog = watchdog::watch("second_server_at_the_same_address_is_told_who_has_it");
    let home = Home::new();
    let address = udsmsg::Address::from_path(&home.path_for("new/s.sock")).unwrap();
    let start = || {
        let builder = udsmsg::Server::builder().environment(home.environment());
        builder.address(address.clone()).start()
    };
    let mut first = start().unwrap();
    let token = home.token_of(&first);
    for _ in 0..20 {
        let refused = start().unwrap_err();
        assert_eq!(refused.kind(), udsmsg::ErrorKind::AlreadyRunning, "{refused}");
        let pid = format!("(pid {})", std::process::id());
        // A pipe of which every instance has a client does not say whose it is.
        let is_busy = cfg!(windows) && refused.to_string().starts_with("a live server has");
        assert!(is_busy || refused.to_string().contains(&pid), "{refused}");
        let _ = first.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(home.token_of(&first), token, "what it has published stays");
    let mut peer = RawPeer::connect(Path::new(address.path()), &token);
    peer.send(&text("a"));
    while first.inbox_len() == 0 {
        let _ = first.turn(None).unwrap();
    }
    drop(first);
    assert!(peer.line().unwrap().contains("uds-1") && peer.line().is_none(), "its last answer and the end");
    drop(start().unwrap());
}

#[test]
fn the_hook_is_called_once_in_each_turn_that_brought_messages() {
    let _watchdog = watchdog::watch("the_hook_is_called_once_in_each_turn_that_brought_messages");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    server.on_enqueue(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let token = home.token_of(&server);
    let path = Path::new(server.address().path()).to_owned();
    let mut peers: Vec<RawPeer> = (0..3).map(|_| RawPeer::connect(&path, &token)).collect();
    let (mut turns, mut enqueued) = (0, 0);
    for round in 0..5 {
        for peer in &mut peers {
            peer.send(&[text("a"), ping(), text("b")].concat());
        }
        while enqueued < (round + 1) * 6 {
            let before = calls.load(Ordering::Relaxed);
            let turn = server.turn(Some(Duration::from_millis(100))).unwrap();
            enqueued += turn.enqueued;
            turns += usize::from(turn.enqueued > 0);
            assert_eq!(calls.load(Ordering::Relaxed) - before, usize::from(turn.enqueued > 0));
        }
    }
    peers[0].send(&ping());
    for _ in 0..3 {
        let _ = server.turn(Some(Duration::from_millis(5))).unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), turns, "a ping is no message");
}

#[test]
fn waker_ends_an_endless_wait() {
    let _watchdog = watchdog::watch("waker_ends_an_endless_wait");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let waker = server.waker();
    // Before the wait.
    waker.wake().unwrap();
    let _ = server.turn(None).unwrap();
    // During it.
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        waker.wake().unwrap();
    });
    let turn = server.turn(None).unwrap();
    assert_eq!((turn.enqueued, turn.more), (0, false));
    thread.join().unwrap();
    let timeout = server.next_timeout();
    assert!(
        timeout > Some(Duration::from_secs(50)),
        "{timeout:?}: without clients, only the check of its name is due"
    );
}

/// A client in the middle of a long write learns why it was refused: no reset before the line and the end.
#[test]
fn the_error_line_can_be_read_by_a_client_that_goes_on_writing() {
    let _watchdog = watchdog::watch("the_error_line_can_be_read_by_a_client_that_goes_on_writing");
    let bad: [(&[u8], &str); 3] = [
        (b"nonsense\n", "invalid frame"),
        (b"{}\n", "unauthorized"),
        (b"", "NDJSON frame exceeded 65536 bytes ($N)"),
    ];
    for (first, reason) in bad {
        for round in 0..5 {
            let real = Real::start(|_| ());
            let mut peer = real.connect();
            peer.send(first);
            // How much is written depends on the server.
            let written = peer.stream.write_all(&vec![b'x'; 1 << 20]);
            // A pipe is closed when the error line is written.
            #[cfg(unix)]
            {
                assert!(written.is_ok(), "it is read to its end: {written:?}");
                peer.half_close();
            }
            #[cfg(windows)]
            drop(written);
            let line = peer.line().unwrap_or_else(|| panic!("{reason}, round {round}: no line"));
            assert!(matches(&error(reason), &line), "{line}");
            assert_eq!(peer.line(), None);
        }
    }
}

/// A client that never reads and never stops writing is cut off after its second; it can still read the error
/// line.
#[test]
fn a_client_that_never_stops_writing_is_cut_off_and_can_still_read_its_error_line() {
    let _watchdog = watchdog::watch("a_client_that_never_stops_writing");
    let real = Real::start(|l| l.closing_timeout = Duration::from_millis(50));
    let mut peer = real.connect();
    peer.send(b"nonsense\n");
    let junk = vec![b'x'; 100_000];
    while peer.stream.write_all(&junk).is_ok() {}
    assert!(matches(&error("invalid frame"), &peer.line().unwrap()));
    assert_eq!(peer.line(), None);
    let mut next = real.connect();
    next.send(&ping());
    assert!(next.line().unwrap().contains("pong"));
}

#[test]
fn client_beyond_the_limit_reads_the_reason() {
    let _watchdog = watchdog::watch("client_beyond_the_limit_reads_the_reason");
    let real = Real::start(|l| l.clients_max = 4);
    let mut known: Vec<RawPeer> = (0..4).map(|_| real.connect()).collect();
    for peer in &mut known {
        peer.send(&ping());
        assert!(peer.line().unwrap().contains("pong"));
    }
    for _ in 0..30 {
        let mut peer = real.connect();
        peer.send(&text("a"));
        assert!(matches(&error("too many clients"), &peer.line().unwrap()));
        assert_eq!(peer.line(), None);
    }
    known[0].send(&ping());
    assert!(known[0].line().unwrap().contains("pong"));
}

/// The host may have the default action of SIGPIPE, which would end it.
#[test]
#[cfg(unix)] // Windows has no such signal.
fn writing_to_a_client_that_is_gone_raises_no_signal() {
    let _watchdog = watchdog::watch("writing_to_a_client_that_is_gone_raises_no_signal");
    // Blocked in this thread, a signal would stay pending here and could be seen.
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    pipe.thread_block().unwrap();
    let pending = SignalFd::with_flags(&pipe, SfdFlags::SFD_NONBLOCK).unwrap();

    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(theirs);
    assert!(nix::unistd::write(&ours, b"x").is_err());
    assert!(pending.read_signal().unwrap().is_some(), "this is how a signal would be seen");

    let home = Home::new();
    let mut server = home.start(|_| ());
    let token = home.token_of(&server);
    for _ in 0..10 {
        let mut peer = RawPeer::connect(Path::new(server.address().path()), &token);
        let _ = server.turn(Some(Duration::from_millis(50))).unwrap();
        peer.send(&text("a").repeat(10));
        drop(peer);
        for _ in 0..4 {
            let _ = server.turn(Some(Duration::from_millis(5))).unwrap();
        }
    }
    assert_eq!(server.drain().len(), 100, "they were accepted although the client is gone");
    assert!(pending.read_signal().unwrap().is_none(), "a signal was raised");
}

#[test]
fn late_host_times_out_no_client_whose_data_is_waiting() {
    let _watchdog = watchdog::watch("late_host_times_out_no_client_whose_data_is_waiting");
    let home = Home::new();
    let mut server = home.start(|l| l.auth_timeout = Duration::from_millis(50));
    let token = home.token_of(&server);
    let path = Path::new(server.address().path()).to_owned();
    let mut in_time = RawPeer::connect(&path, &token);
    let mut silent = RawPeer::connect(&path, &token);
    let _ = server.turn(Some(Duration::from_millis(50))).unwrap();
    in_time.send(&text("a"));
    std::thread::sleep(Duration::from_millis(120));
    let _ = server.turn(Some(Duration::from_millis(50))).unwrap();
    assert!(in_time.line().unwrap().contains("uds-1"));
    assert!(matches(&error("authentication timeout"), &silent.line().unwrap()));
    let batch = server.drain();
    assert_eq!(batch.iter().next().unwrap().message().json(), stored("a"));
}

#[test]
fn a_stopped_server_ends_its_connections() {
    let _watchdog = watchdog::watch("a_stopped_server_ends_its_connections");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let token = home.token_of(&server);
    let mut peer = RawPeer::connect(Path::new(server.address().path()), &token);
    let _ = server.turn(Some(Duration::from_millis(50))).unwrap();
    server.shutdown(Duration::from_secs(1)).unwrap();
    let mut rest = Vec::new();
    peer.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "no error line");
}

/// As a cleaner of temporary files does: the whole directory of the socket is removed.
#[test]
#[cfg(unix)] // The name of a pipe cannot vanish while its server is there.
fn removed_socket_is_noticed_and_can_be_made_again() {
    let _watchdog = watchdog::watch("removed_socket_is_noticed_and_can_be_made_again");
    for whole_directory in [true, false] {
        let home = Home::new();
        let every = Duration::from_millis(20);
        let builder = udsmsg::Server::builder().environment(home.environment()).name_check(every);
        let mut server = builder.start().unwrap();
        let socket = Path::new(server.address().path()).to_owned();
        let token = home.token_of(&server);
        let mut known = RawPeer::connect(&socket, &token);
        assert!(server.is_reachable());

        std::fs::remove_file(&socket).unwrap();
        if whole_directory {
            std::fs::remove_dir(socket.parent().unwrap()).unwrap();
        }
        // Nothing else happens: the check alone wakes it.
        while !server.turn(None).unwrap().name_lost {}
        assert!(!server.is_reachable() && !can_connect(&socket));

        server.rebind().unwrap();
        assert!(server.is_reachable() && mode(&socket) == 0o600);
        assert_eq!(home.token_of(&server), token);
        let mut newcomer = RawPeer::connect(&socket, &token);
        known.send(&text("from one who was there"));
        newcomer.send(&text("from one who came later"));
        while server.inbox_len() < 2 {
            let turn = server.turn(None).unwrap();
            assert!(!turn.name_lost);
        }
        drop(server);
        assert!(!socket.exists() && !socket.parent().unwrap().exists());
    }
}

/// Without its capability file a server is unreachable: no client finds the token.
#[test]
fn removed_capability_file_is_noticed_and_published_again() {
    let _watchdog = watchdog::watch("removed_capability_file_is_noticed_and_published_again");
    type Spoil = fn(&Path, &Path);
    let ways: &[(&str, Spoil)] = &[
        ("the file", |_, file| std::fs::remove_file(file).unwrap()),
        // Windows does not remove a directory that is held open.
        #[cfg(unix)]
        ("its directory", |dir, _| std::fs::remove_dir_all(dir).unwrap()),
        #[cfg(unix)]
        ("its directory, moved away", |dir, _| std::fs::rename(dir, dir.with_extension("old")).unwrap()),
        #[cfg(unix)]
        ("its mode", |_, file| {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("what it says", |_, file| std::fs::write(file, "{}").unwrap()),
    ];
    for (what, spoil) in ways {
        let home = Home::new();
        let every = Duration::from_millis(20);
        let mut server =
            udsmsg::Server::builder().environment(home.environment()).name_check(every).start().unwrap();
        let token = home.token_of(&server);
        let socket = Path::new(server.address().path()).to_owned();
        #[cfg(unix)]
        let inode = socket.metadata().unwrap().ino();
        let dir = home.path().join("config/messaging-capabilities");
        let file = dir.join(udsmsg::os::CapabilityDir::file_name(server.address()));
        // A check that finds everything in place reports nothing.
        let looked = Instant::now();
        while looked.elapsed() < every * 2 {
            assert!(!server.turn(Some(every)).unwrap().name_lost, "{what}");
        }
        server.rebind().unwrap();

        spoil(&dir, &file);
        while !server.turn(None).unwrap().name_lost {}
        assert!(!server.is_reachable(), "{what}");
        server.rebind().unwrap();
        assert!(server.is_reachable(), "{what}");
        assert_eq!(home.token_of(&server), token, "{what}");
        #[cfg(unix)]
        assert_eq!(socket.metadata().unwrap().ino(), inode, "{what}");
        RawPeer::connect(&socket, &token).send(&text("found again"));
        while server.inbox_len() == 0 {
            assert!(!server.turn(None).unwrap().name_lost, "{what}");
        }
        drop(server);
        assert!(!can_connect(&socket) && !file.exists(), "{what}");
        #[cfg(unix)]
        assert!(!socket.exists(), "{what}");
    }
}

/// The same path can lead to another socket in another container: two servers must not publish in turns.
#[test]
#[cfg(unix)] // The name of a pipe leads to one server only.
fn a_capability_file_of_another_live_server_is_not_replaced() {
    let _watchdog = watchdog::watch("a_capability_file_of_another_live_server_is_not_replaced");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let dir = home.path().join("config/messaging-capabilities");
    let file = dir.join(udsmsg::os::CapabilityDir::file_name(server.address()));
    let mut contents: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    contents["authToken"] = "0".repeat(64).into();
    contents["process"]["pidNamespace"] = 1.into();
    let published = contents.to_string();
    std::fs::write(&file, &published).unwrap();
    assert_eq!(server.rebind().unwrap_err().kind(), udsmsg::ErrorKind::AlreadyRunning);
    assert!(!server.is_reachable());
    drop(server);
    assert!(std::fs::read_to_string(&file).unwrap() == published, "it is not ours to remove");
}

/// Holds the lock on the directory of the socket of `server`, as a start or a stop of another one does.
#[cfg(unix)]
fn hold_lock(server: &udsmsg::Server) -> std::fs::File {
    let lock = std::fs::File::open(Path::new(server.address().path()).parent().unwrap()).unwrap();
    lock.lock().unwrap();
    lock
}

#[test]
#[cfg(unix)] // On Windows there is no lock.
fn a_stop_waits_for_the_lock_no_longer_than_its_grace_and_can_be_finished_later() {
    let _watchdog =
        watchdog::watch("a_stop_waits_for_the_lock_no_longer_than_its_grace_and_can_be_finished_later");
    let home = Home::new();
    let stop = |grace: Duration| {
        let mut server = home.start(|_| ());
        let token = home.token_of(&server);
        let mut peer = RawPeer::connect(Path::new(server.address().path()), &token);
        peer.send(&text("accepted before the stop"));
        while server.inbox_len() == 0 {
            let _ = server.turn(None).unwrap();
        }
        let lock = hold_lock(&server);
        let asked = Instant::now();
        let error = server.shutdown(grace).unwrap_err();
        let took = asked.elapsed();
        assert_eq!(error.kind(), udsmsg::ErrorKind::TimedOut, "{error}");
        let socket = Path::new(server.address().path()).to_owned();
        for word in ["left behind", socket.to_str().unwrap(), "the capability file"] {
            assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
        }
        assert!(!server.is_reachable() && socket.exists(), "it is stopped, with its socket left behind");
        assert_eq!(server.drain().len(), 1, "what was accepted can still be taken");
        assert!(peer.line().unwrap().contains("uds-1") && peer.line().is_none(), "it gets its answer");
        drop(lock);
        server.shutdown(Duration::ZERO).unwrap();
        assert!(names(&home.path().join("t")).iter().all(|name| name.ends_with("claude-code-socks")));
        assert!(names(&home.path().join("config/messaging-capabilities")).is_empty());
        took
    };
    // A busy machine can delay any one of them.
    let long = stop(Duration::from_secs(1));
    let short = (0..5).map(|_| stop(Duration::from_millis(10))).min().unwrap();
    assert!(long >= Duration::from_secs(1), "{long:?}");
    assert!(short < long / 2, "{short:?} with a grace of 10 ms, {long:?} with one of 1 s");
}

#[test]
#[cfg(unix)] // On Windows there is no lock.
fn a_stop_gets_the_lock_that_becomes_free_in_time() {
    let _watchdog = watchdog::watch("a_stop_gets_the_lock_that_becomes_free_in_time");
    let home = Home::new();
    let mut server = home.start(|_| ());
    let lock = hold_lock(&server);
    let socket = Path::new(server.address().path()).to_owned();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            drop(lock);
        });
        server.shutdown(Duration::from_secs(15)).unwrap();
    });
    assert!(!socket.exists());
}

/// The socket is compared with what was made while its listener is open, so there is no other time to remove
/// it.
#[test]
#[cfg(unix)] // On Windows there is no lock.
fn dropping_a_server_does_not_wait_for_a_held_lock() {
    let _watchdog = watchdog::watch("dropping_a_server_does_not_wait_for_a_held_lock");
    let home = Home::new();
    let drop_it = |after_shutdown: bool| {
        let mut server = home.start(|_| ());
        let lock = hold_lock(&server);
        if after_shutdown {
            server.shutdown(Duration::ZERO).unwrap_err();
        }
        let socket = Path::new(server.address().path()).to_owned();
        let asked = Instant::now();
        drop(server);
        let took = asked.elapsed();
        assert!(socket.exists() && !can_connect(&socket), "it is left behind, and dead");
        drop(lock);
        took
    };
    // For comparison: a start waits two seconds.
    let other = home.start(|_| ());
    let lock = hold_lock(&other);
    let address =
        udsmsg::Address::from_path(&Path::new(other.address().path()).with_file_name("o.sock")).unwrap();
    let asked = Instant::now();
    let refused = udsmsg::Server::builder().environment(home.environment()).address(address).start();
    let (error, long) = (refused.unwrap_err(), asked.elapsed());
    assert_eq!(error.kind(), udsmsg::ErrorKind::TimedOut);
    drop(lock);
    for after_shutdown in [false, true] {
        let short = (0..5).map(|_| drop_it(after_shutdown)).min().unwrap();
        assert!(short < long / 2, "{short:?} for a drop, {long:?} for a start");
    }
}

/// Also if it fails when everything has been made already, and only the host's loop has no room for it.
#[test]
fn start_that_fails_at_the_last_step_leaves_no_files() {
    let _watchdog = watchdog::watch("start_that_fails_at_the_last_step_leaves_no_files");
    let home = Home::new();
    let poll = udsmsg::mio::Poll::new().unwrap();
    let before = names(home.path());
    let start = || udsmsg::Server::builder().environment(home.environment());
    let refused = start().start_in(poll.registry(), usize::MAX);
    assert!(refused.is_err());
    assert_eq!(names(home.path()), before);
    // What was made by another stays.
    let other = start().start().unwrap();
    let before = names(home.path());
    start().start_in(poll.registry(), usize::MAX).unwrap_err();
    assert_eq!(names(home.path()), before);
    drop(other);
}

/// A name that another server has taken meanwhile is not removed.
#[test]
#[cfg(unix)] // The name of a pipe cannot be taken while its server is there.
fn name_taken_by_another_server_is_not_removed() {
    let _watchdog = watchdog::watch("name_taken_by_another_server_is_not_removed");
    let home = Home::new();
    let directory = home.path().join("given");
    let address = udsmsg::Address::from_path(&directory.join("s.sock")).unwrap();
    let start = || {
        let builder = udsmsg::Server::builder().environment(home.environment()).address(address.clone());
        builder.name_check(Duration::from_millis(20)).start()
    };
    let mut first = start().unwrap();
    std::fs::remove_file(address.path()).unwrap();
    let second = start().unwrap();
    while !first.turn(None).unwrap().name_lost {}
    assert_eq!(first.rebind().unwrap_err().kind(), udsmsg::ErrorKind::AlreadyRunning);
    drop(first);
    assert!(Path::new(address.path()).exists() && !home.token_of(&second).is_empty());
    drop(second);
    assert!(!Path::new(address.path()).exists());
}

/// As with a service manager: the listener exists before the server, and stays after it.
#[test]
#[cfg(unix)] // Pipes cannot be handed over.
fn listener_of_a_service_manager_is_adopted() {
    let _watchdog = watchdog::watch("listener_of_a_service_manager_is_adopted");
    let home = Home::new();
    let directory = home.path().join("given");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = directory.join("s.sock");
    let listener = crate::util::stream::Listener::bind(&path).unwrap();
    let builder = || udsmsg::Server::builder().environment(home.environment());
    let open_to_all = builder().listener(listener.try_clone().unwrap()).start();
    assert_eq!(open_to_all.unwrap_err().kind(), udsmsg::ErrorKind::InvalidListener, "its mode is not 0600");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut server = builder().listener(listener).start().unwrap();
    assert_eq!(server.address().path(), path.to_str().unwrap());
    let mut peer = RawPeer::connect(&path, &home.token_of(&server));
    peer.send(&text("hello"));
    while server.inbox_len() == 0 {
        let _ = server.turn(None).unwrap();
    }
    server.shutdown(Duration::from_secs(1)).unwrap();
    assert!(path.exists() && names(&home.path().join("config/messaging-capabilities")).is_empty());
}
