//! A data directory that rot keeps from being opened: what of it can be read, and what closes its gaps.
//!
//! Promises that nothing in the directory is changed but by [`Salvage::close_gap`], which adds a file and changes none.
//! Whether records are the ones that are missing is the caller's to prove; that they fit is checked here.

use super::beginning::BEGINNING;
use super::end::END;
use super::error::{Failure, OpenError, ReadError};
use super::index::LogIds;
use super::merged;
use super::metadata::Metadata;
use super::model::{Identity, LogId, LogRecord};
use super::open::{IDENTITY, VOTE, lock_dir, peek_identity, peek_vote};
use super::patch::{self, Gap};
use super::reader::Reader;
use super::scan::Scan;
use super::state::{Shared, lock};
use redoubt_env::Env;
use redoubt_env::files::DirLock;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// An open directory with gaps. It is locked as long as this lives.
pub struct Salvage {
    env: Env,
    dir: PathBuf,
    identity: Identity,
    gaps: Vec<Gap>,
    spoilt_copies: Vec<String>,
    spoilt_headers: Vec<u32>,
    committed_end: u64,
    patch_number: u32,
    ids: LogIds,
    beginning: Option<Vec<u8>>,
    reader: Mutex<Reader>,
    _lock: Box<dyn DirLock>,
}

impl Salvage {
    /// Bytes of the files in `dir` that [`Salvage::open`] reads.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn bytes_in(env: &Env, dir: &Path) -> std::io::Result<u64> {
        super::file::bytes_in(&**env.files(), dir)
    }

    /// Reads all of `dir`, but what the summaries in `metadata` tell of. `progress` hears of each file's bytes. Blocks.
    ///
    /// # Errors
    /// Whatever keeps it from being read, or damage of which nothing around it tells what is missing.
    pub fn open(
        env: &Env,
        dir: &Path,
        metadata: &dyn Metadata,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Salvage, OpenError> {
        let files = env.files();
        // First, so that no lock is made where there is no node.
        let (identity, identity_damaged) = peek_identity(&**files, dir)?;
        let lock = lock_dir(&**files, dir)?;
        let mut spoilt_copies = Vec::new();
        spoilt_copies.extend(identity_damaged.then(|| IDENTITY.to_owned()));
        spoilt_copies.extend(peek_vote(&**files, dir)?.then(|| VOTE.to_owned()));
        let scan = Scan::of(env, dir, identity.node, metadata, progress)?;
        spoilt_copies.extend(scan.beginning_is_spoilt.then(|| BEGINNING.to_owned()));
        spoilt_copies.extend(scan.end_is_spoilt.then(|| END.to_owned()));
        spoilt_copies.extend(scan.spoilt_merged.iter().map(merged::Found::name));
        // What is said behind a gap may be about records that replaced those that stand here before it.
        let first_gap = scan
            .gaps
            .first()
            .map_or(u64::MAX, |gap| gap.committed_end.min(gap.first_wanted()));
        let committed_end = scan.index.committed_end.min(scan.index.ids.end).min(first_gap);
        let shared = Shared {
            ids: scan.index.ids.clone(),
            places: scan.index.places,
            generations: scan.generations,
            layout: scan.layout,
            ..Shared::default()
        };
        let reader = Reader::new(files.clone(), dir.to_owned(), Arc::new(Mutex::new(shared)), None);
        Ok(Salvage {
            env: env.clone(),
            dir: dir.to_owned(),
            identity,
            gaps: scan.gaps,
            spoilt_copies,
            spoilt_headers: scan.spoilt.iter().map(|s| s.header.segment).collect(),
            committed_end,
            patch_number: scan.patch_number,
            ids: scan.index.ids,
            beginning: scan.beginning.map(|b| b.state),
            reader: Mutex::new(reader),
            _lock: lock,
        })
    }

    /// As of [`Recovered::beginning`](super::Recovered::beginning).
    pub fn beginning(&self) -> Option<&[u8]> {
        self.beginning.as_deref()
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Two-slot files, and tables of merged editlogs, of which one copy is damaged: the next start makes it again from the
    /// other.
    pub fn spoilt_copies(&self) -> &[String] {
        &self.spoilt_copies
    }

    /// Segments whose header block is damaged or lost: the next start makes it again from what others tell.
    pub fn spoilt_headers(&self) -> &[u32] {
        &self.spoilt_headers
    }

    /// Behind the last record.
    pub fn end(&self) -> u64 {
        self.ids.last().map_or(0, |id| id.index + 1)
    }

    /// What is missing, in the order of the log.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Every index below was known to be committed. It may be older than what was, never newer (H8).
    pub fn committed_end(&self) -> u64 {
        self.committed_end
    }

    /// The id of the record at `index`, unless that is missing.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.ids.get(index).filter(|id| id.leader != patch::MISSING)
    }

    /// Records from `start` up to `end`, `bytes_max` of payload but at least one; fewer where one can't be read.
    ///
    /// # Errors
    /// When not even the first can be read.
    pub fn read(&self, start: u64, end: u64, bytes_max: u64) -> Result<Vec<LogRecord>, ReadError> {
        let end = end.min(self.ids.end);
        if start >= end {
            return Ok(Vec::new());
        }
        lock(&self.reader).read(start, end, bytes_max)
    }

    /// Puts `records` into `gap`: durable, and part of the log from the next start on. They MUST be the ones that are
    /// wanted ([`Gap::first_wanted`], [`Gap::end_wanted`]).
    ///
    /// # Errors
    /// A failed write, which leaves the gap as it is.
    ///
    /// # Panics
    /// When they do not fit: only a bug of the caller can do that.
    pub fn close_gap(&mut self, gap: &Gap, records: &[LogRecord]) -> Result<(), Failure> {
        let indexes = records.iter().map(|r| r.id.index);
        let first = gap.first_wanted();
        let end = gap.end_wanted(|| first + records.len() as u64);
        assert!(
            indexes.eq(first..end),
            "{} records do not fill {gap:?}",
            records.len()
        );
        let number = self.patch_number + 1;
        patch::write(
            &**self.env.files(),
            &self.dir,
            (number, self.env.random_nonzero()),
            self.identity.node,
            gap,
            records,
        )?;
        self.patch_number = number;
        Ok(())
    }
}
