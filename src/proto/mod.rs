//! The sans-IO core: every rule of the protocol, and no socket, clock, file or randomness.
//!
//! [`endpoint::Endpoint`] is given bytes, time and facts about peers, and returns bytes, deadlines and
//! outcomes.

pub(crate) mod auth;
pub(crate) mod buffers;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod framer;
pub(crate) mod inbox;
pub mod json;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod outbox;
mod output;
pub(crate) mod peer;
pub(crate) mod ring;
#[cfg(windows)]
pub(crate) mod sid;
pub(crate) mod slots;
pub(crate) mod stats;
#[cfg(test)]
mod test_scale;
pub(crate) mod time;
pub(crate) mod wheel;
