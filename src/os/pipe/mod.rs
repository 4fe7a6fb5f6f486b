//! Named pipes: a name taken, held and given back; a connection to a server, and its bytes.

#[cfg(feature = "server")]
pub(crate) mod claim;
pub(crate) mod connect;
#[cfg(feature = "server")]
pub(crate) mod listener;
pub(crate) mod stream;
pub(crate) mod waiter;
