//! Where each segment's bytes lie: in a file of its own, or as a part of a merged one.
//!
//! Whoever reads a segment asks here first, each time: it may be moved while the log is in use. One that is open already stays
//! readable, whatever becomes of its name.

use super::file;
use super::merged::Merged;
use super::state::{Shared, lock};
use redoubt_env::files::{File, Files, Mode};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

/// Where one segment lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lies {
    pub(crate) path: Arc<Path>,
    /// Which part of the file it is, where it has not all of it.
    pub(crate) part: Option<Part>,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) from: u64,
    pub(crate) bytes: u32,
}

impl Part {
    /// Behind it, in the file.
    pub(crate) fn end(self) -> u64 {
        self.from + u64::from(self.bytes)
    }
}

impl Lies {
    /// In a file of its own; a patch, if the number says so.
    pub(crate) fn alone(dir: &Path, number: u32) -> Self {
        Lies {
            path: file::path_of(dir, number).into(),
            part: None,
        }
    }

    pub(crate) fn open(&self, files: &dyn Files, mode: Mode) -> io::Result<Arc<dyn File>> {
        Ok(part_of(&files.open(&self.path, mode)?, self.part))
    }

    /// Where in the file byte `offset` of the segment is.
    pub(crate) fn byte(&self, offset: u32) -> u64 {
        self.part.map_or(0, |part| part.from) + u64::from(offset)
    }
}

/// The `part` of `file`, as a file.
pub(crate) fn part_of(file: &Arc<dyn File>, part: Option<Part>) -> Arc<dyn File> {
    let file = file.clone();
    match part {
        None => file,
        Some(part) => Arc::new(PartFile { file, part }),
    }
}

/// A part of a file, to be read as if it were all of one. Never to be written to: no segment within a merged file goes on.
struct PartFile {
    file: Arc<dyn File>,
    part: Part,
}

impl File for PartFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let has = u64::from(self.part.bytes).saturating_sub(pos);
        let len = has.min(buf.len() as u64) as usize;
        self.file.read_at(&mut buf[..len], self.part.from + pos)
    }

    fn write_at(&self, _bufs: &[IoSlice<'_>], _pos: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        let behind = self.file.len()?.saturating_sub(self.part.from);
        Ok(behind.min(self.part.bytes.into()))
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn forget(&self, pos: u64, len: u64) {
        self.file.forget(self.part.from + pos, len);
    }
}

/// Where the segments of a log lie.
#[derive(Clone, Default)]
pub(crate) struct Layout {
    /// Those that have no file of their own.
    pub(crate) merged: BTreeMap<u32, Lies>,
    /// Where each sealed segment ends, as the header behind it says.
    pub(crate) ends: BTreeMap<u32, u32>,
    /// How often anything was moved.
    pub(crate) moves: u64,
    /// Who has which segment's file open.
    pub(crate) opened: Vec<(u32, Weak<dyn File>)>,
}

impl Layout {
    /// Where segment or patch `number` lies in `dir`.
    pub(crate) fn find(&self, dir: &Path, number: u32) -> Lies {
        let merged = self.merged.get(&number).cloned();
        merged.unwrap_or_else(|| Lies::alone(dir, number))
    }

    /// Forgets the segments before `segment`.
    pub(crate) fn trim(&mut self, segment: u32) {
        self.merged.retain(|number, _| *number >= segment);
        self.ends.retain(|number, _| *number >= segment);
        self.moves += 1;
    }

    /// Whether anybody who asked here has the own file of `number` open.
    pub(crate) fn is_open(&self, number: u32) -> bool {
        let mut opened = self.opened.iter();
        opened.any(|(of, file)| *of == number && file.strong_count() > 0)
    }

    /// From now on the segments of `merged` lie there.
    pub(crate) fn adopt(&mut self, dir: &Path, merged: &Merged) {
        let lie = merged
            .lie(dir)
            .map(|(member, lies)| (member.header.segment, lies));
        self.merged.extend(lie);
        self.moves += 1;
    }
}

/// Where segment or patch `number` of a log in `dir` lies.
pub(crate) fn find(shared: &Mutex<Shared>, dir: &Path, number: u32) -> Lies {
    lock(shared).layout.find(dir, number)
}

/// Opens segment or patch `number` of a log in `dir`, for reading.
pub(crate) fn open(
    files: &dyn Files,
    shared: &Mutex<Shared>,
    dir: &Path,
    number: u32,
) -> io::Result<Arc<dyn File>> {
    loop {
        let lies = find(shared, dir, number);
        let opened = lies.open(files, Mode::Read);
        let layout = &mut lock(shared).layout;
        let is_still_there = layout.find(dir, number) == lies;
        match opened {
            // Else it may be moved and its file be used for something else, and nobody knows that it is read.
            Ok(file) if is_still_there => {
                layout.opened.retain(|(_, file)| file.strong_count() > 0);
                layout.opened.push((number, Arc::downgrade(&file)));
                return Ok(file);
            }
            Err(e) if is_still_there || e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
}
