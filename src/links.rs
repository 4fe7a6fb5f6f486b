//! An outbox and the streams under it: what the server and the blocking client send with.
//!
//! [`Outbox`] decides what may be written when, which answer belongs to which message, and what can be sent
//! again. The caller makes the connections, and has their streams watched in its own way.

use std::time::Duration;

#[cfg(feature = "server")]
use crate::os::channel::stream::Readiness;
use crate::os::channel::stream::{MEMORY_RETRY, Progress, ReadyStream};
use crate::os::channel::waiter::Waiter;
use crate::os::names::address::Address;
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::message::Outgoing;
use crate::proto::outbox::{LinkStep, Outbox, SendId};
use crate::proto::slots::ConnKey;
use crate::proto::time::Now;

/// A new connection to a receiver, and the token that the receiver asks for.
pub(crate) struct Connected {
    pub(crate) stream: ReadyStream,
    pub(crate) auth_token: AuthToken,
    /// The token was read for an earlier connection.
    pub(crate) is_remembered: bool,
}

/// Which token a connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// One that was read for an earlier connection will do.
    Any,
    /// One that is read now: the receiver has refused another one.
    New,
}

/// Makes a connection to a receiver, without waiting, and names it with the key from now on.
pub(crate) type Connect<'c> = &'c mut dyn FnMut(ConnKey, &Address, Token) -> Result<Connected, Error>;

/// The stream of one connection to a receiver.
#[derive(Debug)]
struct Link {
    key: ConnKey,
    stream: ReadyStream,
}

/// Messages on their way, and the connections that carry them.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) outbox: Outbox,
    /// Few, and none in a server that sends nothing.
    links: Vec<Link>,
}

impl Links {
    /// Those of an outbox that is empty.
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self { outbox, links: Vec::new() }
    }

    /// As [`Outbox::send`], and refuses what [`Address::check_length`] refuses. Nothing is written yet.
    pub(crate) fn send(
        &mut self,
        target: &Address,
        message: &Outgoing,
        from: Option<&Address>,
        timeout: Duration,
        now: Now,
    ) -> Result<SendId, Error> {
        target.check_length()?;
        self.outbox.send(target.path(), message, from.map(Address::path), timeout, now)
    }

    /// One turn: reads what has come, writes what can go, and enforces what is due.
    pub(crate) fn turn(&mut self, now: Now, connect: Connect<'_>) {
        for link in &mut self.links {
            read_and_write(&mut self.outbox, link, now);
        }
        self.take_steps(now, connect);
        self.outbox.deadlines_reached(now);
        self.begin(now, connect);
    }

    /// Begins what was sent, without a look at what has come: no deadline is enforced.
    pub(crate) fn begin(&mut self, now: Now, connect: Connect<'_>) {
        self.take_steps(now, connect);
        self.outbox.turn_ended();
        debug_assert!(
            self.links.iter().all(|link| !self.outbox.target(link.key).is_empty()),
            "a stream without a connection"
        );
    }

    /// Whether there is nothing at all: no message, and no connection.
    #[cfg(feature = "server")]
    pub(crate) fn is_empty(&self) -> bool {
        self.links.is_empty() && self.outbox.outstanding() == 0 && !self.outbox.has_steps()
    }

    /// Whether there is something to do without waiting.
    pub(crate) fn has_more(&self) -> bool {
        self.outbox.has_steps() || self.links.iter().any(|link| link.stream.is_readable())
    }

    /// Whether a write was refused for lack of memory, and is still to be made.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.links.iter().any(|link| link.stream.lacks_memory() && !self.outbox.output(link.key).is_empty())
    }

    /// Waits with `waiter`, which watches all streams, until one can be read, or written again, for at most
    /// `timeout`. A signal ends it early.
    pub(crate) fn wait(&mut self, waiter: &mut Waiter, timeout: Option<Duration>) -> Result<(), Error> {
        let retry = self.lacks_memory().then_some(MEMORY_RETRY);
        let timeout = [timeout, retry].into_iter().flatten().min();
        let streams = self.links.iter_mut().map(|link| (link.key.index(), &mut link.stream));
        waiter
            .wait(timeout, streams)
            .map_err(|cause| Error::new(ErrorKind::Io, "cannot wait for the receivers").with_source(cause))
    }

    /// Remembers what the kernel says of the stream whose key has this index.
    #[cfg(feature = "server")]
    pub(crate) fn note(&mut self, index: usize, told: Readiness) {
        if let Some(link) = self.links.iter_mut().find(|link| link.key.index() == index) {
            link.stream.note(told);
        }
    }

    /// Every stream, and the key that names it.
    #[cfg(feature = "server")]
    pub(crate) fn streams_mut(&mut self) -> impl Iterator<Item = (ConnKey, &mut ReadyStream)> {
        self.links.iter_mut().map(|link| (link.key, &mut link.stream))
    }

    fn take_steps(&mut self, now: Now, connect: Connect<'_>) {
        while let Some((key, step)) = self.outbox.next_step() {
            match step {
                LinkStep::Connect => {
                    let target = Address::from_path(self.outbox.target(key));
                    let token = if self.outbox.is_token_refused(key) { Token::New } else { Token::Any };
                    match target.and_then(|target| connect(key, &target, token)) {
                        Ok(Connected { stream, auth_token, is_remembered }) => {
                            self.links.push(Link { key, stream });
                            match is_remembered {
                                true => self.outbox.connected_as_before(key, auth_token, now),
                                false => self.outbox.connected(key, auth_token, now),
                            }
                        }
                        Err(error) => self.outbox.connect_failed(key, &error, now),
                    }
                }
                LinkStep::Write => {
                    if let Some(link) = self.links.iter_mut().find(|link| link.key == key) {
                        read_and_write(&mut self.outbox, link, now);
                    }
                }
                LinkStep::Close => {
                    if let Some(at) = self.links.iter().position(|link| link.key == key) {
                        self.links.swap_remove(at).stream.close();
                    }
                }
            }
        }
    }
}

/// One read, and one write of what a link has to send if nothing is left to read: what was there before a
/// line was written is no answer to it.
fn read_and_write(outbox: &mut Outbox, link: &mut Link, now: Now) {
    let can_write =
        |outbox: &Outbox, link: &Link| link.stream.is_writable() && !outbox.output(link.key).is_empty();
    if (link.stream.is_readable() || can_write(outbox, link))
        && let Some(mut space) = outbox.recv_space(link.key)
    {
        match link.stream.read(&mut space) {
            Progress::Moved(n) => space.received(n, now),
            Progress::Blocked => {}
            Progress::End | Progress::Gone => outbox.ended(link.key, now),
        }
    }
    if !link.stream.is_readable() && can_write(outbox, link) {
        match link.stream.write(outbox.output(link.key)) {
            Progress::Moved(n) => outbox.sent(link.key, n),
            Progress::Blocked => {}
            Progress::End | Progress::Gone => outbox.output_failed(link.key),
        }
    }
}
