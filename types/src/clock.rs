//! Readings of the boot-time clock, as the pure cores see them.

use std::time::Duration;

/// A reading of a machine's boot-time clock (`CLOCK_BOOTTIME`): it never steps and goes on through a suspend,
/// so a lease cannot be slept through. Readings of two machines, or across a reboot, mean nothing together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// The reading `since_boot` after boot.
    pub const fn new(since_boot: Duration) -> Self {
        BootTime(since_boot)
    }

    /// Time since boot.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// The reading `d` later.
    #[must_use]
    pub const fn plus(self, d: Duration) -> Self {
        BootTime(self.0.saturating_add(d))
    }

    /// Time from `earlier` to here, zero when `earlier` is later.
    pub const fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
