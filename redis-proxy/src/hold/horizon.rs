//! What a fence point is compared with before anything that depends on it may leave.

use redoubt_env::planted;
use redoubt_types::{BootTime, Offset};

/// How far the journal has committed, and until when this writer is known to have been the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    committed: Offset,
    /// Every moment of this epoch before this one was this writer's alone, or a round that began here
    /// succeeded: what was fenced *before* it is of the present.
    sole_until: BootTime,
}

impl Horizon {
    /// That of a session that begins when `committed` is committed and the lease lasts until `sole_until`.
    pub fn new(committed: Offset, sole_until: BootTime) -> Self {
        Horizon {
            committed,
            sole_until,
        }
    }

    /// The journal has committed everything before `end`.
    pub fn commit(&mut self, end: Offset) {
        self.committed = self.committed.max(end);
    }

    /// Every moment of this epoch before `until` was this writer's alone.
    pub fn extend(&mut self, until: BootTime) {
        self.sole_until = self.sole_until.max(until);
    }

    /// What the journal has committed.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Whether what depends on `point` may leave, when the fence that told it had been received by `at`: its effects are
    /// durable, and it is of the present.
    ///
    /// H14: only a moment *after* the fence counts. The lease having been valid when the reply was read, or when this
    /// writer last wrote, proves nothing about a process that was stopped since.
    pub fn admits(&self, point: Offset, at: BootTime) -> bool {
        point <= self.committed && self.is_present(at)
    }

    /// Whether what was fenced by `at` is of the present, be it durable or not.
    pub fn is_present(&self, at: BootTime) -> bool {
        at < self.sole_until || planted::on("h14_release_without_lease")
    }
}
