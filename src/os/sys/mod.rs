//! Raw facts of the operating system, behind safe functions. The only directory that may hold `unsafe`; today
//! there is none, because `nix` and `rustix` wrap what is needed.
//!
//! A platform supplies:
//!
//! - who we are, who the peer is, and whether it is trusted: `effective_uid`, `peer_identity`, `Owner`
//! - writing to a peer that may be gone without a signal in the host: `send`; reading from it: `receive`
//! - waiting for descriptors: `wait`
//! - what stands at a name without following it, and which file it is: `Facts`, `FileId`
//! - sockets that refuse descriptors, and whether there are such: `refuse_descriptors`,
//!   `can_refuse_descriptors`
//! - the room for a path in a socket address: `SUN_PATH_BYTES`

#[cfg(unix)]
mod unix;

#[cfg(all(unix, feature = "server"))]
pub(crate) use unix::refuse_descriptors;
#[cfg(unix)]
pub(crate) use unix::{
    Facts, FileId, FileKind, SUN_PATH_BYTES, access_list_noted, chmod_unfollowed, facts_at, facts_of,
    facts_of_path, facts_unmounted, has_nothing_but, home_directory, is_refusal_proof, is_shut_down,
    is_writable, names_in, open_at, open_unmounted, pin, process_exists, receive, stream_socket, take_over,
    wait,
};
#[cfg(unix)]
pub use unix::{Owner, can_refuse_descriptors, effective_uid, peer_identity, send};
#[cfg(target_os = "linux")]
pub(crate) use unix::{open_here, open_path};
