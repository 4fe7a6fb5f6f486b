//! The sender: one call, one answer that cannot be mistaken.
//!
//! [`Client`] blocks its caller and nothing else: it drives the connections of an outbox with one waiting.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use crate::links::{Connect, Connected, Links, Token};
use crate::os::channel::connect::{ChosenBy, connect, look_up};
use crate::os::channel::stream::ReadyStream;
use crate::os::channel::waiter::Waiter;
use crate::os::clock::Clock;
use crate::os::files::capability::{Capability, CapabilityDir};
use crate::os::names::address::Address;
use crate::os::names::namespace::{Environment, Namespace};
use crate::proto::error::{Error, ErrorKind};
use crate::proto::limits::Limits;
use crate::proto::message::Outgoing;
use crate::proto::outbox::{Outbox, SendId, SendOutcome};
use crate::proto::time::Now;

/// How long a message may take from the call to its answer, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Outcomes that can wait to be asked for.
const OUTCOMES_MAX: usize = 1_000;

/// Bytes of messages that are gathered at most, before they are written.
const GATHERED_MAX: usize = 64 << 10;

/// Capabilities that are remembered.
const KNOWN_MAX: usize = 64;

/// Sends messages to servers of the same user.
///
/// Connections are kept: the next message to the same receiver goes over the one that is there. Many messages
/// can be on their way at once:
///
/// ```no_run
/// # use udsmsg::{Address, Client, Outgoing};
/// # fn main() -> Result<(), udsmsg::Error> {
/// let target = Address::parse("uds:/run/user/1000/app-socks/1-00/messaging.sock")?;
/// let mut client = Client::new()?;
/// for n in 0..100 {
///     client.start(&target, &Outgoing::new("text").with_text(&n.to_string()))?;
/// }
/// while let Some((_id, outcome)) = client.next_outcome()? {
///     println!("{outcome}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    capabilities: Capabilities,
    timeout: Duration,
    from: Option<Address>,
    /// If peers chose the targets: see [`ChosenBy::Peer`].
    claimed: Option<Vec<PathBuf>>,
    clock: Clock,
    links: Links,
    /// Behind the links: it is dropped after what it watches.
    waiter: Waiter,
    /// Bytes of messages that were started since anything was written.
    gathered: usize,
    /// Outcomes that were not asked for yet.
    outcomes: VecDeque<(SendId, SendOutcome)>,
}

impl Client {
    /// A client for the default namespace.
    ///
    /// # Errors
    ///
    /// If the environment leads to no config home; see [`Namespace::capability_dir`].
    pub fn new() -> Result<Self, Error> {
        Self::in_namespace(&Namespace::default(), &Environment::from_process())
    }

    /// A client for another namespace or environment.
    ///
    /// # Errors
    ///
    /// If the environment leads to no config home; see [`Namespace::capability_dir`].
    pub fn in_namespace(namespace: &Namespace, environment: &Environment) -> Result<Self, Error> {
        Self::with_capabilities(CapabilityDir::of(namespace, environment)?)
    }

    /// A client that looks capabilities up in this directory.
    pub(crate) fn with_capabilities(capabilities: CapabilityDir) -> Result<Self, Error> {
        let waiter = Waiter::new()
            .map_err(|cause| Error::new(ErrorKind::Io, "cannot make an event queue").with_source(cause))?;
        Ok(Self {
            capabilities: Capabilities { dir: capabilities, known: Vec::new() },
            timeout: TIMEOUT,
            from: None,
            claimed: None,
            clock: Clock::new(),
            links: Links::new(Outbox::growing(Limits::default())?),
            waiter,
            gathered: 0,
            outcomes: VecDeque::new(),
        })
    }

    /// The time allowed from a call to its answer. Default 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The own address, so that receivers can reply: the `from` of messages that have none.
    #[must_use]
    pub fn with_from(mut self, address: Address) -> Self {
        self.from = Some(address);
        self
    }

    /// For targets that peers chose: none of their paths keeps the caller waiting. `own` is as for
    /// [`ChosenBy::Peer`].
    pub(crate) fn with_claimed_targets(mut self, own: Vec<PathBuf>) -> Self {
        self.claimed = Some(own);
        self
    }

    /// Sends one message and waits for its answer. Blocks for at most the timeout.
    ///
    /// A receiver that is busy (a full backlog, `too many clients`) is tried again within that time, because
    /// then nothing was taken.
    pub fn send(&mut self, target: &Address, message: &Outgoing) -> SendOutcome {
        let wanted = match self.start(target, message) {
            Ok(id) => id,
            Err(error) => return SendOutcome::NotSent(error),
        };
        loop {
            if let Some(at) = self.outcomes.iter().position(|(id, _)| *id == wanted)
                && let Some((_, outcome)) = self.outcomes.remove(at)
            {
                return outcome;
            }
            if let Err(error) = self.turn() {
                return SendOutcome::Unknown(error);
            }
        }
    }

    /// Asks whether the server is alive and takes our token.
    pub fn ping(&mut self, target: &Address) -> SendOutcome {
        self.send(target, &Outgoing::new("ping"))
    }

    /// Sets a message on its way without waiting for its answer: [`next_outcome`](Self::next_outcome) tells
    /// what became of it. Messages to one receiver go in order. Does not block.
    ///
    /// If nothing else is on its way, it is written at once. Otherwise it leaves together with those that are
    /// started after it: when the client waits, in [`next_outcome`](Self::next_outcome) or
    /// [`send`](Self::send), when 64 KiB have gathered, or when the client is dropped. Its time runs from the
    /// start, so ask for the outcomes soon.
    ///
    /// # Errors
    ///
    /// Nothing was taken: what [`Outbox::send`](crate::proto::outbox::Outbox::send) and
    /// [`Address::check_length`] refuse, and [`ErrorKind::OutboxFull`] while 1,000 messages are on their way
    /// or have outcomes that wait for [`next_outcome`](Self::next_outcome).
    pub fn start(&mut self, target: &Address, message: &Outgoing) -> Result<SendId, Error> {
        if self.outstanding() >= OUTCOMES_MAX {
            let sentence = format!("{OUTCOMES_MAX} messages are on their way; ask for their outcomes first");
            return Err(Error::new(ErrorKind::OutboxFull, sentence));
        }
        // The queue of a pipe reads ahead: what has come before the message is no answer to it.
        #[cfg(windows)]
        self.links.wait(&mut self.waiter, Some(Duration::ZERO))?;
        let is_first = self.links.outbox.outstanding() == 0;
        let before = self.links.outbox.outstanding_bytes();
        let now = self.clock.now();
        let id = self.links.send(target, message, self.from.as_ref(), self.timeout, now)?;
        self.gathered += self.links.outbox.outstanding_bytes() - before;
        if is_first || self.gathered >= GATHERED_MAX {
            self.write_gathered(now);
        }
        Ok(id)
    }

    /// Waits for what became of the next message that was [started](Self::start), each told once and not
    /// always in the order of their starts; `None` if none is on its way. Blocks for at most the timeout.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`]: the system refuses to wait. What is on its way stays so; ask again.
    pub fn next_outcome(&mut self) -> Result<Option<(SendId, SendOutcome)>, Error> {
        while self.outcomes.is_empty() && self.links.outbox.outstanding() > 0 {
            self.turn()?;
        }
        Ok(self.outcomes.pop_front())
    }

    /// Messages that have no outcome yet.
    pub fn outstanding(&self) -> usize {
        self.links.outbox.outstanding() + self.outcomes.len()
    }

    /// Writes what was started, as far as it can go without waiting.
    fn write_gathered(&mut self, now: Now) {
        if self.gathered > 0 {
            self.gathered = 0;
            self.drive(now, Links::begin);
        }
    }

    /// Writes what was started, waits for the sockets or a deadline unless that gave an outcome, and does
    /// what there is to do.
    fn turn(&mut self) -> Result<(), Error> {
        let told = self.outcomes.len();
        self.write_gathered(self.clock.now());
        if self.outcomes.len() > told {
            return Ok(());
        }
        let timeout = if self.links.has_more() {
            Some(Duration::ZERO)
        } else {
            self.links.outbox.next_deadline().map(|at| at.since(self.clock.mono()))
        };
        self.links.wait(&mut self.waiter, timeout)?;
        self.drive(self.clock.now(), Links::turn);
        Ok(())
    }

    /// Has the links do `work`, and collects the outcomes.
    fn drive(&mut self, now: Now, work: impl FnOnce(&mut Links, Now, Connect<'_>)) {
        let chosen_by = self.claimed.as_deref().map_or(ChosenBy::Us, ChosenBy::Peer);
        work(&mut self.links, now, &mut |key, target, token| {
            let Connected { mut stream, auth_token, is_remembered } =
                self.capabilities.connect(target, token, chosen_by)?;
            self.waiter
                .watch(&mut stream, key.index())
                .map_err(|cause| Error::new(ErrorKind::Io, "cannot watch a connection").with_source(cause))?;
            Ok(Connected { stream, auth_token, is_remembered })
        });
        while let Some(outcome) = self.links.outbox.next_outcome() {
            self.outcomes.push_back(outcome);
        }
    }
}

/// What was started and not written leaves with the client, as far as it can go without waiting.
impl Drop for Client {
    fn drop(&mut self) {
        self.write_gathered(self.clock.now());
    }
}

/// Where capabilities are looked up, and those that were found.
#[derive(Debug)]
struct Capabilities {
    dir: CapabilityDir,
    /// Of servers that were connected to, the latest last. One is forgotten when its server refuses a
    /// connection or the token.
    known: Vec<Capability>,
}

impl Capabilities {
    /// Connects to the server at `target`, with a token that was read before if it may be one.
    fn connect(
        &mut self,
        target: &Address,
        token: Token,
        chosen_by: ChosenBy<'_>,
    ) -> Result<Connected, Error> {
        if let Some(at) = self.known.iter().position(|known| known.address == *target) {
            let known = self.known.remove(at);
            if token == Token::Any {
                match connect(&known, chosen_by) {
                    Ok(stream) => return Ok(self.connected(stream, known, true)),
                    Err(error) if error.kind() == ErrorKind::Busy => {
                        self.known.push(known);
                        return Err(error);
                    }
                    // The server may be gone, and its capability with it: the file says more.
                    Err(_) => {}
                }
            }
        }
        let capability = look_up(&self.dir, target)?;
        let stream = connect(&capability, chosen_by)?;
        Ok(self.connected(stream, capability, false))
    }

    /// Remembers the capability of a server that was connected to.
    fn connected(&mut self, stream: ReadyStream, capability: Capability, is_remembered: bool) -> Connected {
        let auth_token = capability.auth_token.clone();
        if self.known.len() >= KNOWN_MAX {
            self.known.remove(0);
        }
        self.known.push(capability);
        Connected { stream, auth_token, is_remembered }
    }
}
