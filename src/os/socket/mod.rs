//! Sockets: a name taken, held and given back.

mod adopt;
pub mod claim;
mod file;
pub(crate) mod lock;
pub(crate) mod probe;
