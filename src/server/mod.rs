//! The server: one thread, one event queue, one `Endpoint`. A translation, with no rule of the protocol in
//! it.
//!
//! Events are edge-triggered, and the server is level-triggered: it remembers the readiness of each stream,
//! visits each ready stream once per turn, and says if a turn left something undone. What its owner
//! calls is here; what a turn does is in `turn`.

mod acceptor;
mod builder;
mod event_loop;
mod name;
mod reactor;
mod sending;
mod turn;

use std::fmt;
use std::ops::{ControlFlow, Range};
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The event loop that a server can live in: [`ServerBuilder::start_in`] and [`Server::on_event`] speak its
/// types.
pub use mio;
use mio::event::Event;

use self::acceptor::Acceptor;
pub use self::builder::ServerBuilder;
use self::event_loop::{EventLoop, LISTENER, STREAMS, TIMER, WAKER};
use self::name::Name;
use self::reactor::Reactor;
use self::sending::Sending;
pub use self::turn::Turn;
use crate::os::channel::connect::check_claimed;
use crate::os::channel::stream::MEMORY_RETRY;
#[cfg(unix)]
use crate::os::channel::stream::ReadyStream;
use crate::os::clock::Clock;
use crate::os::names::address::Address;
use crate::os::names::location::Location;
#[cfg(unix)]
use crate::os::sys;
use crate::os::transport::{WakeHandle, readiness};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::inbox::{Batch, InboxEntry};
use crate::proto::message::Outgoing;
use crate::proto::outbox::{QueryId, SendId, SendOutcome};
use crate::proto::stats::{ConnectionStats, Stats};

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
    /// A question was not answered in time.
    Unanswered {
        /// The question.
        query: QueryId,
    },
}

/// Wakes a server from any thread: the only part of a server that can be used outside its own thread.
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
    /// As [`wake`](Self::wake). The request is remembered all the same.
    pub fn ask_to_stop(&self) -> Result<(), Error> {
        self.is_stop_asked.store(true, Ordering::Release);
        self.wake()
    }
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
/// Dropping it is an abrupt stop: names are removed, connections are cut. [`shutdown`](Self::shutdown) lets
/// clients take their answers first. If another start or stop holds the lock on the directory of the socket,
/// a drop waits a tenth of a second for it, and then says in a warning what it leaves behind.
pub struct Server {
    reactor: Reactor,
    waker: Waker,
    clock: Clock,
    /// Before the listener: fields are dropped in this order, and names are removed while the listener is
    /// open.
    name: Name,
    acceptor: Acceptor,
    on_enqueue: Option<Box<dyn FnMut() + Send>>,
    sending: Sending,
    /// The last field: it is dropped after what it watches.
    event_loop: EventLoop,
}

impl Server {
    /// A builder with every default: own path in the default namespace, the protocol's limits.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Where this server listens.
    pub fn address(&self) -> &Address {
        self.name.address()
    }

    /// How the address was chosen: [`Location::skipped`] says which default locations could not be used, and
    /// why.
    pub fn location(&self) -> &Location {
        self.name.location()
    }

    /// The variable that tells a child process where this server listens, for `Command::envs`. It holds no
    /// token.
    pub fn child_env(&self) -> [(String, String); 1] {
        self.name.child_env()
    }

    /// A handle with which other threads can interrupt [`turn`](Self::turn).
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Calls `hook` at the end of each turn that put messages into the inbox, once per turn.
    pub fn on_enqueue(&mut self, hook: impl FnMut() + Send + 'static) {
        self.on_enqueue = Some(Box::new(hook));
    }

    /// Waits until something happens, a deadline is reached, or `timeout` is over (`None`: as long as it
    /// takes), and does one bounded turn of work. A signal ends the waiting early.
    ///
    /// A server that lives in its host's loop ([`ServerBuilder::start_in`]) never waits: the host does, and
    /// gives it turns with [`process`](Self::process).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the operating system refuses to wait, or if the listener broke in the turn
    /// before, which is reported once. A turn that fails has done nothing: what came into the inbox was
    /// reported by the turn that put it there. The next turn goes on. What one client does is never an error
    /// here.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        if let Some(error) = self.acceptor.take_failure() {
            self.arm();
            return Err(error);
        }
        let timeout = self.wait_at_most(timeout);
        self.take_events(timeout)?;
        let turn = self.work();
        self.arm();
        Ok(turn)
    }

    /// A [`turn`](Self::turn) that never waits, for a host that waits in a loop of its own or not at all. It
    /// takes the events that are there; in a lent loop those that were given to [`on_event`](Self::on_event).
    ///
    /// # Errors
    ///
    /// As [`turn`](Self::turn).
    pub fn process(&mut self) -> Result<Turn, Error> {
        self.turn(Some(Duration::ZERO))
    }

    /// Takes an event of the host's loop. `false`: its token is not in [`tokens`](Self::tokens), so it
    /// belongs to the host. The event is only remembered; [`process`](Self::process) does the work.
    pub fn on_event(&mut self, event: &Event) -> bool {
        let links = STREAMS + self.reactor.slots_max();
        match self.event_loop.number(event.token()) {
            Some(LISTENER) => self.acceptor.note(event),
            Some(WAKER) => self.event_loop.drain_waker(),
            Some(TIMER) => {}
            Some(number) if number < links => self.reactor.note(number - STREAMS, readiness(event)),
            Some(number) if number < links + self.sending.links.outbox.slots_max() => {
                self.sending.links.note(number - links, readiness(event));
            }
            _ => return false,
        }
        true
    }

    /// The descriptor to watch in a loop of the host's own, level-triggered; see [`Turn::more`]. `None` in a
    /// lent loop: there the host watches its own.
    #[cfg(unix)]
    pub fn event_queue(&self) -> Option<BorrowedFd<'_>> {
        self.event_loop.fd()
    }

    /// The tokens that this server uses in the loop it lives in.
    pub fn tokens(&self) -> Range<usize> {
        let first = self.event_loop.token(0).0;
        first..first + STREAMS + self.reactor.slots_max() + self.sending.links.outbox.slots_max()
    }

    /// Turns until `each`, called after every turn, breaks, or a [`Waker`] asked to stop. Not for a lent
    /// loop, where it would never wait.
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

    /// Takes over a connection that was made elsewhere, as one end of a socket pair. The kernel says who its
    /// peer is, which has to show the token like any other.
    ///
    /// The connection is made non-blocking and close-on-exec.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ForeignPeer`] if the other end belongs to another user, [`ErrorKind::Busy`] if
    /// `clients_max` are connected (then the peer reads `too many clients`) or there is no slot for it in
    /// this turn, [`ErrorKind::ShutDown`], [`ErrorKind::Io`].
    #[cfg(unix)]
    pub fn adopt_stream(&mut self, stream: std::os::unix::net::UnixStream) -> Result<(), Error> {
        let refused = |what| move |e| Error::new(ErrorKind::Io, what).with_source(e);
        let peer = sys::peer_identity(&stream).map_err(refused("the system does not say who the peer is"))?;
        let now = self.clock.now();
        if self.acceptor.listener().is_none() {
            return Err(Error::new(ErrorKind::ShutDown, "the server has been shut down"));
        }
        if !self.reactor.endpoint.can_accept() {
            return Err(Error::new(ErrorKind::Busy, "there is no slot for another connection in this turn"));
        }
        sys::take_over(&stream).map_err(refused("the stream cannot be taken over"))?;
        let accepted = self.reactor.accepted(ReadyStream::new(stream), peer, &self.event_loop, now);
        self.arm();
        let key = accepted?.ok_or_else(|| {
            Error::new(ErrorKind::ForeignPeer, format!("the peer is {peer}, who is not let in"))
        })?;
        if self.reactor.endpoint.is_open(key) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, "as many clients are connected as may be, and the peer is told so"))
    }

    /// How long a host that waits in a loop of its own may wait before it calls [`process`](Self::process),
    /// if nothing arrives: zero if something is left to do, `None` if there is no deadline.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        if self.has_more() {
            return Some(Duration::ZERO);
        }
        let name = self.acceptor.listener().map(|_| self.name.check_at);
        let (core, sending) = (self.reactor.endpoint.next_deadline(), self.sending.next_deadline());
        let due = [core, sending, self.acceptor.next_deadline(), name].into_iter().flatten().min();
        let due = due.map(|due| due.since(self.clock.mono()));
        let lacks_memory = self.reactor.lacks_memory() || self.sending.links.lacks_memory();
        [due, lacks_memory.then_some(MEMORY_RETRY)].into_iter().flatten().min()
    }

    /// Whether clients can find this server: it has not been shut down, its listener has not broken, and the
    /// last check found its socket and its capability file in place.
    pub fn is_reachable(&self) -> bool {
        self.acceptor.is_working() && self.name.is_in_place()
    }

    /// Makes the socket or the capability file again if it has vanished, or takes the name again after the
    /// listener broke, with the same token. Connections go on. Does nothing if both files are there and the
    /// listener works.
    ///
    /// # Errors
    ///
    /// What [`Claim::bind`](crate::os::socket::claim::Claim::bind) refuses, [`ErrorKind::AlreadyRunning`] if
    /// another server has taken the path or published for it meanwhile; the server goes on with the
    /// connections it has, and this can be tried again. [`ErrorKind::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub fn rebind(&mut self) -> Result<(), Error> {
        let Some(old) = self.acceptor.listener() else {
            return Err(Error::new(
                ErrorKind::ShutDown,
                "the server has been shut down and takes no name again",
            ));
        };
        let is_broken = !self.acceptor.is_working();
        if let Some(listener) = self.name.take_again(old, is_broken, &self.event_loop)? {
            self.acceptor.replace(listener);
        }
        Ok(())
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.reactor.endpoint.stats()
    }

    /// Every connection as it stands, in no order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionStats> {
        self.reactor.endpoint.connections()
    }

    /// Messages waiting for the owner.
    pub fn inbox_len(&self) -> usize {
        self.reactor.endpoint.inbox_len()
    }

    /// Swaps the waiting messages into `batch`, dropping what it held, and returns how many there are. O(1).
    pub fn drain_into(&mut self, batch: &mut Batch) -> usize {
        self.reactor.endpoint.drain_into(batch)
    }

    /// The waiting messages in a batch of their own. Reusing one with [`drain_into`](Self::drain_into) saves
    /// memory.
    pub fn drain(&mut self) -> Batch {
        self.reactor.endpoint.drain()
    }

    /// Sets a message to another server on its way, to be delivered within `timeout`, and does not wait:
    /// turns carry it, and [`next_event`](Self::next_event) tells what became of it. Its `from` is our own
    /// path unless it has one. Messages to one receiver go in order, over one connection, up to
    /// `in_flight_max` at a time.
    ///
    /// The target is connected to as it is. To a path that a peer chose use [`reply`](Self::reply): it can
    /// lead to a file system that never answers.
    ///
    /// # Errors
    ///
    /// Nothing was taken: what [`Outbox::send`](crate::proto::outbox::Outbox::send) refuses,
    /// [`ErrorKind::PathTooLong`], and [`ErrorKind::OutboxFull`] while `outbox_entries_max` outcomes wait for
    /// [`next_event`](Self::next_event).
    pub fn send(&mut self, target: &Address, message: &Outgoing, timeout: Duration) -> Result<SendId, Error> {
        let sent = self.sending.send(target, message, self.name.address(), timeout, self.clock.now());
        self.arm();
        sent
    }

    /// Sends an answer to a message: to the path that it claims to be `from`, after a look at what stands
    /// there, with `meta.inReplyTo` and `meta.hops` as [`Outgoing::in_reply_to`] puts them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidAddress`] if the message has no `from` or one that is no absolute path;
    /// [`ErrorKind::NoSuchPeer`] if it has no capability file of our user or no socket stands there (a link
    /// is none); [`ErrorKind::NotLocal`] if it lies on a file system that may not answer;
    /// [`ErrorKind::ForeignPeer`] if it belongs to another user; [`ErrorKind::TooManyHops`]; and what
    /// [`send`](Self::send) refuses.
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
        check_claimed(&self.name.capabilities, &target, &self.sending.own)?;
        let reply = reply.in_reply_to(&received)?;
        let sent = self.sending.reply(target, &reply, self.name.address(), timeout, self.clock.now());
        self.arm();
        sent
    }

    /// Sends a question: a message with a `meta.queryId`. [`take_answered`](Self::take_answered) recognises
    /// the message that answers it; if none does within `timeout`, [`ServerEvent::Unanswered`] says so.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and what [`Queries::ask`](crate::proto::outbox::Queries::ask) refuses.
    pub fn query(
        &mut self,
        target: &Address,
        message: Outgoing,
        timeout: Duration,
    ) -> Result<QueryId, Error> {
        let asked = self.sending.query(target, message, self.name.address(), timeout, self.clock.now());
        self.arm();
        asked
    }

    /// Closes the question of ours that `entry` answers, and names it. Each is answered once; late answers
    /// and second ones answer none.
    pub fn take_answered(&mut self, entry: &InboxEntry<'_>) -> Option<QueryId> {
        self.sending.take_answered(entry)
    }

    /// What became of the next message or question; ask until there is none, after each turn.
    pub fn next_event(&mut self) -> Option<ServerEvent> {
        self.sending.next_event()
    }

    /// Messages on their way that have no outcome yet.
    pub fn outstanding(&self) -> usize {
        self.sending.links.outbox.outstanding()
    }

    /// Stops: removes the names, accepts no connection and processes no further message. Pending
    /// answers are written (within `closing_timeout`), and messages on their way get their outcomes, all of
    /// it for at most `grace`. What is in the inbox can still be drained.
    ///
    /// On Windows in a lent loop this does not wait, because what it would wait for comes to the host's loop:
    /// turns that follow write the pending answers, and dropping the server cuts the connections.
    ///
    /// Another start or stop can hold the lock on the directory of the socket. The wait for it is part of
    /// `grace`; a grace of zero is one try.
    ///
    /// # Errors
    ///
    /// The first thing that could not be removed or flushed; the server is stopped all the same.
    /// [`ErrorKind::TimedOut`]: the lock was held all the time. The error and a warning say what is left. The
    /// listener is kept open until the names are removed: call this again to try once more; dropping the
    /// server is the last try.
    pub fn shutdown(&mut self, grace: Duration) -> Result<(), Error> {
        let begun = self.clock.now();
        let deadline = begun.mono.plus(grace);
        self.acceptor.stop();
        let released = self.release(Duration::ZERO);
        self.reactor.endpoint.shutdown(begun);
        self.reactor.take_steps(&self.event_loop, begun);
        let flushed = self.flush(deadline);
        if cfg!(unix) || !self.event_loop.is_lent() {
            self.reactor.close_all();
        }
        // The system closes a pipe when the queue is asked the next time.
        #[cfg(windows)]
        let flushed = flushed.and_then(|()| self.take_events(Some(Duration::ZERO)));
        // While clients took their answers the lock may have become free. The rest of the time is for it
        // alone.
        let released = released.or_else(|_| self.release(deadline.since(self.clock.mono())));
        if let Err(error) = &released {
            tracing::warn!(%error, "stopping left something behind");
        }
        released.and(flushed)
    }

    /// Removes what was made, and then closes the listener that was open until now.
    fn release(&mut self, wait: Duration) -> Result<(), Error> {
        self.acceptor.close(|listener| self.name.release_within(listener, wait))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", self.address())
            .field("endpoint", &self.reactor.endpoint)
            .finish_non_exhaustive()
    }
}
