//! The holder's side of the lease.
//!
//! Decides until when the lease is certainly valid and when to renew it. Promises never to believe longer
//! than the journal does: time counts from when a request was *sent*, the journal counts from when it was
//! *applied*, which is later, and a margin covers clocks that run at different rates. A lapsed lease is not a
//! lost one: only the journal says "fenced". Knows no clock and no journal.

use redoubt_types::BootTime;
use std::time::Duration;

/// What a lease is counted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long it lasts, as the journal counts.
    pub duration: Duration,
    /// What the holder takes off.
    pub margin: Duration,
    /// How long after the last renewal the next one is sent.
    pub renew_every: Duration,
}

/// A lease as its holder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    terms: LeaseTerms,
    /// When the newest request that is known to have renewed it was sent.
    renewed_at: BootTime,
}

impl Lease {
    /// The lease of a grant that was asked for at `sent_at`: a grant is a renewal.
    pub fn granted(terms: LeaseTerms, sent_at: BootTime) -> Self {
        Lease {
            terms,
            renewed_at: sent_at,
        }
    }

    /// A renewal, or an append that was newly committed, sent at `sent_at` has succeeded. Answers come in any
    /// order; an older one changes nothing. A retry that was answered "duplicate" is no renewal and MUST NOT
    /// be reported here.
    pub fn renewed(&mut self, sent_at: BootTime) {
        self.renewed_at = self.renewed_at.max(sent_at);
    }

    /// Until when (exclusive) the lease is certainly valid.
    pub fn until(&self) -> BootTime {
        self.renewed_at
            .plus(self.terms.duration.saturating_sub(self.terms.margin))
    }

    /// When the next renewal is due.
    pub fn renewal_due(&self) -> BootTime {
        self.renewed_at.plus(self.terms.renew_every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn at(n: u64) -> BootTime {
        BootTime::new(ms(n))
    }

    const TERMS: LeaseTerms = LeaseTerms {
        duration: Duration::from_millis(3000),
        margin: Duration::from_millis(300),
        renew_every: Duration::from_millis(750),
    };

    #[test]
    fn h14_counts_from_sending_less_a_margin() {
        let mut lease = Lease::granted(TERMS, at(1000));
        assert_eq!(lease.until(), at(3700));
        assert_eq!(lease.renewal_due(), at(1750));
        lease.renewed(at(2000));
        assert_eq!(lease.until(), at(4700));
        lease.renewed(at(1500));
        assert_eq!(lease.until(), at(4700), "a late answer takes nothing away");
    }

    proptest! {
        #[test]
        fn the_holder_never_believes_longer_than_the_journal(
            rounds in prop::collection::vec((0u64..2000, 0u64..5000, any::<bool>()), 1..20),
        ) {
            // Each request is sent, applied `delay` later, and perhaps answered; the journal counts from the
            // last one that it applied.
            let (mut sent, mut applied) = (1000, 1000);
            let mut lease = Lease::granted(TERMS, at(sent));
            for (pause, delay, answered) in rounds {
                sent += pause;
                applied = applied.max(sent + delay);
                if answered {
                    lease.renewed(at(sent));
                }
                prop_assert!(lease.until() < at(applied).plus(TERMS.duration));
            }
        }
    }
}
