//! The segments of a directory, and what tells of those whose header is damaged or that are gone.

use super::end::Witness;
use super::error::{Failure, OpenError, from_failure};
use super::file;
use super::format::{Position, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::layout::{Layout, Lies};
use super::merged;
use super::recover::Image;
use redoubt_env::files::{File, Files, Mode, is_unreadable};
use redoubt_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// A segment file that was found.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) header: SegmentHeader,
    pub(crate) crc: u32,
    pub(crate) lies: Lies,
    /// Its block is damaged: others told what was in it.
    pub(crate) is_spoilt: bool,
    /// There is no file, or it is cut off within the block.
    pub(crate) is_lost: bool,
}

impl Found {
    /// Its file. Opened where it is needed: a long journal has more files than a process may have open.
    pub(crate) fn file(&self, files: &dyn Files) -> Result<Arc<dyn File>, OpenError> {
        let opened = self.lies.open(files, Mode::Write);
        opened.map_err(OpenError::io("open", &self.lies.path))
    }

    pub(crate) fn read(&self, files: &dyn Files) -> Result<Vec<u8>, OpenError> {
        match self.is_lost {
            true => Ok(Vec::new()),
            false => file::read_all(&*self.file(files)?, &self.lies.path),
        }
    }

    pub(crate) fn read_what_can_be(&self, files: &dyn Files) -> Result<Vec<u8>, OpenError> {
        match self.is_lost {
            true => Ok(Vec::new()),
            false => file::read_what_can_be(&*self.file(files)?, &self.lies.path),
        }
    }

    /// Makes a header block again that is damaged or lost, byte for byte as it was.
    ///
    /// In its place, where there is one: a crash meanwhile leaves it damaged, as it is.
    pub(crate) fn mend(&self, files: &dyn Files, dir: &Path) -> Result<(), OpenError> {
        let (block, _) = self.header.encode();
        let write = |file: &dyn File, at| {
            file.write_at(&[IoSlice::new(&block)], at)
                .map_err(Failure::new("write the header of", &self.lies.path))
        };
        if self.is_lost {
            let made = file::publish(files, dir, self.header.segment, None, |file| write(file, 0));
            return made.map(drop).map_err(from_failure);
        }
        let path = &self.lies.path;
        let file = files
            .open(path, Mode::Write)
            .map_err(OpenError::io("open", path))?;
        write(&*file, self.lies.byte(0))
            .and_then(|()| file::sync(&*file, &self.lies.path))
            .map_err(from_failure)
    }

    pub(crate) fn image<'a>(&'a self, bytes: &'a [u8], witness: Position) -> Image<'a> {
        Image {
            is_lost: self.is_lost,
            witness,
            ..Image::new(&self.header, self.crc, bytes)
        }
    }
}

/// Segments that may be missing at most: one is told by the next, or by the witness.
const LOST_MAX: usize = 8;

/// What a directory has of a log.
pub(crate) struct Directory {
    /// In order, each with a header that checks out, or is told by others.
    pub(crate) segments: Vec<Found>,
    /// The merged files that segments lie in.
    pub(crate) merged: Vec<merged::Found>,
    /// Names of files that nothing is read from: what an interrupted merge left.
    pub(crate) leftovers: Vec<String>,
}

/// Removes these files.
pub(crate) fn remove(files: &dyn Files, dir: &Path, leftovers: &[String]) -> Result<(), Failure> {
    for name in leftovers {
        file::remove(files, &dir.join(name))?;
    }
    match leftovers.is_empty() {
        true => Ok(()),
        false => files.sync_dir(dir).map_err(Failure::new(file::SYNC, dir)),
    }
}

/// The merged files of a directory.
#[derive(Default)]
struct MergedFiles {
    /// Those of fewest segments first.
    found: Vec<merged::Found>,
    /// Of which both tables are damaged.
    damaged: Vec<((u32, u32), OpenError)>,
}

impl MergedFiles {
    /// Looks for them among `names`, `alone` being the segments that have files of their own.
    ///
    /// One of which all segments lie elsewhere is none: nothing was removed for it, since that begins when it is finished. So
    /// it does not matter what became of it.
    fn find(
        files: &dyn Files,
        dir: &Path,
        names: &[String],
        alone: &BTreeSet<u32>,
    ) -> Result<Self, OpenError> {
        let (mut merged, mut elsewhere) = (MergedFiles::default(), alone.clone());
        for range in merged::ranges(names) {
            if (range.0..=range.1).all(|n| elsewhere.contains(&n)) {
                continue;
            }
            match merged::find_one(files, dir, range) {
                Ok(found) => {
                    if found.is_whole() {
                        elsewhere.extend(range.0..=range.1);
                    }
                    merged.found.push(found);
                }
                Err(error @ OpenError::Rot { .. }) => merged.damaged.push((range, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(merged)
    }
}

/// Where each segment lies that is in a merged file, and what that file's table says of its header.
type Homes = BTreeMap<u32, (Lies, (SegmentHeader, u32))>;

/// Chooses where each segment is read from: of the merged files that have all of it the one with most segments, or else its
/// own file, or else a merged one that has lost some of it.
fn homes(dir: &Path, merged: &[merged::Found], alone: &BTreeSet<u32>) -> Homes {
    let (mut whole, mut partly) = (Homes::new(), Homes::new());
    for found in merged.iter().rev() {
        for (member, lies) in found.merged.lie(dir) {
            let number = member.header.segment;
            let has_all = lies.part.is_some_and(|part| found.has(part));
            let homes = if has_all { &mut whole } else { &mut partly };
            let header = (member.header, member.header_crc);
            homes.entry(number).or_insert((lies, header));
        }
    }
    for (number, home) in partly {
        if !alone.contains(&number) {
            whole.entry(number).or_insert(home);
        }
    }
    whole
}

/// What `dir` has of a log that begins with segment `first`.
pub(crate) fn find(
    files: &dyn Files,
    dir: &Path,
    node: NodeId,
    witness: Option<&Witness>,
    first: u32,
) -> Result<Directory, OpenError> {
    let names = files.list(dir).map_err(OpenError::io("list", dir))?;
    let is_trimmed = |name: &&String| {
        let last = file::number_of(name).or_else(|| merged::range_of(name).map(|(_, last)| last));
        last.is_some_and(|last| last < first)
    };
    let (trimmed, names): (Vec<String>, Vec<String>) = names.into_iter().partition(|n| is_trimmed(&n));
    let alone: BTreeSet<u32> = names.iter().filter_map(|n| file::number_of(n)).collect();
    let merged = MergedFiles::find(files, dir, &names, &alone)?;
    let homes = homes(dir, &merged.found, &alone);
    let numbers = alone.iter().chain(homes.keys()).copied();
    let numbers: BTreeSet<u32> = numbers.filter(|n| *n >= first).collect();
    for (range, error) in merged.damaged {
        if !(range.0.max(first)..=range.1).all(|n| numbers.contains(&n)) {
            return Err(error);
        }
    }
    let last = numbers.last().copied().max(witness.map(|w| w.header.segment));
    let last = last.unwrap_or(first).max(first);
    if (last - first) as usize >= numbers.len() + LOST_MAX {
        let missing = (first..).find(|n| !numbers.contains(n)).unwrap_or(last);
        return Err(OpenError::Missing {
            path: file::path_of(dir, missing),
        });
    }
    let (mut lie, mut read) = (Vec::new(), Vec::new());
    for number in first..=last {
        let alone = Lies::alone(dir, number);
        let lies = homes
            .get(&number)
            .map_or_else(|| alone.clone(), |(lies, _)| lies.clone());
        let block = Block::read(files, &lies, number)?;
        // One that a merged file has lost gets a file of its own again: what a merged file has the length for, it has.
        lie.push(if block.is_lost { alone } else { lies });
        read.push(block);
    }
    // From the last one back: each tells the one before.
    for at in (0..read.len()).rev() {
        let number = first + at as u32;
        if read[at].header.is_some() {
            continue;
        }
        let told_by_next = || {
            let (next, _) = read.get(at + 1)?.header?;
            let before = at.checked_sub(1).and_then(|before| read[before].header);
            next.told(before.map(|(header, crc)| header.copy(crc)))
        };
        let told_beside = witness.map(|w| w.header).filter(|h| h.segment == number);
        let told_by_table = homes.get(&number).map(|(_, told)| *told);
        // Only if the block that is made of it is the one that was: the first record links to that.
        let told_by_table = told_by_table.filter(|(header, crc)| header.encode().1 == *crc);
        read[at].header = told_by_table.or_else(|| told_by_next().or(told_beside).map(with_crc));
    }
    let mut segments = Vec::new();
    for ((number, block), lies) in (first..).zip(read).zip(lie) {
        let path = lies.path.to_path_buf();
        let Some((header, crc)) = block.header else {
            return Err(match numbers.contains(&number) {
                true => OpenError::Rot {
                    path,
                    segment: number,
                    position: 0,
                    index: 0,
                },
                false => OpenError::Missing { path },
            });
        };
        if header.node != node.get() {
            let found = format!("node {:016x}", header.node);
            return Err(OpenError::Foreign {
                path,
                found,
                wanted: format!("node {node}"),
            });
        }
        if block.is_spoilt {
            tracing::error!(
                segment = number,
                "its header is damaged or lost; others tell what it was"
            );
        }
        segments.push(Found {
            crc,
            header,
            lies,
            is_spoilt: block.is_spoilt,
            is_lost: block.is_lost,
        });
    }
    let moved = || segments.iter().filter(|s| s.lies.part.is_some());
    let in_use: BTreeSet<_> = moved().map(|s| s.lies.path.clone()).collect();
    let moved: BTreeSet<u32> = moved().map(|s| s.header.segment).collect();
    let is_left = |name: &&String| {
        if let Some(number) = file::number_of(name) {
            return moved.contains(&number);
        }
        let named = name.strip_suffix(".new");
        let range = merged::range_of(named.unwrap_or(name));
        range.is_some_and(|range| named.is_some() || !in_use.contains(&*merged::path_of(dir, range)))
    };
    let leftovers = names.iter().filter(is_left).chain(&trimmed).cloned().collect();
    let is_in_use = |m: &merged::Found| in_use.contains(&*merged::path_of(dir, m.merged.range()));
    Ok(Directory {
        merged: merged.found.into_iter().filter(is_in_use).collect(),
        segments,
        leftovers,
    })
}

impl Directory {
    /// Where the segments lie and end.
    pub(crate) fn layout(&self) -> Layout {
        let merged = self.segments.iter().filter(|s| s.lies.part.is_some());
        let ends = self.segments.iter().zip(self.segments.iter().skip(1));
        Layout {
            merged: merged.map(|s| (s.header.segment, s.lies.clone())).collect(),
            ends: ends
                .map(|(s, next)| (s.header.segment, next.header.previous_end.offset))
                .collect(),
            ..Layout::default()
        }
    }
}

/// What a segment's own header block says.
struct Block {
    /// With the checksum of its block.
    header: Option<(SegmentHeader, u32)>,
    is_spoilt: bool,
    is_lost: bool,
}

impl Block {
    fn read(files: &dyn Files, lies: &Lies, number: u32) -> Result<Block, OpenError> {
        let path = &*lies.path;
        let lost = Block {
            header: None,
            is_spoilt: true,
            is_lost: true,
        };
        let file = match lies.open(files, Mode::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(lost),
            Err(e) => return Err(OpenError::io("open", path)(e)),
        };
        match file::read_header(&*file, path, number) {
            Ok(read) => Ok(Block {
                header: Some(read),
                is_spoilt: false,
                is_lost: false,
            }),
            Err(OpenError::Rot { .. }) => {
                if file.len().map_err(OpenError::io("read", path))? < SEGMENT_HEADER_BYTES.into() {
                    return Ok(lost);
                }
                let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
                let read = file.read_at(&mut block, 0).map_err(OpenError::io("read", path))?;
                let header = SegmentHeader::decode_again(&block[..read]);
                Ok(Block {
                    header: header.filter(|h| h.segment == number).map(with_crc),
                    is_spoilt: true,
                    is_lost: false,
                })
            }
            // What can't be read at all tells nothing.
            Err(OpenError::Io { source, .. }) if is_unreadable(&source) => Ok(Block {
                is_lost: false,
                ..lost
            }),
            Err(e) => Err(e),
        }
    }
}

/// A header that others tell, and the checksum that its block has.
fn with_crc(header: SegmentHeader) -> (SegmentHeader, u32) {
    let (_, crc) = header.encode();
    (header, crc)
}
