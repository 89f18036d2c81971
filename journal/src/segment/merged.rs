//! Merged editlogs: adjacent sealed segments in one file, each as it was, byte for byte.
//!
//! A merged file begins with a table that says which segments follow; beside it lies a file with the same table, so that
//! one of both may rot or be lost. What the segments hold is read, judged and repaired as if each had its own file: no
//! record knows that it was moved, and so no checksum changes.

use super::error::{Failure, OpenError, from_failure};
use super::file;
use super::format::{
    FORMAT_VERSION, HEADER_FRONT_BYTES, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader, check_block,
    get_u32, get_u64, put_u32, put_u64, seal_block,
};
use super::layout::{Lies, Part};
use redoubt_env::files::{Files, Mode, is_unreadable};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"RDBTMERG";
/// The table, and each segment, begin at a multiple of this.
const ALIGN: u64 = SEGMENT_HEADER_BYTES as u64;
const ENTRIES_AT: usize = 24;
const ENTRY_BYTES: usize = 16 + HEADER_FRONT_BYTES;
/// Segments in one file at most.
pub(crate) const MEMBERS_MAX: usize = 1024;

/// One segment of a merged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) header: SegmentHeader,
    /// Checksum of the header's block.
    pub(crate) header_crc: u32,
    /// Where it ends, as the next segment's header says; what its file had behind that is no part of the log.
    pub(crate) bytes: u32,
}

/// What a merged file consists of: segments with consecutive numbers, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    members: Vec<Member>,
}

fn table_bytes(members: usize) -> usize {
    (ENTRIES_AT + members * ENTRY_BYTES + 4).next_multiple_of(ALIGN as usize)
}

/// How many segments a table says that there are, if that can be.
fn count(table: &[u8]) -> usize {
    let count = table.get(..ENTRIES_AT).map_or(0, |b| get_u32(b, 12)) as usize;
    if count > MEMBERS_MAX { 0 } else { count }
}

impl Merged {
    /// `None` unless there are any, not too many, and their numbers follow one another.
    pub(crate) fn new(members: Vec<Member>) -> Option<Self> {
        let first = members.first()?.header.segment;
        let dense = (u64::from(first)..)
            .zip(&members)
            .all(|(n, m)| n == u64::from(m.header.segment) && m.bytes >= SEGMENT_HEADER_BYTES);
        (dense && members.len() <= MEMBERS_MAX).then_some(Merged { members })
    }

    /// The segments' numbers.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.members.iter().map(|m| m.header.segment)
    }

    /// The first and the last segment's number.
    pub(crate) fn range(&self) -> (u32, u32) {
        let number = |m: Option<&Member>| m.map_or(0, |m| m.header.segment);
        (number(self.members.first()), number(self.members.last()))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut b = vec![0; table_bytes(self.members.len())];
        b[..8].copy_from_slice(&MAGIC);
        put_u32(&mut b, 8, FORMAT_VERSION);
        put_u32(&mut b, 12, self.members.len() as u32);
        for (member, at) in self.members.iter().zip((ENTRIES_AT..).step_by(ENTRY_BYTES)) {
            put_u64(&mut b, at, member.bytes.into());
            put_u32(&mut b, at + 8, member.header_crc);
            b[at + 16..at + ENTRY_BYTES].copy_from_slice(&member.header.encode_front());
        }
        seal_block(&mut b);
        b
    }

    /// Reads [`Merged::encode`]'s bytes, and ignores what follows them.
    pub(crate) fn decode(b: &[u8]) -> Result<Self, HeaderError> {
        let count = count(b);
        let bytes = table_bytes(count);
        let b = b.get(..bytes).ok_or(HeaderError::Damaged)?;
        check_block(b, bytes, &MAGIC)?;
        let member = |at: usize| {
            Some(Member {
                header: SegmentHeader::decode_front(&b[at + 16..at + ENTRY_BYTES])?,
                header_crc: get_u32(b, at + 8),
                bytes: u32::try_from(get_u64(b, at)).ok()?,
            })
        };
        let at = (ENTRIES_AT..).step_by(ENTRY_BYTES).take(count);
        let members = at.map(member).collect::<Option<Vec<_>>>();
        members.and_then(Merged::new).ok_or(HeaderError::Damaged)
    }

    /// Each segment, and which part of the file it is.
    fn parts(&self) -> impl Iterator<Item = (&Member, Part)> {
        let mut from = table_bytes(self.members.len()) as u64;
        self.members.iter().map(move |member| {
            let part = Part {
                from,
                bytes: member.bytes,
            };
            from = part.end().next_multiple_of(ALIGN);
            (member, part)
        })
    }

    /// Each segment, and where it lies in a merged file of `dir`.
    pub(crate) fn lie(&self, dir: &Path) -> impl Iterator<Item = (&Member, Lies)> {
        let path: Arc<Path> = path_of(dir, self.range()).into();
        self.parts().map(move |(member, part)| {
            let (path, part) = (path.clone(), Some(part));
            (member, Lies { path, part })
        })
    }

    /// Length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        let last = self.parts().last();
        last.map_or(0, |(_, part)| part.end().next_multiple_of(ALIGN))
    }

    /// Makes the file beside: the table once more, durable under its name before this returns.
    pub(crate) fn write_beside(&self, files: &dyn Files, dir: &Path) -> Result<(), Failure> {
        let path = beside(dir, self.range());
        let table = self.encode();
        let made = file::publish_as(files, dir, &path, None, |file| {
            file.write_at(&[IoSlice::new(&table)], 0)
                .map_err(Failure::new("write", &path))
        });
        made.map(drop)
    }
}

/// Where the merged file of these segments lies.
pub(crate) fn path_of(dir: &Path, (first, last): (u32, u32)) -> PathBuf {
    dir.join(format!("{}{first:010}-{last:010}", file::PREFIX))
}

/// Where the file beside it lies.
pub(crate) fn beside(dir: &Path, (first, last): (u32, u32)) -> PathBuf {
    dir.join(format!("{BESIDE_PREFIX}{first:010}-{last:010}"))
}

const BESIDE_PREFIX: &str = "contents-";

/// Of which segments `name` is the merged file, or the file beside it.
pub(crate) fn range_of(name: &str) -> Option<(u32, u32)> {
    let range = name
        .strip_prefix(file::PREFIX)
        .or_else(|| name.strip_prefix(BESIDE_PREFIX))?;
    let (first, last) = range.split_once('-')?;
    let number = |digits: &str| (digits.len() == 10).then(|| digits.parse().ok())?;
    let range = (number(first)?, number(last)?);
    (range.0 <= range.1).then_some(range)
}

/// A merged file of a directory, as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) merged: Merged,
    /// Length of the file; `None` where it is gone.
    file_bytes: Option<u64>,
    /// The table in the file is damaged, or gone with it.
    front_is_spoilt: bool,
    /// The table beside it is damaged or gone.
    beside_is_spoilt: bool,
}

/// A table, `None` where it is damaged or gone; and the length of the file that begins with it, if there is one.
fn read(files: &dyn Files, path: &Path) -> Result<(Option<Merged>, Option<u64>), OpenError> {
    let io = |verb| OpenError::io(verb, path);
    let file = match files.open(path, Mode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
        Err(e) => return Err(io("open")(e)),
    };
    let len = match file.len() {
        Err(e) if is_unreadable(&e) => 0,
        len => len.map_err(io("measure"))?,
    };
    let front = |bytes: usize| {
        let mut front = vec![0; bytes];
        match file.read_at(&mut front, 0) {
            Ok(read) => front.truncate(read),
            Err(e) if is_unreadable(&e) => front.clear(),
            Err(e) => return Err(io("read")(e)),
        }
        Ok(front)
    };
    // The first block tells how many blocks there are: what lies behind the table is not its concern.
    let mut table = front(ALIGN as usize)?;
    let bytes = table_bytes(count(&table));
    if bytes > ALIGN as usize {
        table = front(bytes)?;
    }
    match Merged::decode(&table) {
        Ok(merged) => Ok((Some(merged), Some(len))),
        Err(HeaderError::Damaged) => Ok((None, Some(len))),
        Err(HeaderError::Version(found)) => Err(OpenError::Version {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        }),
    }
}

/// Of which segments `path` is the merged file, or the file beside it.
pub(crate) fn range_at(path: &Path) -> Option<(u32, u32)> {
    range_of(path.file_name()?.to_str()?)
}

/// Of which segments there are merged files, or files beside such, among `names`: those of fewest segments first.
pub(crate) fn ranges(names: &[String]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<_> = names.iter().filter_map(|n| range_of(n)).collect();
    ranges.sort_unstable_by_key(|(first, last)| (last - first, *first));
    ranges.dedup();
    ranges
}

/// The merged file of these segments.
///
/// # Errors
/// What the operating system says; [`OpenError::Rot`] if both copies of the table are damaged or gone.
pub(crate) fn find_one(files: &dyn Files, dir: &Path, range: (u32, u32)) -> Result<Found, OpenError> {
    let path = path_of(dir, range);
    let of_this = |m: &Merged| m.range() == range;
    let (front, file_bytes) = read(files, &path)?;
    let (besides, _) = read(files, &beside(dir, range))?;
    let (front, besides) = (front.filter(of_this), besides.filter(of_this));
    let (front_is_spoilt, beside_is_spoilt) = (front.is_none(), besides.is_none());
    let merged = front.or(besides).ok_or(OpenError::Rot {
        path,
        segment: range.0,
        position: 0,
        index: 0,
    })?;
    Ok(Found {
        merged,
        file_bytes,
        front_is_spoilt,
        beside_is_spoilt,
    })
}

impl Found {
    /// Its file's name.
    pub(crate) fn name(&self) -> String {
        let path = path_of(Path::new(""), self.merged.range());
        path.display().to_string()
    }

    /// Whether it has all of a part, as far as its length tells.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.file_bytes.is_some_and(|len| part.end() <= len)
    }

    /// Whether it has all of its segments.
    pub(crate) fn is_whole(&self) -> bool {
        self.merged.parts().all(|(_, part)| self.has(part))
    }

    /// Whether a copy of its table is damaged or gone.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.front_is_spoilt || self.beside_is_spoilt
    }

    /// Makes again what is damaged or gone of its tables; in its place, where there is one: a crash meanwhile leaves it damaged,
    /// as it is.
    pub(crate) fn mend(&self, files: &dyn Files, dir: &Path) -> Result<(), OpenError> {
        if self.front_is_spoilt {
            let path = path_of(dir, self.merged.range());
            let file = files
                .open(&path, Mode::Write)
                .map_err(OpenError::io("open", &path))?;
            file.write_at(&[IoSlice::new(&self.merged.encode())], 0)
                .map_err(Failure::new("write", &path))
                .and_then(|()| file::sync(&*file, &path))
                .map_err(from_failure)?;
        }
        if self.beside_is_spoilt {
            self.merged.write_beside(files, dir).map_err(from_failure)?;
        }
        Ok(())
    }
}

/// Removes the merged file of these segments, and the file beside it. Durable once the directory is synced.
pub(crate) fn remove(files: &dyn Files, dir: &Path, range: (u32, u32)) -> Result<(), Failure> {
    file::remove(files, &path_of(dir, range))?;
    file::remove(files, &beside(dir, range))
}
