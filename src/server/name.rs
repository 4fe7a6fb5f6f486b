//! The name of a server: its socket path and its capability file, checked, made again and removed.

use std::time::Duration;

use super::event_loop::EventLoop;
use crate::os::channel::claim::Claim;
use crate::os::files::capability::CapabilityDir;
use crate::os::names::address::Address;
use crate::os::names::location::Location;
use crate::os::names::namespace::Namespace;
use crate::os::random::Random;
use crate::os::transport::Listener;
use crate::proto::error::Error;
use crate::proto::time::{Mono, Now};

/// What a server is found by. Dropped while its listener is open, it removes what it made.
pub(super) struct Name {
    claim: Claim,
    namespace: Namespace,
    /// Where capabilities are published and looked up.
    pub(super) capabilities: CapabilityDir,
    random: Random,
    check_every: Duration,
    /// When to look again.
    pub(super) check_at: Mono,
    /// The last check did not find all of it.
    is_lost: bool,
}

impl Name {
    pub(super) fn new(
        claim: Claim,
        namespace: Namespace,
        capabilities: CapabilityDir,
        random: Random,
        check_every: Duration,
        now: Now,
    ) -> Self {
        let check_at = now.mono.plus(check_every);
        Self { claim, namespace, capabilities, random, check_every, check_at, is_lost: false }
    }

    pub(super) fn address(&self) -> &Address {
        self.claim.address()
    }

    pub(super) fn location(&self) -> &Location {
        self.claim.location()
    }

    pub(super) fn child_env(&self) -> [(String, String); 1] {
        [(self.namespace.socket_variable(), self.address().path().to_owned())]
    }

    /// Whether the last check found the socket and the capability file.
    pub(super) fn is_in_place(&self) -> bool {
        !self.is_lost
    }

    /// Looks whether the socket and the capability file are still there, if it is time. `true`: one of them
    /// is not.
    pub(super) fn check(&mut self, now: Now) -> bool {
        if now.mono < self.check_at {
            return false;
        }
        self.check_at = now.mono.plus(self.check_every);
        let (is_there, is_published) = (self.claim.still_there(), self.claim.still_published());
        if !self.is_lost {
            if !is_there {
                tracing::warn!(address = %self.address(), "the socket has vanished");
            }
            if !is_published {
                tracing::warn!(address = %self.address(), "the capability file has vanished");
            }
        }
        self.is_lost = !(is_there && is_published);
        self.is_lost
    }

    /// Makes again what has vanished, or everything if the listener `old` is broken. Gives the new listener,
    /// watched, if there is one.
    pub(super) fn take_again(
        &mut self,
        old: &Listener,
        is_broken: bool,
        event_loop: &EventLoop,
    ) -> Result<Option<Listener>, Error> {
        let has_listener = self.claim.still_there() && !is_broken;
        let is_published = self.claim.still_published();
        self.is_lost = !has_listener || !is_published;
        let mut new = None;
        if !has_listener {
            let (listener, mut claim) = self.claim.begin_again(old, &self.capabilities, &mut self.random)?;
            let mut listener = Listener::new(listener);
            if let Err(error) = event_loop.watch_listener(&mut listener) {
                // While the listener is open.
                drop(claim);
                return Err(error);
            }
            claim.settle();
            self.claim = claim;
            new = Some(listener);
            tracing::info!(address = %self.address(), "listening again");
        } else if !is_published {
            self.claim.publish_again(&self.capabilities, &mut self.random)?;
            tracing::info!(address = %self.address(), "published again");
        }
        self.is_lost = false;
        Ok(new)
    }

    /// Removes what was made, while `listener` is open. The lock is waited for, for at most `wait`.
    pub(super) fn release_within(&mut self, listener: &Listener, wait: Duration) -> Result<(), Error> {
        self.claim.release_within(listener, wait)
    }
}
