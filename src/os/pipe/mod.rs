//! Named pipes: a name taken, held and given back; a connection to a server, and its bytes.

pub(crate) mod listener;
pub(crate) mod stream;
pub(crate) mod waiter;
