//! What can go wrong, as a value: [`Error`] for operations that failed, [`CloseReason`] for connections that
//! ended.
//!
//! A closed connection is an outcome, not an error: the server goes on. Neither type ever holds a token.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// Why an operation failed. Match on it; the text of [`Error`] is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A field of [`Limits`](crate::proto::limits::Limits) is out of range or contradicts another.
    InvalidLimit,
    /// A socket path or address is empty, holds a NUL byte or is not UTF-8.
    InvalidAddress,
    /// A target carries `#token=`: tokens come from the capability file, never from an address.
    InlineAuthToken,
    /// A socket path does not fit `sun_path`.
    PathTooLong,
    /// A namespace does not match `[a-z][a-z0-9-]{0,31}`.
    InvalidNamespace,
    /// A token is not 64 lower-case hex digits.
    InvalidAuthToken,
    /// A message or a line is not what the protocol allows.
    InvalidMessage,
    /// A message is longer than the frame limit and was not sent.
    MessageTooLarge,
    /// A directory is a link, belongs to another user, or is open to others.
    DirectoryNotPrivate,
    /// There is something at the path that is not a dead server's socket.
    PathOccupied,
    /// A live server owns the path.
    AlreadyRunning,
    /// A listener that was handed over has no path, is not private, or is none.
    InvalidListener,
    /// No default location can be had: no home is known, or every candidate for the socket was refused.
    NoDefaultLocation,
    /// There is no capability file for the target.
    CapabilityMissing,
    /// The capability file exists, but cannot be trusted or read.
    CapabilityUnusable,
    /// No server listens at the target.
    NoSuchPeer,
    /// The other end belongs to another user.
    ForeignPeer,
    /// A path that a peer chose lies on a file system that may never answer; it was not touched.
    NotLocal,
    /// The receiver takes no connection now: its backlog is full, or it has too many clients.
    Busy,
    /// Too much is on its way already; nothing was taken.
    OutboxFull,
    /// A conversation went back and forth too often: two programs answer each other's answers.
    TooManyHops,
    /// It took longer than its timeout.
    TimedOut,
    /// Memory for a bounded buffer could not be had.
    OutOfMemory,
    /// The server has been shut down.
    ShutDown,
    /// The operating system refused something; the source says what.
    Io,
}

impl ErrorKind {
    /// A stable, machine-readable word for this kind.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidLimit => "invalid_limit",
            Self::InvalidAddress => "invalid_address",
            Self::InlineAuthToken => "inline_auth_token",
            Self::PathTooLong => "path_too_long",
            Self::InvalidNamespace => "invalid_namespace",
            Self::InvalidAuthToken => "invalid_auth_token",
            Self::InvalidMessage => "invalid_message",
            Self::MessageTooLarge => "message_too_large",
            Self::DirectoryNotPrivate => "directory_not_private",
            Self::PathOccupied => "path_occupied",
            Self::AlreadyRunning => "already_running",
            Self::InvalidListener => "invalid_listener",
            Self::NoDefaultLocation => "no_default_location",
            Self::CapabilityMissing => "capability_missing",
            Self::CapabilityUnusable => "capability_unusable",
            Self::NoSuchPeer => "no_such_peer",
            Self::ForeignPeer => "foreign_peer",
            Self::NotLocal => "not_local",
            Self::Busy => "busy",
            Self::OutboxFull => "outbox_full",
            Self::TooManyHops => "too_many_hops",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::ShutDown => "shut_down",
            Self::Io => "io",
        }
    }
}

/// A failed operation: a [kind](ErrorKind) for machines, one clear sentence for people, and the cause if
/// there is one.
pub struct Error {
    kind: ErrorKind,
    sentence: Box<str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `sentence`: what failed, on what, why, and what to do. Public for hosts
    /// that drive the core themselves and have to report what failed.
    pub fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into().into_boxed_str(), source: None }
    }

    /// Memory for `what` could not be had.
    pub(crate) fn no_memory(what: fmt::Arguments<'_>) -> Self {
        Self::new(ErrorKind::OutOfMemory, format!("no memory for {what}"))
    }

    /// A message or a line is not what the protocol allows, as `sentence` says.
    pub(crate) fn invalid_message(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidMessage, sentence)
    }

    /// The same with the error that caused it; its text is appended to the sentence by `Display`.
    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A copy for another message that failed for the same reason. Its sentence includes the cause.
    pub(crate) fn restated(&self) -> Self {
        Self::new(self.kind, self.to_string())
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A stable, machine-readable word: [`ErrorKind::code`].
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}: {self})", self.code())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.source.as_deref()?)
    }
}

/// Why a connection ended, with the exact text that its peer is sent, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// A line was not valid UTF-8 or JSON, or its fields had the wrong types.
    InvalidFrame,
    /// A message came without the right token.
    Unauthorized,
    /// A message did not fit the inbox.
    InboxFull,
    /// No authenticated message came in time.
    AuthTimeout,
    /// No byte was sent or received for too long.
    IdleTimeout,
    /// A line was begun and not finished in time.
    FrameTimeout,
    /// All slots were taken, or this client had to make room for another.
    TooManyClients,
    /// A line is longer than the frame limit.
    FrameTooLong {
        /// Bytes of it that had been seen when it was refused.
        seen: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The peer finished sending, and all its answers were written.
    PeerFinished,
    /// The peer is gone; its pending answers were dropped.
    PeerGone,
    /// The peer did not take its answers in time.
    OutputStalled,
    /// The server stopped.
    ShutDown,
}

impl CloseReason {
    /// The `data` of the error line that the peer is sent; `None` if it is sent none.
    pub(crate) fn wire_text(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::InvalidFrame => "invalid frame",
            Self::Unauthorized => "unauthorized",
            Self::InboxFull => "inbox full",
            Self::AuthTimeout => "authentication timeout",
            Self::IdleTimeout | Self::FrameTimeout => "idle timeout",
            Self::TooManyClients => "too many clients",
            Self::FrameTooLong { seen, limit } => {
                return Some(Cow::Owned(format!("NDJSON frame exceeded {limit} bytes ({seen})")));
            }
            Self::PeerFinished | Self::PeerGone | Self::OutputStalled | Self::ShutDown => return None,
        }))
    }
}
