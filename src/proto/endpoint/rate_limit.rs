//! How fast one process may send: a bucket for each pid that leaks at a steady rate.

use std::collections::HashMap;
use std::time::Duration;

use crate::proto::time::Mono;

/// What a process may send at once, after a pause: one second's worth.
const BURST: Duration = Duration::from_secs(1);

/// When each process will have used up what it may, had it sent at exactly its rate (a generic cell rate
/// algorithm).
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    used_up_at: HashMap<Option<u32>, Mono>,
}

impl RateLimiter {
    /// Takes one line of process `pid`, now if it may send one now; otherwise the error is when, and the line
    /// is reserved for then. So connections of one process go on in the order in which they had to wait.
    /// O(1).
    ///
    /// Processes that the system does not name share one bucket.
    pub(super) fn take(&mut self, pid: Option<u32>, lines_per_second: usize, now: Mono) -> Result<(), Mono> {
        let rate = u64::try_from(lines_per_second).unwrap_or(u64::MAX).max(1);
        let each = Duration::from_nanos(1_000_000_000 / rate);
        let used_up_at = self.used_up_at.entry(pid).or_default();
        *used_up_at = (*used_up_at).max(now).plus(each);
        let (ahead, burst) = (used_up_at.since(now), BURST.max(each));
        if ahead > burst { Err(now.plus(ahead - burst)) } else { Ok(()) }
    }

    /// Forgets processes that may send at full rate again, if there are more than `max`. O(processes).
    pub(super) fn prune(&mut self, max: usize, now: Mono) {
        if self.used_up_at.len() > max {
            self.used_up_at.retain(|_, used_up_at| *used_up_at > now);
        }
    }
}
