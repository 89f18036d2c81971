//! Reads records that are no longer in memory.
//!
//! Promises that no byte leaves here whose checksum was not verified in this very read.

use super::error::ReadError;
use super::format::{Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES};
use super::index::{Place, Places};
use super::layout;
use super::metadata::Metadata;
use super::model::{LogId, LogRecord, PAYLOAD_BYTES_MAX};
use super::state::{Shared, lock};
use super::summary::{self, Summary};
use bytes::Bytes;
use redoubt_env::files::{File, Files, is_unreadable};
use redoubt_env::planted;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

/// Files kept open at most.
const OPEN_FILES_MAX: usize = 64;
/// Segments whose places are in memory at most, besides those of the one that is written to: 16 KiB each by default.
const PLACES_MAX: usize = 32;
/// Bytes read at once at least: a place's distance and then some.
const CHUNK_BYTES_MIN: u64 = 96 * 1024;
/// Bytes read at once at most, unless one record is larger.
const CHUNK_BYTES_MAX: u64 = 1024 * 1024;

/// The one reader of a log's files.
pub(crate) struct Reader {
    files: Arc<dyn Files>,
    dir: PathBuf,
    shared: Arc<Mutex<Shared>>,
    /// Has the summaries of sealed segments. Weak: whoever closed the storage may open it again.
    metadata: Option<Weak<dyn Metadata>>,
    open: BTreeMap<u32, Arc<dyn File>>,
    /// As of [`Layout::moves`](super::layout::Layout::moves), when they were opened.
    moves: u64,
    /// The places of sealed segments that were read last, the newest in front.
    places: VecDeque<(u32, u64, Arc<Places>)>,
}

/// Why a walk stopped short.
pub(crate) enum Stop {
    Damaged,
    Io(std::io::Error),
}

impl From<std::io::Error> for Stop {
    /// A sector that the disk can't read is as lost as one that it reads wrongly, and so is a file that is gone.
    fn from(e: std::io::Error) -> Self {
        if is_unreadable(&e) || e.kind() == std::io::ErrorKind::NotFound {
            tracing::error!("the disk can't read a file: {e}");
            return Stop::Damaged;
        }
        Stop::Io(e)
    }
}

impl Reader {
    /// Without `metadata` the places of a segment are had from its file.
    pub(crate) fn new(
        files: Arc<dyn Files>,
        dir: PathBuf,
        shared: Arc<Mutex<Shared>>,
        metadata: Option<Weak<dyn Metadata>>,
    ) -> Self {
        Reader {
            files,
            dir,
            shared,
            metadata,
            open: BTreeMap::new(),
            moves: 0,
            places: VecDeque::new(),
        }
    }

    /// Closes all files: one that was moved or removed takes room on the disk as long as it is open.
    pub(crate) fn rest(&mut self) {
        self.open.clear();
    }

    /// Records from `start` up to `end`, `bytes_max` of payload but at least one. Fewer when a later one can't
    /// be read: the next call says why.
    pub(crate) fn read(&mut self, start: u64, end: u64, bytes_max: u64) -> Result<Vec<LogRecord>, ReadError> {
        let read = self.read_files(start, end, bytes_max);
        // A truncation may have been submitted since the places were looked up. What isn't in the log now was
        // not asked for, and an error over it is none.
        let shared = lock(&self.shared);
        if shared.ids.get(start).is_none() {
            return Err(ReadError::NotFound { index: start });
        }
        let mut records = read?;
        let live = records
            .iter()
            .take_while(|r| shared.ids.get(r.id.index) == Some(r.id))
            .count();
        records.truncate(live);
        if records.is_empty() {
            return Err(ReadError::NotFound { index: start });
        }
        Ok(records)
    }

    fn read_files(&mut self, start: u64, end: u64, bytes_max: u64) -> Result<Vec<LogRecord>, ReadError> {
        let mut out = Out {
            records: Vec::new(),
            bytes: 0,
            bytes_max,
            next: start,
            end,
            full: false,
        };
        while out.next < out.end && !out.full {
            let index = out.next;
            let found = lock(&self.shared).find(index);
            let Some((place, place_end, generation)) = found else {
                return out.or(ReadError::NotFound { index });
            };
            match self.walk(place, place_end, generation, &mut out) {
                Ok(()) => {}
                Err(Stop::Damaged) => {
                    let index = out.next;
                    return out.or(ReadError::Damaged { index });
                }
                Err(Stop::Io(e)) => {
                    let index = out.next;
                    return out.or(ReadError::Io {
                        index,
                        message: e.to_string(),
                    });
                }
            }
        }
        Ok(out.records)
    }

    /// Reads from `place` until its end, or `out` has enough.
    fn walk(
        &mut self,
        mut place: Place,
        mut place_end: u64,
        generation: u64,
        out: &mut Out,
    ) -> Result<(), Stop> {
        if place.is_somewhere() {
            let places = self.places_in(place.at.segment, generation)?;
            let (found, end) = places.find(out.next).ok_or(Stop::Damaged)?;
            // A later segment may have replaced records of this one.
            (place, place_end) = (found, end.min(place_end));
        }
        let file = self.file(place.at.segment)?;
        let want = out
            .bytes_max
            .saturating_sub(out.bytes)
            .saturating_add(CHUNK_BYTES_MIN);
        let mut chunk = Chunk::new(file, want.min(CHUNK_BYTES_MAX));
        let mut at = place.at;
        let end = place_end.min(out.end);
        while out.next < end {
            let header = chunk.get(at.offset, RECORD_HEADER_BYTES as usize)?;
            let (header, _) = RecordHeader::decode(&header, generation, at).ok_or(Stop::Damaged)?;
            let payload_bytes = header.payload_bytes as usize;
            match header.kind {
                Kind::Log(kind) if header.index == out.next => {
                    if out.is_full_for(payload_bytes) {
                        out.full = true;
                        return Ok(());
                    }
                    let payload = chunk.get(at.offset + RECORD_HEADER_BYTES, payload_bytes)?;
                    // H7: what rots on this disk is read from another one.
                    if !header.owns(&payload, generation, at) && !planted::on("h07_unverified_reads") {
                        return Err(Stop::Damaged);
                    }
                    let id = LogId {
                        term: header.term,
                        leader: header.leader,
                        index: header.index,
                    };
                    out.push(LogRecord { id, kind, payload });
                }
                Kind::Log(_) if header.index > out.next => return Err(Stop::Damaged),
                Kind::Seal => return Err(Stop::Damaged),
                Kind::Log(_) | Kind::Truncate | Kind::Mark => {}
            }
            at = Position {
                offset: at.offset + header.span() as u32,
                ..at
            };
        }
        Ok(())
    }

    /// Where the records of a sealed segment lie: from its summary, or else from its file.
    fn places_in(&mut self, segment: u32, generation: u64) -> Result<Arc<Places>, Stop> {
        let known = |p: &(u32, u64, Arc<Places>)| (p.0, p.1) == (segment, generation);
        let at = self.places.iter().position(known);
        let recent = at.and_then(|at| self.places.remove(at)).map(|p| p.2);
        let places = match recent.or_else(|| self.summarized(segment, generation)) {
            Some(places) => places,
            None => Arc::new(self.walked(segment, generation)?),
        };
        self.places.push_front((segment, generation, places.clone()));
        self.places.truncate(PLACES_MAX);
        Ok(places)
    }

    fn summarized(&self, segment: u32, generation: u64) -> Option<Arc<Places>> {
        let metadata = self.metadata.as_ref()?.upgrade()?;
        let value = metadata.get(&summary::key(segment)).ok()??;
        let summary = Summary::decode(&value, segment, generation)?;
        Some(Arc::new(summary.log.places))
    }

    /// The places as the records of the file itself tell, up to the first that is damaged: only the headers are looked at, a
    /// reader verifies what it reads.
    fn walked(&mut self, segment: u32, generation: u64) -> Result<Places, Stop> {
        let mut chunk = Chunk::new(self.file(segment)?, CHUNK_BYTES_MAX);
        let mut places = Places::default();
        let mut at = Position {
            segment,
            offset: SEGMENT_HEADER_BYTES,
        };
        loop {
            let header = match chunk.get(at.offset, RECORD_HEADER_BYTES as usize) {
                Ok(bytes) => RecordHeader::decode(&bytes, generation, at),
                Err(Stop::Damaged) => None,
                Err(stop) => return Err(stop),
            };
            let Some((header, _)) = header else {
                return Ok(places);
            };
            match header.kind {
                Kind::Log(_) => places.note(header.index, at),
                Kind::Truncate => places.truncate(header.index),
                Kind::Mark => {}
                Kind::Seal => return Ok(places),
            }
            let next = u64::from(at.offset) + header.span();
            at.offset = u32::try_from(next).map_err(|_| Stop::Damaged)?;
        }
    }

    fn file(&mut self, segment: u32) -> std::io::Result<Arc<dyn File>> {
        let moves = lock(&self.shared).layout.moves;
        if std::mem::replace(&mut self.moves, moves) != moves {
            self.rest();
        }
        if let Some(file) = self.open.get(&segment) {
            return Ok(file.clone());
        }
        let file = layout::open(&*self.files, &self.shared, &self.dir, segment)?;
        if self.open.len() >= OPEN_FILES_MAX {
            self.open.pop_first();
        }
        self.open.insert(segment, file.clone());
        Ok(file)
    }
}

struct Out {
    records: Vec<LogRecord>,
    bytes: u64,
    bytes_max: u64,
    next: u64,
    end: u64,
    full: bool,
}

impl Out {
    fn is_full_for(&self, payload_bytes: usize) -> bool {
        !self.records.is_empty() && self.bytes + payload_bytes as u64 > self.bytes_max
    }

    fn push(&mut self, record: LogRecord) {
        self.bytes += record.payload.len() as u64;
        self.next += 1;
        self.records.push(record);
    }

    /// What was read, or the error if that is nothing.
    fn or(self, error: ReadError) -> Result<Vec<LogRecord>, ReadError> {
        if self.records.is_empty() {
            Err(error)
        } else {
            Ok(self.records)
        }
    }
}

/// A window of a file.
pub(crate) struct Chunk {
    file: Arc<dyn File>,
    from: u32,
    bytes: Bytes,
    want: u64,
}

impl Chunk {
    /// A window that is moved `want` bytes at a time.
    pub(crate) fn new(file: Arc<dyn File>, want: u64) -> Self {
        Chunk {
            file,
            from: 0,
            bytes: Bytes::new(),
            want,
        }
    }

    /// The `len` bytes at `offset`.
    pub(crate) fn get(&mut self, offset: u32, len: usize) -> Result<Bytes, Stop> {
        if len > PAYLOAD_BYTES_MAX {
            return Err(Stop::Damaged);
        }
        let inside = offset >= self.from && (offset - self.from) as usize + len <= self.bytes.len();
        if !inside {
            let mut buf = vec![0; len.max(self.want as usize)];
            let read = match self.file.read_at(&mut buf, offset.into()) {
                // What can't be read may lie behind what is asked for.
                Err(e) if is_unreadable(&e) && buf.len() > len => {
                    buf.truncate(len);
                    self.file.read_at(&mut buf, offset.into())?
                }
                read => read?,
            };
            buf.truncate(read);
            self.from = offset;
            self.bytes = buf.into();
        }
        let skip = (offset - self.from) as usize;
        if skip + len > self.bytes.len() {
            return Err(Stop::Damaged);
        }
        Ok(self.bytes.slice(skip..skip + len))
    }
}
