//! Where in the log the journal's bytes lie.

use redoubt_types::{Db, Offset, Txid};
use std::collections::VecDeque;

/// One admitted entry: what a tail needs beyond the record itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of its first byte.
    pub start: Offset,
    /// Its place in the log.
    pub log_index: u64,
    /// Txid of the first group that ends in it; of the group that it is part of, if none does.
    pub first_txid: Txid,
    /// Groups that end in it.
    pub groups: u32,
    /// The database selected before its first byte.
    pub db: Db,
    /// Whether its first byte begins a group.
    pub at_group_start: bool,
}

/// What a reader wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The entry that holds the byte behind this offset.
    Offset(Offset),
    /// The first entry at this place in the log or behind it.
    Log(u64),
}

/// A stretch of the admitted entries, in order: those of whole groups, and apart from them the fragments of a
/// group that is not whole yet, which no reader may see (H3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryIndex {
    /// Every entry from this place in the log on is here, and so is every byte from this offset on.
    begins: (u64, Offset),
    /// Behind the last entry of a whole group.
    end: Offset,
    whole: VecDeque<IndexEntry>,
    pending: Vec<IndexEntry>,
}

impl EntryIndex {
    /// An index of what comes from place `log_index` in the log on, where the tail is `tail`.
    pub fn beginning_at(log_index: u64, tail: Offset) -> Self {
        EntryIndex {
            begins: (log_index, tail),
            end: tail,
            ..EntryIndex::default()
        }
    }

    /// The place in the log where it begins.
    pub fn begins_at(&self) -> u64 {
        self.begins.0
    }

    /// Adds an admitted entry; `tail` is the journal's, if that is at the end of this entry now.
    pub fn push(&mut self, entry: IndexEntry, tail: Option<Offset>) {
        self.pending.push(entry);
        if let Some(tail) = tail {
            self.whole.extend(self.pending.drain(..));
            self.end = tail;
        }
    }

    /// Forgets the fragments of an unfinished group.
    pub fn discard_pending(&mut self) {
        self.pending.clear();
    }

    /// Forgets the entries before place `log_index`, where the tail was `tail`.
    pub fn forget_before(&mut self, log_index: u64, tail: Offset) {
        while self.whole.front().is_some_and(|e| e.log_index < log_index) {
            self.whole.pop_front();
        }
        self.begins = (log_index, tail);
    }

    /// Whether what `seek` wants is not before this stretch.
    fn reaches_back_to(&self, seek: Seek) -> bool {
        match seek {
            Seek::Offset(offset) => offset >= self.begins.1,
            Seek::Log(index) => index >= self.begins.0,
        }
    }

    /// Entries of whole groups as `seek` wants them, `most` at the most; none when it is at the end or beyond it. `None` when
    /// it is before what is known here.
    pub fn read(&self, seek: Seek, most: usize) -> Option<Vec<IndexEntry>> {
        if !self.reaches_back_to(seek) {
            return None;
        }
        let at = match seek {
            Seek::Offset(offset) if offset >= self.end => self.whole.len(),
            Seek::Offset(offset) => self
                .whole
                .partition_point(|e| e.start <= offset)
                .saturating_sub(1),
            Seek::Log(index) => self.whole.partition_point(|e| e.log_index < index),
        };
        Some(self.whole.range(at..).take(most).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64) -> IndexEntry {
        IndexEntry {
            start: Offset::new(start),
            log_index: start + 100,
            first_txid: Txid::FIRST,
            groups: 1,
            db: Db::default(),
            at_group_start: true,
        }
    }

    fn whole(starts: &[(u64, u64)]) -> EntryIndex {
        let mut i = EntryIndex::default();
        for (start, end) in starts {
            i.push(entry(*start), Some(Offset::new(*end)));
        }
        i
    }

    fn from(i: &EntryIndex, offset: u64) -> Option<Vec<IndexEntry>> {
        i.read(Seek::Offset(Offset::new(offset)), 9)
    }

    #[test]
    fn finds_the_entry_that_holds_a_byte() {
        let i = whole(&[(0, 10), (10, 25), (25, 40)]);
        let all = [entry(0), entry(10), entry(25)];
        for (offset, at) in [
            (0, 0),
            (9, 0),
            (10, 1),
            (24, 1),
            (25, 2),
            (39, 2),
            (40, 3),
            (99, 3),
        ] {
            assert_eq!(from(&i, offset).unwrap(), all[at..], "from {offset}");
        }
        for (index, at) in [(0, 0), (100, 0), (101, 1), (110, 1), (111, 2), (126, 3)] {
            assert_eq!(i.read(Seek::Log(index), 9).unwrap(), all[at..], "from {index}");
        }
        assert_eq!(i.read(Seek::Log(0), 2).unwrap(), all[..2]);
    }

    #[test]
    fn fragments_are_seen_only_once_their_group_is_whole() {
        let mut i = whole(&[(0, 10)]);
        i.push(entry(10), None);
        assert_eq!(from(&i, 0).unwrap(), [entry(0)]);
        assert_eq!(from(&i, 10).unwrap(), []);
        i.discard_pending();
        i.push(entry(10), None);
        i.push(entry(20), Some(Offset::new(30)));
        assert_eq!(from(&i, 0).unwrap(), [entry(0), entry(10), entry(20)]);
    }

    #[test]
    fn what_was_forgotten_is_unknown_and_not_absent() {
        let mut i = whole(&[(0, 10), (10, 25), (25, 40)]);
        i.forget_before(105, Offset::new(10));
        assert_eq!(from(&i, 9), None);
        assert_eq!(i.read(Seek::Log(104), 9), None);
        assert_eq!(from(&i, 10).unwrap(), [entry(10), entry(25)]);
        assert_eq!(i.read(Seek::Log(105), 9).unwrap(), [entry(10), entry(25)]);
        let later = EntryIndex::beginning_at(200, Offset::new(40));
        assert_eq!(from(&later, 39), None);
        assert_eq!(from(&later, 40).unwrap(), []);
    }
}
