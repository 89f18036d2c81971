//! Whose turn it is to fold: one replay at a time, the least loaded one, not at once again after a failure.
//!
//! Only saves work: that two folds at once do no harm is the log's promise (a base names the one that it was made from, as of
//! [`crate::append::NewBase`]). So it is kept by the leader alone, in memory; after a change of leaders whoever says that it is folding is
//! taken at its word. Pure.

use redoubt_types::limits::FOLD_OFFER_EVERY;
use redoubt_types::{BootTime, HolderId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A replay that has not been heard of for so long is not counted on.
const FRESH: Duration = FOLD_OFFER_EVERY.saturating_mul(6);
/// How long a leader listens before it gives the first turn: else the first to speak were the least loaded.
const LISTEN: Duration = FOLD_OFFER_EVERY.saturating_mul(3);
/// Pause after a first failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Replays that are remembered at most.
const OFFERS_MAX: usize = 256;

/// When a fold is due; each counts, whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldAfter {
    /// Bytes of the stream since the base.
    pub bytes: u64,
    /// Editlogs since the base.
    pub editlogs: u64,
}

impl Default for FoldAfter {
    /// 4 GiB; or 1,024 editlogs of whatever size, which are as many files to open in a start that reads them all.
    fn default() -> Self {
        FoldAfter {
            bytes: 4 * 1024 * 1024 * 1024,
            editlogs: 1024,
        }
    }
}

impl FoldAfter {
    /// Whether a fold is due with so much behind the base.
    pub fn is_due(&self, bytes: u64, editlogs: u64) -> bool {
        bytes > 0 && (bytes >= self.bytes || editlogs >= self.editlogs)
    }
}

/// How a replay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folding {
    /// It could fold.
    Idle,
    /// It folds; how far it is.
    Folding(String),
    /// It has: the base is the journal's.
    Done,
    /// It tried.
    Failed(String),
}

/// What a replay says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub replay: String,
    /// Its process.
    pub holder: HolderId,
    /// Replicas that it feeds.
    pub load: u32,
    /// How it is.
    pub folding: Folding,
    /// Live replicas that it found to differ from the journal.
    pub differing: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    holder: HolderId,
    given: BootTime,
}

/// The leader's book of folds.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    offers: BTreeMap<HolderId, (Offer, BootTime)>,
    listens_since: Option<BootTime>,
    wanted: bool,
    turn: Option<Turn>,
    failures: u32,
    not_before: Option<BootTime>,
    /// Who folds or did last, and how that goes or went.
    last: (String, String),
}

impl Turns {
    /// Somebody wants a fold, whatever the thresholds say, and now.
    pub fn want(&mut self) {
        self.wanted = true;
        self.not_before = None;
    }

    /// Hears of a replay; returns whether it is its turn, or still is. `due`: whether the thresholds say so.
    pub fn hear(&mut self, offer: Offer, due: bool, now: BootTime) -> bool {
        let holder = offer.holder;
        let since = *self.listens_since.get_or_insert(now);
        self.offers.retain(|_, (_, at)| now.since(*at) < FRESH);
        if self.offers.len() < OFFERS_MAX || self.offers.contains_key(&holder) {
            self.offers.insert(holder, (offer.clone(), now));
        }
        self.settle(&offer, now);
        let may_begin = (self.wanted || due)
            && self.turn.is_none()
            && offer.folding == Folding::Idle
            && now.since(since) >= LISTEN
            && self.not_before.is_none_or(|at| now >= at);
        if may_begin && self.least_loaded() == Some(holder) {
            self.turn = Some(Turn { holder, given: now });
            self.last = (offer.replay, "begins".to_owned());
        }
        self.turn.is_some_and(|turn| turn.holder == holder)
    }

    /// What `offer` means for the turn that was given.
    fn settle(&mut self, offer: &Offer, now: BootTime) {
        if let Some(turn) = self.turn
            && turn.holder != offer.holder
            && !self.offers.contains_key(&turn.holder)
        {
            let silent = format!("{} was not heard of for {FRESH:?}", self.last.0);
            self.failed(silent, now);
        }
        let mine = self.turn.filter(|turn| turn.holder == offer.holder);
        match (&offer.folding, mine) {
            (Folding::Folding(how_far), _) if mine.is_some() || self.turn.is_none() => {
                let given = mine.map_or(now, |turn| turn.given);
                let holder = offer.holder;
                self.turn = Some(Turn { holder, given });
                self.last = (offer.replay.clone(), how_far.clone());
            }
            (Folding::Done, Some(_)) => {
                self.turn = None;
                self.wanted = false;
                self.failures = 0;
                self.not_before = None;
                self.last.1 = "done".to_owned();
            }
            (Folding::Failed(why), Some(_)) => self.failed(why.clone(), now),
            (Folding::Idle, Some(turn)) if now.since(turn.given) >= FRESH => {
                self.failed(format!("{} did not begin", offer.replay), now);
            }
            _ => {}
        }
    }

    fn failed(&mut self, why: String, now: BootTime) {
        self.turn = None;
        let pause = PAUSE_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(PAUSE_MAX);
        self.failures += 1;
        self.not_before = Some(now.plus(pause));
        self.last.1 = why;
    }

    fn least_loaded(&self) -> Option<HolderId> {
        let idle = self.offers.values().filter(|(o, _)| o.folding == Folding::Idle);
        idle.map(|(o, _)| (o.load, o.holder))
            .min()
            .map(|(_, holder)| holder)
    }

    /// `idle`, `wanted`, `folding` or `failed`.
    pub fn state(&self) -> &'static str {
        match self.turn {
            Some(_) => "folding",
            None if self.failures > 0 => "failed",
            None if self.wanted => "wanted",
            None => "idle",
        }
    }

    /// Who folds, or did last, and how that goes or went.
    pub fn last(&self) -> (&str, &str) {
        (&self.last.0, &self.last.1)
    }

    /// Folds that failed one after the other.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Live replicas that replays found to differ from the journal.
    pub fn differing(&self) -> Vec<String> {
        let all = self.offers.values().flat_map(|(o, _)| &o.differing);
        let mut all: Vec<_> = all.cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::new(Duration::from_secs(seconds))
    }

    fn offer(n: u64, load: u32, folding: Folding) -> Offer {
        Offer {
            replay: format!("replay-{n}"),
            holder: HolderId::new(n).unwrap(),
            load,
            folding,
            differing: Vec::new(),
        }
    }

    fn idle(n: u64, load: u32) -> Offer {
        offer(n, load, Folding::Idle)
    }

    fn folding(n: u64) -> Offer {
        offer(n, 0, Folding::Folding("10 %".into()))
    }

    #[test]
    fn the_least_loaded_one_gets_the_turn_and_nobody_else() {
        let mut turns = Turns::default();
        for second in 0..3 {
            assert!(!turns.hear(idle(1, 2), true, at(second)), "it listens first");
            assert!(!turns.hear(idle(2, 1), true, at(second)));
        }
        assert!(!turns.hear(idle(1, 2), true, at(3)));
        assert!(turns.hear(idle(2, 1), true, at(3)));
        assert!(turns.hear(folding(2), true, at(4)));
        assert!(!turns.hear(idle(1, 0), true, at(4)), "one at a time");
        assert_eq!((turns.state(), turns.last()), ("folding", ("replay-2", "10 %")));
        assert!(!turns.hear(offer(2, 0, Folding::Done), false, at(5)));
        assert_eq!(turns.state(), "idle");
        assert!(!turns.hear(idle(2, 1), false, at(6)), "nothing is due");
    }

    #[test]
    fn a_failure_is_told_and_tried_again_after_ever_longer_pauses() {
        let mut turns = Turns::default();
        turns.hear(idle(1, 0), false, at(0));
        let mut now = 10;
        for pause in [5, 10, 20] {
            assert!(turns.hear(idle(1, 0), true, at(now)));
            assert!(!turns.hear(offer(1, 0, Folding::Failed("no disk".into())), true, at(now + 1)));
            assert_eq!((turns.state(), turns.last().1), ("failed", "no disk"));
            for second in 2..=pause {
                assert!(
                    !turns.hear(idle(1, 0), true, at(now + second)),
                    "{second} of {pause}"
                );
            }
            now += pause + 1;
        }
        assert_eq!(turns.failures(), 3);
        turns.want();
        assert!(
            turns.hear(idle(1, 0), false, at(now + 1)),
            "who asks for it need not wait"
        );
    }

    #[test]
    fn a_silent_one_loses_its_turn_and_one_that_folds_keeps_it_under_a_new_leader() {
        let mut turns = Turns::default();
        turns.hear(idle(1, 0), false, at(0));
        assert!(turns.hear(idle(1, 0), true, at(4)));
        for second in 5..9 {
            assert!(!turns.hear(idle(2, 5), true, at(second)));
        }
        for second in 9..14 {
            assert!(
                !turns.hear(idle(2, 5), true, at(second)),
                "the first is waited for, then a pause"
            );
        }
        assert_eq!((turns.state(), turns.failures()), ("failed", 1));
        assert!((14..20).any(|second| turns.hear(idle(2, 5), true, at(second))));
        let mut next = Turns::default();
        assert!(next.hear(folding(2), false, at(20)), "taken at its word");
        assert!(!next.hear(folding(1), false, at(20)));
    }

    #[test]
    fn what_was_asked_for_is_done_once() {
        let mut turns = Turns::default();
        turns.hear(idle(1, 0), false, at(0));
        turns.want();
        assert_eq!(turns.state(), "wanted");
        assert!(turns.hear(idle(1, 0), false, at(4)));
        assert!(!turns.hear(offer(1, 0, Folding::Done), false, at(5)));
        assert!(!turns.hear(idle(1, 0), false, at(6)));
    }
}
