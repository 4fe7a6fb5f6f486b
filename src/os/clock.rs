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
        let mono = Mono::after_origin(self.origin.elapsed());
        // A wall clock before 1970 is taken as 1970: it is told to people, nothing is computed from it.
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Now { mono, wall: Wall::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)) }
    }
}
