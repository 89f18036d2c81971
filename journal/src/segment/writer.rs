//! The end of the log: encodes records, writes them in batches, rolls from one segment to the next.
//!
//! Promises that no byte is ever written twice and that no batch is begun before the one before it is synced:
//! each header's statement "durable up to here" rests on that.

use super::batch::Batch;
use super::behind::Behind;
use super::end::{EndFile, Witness};
use super::error::{Failure, OpenError};
use super::file;
use super::format::{
    Follows, Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::format::{checksum, record_span};
use super::index::SegmentLog;
use super::metadata::Metadata;
use super::model::{Execution, LogId, LogRecord, Options};
use super::recover::{Cursor, Sealed};
use super::slow::SyncTimes;
use super::space::Space;
use super::state::lock;
use super::summary::{self, Summary};
use bytes::Bytes;
use redoubt_env::Env;
use redoubt_env::files::File;
use redoubt_types::BootTime;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A batch is large from this part of the distance on that files are filled ahead.
const LARGE_PART: u32 = 4;

/// What readers have to learn once a batch is in its file, in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Placed {
        index: u64,
        at: Position,
    },
    Truncated {
        first_removed: u64,
    },
    /// The segment is sealed, and its summary kept.
    Sealed {
        segment: u32,
    },
    /// The log goes on in this segment, behind where the one before ends.
    Opened {
        segment: u32,
        generation: u64,
        previous_end: Position,
    },
}

/// An open segment, as recovery or a roll leaves it.
pub(crate) struct Active {
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
    /// Checksum of the header's block.
    pub(crate) header_crc: u32,
    /// Behind the last record.
    pub(crate) end: Cursor,
    /// How far the file reaches.
    pub(crate) file_bytes: u32,
    /// What the segment's records do.
    pub(crate) log: SegmentLog,
    /// Where it could not be read, patches stand for what was there.
    pub(crate) is_patched: bool,
}

/// How far a log goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) next_index: u64,
    pub(crate) committed_end: u64,
}

/// The one writer of a log.
pub(crate) struct Writer {
    env: Env,
    dir: PathBuf,
    options: Options,
    metadata: Arc<dyn Metadata>,
    space: Arc<Space>,
    sync_times: Arc<Mutex<SyncTimes>>,
    active: Active,
    end_file: EndFile,
    /// When it was written.
    testified: BootTime,
    /// Whether the disk has set space aside for all of the active segment.
    allotted: bool,
    path: PathBuf,
    batch: Batch,
    behind: Behind,
    changes: Vec<Change>,
    durable: Position,
    next_index: u64,
    committed_end: u64,
    /// The committed end that the newest record states.
    committed_stated: u64,
    /// No record stands behind the newest mark.
    marked: bool,
}

impl Writer {
    /// Goes on behind `active.end`; everything before MUST be durable.
    ///
    /// # Errors
    /// When the file beside the log can't be made to say so.
    pub(crate) fn new(
        env: &Env,
        dir: &Path,
        options: Options,
        metadata: Arc<dyn Metadata>,
        space: Arc<Space>,
        active: Active,
        reached: Reached,
    ) -> Result<Self, OpenError> {
        let header = active.header;
        let durable = Position {
            segment: header.segment,
            offset: active.end.offset,
        };
        // Before anything is written: what it says of the last segment's header must be true from the first record on.
        let end_file = EndFile::open(&**env.files(), dir, Witness { durable, header })?;
        let mut writer = Writer {
            env: env.clone(),
            dir: dir.to_owned(),
            options,
            metadata,
            space,
            sync_times: Arc::default(),
            allotted: false,
            path: file::path_of(dir, active.header.segment),
            active,
            end_file,
            testified: env.now(),
            batch: Batch::default(),
            behind: Behind::default(),
            changes: Vec::new(),
            durable,
            next_index: reached.next_index,
            committed_end: reached.committed_end,
            committed_stated: reached.committed_end,
            marked: false,
        };
        writer.allot();
        Ok(writer)
    }

    /// Has space set aside for the active segment. Where that can't be had, the segment is written to as long as it goes.
    fn allot(&mut self) {
        self.allotted = self.options.execution == Execution::Threads
            && match self.active.file.allocate(self.options.segment_bytes.into()) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "no space is set aside for a segment");
                    false
                }
            };
        self.tell_room();
    }

    /// Adds a record to the batch.
    pub(crate) fn append(&mut self, record: &LogRecord) -> Result<(), Failure> {
        let end = u64::from(self.active.end.offset) + record_span(record.payload.len());
        let full = end + u64::from(RECORD_HEADER_BYTES) > self.options.segment_bytes.into();
        if full && self.active.end.offset > SEGMENT_HEADER_BYTES {
            self.roll()?;
        }
        let at = self.stage(Kind::Log(record.kind), record.id, &record.payload);
        self.active.log.push(record.id, at);
        self.changes.push(Change::Placed {
            index: record.id.index,
            at,
        });
        self.next_index = record.id.index + 1;
        Ok(())
    }

    /// Adds the removal of every record from `first_removed` on. An append like any other: what was removed
    /// stays where it is, and can't come back because this record stands behind it.
    pub(crate) fn truncate(&mut self, first_removed: u64) {
        self.stage(
            Kind::Truncate,
            LogId {
                term: 0,
                leader: 0,
                index: first_removed,
            },
            &Bytes::new(),
        );
        self.active.log.truncate(first_removed);
        self.changes.push(Change::Truncated { first_removed });
        self.next_index = self.next_index.min(first_removed);
        self.committed_end = self.committed_end.min(first_removed);
    }

    /// Goes on in a new segment, whose first record is `next`: whatever is before is trimmed. Returns its number.
    pub(crate) fn begin_anew(&mut self, next: u64) -> Result<u32, Failure> {
        self.next_index = next;
        self.roll()?;
        self.committed_end = self.committed_end.max(next);
        Ok(self.active.header.segment)
    }

    /// What every later record states as committed.
    pub(crate) fn set_committed(&mut self, committed_end: u64) {
        if redoubt_env::planted::on("h08_committed_not_saved") {
            return;
        }
        self.committed_end = self.committed_end.max(committed_end);
    }

    /// Bytes not yet written.
    pub(crate) const fn batch_bytes(&self) -> u64 {
        self.batch.bytes()
    }

    /// Whether the log's end is not yet marked, or the committed end not yet stated.
    pub(crate) fn wants_mark(&self) -> bool {
        !self.marked || self.committed_stated < self.committed_end.min(self.next_index)
    }

    /// Writes and syncs the batch.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.batch.bytes() == 0 {
            return Ok(());
        }
        let end = self.active.end.offset;
        let bytes = self.batch.bytes();
        let at = u64::from(end) - bytes;
        self.batch
            .write_to(&*self.active.file, at)
            .map_err(Failure::new("write", &self.path))?;
        if end > self.active.file_bytes {
            // The sync of a large batch costs more than that of the file's new length does, and filling ahead
            // would only double what is written.
            if bytes < u64::from(self.options.zero_ahead_bytes / LARGE_PART) {
                self.fill(end)?;
            } else {
                self.active.file_bytes = end;
            }
        }
        lock(&self.sync_times).begin(self.env.now());
        let synced = file::sync(&*self.active.file, &self.path);
        lock(&self.sync_times).end(self.env.now());
        synced?;
        let segment = self.active.header.segment;
        self.durable = Position { segment, offset: end };
        self.behind.synced(segment, &self.active.file, at, end.into());
        self.tell_room();
        Ok(())
    }

    fn tell_room(&self) {
        let left = self.options.segment_bytes.saturating_sub(self.active.end.offset);
        self.space.active_has(if self.allotted { left.into() } else { 0 });
    }

    /// Marks the log durable up to its end, unless it is marked already, and makes the mark durable. With nothing else to do, the file is
    /// also filled further ahead.
    pub(crate) fn mark(&mut self) -> Result<(), Failure> {
        if !self.wants_mark() {
            return Ok(());
        }
        self.flush()?;
        if redoubt_env::planted::on("h07_no_mark") {
            self.marked = true;
            return Ok(());
        }
        self.stage(
            Kind::Mark,
            LogId {
                term: 0,
                leader: 0,
                index: 0,
            },
            &Bytes::new(),
        );
        let ahead = self.active.file_bytes.saturating_sub(self.active.end.offset);
        if ahead < self.options.zero_ahead_bytes / 2 {
            self.fill(self.active.file_bytes.max(self.active.end.offset))?;
        }
        self.flush()?;
        self.marked = true;
        Ok(())
    }

    fn witness(&self) -> Witness {
        Witness {
            durable: self.durable,
            header: self.active.header,
        }
    }

    /// Whether the file beside the log says less than is so.
    pub(crate) fn wants_witness(&self) -> bool {
        self.end_file.is_behind(self.witness())
    }

    /// Has the file beside the log say how far it is durable.
    pub(crate) fn testify(&mut self) -> Result<(), Failure> {
        let now = self.witness();
        self.end_file.say(now)?;
        self.testified = self.env.now();
        Ok(())
    }

    /// Whether it says less than is so, and was written longer ago than `every`.
    pub(crate) fn testimony_is_due(&self, every: Duration) -> bool {
        self.wants_witness() && self.env.now().since(self.testified) >= every
    }

    /// Makes copies in the file beside the log again that are damaged; whether there were any.
    pub(crate) fn mend_end(&mut self) -> Result<bool, Failure> {
        self.end_file.mend()
    }

    /// How long its syncs take.
    pub(crate) fn sync_times(&self) -> Arc<Mutex<SyncTimes>> {
        self.sync_times.clone()
    }

    /// Everything before was synced.
    pub(crate) const fn durable(&self) -> Position {
        self.durable
    }

    /// What happened since the last call. To be taken after a flush.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Fills the file with zeros from `from`, up to the options' distance ahead. Not synced.
    fn fill(&mut self, from: u32) -> Result<(), Failure> {
        let limit = self.options.segment_bytes.max(from);
        let to = from.saturating_add(self.options.zero_ahead_bytes).min(limit);
        file::write_zeros(&*self.active.file, from.into(), to.into())
            .map_err(Failure::new("fill", &self.path))?;
        self.active.file_bytes = to;
        Ok(())
    }

    fn header(&self, kind: Kind, id: LogId, payload: &Bytes, at: Position) -> RecordHeader {
        RecordHeader {
            kind,
            payload_bytes: payload.len() as u32,
            payload_crc: checksum(self.active.header.generation, at, payload),
            term: id.term,
            leader: id.leader,
            index: id.index,
            durable: self.durable,
            committed_end: self.committed_end.min(self.next_index),
            link: self.active.end.link,
        }
    }

    fn stage(&mut self, kind: Kind, id: LogId, payload: &Bytes) -> Position {
        let at = Position {
            segment: self.active.header.segment,
            offset: self.active.end.offset,
        };
        let header = self.header(kind, id, payload, at);
        let (bytes, crc) = header.encode(self.active.header.generation, at);
        self.batch.push(&bytes, payload, header.span());
        self.active.end = Cursor {
            offset: at.offset + header.span() as u32,
            link: crc,
        };
        self.active.log.committed_end = self.active.log.committed_end.max(header.committed_end);
        self.committed_stated = header.committed_end;
        self.marked = false;
        at
    }

    /// Seals the segment and goes on in a new one.
    ///
    /// The order matters. The next segment is durable before the seal names it, so a seal without the file it
    /// names is a loss, not a crash. The seal is durable before the next segment gets a record, so a record
    /// there proves that everything here was durable.
    fn roll(&mut self) -> Result<(), Failure> {
        self.flush()?;
        let number = self.active.header.segment + 1;
        let generation = self.env.random_nonzero();
        let seal = LogId {
            term: number.into(),
            leader: generation,
            index: self.next_index,
        };
        let at = Position {
            segment: self.active.header.segment,
            offset: self.active.end.offset,
        };
        let (_, link) = self
            .header(Kind::Seal, seal, &Bytes::new(), at)
            .encode(self.active.header.generation, at);
        let header = SegmentHeader {
            segment: number,
            generation,
            node: self.active.header.node,
            follows: Follows::Seal,
            previous_end: Position {
                offset: at.offset + RECORD_HEADER_BYTES,
                ..at
            },
            previous_link: link,
            durable: self.durable,
            next_index: self.next_index,
            before: Some(self.active.header.copy(self.active.header_crc)),
        };
        let file_bytes = first_bytes(&self.options);
        let spare = self.space.take();
        let created = file::create(&**self.env.files(), &self.dir, &header, file_bytes, spare)?;
        // Before the seal, and so before the first record there: from then on a loss of that file is seen.
        let durable = self.durable;
        self.end_file.say(Witness { durable, header })?;
        self.stage(Kind::Seal, seal, &Bytes::new());
        assert_eq!(
            self.active.end.link, link,
            "the seal differs from what the next segment's header says"
        );
        self.flush()?;
        let next = Active {
            file: created.file,
            header,
            header_crc: created.header_crc,
            end: Cursor::start(created.header_crc),
            file_bytes: created.bytes,
            log: SegmentLog::default(),
            is_patched: false,
        };
        let sealed = std::mem::replace(&mut self.active, next);
        self.path = file::path_of(&self.dir, number);
        self.allot();
        self.durable = Position {
            segment: number,
            offset: SEGMENT_HEADER_BYTES,
        };
        let segment = sealed.header.segment;
        if self.summarize(sealed) {
            self.changes.push(Change::Sealed { segment });
        }
        self.changes.push(Change::Opened {
            segment: number,
            generation,
            previous_end: header.previous_end,
        });
        Ok(())
    }

    /// Keeps what a scan of the segment would find; whether that is there to be read from now on.
    fn summarize(&self, sealed: Active) -> bool {
        let next = Sealed {
            next_segment: self.active.header.segment.into(),
            next_generation: self.active.header.generation,
        };
        let key = summary::key(sealed.header.segment);
        let generation = sealed.header.generation;
        let summary = Summary {
            generation,
            end: sealed.end,
            sealed: next,
            log: sealed.log,
        };
        match self.metadata.put(&key, &summary.encode()) {
            // A reader without the summary has the places from the file, up to where that can't be read.
            Ok(()) => !sealed.is_patched,
            Err(error) => {
                tracing::warn!(%error, "could not keep a segment's summary: the next start scans the segment");
                false
            }
        }
    }
}

/// Length of a fresh segment file.
pub(crate) fn first_bytes(options: &Options) -> u32 {
    options
        .zero_ahead_bytes
        .min(options.segment_bytes)
        .max(SEGMENT_HEADER_BYTES)
}
