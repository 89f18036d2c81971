//! How many commands of one client may be on their way at once.
//!
//! Decides by what its last answers were like, since an answer's size is only known when it is there, and all of it has to be
//! kept until its flight's fence is answered: few at first, more with each small answer, fewer again once they get larger.
//! Must not know a client.

use redoubt_types::limits::{
    CLIENT_HELD_BYTES_MAX, GUEST_ANSWER_BYTES_MAX, GUEST_UNANSWERED_FIRST, GUEST_UNANSWERED_MAX,
};

/// A large answer is forgotten to this part with each further one.
const FORGET: usize = 16;

/// One client's allowance.
#[derive(Debug)]
pub(super) struct Allowance {
    window: usize,
    /// Bytes of the largest of its last answers, or somewhat less when that is a while ago.
    largest: usize,
    /// Bytes of the answer that is coming in.
    current: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance {
            window: GUEST_UNANSWERED_FIRST,
            largest: 0,
            current: 0,
        }
    }
}

impl Allowance {
    /// `bytes` more of an answer have come, and whether it ends with them.
    pub(super) fn received(&mut self, bytes: usize, ends: bool) {
        self.current += bytes;
        self.largest = self.largest.max(self.current);
        if ends {
            let faded = self.largest - self.largest.div_ceil(FORGET);
            self.largest = faded.max(self.current);
            self.window = (self.window + 1).min(GUEST_UNANSWERED_MAX);
            self.current = 0;
        }
    }

    /// Whether one more command may be sent, when `unanswered` are on their way and `kept` bytes wait to be written.
    pub(super) fn has_room(&self, unanswered: usize, kept: usize) -> bool {
        let expected = unanswered.saturating_add(1).saturating_mul(self.largest);
        unanswered < self.window && kept.saturating_add(expected) < CLIENT_HELD_BYTES_MAX
    }

    /// Whether its answers are too large to be kept until a whole flight's are there.
    pub(super) fn is_exceeded(&self) -> bool {
        self.largest > GUEST_ANSWER_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_answers_earn_a_long_pipeline() {
        let mut allowance = Allowance::default();
        assert!(allowance.has_room(GUEST_UNANSWERED_FIRST - 1, 0));
        assert!(!allowance.has_room(GUEST_UNANSWERED_FIRST, 0));
        (0..GUEST_UNANSWERED_MAX).for_each(|_| allowance.received(5, true));
        assert!(allowance.has_room(GUEST_UNANSWERED_MAX - 1, 0));
        assert!(!allowance.has_room(GUEST_UNANSWERED_MAX, 0));
        assert!(!allowance.is_exceeded());
    }

    #[test]
    fn a_large_answer_counts_before_it_has_come_to_its_end() {
        let mut allowance = Allowance::default();
        allowance.received(GUEST_ANSWER_BYTES_MAX, false);
        assert!(!allowance.is_exceeded());
        allowance.received(1, false);
        assert!(allowance.is_exceeded());
    }

    #[test]
    fn a_client_with_nothing_on_its_way_is_never_kept_from_sending_for_long() {
        let mut allowance = Allowance::default();
        allowance.received(10 * CLIENT_HELD_BYTES_MAX, true);
        assert!(!allowance.has_room(0, 0) && allowance.is_exceeded());
    }

    proptest! {
        /// While answers are no larger than those before them, what is kept and what may come stays below the bound.
        #[test]
        fn answers_like_those_before_stay_below_the_bound(
            sizes in prop::collection::vec(1usize..GUEST_ANSWER_BYTES_MAX, 1..200),
        ) {
            let mut allowance = Allowance::default();
            for size in sizes {
                allowance.received(size, true);
                let (mut unanswered, mut kept) = (0, 0);
                while allowance.has_room(unanswered, kept) {
                    unanswered += 1;
                }
                prop_assert!(unanswered > 0, "a client that was answered may go on");
                kept += unanswered * size;
                prop_assert!(kept < CLIENT_HELD_BYTES_MAX);
            }
        }
    }
}
