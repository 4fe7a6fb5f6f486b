//! Whose loop a server lives in: one of its own, or one that its host lends.

use std::io;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use crate::os::clock::Clock;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::os::transport::Timer;
use crate::os::transport::{Listener, WakeHandle, WakeSource, wake_pair, watch_input};
use crate::proto::error::{Error, ErrorKind};

/// Our tokens, counted from the first one: the listener, the waker, the timer, then a stream for each slot,
/// then one for each link.
pub(super) const LISTENER: usize = 0;
pub(super) const WAKER: usize = 1;
pub(super) const TIMER: usize = 2;
pub(super) const STREAMS: usize = 3;

/// Where events come from.
pub(super) enum Source {
    /// Our own poll, waited for in `Server::turn`.
    Own { poll: Poll, events: Events, busy_poll: Duration },
    /// The host's: it hands events in.
    Lent(Registry),
}

impl Source {
    fn own(events_max: usize, busy_poll: Duration) -> Result<Self, Error> {
        let poll = Poll::new().map_err(cannot("make an event queue"))?;
        let events = Events::with_capacity(events_max);
        Ok(Self::Own { poll, events, busy_poll })
    }

    pub(super) fn registry(&self) -> &Registry {
        match self {
            Self::Own { poll, .. } => poll.registry(),
            Self::Lent(registry) => registry,
        }
    }
}

/// The loop, its tokens, and what else can wake it.
pub(super) struct EventLoop {
    /// Our tokens are this one and those above it.
    first_token: usize,
    wake: WakeSource,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    timer: Option<Timer>,
    /// The last field: it is dropped after what it watches.
    source: Source,
}

impl EventLoop {
    /// A loop of its own. `events_max` is how many events can be pending at once: one wait takes them all.
    pub(super) fn own(events_max: usize, busy_poll: Duration) -> Result<(Self, WakeHandle), Error> {
        Self::new(Source::own(events_max, busy_poll)?, 0)
    }

    /// The host's loop, behind `registry`, where `tokens_max` tokens from the first on must be ours.
    pub(super) fn lent(
        registry: &Registry,
        first_token: usize,
        tokens_max: usize,
    ) -> Result<(Self, WakeHandle), Error> {
        // The last token is mio's own.
        if first_token.checked_add(tokens_max).is_none_or(|end| end == usize::MAX) {
            let sentence =
                format!("{tokens_max} tokens from {first_token} on are more than there are; start lower");
            return Err(Error::new(ErrorKind::InvalidLimit, sentence));
        }
        let registry = registry.try_clone().map_err(cannot("share the event queue"))?;
        Self::new(Source::Lent(registry), first_token)
    }

    fn new(source: Source, first_token: usize) -> Result<(Self, WakeHandle), Error> {
        let (wake, handle) = wake_pair().map_err(cannot("make a waker"))?;
        let mut event_loop = Self {
            first_token,
            wake,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            timer: None,
            source,
        };
        let token = event_loop.token(WAKER);
        watch_input(event_loop.source.registry(), &mut event_loop.wake, token)
            .map_err(cannot("watch the waker"))?;
        Ok((event_loop, handle))
    }

    /// With a timer in the queue, so that the descriptor of the queue is readable whenever a turn is due.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn with_timer(mut self) -> Result<Self, Error> {
        let token = self.token(TIMER);
        let mut timer = Timer::new().map_err(cannot("make a timer"))?;
        watch_input(self.registry(), &mut timer, token).map_err(cannot("watch the timer"))?;
        self.timer = Some(timer);
        Ok(self)
    }

    /// Watches the listener.
    pub(super) fn watch_listener(&self, listener: &mut Listener) -> Result<(), Error> {
        watch_input(self.registry(), listener, self.token(LISTENER)).map_err(cannot("watch the listener"))
    }

    /// Sets that timer, if there is one: `None` for never.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn arm(&mut self, timeout: Option<Duration>) {
        if let Some(timer) = &mut self.timer
            && let Err(error) = timer.set(timeout)
        {
            tracing::error!(%error, "the timer cannot be set");
        }
    }

    /// Whether [`arm`](Self::arm) has something to set.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Whether it is a loop of its own, whose events it can take at any time.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.source, Source::Own { .. })
    }

    pub(super) fn registry(&self) -> &Registry {
        self.source.registry()
    }

    /// The descriptor that tells when there are events, unless it is the host's own.
    #[cfg(unix)]
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Own { poll, .. } => Some(poll.registry().as_fd()),
            Source::Lent(_) => None,
        }
    }

    /// Whether it is the host's.
    pub(super) fn is_lent(&self) -> bool {
        matches!(self.source, Source::Lent(_))
    }

    /// Replaces a lent loop with one of its own, and returns the lent one: for a stop, while which the host's
    /// loop does not run. The caller moves the streams; the waker and the timer stay.
    #[cfg(unix)]
    pub(super) fn leave_host(&mut self, events_max: usize) -> Result<Option<Source>, Error> {
        match self.source {
            Source::Own { .. } => Ok(None),
            Source::Lent(_) => Ok(Some(self.replace(Source::own(events_max, Duration::ZERO)?))),
        }
    }

    /// Moves to another loop, and returns the one before.
    #[cfg(unix)]
    pub(super) fn replace(&mut self, source: Source) -> Source {
        std::mem::replace(&mut self.source, source)
    }

    /// Our token number `n` in this loop.
    pub(super) fn token(&self, n: usize) -> Token {
        Token(self.first_token.saturating_add(n))
    }

    /// The token of the stream in a slot.
    pub(super) fn stream_token(&self, slot: usize) -> Token {
        self.token(STREAMS + slot)
    }

    /// Which of our tokens this is.
    pub(super) fn number(&self, token: Token) -> Option<usize> {
        token.0.checked_sub(self.first_token)
    }

    /// Waits for events for at most `timeout`, and leaves them to [`take_events`](Self::take_events).
    ///
    /// With a busy-poll budget it asks again and again before it sleeps. A signal ends it early.
    pub(super) fn wait(&mut self, timeout: Option<Duration>, clock: &Clock) -> Result<(), Error> {
        let Source::Own { poll, events, busy_poll } = &mut self.source else { return Ok(()) };
        let mut wait = |timeout| match poll.poll(events, timeout) {
            Ok(()) => Ok(!events.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(true)
            }
            Err(error) => Err(cannot("wait for events")(error)),
        };
        let spin_for = timeout.map_or(*busy_poll, |timeout| timeout.min(*busy_poll));
        if spin_for.is_zero() {
            return wait(timeout).map(drop);
        }
        let begun = clock.mono();
        loop {
            if wait(Some(Duration::ZERO))? {
                return Ok(());
            }
            let spent = clock.mono().since(begun);
            if spent >= spin_for {
                return wait(timeout.map(|timeout| timeout.saturating_sub(spent))).map(drop);
            }
            std::hint::spin_loop();
        }
    }

    /// The events that the last wait found, so that they can be read while the server is changed.
    pub(super) fn take_events(&mut self) -> Option<Events> {
        match &mut self.source {
            Source::Own { events, .. } => Some(std::mem::replace(events, Events::with_capacity(0))),
            Source::Lent(_) => None,
        }
    }

    /// Gives them back, to be filled again.
    pub(super) fn return_events(&mut self, taken: Events) {
        if let Source::Own { events, .. } = &mut self.source {
            *events = taken;
        }
    }

    /// Reads what a waker wrote.
    pub(super) fn drain_waker(&mut self) {
        self.wake.drain();
    }
}

/// The error for what the system refused.
fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::new(ErrorKind::Io, format!("cannot {what} for the server")).with_source(cause)
}
