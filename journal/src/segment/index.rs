//! Where every record of the log is, and which term it has.
//!
//! Decides what a truncation leaves and which byte a reader starts from. Pure. Sparse on purpose: one place
//! per [`PLACE_EVERY_BYTES`] and one run per leader, so that a log of terabytes has an index of megabytes.

use super::format::Position;
use super::model::LogId;
use super::patch::Patch;

/// Bytes of log between two noted places: what a reader has to skip at most, besides one record.
pub(crate) const PLACE_EVERY_BYTES: u32 = 64 * 1024;

/// Records of one leader's term, up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first_index: u64,
    pub(crate) term: u64,
    pub(crate) leader: u64,
}

/// The ids of the live records: dense from `first` to `end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogIds {
    pub(crate) runs: Vec<Run>,
    /// Exclusive; where there are no runs, where the first record will be.
    pub(crate) end: u64,
    /// The last record that was trimmed: the first one follows it.
    pub(crate) before: Option<LogId>,
}

impl LogIds {
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.runs.first().map(|r| r.first_index)
    }

    /// The log that begins behind `before`.
    pub(crate) fn behind(before: Option<LogId>) -> Self {
        LogIds {
            runs: Vec::new(),
            end: before.map_or(0, |id| id.index + 1),
            before,
        }
    }

    /// The last record, or the last that was trimmed, if there is none.
    pub(crate) fn last(&self) -> Option<LogId> {
        let last = self.runs.last().map(|r| LogId {
            term: r.term,
            leader: r.leader,
            index: self.end - 1,
        });
        last.or(self.before)
    }

    /// Forgets all up to `before`. `false`, with nothing changed, when another record stands in its place.
    #[must_use]
    pub(crate) fn trim(&mut self, before: LogId) -> bool {
        let begins = before.index + 1;
        let knows = self.end > before.index && self.first_index().is_some_and(|first| first < begins);
        if knows && self.get(before.index) != Some(before) {
            return false;
        }
        if self.end <= begins {
            *self = LogIds::behind(Some(before));
            return true;
        }
        if !knows && self.first_index() != Some(begins) {
            return false;
        }
        let keep = self
            .runs
            .partition_point(|r| r.first_index <= begins)
            .saturating_sub(1);
        self.runs.drain(..keep);
        if let Some(first) = self.runs.first_mut() {
            first.first_index = first.first_index.max(begins);
        }
        self.before = Some(before);
        true
    }

    pub(crate) fn get(&self, index: u64) -> Option<LogId> {
        if self.before.is_some_and(|before| before.index == index) {
            return self.before;
        }
        if index >= self.end {
            return None;
        }
        let at = self
            .runs
            .partition_point(|r| r.first_index <= index)
            .checked_sub(1)?;
        let r = self.runs[at];
        Some(LogId {
            term: r.term,
            leader: r.leader,
            index,
        })
    }

    /// Whether a record of this id may come next: dense, in a term not below the last. An empty log takes
    /// any: it may continue a snapshot.
    pub(crate) fn takes(&self, id: LogId) -> bool {
        self.last()
            .is_none_or(|last| id.index == last.index + 1 && id.term >= last.term)
    }

    /// Adds the next record, which [`LogIds::takes`].
    pub(crate) fn push(&mut self, id: LogId) {
        let same = self
            .runs
            .last()
            .is_some_and(|r| r.term == id.term && r.leader == id.leader);
        if !same {
            self.runs.push(Run {
                first_index: id.index,
                term: id.term,
                leader: id.leader,
            });
        }
        self.end = id.index + 1;
    }

    /// Removes every record from `first_removed` on.
    pub(crate) fn truncate(&mut self, first_removed: u64) {
        while self.runs.last().is_some_and(|r| r.first_index >= first_removed) {
            self.runs.pop();
        }
        self.end = if self.runs.is_empty() {
            self.before.map_or(0, |id| id.index + 1)
        } else {
            self.end.min(first_removed)
        };
    }
}

/// A place where a reader can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) first_index: u64,
    /// No record lies at byte 0: that says that the places of that whole segment are not in memory, its summary has them.
    pub(crate) at: Position,
}

impl Place {
    /// The place that stands for all those of a segment, whose first live record is `first_index`.
    pub(crate) const fn somewhere_in(segment: u32, first_index: u64) -> Self {
        Place {
            first_index,
            at: Position { segment, offset: 0 },
        }
    }

    /// Whether it stands for all those of its segment.
    pub(crate) const fn is_somewhere(&self) -> bool {
        self.at.offset == 0
    }
}

/// Places, in the order of the log. The live records from one place's index up to the next one's lie one
/// behind the other from that place on, with none but control records between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) list: Vec<Place>,
    /// The next record does not lie behind the last one noted: it must have a place of its own.
    broken: bool,
}

impl Places {
    /// Has one place stand for all those of `segment`, which come last.
    pub(crate) fn fold(&mut self, segment: u32) {
        let of_others = self.list.iter().rposition(|p| p.at.segment != segment);
        let from = of_others.map_or(0, |last| last + 1);
        if let Some(first) = self.list.get(from).copied() {
            self.list.truncate(from);
            self.list.push(Place::somewhere_in(segment, first.first_index));
            self.broken = true;
        }
    }

    /// The places of a sealed segment.
    pub(crate) const fn from_list(list: Vec<Place>) -> Self {
        Places { list, broken: false }
    }

    pub(crate) fn note(&mut self, index: u64, at: Position) {
        let near = self.list.last().is_some_and(|p| {
            p.at.segment == at.segment && at.offset.saturating_sub(p.at.offset) < PLACE_EVERY_BYTES
        });
        if self.broken || !near {
            self.list.push(Place {
                first_index: index,
                at,
            });
            self.broken = false;
        }
    }

    pub(crate) fn truncate(&mut self, first_removed: u64) {
        while self.list.last().is_some_and(|p| p.first_index >= first_removed) {
            self.list.pop();
        }
        self.broken = true;
    }

    /// Forgets the places in segments before `segment`.
    pub(crate) fn trim(&mut self, segment: u32) {
        self.list.retain(|p| p.at.segment >= segment);
    }

    /// A record is nowhere: the next one must have a place of its own.
    pub(crate) fn miss(&mut self) {
        self.broken = true;
    }

    /// The place from which `index` is found, and the index up to which that place serves (exclusive).
    pub(crate) fn find(&self, index: u64) -> Option<(Place, u64)> {
        let next = self.list.partition_point(|p| p.first_index <= index);
        let place = *self.list.get(next.checked_sub(1)?)?;
        Some((place, self.list.get(next).map_or(u64::MAX, |p| p.first_index)))
    }
}

/// What one segment does to the log when it is replayed behind the segments before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentLog {
    /// First, everything from here on is removed. `None` when nothing is.
    pub(crate) removes_from: Option<u64>,
    /// Then these records follow.
    pub(crate) ids: LogIds,
    /// Where they are.
    pub(crate) places: Places,
    /// The highest known committed end.
    pub(crate) committed_end: u64,
}

impl SegmentLog {
    pub(crate) fn push(&mut self, id: LogId, at: Position) {
        self.ids.push(id);
        self.places.note(id.index, at);
    }

    /// A record that should be here and can't be read: its place in the log is kept, so that those behind it have theirs.
    pub(crate) fn miss(&mut self, id: LogId) {
        self.ids.push(id);
        self.places.miss();
    }

    /// Whether the records of `patch` may come next, `before` being the log before this segment.
    pub(crate) fn takes_all(&self, before: &LogIds, patch: &Patch) -> bool {
        let ids = || patch.records.iter().map(|(id, _)| *id);
        let dense = ids()
            .zip(ids().skip(1))
            .all(|(a, b)| b.index == a.index + 1 && b.term >= a.term);
        dense && ids().next().is_none_or(|first| self.takes(before, first))
    }

    pub(crate) fn truncate(&mut self, first_removed: u64) {
        self.removes_from = Some(self.removes_from.map_or(first_removed, |r| r.min(first_removed)));
        self.ids.truncate(first_removed);
        self.places.truncate(first_removed);
    }

    /// The index behind the last live record, `before` being the log before this segment.
    pub(crate) fn next_index(&self, before: &LogIds) -> u64 {
        if self.ids.runs.is_empty() {
            self.removes_from
                .map_or(before.end, |removed| removed.min(before.end))
        } else {
            self.ids.end
        }
    }

    /// Whether a record of this id may come next in this segment, `before` being the log before it.
    pub(crate) fn takes(&self, before: &LogIds, id: LogId) -> bool {
        if !self.ids.runs.is_empty() {
            return self.ids.takes(id);
        }
        let Some(removed) = self.removes_from else {
            return before.takes(id);
        };
        match removed
            .checked_sub(1)
            .and_then(|i| before.get(i.min(before.end.saturating_sub(1))))
        {
            Some(last) => id.index == last.index + 1 && id.term >= last.term,
            None => true,
        }
    }
}

/// The whole log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogIndex {
    pub(crate) ids: LogIds,
    pub(crate) places: Places,
    pub(crate) committed_end: u64,
}

impl LogIndex {
    /// Replays one segment behind the others. `false`, with nothing changed, when it doesn't fit.
    #[must_use]
    pub(crate) fn absorb(&mut self, segment: &SegmentLog) -> bool {
        let mut ids = self.ids.clone();
        if let Some(from) = segment.removes_from {
            ids.truncate(from);
        }
        for (i, run) in segment.ids.runs.iter().enumerate() {
            let end = segment
                .ids
                .runs
                .get(i + 1)
                .map_or(segment.ids.end, |next| next.first_index);
            let first = LogId {
                term: run.term,
                leader: run.leader,
                index: run.first_index,
            };
            if end <= run.first_index || !ids.takes(first) {
                return false;
            }
            ids.push(first);
            ids.end = end;
        }
        self.ids = ids;
        if let Some(from) = segment.removes_from {
            self.places.truncate(from);
        }
        self.places.list.extend_from_slice(&segment.places.list);
        self.places.broken = true;
        self.committed_end = self.committed_end.max(segment.committed_end);
        true
    }
}
