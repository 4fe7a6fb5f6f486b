//! What a server is built from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll};

use super::sending::Sending;
use super::{LISTENER, STREAMS, Server, WAKER, Waker};
use crate::os::address::Address;
use crate::os::capability::CapabilityDir;
use crate::os::claim::Claim;
use crate::os::clock::Clock;
use crate::os::location::Location;
use crate::os::namespace::{Environment, Namespace};
use crate::os::random::Random;
use crate::os::sys;
use crate::os::transport::Listener;
use crate::proto::endpoint::Endpoint;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::limits::Limits;

/// Collects what differs from the defaults; [`start`](Self::start) makes the server.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ServerBuilder {
    address: Option<Address>,
    namespace: Namespace,
    environment: Option<Environment>,
    limits: Limits,
    name_check: Option<Duration>,
}

/// How often a server makes sure that its socket is still there, unless told otherwise: two system calls a minute.
const NAME_CHECK: Duration = Duration::from_secs(60);

impl ServerBuilder {
    /// Where to listen. Default: a path of its own in the namespace, drawn at [`start`](Self::start).
    pub fn address(mut self, address: Address) -> Self {
        self.address = Some(address);
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

    /// How often to make sure that the socket has not vanished, as temporary files do ([`Turn::name_lost`]). Default: once
    /// a minute, which wakes a server that has nothing else to do.
    ///
    /// [`Turn::name_lost`]: crate::Turn::name_lost
    pub fn name_check(mut self, every: Duration) -> Self {
        self.name_check = Some(every);
        self
    }

    /// Takes the name, publishes the capability and listens. When this returns `Ok`, clients can connect; when it does
    /// not, nothing is left behind.
    ///
    /// # Errors
    ///
    /// What [`Limits::check`], [`Location::draw`] and [`Claim::bind`] refuse, [`ErrorKind::OutOfMemory`], or
    /// [`ErrorKind::Io`] if the event queue cannot be made.
    pub fn start(self) -> Result<Server, Error> {
        let environment = self.environment.unwrap_or_else(Environment::from_process);
        let mut random = Random::from_os()?;
        let location = match self.address {
            Some(address) => Location::from(address),
            None => Location::draw(&self.namespace, &environment, &mut random)?,
        };
        for skipped in location.skipped() {
            tracing::warn!(
                directory = skipped.directory,
                reason = skipped.reason,
                "default location not used"
            );
        }
        let auth_token = random.auth_token();
        let path = location.address().path();
        let endpoint = Endpoint::new(path, sys::effective_uid(), auth_token.clone(), self.limits.clone())?;
        let sending = Sending::new(&self.limits, &random.nonce(), STREAMS + endpoint.slots_max())?;
        let refused =
            |e| Error::new(ErrorKind::Io, "cannot make an event queue for the server").with_source(e);
        let poll = Poll::new().map_err(refused)?;
        let waker = Waker(Arc::new(mio::Waker::new(poll.registry(), WAKER).map_err(refused)?));
        let capabilities = CapabilityDir::of(&self.namespace, &environment)?;
        // The name comes last: whatever fails before it has made nothing.
        let (listener, claim) = Claim::bind(location, &capabilities, &auth_token, &mut random)?;
        let mut listener = Listener::new(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(refused)?;
        tracing::info!(address = %claim.address(), "listening");
        let slots_max = endpoint.slots_max();
        let clock = Clock::new();
        let name_check = self.name_check.unwrap_or(NAME_CHECK);
        Ok(Server {
            clients: std::iter::repeat_with(|| None).take(slots_max).collect(),
            endpoint,
            poll,
            // One call takes all events that can be pending at once.
            events: Events::with_capacity(STREAMS + slots_max + sending.streams_max()),
            waker,
            name_check_at: clock.now().mono.plus(name_check),
            name_check,
            is_name_lost: false,
            clock,
            listener: Some(listener),
            claim,
            capabilities,
            auth_token,
            random,
            namespace: self.namespace,
            ready: VecDeque::new(),
            is_listener_ready: false,
            accept_again_at: None,
            turn_accepts_max: self.limits.turn_accepts_max,
            on_enqueue: None,
            sending,
        })
    }
}
