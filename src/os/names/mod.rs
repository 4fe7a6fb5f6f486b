//! Names: which family a server belongs to, what its address is, where its socket stands by default.

pub(crate) mod address;
pub(crate) mod location;
pub(crate) mod namespace;
