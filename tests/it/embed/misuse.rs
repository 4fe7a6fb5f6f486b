//! Mistakes of a host, and their results.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use udsmsg::{ErrorKind, Server};

use crate::util::real::{Home, RawPeer};
use crate::util::{matches, ok, ping, text, watchdog};

const SOON: Option<Duration> = Some(Duration::from_millis(50));
const FIRST: usize = 100;

/// A host with a `Poll` and only a server in it.
struct Host {
    home: Home,
    poll: Poll,
    server: Server,
}

impl Host {
    fn new() -> Self {
        let home = Home::new();
        let poll = Poll::new().unwrap();
        let server = Self::start(&home, &poll);
        Self { home, poll, server }
    }

    fn start(home: &Home, poll: &Poll) -> Server {
        let mut limits = udsmsg::Limits::default();
        limits.clients_max = 1;
        limits.turn_accepts_max = 1;
        let builder = Server::builder().environment(home.environment()).limits(limits);
        builder.start_in(poll.registry(), FIRST).unwrap()
    }

    fn connect(&self) -> RawPeer {
        let path = PathBuf::from(self.server.address().path());
        RawPeer::connect(&path, &self.home.token_of(&self.server))
    }

    /// The events that the kernel has now.
    fn events(&mut self) -> Events {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, SOON).unwrap();
        events
    }

    fn hand_over(&mut self, events: &Events) {
        for event in events {
            assert!(self.server.on_event(event), "{event:?}");
        }
    }

    /// Hands over events correctly until nothing happens any more.
    fn run(&mut self) {
        loop {
            let events = self.events();
            self.hand_over(&events);
            let turn = self.server.turn(None).unwrap();
            if events.is_empty() && !turn.more {
                break;
            }
        }
    }
}

/// A source of the host's, which is readable as soon as what is beside it is dropped.
fn source() -> (mio::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nonblocking(true).unwrap();
    (mio::net::TcpStream::from_std(ours), listener.accept().unwrap().0)
}

/// Tokens are told apart, at both ends of the range.
#[test]
fn events_of_other_sources_are_not_taken() {
    let _watchdog = watchdog::watch("events_of_other_sources_are_not_taken");
    let mut host = Host::new();
    // A pipe says that it is watched.
    host.run();
    let tokens = host.server.tokens();
    assert_eq!(tokens.start, FIRST);
    for foreign in [0, tokens.start - 1, tokens.end, tokens.end + 1, usize::MAX] {
        let (mut ours, theirs) = source();
        host.poll.registry().register(&mut ours, Token(foreign), Interest::READABLE).unwrap();
        drop(theirs);
        let events = host.events();
        assert_eq!(events.iter().count(), 1);
        for event in &events {
            assert!(!host.server.on_event(event), "{foreign} is not in {tokens:?}");
        }
        let turn = host.server.turn(None).unwrap();
        assert_eq!((turn.enqueued, turn.more), (0, false));
    }
    // Any token in its range is taken, also one without a connection.
    for own in tokens {
        let (mut ours, theirs) = source();
        host.poll.registry().register(&mut ours, Token(own), Interest::READABLE).unwrap();
        drop(theirs);
        let mut events = Events::with_capacity(8);
        host.poll.poll(&mut events, SOON).unwrap();
        host.hand_over(&events);
    }
    let _ = host.server.turn(None).unwrap();
    let mut peer = host.connect();
    peer.send(&text("a"));
    host.run();
    assert!(matches(&ok(1), &peer.line().unwrap()));
}

/// Old events that name a slot in use again do not disturb its new connection.
#[test]
fn stale_events_do_nothing() {
    let _watchdog = watchdog::watch("stale_events_do_nothing");
    let mut host = Host::new();
    let mut old = host.connect();
    old.send(&text("a"));
    host.run();
    drop(old);
    // It has ended: readable, closed, and at its token. A process that another test starts may hold a copy
    // for a moment.
    let stale = loop {
        let events = host.events();
        // A pipe does not tell its end before it is read.
        if events.iter().any(|event| event.is_read_closed() || (cfg!(windows) && event.is_readable())) {
            break events;
        }
    };
    host.hand_over(&stale);
    let _ = host.server.turn(None).unwrap();
    for round in 2..20 {
        let mut new = host.connect();
        new.send(&ping());
        host.run();
        assert!(new.line().unwrap().contains("pong"));
        host.hand_over(&stale);
        host.run();
        new.send(&text("b"));
        host.hand_over(&stale);
        host.run();
        assert!(matches(&ok(round), &new.line().unwrap()), "the new client is served as usual");
        drop(new);
        while host.server.stats().clients > 0 {
            host.run();
        }
    }
}

/// The server is dropped in the middle of a batch of events, and another one takes its place and its tokens.
#[test]
fn events_of_a_dropped_server_do_not_reach_the_next() {
    let _watchdog = watchdog::watch("events_of_a_dropped_server_do_not_reach_the_next");
    let mut host = Host::new();
    let waker = host.server.waker();
    let mut old = host.connect();
    old.send(&text("a"));
    host.run();
    old.send(&text("b"));
    waker.wake().unwrap();
    let stale = host.events();
    assert_eq!(stale.iter().count(), 2);
    host.server = Host::start(&host.home, &host.poll);
    // A process that another test starts may hold copies of all descriptors for a moment.
    while waker.wake().is_ok() || old.stream.write(b"x").is_ok() {
        // A pipe is closed when its loop is asked the next time.
        #[cfg(windows)]
        assert!(host.events().is_empty());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(
        waker.wake().unwrap_err().kind(),
        ErrorKind::Io,
        "its server is gone, and so is the connection"
    );
    host.hand_over(&stale);
    host.run();
    assert!(host.events().is_empty(), "nothing of the old one is left in the loop");
    let mut new = host.connect();
    new.send(&text("a"));
    host.run();
    assert!(matches(&ok(1), &new.line().unwrap()));
}

/// A turn after each event instead of after all of them: slower, but correct.
#[test]
fn turn_after_each_event_works() {
    let _watchdog = watchdog::watch("turn_after_each_event_works");
    let mut host = Host::new();
    for round in 1..10 {
        let mut peer = host.connect();
        peer.send(&text("a"));
        // A pipe has no half-close.
        #[cfg(unix)]
        peer.half_close();
        for _ in 0..10 {
            let events = host.events();
            for event in &events {
                assert!(host.server.on_event(event));
                let _ = host.server.turn(None).unwrap();
            }
            let _ = host.server.turn(None).unwrap();
        }
        assert!(matches(&ok(round), &peer.line().unwrap()));
        #[cfg(unix)]
        assert_eq!(peer.line(), None);
    }
}

/// In a lent loop a turn never waits, with any timeout.
#[test]
fn a_turn_in_a_lent_loop_does_not_wait() {
    let _watchdog = watchdog::watch("a_turn_in_a_lent_loop_does_not_wait");
    let mut host = Host::new();
    for timeout in [None, Some(Duration::from_secs(1_000))] {
        let turn = host.server.turn(timeout).unwrap();
        assert_eq!((turn.enqueued, turn.more), (0, false));
    }
    assert_eq!(host.server.process().unwrap(), udsmsg::Turn::default());
    // Nor after a stop, for which it waited by itself, because there was something to wait for.
    let mut peer = host.connect();
    peer.send(&ping());
    host.run();
    assert!(peer.line().unwrap().contains("pong"));
    let absent = host.home.start(|_| ());
    let message = udsmsg::Outgoing::new("text");
    host.server.send(absent.address(), &message, Duration::from_secs(1_000)).unwrap();
    host.server.shutdown(Duration::from_millis(50)).unwrap();
    assert_eq!(host.server.outstanding(), 1);
    let _ = host.server.turn(None).unwrap();
    // What is left is in the host's loop again.
    drop(absent);
    while host.server.outstanding() > 0 {
        let events = host.events();
        host.hand_over(&events);
        let _ = host.server.turn(None).unwrap();
    }
}

/// The descriptor of a lent loop belongs to the host: the server does not offer it for watching.
#[test]
#[cfg(unix)]
fn event_queue_of_a_lent_loop_is_not_given_out() {
    let host = Host::new();
    assert!(host.server.event_queue().is_none());
    assert!(host.home.start(|_| ()).event_queue().is_some());
}

#[test]
#[cfg(unix)]
fn a_stream_that_is_adopted_too_late_is_refused() {
    let _watchdog = watchdog::watch("a_stream_that_is_adopted_too_late_is_refused");
    let home = Home::new();
    let mut server = home.start(|_| ());
    server.shutdown(Duration::from_millis(100)).unwrap();
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(server.adopt_stream(ours).unwrap_err().kind(), ErrorKind::ShutDown);
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let home = Home::new();
    let poll = Poll::new().unwrap();
    let builder = Server::builder().environment(home.environment());
    let refused = builder.start_in(poll.registry(), usize::MAX - 5).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidLimit);
}

/// A loop around the server's descriptor, and what it does wrong.
#[cfg(target_os = "linux")]
mod outer {

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

    use super::*;

    const MESSAGES: usize = 10;

    #[derive(Clone, Copy, Debug)]
    struct Outer {
        is_edge_triggered: bool,
        /// It waits at most for `next_timeout`.
        heeds_next_timeout: bool,
        /// It returns to its loop once without a turn after the first event.
        puts_off: bool,
        /// The timer is inside.
        has_timer: bool,
    }

    /// How many of ten messages arrive before the loop waits for ever; all are sent at once, and the server
    /// takes one in a turn.
    fn arrived(outer: Outer) -> usize {
        let home = Home::new();
        let mut limits = udsmsg::Limits::default();
        limits.turn_frames_max = 1;
        let mut builder = Server::builder().environment(home.environment()).limits(limits);
        if outer.has_timer {
            builder = builder.timer();
        }
        let mut server = builder.start().unwrap();
        let mut peer = RawPeer::connect(server.address().path().as_ref(), &home.token_of(&server));
        peer.send(&ping());
        for _ in 0..3 {
            let _ = server.turn(SOON).unwrap();
        }
        assert!(peer.line().unwrap().contains("pong"));

        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLET, outer.is_edge_triggered);
        epoll.add(server.event_queue().unwrap(), EpollEvent::new(flags, 0)).unwrap();
        peer.send(&text("a").repeat(MESSAGES));
        let mut puts_off = outer.puts_off;
        let mut arrived = 0;
        loop {
            let due = server.next_timeout().filter(|_| outer.heeds_next_timeout);
            let timeout = due.map_or(200, |due| due.as_millis().min(200) as u8);
            let mut events = [EpollEvent::empty()];
            let is_ready = epoll.wait(&mut events, EpollTimeout::from(timeout)).unwrap() > 0;
            if !is_ready && timeout > 0 {
                return arrived;
            }
            if !std::mem::take(&mut puts_off) {
                arrived += server.turn(Some(Duration::ZERO)).unwrap().enqueued;
            }
        }
    }

    #[test]
    fn edge_triggered_loop_loses_what_it_does_not_take_at_once() {
        let _watchdog = watchdog::watch("edge_triggered_loop_loses_what_it_does_not_take_at_once");
        let cases = [
            // is_edge_triggered, heeds_next_timeout, puts_off, has_timer: how many arrive
            ((false, true, false, false), MESSAGES),
            ((false, true, true, false), MESSAGES),
            ((false, false, false, true), MESSAGES),
            ((false, false, true, true), MESSAGES),
            // The kernel reports nothing more: only the server knows that something is left. A client that is
            // alone gets four budgets in a turn.
            ((false, false, false, false), 4),
            ((true, false, false, false), 4),
            // Edges are enough for a host that makes a turn for each of them and follows `next_timeout`.
            ((true, true, false, false), MESSAGES),
            ((true, false, false, true), MESSAGES),
            // A postponed edge does not come again, and the server has not handled its event.
            ((true, true, true, false), 0),
            ((true, false, true, true), 0),
        ];
        for ((is_edge_triggered, heeds_next_timeout, puts_off, has_timer), expected) in cases {
            let outer = Outer { is_edge_triggered, heeds_next_timeout, puts_off, has_timer };
            assert_eq!(arrived(outer), expected, "{outer:?}");
        }
    }
}

/// An event of the listener that was fetched before a stop and handed over after it kept the server asking
/// for turns.
#[test]
fn an_event_of_a_listener_that_is_gone_does_nothing() {
    let _watchdog = watchdog::watch("an_event_of_a_listener_that_is_gone_does_nothing");
    let mut host = Host::new();
    let _waiting = host.connect();
    let events = host.events();
    assert!(!events.is_empty());
    host.server.shutdown(Duration::ZERO).unwrap();
    host.hand_over(&events);
    for _ in 0..3 {
        assert!(!host.server.turn(Some(Duration::ZERO)).unwrap().more);
    }
}
