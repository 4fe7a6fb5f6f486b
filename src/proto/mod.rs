//! The sans-IO core: every rule of the protocol, and no socket, clock, file or randomness.
//!
//! [`endpoint::Endpoint`] is given bytes, time and facts about peers, and gives back bytes, deadlines and outcomes.

pub mod auth;
pub mod error;
pub mod limits;
pub mod message;
pub mod scan;
pub mod peer;
pub mod time;
