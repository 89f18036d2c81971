//! How able each node's disk is, and what follows: whether data is admitted, and who should lead (H4).
//!
//! A node tells its own condition with every answer to the leader. The leader admits data only while a majority, itself
//! counted, has room for it: what is admitted then has room to be committed, and the reserve of those that have none is left for
//! elections, leases and the like. A node without any room refuses entries, before its storage would have to fail.

use super::types::carried;
use crate::segment::{Room, Storage};
use redoubt_proto::v1;
use redoubt_types::BootTime;
use redoubt_types::limits::HEARTBEAT_INTERVAL;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A node that has not answered for so long is not counted on.
const FRESH: Duration = HEARTBEAT_INTERVAL.saturating_mul(8);

/// What a node's disk allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// All that it should.
    Well,
    /// It is slow: the node should not lead.
    Slow,
    /// It has no room for data: the node should not lead.
    Low,
    /// It has no room at all: the node takes no entries.
    Full,
}

impl Condition {
    /// That of a storage by now.
    pub(super) fn of(storage: &Storage) -> Condition {
        match *storage.room().borrow() {
            Room::None => Condition::Full,
            Room::Low => Condition::Low,
            Room::Plenty if storage.is_slow() => Condition::Slow,
            Room::Plenty => Condition::Well,
        }
    }

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Condition::Well => "well",
            Condition::Slow => "slow",
            Condition::Low => "low",
            Condition::Full => "full",
        }
    }

    fn has_room(self) -> bool {
        self < Condition::Low
    }

    pub(super) fn to_wire(self) -> v1::RaftCondition {
        match self {
            Condition::Well => v1::RaftCondition::Well,
            Condition::Slow => v1::RaftCondition::Slow,
            Condition::Low => v1::RaftCondition::Low,
            Condition::Full => v1::RaftCondition::Full,
        }
    }

    /// What this version does not know is no condition to rely on.
    pub(super) fn from_wire(wire: i32) -> Condition {
        match v1::RaftCondition::try_from(wire) {
            Ok(v1::RaftCondition::Well) => Condition::Well,
            Ok(v1::RaftCondition::Slow) => Condition::Slow,
            Ok(v1::RaftCondition::Low) => Condition::Low,
            Ok(v1::RaftCondition::Full) | Err(_) => Condition::Full,
        }
    }
}

/// What followers told of themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Arc<Mutex<Board>>);

impl Conditions {
    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest word of each follower. Pure.
#[derive(Debug, Default)]
pub(super) struct Board {
    heard: BTreeMap<u64, (Condition, BootTime)>,
    /// The term that this node leads in, and since when.
    leads: Option<(u64, BootTime)>,
}

impl Board {
    /// A follower answered.
    pub(super) fn note(&mut self, node: u64, condition: Condition, now: BootTime) {
        self.heard.insert(node, (condition, now));
    }

    /// Whether data may be admitted by `me`, which leads in `term`: a majority of each of `configs` has room for it. Who was not
    /// heard of yet is taken to have, until there was time to hear of it.
    pub(super) fn has_room(
        &mut self,
        (me, mine): (u64, Condition),
        term: u64,
        configs: &[BTreeSet<u64>],
        now: BootTime,
    ) -> bool {
        if self.leads.is_none_or(|(led, _)| led != term) {
            self.leads = Some((term, now));
        }
        let begins = self.leads.is_some_and(|(_, since)| now.since(since) < FRESH);
        carried(configs, |id| {
            if id == me {
                return mine.has_room();
            }
            match self.heard.get(&id) {
                Some((condition, at)) if now.since(*at) < FRESH => condition.has_room(),
                _ => begins,
            }
        })
    }

    /// Whether the follower is in full possession of its powers, as of lately.
    pub(super) fn is_well(&self, node: u64, now: BootTime) -> bool {
        self.heard
            .get(&node)
            .is_some_and(|(condition, at)| *condition == Condition::Well && now.since(*at) < FRESH)
    }
}

#[cfg(test)]
mod tests {
    use super::Condition::{Full, Low, Slow, Well};
    use super::*;

    fn at(s: u64) -> BootTime {
        BootTime::new(Duration::from_secs(s))
    }

    fn three() -> [BTreeSet<u64>; 1] {
        [BTreeSet::from([1, 2, 3])]
    }

    #[test]
    fn h04_data_is_admitted_only_while_a_majority_has_room() {
        let mut board = Board::default();
        for (mine, two, three_is, admitted) in [
            (Well, Well, Full, true),
            (Low, Well, Slow, true),
            (Well, Low, Low, false),
            (Low, Low, Well, false),
            (Slow, Slow, Slow, true),
        ] {
            board.note(2, two, at(10));
            board.note(3, three_is, at(10));
            let has_room = board.has_room((1, mine), 7, &three(), at(11));
            assert_eq!(has_room, admitted, "{mine:?} {two:?} {three_is:?}");
        }
    }

    #[test]
    fn h04_a_node_that_is_gone_gives_no_room() {
        let mut board = Board::default();
        assert!(
            board.has_room((1, Well), 7, &three(), at(0)),
            "nobody had time to say"
        );
        board.note(2, Low, at(5));
        assert!(
            !board.has_room((1, Well), 7, &three(), at(5)),
            "3 is gone, 2 is full"
        );
        board.note(2, Well, at(6));
        assert!(board.has_room((1, Well), 7, &three(), at(6)));
        assert!(!board.has_room((1, Well), 7, &three(), at(60)), "both are gone");
        assert!(
            board.has_room((1, Well), 8, &three(), at(60)),
            "a new term begins"
        );
    }

    #[test]
    fn each_half_of_a_change_needs_room() {
        let mut board = Board::default();
        let configs = [BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
        for (node, condition) in [(2, Well), (3, Well), (4, Low), (5, Low)] {
            board.note(node, condition, at(10));
        }
        assert!(!board.has_room((1, Well), 1, &configs, at(10)));
        board.note(5, Well, at(10));
        assert!(board.has_room((1, Well), 1, &configs, at(10)));
    }

    #[test]
    fn leadership_goes_to_whoever_is_well_and_there() {
        let mut board = Board::default();
        board.note(2, Slow, at(1));
        board.note(3, Well, at(1));
        assert!(!board.is_well(2, at(1)) && board.is_well(3, at(1)));
        assert!(!board.is_well(3, at(60)) && !board.is_well(4, at(1)));
    }
}
