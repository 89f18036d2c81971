//! The bytes of one file: what is on the disk, what is only in memory, and what a power cut makes of the difference.

use super::faults::Random;
use std::collections::BTreeMap;

/// What a disk writes as a whole, mostly.
const SECTOR_BYTES: u64 = 512;
/// What a file system allots.
pub(super) const BLOCK_BYTES: u64 = 4096;

#[derive(Default)]
pub(super) struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<Change>,
    /// How many changes came before those in `unsynced`.
    settled: u64,
    /// So many bytes are set aside for it.
    allotted: u64,
    /// How many times it is open.
    pub(super) handles: u32,
}

enum Change {
    Write { pos: u64, bytes: Vec<u8> },
    Len(u64),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write { pos, bytes } => write(to, *pos, bytes),
            Change::Len(len) => to.resize(*len as usize, 0),
        }
    }
}

fn write(to: &mut Vec<u8>, pos: u64, bytes: &[u8]) {
    let (from, end) = (pos as usize, pos as usize + bytes.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[from..end].copy_from_slice(bytes);
}

impl Inode {
    /// One that holds `bytes`, durably.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.settled += self.unsynced.len() as u64;
        self.unsynced.clear();
        self.durable = bytes.to_vec();
        self.now = bytes.to_vec();
    }

    pub(super) fn contents(&self) -> &[u8] {
        &self.now
    }

    /// Bytes that it takes of the disk: whole blocks, holes too, and one block for itself.
    pub(super) const fn space(&self) -> u64 {
        let len = self.now.len() as u64;
        space_of(if len > self.allotted { len } else { self.allotted })
    }

    /// Sets space aside; durable at once, as nobody promises.
    pub(super) fn allocate(&mut self, len: u64) {
        self.allotted = self.allotted.max(len);
    }

    pub(super) fn write(&mut self, pos: u64, bytes: Vec<u8>) {
        self.change(Change::Write { pos, bytes });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::Len(len));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    /// How many changes there have been.
    pub(super) const fn changes(&self) -> u64 {
        self.settled + self.unsynced.len() as u64
    }

    /// Makes all but the changes behind the first `changes` durable.
    pub(super) fn sync(&mut self, changes: u64) {
        let count = changes.saturating_sub(self.settled) as usize;
        for change in self.unsynced.drain(..count) {
            change.apply(&mut self.durable);
        }
        self.settled += count as u64;
    }

    /// After a failed sync the pages count as clean, as on Linux: some of them are on the disk, the others never will
    /// be, though all read as written.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        self.settled += changes.len() as u64;
        self.survive(&changes, random);
    }

    pub(super) fn power_cut(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        self.settled += changes.len() as u64;
        self.survive(&changes, random);
        self.now = self.durable.clone();
        self.handles = 0;
    }

    /// Decides what of `changes`, which are all that is not synced, reached the disk all the same.
    fn survive(&mut self, changes: &[Change], random: &mut Random) {
        if changes.is_empty() {
            return;
        }
        let first = match random.below(8) {
            0 => 0,
            1 => changes.len(),
            2 => random.below(changes.len() as u64 + 1) as usize,
            // Any sectors, most of them, few of them.
            3 => return self.keep_sectors(changes, random, 1, 2),
            4 => return self.keep_sectors(changes, random, 15, 16),
            5 => return self.keep_sectors(changes, random, 1, 16),
            _ => return self.keep_runs(changes, random),
        };
        changes[..first].iter().for_each(|c| c.apply(&mut self.durable));
    }

    /// Keeps each sector with the chance `of / out_of`, as it was after any of the writes to it: a page goes
    /// to the disk with everything written to it until then, so a later write never survives without an
    /// earlier one to the same sector.
    fn keep_sectors(&mut self, changes: &[Change], random: &mut Random, of: u64, out_of: u64) {
        let mut sectors: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Len(_) if random.below(out_of) < of => change.apply(&mut self.durable),
                Change::Len(_) => {}
                Change::Write { pos, bytes } => {
                    let mut at = *pos;
                    let end = at + bytes.len() as u64;
                    while at < end {
                        let stop = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                        let piece = &bytes[(at - pos) as usize..(stop - pos) as usize];
                        sectors.entry(at / SECTOR_BYTES).or_default().push((at, piece));
                        at = stop;
                    }
                }
            }
        }
        for writes in sectors.values() {
            if random.below(out_of) < of {
                let kept = 1 + random.below(writes.len() as u64) as usize;
                writes[..kept]
                    .iter()
                    .for_each(|(at, piece)| write(&mut self.durable, *at, piece));
            }
        }
        self.keep_len(random);
    }

    /// Keeps any runs of bytes of any of the writes, whatever became of those before them.
    fn keep_runs(&mut self, changes: &[Change], random: &mut Random) {
        for change in changes {
            let Change::Write { pos, bytes } = change else {
                if random.below(2) == 0 {
                    change.apply(&mut self.durable);
                }
                continue;
            };
            let mut at = 0;
            while at < bytes.len() {
                let end = at + 1 + random.below((bytes.len() - at) as u64) as usize;
                if random.below(2) == 0 {
                    write(&mut self.durable, pos + at as u64, &bytes[at..end]);
                }
                at = end;
            }
        }
        self.keep_len(random);
    }

    /// A file's length may reach the disk before what was written up to there.
    fn keep_len(&mut self, random: &mut Random) {
        if self.durable.len() < self.now.len() && random.below(2) == 0 {
            self.durable.resize(self.now.len(), 0);
        }
    }
}

/// Bytes that a file of `len` bytes takes.
pub(super) const fn space_of(len: u64) -> u64 {
    BLOCK_BYTES * (1 + len.div_ceil(BLOCK_BYTES))
}
