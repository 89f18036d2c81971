//! Recovery: from the bytes of the segments to what the log holds, and where it goes on.
//!
//! Decides for every damaged byte whether it is a *torn* write, which nobody was told of and which is cut, or
//! *rot* of something promised, which never is (H7). Pure: bytes in, decisions out.
//!
//! The rule: every header says up to where the log was durable when it was written, and that was true
//! whether or not the header's own write survived. So the highest such mark in any header that checks out
//! tells what must be readable; damage below it is rot. Behind damage the next thing that looks like a record
//! is not trusted as one, only as a witness: its checksum binds it to this file and this place.

use super::format::{
    Follows, Kind, Position, RECORD_ALIGN, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::gap;
use super::index::{LogIndex, SegmentLog};
use super::model::LogId;
use super::patch::{Gap, Patches};
use std::collections::BTreeMap;

/// A segment file's header and bytes.
pub(crate) struct Image<'a> {
    pub(crate) header: &'a SegmentHeader,
    /// Checksum of the header block.
    pub(crate) header_crc: u32,
    /// The whole file, the header block included.
    pub(crate) bytes: &'a [u8],
    /// The file is lost, or cut off within the header block.
    pub(crate) is_lost: bool,
    /// Everything before was durable, as the file beside the log tells.
    pub(crate) witness: Position,
}

impl<'a> Image<'a> {
    /// A file that is there, and of which nothing else tells.
    pub(crate) fn new(header: &'a SegmentHeader, header_crc: u32, bytes: &'a [u8]) -> Self {
        Image {
            header,
            header_crc,
            bytes,
            is_lost: false,
            witness: Position::default(),
        }
    }
}

/// Where the next record goes, and the checksum that it must link to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) offset: u32,
    pub(crate) link: u32,
}

impl Cursor {
    /// The cursor of a segment without records.
    pub(crate) const fn start(header_crc: u32) -> Self {
        Cursor {
            offset: SEGMENT_HEADER_BYTES,
            link: header_crc,
        }
    }
}

/// A seal, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) next_segment: u64,
    pub(crate) next_generation: u64,
}

/// How far a segment's records go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) log: SegmentLog,
    pub(crate) end: Cursor,
    pub(crate) sealed: Option<Sealed>,
    /// Where the last patch led to.
    pub(crate) patched_to: Option<u32>,
    /// The removals that were read: where, and of everything from which index on.
    pub(crate) removals: Vec<(u32, u64)>,
    /// Where records were read, and their terms; only where there are patches.
    pub(crate) terms: Vec<(u32, u64)>,
}

/// What stopped recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Damage where data was durable; with what would close it, unless what is around it does not tell.
    Rot {
        segment: u32,
        offset: u32,
        index: u64,
        gap: Option<Gap>,
    },
    /// Checksums are right, content isn't: a bug, or files of two histories in one directory; or, where a gap lies before
    /// it, what the gap held. `term` is that of the record that does not fit.
    Contradiction {
        segment: u32,
        what: String,
        term: Option<u64>,
    },
    /// The segment that must follow is not there.
    Missing { segment: u64 },
}

/// What lies behind the last good record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeros: the log goes on here.
    Clean,
    /// A write that was never acknowledged: so many bytes of it are cut.
    Torn { bytes: u64 },
    /// Something durable that can't be read.
    Rot,
}

/// Reads records while they check out and link, up to `stop` if that is given. Where they don't, the newest of the
/// `patches` that continues there goes on.
///
/// # Errors
/// A contradiction: a record with right checksums that does not fit behind `before`.
pub(crate) fn walk(
    image: &Image<'_>,
    before: &LogIndex,
    stop: Option<u32>,
    patches: &Patches,
) -> Result<Walked, Verdict> {
    let mut log = SegmentLog::default();
    let mut end = Cursor::start(image.header_crc);
    let (mut sealed, mut patched_to) = (None, None);
    let (mut removals, mut terms) = (Vec::new(), Vec::new());
    while sealed.is_none() && stop != Some(end.offset) {
        let at = Position {
            segment: image.header.segment,
            offset: end.offset,
        };
        let record = record_at(image, at).filter(|(header, _)| header.link == end.link);
        let Some((header, crc)) = record else {
            let Some(patch) = patches.continuing(image.header.generation, at, end.link) else {
                break;
            };
            let removed = patch.removes_from.map(|from| {
                let mut removed = log.clone();
                removed.truncate(from);
                removed
            });
            if !removed.as_ref().unwrap_or(&log).takes_all(&before.ids, patch) {
                break;
            }
            log = removed.unwrap_or(log);
            removals.extend(patch.removes_from.map(|from| (end.offset, from)));
            for (id, place) in &patch.records {
                match place {
                    Some(place) => log.push(*id, *place),
                    None => log.miss(*id),
                }
            }
            // No reader can walk across, also where there was nothing but marks.
            log.places.miss();
            end = patch.resume;
            patched_to = Some(end.offset);
            continue;
        };
        match header.kind {
            Kind::Log(_) => {
                let id = LogId {
                    term: header.term,
                    leader: header.leader,
                    index: header.index,
                };
                if !log.takes(&before.ids, id) {
                    let what = format!("the record at byte {} has id {id:?}", end.offset);
                    return Err(Verdict::Contradiction {
                        segment: at.segment,
                        what,
                        term: Some(id.term),
                    });
                }
                log.push(id, at);
                if !patches.all().is_empty() {
                    terms.push((end.offset, id.term));
                }
            }
            Kind::Truncate => {
                log.truncate(header.index);
                removals.push((end.offset, header.index));
            }
            Kind::Mark => {}
            Kind::Seal => {
                sealed = Some(Sealed {
                    next_segment: header.term,
                    next_generation: header.leader,
                });
            }
        }
        log.committed_end = log.committed_end.max(header.committed_end);
        // A span that overflows a segment's 32 bits was refused by `record_at`.
        end = Cursor {
            offset: end.offset + header.span() as u32,
            link: crc,
        };
    }
    Ok(Walked {
        log,
        end,
        sealed,
        patched_to,
        removals,
        terms,
    })
}

/// The record at `at`, its payload checked too.
pub(crate) fn record_at(image: &Image<'_>, at: Position) -> Option<(RecordHeader, u32)> {
    let generation = image.header.generation;
    let bytes = image.bytes.get(at.offset as usize..)?;
    let (header, crc) = RecordHeader::decode(bytes, generation, at)?;
    let payload = bytes
        .get(super::format::RECORD_HEADER_BYTES as usize..)?
        .get(..header.payload_bytes as usize)?;
    u32::try_from(u64::from(at.offset) + header.span()).ok()?;
    header.owns(payload, generation, at).then_some((header, crc))
}

/// Judges what lies behind the last good record, which ends at `end`.
pub(crate) fn judge_tail(image: &Image<'_>, end: u32) -> Tail {
    let rest = image.bytes.get(end as usize..).unwrap_or_default();
    let Some(last) = rest.iter().rposition(|b| *b != 0) else {
        return Tail::Clean;
    };
    let here = Position {
        segment: image.header.segment,
        offset: end,
    };
    if highest_mark(image, end) > Some(here) && !redoubt_env::planted::on("h07_rot_is_cut") {
        return Tail::Rot;
    }
    Tail::Torn {
        bytes: last as u64 + 1,
    }
}

/// The highest durable position named by any header at or behind `from` that checks out. A header is enough:
/// its statement was true when it was written, whatever became of its payload.
pub(crate) fn highest_mark(image: &Image<'_>, from: u32) -> Option<Position> {
    let segment = image.header.segment;
    (from as usize..image.bytes.len())
        .step_by(RECORD_ALIGN as usize)
        .filter_map(|offset| {
            let at = Position {
                segment,
                offset: offset as u32,
            };
            RecordHeader::decode(&image.bytes[offset..], image.header.generation, at)
        })
        .map(|(header, _)| header.durable)
        .max()
}

/// How one segment ends, the one behind it being known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The next segment goes on where it says.
    Continued,
    /// The log ends here, and goes on at the cursor, in this file unless `cut`.
    Last { end: Cursor, torn_bytes: u64, cut: bool },
}

/// One segment as it was judged.
pub(crate) struct Judged {
    pub(crate) log: SegmentLog,
    pub(crate) end: End,
    /// As of [`Walked`].
    pub(crate) removals: Vec<(u32, u64)>,
    /// As of [`Walked`].
    pub(crate) terms: Vec<(u32, u64)>,
}

impl Judged {
    fn new(walked: Walked, end: End) -> Self {
        Judged {
            log: walked.log,
            end,
            removals: walked.removals,
            terms: walked.terms,
        }
    }
}

/// Terms of records that lie somewhere behind a damaged place and did not fit what stands before it: what is before it and
/// of a later term was removed by what is missing there.
pub(crate) type Learnt = BTreeMap<Position, u64>;

/// Replays one segment and decides how it ends. `next` is the segment behind it, if there is one.
///
/// # Errors
/// Rot, a contradiction, or a segment that should follow and doesn't.
pub(crate) fn segment(
    image: &Image<'_>,
    next: Option<&Image<'_>>,
    next_is_last: bool,
    before: &LogIndex,
    patches: &Patches,
    learnt: &Learnt,
) -> Result<Judged, Verdict> {
    let number = image.header.segment;
    let stop = match next.map(|n| n.header) {
        Some(n) if n.follows == Follows::Cut => Some(n.previous_end.offset),
        _ => None,
    };
    let walked = walk(image, before, stop, patches)?;
    let rot = |walked: &Walked| {
        let index = walked.log.next_index(&before.ids);
        Verdict::Rot {
            segment: number,
            offset: walked.end.offset,
            index,
            gap: gap::behind(image, next.map(|n| n.header), walked, before, learnt),
        }
    };
    // The log ends here; whatever lies behind is judged. A torn end is always cut, a clean one if it must be.
    let ends = |walked: Walked, cut_if_clean| {
        // A patch that leads to the end stands for what was lost: no record is ever written in the place of another one.
        let patched = walked.patched_to == Some(walked.end.offset);
        let here = Position {
            segment: number,
            offset: walked.end.offset,
        };
        let more_was_there = here < image.witness || (image.is_lost && !patched);
        if more_was_there && !redoubt_env::planted::on("h07_rot_is_cut") {
            return Err(rot(&walked));
        }
        let (torn_bytes, cut) = match judge_tail(image, walked.end.offset) {
            Tail::Clean => (0, cut_if_clean || patched),
            Tail::Torn { bytes } => (bytes, true),
            Tail::Rot => return Err(rot(&walked)),
        };
        let end = walked.end;
        Ok(Judged::new(walked, End::Last { end, torn_bytes, cut }))
    };
    let Some(next) = next else {
        if let Some(sealed) = walked.sealed {
            return Err(Verdict::Missing {
                segment: sealed.next_segment,
            });
        }
        return ends(walked, false);
    };
    let here = Position {
        segment: number,
        offset: walked.end.offset,
    };
    if here == next.header.previous_end && walked.end.link == next.header.previous_link {
        let named = walked.sealed.map(|s| (s.next_segment, s.next_generation));
        let wanted = Some((next.header.segment.into(), next.header.generation));
        // A patch that leads right here stands for the seal too.
        let patched = walked.patched_to == Some(here.offset);
        if next.header.follows == Follows::Cut || named == wanted || patched {
            return Ok(Judged::new(walked, End::Continued));
        }
    }
    // The seal isn't here. Either the crash came between the next segment's creation and the seal's sync: then
    // nothing was ever written behind that segment's header. Or this is damage.
    let unused = next.header.follows == Follows::Seal
        && next_is_last
        && next.header.durable <= here
        && image.witness <= here
        && highest_mark(next, SEGMENT_HEADER_BYTES).is_none();
    if let Some(sealed) = walked.sealed {
        let what = format!(
            "its seal names {sealed:?}, which the next segment is not: {:?}",
            next.header
        );
        return Err(Verdict::Contradiction {
            segment: number,
            what,
            term: None,
        });
    }
    if !unused {
        return Err(rot(&walked));
    }
    ends(walked, true)
}
