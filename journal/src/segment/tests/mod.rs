//! What the storage promises, over the simulated disk; each file names a promise.

mod basics;
mod damage;
mod faults;
mod golden;
mod history;
mod merge;
mod merge_and_damage;
mod model;
#[cfg(feature = "planted-bugs")]
mod planted;
mod repair;
mod scrub;
mod space;
mod torn_or_rotten;
mod trim;
mod vote;
mod world;

use super::*;
use bytes::Bytes;
use redoubt_env::Env;
use redoubt_env::sim_files::SimFiles;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

pub(super) const DIR: &str = "/node";

/// A node's disk, and how it is used.
pub(super) struct Node {
    pub(super) files: SimFiles,
    pub(super) metadata: Arc<MapMetadata>,
    pub(super) options: Options,
}

impl Node {
    pub(super) fn new(seed: u64) -> Self {
        Node::over(SimFiles::new(seed))
    }

    pub(super) fn over(files: SimFiles) -> Self {
        // Small, so that a few records roll segments, leave the cache and cross the filled part.
        let options = Options {
            segment_bytes: 16 * 1024,
            cache_bytes: 1024,
            zero_ahead_bytes: 6 * 1024,
            merge_bytes: 64 * 1024,
            merge_at_files: 3,
            execution: Execution::Immediate,
            ..Options::default()
        };
        Node {
            files,
            metadata: Arc::default(),
            options,
        }
    }

    pub(super) fn open(&self) -> Result<(Storage, Recovered), OpenError> {
        let env = Env::real().with_files(Arc::new(self.files.clone()));
        Storage::open(&env, Path::new(DIR), "n1", self.options, self.metadata.clone())
    }

    pub(super) fn segment(&self, number: u32) -> PathBuf {
        file::path_of(Path::new(DIR), number)
    }

    /// The files whose names begin so.
    pub(super) fn paths(&self, prefix: &str) -> Vec<PathBuf> {
        let named = |p: &PathBuf| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
        };
        self.files.paths().into_iter().filter(named).collect()
    }

    /// Where a segment lies that has no file of its own, or has one.
    pub(super) fn lies(&self, number: u32) -> layout::Lies {
        let dir = Path::new(DIR);
        let paths = self.files.paths().into_iter();
        let tables = paths.filter(|p| merged::range_at(p).is_some());
        let tables = tables.filter_map(|p| merged::Merged::decode(&self.bytes(&p)).ok());
        let holds = |m: &merged::Merged| (m.range().0..=m.range().1).contains(&number);
        let merged = tables.filter(holds).max_by_key(|m| m.range().1 - m.range().0);
        let home = merged.and_then(|m| {
            let found = m.lie(dir).find(|(member, _)| member.header.segment == number);
            found.map(|(_, lies)| lies)
        });
        home.unwrap_or_else(|| layout::Lies::alone(dir, number))
    }

    /// The bytes of a segment, wherever it lies; `None` if it is nowhere.
    pub(super) fn segment_bytes(&self, number: u32) -> Option<Vec<u8>> {
        let lies = self.lies(number);
        let mut bytes = self.files.contents(&lies.path)?;
        if let Some(part) = lies.part {
            bytes.drain(..(part.from as usize).min(bytes.len()));
            bytes.truncate(part.bytes as usize);
        }
        Some(bytes)
    }

    /// Merges as long as there is anything to merge; how often.
    pub(super) fn merge_all(&self, storage: &Storage) -> usize {
        let merged = std::iter::repeat_with(|| storage.merge(&mut |_| true));
        merged.take_while(|m| matches!(m, Merging::Done { .. })).count()
    }

    pub(super) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.files.contents(path).unwrap()
    }
}

/// What an operation was answered; `None` while it wasn't.
#[derive(Clone, Default)]
pub(super) struct Answer(Arc<Mutex<Option<io::Result<()>>>>);

impl Answer {
    pub(super) fn done(&self) -> Done {
        let slot = self.0.clone();
        Box::new(move |result| *slot.lock().unwrap() = Some(result))
    }

    pub(super) fn is_ok(&self) -> bool {
        matches!(*self.0.lock().unwrap(), Some(Ok(())))
    }

    pub(super) fn is_err(&self) -> bool {
        matches!(*self.0.lock().unwrap(), Some(Err(_)))
    }
}

pub(super) fn record(term: u64, index: u64, payload: impl Into<Bytes>) -> LogRecord {
    LogRecord {
        id: LogId {
            term,
            leader: 7,
            index,
        },
        kind: RecordKind::Normal,
        payload: payload.into(),
    }
}

/// A payload that differs for each term and index.
pub(super) fn payload(term: u64, index: u64, bytes: usize) -> Bytes {
    let seed = (term * 31 + index * 7 + 1) as u8;
    (0..bytes).map(|i| seed.wrapping_add(i as u8)).collect()
}

/// Appends and expects it to be durable.
pub(super) fn append(storage: &Storage, records: Vec<LogRecord>) {
    let answer = Answer::default();
    storage.append(records, answer.done());
    assert!(answer.is_ok());
}

/// Appends records `from` up to `end`, one batch each.
pub(super) fn fill(storage: &Storage, term: u64, from: u64, end: u64, bytes: usize) {
    for i in from..end {
        append(storage, vec![record(term, i, payload(term, i, bytes))]);
    }
}

/// The whole log, read in small steps.
pub(super) fn read_all(storage: &Storage) -> Result<Vec<LogRecord>, ReadError> {
    let mut all: Vec<LogRecord> = Vec::new();
    let mut next = storage.first_index().unwrap_or(0);
    loop {
        let read = ready(storage.read(next, u64::MAX, 3000))?;
        let Some(last) = read.last() else { return Ok(all) };
        next = last.id.index + 1;
        all.extend(read);
    }
}

/// The result of a future that has it at once, as in-line storage does.
pub(super) fn ready<F: Future>(f: F) -> F::Output {
    match Box::pin(f).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("in-line storage answers at once"),
    }
}
