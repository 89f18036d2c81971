//! Whether a node that is alive, but tells nothing new, is cut off from the quorum.
//!
//! A follower that lost its leader goes on sending marks, in good faith; only others can tell that more was
//! committed. So a tail that stood still for a while asks them, and leaves a node that does not follow suit.
//!
//! Pure: knows no stream or clock.

use redoubt_types::limits::{TAIL_DOUBT_AFTER, TAIL_SILENCE_MAX};
use redoubt_types::{BootTime, Offset};

/// What to do about a tail that may stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubted {
    /// Nothing.
    Nothing,
    /// Ask a quorum where the tail is.
    Ask,
    /// The node is cut off: a quorum stands at this tail, and the node has not told of it.
    CutOff(Offset),
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Where the tail stands still.
    at: Offset,
    since: BootTime,
    /// A confirmed tail beyond `at`, and when it was told.
    owed: Option<(Offset, BootTime)>,
}

impl Doubt {
    pub(super) fn new(at: Offset, now: BootTime) -> Self {
        Doubt {
            at,
            since: now,
            owed: None,
        }
    }

    /// Looks at the tail, which stands at `position`.
    pub(super) fn check(&mut self, position: Offset, now: BootTime) -> Doubted {
        if position != self.at {
            *self = Doubt::new(position, now);
        }
        match self.owed {
            Some((tail, told)) if now.since(told) > TAIL_SILENCE_MAX => Doubted::CutOff(tail),
            None if now.since(self.since) > TAIL_DOUBT_AFTER => {
                self.since = now;
                Doubted::Ask
            }
            _ => Doubted::Nothing,
        }
    }

    /// A quorum stands at `tail`.
    pub(super) fn told(&mut self, tail: Offset, now: BootTime) {
        if tail > self.at {
            self.owed = Some((tail, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> BootTime {
        BootTime::new(Duration::from_millis(ms))
    }

    #[test]
    fn a_tail_that_stands_still_behind_the_quorum_is_cut_off() {
        let ten = Offset::new(10);
        let mut doubt = Doubt::new(ten, at(0));
        assert_eq!(doubt.check(ten, at(4_000)), Doubted::Nothing);
        assert_eq!(doubt.check(ten, at(5_001)), Doubted::Ask);
        assert_eq!(
            doubt.check(ten, at(5_002)),
            Doubted::Nothing,
            "asked once per so often"
        );
        doubt.told(Offset::new(20), at(5_100));
        assert_eq!(
            doubt.check(ten, at(8_000)),
            Doubted::Nothing,
            "it may be on its way"
        );
        assert_eq!(doubt.check(ten, at(8_101)), Doubted::CutOff(Offset::new(20)));
    }

    #[test]
    fn a_tail_that_moves_or_is_level_is_left_alone() {
        let ten = Offset::new(10);
        let mut doubt = Doubt::new(ten, at(0));
        doubt.told(ten, at(100));
        assert_eq!(doubt.check(ten, at(4_000)), Doubted::Nothing);
        doubt.told(Offset::new(20), at(4_000));
        assert_eq!(doubt.check(Offset::new(11), at(9_000)), Doubted::Nothing);
        assert_eq!(doubt.check(Offset::new(11), at(13_000)), Doubted::Nothing);
        assert_eq!(doubt.check(Offset::new(11), at(14_001)), Doubted::Ask);
    }
}
