//! Sockets: taking a name and giving it back.

pub mod claim;
