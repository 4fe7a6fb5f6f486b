//! udsmsg
#[cfg(feature = "os")]
pub mod client;
#[cfg(feature = "os")]
pub mod os;
pub mod proto;
#[cfg(feature = "server")]
mod server;

pub use proto::auth::AuthToken;
pub use proto::endpoint::{Endpoint, Step};
pub use proto::error::{CloseReason, Error, ErrorKind};
pub use proto::inbox::{Batch, InboxEntry, MessageId};
pub use proto::limits::Limits;
pub use proto::message::{Message, Outgoing};
pub use proto::peer::PeerIdentity;
pub use proto::slots::ConnKey;
pub use proto::time::{Mono, Now, Wall};

#[cfg(feature = "os")]
pub use client::{Client, SendOutcome};
#[cfg(feature = "os")]
pub use os::address::Address;
#[cfg(feature = "os")]
pub use os::namespace::{Environment, Namespace};
#[cfg(feature = "server")]
pub use server::{Server, ServerBuilder, Turn, Waker};
