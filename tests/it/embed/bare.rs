//! A host of `Endpoint` alone: non-blocking std sockets and `poll(2)`, exactly as the endpoint documents.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, poll};
use udsmsg::parts::{AuthToken, ConnKey, Mono, Now, Step};
use udsmsg::{Endpoint, PeerIdentity, Server, Wall};

use super::descriptor::poll_timeout;
use super::ways::{Guest, Start};

/// A stream and whether it is to be read and written when it can be.
struct Peer {
    stream: UnixStream,
    is_read: bool,
    is_blocked: bool,
}

struct Bare {
    endpoint: Endpoint,
    listener: Option<UnixListener>,
    wake: UnixStream,
    peers: HashMap<ConnKey, Peer>,
    owner: u32,
    begun: Instant,
}

/// The result of `poll(2)`.
#[derive(Default)]
struct Ready {
    listener: bool,
    read: Vec<ConnKey>,
    write: Vec<ConnKey>,
}

pub fn host(start: Start) {
    let auth_token = AuthToken::from_bytes([9; 32]);
    let path = start.path();
    let owner = nix::unistd::geteuid().as_raw();
    let endpoint = Endpoint::new(path.to_str().unwrap(), auth_token.clone(), start.limits.clone()).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (wake, handle) = UnixStream::pair().unwrap();
    wake.set_nonblocking(true).unwrap();
    let mut bare = Bare {
        endpoint,
        listener: Some(listener),
        wake,
        peers: HashMap::new(),
        owner,
        begun: Instant::now(),
    };
    let mut owner = start.bare(path, auth_token.expose().to_owned(), move || {
        let _ = (&handle).write(&[1]);
    });
    loop {
        let ready = bare.wait(None);
        bare.turn(&ready);
        if owner.after_turn(&mut bare).is_break() {
            break;
        }
    }
}

impl Bare {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Now {
            mono: Mono::from_nanos(u64::try_from(self.begun.elapsed().as_nanos()).unwrap()),
            wall: Wall::from_millis(u64::try_from(wall.as_millis()).unwrap()),
        }
    }

    fn wait(&mut self, at_most: Option<Duration>) -> Ready {
        let now = self.now().mono;
        let due = self.endpoint.next_deadline().map(|deadline| deadline.since(now));
        let mut timeout = [due, at_most].into_iter().flatten().min();
        if self.endpoint.has_work() {
            timeout = Some(Duration::ZERO);
        }
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let listens = self.listener.as_ref().filter(|_| self.endpoint.can_accept());
        fds.extend(listens.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        let first = fds.len();
        let mut keys = Vec::new();
        for (key, peer) in &self.peers {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, peer.is_read);
            flags.set(PollFlags::POLLOUT, peer.is_blocked);
            if !flags.is_empty() {
                keys.push(*key);
                fds.push(PollFd::new(peer.stream.as_fd(), flags));
            }
        }
        poll(&mut fds, poll_timeout(timeout)).unwrap();
        let mut ready = Ready { listener: first == 2 && fds[1].any().unwrap(), ..Ready::default() };
        for (key, fd) in keys.iter().zip(&fds[first..]) {
            let flags = fd.revents().unwrap();
            if flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                ready.read.push(*key);
            }
            if flags.intersects(PollFlags::POLLOUT | PollFlags::POLLERR) {
                ready.write.push(*key);
            }
        }
        let mut scrap = [0; 64];
        let _ = self.wake.read(&mut scrap);
        ready
    }

    fn turn(&mut self, ready: &Ready) {
        let now = self.now();
        self.endpoint.work(now);
        for key in &ready.read {
            self.read(*key, now);
        }
        for key in &ready.write {
            self.write(*key, now);
        }
        self.take_steps(now);
        if ready.listener {
            while self.endpoint.can_accept()
                && let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept)
            {
                stream.set_nonblocking(true).unwrap();
                let peer = PeerIdentity::unix(self.owner, None);
                if let Some(key) = self.endpoint.accepted(peer, now) {
                    self.peers.insert(key, Peer { stream, is_read: true, is_blocked: false });
                }
                self.take_steps(now);
            }
        }
        self.endpoint.deadlines_reached(now);
        self.take_steps(now);
        self.endpoint.turn_ended();
    }

    fn read(&mut self, key: ConnKey, now: Now) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(mut space) = self.endpoint.recv_space(key, now) else {
            peer.is_read = false;
            return;
        };
        match peer.stream.read(&mut space) {
            Ok(n @ 1..) => space.received(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => space.received(0),
            Ok(0) | Err(_) => {
                peer.is_read = false;
                space.received(0);
                self.endpoint.end_of_input(key, now);
            }
        }
    }

    fn write(&mut self, key: ConnKey, now: Now) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let output = self.endpoint.output(key);
        peer.is_blocked = false;
        if output.is_empty() {
            return;
        }
        match peer.stream.write(output) {
            Ok(n) => {
                peer.is_blocked = n < output.len();
                self.endpoint.sent(key, n, now);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => peer.is_blocked = true,
            Err(_) => self.endpoint.output_failed(key),
        }
    }

    fn take_steps(&mut self, now: Now) {
        while let Some((key, step)) = self.endpoint.next_step() {
            match step {
                Step::Write => self.write(key, now),
                Step::Read => {
                    if let Some(peer) = self.peers.get_mut(&key) {
                        peer.is_read = true;
                    }
                }
                Step::ShutWrite => {
                    let _ = self.peers[&key].stream.shutdown(Shutdown::Write);
                }
                Step::Close(_) => {
                    // Both sides shut and what is left read away: closing would reset the peer otherwise.
                    let mut stream = self.peers.remove(&key).unwrap().stream;
                    let _ = stream.shutdown(Shutdown::Both);
                    let mut scrap = [0; 16 << 10];
                    while matches!(stream.read(&mut scrap), Ok(1..)) {}
                }
            }
        }
    }
}

impl Guest for Bare {
    fn drain(&mut self) -> Vec<String> {
        self.endpoint.drain().iter().map(|entry| entry.message().json().to_owned()).collect()
    }

    fn shutdown(&mut self, grace: Duration) {
        let listener = self.listener.take().unwrap();
        std::fs::remove_file(listener.local_addr().unwrap().as_pathname().unwrap()).unwrap();
        drop(listener);
        let begun = self.now();
        self.endpoint.shutdown(begun);
        self.take_steps(begun);
        while !self.peers.is_empty() && self.now().mono.since(begun.mono) < grace {
            let ready = self.wait(Some(grace));
            self.turn(&ready);
        }
    }

    fn server(&mut self) -> &mut Server {
        unreachable!("this scenario is not for the core alone")
    }
}
