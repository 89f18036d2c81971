//! The log's end in memory.
//!
//! Promises that a record can be read from the moment it was submitted: one that is not yet in its file is
//! never evicted. Pure.

use super::model::LogRecord;
use std::collections::VecDeque;

/// The newest records, dense up to the log's last.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Each with its number. A number, not the index: after a truncation an index is used twice.
    records: VecDeque<(u64, LogRecord)>,
    bytes: u64,
    pushed: u64,
    written: u64,
}

impl Cache {
    /// Adds the log's next record; returns its number, for [`Cache::written`] once it is in its file.
    pub(crate) fn push(&mut self, record: LogRecord) -> u64 {
        self.bytes += record.payload.len() as u64;
        self.pushed += 1;
        self.records.push_back((self.pushed, record));
        self.pushed
    }

    /// Removes every record from `first_removed` on.
    pub(crate) fn truncate(&mut self, first_removed: u64) {
        while self
            .records
            .back()
            .is_some_and(|(_, r)| r.id.index >= first_removed)
        {
            let last = self.records.pop_back();
            self.bytes -= last.map_or(0, |(_, r)| r.payload.len() as u64);
        }
    }

    /// Every record up to number `number` is in its file; evicts from the front down to `bytes_max`.
    pub(crate) fn written(&mut self, number: u64, bytes_max: u64) {
        self.written = self.written.max(number);
        while self.bytes > bytes_max && self.records.front().is_some_and(|(n, _)| *n <= self.written) {
            let evicted = self.records.pop_front();
            self.bytes -= evicted.map_or(0, |(_, r)| r.payload.len() as u64);
        }
    }

    /// The first cached index.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.records.front().map(|(_, r)| r.id.index)
    }

    /// Records from `start` up to `end`, `bytes_max` of payload but at least one; `None` when `start` isn't
    /// cached.
    pub(crate) fn get(&self, start: u64, end: u64, bytes_max: u64) -> Option<Vec<LogRecord>> {
        let skip = start.checked_sub(self.first_index()?)? as usize;
        if skip >= self.records.len() {
            return None;
        }
        let mut bytes = 0;
        let mut out = Vec::new();
        for (_, r) in self.records.range(skip..).take_while(|(_, r)| r.id.index < end) {
            bytes += r.payload.len() as u64;
            if !out.is_empty() && bytes > bytes_max {
                break;
            }
            out.push(r.clone());
        }
        Some(out)
    }
}
