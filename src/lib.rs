//! A private inbox for one process, on a Unix domain socket, drained by the one thread that owns it.
//!
//! Other processes of the same user put messages into it: lines of JSON with a capability token on each,
//! answered in order. Everything is bounded, nothing is called back, and every refusal says why. What goes
//! over the wire is in `docs/protocol.md`.
//!
//! # Own an inbox
//!
#![cfg_attr(feature = "server", doc = "```no_run")]
#![cfg_attr(not(feature = "server"), doc = "```text")]
//! # fn main() -> Result<(), udsmsg::Error> {
//! let mut server = udsmsg::Server::builder().start()?;
//! let mut batch = udsmsg::Batch::new();
//! loop {
//!     let _ = server.turn(None)?;
//!     server.drain_into(&mut batch);
//!     for entry in &batch {
//!         println!("{} from {}: {}", entry.id(), entry.peer(), entry.message().json());
//!     }
//! }
//! # }
//! ```
//!
//! [`Server`] also sends: messages, answers and questions. [`Limits`] bound it, [`Stats`] tell what it did,
//! and [`Namespace`], [`Address`] and [`Location`] say where it is.
//!
//! # Send to one
//!
#![cfg_attr(feature = "os", doc = "```no_run")]
#![cfg_attr(not(feature = "os"), doc = "```text")]
//! use udsmsg::{Address, Client, Outgoing, SendOutcome};
//!
//! # fn main() -> Result<(), udsmsg::Error> {
//! let target = Address::parse("uds:/run/user/1000/app-socks/1-00/messaging.sock")?;
//! match Client::new()?.send(&target, &Outgoing::new("text").with_text("hello")) {
//!     SendOutcome::Accepted { id } => println!("in the inbox as {id:?}"),
//!     SendOutcome::Rejected { reason } => println!("refused: {reason}"),
//!     SendOutcome::NotSent(why) => println!("nothing left here: {why}"),
//!     SendOutcome::Unknown(why) => println!("it may or may not be there: {why}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] blocks its caller. A program with an inbox sends with [`Server::send`], which does not.
//! [`Peers`] finds the servers that there are, and [`peers`] describes them.
//!
//! # Embed it in a loop
//!
//! A host with an event loop of its own watches [`Server::event_queue`] (a descriptor, level-triggered) and
//! [`Server::next_timeout`], and calls [`Server::process`]. One that uses [`mio`] lends its loop with
//! [`ServerBuilder::start_in`]. Other threads use a [`Waker`].
//!
//! # Drive the core
//!
//! [`Endpoint`] is the protocol as a value: bytes, time and facts about peers go in, bytes and deadlines
//! come out. With `default-features = false` it is all there is, and it builds without mio and libc. The
//! types of its arguments, and what it is made of, are in [`parts`].
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | (none) | the core: [`Endpoint`], [`parts`] |
//! | `os` | addresses, the blocking [`Client`], [`Peers`], [`os`] |
//! | `server` (default) | [`Server`], on mio; includes `os` |
//!
//! # What may change
//!
//! The root and [`peers`] change in a major version only; [`os`] and [`parts`] may change in a minor one.
//!
// Where a feature leaves names out, the text above leads to the documentation that has them.
#![cfg_attr(not(feature = "os"), doc = include_str!("../docs/rustdoc/without-os.md"))]
#![cfg_attr(not(feature = "server"), doc = include_str!("../docs/rustdoc/without-server.md"))]

#[cfg(all(feature = "os", not(any(unix, windows))))]
compile_error!(
    "the features `os` and `server` need a Unix or Windows; \
     the core builds anywhere with `default-features = false`"
);

#[cfg(feature = "os")]
mod client;
#[cfg(feature = "os")]
mod links;
#[cfg(feature = "os")]
pub mod os;
#[cfg(feature = "os")]
pub mod peers;
mod proto;
#[cfg(feature = "server")]
mod server;

#[doc(inline)]
pub use proto::{
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    inbox::{Batch, InboxEntry, MessageId},
    limits::Limits,
    message::{Data, Message, Outgoing},
    outbox::{QueryId, SendId, SendOutcome},
    peer::PeerIdentity,
    stats::{ConnectionStats, Stats},
    time::Wall,
};

#[cfg(windows)]
#[doc(inline)]
pub use proto::sid::Sid;

#[cfg(feature = "os")]
#[doc(inline)]
pub use {
    client::Client,
    os::names::address::Address,
    os::names::location::Location,
    os::names::namespace::{Environment, Namespace},
    peers::Peers,
};

#[cfg(feature = "server")]
#[doc(inline)]
pub use server::{Server, ServerBuilder, ServerEvent, Turn, Waker, mio};

/// What the core is made of, for hosts that drive an [`Endpoint`] themselves, and for fuzzers and benchmarks.
///
/// **It may change in a minor version**, unlike everything at the root. It needs no feature.
///
/// - Driving an [`Endpoint`]: [`Step`](parts::Step), [`RecvSpace`](parts::RecvSpace),
///   [`ConnKey`](parts::ConnKey), [`AuthToken`](parts::AuthToken),
///   [`CloseReason`](parts::CloseReason), [`Now`](parts::Now), [`Mono`](parts::Mono).
/// - Sending without I/O: [`Outbox`](parts::Outbox), [`LinkStep`](parts::LinkStep),
///   [`LinkSpace`](parts::LinkSpace), [`Queries`](parts::Queries).
/// - Bytes and lines: [`Ring`](parts::Ring), [`BufferPool`](parts::BufferPool),
///   [`Framer`](parts::Framer), [`json`](parts::json).
/// - What a line means: [`Request`](parts::Request), [`Reply`](parts::Reply), [`Answer`](parts::Answer).
/// - Keys and timers: [`Slots`](parts::Slots), [`Wheel`](parts::Wheel).
/// - Types that are rarely named: [`BatchIter`](parts::BatchIter), [`ClosedStats`](parts::ClosedStats).
pub mod parts {
    #[doc(inline)]
    pub use crate::proto::{
        auth::AuthToken,
        buffers::BufferPool,
        endpoint::{RecvSpace, Step},
        error::CloseReason,
        framer::{FrameOutcome, Framer},
        inbox::BatchIter,
        json,
        message::{Answer, Reply, Request},
        outbox::{LinkSpace, LinkStep, Outbox, Queries},
        ring::Ring,
        slots::{ConnKey, Slots},
        stats::ClosedStats,
        time::{Mono, Now},
        wheel::Wheel,
    };
}

/// Keeps the examples of the README compiling.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
