//! What submitters, the writer and the reader share, under one lock that nobody holds during I/O.

use super::cache::Cache;
use super::format::Position;
use super::index::{LogIds, Place, Places};
use super::layout::{Layout, Lies};
use super::model::{LogId, LogRecord};
use super::patch::PATCH_BIT;
use super::writer::Change;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The log as it reads now.
#[derive(Default)]
pub(crate) struct Shared {
    /// Changed when a record or a truncation is submitted.
    pub(crate) ids: LogIds,
    /// Changed when it is in the file. Until then the record is in `cache`.
    pub(crate) places: Places,
    pub(crate) cache: Cache,
    /// The generation of each segment.
    pub(crate) generations: BTreeMap<u32, u64>,
    /// Where each segment lies.
    pub(crate) layout: Layout,
    /// Everything before is durable.
    pub(crate) durable: Position,
    /// Segments before this one are trimmed; 0 and 1: none is.
    pub(crate) first_segment: u32,
}

impl Shared {
    /// Adds the log's next record; returns its number, as of [`Cache::push`].
    ///
    /// # Panics
    /// When it does not follow the last one: only a bug of the caller can do that.
    pub(crate) fn push(&mut self, record: LogRecord) -> u64 {
        let (id, last) = (record.id, self.ids.last());
        assert!(self.ids.takes(id), "record {id:?} does not follow {last:?}");
        self.ids.push(id);
        self.cache.push(record)
    }

    pub(crate) fn truncate(&mut self, first_removed: u64) {
        self.ids.truncate(first_removed);
        self.cache.truncate(first_removed);
    }

    /// The writer has put every record up to `number` into files.
    pub(crate) fn written(&mut self, changes: Vec<Change>, number: u64, durable: Position, cache_bytes: u64) {
        self.durable = durable;
        for change in changes {
            match change {
                Change::Placed { index, at } => self.places.note(index, at),
                Change::Truncated { first_removed } => self.places.truncate(first_removed),
                Change::Sealed { segment } => self.places.fold(segment),
                Change::Opened {
                    segment,
                    generation,
                    previous_end: end,
                } => {
                    self.generations.insert(segment, generation);
                    self.layout.ends.insert(end.segment, end.offset);
                }
            }
        }
        self.cache.written(number, cache_bytes);
    }

    /// Where each file with live records begins: its first segment, and the first of its records. In the order of the log; without those
    /// before which a patch stands, of which nothing here tells whether it is part of them.
    pub(crate) fn starts(&self) -> Vec<(u32, u64)> {
        // The first place in each segment that has one.
        let mut firsts = BTreeMap::new();
        let mut before = None;
        for place in &self.places.list {
            let behind_a_patch = before.is_some_and(|segment| segment & PATCH_BIT != 0);
            let first = (!behind_a_patch).then_some(place.first_index);
            firsts.entry(place.at.segment).or_insert(first);
            before = Some(place.at.segment);
        }
        let mut starts: Vec<(u32, u64)> = Vec::new();
        let mut file: Option<(u32, Option<&Lies>)> = None;
        let mut is_known = false;
        for number in self.layout.ends.keys().copied().chain([self.durable.segment]) {
            let home = self.layout.merged.get(&number);
            let goes_on = match (file, home) {
                (Some((_, Some(of))), Some(home)) => of.path == home.path,
                _ => false,
            };
            if !goes_on {
                file = Some((number, home));
                is_known = false;
            }
            if let Some((first_segment, _)) = file
                && let Some(first) = firsts.get(&number)
                && !is_known
            {
                is_known = true;
                starts.extend(first.map(|index| (first_segment, index)));
            }
        }
        starts
    }

    /// The first segment of the last file whose first record is `next` or an earlier one.
    pub(crate) fn start_before(&self, next: u64) -> u32 {
        let starts = self.starts();
        let start = starts.iter().rev().find(|(_, first)| *first <= next);
        start.map_or(1, |(segment, _)| *segment).max(self.first_segment)
    }

    /// Whether the log can begin behind `before`: it is one of its records, or all of them lie before it.
    pub(crate) fn can_begin_behind(&self, before: LogId) -> bool {
        self.ids.clone().trim(before)
    }

    /// The log begins behind `before` now, in `segment`.
    pub(crate) fn trim(&mut self, segment: u32, before: LogId) {
        if self.ids.trim(before) {
            self.places.trim(segment);
            self.layout.trim(segment);
            self.generations.retain(|number, _| *number >= segment);
            self.first_segment = segment;
            if self.ids.runs.is_empty() {
                // What comes next need not follow what was there.
                self.cache.truncate(0);
            }
        }
    }

    /// Where a reader finds `index`: a place, the index up to which it serves, its segment's generation.
    pub(crate) fn find(&self, index: u64) -> Option<(Place, u64, u64)> {
        let (place, end) = self.places.find(index)?;
        let Position { segment, .. } = place.at;
        Some((place, end, *self.generations.get(&segment)?))
    }
}

/// Locks. A panic elsewhere while the lock was held has already ended what it was part of, and none of the
/// data guarded here is left half changed by the asserts above.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
