//! The leader's side of the lease: whether a claim may be proposed.
//!
//! The leader counts a lease from when it *applied* a renewal, its holder from when it *sent* it, minus a
//! margin: so the holder's always ends first. A new leader knows nothing of renewals that its
//! predecessor acknowledged a moment ago; it waits a full lease from the first entry of its own term. Model:
//! `newleader_no_wait` and `lease_from_response` lose a write each when either rule is dropped.

use super::WriterState;
use redoubt_types::{BootTime, HolderId};
use std::time::Duration;

/// What a leader may do with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseDecision {
    /// Propose it, naming the renewals seen.
    Free {
        /// Renewals applied as of this decision.
        seen_renewals: u64,
    },
    /// Another holder's lease has not ended.
    Held {
        /// Until it ends, if it is not renewed again.
        remaining: Duration,
    },
}

/// Remembers when this node last applied a renewal. One per node, fed by its state machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseKeeper {
    renewals: u64,
    renewed_at: BootTime,
    term: Option<u64>,
}

impl LeaseKeeper {
    /// An entry of Raft term `term` was applied at `now`, after which `renewals` had been applied in all.
    pub fn on_applied(&mut self, term: u64, renewals: u64, now: BootTime) {
        if self.term != Some(term) || self.renewals != renewals {
            self.renewed_at = now;
        }
        self.term = Some(term);
        self.renewals = renewals;
    }

    /// Time until the current lease ends, zero when it has; for display.
    pub fn remaining(&self, writer: &WriterState, now: BootTime) -> Duration {
        self.renewed_at.plus(writer.lease).since(now)
    }

    /// Whether `asking` may become the writer now. Only to be asked by a leader that has applied an entry of
    /// its own term.
    pub fn decide(&self, writer: Option<&WriterState>, asking: HolderId, now: BootTime) -> LeaseDecision {
        let free = LeaseDecision::Free {
            seen_renewals: self.renewals,
        };
        let Some(writer) = writer else { return free };
        // The same process takes a new epoch: whatever it holds back is bound to its old one.
        if writer.released || writer.holder == asking {
            return free;
        }
        match self.remaining(writer, now) {
            Duration::ZERO => free,
            remaining => LeaseDecision::Held { remaining },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redoubt_types::{Epoch, WallTime};

    fn at(ms: u64) -> BootTime {
        BootTime::new(Duration::from_millis(ms))
    }

    fn writer(holder: u64) -> WriterState {
        WriterState {
            epoch: Epoch::FIRST,
            holder: HolderId::new(holder).unwrap(),
            name: String::new(),
            lease: Duration::from_millis(3000),
            released: false,
            renewed_wall: WallTime::default(),
        }
    }

    fn id(n: u64) -> HolderId {
        HolderId::new(n).unwrap()
    }

    #[test]
    fn another_waits_until_the_lease_is_over() {
        let mut k = LeaseKeeper::default();
        k.on_applied(1, 1, at(1000));
        let w = writer(7);
        let held = LeaseDecision::Held {
            remaining: Duration::from_millis(1),
        };
        assert_eq!(k.decide(Some(&w), id(8), at(3999)), held);
        assert_eq!(
            k.decide(Some(&w), id(8), at(4000)),
            LeaseDecision::Free { seen_renewals: 1 }
        );
        k.on_applied(1, 2, at(3990));
        assert!(matches!(
            k.decide(Some(&w), id(8), at(4000)),
            LeaseDecision::Held { .. }
        ));
    }

    #[test]
    fn what_renews_nothing_moves_nothing() {
        let mut k = LeaseKeeper::default();
        k.on_applied(1, 1, at(1000));
        k.on_applied(1, 1, at(3000));
        assert_eq!(k.remaining(&writer(7), at(3000)), Duration::from_millis(1000));
    }

    #[test]
    fn a_new_leader_waits_a_full_lease() {
        let mut k = LeaseKeeper::default();
        k.on_applied(1, 1, at(1000));
        k.on_applied(2, 1, at(9000));
        assert!(matches!(
            k.decide(Some(&writer(7)), id(8), at(11_999)),
            LeaseDecision::Held { .. }
        ));
        assert!(matches!(
            k.decide(Some(&writer(7)), id(8), at(12_000)),
            LeaseDecision::Free { .. }
        ));
    }

    #[test]
    fn the_holder_itself_and_a_released_lease_need_no_wait() {
        let mut k = LeaseKeeper::default();
        k.on_applied(1, 1, at(1000));
        assert!(matches!(
            k.decide(Some(&writer(7)), id(7), at(1001)),
            LeaseDecision::Free { .. }
        ));
        let released = WriterState {
            released: true,
            ..writer(7)
        };
        assert!(matches!(
            k.decide(Some(&released), id(8), at(1001)),
            LeaseDecision::Free { .. }
        ));
        assert!(matches!(k.decide(None, id(8), at(0)), LeaseDecision::Free { .. }));
    }
}
