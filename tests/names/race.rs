//! Many starts at once on one stale path: exactly one succeeds, and the others get an error.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use udsmsg::os::{CapabilityDir, Claim, Random};
use udsmsg::{Address, ErrorKind};

use crate::child::Part;
use crate::util::{Place, leave_stale, once_free, rounds, token};

#[test]
fn of_many_threads_on_one_stale_path_one_wins() {
    const THREADS: u8 = 8;
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    for _ in 0..rounds(20) {
        leave_stale(&path);
        let barrier = Barrier::new(THREADS.into());
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|seed| {
                    let (barrier, place, path) = (&barrier, &place, &path);
                    scope.spawn(move || {
                        barrier.wait();
                        (seed, once_free(|| place.bind_with(path, &token(seed))))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut winners = Vec::new();
        for (seed, result) in results {
            match result {
                Ok(bound) => winners.push((seed, bound)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyRunning, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        let (seed, (_listener, claim)) = winners.pop().unwrap();
        assert!(claim.still_there());
        let published = place.capabilities().read(claim.address()).unwrap();
        assert!(published.auth_token.matches(token(seed).expose().as_bytes()));
    }
}

#[test]
fn of_many_processes_on_one_stale_path_one_wins() {
    let place = Place::new();
    let path = place.make_dir("d", 0o700).join("s.sock");
    let capabilities = place.capabilities();
    let rounds = rounds(20);
    for _ in 0..rounds {
        leave_stale(&path);
        let variables =
            [("NAMES_SOCKET", path.as_os_str()), ("NAMES_CONFIG", capabilities.path().as_os_str())];
        let mut parts: Vec<_> = (0..8).map(|_| Part::start(&variables)).collect();
        parts.iter_mut().for_each(Part::go_on);
        let said: Vec<_> = parts.iter_mut().map(Part::says).collect();
        let winners: Vec<_> = (0..8).filter(|&i| said[i].starts_with("bound ")).collect();
        assert_eq!(winners.len(), 1, "{said:#?}");
        // On a busy machine one may give up before it has the lock.
        let is_refused =
            |said: &&String| said.starts_with("already_running: ") || said.starts_with("timed_out: ");
        assert_eq!(said.iter().filter(is_refused).count(), 7, "{said:#?}");
        let winner = &mut parts[winners[0]];
        let published = capabilities.read(&Address::from_path(&path).unwrap()).unwrap();
        assert_eq!(published.process.unwrap().pid, winner.pid());
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(winner.step(), "released true false");
    }
    eprintln!(
        "{rounds} rounds of 8 processes on one stale path: 1 owner that can be reached, 7 typed refusals"
    );
}

#[test]
fn concurrent_starts_and_stops_never_lose_a_name() {
    let place = Place::new();
    let path = place.path("d/s.sock");
    let (place, path): (&Place, &Path) = (&place, &path);
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                for _ in 0..rounds(100) {
                    match once_free(|| place.bind_with(path, &token(seed))) {
                        Ok((listener, mut claim)) => {
                            assert!(claim.still_there());
                            std::os::unix::net::UnixStream::connect(path).unwrap();
                            let published = place.capabilities().read(claim.address()).unwrap();
                            assert!(published.auth_token.matches(token(seed).expose().as_bytes()));
                            once_free(|| claim.release(&listener)).unwrap();
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::AlreadyRunning, "{error}")
                        }
                    }
                }
            });
        }
    });
    assert!(!path.exists());
}

#[test]
fn fifty_servers_in_one_place_start_together() {
    let place = Place::new();
    let place = &place;
    let bound: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|i| {
                scope.spawn(move || {
                    once_free(|| place.bind(&place.path("d").join(format!("{i}.sock")))).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (_, claim) in &bound {
        std::os::unix::net::UnixStream::connect(claim.address().path()).unwrap();
        place.capabilities().read(claim.address()).unwrap();
    }
}

#[test]
fn start_succeeds_in_a_directory_that_is_removed_again_and_again() {
    let place = Place::new();
    let dir = place.path("d");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let rounds = rounds(200);
    let removed = std::sync::atomic::AtomicUsize::new(0);
    let _watchdog = crate::watchdog::watch("start_succeeds_in_a_directory_that_is_removed_again_and_again");
    thread::scope(|scope| {
        let removing = scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                // As a stop or a sweep does it: under the lock, and not without a pause.
                if let Ok(locked) = std::fs::File::open(&dir)
                    && locked.lock().is_ok()
                {
                    let is_removed = std::fs::remove_dir(&dir).is_ok();
                    removed.fetch_add(usize::from(is_removed), std::sync::atomic::Ordering::Relaxed);
                }
                thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        // More than that if the other thread has not had a processor yet.
        let are_left =
            |round: &usize| *round < rounds || removed.load(std::sync::atomic::Ordering::Relaxed) == 0;
        let failed: Vec<_> = (0..)
            .take_while(are_left)
            .filter_map(|_| once_free(|| place.bind(&dir.join("s.sock"))).err())
            .collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(failed.is_empty(), "{failed:?}");
        removing.join().unwrap();
        eprintln!("{rounds} starts while the directory was removed {removed:?} times: all succeeded");
    });
}

/// A start that fails removes the directories that it made; one that makes its socket in them at that moment
/// makes them again.
#[test]
fn failed_starts_do_not_disturb_others_in_shared_directories() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    let address = |name: &str| Address::from_path(&place.path("a/b").join(name)).unwrap();
    let is_over = AtomicBool::new(false);
    let (failed, started) = thread::scope(|scope| {
        let failing = scope.spawn(|| {
            let mut random = Random::from_os().unwrap();
            let unusable = CapabilityDir::at(place.path("file/below"));
            let mut failed = 0;
            while !is_over.load(Ordering::Relaxed) {
                let refused = Claim::bind(address("f.sock").into(), &unusable, &token(2), &mut random);
                crate::util::expect_error(refused, ErrorKind::DirectoryNotPrivate, &["capability files"]);
                failed += 1;
            }
            failed
        });
        let mut random = Random::from_os().unwrap();
        let rounds = rounds(200);
        let mut outcome = Ok(());
        for _ in 0..rounds {
            // As after a stop that took them away: every start has to make them, or finds those of the other.
            let _ = fs::remove_dir(place.path("a/b")).and_then(|()| fs::remove_dir(place.path("a")));
            outcome = Claim::bind(address("s.sock").into(), &place.capabilities(), &token(1), &mut random)
                .and_then(|(listener, mut claim)| claim.release(&listener));
            if outcome.is_err() {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap();
        (failing.join().unwrap(), rounds)
    });
    assert!(place.everything().iter().all(|name| !name.ends_with(".sock")), "{:?}", place.everything());
    eprintln!("{started} starts beside {failed} that failed in the same new directories");
}
