//! Reading every file again while the node runs, so that rot is found as long as others have what it took.
//!
//! Decides only whether what was durable can still be read; what is done about it is for others. Promises to take nothing for
//! damage that a writer is at this moment making: of the segment that is written to, only what was durable before the check
//! began is looked at.

use super::error::OpenError;
use super::file;
use super::format::{
    Follows, Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::layout::{self, Lies};
use super::merged;
use super::patch::{PATCH_BIT, Patches};
use super::reader::{Chunk, Stop};
use super::recover::Cursor;
use super::state::{Shared, lock};
use redoubt_env::files::{File, Files};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Bytes read at once, unless a record is larger.
const CHUNK_BYTES: u64 = 256 * 1024;

/// What was found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// The file.
    pub path: PathBuf,
    /// The segment's number; a patch's belongs to no segment.
    pub segment: Option<u32>,
    /// Where in the file, bytes: the damage is there or behind it.
    pub offset: u64,
}

impl Rot {
    /// At byte `offset` of `number`, a segment or a patch, which lies there.
    pub(crate) fn at(lies: &Lies, number: u32, offset: u32) -> Rot {
        Rot {
            path: lies.path.to_path_buf(),
            segment: (number & PATCH_BIT == 0).then_some(number),
            offset: lies.byte(offset),
        }
    }
}

/// What a check of all files found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bytes that were read.
    pub bytes: u64,
    /// The first damage of each file that has any.
    pub rot: Vec<Rot>,
    /// Two-slot files one copy of which was damaged, and was made again from the other.
    pub mended: Vec<&'static str>,
    /// Why files could not be checked. Empty when all were.
    pub unchecked: Vec<String>,
}

/// What is told at start and does not change while the node runs.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) patches: Patches,
}

/// A check of all files of a log.
pub(crate) struct Scrub {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) dir: PathBuf,
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) known: Arc<Known>,
}

/// Why a file was left.
pub(crate) enum Left {
    /// Where, in the segment.
    Rot(u32),
    Io(io::Error),
    /// The caller wants no more.
    Enough,
}

impl From<Stop> for Left {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Damaged => Left::Rot(0),
            Stop::Io(e) => Left::Io(e),
        }
    }
}

impl Scrub {
    /// Reads all files. `pace` hears of the bytes as they are read, and says whether to go on.
    pub(crate) fn run(&self, checked: &mut Checked, pace: &mut dyn FnMut(u64) -> bool) {
        let (generations, durable) = {
            let shared = lock(&self.shared);
            (shared.generations.clone(), shared.durable)
        };
        for (&number, &generation) in &generations {
            let is_patch = number & PATCH_BIT != 0;
            if !is_patch && number > durable.segment {
                continue;
            }
            let mut counted = |bytes| {
                checked.bytes += bytes;
                pace(bytes)
            };
            let is_sealed = !is_patch && number < durable.segment;
            let next = generations.get(&(number + 1)).map(|g| (number + 1, *g));
            let next = next.filter(|_| is_sealed);
            let end = (!is_patch && !is_sealed).then_some(durable.offset);
            let walked = self
                .open(number)
                .map_err(|e| Stop::from(e).into())
                .and_then(|file| self.file(file, number, generation, next, end, &mut counted));
            let lies = self.lies(number);
            match walked {
                Ok(()) => {}
                Err(Left::Enough) => return,
                Err(Left::Rot(offset)) => checked.rot.push(Rot::at(&lies, number, offset)),
                Err(Left::Io(e)) => {
                    let path = lies.path.display();
                    checked.unchecked.push(format!("{path}: {e}"));
                }
            }
        }
        self.tables(checked);
    }

    /// The tables of the merged files.
    fn tables(&self, checked: &mut Checked) {
        let in_use = || -> BTreeSet<_> {
            let shared = lock(&self.shared);
            shared
                .layout
                .merged
                .values()
                .map(|lies| lies.path.clone())
                .collect()
        };
        for path in in_use() {
            let found = merged::range_at(&path).map(|range| merged::find_one(&*self.files, &self.dir, range));
            let spoilt = match found {
                Some(Ok(found)) => found.is_spoilt(),
                None | Some(Err(OpenError::Rot { .. })) => true,
                Some(Err(e)) => {
                    checked.unchecked.push(e.to_string());
                    false
                }
            };
            // A larger one may have taken its place since.
            if spoilt && in_use().contains(&path) {
                let path = path.to_path_buf();
                checked.rot.push(Rot {
                    path,
                    segment: None,
                    offset: 0,
                });
            }
        }
    }

    /// Where segment or patch `number` lies.
    pub(crate) fn lies(&self, number: u32) -> Lies {
        layout::find(&self.shared, &self.dir, number)
    }

    /// Opens segment or patch `number`, wherever it lies.
    pub(crate) fn open(&self, number: u32) -> io::Result<Arc<dyn File>> {
        layout::open(&*self.files, &self.shared, &self.dir, number)
    }

    /// Walks one file: up to `end`, or to the seal that names `next`, or to where `next` says that it was cut; a patch has
    /// neither, and ends with its own seal.
    pub(crate) fn file(
        &self,
        opened: Arc<dyn File>,
        number: u32,
        generation: u64,
        next: Option<(u32, u64)>,
        end: Option<u32>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Left> {
        let mut chunk = Chunk::new(opened, CHUNK_BYTES);
        let block = chunk.get(0, SEGMENT_HEADER_BYTES as usize)?;
        let mut at = match SegmentHeader::decode(&block) {
            Ok((header, crc)) if header.segment == number && header.generation == generation => {
                Cursor::start(crc)
            }
            _ => return Err(Left::Rot(0)),
        };
        let next_header = match next {
            Some((next, _)) => self.header_of(next)?.map(|(header, _)| header),
            None => None,
        };
        let led_to = next_header.map(|h| Cursor {
            offset: h.previous_end.offset,
            link: h.previous_link,
        });
        let cut = led_to.filter(|_| next_header.is_some_and(|h| h.follows == Follows::Cut));
        let mut told = 0;
        loop {
            if u64::from(at.offset) >= told + CHUNK_BYTES {
                if !pace(u64::from(at.offset) - told) {
                    return Err(Left::Enough);
                }
                told = at.offset.into();
            }
            if end.is_some_and(|end| at.offset >= end) || cut == Some(at) {
                break;
            }
            let here = Position {
                segment: number,
                offset: at.offset,
            };
            match record(&mut chunk, generation, here, at.link) {
                Ok((header, link)) => {
                    at = Cursor {
                        offset: at.offset + header.span() as u32,
                        link,
                    };
                    let names = (header.term, header.leader);
                    match header.kind {
                        Kind::Seal if next.is_none_or(|(n, generation)| names == (n.into(), generation)) => {
                            break;
                        }
                        Kind::Seal => return Err(Left::Rot(here.offset)),
                        Kind::Log(_) | Kind::Truncate | Kind::Mark => {}
                    }
                }
                Err(Stop::Io(e)) => return Err(Left::Io(e)),
                Err(Stop::Damaged) => {
                    let patch = self.known.patches.continuing(generation, here, at.link);
                    at = patch.ok_or(Left::Rot(here.offset))?.resume;
                    if led_to == Some(at) {
                        break;
                    }
                }
            }
        }
        match pace(u64::from(at.offset) - told) {
            true => Ok(()),
            false => Err(Left::Enough),
        }
    }

    /// The header of a segment, and its block's checksum, unless it is damaged: that is told when it is that segment's turn.
    pub(crate) fn header_of(&self, number: u32) -> Result<Option<(SegmentHeader, u32)>, Left> {
        let file = match self.open(number).map_err(Stop::from) {
            Ok(file) => file,
            Err(Stop::Damaged) => return Ok(None),
            Err(Stop::Io(e)) => return Err(Left::Io(e)),
        };
        match file::read_header(&*file, &self.dir, number) {
            Ok(read) => Ok(Some(read)),
            Err(OpenError::Io { source, .. }) => Err(Left::Io(source)),
            Err(_) => Ok(None),
        }
    }
}

/// The record at `at`, if it checks out and links; with its checksum.
fn record(chunk: &mut Chunk, generation: u64, at: Position, link: u32) -> Result<(RecordHeader, u32), Stop> {
    let head = chunk.get(at.offset, RECORD_HEADER_BYTES as usize)?;
    let (header, crc) = RecordHeader::decode(&head, generation, at).ok_or(Stop::Damaged)?;
    if header.link != link {
        return Err(Stop::Damaged);
    }
    let payload_at = at.offset.checked_add(RECORD_HEADER_BYTES).ok_or(Stop::Damaged)?;
    let payload = chunk.get(payload_at, header.payload_bytes as usize)?;
    match header.owns(&payload, generation, at) {
        true => Ok((header, crc)),
        false => Err(Stop::Damaged),
    }
}
