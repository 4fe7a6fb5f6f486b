//! udsmsg
#[cfg(feature = "os")]
pub mod os;
pub mod proto;

pub use proto::auth::AuthToken;
pub use proto::error::{CloseReason, Error, ErrorKind};
pub use proto::limits::Limits;
