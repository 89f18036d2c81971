//! Whether the disk has become slow: how long its syncs take.

use redoubt_types::BootTime;
use std::time::Duration;

/// A sync that takes longer is slow: a hundred times what a sound disk needs, and less than an election waits.
const SLOW_SYNC: Duration = Duration::from_millis(500);
/// For how long no sync must have been fast, for the disk to be slow. One long sync is a hiccup.
const SLOW_FOR: Duration = Duration::from_secs(3);

/// How long syncs took lately. Pure.
#[derive(Debug, Default)]
pub(crate) struct SyncTimes {
    /// When the one that is under way began.
    begun: Option<BootTime>,
    /// When the first slow one began behind which there was no fast one.
    slow_since: Option<BootTime>,
}

impl SyncTimes {
    /// A sync begins.
    pub(crate) fn begin(&mut self, now: BootTime) {
        self.begun = Some(now);
    }

    /// The sync ended.
    pub(crate) fn end(&mut self, now: BootTime) {
        let Some(begun) = self.begun.take() else { return };
        if now.since(begun) < SLOW_SYNC {
            self.slow_since = None;
        } else {
            self.slow_since.get_or_insert(begun);
        }
    }

    /// Whether the disk is slow. A sync under way counts for as long as it has taken.
    pub(crate) fn is_slow(&self, now: BootTime) -> bool {
        let hanging = self.begun.filter(|begun| now.since(*begun) >= SLOW_SYNC);
        let since = self.slow_since.or(hanging);
        since.is_some_and(|since| now.since(since) >= SLOW_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::new(Duration::from_millis(ms))
    }

    fn sync(times: &mut SyncTimes, from: u64, to: u64) {
        times.begin(at(from));
        times.end(at(to));
    }

    #[test]
    fn a_disk_is_slow_once_no_sync_was_fast_for_a_while() {
        let mut times = SyncTimes::default();
        sync(&mut times, 0, 600);
        assert!(!times.is_slow(at(2000)), "a hiccup");
        sync(&mut times, 2000, 2700);
        assert!(!times.is_slow(at(2900)));
        sync(&mut times, 2900, 3500);
        assert!(times.is_slow(at(3500)));
        sync(&mut times, 3600, 3700);
        assert!(!times.is_slow(at(9000)), "one fast sync, and it is sound");
    }

    #[test]
    fn a_sync_that_hangs_is_slow_before_it_ends() {
        let mut times = SyncTimes::default();
        sync(&mut times, 0, 1);
        times.begin(at(10));
        assert!(!times.is_slow(at(3000)));
        assert!(times.is_slow(at(3010)));
    }
}
