//! Clocks.

use redoubt_types::{BootTime, WallTime};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// What tells the time.
pub(crate) trait Clock: Send + Sync {
    /// The boot-time clock.
    fn now(&self) -> BootTime;
    /// The wall clock.
    fn wall(&self) -> WallTime;
}

/// The machine's clocks.
pub(crate) struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> BootTime {
        let t = clock_gettime(ClockId::Boottime);
        BootTime::new(Duration::new(t.tv_sec as u64, t.tv_nsec as u32))
    }

    fn wall(&self) -> WallTime {
        let t = clock_gettime(ClockId::Realtime);
        WallTime::from_ms(t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000)
    }
}
