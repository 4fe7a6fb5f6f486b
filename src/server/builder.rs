//! What a server is built from.

#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mio::Registry;

use super::acceptor::Acceptor;
use super::event_loop::{EventLoop, STREAMS};
use super::name::Name;
use super::reactor::Reactor;
use super::sending::Sending;
use super::{Server, Waker};
use crate::links::Links;
use crate::os::channel::claim::Claim;
use crate::os::clock::Clock;
use crate::os::files::capability::CapabilityDir;
use crate::os::names::address::Address;
use crate::os::names::location::{Location, own_directories};
use crate::os::names::namespace::{Environment, Namespace};
use crate::os::random::Random;
use crate::os::sys;
use crate::os::transport::{Listener, WakeHandle};
use crate::proto::endpoint::Endpoint;
use crate::proto::error::Error;
#[cfg(unix)]
use crate::proto::error::ErrorKind;
use crate::proto::limits::Limits;
use crate::proto::outbox::Outbox;

/// The settings of a server; [`start`](Self::start) makes it.
#[derive(Debug, Default)]
#[must_use]
pub struct ServerBuilder {
    address: Option<Address>,
    #[cfg(unix)]
    listener: Option<UnixListener>,
    namespace: Namespace,
    environment: Option<Environment>,
    limits: Limits,
    name_check: Option<Duration>,
    busy_poll: Duration,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    has_timer: bool,
}

/// How often a server makes sure that its socket and its capability file are still there, unless told
/// otherwise: two system calls a minute.
const NAME_CHECK: Duration = Duration::from_secs(60);

impl ServerBuilder {
    /// Where to listen. Default: a path of its own in the namespace, drawn at [`start`](Self::start).
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
        self
    }

    /// A listening socket that a service manager or the host has made, instead of an address: its file stays
    /// when the server stops, see [`Claim::adopt`].
    #[cfg(unix)]
    pub fn listener(mut self, listener: UnixListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Whose names to use. Default: those of the deployed implementation.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// The variables that decide about paths. Default: those of the process, read at [`start`](Self::start).
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// What the server allows. Default: the protocol's limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How often to make sure that neither the socket nor the capability file has vanished, as temporary
    /// files do ([`Turn::name_lost`]). Default: once a minute, which wakes a server that has nothing else to
    /// do.
    ///
    /// [`Turn::name_lost`]: crate::Turn::name_lost
    pub fn name_check(mut self, every: Duration) -> Self {
        self.name_check = Some(every);
        self
    }

    /// How long each wait asks again and again before it sleeps. Default: not at all; at most a millisecond.
    ///
    /// Where messages come back to back this saves waking up, but only if the peer stays awake too and each
    /// has a processor to itself. The price is a processor that is busy for as long after each message, and
    /// much longer round trips where it has to be shared: `docs/embedding.md` has figures.
    pub fn busy_poll(mut self, budget: Duration) -> Self {
        self.busy_poll = budget.min(Duration::from_millis(1));
        self
    }

    /// Puts a timer into the event queue, so that the server's descriptor alone tells when a turn is due: a
    /// host that can watch a descriptor then needs no [`next_timeout`](Server::next_timeout).
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn timer(mut self) -> Self {
        self.has_timer = true;
        self
    }

    /// Takes the name, publishes the capability and listens, in a loop of its own. When this returns `Ok`,
    /// clients can connect; when it does not, nothing is left behind, not even a directory that was made for
    /// it, unless another server has put something into that.
    ///
    /// # Errors
    ///
    /// What [`Limits::check`], [`Location::draw`] and [`Claim::bind`] refuse, [`ErrorKind::OutOfMemory`], or
    /// [`ErrorKind::Io`] if the event queue cannot be made.
    ///
    /// [`ErrorKind::OutOfMemory`]: crate::ErrorKind::OutOfMemory
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    pub fn start(self) -> Result<Server, Error> {
        let busy_poll = self.busy_poll;
        self.start_with(|tokens_max| EventLoop::own(tokens_max, busy_poll))
    }

    /// The same in the loop of its host, the `mio::Poll` behind `registry`. The server uses the tokens from
    /// `first_token` on, see [`Server::tokens`]. `docs/embedding.md` says how the host drives it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_in(self, registry: &Registry, first_token: usize) -> Result<Server, Error> {
        self.start_with(|tokens_max| EventLoop::lent(registry, first_token, tokens_max))
    }

    fn start_with(
        self,
        event_loop: impl FnOnce(usize) -> Result<(EventLoop, WakeHandle), Error>,
    ) -> Result<Server, Error> {
        self.limits.check()?;
        let environment = self.environment.unwrap_or_else(Environment::from_process);
        let mut random = Random::from_os()?;
        let capabilities = CapabilityDir::of(&self.namespace, &environment)?;
        let auth_token = random.auth_token();
        // If anything fails from here on, the claim removes what it made.
        let location = |random: &mut Random| match self.address.clone() {
            Some(address) => Ok(Location::from(address)),
            None => draw_location(&self.namespace, &environment, random),
        };
        #[cfg(unix)]
        let (listener, mut claim) = match self.listener {
            Some(_) if self.address.is_some() => {
                let sentence = "a server listens at an address or takes over a listener, not both";
                return Err(Error::new(ErrorKind::InvalidListener, sentence));
            }
            Some(listener) => Claim::begin_adopted(listener, &capabilities, &auth_token, &mut random)?,
            None => Claim::begin(location(&mut random)?, &capabilities, &auth_token, &mut random)?,
        };
        #[cfg(windows)]
        let (listener, mut claim) =
            Claim::begin(location(&mut random)?, &capabilities, &auth_token, &mut random)?;
        let path = claim.address().path();
        let endpoint = Endpoint::new(path, auth_token, self.limits.clone())?;
        let links = Links::new(Outbox::new(self.limits.clone())?);
        let streams_max = endpoint.slots_max() + links.outbox.slots_max();
        // One wait takes all events that can be pending at once.
        let (event_loop, handle) = event_loop(STREAMS + streams_max)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let event_loop = if self.has_timer { event_loop.with_timer()? } else { event_loop };
        let mut own = own_directories(&self.namespace, &environment);
        own.extend(Path::new(path).parent().map(Path::to_owned));
        let base = event_loop.stream_token(endpoint.slots_max());
        let sending = Sending::new(links, &self.limits, &random.nonce(), own, base)?;
        let mut listener = Listener::new(listener);
        if let Err(error) = event_loop.watch_listener(&mut listener) {
            // While the listener is open.
            drop(claim);
            return Err(error);
        }
        claim.settle();
        tracing::info!(address = %claim.address(), "listening");
        let clock = Clock::new();
        let check_every = self.name_check.unwrap_or(NAME_CHECK);
        let mut server = Server {
            reactor: Reactor::new(endpoint, sys::Owner::current()),
            event_loop,
            waker: Waker { handle: Arc::new(handle), is_stop_asked: Arc::default() },
            name: Name::new(claim, self.namespace, capabilities, random, check_every, clock.now()),
            clock,
            acceptor: Acceptor::new(listener, self.limits.turn_accepts_max),
            on_enqueue: None,
            sending,
        };
        server.arm();
        Ok(server)
    }
}

/// A default location; those that cannot be used are reported.
fn draw_location(
    namespace: &Namespace,
    environment: &Environment,
    random: &mut Random,
) -> Result<Location, Error> {
    let location = Location::draw(namespace, environment, random)?;
    for skipped in location.skipped() {
        let (directory, reason) = (&skipped.directory, &skipped.reason);
        tracing::warn!(directory, reason, "default location not used");
    }
    Ok(location)
}
