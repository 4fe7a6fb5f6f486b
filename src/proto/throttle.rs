//! How fast one process may send: a bucket for each pid that leaks at a steady rate.

use std::collections::HashMap;
use std::time::Duration;

use super::time::Mono;

/// What a process may send at once, after a pause: one second's worth.
const BURST: Duration = Duration::from_secs(1);

/// When each process will have used up what it may, had it sent at exactly its rate (a generic cell rate algorithm).
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    used_up_at: HashMap<Option<u32>, Mono>,
}

impl Throttle {
    /// Whether process `pid` may send a line now; the error is when it may. Takes nothing. O(1).
    ///
    /// Processes that the system does not name share one bucket.
    pub(crate) fn check(&self, pid: Option<u32>, per_second: usize, now: Mono) -> Result<(), Mono> {
        let each = interval(per_second);
        let used_up_at = self.used_up_at.get(&pid).copied().unwrap_or_default();
        let ahead = used_up_at.max(now).since(now) + each;
        if ahead > BURST.max(each) {
            return Err(now.plus(ahead - BURST.max(each)));
        }
        Ok(())
    }

    /// Takes one line of process `pid`. O(1).
    pub(crate) fn charge(&mut self, pid: Option<u32>, per_second: usize, now: Mono) {
        let used_up_at = self.used_up_at.entry(pid).or_default();
        *used_up_at = (*used_up_at).max(now).plus(interval(per_second));
    }

    /// Forgets processes that may send at full rate again, if there are more than `max`. O(processes).
    pub(crate) fn prune(&mut self, max: usize, now: Mono) {
        if self.used_up_at.len() > max {
            self.used_up_at.retain(|_, used_up_at| *used_up_at > now);
        }
    }
}

/// From one line to the next.
fn interval(per_second: usize) -> Duration {
    Duration::from_nanos(1_000_000_000 / u64::try_from(per_second).unwrap_or(u64::MAX).max(1))
}
