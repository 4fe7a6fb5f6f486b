//! The server: one thread, one event queue, one [`Endpoint`]. A translation, with no rule of the protocol in it.
//!
//! The kernel is edge-triggered, this house is level-triggered: readiness is remembered per stream, each ready stream
//! is visited once per turn, and a turn that leaves something undone says so. What its owner calls is here; what a turn
//! does is in `reactor`.

mod builder;
mod event_loop;
mod reactor;
mod sending;

use std::collections::VecDeque;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The event loop that a server can live in: [`ServerBuilder::start_in`] and [`Server::on_event`] speak its types.
pub use mio;
use mio::Interest;
use mio::event::Event;

pub use self::builder::ServerBuilder;
use self::event_loop::EventLoop;
use self::sending::Sending;
use crate::os::clock::Clock;
use crate::os::files::capability::CapabilityDir;
use crate::os::names::address::Address;
use crate::os::names::location::Location;
use crate::os::names::namespace::Namespace;
use crate::os::random::Random;
use crate::os::socket::claim::Claim;
use crate::os::socket::connect::check_claimed;
use crate::os::socket::stream::ReadyStream;
#[cfg(unix)]
use crate::os::sys;
use crate::os::transport::{Listener, WakeHandle, readiness};
use crate::proto::conversation::QueryId;
use crate::proto::endpoint::Endpoint;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::inbox::{Batch, InboxEntry};
use crate::proto::message::Outgoing;
use crate::proto::outbox::{SendId, SendOutcome};
use crate::proto::slots::ConnKey;
use crate::proto::stats::{ConnectionStats, Stats};
use crate::proto::time::Mono;

/// Our tokens, counted from the first one: the listener, the waker, the timer, then a stream for each slot, then one for
/// each link.
const LISTENER: usize = 0;
const WAKER: usize = 1;
const TIMER: usize = 2;
const STREAMS: usize = 3;

/// How long the listener rests after the system refused to accept, be it because the descriptor table is full: no event
/// tells when it no longer does.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Turn {
    /// Messages that came into the inbox.
    pub enqueued: usize,
    /// Something is left to do: call again without waiting.
    pub more: bool,
    /// The socket or the capability file has vanished: clients cannot find this server any more. [`Server::rebind`] makes
    /// what is missing again. Said by each check that finds it so; see [`ServerBuilder::name_check`].
    pub name_lost: bool,
}

/// What became of something that a server has sent; taken with [`Server::next_event`].
#[derive(Debug)]
#[must_use]
pub enum ServerEvent {
    /// A message has its outcome.
    Sent {
        /// The message.
        id: SendId,
        /// The question that it asked, if it was one. Unless it was [not sent](SendOutcome::NotSent) or
        /// [rejected](SendOutcome::Rejected), it may still be answered.
        query: Option<QueryId>,
        /// What became of it.
        outcome: SendOutcome,
    },
    /// Nobody has answered a question in time.
    Unanswered {
        /// The question.
        query: QueryId,
    },
}

/// Wakes the thread that turns a server, from any other: the only thing of a server that crosses threads.
#[derive(Clone, Debug)]
pub struct Waker {
    handle: Arc<WakeHandle>,
    is_stop_asked: Arc<AtomicBool>,
}

impl Waker {
    /// Makes the current or the next wait return at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the operating system refuses, or the server is gone.
    pub fn wake(&self) -> Result<(), Error> {
        self.handle.wake().map_err(|e| Error::new(ErrorKind::Io, "cannot wake the server").with_source(e))
    }

    /// Asks the server to stop: [`Server::run`] returns, and [`Server::is_stop_asked`] says so.
    ///
    /// # Errors
    ///
    /// As [`wake`](Self::wake); what was asked stays asked.
    pub fn ask_to_stop(&self) -> Result<(), Error> {
        self.is_stop_asked.store(true, Ordering::Release);
        self.wake()
    }
}

/// The stream of a client.
struct Client {
    key: ConnKey,
    stream: ReadyStream,
    /// It stands in the ready list.
    is_queued: bool,
}

/// Whether the listener is asked for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// None is waiting; an event will tell.
    Idle,
    /// One may be waiting.
    Ready,
    /// The system refuses for now.
    Paused { until: Mono },
    /// No connection will come any more.
    Broken,
}

/// A private inbox on a Unix domain socket, drained by the one thread that owns it.
///
/// ```no_run
/// # fn main() -> Result<(), udsmsg::Error> {
/// let mut server = udsmsg::Server::builder().start()?;
/// println!("listening at {}", server.address());
/// let mut batch = udsmsg::Batch::new();
/// loop {
///     server.turn(None)?;
///     server.drain_into(&mut batch);
///     for entry in &batch {
///         println!("{}: {}", entry.id(), entry.message().json());
///     }
/// }
/// # }
/// ```
///
/// Dropping it is an abrupt stop: names are removed, connections are cut. [`shutdown`](Self::shutdown) is the polite one.
/// If another start or stop holds the lock on the directory of the socket, a drop waits a tenth of a second for it, and
/// then says in a warning what it leaves behind.
pub struct Server {
    endpoint: Endpoint,
    event_loop: EventLoop,
    waker: Waker,
    clock: Clock,
    /// Before the listeners: fields are dropped in this order, and names are removed while the listener is open.
    claim: Claim,
    listener: Option<Listener>,
    /// The listener of a server that has been shut down, open until its names are removed.
    unreleased: Option<Listener>,
    namespace: Namespace,
    capabilities: CapabilityDir,
    random: Random,
    name_check: Duration,
    name_check_at: Mono,
    is_name_lost: bool,
    clients: Vec<Option<Client>>,
    /// Streams that may have something to read.
    ready: VecDeque<ConnKey>,
    /// Streams that took nothing and do again.
    unblocked: VecDeque<ConnKey>,
    accepting: Accepting,
    /// That accepting is paused was reported, and it has not worked since.
    has_told_pause: bool,
    turn_accepts_max: usize,
    on_enqueue: Option<Box<dyn FnMut() + Send>>,
    sending: Sending,
}

impl Server {
    /// A builder with every default: own path in the default namespace, the protocol's limits.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Where this server listens.
    pub fn address(&self) -> &Address {
        self.claim.address()
    }

    /// How that came to be: [`Location::skipped`] says which default locations could not be used, and why.
    pub fn location(&self) -> &Location {
        self.claim.location()
    }

    /// The variable that tells a child process where this server listens, for `Command::envs`. It holds no token.
    pub fn child_env(&self) -> [(String, String); 1] {
        [(self.namespace.socket_variable(), self.address().path().to_owned())]
    }

    /// A handle with which other threads can interrupt [`turn`](Self::turn).
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Has `hook` called at the end of each turn that brought messages, at most once per turn, with nothing borrowed.
    pub fn on_enqueue(&mut self, hook: impl FnMut() + Send + 'static) {
        self.on_enqueue = Some(Box::new(hook));
    }

    /// Waits until something happens, a deadline is reached, or `timeout` is over (`None`: as long as it takes), and
    /// does one bounded turn of work: one read and one budget of lines for each ready client, one write, a bounded
    /// number of accepts, and the deadlines that are due. A signal ends the waiting early.
    ///
    /// A server that lives in its host's loop ([`ServerBuilder::start_in`]) never waits: the host does, and hands over
    /// what it finds with [`on_event`](Self::on_event).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the operating system refuses to wait or the listener broke; what one client does is never
    /// an error here.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        let timeout = self.wait_at_most(timeout);
        let clock = self.clock;
        let begun = clock.now().mono;
        self.event_loop.wait(timeout, || clock.now().mono.since(begun))?;
        if let Some(events) = self.event_loop.take_events() {
            for event in &events {
                self.on_event(event);
            }
            self.event_loop.return_events(events);
        }
        let turn = self.work();
        self.arm();
        turn
    }

    /// Takes an event of the host's loop. `false`: its token is none of [`tokens`](Self::tokens), and it is somebody
    /// else's. Only remembers it; [`turn`](Self::turn) does the work.
    pub fn on_event(&mut self, event: &Event) -> bool {
        let streams = STREAMS..STREAMS + self.clients.len();
        match self.event_loop.number(event.token()) {
            Some(LISTENER) => self.note_listener_event(event),
            Some(WAKER) => self.event_loop.rest(),
            Some(TIMER) => {}
            Some(number) if streams.contains(&number) => self.note_event(number - STREAMS, event),
            Some(number) if number < streams.end + self.sending.streams_max() => {
                self.sending.note(number - streams.end, readiness(event));
            }
            _ => return false,
        }
        true
    }

    fn note_listener_event(&mut self, event: &Event) {
        let Some(listener) = &mut self.listener else { return };
        listener.note_event(event);
        if self.accepting == Accepting::Idle {
            self.accepting = Accepting::Ready;
        }
    }

    /// The tokens that this server uses in the loop it lives in.
    pub fn tokens(&self) -> Range<usize> {
        let first = self.event_loop.token(0).0;
        first..first + STREAMS + self.clients.len() + self.sending.streams_max()
    }

    /// Turns until `each`, called after every turn, breaks, or a [`Waker`] asked to stop.
    ///
    /// # Errors
    ///
    /// As [`turn`](Self::turn).
    pub fn run(&mut self, mut each: impl FnMut(&mut Self) -> ControlFlow<()>) -> Result<(), Error> {
        while !self.is_stop_asked() {
            let _ = self.turn(None)?;
            if each(self).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a [`Waker`] has asked this server to stop.
    pub fn is_stop_asked(&self) -> bool {
        self.waker.is_stop_asked.load(Ordering::Acquire)
    }

    /// Takes over a connection that somebody else has made, as one end of a socket pair. Its peer is what the kernel says
    /// of it, and has to show the token like any other.
    ///
    /// The connection is made non-blocking and close-on-exec.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ForeignPeer`] if the other end belongs to another user, [`ErrorKind::Busy`] if `clients_max` are
    /// connected (then the peer reads `too many clients`) or there is no slot for it in this turn,
    /// [`ErrorKind::ShutDown`], [`ErrorKind::Io`].
    #[cfg(unix)]
    pub fn adopt_stream(&mut self, stream: std::os::unix::net::UnixStream) -> Result<(), Error> {
        let refused = |what| move |e| Error::new(ErrorKind::Io, what).with_source(e);
        let peer = sys::peer_identity(&stream).map_err(refused("the system does not say who the peer is"))?;
        let now = self.clock.now();
        if self.listener.is_none() {
            return Err(Error::new(ErrorKind::ShutDown, "the server has been shut down"));
        }
        if !self.endpoint.can_accept() {
            return Err(Error::new(ErrorKind::Busy, "there is no slot for another connection in this turn"));
        }
        sys::take_over(&stream).map_err(refused("the stream cannot be taken over"))?;
        let key = self.endpoint.accepted(peer, now).ok_or_else(|| {
            Error::new(ErrorKind::ForeignPeer, format!("the peer is user id {}, who is not let in", peer.uid))
        })?;
        let is_admitted = self.endpoint.is_open(key);
        let taken = self.take_stream(key, ReadyStream::new(stream));
        self.take_steps(now);
        self.arm();
        taken?;
        if is_admitted {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, "as many clients are connected as may be, and the peer is told so"))
    }

    /// How long a host that waits in a loop of its own may wait before it calls [`turn`](Self::turn), if nothing
    /// arrives: zero if something is left to do, `None` if there is no deadline.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        if self.has_more() {
            return Some(Duration::ZERO);
        }
        let deadline = self.next_deadline()?;
        Some(deadline.since(self.clock.now().mono))
    }

    /// Whether clients can find this server: it has not been shut down, its listener has not broken, and the last check
    /// found its socket and its capability file in place.
    pub fn is_reachable(&self) -> bool {
        self.listener.is_some() && self.accepting != Accepting::Broken && !self.is_name_lost
    }

    /// Makes again what has vanished of the socket and the capability file, or takes the name again after the listener
    /// broke, with the same token. Connections go on. Does nothing if both are there and the listener works.
    ///
    /// # Errors
    ///
    /// What [`Claim::bind`] refuses, [`ErrorKind::AlreadyRunning`] if another server has taken the path or published for it
    /// meanwhile; the server goes on with the connections it has, and this can be tried again. [`ErrorKind::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub fn rebind(&mut self) -> Result<(), Error> {
        let Some(old) = &self.listener else {
            return Err(Error::new(
                ErrorKind::ShutDown,
                "the server has been shut down and takes no name again",
            ));
        };
        let has_listener = self.claim.still_there() && self.accepting != Accepting::Broken;
        let is_published = self.claim.still_published();
        self.is_name_lost = !has_listener || !is_published;
        if !has_listener {
            let (listener, mut claim) = self.claim.begin_again(old, &self.capabilities, &mut self.random)?;
            let mut listener = Listener::new(listener);
            // The old listener leaves the queue by being closed.
            let token = self.event_loop.token(LISTENER);
            if let Err(e) = self.event_loop.registry().register(&mut listener, token, Interest::READABLE) {
                // While the listener is open.
                drop(claim);
                return Err(Error::new(ErrorKind::Io, "cannot watch the new listener").with_source(e));
            }
            claim.settle();
            (self.claim, self.listener) = (claim, Some(listener));
            self.accepting = Accepting::Idle;
            tracing::info!(address = %self.address(), "listening again");
        } else if !is_published {
            self.claim.publish_again(&self.capabilities, &mut self.random)?;
            tracing::info!(address = %self.address(), "published again");
        }
        self.is_name_lost = false;
        Ok(())
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.endpoint.stats()
    }

    /// Every connection as it stands, in no order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionStats> {
        self.endpoint.connections()
    }

    /// Messages waiting for the owner.
    pub fn inbox_len(&self) -> usize {
        self.endpoint.inbox_len()
    }

    /// Swaps the waiting messages into `batch`, dropping what it held, and returns how many there are. O(1).
    pub fn drain_into(&mut self, batch: &mut Batch) -> usize {
        self.endpoint.drain_into(batch)
    }

    /// The waiting messages in a batch of their own. Reusing one with [`drain_into`](Self::drain_into) saves memory.
    pub fn drain(&mut self) -> Batch {
        self.endpoint.drain()
    }

    /// Sets a message to another server on its way, to be delivered within `timeout`, and does not wait: turns carry it,
    /// and [`next_event`](Self::next_event) tells what became of it. Its `from` is our own path unless it has one. Messages
    /// to one receiver go in order, over one connection, up to `in_flight_max` at a time.
    ///
    /// The target is connected to as it is. One that a peer chose belongs into [`reply`](Self::reply): its path can lead
    /// to a file system that never answers.
    ///
    /// # Errors
    ///
    /// Nothing was taken: what [`Outbox::send`](crate::proto::outbox::Outbox::send) refuses, [`ErrorKind::PathTooLong`], and
    /// [`ErrorKind::OutboxFull`] while `outbox_entries_max` outcomes wait for [`next_event`](Self::next_event).
    pub fn send(&mut self, target: &Address, message: &Outgoing, timeout: Duration) -> Result<SendId, Error> {
        let sent = self.sending.send(target, message, self.claim.address(), timeout, self.clock.now());
        self.arm();
        sent
    }

    /// Sends an answer to a message: to the path that it claims to be `from`, after a look at what stands there, with
    /// `meta.inReplyTo` and `meta.hops` as [`Outgoing::in_reply_to`] puts them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAddress`] if the message has no `from` or one that is no absolute path;
    /// [`ErrorKind::NoSuchPeer`] if it has no capability file of our user or no socket stands there (a link is none);
    /// [`ErrorKind::NotLocal`] if it lies on a file system that may not answer; [`ErrorKind::ForeignPeer`] if it belongs
    /// to another user; [`ErrorKind::TooManyHops`]; and what [`send`](Self::send) refuses.
    pub fn reply(
        &mut self,
        entry: &InboxEntry<'_>,
        reply: Outgoing,
        timeout: Duration,
    ) -> Result<SendId, Error> {
        let received = entry.message();
        let from = received.from().ok_or_else(|| {
            Error::new(ErrorKind::InvalidAddress, format!("{} does not say where it came from", entry.id()))
        })?;
        let target = Address::parse(from.as_ref())?;
        check_claimed(&self.capabilities, &target, self.sending.own_directories())?;
        let reply = reply.in_reply_to(&received)?;
        let sent = self.sending.reply(target, &reply, self.claim.address(), timeout, self.clock.now());
        self.arm();
        sent
    }

    /// Sends a question: a message with a `meta.queryId`. [`answered`](Self::answered) recognises the message that
    /// answers it; if none does within `timeout`, [`ServerEvent::Unanswered`] says so.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and what [`Queries::ask`](crate::proto::conversation::Queries::ask) refuses.
    pub fn query(
        &mut self,
        target: &Address,
        message: Outgoing,
        timeout: Duration,
    ) -> Result<QueryId, Error> {
        let asked = self.sending.query(target, message, self.claim.address(), timeout, self.clock.now());
        self.arm();
        asked
    }

    /// The question of ours that `entry` answers. Each is answered once; late answers and second ones answer none.
    pub fn answered(&mut self, entry: &InboxEntry<'_>) -> Option<QueryId> {
        self.sending.answered(entry)
    }

    /// What became of the next message or question; ask until there is none, after each turn.
    pub fn next_event(&mut self) -> Option<ServerEvent> {
        self.sending.next_event()
    }

    /// Messages on their way that have no outcome yet.
    pub fn outstanding(&self) -> usize {
        self.sending.outstanding()
    }

    /// Stops politely: the names are removed, nobody is let in and nothing more is processed; every client is given the
    /// answers that it is owed (within `closing_timeout`), and what is on its way to others gets its outcome, all of it
    /// for at most `grace`. What is in the inbox can still be drained.
    ///
    /// Another start or stop can hold the lock on the directory of the socket. The wait for it is part of `grace`; a grace
    /// of zero is one try.
    ///
    /// # Errors
    ///
    /// The first thing that could not be removed or flushed; the server is stopped all the same.
    /// [`ErrorKind::TimedOut`]: the lock was held all the time. The error and a warning say what is left. The listener is
    /// kept open until the names are removed: call this again to try once more; dropping the server is the last try.
    pub fn shutdown(&mut self, grace: Duration) -> Result<(), Error> {
        let begun = self.clock.now();
        let deadline = begun.mono.plus(grace);
        if let Some(listener) = self.listener.take() {
            self.unreleased = Some(listener);
        }
        self.accepting = Accepting::Idle;
        let released = self.release(Duration::ZERO);
        self.endpoint.shutdown(begun);
        self.take_steps(begun);
        let flushed = self.flush(deadline);
        self.clients.iter_mut().filter_map(Option::take).for_each(|client| client.stream.close());
        // The lock has had time to become free while clients took their answers; the rest of the time is for it alone.
        let released = released.or_else(|_| self.release(deadline.since(self.clock.now().mono)));
        if let Err(error) = &released {
            tracing::warn!(%error, "stopping left something behind");
        }
        released.and(flushed)
    }

    /// Removes what was made, and then closes the listener that was open until now.
    fn release(&mut self, wait: Duration) -> Result<(), Error> {
        if let Some(listener) = &self.unreleased {
            self.claim.release_within(listener, wait)?;
            self.unreleased = None;
        }
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", self.address())
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Server {
    /// The descriptor to watch in a loop of the host's own, level-triggered; see [`Turn::more`].
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.event_loop.registry().as_fd()
    }
}

#[cfg(unix)]
impl std::os::fd::AsRawFd for Server {
    /// The same descriptor, for loops that ask for it bare.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsFd::as_fd(self).as_raw_fd()
    }
}
