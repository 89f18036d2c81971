//! Patches: what repair puts in the place of records that rotted.
//!
//! No byte of a segment is ever written twice, so a repaired range stays as it is, damaged, and a file of its own
//! says what the log holds there: from a position where reading stops, so many records, then on at another position.
//! Promises that a patch is there whole or not at all, and that it fits one place in one segment only. Written in the
//! form of a segment whose number has its highest bit set, so that one reader reads both.
//!
//! A patch that is damaged itself is none: the gap that it closed is open again, and is closed by a new one.

use super::error::{Failure, OpenError};
use super::file;
use super::format::{
    Follows, Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, checksum,
};
use super::model::{LogId, LogRecord, RecordKind};
use super::recover::{Cursor, Image, record_at};
use redoubt_env::files::{Files, Mode};
use redoubt_types::NodeId;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;

/// Set in the number of a patch, to tell it from a segment's.
pub(crate) const PATCH_BIT: u32 = 1 << 31;

/// The leader in the id of a blank that keeps the place of a removed record: no node's record, to be given to none.
pub(crate) const NOBODY: u64 = u64::MAX;
/// The leader in the id of a record that is missing.
pub(crate) const MISSING: u64 = u64::MAX - 1;

/// A range of a segment that can't be read, and what must be known to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where reading stopped, and the checksum that the record there had to link to.
    pub(crate) from: Position,
    pub(crate) from_link: u32,
    /// Where it goes on in the same segment, and what a record there links to.
    pub(crate) resume: Cursor,
    /// The generation of the segment.
    pub(crate) generation: u64,
    /// What is missing begins with the removal of everything from here on.
    pub(crate) removes_from: Option<u64>,
    /// The id of the last record before it.
    pub(crate) last: Option<LogId>,
    /// The first index that is missing.
    pub(crate) first: u64,
    /// Behind the last one; `None` when nothing behind the gap tells, since only marks follow it.
    pub(crate) end: Option<u64>,
    /// What was known to be committed by the records before it.
    pub(crate) committed_end: u64,
    /// The term of the next record that was written behind it, wherever that is and whatever became of it.
    pub(crate) next_term: Option<u64>,
    /// The lowest term of all records that were written behind it.
    pub(crate) lowest_term: Option<u64>,
    /// Later, everything from this index on was removed from the log.
    pub(crate) removed_from: Option<u64>,
    /// The id of the record before [`Gap::first_wanted`].
    pub(crate) before: Option<LogId>,
    /// There is another gap before it in the log.
    pub(crate) behind_another: bool,
    /// The file may have been cut short here, or is lost: nothing tells how much there was.
    pub(crate) cut_short: bool,
}

impl Gap {
    /// Records that fit into it at most.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.resume.offset.saturating_sub(self.from.offset) / RECORD_HEADER_BYTES)
    }

    /// Where it begins: the segment's number, and the byte in it.
    pub fn place(&self) -> (u32, u32) {
        (self.from.segment, self.from.offset)
    }

    /// The first index that is wanted of another node. None is missing before it, but the gap may have held a removal of
    /// records before itself: so the other node's record before this index must be [`Gap::before`].
    pub fn first_wanted(&self) -> u64 {
        self.removed_from.map_or(self.first, |r| r.min(self.first))
    }

    /// Behind the last index that is wanted. Where nothing behind the gap tells how many are missing: everything below
    /// `committed_end`, what is committed by now, as far as the gap has room for records.
    pub fn end_wanted(&self, committed_end: impl FnOnce() -> u64) -> u64 {
        let end = self.end.unwrap_or_else(|| {
            let room = match self.cut_short {
                true => u64::MAX,
                false => self.room(),
            };
            committed_end()
                .min(self.first.saturating_add(room))
                .max(self.first)
        });
        self.removed_from
            .map_or(end, |r| r.min(end))
            .max(self.first_wanted())
    }

    /// What is missing, for people: of which segment, wherever that lies, and which records.
    pub fn describe(&self) -> String {
        let records = match self.end {
            Some(end) if end == self.first => "no record, or a removal".to_owned(),
            Some(end) if end == self.first + 1 => format!("record {}", self.first),
            Some(end) => format!("records {} to {}", self.first, end - 1),
            None => format!("whatever followed record {}", self.first.saturating_sub(1)),
        };
        format!(
            "editlog {} is damaged at byte {}: {records}",
            self.from.segment, self.from.offset
        )
    }

    /// Whether it ends at the end of a file that may have been cut short: then it held as much as a file can hold, at most.
    pub fn is_cut_short(&self) -> bool {
        self.cut_short
    }

    /// Whether only a quorum can tell how many records are missing.
    pub fn is_open_ended(&self) -> bool {
        self.end.is_none()
    }

    /// The id that the record before [`Gap::first_wanted`] has, `None` at the log's beginning.
    pub fn before(&self) -> Option<LogId> {
        self.before
    }

    /// Whether it may be [`Gap::stepped_back`]: not while another gap is before it. That one may have held the removal which
    /// made the records before this one other ones than those that stand here.
    pub fn may_step_back(&self) -> bool {
        !self.behind_another
    }

    /// The same gap, seen from further down: this node's record at `index` is not the one that is committed, whose term
    /// is `term`. If that is later than what stands behind the gap, all of this was removed later; else what is missing
    /// began with a removal, and it went down to there. `before` is the record before `index`.
    #[must_use]
    pub fn stepped_back(mut self, index: u64, term: u64, before: Option<LogId>) -> Gap {
        if self.is_later(term) {
            self.removed_from = Some(index);
        } else {
            (self.first, self.removes_from, self.last) = (index, Some(index), before);
        }
        self.before = before;
        self
    }

    /// Whether a committed record of `term` proves that this node's record of its index, and all behind it, was removed
    /// later: a record behind the gap is of an earlier term. Had the committed one stood there, it would have had to go before
    /// that one could be written, whether above it or in its place.
    pub fn is_later(&self, term: u64) -> bool {
        self.lowest_term.is_some_and(|behind| term > behind)
    }

    /// The same gap, what is missing from `index` on having been removed later.
    #[must_use]
    pub fn removed_from(mut self, index: u64) -> Gap {
        self.removed_from = self.removed_from.into_iter().chain([index]).min();
        self
    }

    /// The same gap, what was removed later being as `other` says.
    #[must_use]
    pub fn removed_as(mut self, other: &Gap) -> Gap {
        self.removed_from = other.removed_from;
        self
    }

    /// Whether the record before is itself missing: another gap must be closed first.
    pub fn waits(&self) -> bool {
        self.before.is_some_and(|id| id.leader == MISSING)
    }

    /// The term of all that is missing, if the records before and behind tell: then a record of that term and its index is
    /// the missing one, whoever has it and whether or not it is committed. A log that has a term's later record has all
    /// of that term's earlier ones, so nothing between the two was removed or is of another term.
    pub fn term(&self) -> Option<u64> {
        let before = self.before.map(|id| id.term);
        before.filter(|term| self.next_term == Some(*term) && self.removed_from.is_none())
    }
}

/// What a patch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) number: u32,
    /// Of the patch file itself.
    pub(crate) file_generation: u64,
    pub(crate) from: Position,
    pub(crate) from_link: u32,
    pub(crate) resume: Cursor,
    /// Of the segment that it belongs to.
    pub(crate) generation: u64,
    /// First, everything from here on is removed.
    pub(crate) removes_from: Option<u64>,
    /// The records, and where they lie in the patch's file; `None` for one that is still missing.
    pub(crate) records: Vec<(LogId, Option<Position>)>,
}

impl Patch {
    /// What stands for `gap` while it is open: ids that no record has, so that whatever lies behind can be read.
    pub(crate) fn of_gap(gap: &Gap) -> Patch {
        let term = gap.last.map_or(0, |id| id.term);
        let missing = gap.first..gap.end.unwrap_or(gap.first);
        let id = |index| LogId {
            term,
            leader: MISSING,
            index,
        };
        Patch {
            number: 0,
            file_generation: 0,
            from: gap.from,
            from_link: gap.from_link,
            resume: gap.resume,
            generation: gap.generation,
            removes_from: gap.removes_from,
            records: missing.map(|index| (id(index), None)).collect(),
        }
    }
}

/// Patches, the newest one of each place being the one that counts. Found by place: of a disk that rots all over there may
/// be many, and each is looked for again and again.
#[derive(Debug, Default)]
pub(crate) struct Patches {
    list: Vec<Patch>,
    by_place: BTreeMap<(u64, Position, u32), usize>,
}

impl Patches {
    /// Adds one that is newer than all others.
    pub(crate) fn push(&mut self, patch: Patch) {
        let place = (patch.generation, patch.from, patch.from_link);
        self.by_place.insert(place, self.list.len());
        self.list.push(patch);
    }

    /// Takes out those that belong to segments before `segment`.
    pub(crate) fn take_before(&mut self, segment: u32) -> Vec<Patch> {
        let all = std::mem::take(self).list.into_iter();
        let (stale, kept) = all.partition(|p| p.from.segment < segment);
        let kept: Vec<Patch> = kept;
        kept.into_iter().for_each(|patch| self.push(patch));
        stale
    }

    /// The one that continues a segment of `generation` at `at`, behind a record with the checksum `link`.
    pub(crate) fn continuing(&self, generation: u64, at: Position, link: u32) -> Option<&Patch> {
        let found = self.by_place.get(&(generation, at, link))?;
        self.list.get(*found)
    }

    /// Whether any belongs to `segment`.
    pub(crate) fn any_in(&self, segment: u32) -> bool {
        self.list.iter().any(|p| p.from.segment == segment)
    }

    /// All, oldest first.
    pub(crate) fn all(&self) -> &[Patch] {
        &self.list
    }
}

/// Makes the patch that puts `records` into `gap`, durable under its name before this returns.
pub(crate) fn write(
    files: &dyn Files,
    dir: &Path,
    (number, file_generation): (u32, u64),
    node: NodeId,
    gap: &Gap,
    records: &[LogRecord],
) -> Result<(), Failure> {
    let number = number | PATCH_BIT;
    let path = file::path_of(dir, number);
    let header = SegmentHeader {
        segment: number,
        generation: file_generation,
        node: node.get(),
        follows: Follows::Gap,
        previous_end: gap.from,
        previous_link: gap.from_link,
        durable: Position {
            segment: gap.from.segment,
            offset: gap.resume.offset,
        },
        next_index: gap.first,
        before: None,
    };
    let (mut block, crc) = header.encode();
    let mut end = Cursor::start(crc);
    let from_here = records.last().map_or(gap.first, |r| r.id.index + 1);
    let next_index = gap.end.unwrap_or(from_here).max(from_here);
    let last = LogId {
        term: gap.resume.link.into(),
        leader: gap.generation,
        index: next_index,
    };
    // What was removed later is nobody's any more; its place in the log is kept.
    let term = records.last().map(|r| r.id).or(gap.last).map_or(0, |id| id.term);
    let filler = (from_here..next_index).map(|index| {
        let id = LogId {
            term,
            leader: NOBODY,
            index,
        };
        (Kind::Log(RecordKind::Blank), id, &[][..])
    });
    let removal = gap.removes_from.map(|index| {
        let id = LogId {
            term: 0,
            leader: 0,
            index,
        };
        (Kind::Truncate, id, &[][..])
    });
    let all = removal
        .into_iter()
        .chain(records.iter().map(|r| (Kind::Log(r.kind), r.id, &r.payload[..])))
        .chain(filler)
        .chain([(Kind::Seal, last, &[][..])]);
    file::publish(files, dir, number, None, |file| {
        let mut written = 0;
        for (kind, id, payload) in all {
            let at = Position {
                segment: number,
                offset: end.offset,
            };
            let record = RecordHeader {
                kind,
                payload_bytes: payload.len() as u32,
                payload_crc: checksum(file_generation, at, payload),
                term: id.term,
                leader: id.leader,
                index: id.index,
                durable: Position {
                    segment: 0,
                    offset: 0,
                },
                committed_end: 0,
                link: end.link,
            };
            let (head, link) = record.encode(file_generation, at);
            block.extend_from_slice(&head);
            block.extend_from_slice(payload);
            let offset = u64::from(at.offset) + record.span();
            block.resize((offset - written) as usize, 0);
            file.write_at(&[IoSlice::new(&block)], written)
                .map_err(Failure::new("write", &path))?;
            written = offset;
            block.clear();
            end = Cursor {
                offset: u32::try_from(offset).map_err(|_| Failure::too_large(&path))?,
                link,
            };
        }
        Ok(())
    })
    .map(drop)
}

/// The patches in `dir` that are whole, oldest first, and the highest number that any has.
pub(crate) fn load(files: &dyn Files, dir: &Path, node: NodeId) -> Result<(Patches, u32), OpenError> {
    let names = files.list(dir).map_err(OpenError::io("list", dir))?;
    let (mut patches, mut highest) = (Patches::default(), 0);
    for number in names.iter().filter_map(|n| file::patch_of(n)) {
        highest = number & !PATCH_BIT;
        let path = file::path_of(dir, number);
        let file = files
            .open(&path, Mode::Read)
            .map_err(OpenError::io("open", &path))?;
        let bytes = file::read_what_can_be(&*file, &path)?;
        match decode(&bytes, number, node) {
            Some(patch) => patches.push(patch),
            None => tracing::warn!(patch = %path.display(), "a patch is damaged itself, and counts as none"),
        }
    }
    Ok((patches, highest))
}

fn decode(bytes: &[u8], number: u32, node: NodeId) -> Option<Patch> {
    let (header, crc) = SegmentHeader::decode(bytes.get(..SEGMENT_HEADER_BYTES as usize)?).ok()?;
    if header.segment != number || header.node != node.get() || header.follows != Follows::Gap {
        return None;
    }
    let image = Image::new(&header, crc, bytes);
    let mut end = Cursor::start(crc);
    let (mut removes_from, mut records) = (None, Vec::new());
    loop {
        let at = Position {
            segment: number,
            offset: end.offset,
        };
        let (record, link) = record_at(&image, at).filter(|(r, _)| r.link == end.link)?;
        let id = LogId {
            term: record.term,
            leader: record.leader,
            index: record.index,
        };
        match record.kind {
            Kind::Log(_) => records.push((id, Some(at))),
            Kind::Seal => {
                if header.durable.offset <= header.previous_end.offset {
                    return None;
                }
                return Some(Patch {
                    number,
                    file_generation: header.generation,
                    from: header.previous_end,
                    from_link: header.previous_link,
                    resume: Cursor {
                        offset: header.durable.offset,
                        link: u32::try_from(id.term).ok()?,
                    },
                    generation: id.leader,
                    removes_from,
                    records,
                });
            }
            Kind::Truncate if end.offset == SEGMENT_HEADER_BYTES => removes_from = Some(id.index),
            Kind::Truncate | Kind::Mark => return None,
        }
        end = Cursor {
            offset: at.offset + record.span() as u32,
            link,
        };
    }
}
