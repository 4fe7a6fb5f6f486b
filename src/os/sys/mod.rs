//! Raw facts of the operating system, behind safe functions. The only directory that may hold `unsafe`; for
//! Unix there is none, because `nix` and `rustix` wrap what is needed.
//!
//! A platform supplies:
//!
//! - who we are, who the peer is, and whether it is trusted: `effective_uid`, `peer_identity`, `Owner`
//! - writing to a peer that may be gone without a signal in the host: `send`; reading from it: `receive`
//! - waiting for descriptors: `wait`
//! - what stands at a name without following it, which file it is, and who else may use it: `Facts`, `FileId`
//! - files and directories that no other user can use: `create_private`, `make_private`, `make_dir`,
//!   `open_dir`
//! - sockets that refuse descriptors, and whether there are such: `refuse_descriptors`,
//!   `can_refuse_descriptors`
//! - the room for a path in a socket address: `SUN_PATH_BYTES`

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::*;
