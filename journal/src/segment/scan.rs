//! Reading a whole data directory: what its segments and patches hold, and what of it is missing.
//!
//! Promises to change nothing. Whether a missing range was torn or rotted is [`recover`]'s to decide.

use super::beginning::{self, Beginning};
use super::end;
use super::error::OpenError;
use super::file;
use super::format::{Follows, Kind, Position, RECORD_HEADER_BYTES, RecordHeader};
use super::found::{Found, find};
use super::index::{LogIds, LogIndex, SegmentLog};
use super::layout::Layout;
use super::merged;
use super::metadata::Metadata;
use super::patch::{self, Gap, Patch, Patches};
use super::recover::{self, Cursor, End, Judged, Learnt, Verdict};
use super::summary::{self, Summary};
use redoubt_env::Env;
use redoubt_env::files::Files;
use redoubt_types::NodeId;
use std::collections::BTreeMap;
use std::path::Path;

/// What the files hold, nothing in them being changed.
pub(crate) struct Scan {
    /// Where the log begins, if anything of it was trimmed.
    pub(crate) beginning: Option<Beginning>,
    /// One of the two copies of that is damaged.
    pub(crate) beginning_is_spoilt: bool,
    pub(crate) index: LogIndex,
    /// Of the segments up to the last one that is used, and of the patches.
    pub(crate) generations: BTreeMap<u32, u64>,
    /// Ranges that were durable and can't be read, in the order of the log.
    pub(crate) gaps: Vec<Gap>,
    /// Segments whose header block is damaged, and has to be made again.
    pub(crate) spoilt: Vec<Found>,
    /// Merged files with a damaged table.
    pub(crate) spoilt_merged: Vec<merged::Found>,
    /// Where the segments lie.
    pub(crate) layout: Layout,
    /// Names of files that nothing is read from.
    pub(crate) leftovers: Vec<String>,
    /// A copy of the witness beside the log is damaged, or it is lost.
    pub(crate) end_is_spoilt: bool,
    /// The patches that are whole, oldest first.
    pub(crate) patches: Patches,
    /// The highest number of a patch.
    pub(crate) patch_number: u32,
    /// The segment in which the log ends. One behind it was made for a seal that was never written.
    pub(crate) last: Found,
    /// Where in it.
    pub(crate) end: Cursor,
    /// Whether the log must go on in another segment, for what lies behind its end in this one.
    pub(crate) cut: bool,
    pub(crate) torn_bytes: u64,
    /// Length of the last segment's file.
    pub(crate) file_bytes: u32,
    /// What the last segment does.
    pub(crate) log: SegmentLog,
}

impl Scan {
    /// Reads all but the segments that a summary in `metadata` tells of. `progress` hears of each file's bytes.
    ///
    /// A record behind a gap may be of an older term than what stands before the gap; then the removal of that was in it. Where
    /// only a later file tells so, all is read again with what was learnt; each time a term gets lower, so this ends.
    pub(crate) fn of(
        env: &Env,
        dir: &Path,
        node: NodeId,
        metadata: &dyn Metadata,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Scan, OpenError> {
        let mut learnt = Learnt::new();
        let mut told = 0;
        loop {
            let mut reached = 0;
            let mut further = |bytes| {
                reached += 1;
                if reached > told {
                    told = reached;
                    progress(bytes);
                }
            };
            let (gap, term) = match Self::with(env, dir, node, metadata, &learnt, &mut further) {
                Ok(scan) => return Ok(scan),
                Err(Refused { error, misfit }) => misfit.ok_or(error)?,
            };
            learnt.insert(gap, term);
        }
    }

    fn with(
        env: &Env,
        dir: &Path,
        node: NodeId,
        metadata: &dyn Metadata,
        learnt: &Learnt,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Scan, Refused> {
        let files = &**env.files();
        let (witness, end_is_spoilt) = end::peek(files, dir)?;
        let names = files.list(dir).map_err(OpenError::io("list", dir))?;
        let told = beginning::find(files, dir, &names)?;
        let first = told.beginning.as_ref().map_or(1, |b| b.segment);
        let mut directory = find(files, dir, node, witness.as_ref(), first)?;
        directory.leftovers.extend(told.leftovers);
        let layout = directory.layout();
        let mut segments = directory.segments;
        let witness = witness.map_or(Position::default(), |w| w.durable);
        let (mut patches, patch_number) = patch::load(files, dir, node)?;
        let stale = patches.take_before(first).into_iter();
        let stale =
            stale.filter_map(|p| Some(file::path_of(dir, p.number).file_name()?.to_str()?.to_owned()));
        directory.leftovers.extend(stale);
        // What is read here may never have reached the disk: a process that was killed between a write and its
        // sync leaves it in the page cache. From here on it counts as durable, so it has to be. That can be
        // the last segment, and the seal of the one before; every earlier seal was synced before a record was
        // written behind it.
        // So is a name: a segment or a patch may have been renamed and not yet be there for good.
        files.sync_dir(dir).map_err(OpenError::io("sync", dir))?;
        for s in segments.iter().rev().take(2).filter(|s| !s.is_lost) {
            s.file(files)?
                .sync_data()
                .map_err(OpenError::io("sync", &s.lies.path))?;
        }
        let mut index = LogIndex {
            // Whatever the first file begins with: what was before is not known, and that may have been removed again.
            ids: LogIds {
                end: segments.first().map_or(0, |s| s.header.next_index),
                ..LogIds::default()
            },
            ..LogIndex::default()
        };
        let mut generations: BTreeMap<_, _> = patches
            .all()
            .iter()
            .map(|p| (p.number, p.file_generation))
            .collect();
        let mut gaps: Vec<Gap> = Vec::new();
        // The next segment's bytes, where they were needed to judge the one before it.
        let mut ahead: Option<Vec<u8>> = None;
        for i in 0..segments.len() {
            let found = &segments[i];
            let next = segments.get(i + 1);
            generations.insert(found.header.segment, found.header.generation);
            if let Some(next) = next
                && !patches.any_in(found.header.segment)
                && let Some(summary) = trusted_summary(files, found, next, metadata)
                && index.absorb(&summary.log)
            {
                removed(&mut gaps, summary.log.removes_from);
                followed(&mut gaps, summary.log.ids.runs.iter().map(|run| run.term));
                continue;
            }
            let bytes = match ahead.take() {
                Some(bytes) => bytes,
                None if next.is_some() => found.read_what_can_be(files)?,
                None => found.read(files)?,
            };
            progress(bytes.len() as u64);
            let next_is_last = i + 2 == segments.len();
            let next_bytes = match next {
                Some(next) if next_is_last => next.read(files)?,
                _ => Vec::new(),
            };
            let next_image = next.map(|n| n.image(&next_bytes, witness));
            let image = found.image(&bytes, witness);
            let earlier = gaps.len();
            let judged = loop {
                let next = next_image.as_ref();
                match recover::segment(&image, next, next_is_last, &index, &patches, learnt) {
                    Ok(judged) => break judged,
                    // Goes on behind it: there may be more, and what is whole is of use to others.
                    // One that was told before and is met again can't be what is missing there.
                    Err(Verdict::Rot { gap: Some(gap), .. }) if !gaps.iter().any(|g| g.from == gap.from) => {
                        patches.push(Patch::of_gap(&gap));
                        gaps.push(gap);
                    }
                    Err(verdict) => {
                        let term = match &verdict {
                            Verdict::Contradiction { term, .. } => *term,
                            _ => None,
                        };
                        let error = gaps
                            .first()
                            .map_or_else(|| refusal(&layout, dir, verdict), |g| rotten(&layout, dir, g));
                        return Err(Refused::because_of(error, &gaps, term, learnt));
                    }
                }
            };
            let Judged {
                log,
                end,
                removals,
                terms,
            } = judged;
            removed(&mut gaps[..earlier], log.removes_from);
            followed(&mut gaps[..earlier], terms.iter().map(|(_, term)| *term));
            for gap in &mut gaps[earlier..] {
                let behind = gap.resume.offset;
                let removals = removals.iter().filter(|(at, _)| *at >= behind);
                let from = removals.map(|(_, index)| *index).min();
                let terms = terms.iter().filter(|(at, _)| *at >= behind);
                removed(std::slice::from_mut(gap), from);
                followed(std::slice::from_mut(gap), terms.map(|(_, term)| *term));
            }
            if !index.absorb(&log) {
                let error = OpenError::Contradiction {
                    path: found.lies.path.to_path_buf(),
                    what: "its records do not follow those of the segment before".to_owned(),
                };
                let term = log.ids.runs.first().map(|run| run.term);
                return Err(Refused::because_of(error, &gaps, term, learnt));
            }
            let End::Last { end, torn_bytes, cut } = end else {
                ahead = next_is_last.then_some(next_bytes);
                continue;
            };
            for (i, gap) in gaps.iter_mut().enumerate() {
                gap.behind_another = i > 0;
                let trimmed = told.beginning.as_ref().map(|b| b.trimmed);
                let before = |i| index.ids.get(i).or(trimmed.filter(|id| id.index == i));
                gap.before = gap.first_wanted().checked_sub(1).and_then(before);
            }
            if let Some(beginning) = &told.beginning
                && !index.ids.trim(beginning.trimmed)
                // Whether it would, once what is missing is there again, is seen then.
                && gaps.is_empty()
            {
                return Err(OpenError::Contradiction {
                    path: dir.to_owned(),
                    what: format!(
                        "its log does not go on behind record {}, up to which it was trimmed",
                        beginning.trimmed.index
                    ),
                }
                .into());
            }
            // Only what is committed is trimmed, and the records that said so may be among it.
            let trimmed = told.beginning.as_ref().map_or(0, |b| b.trimmed.index + 1);
            index.committed_end = index.committed_end.max(trimmed);
            return Ok(Scan {
                beginning: told.beginning,
                beginning_is_spoilt: told.is_spoilt,
                index,
                generations,
                gaps,
                spoilt: segments.iter().filter(|s| s.is_spoilt).cloned().collect(),
                spoilt_merged: directory
                    .merged
                    .into_iter()
                    .filter(merged::Found::is_spoilt)
                    .collect(),
                layout,
                leftovers: directory.leftovers,
                end_is_spoilt,
                patches,
                patch_number,
                last: segments.swap_remove(i),
                end,
                cut,
                torn_bytes,
                file_bytes: bytes.len() as u32,
                log,
            });
        }
        Err(OpenError::Missing {
            path: file::path_of(dir, first + segments.len() as u32),
        }
        .into())
    }
}

/// Why a scan ended early.
struct Refused {
    error: OpenError,
    /// The gap that explains it, and the term of a record behind it.
    misfit: Option<(Position, u64)>,
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        Refused { error, misfit: None }
    }
}

impl Refused {
    /// A record of `term` does not fit behind the last of `gaps`: explained by it, unless that was learnt already.
    fn because_of(error: OpenError, gaps: &[Gap], term: Option<u64>, learnt: &Learnt) -> Refused {
        let misfit = gaps.last().map(|gap| gap.from).zip(term);
        Refused {
            error,
            misfit: misfit.filter(|(gap, term)| learnt.get(gap).is_none_or(|known| term < known)),
        }
    }
}

/// Everything from `from` on was removed behind `gaps`.
fn removed(gaps: &mut [Gap], from: Option<u64>) {
    for gap in gaps {
        gap.removed_from = gap.removed_from.into_iter().chain(from).min();
    }
}

/// Behind `gaps`, records of these terms follow.
fn followed(gaps: &mut [Gap], terms: impl Iterator<Item = u64> + Clone) {
    for gap in gaps {
        gap.next_term = gap.next_term.or_else(|| terms.clone().next());
        gap.lowest_term = gap.lowest_term.into_iter().chain(terms.clone()).min();
    }
}

pub(crate) fn rotten(layout: &Layout, dir: &Path, gap: &Gap) -> OpenError {
    OpenError::Rot {
        path: layout.find(dir, gap.from.segment).path.to_path_buf(),
        segment: gap.from.segment,
        position: gap.from.offset,
        index: gap.first,
    }
}

/// The summary of a sealed segment, if it is that of the file found.
fn trusted_summary(
    files: &dyn Files,
    found: &Found,
    next: &Found,
    metadata: &dyn Metadata,
) -> Option<Summary> {
    let value = metadata.get(&summary::key(found.header.segment)).ok()??;
    let mut summary = Summary::decode(&value, found.header.segment, found.header.generation)?;
    let expected = Position {
        segment: found.header.segment,
        offset: summary.end.offset,
    };
    if next.header.follows != Follows::Seal
        || next.header.previous_end != expected
        || next.header.previous_link != summary.end.link
        || summary.sealed.next_generation != next.header.generation
    {
        return None;
    }
    let at = Position {
        offset: summary.end.offset.checked_sub(RECORD_HEADER_BYTES)?,
        ..expected
    };
    let mut seal = [0; RECORD_HEADER_BYTES as usize];
    found
        .file(files)
        .ok()?
        .read_at(&mut seal, at.offset.into())
        .ok()?;
    let (seal, crc) = RecordHeader::decode(&seal, found.header.generation, at)?;
    // Its places are read when somebody reads there.
    summary.log.places.fold(found.header.segment);
    (seal.kind == Kind::Seal && crc == summary.end.link).then_some(summary)
}

fn refusal(layout: &Layout, dir: &Path, verdict: Verdict) -> OpenError {
    let path = |segment| layout.find(dir, segment).path.to_path_buf();
    match verdict {
        Verdict::Rot {
            segment,
            offset,
            index,
            ..
        } => OpenError::Rot {
            path: path(segment),
            segment,
            position: offset,
            index,
        },
        Verdict::Contradiction { segment, what, .. } => OpenError::Contradiction {
            path: path(segment),
            what,
        },
        Verdict::Missing { segment } => OpenError::Missing {
            path: file::path_of(dir, segment as u32),
        },
    }
}
