//! Behind damage: where reading can go on, and how much is missing until then. Pure, like [`super::recover`].

use super::format::{Follows, Kind, Position, RECORD_ALIGN, SegmentHeader};
use super::index::LogIndex;
use super::patch::Gap;
use super::recover::{Cursor, Image, Learnt, Walked, record_at};

/// What would close the damage behind `walked`: where reading can go on, and which records are missing until then.
/// `next` is the header behind this segment. `None` when that says that the segment ends before the damage.
pub(crate) fn behind(
    image: &Image<'_>,
    next: Option<&SegmentHeader>,
    walked: &Walked,
    before: &LogIndex,
    learnt: &Learnt,
) -> Option<Gap> {
    let segment = image.header.segment;
    let from = Position {
        segment,
        offset: walked.end.offset,
    };
    let next_index = walked.log.next_index(&before.ids);
    let id_at = |index: u64| walked.log.ids.get(index).or_else(|| before.ids.get(index));
    let further_behind = learnt.get(&from).copied();
    let gap = |resume: Cursor, end: Option<u64>, term_behind: Option<u64>| {
        // It goes on below where it stopped, or in an earlier term (a leader may have records of older terms than those
        // that it replaces): the removal of what is above is among what is missing.
        let term_behind = term_behind.into_iter().chain(further_behind).min();
        let mut first = end.map_or(next_index, |end| end.min(next_index));
        while let Some(last) = first.checked_sub(1).and_then(id_at)
            && term_behind.is_some_and(|behind| last.term > behind)
        {
            first -= 1;
        }
        let removes_from = (first < next_index).then_some(first);
        let last = first.checked_sub(1);
        Gap {
            from,
            from_link: walked.end.link,
            resume,
            generation: image.header.generation,
            removes_from,
            last: last.and_then(id_at),
            first,
            end,
            committed_end: before.committed_end.max(walked.log.committed_end),
            next_term: None,
            lowest_term: None,
            removed_from: None,
            before: None,
            behind_another: false,
            cut_short: false,
        }
    };
    // More records than it had room for can't have lain there: whatever says so is not to be believed, whatever its checksum.
    let told = |resume: Cursor, end: u64, term: Option<u64>| {
        let gap = gap(resume, Some(end), term);
        (end.saturating_sub(next_index) <= gap.room()).then_some(gap)
    };
    if next.is_some_and(|n| n.previous_end.segment != segment || n.previous_end <= from) {
        return None;
    }
    let limit = match next {
        Some(n) if n.follows == Follows::Cut => n.previous_end.offset,
        _ => image.bytes.len() as u32,
    };
    let (mut at, mut marks) = (from.offset + RECORD_ALIGN, None);
    while at < limit {
        let here = Position { segment, offset: at };
        let Some((header, _)) = record_at(image, here) else {
            at += RECORD_ALIGN;
            continue;
        };
        let resume = Cursor {
            offset: at,
            link: header.link,
        };
        match follow(image, resume, limit) {
            Told::Next(index, term) => return told(resume, index, Some(term)),
            Told::Removal(index) => return told(resume, index.max(next_index), None),
            Told::End(index) => return told(resume, index, None),
            Told::Nothing(end) => {
                marks = Some(resume);
                at = end;
            }
        }
    }
    if let Some(next) = next {
        let resume = Cursor {
            offset: next.previous_end.offset,
            link: next.previous_link,
        };
        return told(resume, next.next_index, None);
    }
    // Nothing but marks, or headers without their payloads, behind it; or nothing at all, and how much there was is not told:
    // the witness may be older than the last records.
    if let Some(marks) = marks {
        return Some(gap(marks, None, None));
    }
    let rest = image.bytes.get(from.offset as usize..).unwrap_or_default();
    let last = rest.iter().rposition(|b| *b != 0);
    let behind = last.map_or(0, |last| from.offset + last as u32 + 1);
    let witnessed = match image.witness.segment == segment {
        true => image.witness.offset,
        false => 0,
    };
    let resume = Cursor {
        offset: behind
            .max(witnessed)
            .max(from.offset + 1)
            .next_multiple_of(RECORD_ALIGN),
        link: walked.end.link,
    };
    Some(Gap {
        cut_short: true,
        ..gap(resume, None, None)
    })
}

/// What intact records behind damage tell of the index at which they go on.
enum Told {
    /// A record of this index and term.
    Next(u64, u64),
    /// Whatever came before: everything from this index on is removed.
    Removal(u64),
    /// The segment ends at this index.
    End(u64),
    /// They end here, and told nothing.
    Nothing(u32),
}

/// Follows intact records from `from` until one tells where the log is.
fn follow(image: &Image<'_>, from: Cursor, limit: u32) -> Told {
    let mut end = from;
    while end.offset < limit {
        let at = Position {
            segment: image.header.segment,
            offset: end.offset,
        };
        let Some((header, crc)) = record_at(image, at).filter(|(h, _)| h.link == end.link) else {
            break;
        };
        match header.kind {
            Kind::Log(_) => return Told::Next(header.index, header.term),
            Kind::Truncate => return Told::Removal(header.index),
            Kind::Seal => return Told::End(header.index),
            Kind::Mark => {}
        }
        end = Cursor {
            offset: end.offset + header.span() as u32,
            link: crc,
        };
    }
    Told::Nothing(end.offset)
}
