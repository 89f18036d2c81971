//! What is kept of the past: which bases, and so the editlogs behind the oldest of them. Pure.

use redoubt_types::{Base, Offset, WallTime};
use std::time::Duration;

/// How much of the past can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every moment of so long.
    pub age: Duration,
    /// But no more bytes than this, bases and editlogs together. The newest base, and all behind it, is kept in any case.
    pub bytes: u64,
}

impl Default for Retention {
    /// A day, within 64 GiB.
    fn default() -> Self {
        Retention {
            age: Duration::from_secs(24 * 3600),
            bytes: 64 * 1024 * 1024 * 1024,
        }
    }
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Bases from here on, and editlogs that hold a later byte.
    pub from: Offset,
}

impl Retention {
    /// What to keep of a journal that begins at `beginning` and ends at `tail`, `bases` being those that the node holds up to the
    /// journal's own, which is the last of them, oldest first.
    ///
    /// The oldest point to start from (the first base, or the empty beginning of all) may go once the next one is so old that every
    /// moment that must be restorable lies behind it; or when there is too much. A clock that steps back keeps more.
    pub fn keeps(&self, beginning: Offset, tail: Offset, bases: &[Base], now: WallTime) -> Kept {
        let since = |offset: Offset| tail.since(offset).unwrap_or(0);
        let sizes = |bases: &[Base]| bases.iter().map(|b| b.bytes).sum::<u64>();
        let age_ms = self.age.as_millis() as u64;
        let is_old = |base: &Base| base.captured.ms().saturating_add(age_ms) <= now.ms();
        // From the very first byte no base is needed; from later on, editlogs before the first base are of no use.
        let mut kept = match bases.first() {
            Some(first) if beginning > Offset::ZERO => first.at(),
            _ => beginning,
        };
        for (i, next) in bases.iter().enumerate() {
            let behind = &bases[i..];
            let too_much = since(kept) + sizes(&bases[i.saturating_sub(1)..]) > self.bytes;
            if next.at() <= kept || is_old(next) || too_much {
                kept = kept.max(behind[0].at());
            } else {
                break;
            }
        }
        Kept { from: kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shelf::tests::base_of;

    /// A base at an offset, captured at that many milliseconds, of so many bytes.
    fn base(at: u64, bytes: u64) -> Base {
        Base {
            captured: WallTime::from_ms(at),
            bytes,
            ..base_of(at, &[1])
        }
    }

    fn keeps(retention: Retention, beginning: u64, bases: &[Base], now: u64) -> u64 {
        let kept = retention.keeps(
            Offset::new(beginning),
            Offset::new(1000),
            bases,
            WallTime::from_ms(now),
        );
        kept.from.get()
    }

    fn within(age_ms: u64, bytes: u64) -> Retention {
        Retention {
            age: Duration::from_millis(age_ms),
            bytes,
        }
    }

    #[test]
    fn every_moment_within_the_age_can_be_restored() {
        let bases = [base(100, 1), base(200, 1), base(300, 1)];
        let all = within(1000, u64::MAX);
        assert_eq!(keeps(all, 0, &[], 5000), 0);
        assert_eq!(keeps(all, 0, &bases, 1099), 0, "from the very first byte");
        assert_eq!(keeps(all, 0, &bases, 1100), 100);
        assert_eq!(keeps(all, 0, &bases, 1199), 100);
        assert_eq!(keeps(all, 0, &bases, 1200), 200);
        assert_eq!(keeps(all, 0, &bases, 9999), 300, "the newest one stays");
        assert_eq!(
            keeps(all, 150, &bases[1..], 1),
            200,
            "nothing before the first base is of use"
        );
        assert_eq!(keeps(within(0, u64::MAX), 0, &bases, 300), 300);
    }

    #[test]
    fn no_more_than_the_bound_but_for_the_newest_base() {
        let bases = [base(100, 50), base(400, 60), base(900, 70)];
        let keeps = |bytes| keeps(within(u64::MAX / 2, bytes), 0, &bases, 1000);
        assert_eq!(keeps(1180), 0, "1,000 of editlogs and 180 of bases");
        assert_eq!(keeps(1179), 100);
        assert_eq!(keeps(1080), 100);
        assert_eq!(keeps(1079), 400);
        assert_eq!(keeps(730), 400);
        assert_eq!(keeps(729), 900);
        assert_eq!(keeps(1), 900);
    }
}
