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
        let write = |file: &dyn File| {
            file.write_at(&[IoSlice::new(&block)], 0)
                .map_err(Failure::new("write the header of", &self.lies.path))
        };
        if self.is_lost && self.lies.part.is_none() {
            let made = file::publish(files, dir, self.header.segment, None, write);
            return made.map(drop).map_err(from_failure);
        }
        let file = self.file(files)?;
        write(&*file)
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
    /// The merged files.
    pub(crate) merged: Vec<merged::Found>,
    /// Files whose segments all lie in merged ones, and merged files that hold nothing which does not lie elsewhere: what
    /// an interrupted merge left.
    pub(crate) leftovers: Leftovers,
}

/// What nothing is read from any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leftovers {
    segments: Vec<u32>,
    merged: Vec<(u32, u32)>,
    /// Merged files that never got their names.
    unnamed: Vec<String>,
}

impl Leftovers {
    /// Removes them.
    pub(crate) fn remove(&self, files: &dyn Files, dir: &Path) -> Result<(), Failure> {
        for number in &self.segments {
            file::remove(files, &file::path_of(dir, *number))?;
        }
        for range in &self.merged {
            merged::remove(files, dir, *range)?;
        }
        for name in &self.unnamed {
            file::remove(files, &dir.join(name))?;
        }
        match self.segments.is_empty() && self.merged.is_empty() && self.unnamed.is_empty() {
            true => Ok(()),
            false => files.sync_dir(dir).map_err(Failure::new(file::SYNC, dir)),
        }
    }
}

/// Where each segment lies that is in a merged file, and what that file's table says of its header.
type Homes = BTreeMap<u32, (Lies, (SegmentHeader, u32))>;

/// Chooses where each segment is read from: of the merged files that have all of it the one with most segments, or else its
/// own file, or else a merged one that has lost some of it.
fn homes(dir: &Path, merged: &[merged::Found], alone: &BTreeSet<u32>) -> Homes {
    let (mut whole, mut partly) = (Homes::new(), Homes::new());
    for found in merged {
        for (member, lies) in found.merged.lie(dir) {
            let number = member.header.segment;
            let has_all = found.file_bytes.is_some_and(|len| lies.byte(member.bytes) <= len);
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

/// What `dir` has of a log.
pub(crate) fn find(
    files: &dyn Files,
    dir: &Path,
    node: NodeId,
    witness: Option<&Witness>,
) -> Result<Directory, OpenError> {
    let names = files.list(dir).map_err(OpenError::io("list", dir))?;
    let alone: BTreeSet<u32> = names.iter().filter_map(|n| file::number_of(n)).collect();
    let merged = merged::find(files, dir, &names)?;
    let homes = homes(dir, &merged, &alone);
    let numbers: BTreeSet<u32> = alone.iter().chain(homes.keys()).copied().collect();
    let in_use = |m: &merged::Found| {
        m.merged.lie(dir).any(|(member, lies)| {
            homes
                .get(&member.header.segment)
                .is_some_and(|(home, _)| *home == lies)
        })
    };
    let (merged, unused): (Vec<_>, Vec<_>) = merged.into_iter().partition(in_use);
    let leftovers = Leftovers {
        segments: alone.iter().filter(|n| homes.contains_key(n)).copied().collect(),
        merged: unused.iter().map(|m| m.merged.range()).collect(),
        unnamed: names
            .iter()
            .filter(|n| n.strip_suffix(".new").and_then(merged::range_of).is_some())
            .cloned()
            .collect(),
    };
    let last = numbers.last().copied().max(witness.map(|w| w.header.segment));
    let last = last.unwrap_or(1);
    if last as usize > numbers.len() + LOST_MAX {
        let missing = (1..).find(|n| !numbers.contains(n)).unwrap_or(last);
        return Err(OpenError::Missing {
            path: file::path_of(dir, missing),
        });
    }
    let lies = |number| match homes.get(&number) {
        Some((lies, _)) => lies.clone(),
        None => Lies::alone(dir, number),
    };
    let mut read = (1..=last)
        .map(|number| Block::read(files, &lies(number), number))
        .collect::<Result<Vec<_>, _>>()?;
    // From the last one back: each tells the one before.
    for at in (0..read.len()).rev() {
        if read[at].header.is_some() {
            continue;
        }
        let told_by_next = || {
            let (next, _) = read.get(at + 1)?.header?;
            let before = at.checked_sub(1).and_then(|before| read[before].header);
            next.told(before.map(|(header, crc)| header.copy(crc)))
        };
        let told_beside = witness.map(|w| w.header).filter(|h| h.segment == at as u32 + 1);
        let told_by_table = homes.get(&(at as u32 + 1)).map(|(_, header)| *header);
        read[at].header = told_by_table.or_else(|| told_by_next().or(told_beside).map(with_crc));
    }
    let mut segments = Vec::new();
    for (number, block) in (1..).zip(read) {
        let lies = lies(number);
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
    Ok(Directory {
        segments,
        merged,
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
            moves: 0,
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
