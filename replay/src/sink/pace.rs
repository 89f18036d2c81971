//! How fast effects are applied at most. Pure: is told the time.

use redoubt_types::BootTime;
use std::time::Duration;

/// Parts of a second into which a limit is cut: a server is not to be given a second's worth at once.
const SLICES: u32 = 20;

/// A limit of commands per second.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    per_second: Option<u32>,
    /// When what was sent so far may have been sent.
    due: BootTime,
}

impl Pace {
    /// No more than `per_second`, if that is given and not 0.
    pub(super) fn new(per_second: Option<u32>, now: BootTime) -> Self {
        Pace {
            per_second: per_second.filter(|n| *n > 0),
            due: now,
        }
    }

    /// Commands of one batch at most, of `max` without a limit.
    pub(super) fn batch_max(&self, max: usize) -> usize {
        self.per_second
            .map_or(max, |n| max.min((n / SLICES).max(1) as usize))
    }

    /// `commands` were sent: how long to wait before the next.
    pub(super) fn sent(&mut self, commands: usize, now: BootTime) -> Duration {
        let Some(per_second) = self.per_second else {
            return Duration::ZERO;
        };
        // What was not used is lost: a pause is no reason for a burst.
        let since = if self.due.since(now).is_zero() {
            now
        } else {
            self.due
        };
        self.due = since.plus(Duration::from_secs(1).mul_f64(commands as f64 / f64::from(per_second)));
        self.due.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_no_more_commands_than_it_may() {
        let start = BootTime::new(Duration::from_secs(100));
        let mut pace = Pace::new(Some(1000), start);
        assert_eq!(pace.batch_max(1000), 50);
        let mut now = start;
        for _ in 0..20 {
            now = now.plus(pace.sent(50, now));
        }
        assert_eq!(now.since(start), Duration::from_secs(1));
        now = now.plus(Duration::from_secs(10));
        assert_eq!(
            pace.sent(50, now),
            Duration::from_millis(50),
            "a pause earns nothing"
        );
        let mut free = Pace::new(None, start);
        assert_eq!(
            (free.batch_max(1000), free.sent(1_000_000, start)),
            (1000, Duration::ZERO)
        );
    }
}
