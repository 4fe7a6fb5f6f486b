//! The sender: one call, one answer that cannot be mistaken.
//!
//! [`Client`] blocks its caller and nothing else: every socket under it is non-blocking, and one deadline spans looking
//! up the capability, connecting, writing and waiting for the answer.

use std::fmt;
use std::time::Duration;

use crate::os::address::Address;
use crate::os::capability::{Capability, CapabilityDir};
use crate::os::clock::Clock;
use crate::os::namespace::{Environment, Namespace};
use crate::os::socket::{self, ClientStream, Ready};
use crate::os::sys;
use crate::proto::error::{CloseReason, Error, ErrorKind};
use crate::proto::framer::{FrameOutcome, Framer};
use crate::proto::limits::Limits;
use crate::proto::message::{Answer, Outgoing};
use crate::proto::ring::Ring;
use crate::proto::time::{Mono, Wall};

/// How long a message may take from the call to its answer, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Waiting between two attempts when the receiver is busy: doubles from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// What became of one message. There is no success that could be mistaken for another.
#[derive(Debug)]
#[must_use]
pub enum SendOutcome {
    /// It is in the receiver's inbox (or, for a ping, the receiver is alive).
    Accepted {
        /// The receiver's name for it, as `uds-7`. A pong has none, and some receivers give none.
        id: Option<String>,
    },
    /// The receiver said no, and why. It is not in the inbox.
    Rejected {
        /// The receiver's reason.
        reason: String,
    },
    /// It never reached the receiver whole. Sending it again cannot send it twice.
    NotSent(Error),
    /// It was written, and no answer came that could be understood. It may be in the inbox or not.
    Unknown(Error),
}

impl SendOutcome {
    /// Whether the receiver said yes.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

/// One sentence for people, beginning with the words that scripts may know from other senders.
impl fmt::Display for SendOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { id: Some(id) } => write!(f, "accepted as {id}"),
            Self::Accepted { id: None } => f.write_str("accepted"),
            Self::Rejected { reason } => f.write_str(reason),
            Self::NotSent(error) => write!(f, "{error} (not sent)"),
            Self::Unknown(error) => {
                write!(f, "{error} (the message was written; whether it arrived is unknown)")
            }
        }
    }
}

/// Sends messages to servers of the same user.
#[derive(Clone, Debug)]
pub struct Client {
    capabilities: CapabilityDir,
    timeout: Duration,
    from: Option<Address>,
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
        Ok(Self { capabilities: CapabilityDir::of(namespace, environment)?, timeout: TIMEOUT, from: None })
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

    /// Sends one message and waits for its answer. Blocks for at most the timeout.
    ///
    /// A receiver that is busy (a full backlog, `too many clients`) is tried again within that time, because then
    /// nothing was taken.
    pub fn send(&self, target: &Address, message: &Outgoing) -> SendOutcome {
        let clock = Clock::new();
        let deadline = clock.now().mono.plus(self.timeout);
        let line = match self.encode(target, message, &clock) {
            Ok(line) => line,
            Err(error) => return SendOutcome::NotSent(error),
        };
        let mut pause = BACKOFF.0;
        loop {
            let attempt = Attempt { clock: &clock, deadline, target };
            let busy = match attempt.run(&line) {
                Attempted::Done(outcome) => return outcome,
                Attempted::Busy(error) => error,
            };
            let left = deadline.since(clock.now().mono);
            if left <= pause {
                return SendOutcome::NotSent(busy);
            }
            socket::pause(pause);
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Asks whether the server is alive and takes our token.
    pub fn ping(&self, target: &Address) -> SendOutcome {
        self.send(target, &Outgoing::new("ping"))
    }

    /// The line to send, with the token of the target.
    fn encode(&self, target: &Address, message: &Outgoing, clock: &Clock) -> Result<Vec<u8>, Error> {
        target.check_length()?;
        let capability = self.capabilities.read(target).map_err(|error| {
            Error::new(error.kind(), "Cannot send UDS message without auth token").with_source(error)
        })?;
        let now = clock.now().wall.to_string();
        let from = self.from.as_ref().map(Address::path);
        message.encode(&capability.auth_token, from, Some(&now), Limits::default().frame_bytes_max)
    }
}

/// How one attempt ended.
enum Attempted {
    Done(SendOutcome),
    /// Nothing was taken, and trying again may help.
    Busy(Error),
}

/// One connection, one line, one answer.
struct Attempt<'a> {
    clock: &'a Clock,
    deadline: Mono,
    target: &'a Address,
}

impl Attempt<'_> {
    fn run(&self, line: &[u8]) -> Attempted {
        let mut stream = match ClientStream::connect(self.target) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Attempted::Busy(error),
            Err(error) => return Attempted::Done(SendOutcome::NotSent(error)),
        };
        if let Err(error) = check_peer(&stream, self.target) {
            return Attempted::Done(SendOutcome::NotSent(error));
        }
        let mut answers = match Answers::new() {
            Ok(answers) => answers,
            Err(error) => return Attempted::Done(SendOutcome::NotSent(error)),
        };
        let mut written = 0;
        let mut is_writing = true;
        loop {
            let left = self.deadline.since(self.clock.now().mono);
            if left.is_zero() {
                let timed_out = Error::new(ErrorKind::TimedOut, "Connection timed out");
                return Attempted::Done(self.without_answer(timed_out, written == line.len()));
            }
            match stream.wait(is_writing, left) {
                Err(error) => return Attempted::Done(self.without_answer(error, written == line.len())),
                Ok(Ready { can_write, can_read }) => {
                    if can_write && is_writing {
                        match stream.write(line.get(written..).unwrap_or_default()) {
                            Ok(n) => written += n,
                            // The reason may be waiting to be read.
                            Err(_) => is_writing = false,
                        }
                        is_writing &= written < line.len();
                    }
                    if can_read && let Some(outcome) = answers.read(&mut stream, written == line.len()) {
                        return outcome;
                    }
                }
            }
        }
    }

    fn without_answer(&self, error: Error, is_written: bool) -> SendOutcome {
        if is_written { SendOutcome::Unknown(error) } else { SendOutcome::NotSent(error) }
    }
}

/// The token must not leave before it is known who will get it.
fn check_peer(stream: &ClientStream, target: &Address) -> Result<(), Error> {
    let peer = stream.peer()?;
    if peer.is_trusted_by(sys::effective_uid()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ForeignPeer,
        format!("{:?} is served by user id {}, who gets no token from us", target.path(), peer.uid),
    ))
}

/// One ping on its way, for a caller that asks many at once and waits for all of them together.
pub(crate) struct Ping {
    stream: ClientStream,
    answers: Answers,
}

/// What became of a ping.
pub(crate) enum Pinged {
    /// Somebody answered: with a pong, or that there is no room for us now.
    Answered,
    /// Somebody answered that it is refused, and why.
    Refused(String),
    /// No answer that could be understood.
    Silent(Error),
}

impl Ping {
    /// Connects and writes, or says at once why not. Never waits.
    pub(crate) fn start(capability: &Capability, now: Wall) -> Result<Self, Error> {
        let target = &capability.address;
        let mut stream = ClientStream::connect(target)?;
        check_peer(&stream, target)?;
        let frame_bytes_max = Limits::default().frame_bytes_max;
        let now = now.to_string();
        let line = Outgoing::new("ping").encode(&capability.auth_token, None, Some(&now), frame_bytes_max)?;
        let answers = Answers::new()?;
        // A new socket has room for a line this short; if the other end is gone, its reason may be waiting.
        match stream.write(&line) {
            Ok(n) if n == line.len() => {}
            _ => tracing::debug!(target = %target, "a ping could not be written whole"),
        }
        Ok(Self { stream, answers })
    }

    /// What to wait for.
    pub(crate) fn stream(&self) -> &ClientStream {
        &self.stream
    }

    /// Reads once; `None` if the answer has not come yet.
    pub(crate) fn answer(&mut self) -> Option<Pinged> {
        Some(match self.answers.read(&mut self.stream, true)? {
            Attempted::Busy(_) | Attempted::Done(SendOutcome::Accepted { .. }) => Pinged::Answered,
            Attempted::Done(SendOutcome::Rejected { reason }) => Pinged::Refused(reason),
            Attempted::Done(SendOutcome::NotSent(error) | SendOutcome::Unknown(error)) => {
                Pinged::Silent(error)
            }
        })
    }
}

/// The lines that come back.
struct Answers {
    ring: Ring,
    framer: Framer,
}

impl Answers {
    fn new() -> Result<Self, Error> {
        let frame_bytes_max = Limits::default().frame_bytes_max;
        Ok(Self { ring: Ring::new(frame_bytes_max + 1)?, framer: Framer::new(frame_bytes_max) })
    }

    /// Reads once and looks for the answer; `None` if it has not come yet.
    fn read(&mut self, stream: &mut ClientStream, is_written: bool) -> Option<Attempted> {
        let unknown = |kind, sentence: &str| {
            let error = Error::new(kind, sentence);
            let outcome = if is_written { SendOutcome::Unknown(error) } else { SendOutcome::NotSent(error) };
            Some(Attempted::Done(outcome))
        };
        let is_over = match stream.read(self.ring.spare_mut()) {
            Ok(Some(0)) | Err(_) => true,
            Ok(Some(n)) => {
                self.ring.filled(n);
                false
            }
            Ok(None) => return None,
        };
        loop {
            let line = match self.framer.next_frame(&mut self.ring) {
                FrameOutcome::Frame(line) => line,
                FrameOutcome::NeedMore if is_over => {
                    return unknown(ErrorKind::Io, "UDS socket ended before response");
                }
                FrameOutcome::NeedMore => return None,
                FrameOutcome::TooLong { .. } => {
                    return unknown(ErrorKind::InvalidMessage, "UDS response frame exceeded size limit");
                }
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match Answer::from_line(line) {
                Ok(Answer::Other) => {}
                Ok(Answer::Accepted { id }) => return Some(Attempted::Done(SendOutcome::Accepted { id })),
                Ok(Answer::Pong) => return Some(Attempted::Done(SendOutcome::Accepted { id: None })),
                Ok(Answer::Rejected { reason }) => {
                    let reason =
                        reason.map_or_else(|| "UDS receiver rejected message".to_owned(), |r| r.into_owned());
                    if CloseReason::TooManyClients.wire_text().is_some_and(|busy| busy == reason) {
                        return Some(Attempted::Busy(Error::new(ErrorKind::TimedOut, reason)));
                    }
                    return Some(Attempted::Done(SendOutcome::Rejected { reason }));
                }
                Err(error) => {
                    let error = Error::new(ErrorKind::InvalidMessage, "Invalid UDS response frame")
                        .with_source(error);
                    return Some(Attempted::Done(SendOutcome::Unknown(error)));
                }
            }
        }
    }
}
