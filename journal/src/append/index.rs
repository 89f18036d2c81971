//! Where in the log the journal's bytes lie.

use redoubt_types::{Db, Offset, Txid};

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

/// The admitted entries in order: those of whole groups, and apart from them the fragments of a group that
/// is not whole yet, which no reader may see (H3).
#[derive(Clone, Debug, Default)]
pub struct EntryIndex {
    whole: Vec<IndexEntry>,
    pending: Vec<IndexEntry>,
}

impl EntryIndex {
    /// Adds an admitted entry; `whole` says that the journal's tail is now at its end.
    pub fn push(&mut self, entry: IndexEntry, whole: bool) {
        self.pending.push(entry);
        if whole {
            self.whole.append(&mut self.pending);
        }
    }

    /// Forgets the fragments of an unfinished group.
    pub fn discard_pending(&mut self) {
        self.pending.clear();
    }

    /// The position, among the entries of whole groups, of the one that holds the byte behind `from`; the
    /// number of entries when `from` is at or beyond their end.
    pub fn find(&self, from: Offset, tail: Offset) -> usize {
        if from >= tail {
            return self.whole.len();
        }
        self.whole.partition_point(|e| e.start <= from).saturating_sub(1)
    }

    /// Entries of whole groups from position `at` on, `most` at the most.
    pub fn slice(&self, at: usize, most: usize) -> &[IndexEntry] {
        let at = at.min(self.whole.len());
        &self.whole[at..self.whole.len().min(at.saturating_add(most))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64) -> IndexEntry {
        IndexEntry {
            start: Offset::new(start),
            log_index: start,
            first_txid: Txid::FIRST,
            groups: 1,
            db: Db::default(),
            at_group_start: true,
        }
    }

    #[test]
    fn finds_the_entry_that_holds_a_byte() {
        let mut i = EntryIndex::default();
        for s in [0, 10, 25] {
            i.push(entry(s), true);
        }
        let tail = Offset::new(40);
        for (from, at) in [
            (0, 0),
            (9, 0),
            (10, 1),
            (24, 1),
            (25, 2),
            (39, 2),
            (40, 3),
            (99, 3),
        ] {
            assert_eq!(i.find(Offset::new(from), tail), at, "from {from}");
        }
        assert_eq!(i.slice(1, 1), &[entry(10)]);
        assert_eq!(i.slice(3, 9), &[]);
    }

    #[test]
    fn fragments_are_seen_only_once_their_group_is_whole() {
        let mut i = EntryIndex::default();
        i.push(entry(0), true);
        i.push(entry(10), false);
        assert_eq!(i.slice(0, 9), &[entry(0)]);
        i.discard_pending();
        i.push(entry(10), false);
        i.push(entry(20), true);
        assert_eq!(i.slice(0, 9), &[entry(0), entry(10), entry(20)]);
    }
}
