//! Sockets: a name taken, held and given back; a connection to a server, and its bytes.

mod adopt;
pub(crate) mod claim;
pub(crate) mod connect;
mod file;
pub(crate) mod lock;
pub(crate) mod probe;
pub(crate) mod stream;
pub(crate) mod waiter;
