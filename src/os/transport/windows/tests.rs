//! Listener, streams and waker, both ends in one process: each end has a queue of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mio::{Events, Poll};

use super::*;
use crate::os::pipe::stream::Progress;
use crate::os::pipe::waiter::Waiter;

/// Turns after which something hangs; each takes a few milliseconds at most.
const TURNS_MAX: usize = 5_000;

/// Error 231: every instance has a client.
const PIPE_BUSY: i32 = 231;

const LISTENER: Token = Token(0);

fn name(what: &str) -> PathBuf {
    format!(r"\\.\pipe\udsmsg-test-{}-{what}", std::process::id()).into()
}

/// Bytes of which no long part is like another.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from((n ^ (n >> 8) ^ (n >> 16)) & 0xff).unwrap()).collect()
}

/// One end of a connection: what it is to send, and what has come.
struct End {
    stream: Option<ReadyStream>,
    to_send: VecDeque<u8>,
    received: Vec<u8>,
    ended: Option<Progress>,
    /// Writing failed.
    is_refused: bool,
}

impl End {
    fn new(stream: ReadyStream) -> Self {
        let (to_send, received) = (VecDeque::new(), Vec::new());
        Self { stream: Some(stream), to_send, received, ended: None, is_refused: false }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
        self.write();
    }

    fn stream(&mut self) -> &mut ReadyStream {
        self.stream.as_mut().unwrap()
    }

    fn write(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        while stream.is_writable() && !self.to_send.is_empty() && !self.is_refused {
            match stream.write(self.to_send.make_contiguous()) {
                Progress::Moved(n) => drop(self.to_send.drain(..n)),
                Progress::Blocked => {}
                Progress::Gone => self.is_refused = true,
                Progress::End => panic!("a write does not find the end"),
            }
        }
    }

    /// Up to `reads` reads of up to `piece` bytes.
    fn read(&mut self, piece: usize, reads: usize) {
        let Some(stream) = &mut self.stream else { return };
        let mut space = vec![0; piece];
        for _ in 0..reads {
            if !stream.is_readable() {
                return;
            }
            match stream.read(&mut space) {
                Progress::Moved(n) => self.received.extend(&space[..n]),
                Progress::Blocked => {}
                ended => {
                    assert_eq!(self.ended.replace(ended), None, "the end is told once");
                }
            }
        }
    }

    fn close(&mut self) {
        self.stream.take().unwrap().close();
    }
}

/// A listener, what it has accepted, and their queue.
struct Server {
    ends: Vec<End>,
    listener: Listener,
    poll: Poll,
    events: Events,
}

impl Server {
    fn new(path: &Path) -> Self {
        let mut listener = Listener::new(PipeListener::bind(path).unwrap());
        let poll = Poll::new().unwrap();
        watch_input(poll.registry(), &mut listener, LISTENER).unwrap();
        Self { ends: Vec::new(), listener, poll, events: Events::with_capacity(64) }
    }

    /// Notes what has happened and accepts who has come; reads and writes nothing.
    fn poll(&mut self, timeout: Duration) {
        self.poll.poll(&mut self.events, Some(timeout)).unwrap();
        let mut has_come = false;
        for event in &self.events {
            match event.token() {
                LISTENER => has_come = true,
                Token(n) => {
                    if let Some(stream) = &mut self.ends[n - 1].stream {
                        stream.note(readiness(event));
                    }
                }
            }
        }
        while has_come {
            match self.listener.accept() {
                Ok((mut stream, peer)) => {
                    assert!(sys::Owner::current().trusts(peer), "{peer}");
                    assert_eq!(peer.pid(), Some(std::process::id()));
                    watch(self.poll.registry(), &mut stream, Token(self.ends.len() + 1)).unwrap();
                    self.ends.push(End::new(stream));
                }
                Err(AcceptError::Blocked) => has_come = false,
                Err(AcceptError::Aborted) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// Clients with one queue.
struct Clients {
    ends: Vec<End>,
    waiter: Waiter,
}

impl Clients {
    fn new() -> Self {
        Self { ends: Vec::new(), waiter: Waiter::new().unwrap() }
    }

    fn open(&mut self, path: &Path) -> io::Result<()> {
        let pipe = sys::open_pipe(path)?;
        assert!(sys::Owner::current().trusts(sys::server_identity(&pipe)?));
        let mut stream = ReadyStream::new(pipe);
        self.waiter.watch(&mut stream, self.ends.len())?;
        self.ends.push(End::new(stream));
        Ok(())
    }

    fn poll(&mut self, timeout: Duration) {
        let streams = self.ends.iter_mut().enumerate();
        let streams = streams.filter_map(|(n, end)| Some((n, end.stream.as_mut()?)));
        self.waiter.wait(Some(timeout), streams).unwrap();
    }
}

/// Turns both until `is_done`; `turn` reads and writes.
fn until(
    server: &mut Server,
    clients: &mut Clients,
    mut turn: impl FnMut(&mut [End], &mut [End]),
    is_done: impl Fn(&[End], &[End]) -> bool,
) {
    for n in 0..TURNS_MAX {
        server.poll(Duration::ZERO);
        clients.poll(Duration::from_millis(u64::from(n > 0)));
        turn(&mut server.ends, &mut clients.ends);
        if is_done(&server.ends, &clients.ends) {
            return;
        }
    }
    panic!("it hangs");
}

/// Some turns in which nothing is read or written.
fn settle(server: &mut Server, clients: &mut Clients) {
    for _ in 0..10 {
        server.poll(Duration::from_millis(1));
        clients.poll(Duration::from_millis(1));
    }
}

/// A server and a client that it has accepted.
fn pair(path: &Path) -> (Server, Clients) {
    let (mut server, mut clients) = (Server::new(path), Clients::new());
    clients.open(path).unwrap();
    until(&mut server, &mut clients, |_, _| {}, |served, _| served.len() == 1);
    (server, clients)
}

/// Reads and writes all that can be.
fn serve(ends: &mut [End]) {
    for end in ends {
        end.write();
        end.read(4096, 64);
    }
}

#[test]
fn lines_go_back_and_forth() {
    let (mut server, mut clients) = pair(&name("echo"));
    for n in 0..2_000 {
        let line = format!("{{\"n\":{n}}}\n");
        clients.ends[0].send(line.as_bytes());
        let is_whole = |_: &[End], ends: &[End]| ends[0].received.ends_with(b"\n");
        until(
            &mut server,
            &mut clients,
            |served, ends| {
                serve(served);
                let line = std::mem::take(&mut served[0].received);
                served[0].send(&line);
                serve(ends);
            },
            is_whole,
        );
        assert_eq!(std::mem::take(&mut clients.ends[0].received), line.as_bytes());
    }
}

#[test]
fn a_slow_reader_reads_all_that_was_written_before_the_end() {
    for len in [1, 20, 4096, 64 << 10] {
        let (mut server, mut clients) = pair(&name(&format!("slow-{len}")));
        let sent = bytes(len);
        server.ends[0].send(&sent);
        server.ends[0].stream().shut_write();
        // The end of the write is seen without the reader.
        let ended = |served: &[End], _: &[End]| served[0].ended.is_some();
        until(&mut server, &mut clients, |served, _| served[0].read(64, 1), ended);
        assert_eq!(server.ends[0].ended, Some(Progress::End), "{len} bytes");
        server.ends[0].close();
        settle(&mut server, &mut clients);
        drop(server);
        let mut server = Server::new(&name(&format!("slow-{len}-after")));
        until(&mut server, &mut clients, |_, ends| serve(ends), |_, ends| ends[0].ended.is_some());
        assert_eq!(clients.ends[0].received, sent, "{len} bytes");
        assert_eq!(clients.ends[0].ended, Some(Progress::End), "{len} bytes");
    }
}

#[test]
fn more_than_the_pipe_holds_is_read_whole_before_the_end() {
    let (mut server, mut clients) = pair(&name("long"));
    let sent = bytes(1 << 20);
    server.ends[0].send(&sent);
    let turn = |served: &mut [End], ends: &mut [End]| {
        let end = &mut served[0];
        end.write();
        if end.stream.is_some() && end.to_send.is_empty() {
            end.stream().shut_write();
        }
        end.read(64, 1);
        if end.stream.is_some() && end.ended.is_some() {
            end.close();
        }
        ends[0].read(1000, 1);
    };
    until(&mut server, &mut clients, turn, |_, ends| ends[0].ended.is_some());
    assert!(clients.ends[0].received == sent);
    assert_eq!(clients.ends[0].ended, Some(Progress::End));
}

#[test]
fn closing_gives_up_what_a_peer_does_not_read() {
    let path = name("deaf");
    let (mut server, mut clients) = pair(&path);
    let sent = bytes(1 << 20);
    server.ends[0].send(&sent);
    for _ in 0..20 {
        settle(&mut server, &mut clients);
        server.ends[0].write();
    }
    let left = server.ends[0].to_send.len();
    assert!(left > 0, "the pipe takes all of it");
    server.ends[0].stream().shut_write();
    settle(&mut server, &mut clients);
    assert!(!server.ends[0].stream().is_readable(), "the last write has not finished");
    server.ends[0].close();
    settle(&mut server, &mut clients);
    // If a handle of the server were left, the name would be.
    let Server { listener, mut poll, mut events, .. } = server;
    drop(listener);
    for _ in 0..10 {
        poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
    }
    assert_eq!(sys::open_pipe(&path).unwrap_err().kind(), ErrorKind::NotFound);
    let mut server = Server::new(&name("deaf-after"));
    until(&mut server, &mut clients, |_, ends| serve(ends), |_, ends| ends[0].ended.is_some());
    let received = &clients.ends[0].received;
    assert!(received.len() < sent.len() - left, "{} of {}", received.len(), sent.len() - left);
    assert!(sent.starts_with(received));
}

#[test]
fn a_server_that_does_not_read_holds_no_client_back() {
    let path = name("deaf-server");
    let (mut server, mut clients) = pair(&path);
    clients.ends[0].send(&bytes(1 << 20));
    for _ in 0..20 {
        settle(&mut server, &mut clients);
        clients.ends[0].write();
    }
    assert!(!clients.ends[0].to_send.is_empty());
    clients.ends[0].close();
    drop(clients);
    let mut clients = Clients::new();
    until(&mut server, &mut clients, |served, _| serve(served), |served, _| served[0].ended.is_some());
    assert!(server.ends[0].received.len() < 1 << 20);
}

#[test]
fn what_a_client_wrote_before_it_closed_is_read_then_the_end_once() {
    for is_accepted_first in [true, false] {
        let path = name(&format!("gone-{is_accepted_first}"));
        let (mut server, mut clients) = (Server::new(&path), Clients::new());
        clients.open(&path).unwrap();
        if is_accepted_first {
            settle(&mut server, &mut clients);
            assert_eq!(server.ends.len(), 1);
        }
        let sent = bytes(10_000);
        clients.ends[0].send(&sent);
        clients.ends[0].close();
        clients.poll(Duration::ZERO);
        until(
            &mut server,
            &mut clients,
            |served, _| serve(served),
            |served, _| served.first().is_some_and(|end| end.ended.is_some()),
        );
        let end = &mut server.ends[0];
        assert_eq!((end.received.len(), end.ended), (sent.len(), Some(Progress::End)));
        assert!(end.received == sent);
        for _ in 0..10 {
            settle(&mut server, &mut clients);
            assert!(!server.ends[0].stream().is_readable(), "the end is told once");
        }
    }
}

#[test]
fn a_peer_that_writes_nothing_has_not_ended() {
    let path = name("nothing");
    let (mut server, mut clients) = (Server::new(&path), Clients::new());
    let mut client = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    settle(&mut server, &mut clients);
    for part in ["one", "", "two", "", "", "three"] {
        assert_eq!(client.write(part.as_bytes()).unwrap(), part.len());
        settle(&mut server, &mut clients);
        serve(&mut server.ends);
        assert_eq!(server.ends[0].ended, None);
    }
    drop(client);
    until(&mut server, &mut clients, |served, _| serve(served), |served, _| served[0].ended.is_some());
    assert_eq!(server.ends[0].received, b"onetwothree");
    assert_eq!(server.ends[0].ended, Some(Progress::End));
}

#[test]
fn a_client_that_is_still_writing_reads_why_it_is_refused() {
    let (mut server, mut clients) = pair(&name("refused"));
    clients.ends[0].send(&bytes(1 << 20));
    settle(&mut server, &mut clients);
    let line = b"{\"ok\":false,\"error\":\"too many clients\"}\n";
    server.ends[0].send(line);
    server.ends[0].stream().shut_write();
    let ended = |served: &[End], _: &[End]| served[0].ended.is_some();
    until(&mut server, &mut clients, |served, _| served[0].read(64, 1), ended);
    server.ends[0].close();
    until(&mut server, &mut clients, |_, ends| serve(ends), |_, ends| ends[0].ended.is_some());
    assert_eq!(clients.ends[0].received, line);
    assert!(clients.ends[0].is_refused);
}

#[test]
fn twenty_clients_at_once_are_all_served() {
    let path = name("twenty");
    let (mut server, mut clients) = (Server::new(&path), Clients::new());
    let mut busy = 0;
    for _ in 0..TURNS_MAX {
        if clients.ends.len() == 20 {
            break;
        }
        match clients.open(&path) {
            Ok(()) => {
                let n = clients.ends.len() - 1;
                clients.ends[n].send(format!("{n}\n").as_bytes());
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(PIPE_BUSY), "{error}");
                busy += 1;
                server.poll(Duration::from_millis(1));
            }
        }
    }
    assert_eq!(clients.ends.len(), 20);
    assert!(busy > 0, "there are only four that wait");
    until(
        &mut server,
        &mut clients,
        |served, ends| {
            serve(served);
            for end in served {
                let line = std::mem::take(&mut end.received);
                end.send(&line);
            }
            serve(ends);
        },
        |_, ends| ends.iter().all(|end| end.received.ends_with(b"\n")),
    );
    for (n, end) in clients.ends.iter().enumerate() {
        assert_eq!(end.received, format!("{n}\n").as_bytes());
    }
}

#[test]
fn a_pipe_is_busy_until_a_turn_of_its_server() {
    let path = name("busy");
    let (mut server, mut clients) = (Server::new(&path), Clients::new());
    for _ in 0..4 {
        clients.open(&path).unwrap();
    }
    assert_eq!(clients.open(&path).unwrap_err().raw_os_error(), Some(PIPE_BUSY));
    until(&mut server, &mut clients, |_, _| {}, |served, _| served.len() == 4);
    clients.open(&path).unwrap();
    until(&mut server, &mut clients, |_, _| {}, |served, _| served.len() == 5);
}

#[test]
fn bytes_read_in_small_pieces_are_all_read() {
    let (mut server, mut clients) = pair(&name("pieces"));
    let sent = bytes(100_000);
    clients.ends[0].send(&sent);
    let turn = |served: &mut [End], ends: &mut [End]| {
        served[0].read(7, 40);
        ends[0].write();
    };
    until(&mut server, &mut clients, turn, |served, _| served[0].received.len() == sent.len());
    assert!(server.ends[0].received == sent);
    assert_eq!(server.ends[0].ended, None);
}

#[test]
fn the_event_for_being_watched_is_not_the_end_of_a_write() {
    let (server, clients) = pair(&name("announced"));
    drop(clients);
    let mut stream =
        ReadyStream::new(sys::new_instance(&name("announced-2"), true, &OwnerOnly::pipe().unwrap()).unwrap());
    let handle = OpenOptions::new().read(true).write(true).open(name("announced-2")).unwrap();
    watch(server.poll.registry(), &mut stream, Token(9)).unwrap();
    let writable = Readiness { is_readable: false, is_writable: true };
    assert_eq!(stream.write(b"last"), Progress::Moved(4));
    stream.shut_write();
    stream.note(writable);
    assert!(!stream.is_readable(), "it says nothing of the write");
    stream.note(writable);
    assert!(stream.is_readable());
    assert_eq!(stream.read(&mut [0; 8]), Progress::End);
    assert!(!stream.is_readable());
    drop(handle);
}

/// A waker's source in a queue of its own.
fn waker() -> (Poll, Events, WakeSource, WakeHandle) {
    let (mut source, handle) = wake_pair().unwrap();
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
    watch_input(poll.registry(), &mut source, Token(1)).unwrap();
    // The event for being watched.
    poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    source.drain();
    (poll, events, source, handle)
}

#[test]
fn waking_that_no_loop_waits_for_does_not_block() {
    let (mut poll, mut events, mut source, handle) = waker();
    for _ in 0..10_000 {
        handle.wake().unwrap();
    }
    poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
    assert!(!events.is_empty());
    source.drain();
    poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
    assert!(events.is_empty(), "one event is enough");
    drop(source);
    poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(handle.wake().is_err(), "no loop is left");
}

#[test]
fn no_wake_up_of_other_threads_is_lost() {
    const EACH: usize = 5_000;
    let (mut poll, mut events, mut source, handle) = waker();
    let asked = AtomicUsize::new(0);
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        // One asks as fast as it can, the other only after it was answered: then each of its calls must wake.
        scope.spawn(|| {
            for _ in 0..EACH {
                asked.fetch_add(1, Ordering::Relaxed);
                handle.wake().unwrap();
            }
            for _ in 0..EACH {
                let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
                handle.wake().unwrap();
                while seen.load(Ordering::Relaxed) < number {
                    thread::yield_now();
                }
            }
        });
        while seen.load(Ordering::Relaxed) < 2 * EACH {
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            if events.is_empty() {
                let answered = seen.swap(usize::MAX, Ordering::Relaxed);
                panic!("{answered} of {} were answered", 2 * EACH);
            }
            source.drain();
            seen.store(asked.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    });
}

/// No process is left to ask who it was: the access list of the pipe has let it in.
#[test]
fn a_client_whose_process_has_ended_is_our_user_without_a_pid() {
    let path = name("ended");
    let mut instance = sys::new_instance(&path, true, &OwnerOnly::pipe().unwrap()).unwrap();
    let mut poll = Poll::new().unwrap();
    wait_for_client(&mut instance, poll.registry(), LISTENER).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["os::transport::windows::tests::ended_entry", "--exact"])
        .env("UDSMSG_ENDED", &path)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let mut events = Events::with_capacity(8);
    for _ in 0..TURNS_MAX {
        poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
        let peer = sys::client_identity(&instance).unwrap();
        assert!(sys::Owner::current().trusts(peer), "{peer}");
        if peer.pid().is_none() {
            let mut received = [0; 16];
            let n = instance.read(&mut received).unwrap();
            return assert_eq!(&received[..n], b"last words");
        }
    }
    panic!("the system remembers the process for ever");
}

/// The child: a client that writes, and ends before it is accepted.
#[test]
fn ended_entry() {
    let Some(path) = std::env::var_os("UDSMSG_ENDED") else { return };
    OpenOptions::new().read(true).write(true).open(path).unwrap().write_all(b"last words").unwrap();
}
