//! What submitters, the writer and the reader share, under one lock that nobody holds during I/O.

use super::cache::Cache;
use super::format::Position;
use super::index::{LogIds, Place, Places};
use super::layout::Layout;
use super::model::LogRecord;
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
