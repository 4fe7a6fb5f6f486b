//! The sans-IO core: every rule of the protocol, and no socket, clock, file or randomness.
//!
//! [`endpoint::Endpoint`] is given bytes, time and facts about peers, and returns bytes, deadlines and
//! outcomes.

pub mod auth;
pub mod buffers;
pub mod endpoint;
pub mod error;
pub mod framer;
pub mod inbox;
pub mod json;
pub mod limits;
pub mod message;
pub mod outbox;
mod output;
pub mod peer;
pub mod ring;
pub mod slots;
pub mod stats;
#[cfg(test)]
mod test_scale;
pub mod time;
pub mod wheel;
