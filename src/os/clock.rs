//! The only place that reads the clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::proto::time::{Mono, Now, Wall};

/// Both clocks, with the origin that this clock's [`Mono`] moments are counted from.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is this moment.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default that reads the clock would surprise")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// What time it is. Read it once per turn.
    pub fn now(&self) -> Now {
        // A wall clock before 1970 is taken as 1970: it is told to people, nothing is computed from it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = since.as_secs().saturating_mul(1_000).saturating_add(u64::from(since.subsec_millis()));
        Now { mono: self.mono(), wall: Wall::from_millis(millis) }
    }

    /// The same without the time of day: for how long a wait may be.
    pub(crate) fn mono(&self) -> Mono {
        Mono::after_origin(self.origin.elapsed())
    }
}
