//! Names: which family a server belongs to, what its address is, where its socket stands by default.

pub mod address;
pub mod location;
pub mod namespace;
