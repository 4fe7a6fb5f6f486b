//! A private inbox for one process, on a Unix domain socket, drained by the one thread that owns it.
//!
//! Other processes of the same user put messages into it: lines of JSON with a capability token on each,
//! answered in
//! order. Everything is bounded, nothing is called back from nowhere, and every refusal says why. What
//! goes over the wire
//! is in `docs/protocol.md`.
//!
//! # Owning an inbox
//!
//! ```no_run
//! # fn main() -> Result<(), udsmsg::Error> {
//! let mut server = udsmsg::Server::builder().start()?;
//! let mut batch = udsmsg::Batch::new();
//! loop {
//!     let _ = server.turn(None)?;
//!     server.drain_into(&mut batch);
//!     for entry in &batch {
//!         println!("{} from uid {}: {}", entry.id(), entry.peer().uid, entry.message().json());
//!     }
//! }
//! # }
//! ```
//!
//! A host with an event loop of its own watches [`Server::event_queue`] (a descriptor, level-triggered) and
//! [`Server::next_timeout`], and calls [`Server::process`].
//!
//! # Sending to one
//!
//! ```no_run
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
//! # Without any I/O
//!
//! [`Endpoint`] is the protocol as a value: bytes, time and facts about peers go in, bytes and deadlines
//! come out. With
//! `default-features = false` it is all there is, and it builds without mio and libc. [`proto`] has its
//! parts.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | (none) | the core, [`proto`] |
//! | `os` | addresses, capability files, the blocking [`Client`], [`Peers`] |
//! | `server` (default) | [`Server`], on mio; includes `os` |

#[cfg(all(feature = "os", not(unix)))]
compile_error!(
    "the features `os` and `server` need a Unix; the core builds anywhere with `default-features = false`"
);

#[cfg(feature = "os")]
pub mod client;
#[cfg(feature = "os")]
mod links;
#[cfg(feature = "os")]
pub mod os;
#[cfg(feature = "os")]
pub mod peers;
pub mod proto;
#[cfg(feature = "server")]
mod server;

pub use proto::auth::AuthToken;
pub use proto::endpoint::{Endpoint, Step};
pub use proto::error::{CloseReason, Error, ErrorKind};
pub use proto::inbox::{Batch, InboxEntry, MessageId};
pub use proto::limits::Limits;
pub use proto::message::{Message, Outgoing};
pub use proto::outbox::{QueryId, SendId, SendOutcome};
pub use proto::peer::PeerIdentity;
pub use proto::slots::ConnKey;
pub use proto::stats::Stats;
pub use proto::time::{Mono, Now, Wall};

#[cfg(feature = "os")]
pub use client::Client;
#[cfg(feature = "os")]
pub use os::names::address::Address;
#[cfg(feature = "os")]
pub use os::names::namespace::{Environment, Namespace};
#[cfg(feature = "os")]
pub use peers::{Peer, PeerState, Peers};
#[cfg(feature = "server")]
pub use server::{Server, ServerBuilder, ServerEvent, Turn, Waker, mio};

/// Keeps the examples of the README compiling.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
