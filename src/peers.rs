//! Which other servers there are: each with a capability file in a namespace, whether it lives, and what the
//! dead left behind.
//!
//! [`Peers::list`] changes nothing; it connects to each server that may live and pings it, many at once,
//! within one bound for all. [`Peers::sweep`] removes what is provably dead and ours.
//!
//! Any program of our user can have written the files: what they say is bounded, no link is followed, and a
//! path is to be escaped before it is shown (`{:?}` does).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

#[doc(inline)]
pub use crate::os::files::{
    process::{ProcessIdentity, ProcessStart, ProcessState},
    sweep::{Fate, Remains, Swept},
};

use crate::client::Client;
use crate::os::clock::Clock;
use crate::os::files::capability::{Capability, CapabilityDir, is_capability_name};
use crate::os::files::sweep::{NAMES_MAX, Sweep};
use crate::os::names::address::Address;
use crate::os::names::location::own_directories;
use crate::os::names::namespace::{Environment, Namespace};
use crate::os::random::Random;
use crate::proto::error::{Error, ErrorKind};
use crate::proto::message::Outgoing;
use crate::proto::outbox::SendOutcome;
use crate::proto::time::Wall;

/// How long all servers together may take to answer, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Servers that are asked at the same time: each takes a descriptor and a buffer.
const ASKED_AT_ONCE: usize = 64;

/// Of the time for all, the part that one server may take: silent servers leave some to the next.
const PART_OF_ONE: u32 = 4;

/// Whether a peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// It answered.
    Live,
    /// It did not answer, and it cannot be proven that it has ended.
    Unknown,
    /// Its process has provably ended.
    Dead,
    /// Its capability file must not be believed, or the server there does not take its token.
    Unusable,
}

impl PeerState {
    /// A stable, machine-readable word for this state.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Unknown => "unknown",
            Self::Dead => "dead",
            Self::Unusable => "unusable",
        }
    }
}

/// One server with a capability file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// The name of its capability file.
    pub file_name: String,
    /// Its address; `None` if the file cannot be believed.
    pub address: Option<Address>,
    /// The process that published it, if it says so.
    pub process: Option<ProcessIdentity>,
    /// When it was published.
    pub published_at: Option<Wall>,
    /// How long ago that was.
    pub age: Option<Duration>,
    /// Whether it lives.
    pub state: PeerState,
    /// Why it is taken to be so, in words.
    pub reason: String,
}

impl Peer {
    /// Its pid, in its own pid namespace, if it says so.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }
}

/// The servers of one namespace.
#[derive(Clone, Debug)]
pub struct Peers {
    namespace: Namespace,
    environment: Environment,
    capabilities: CapabilityDir,
    timeout: Duration,
}

/// What [`Peers::list`] found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PeerList {
    /// Live servers first, then the unknown, the dead and the unusable; the youngest first among each.
    pub peers: Vec<Peer>,
    /// Whether these are all: of very many files, each call looks at others.
    pub is_complete: bool,
}

/// What [`Peers::sweep`] did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SweepReport {
    /// Everything that was looked at.
    pub swept: Vec<Swept>,
    /// Whether this is all that there is.
    pub is_complete: bool,
    /// A sentence about each directory that holds more than one call looks at. The next call looks at others,
    /// unless others have put more than a million names there.
    pub truncated: Vec<String>,
}

impl Peers {
    /// The servers of the default namespace.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoDefaultLocation`] if the environment leads to no config home.
    pub fn new() -> Result<Self, Error> {
        Self::in_namespace(&Namespace::default(), &Environment::from_process())
    }

    /// The servers of another namespace or environment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoDefaultLocation`] if the environment leads to no config home.
    pub fn in_namespace(namespace: &Namespace, environment: &Environment) -> Result<Self, Error> {
        Ok(Self {
            namespace: namespace.clone(),
            environment: environment.clone(),
            capabilities: CapabilityDir::of(namespace, environment)?,
            timeout: TIMEOUT,
        })
    }

    /// How long all servers together may take to answer. Default 2 s; a single one gets a quarter of it.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Every server with a capability file. Changes nothing; blocks for at most the timeout.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DirectoryNotPrivate`] if the directory of the capability files must not be believed;
    /// [`ErrorKind::Io`]. One that does not exist holds no file.
    pub fn list(&self) -> Result<PeerList, Error> {
        let Some(dir) = self.capabilities.open_existing()? else {
            return Ok(PeerList { peers: Vec::new(), is_complete: true });
        };
        let (names, is_complete) = dir.names(NAMES_MAX, is_capability_name, &mut Random::from_os()?)?;
        let now = Clock::new().now().wall;
        let mut peers = Vec::new();
        let origin = dir.origin();
        for file_name in names {
            let found = dir.read_named(&file_name);
            // Removed by a stop since it was listed.
            if found.as_ref().is_err_and(|error| error.kind() == ErrorKind::CapabilityMissing) {
                continue;
            }
            let mut peer = Peer {
                file_name,
                address: None,
                process: None,
                published_at: None,
                age: None,
                state: PeerState::Unusable,
                reason: String::new(),
            };
            match found {
                Err(error) => peer.reason = error.to_string(),
                Ok(found) => {
                    let (state, why) = found.publisher_state(origin);
                    let is_dead = state == ProcessState::Dead;
                    peer.state = if is_dead { PeerState::Dead } else { PeerState::Unknown };
                    peer.reason = why.to_owned();
                    let Capability { address, process, published_at, .. } = found.capability;
                    let age = now.as_millis().saturating_sub(published_at.as_millis());
                    peer.age = Some(Duration::from_millis(age));
                    (peer.address, peer.process, peer.published_at) =
                        (Some(address), process, Some(published_at));
                }
            }
            peers.push(peer);
        }
        self.ask(&mut peers)?;
        peers.sort_by(|a, b| (a.state, a.age, &a.file_name).cmp(&(b.state, b.age, &b.file_name)));
        Ok(PeerList { peers, is_complete })
    }

    /// Removes what dead servers of ours left behind, or with `is_dry` says what would be removed.
    ///
    /// A thing is removed only if its process is provably dead and its socket refuses; see
    /// [`ProcessIdentity::state_and_reason`]. What a server that starts at the same time makes is not
    /// touched.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DirectoryNotPrivate`] if the directory of the capability files must not be believed;
    /// [`ErrorKind::Io`]. What cannot be removed is no error but [`Fate::Failed`].
    pub fn sweep(&self, is_dry: bool) -> Result<SweepReport, Error> {
        let dir = self.capabilities.open_existing()?;
        let (swept, truncated) = Sweep::run(dir.as_ref(), &self.namespace, &self.environment, is_dry)?;
        Ok(SweepReport { swept, is_complete: truncated.is_empty(), truncated })
    }

    /// Pings the servers of which it is not known whether they live.
    fn ask(&self, peers: &mut [Peer]) -> Result<(), Error> {
        let clock = Clock::new();
        let part = self.timeout / PART_OF_ONE;
        let last_start = clock.now().mono.plus(self.timeout - part);
        let own = own_directories(&self.namespace, &self.environment);
        let mut client = Client::with_capabilities(self.capabilities.clone())?
            .with_claimed_targets(own)
            .with_timeout(part);
        let mut waiting = peers.iter_mut().filter(|peer| peer.state == PeerState::Unknown);
        let mut asked = HashMap::new();
        loop {
            while asked.len() < ASKED_AT_ONCE && clock.now().mono <= last_start {
                let Some(peer) = waiting.next() else { break };
                let Some(address) = &peer.address else { continue };
                if !Path::new(address.path()).is_absolute() {
                    peer.note("its socket path is relative, and it is not known to which directory");
                    continue;
                }
                match client.start(address, &Outgoing::new("ping")) {
                    Ok(id) => {
                        asked.insert(id, peer);
                    }
                    Err(error) => peer.note_no_answer(&error),
                }
            }
            let Some((id, outcome)) = client.next_outcome()? else { break };
            if let Some(peer) = asked.remove(&id) {
                peer.note_answer(&outcome);
            }
        }
        for peer in waiting {
            peer.note("the time was over before it could be asked");
        }
        Ok(())
    }
}

impl Peer {
    fn note_answer(&mut self, outcome: &SendOutcome) {
        match outcome {
            SendOutcome::Accepted { .. } => {
                self.state = PeerState::Live;
                self.reason = String::from("it answered");
            }
            SendOutcome::Rejected { reason } => {
                self.state = PeerState::Unusable;
                self.reason = format!("the server there refuses: {reason:?}");
            }
            // A busy server counts as live.
            SendOutcome::NotSent(error) if error.kind() == ErrorKind::Busy => {
                self.state = PeerState::Live;
                self.reason = String::from("it answered that it is busy");
            }
            SendOutcome::NotSent(error) | SendOutcome::Unknown(error) => self.note_no_answer(error),
        }
    }

    fn note_no_answer(&mut self, error: &Error) {
        match error.kind() {
            ErrorKind::ForeignPeer | ErrorKind::PathTooLong => {
                self.state = PeerState::Unusable;
                self.reason = error.to_string();
            }
            ErrorKind::TimedOut => self.note("no answer came in time"),
            _ => self.note(&error.to_string()),
        }
    }

    /// Adds to what is known of its process.
    fn note(&mut self, what: &str) {
        self.reason = format!("{}; {what}", self.reason);
    }
}
