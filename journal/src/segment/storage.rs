//! The handle that everything above the disk uses.

use super::background;
use super::core::{Core, Done, Op};
use super::error::{Failure, OpenError, ReadError};
use super::file;
use super::merge::Merging;
use super::metadata::{KeyValue, Metadata};
use super::model::{Execution, Identity, LogId, LogRecord, Options, PAYLOAD_BYTES_MAX, Recovered, Vote};
use super::open;
use super::persisted::encode_identity;
use super::reader::Reader;
use super::scrub::{Checked, Rot};
use super::slots::SLOT_PAYLOAD_BYTES_MAX;
use super::space::Room;
use super::state::lock;
use super::tally::DiskTally;
use redoubt_env::Env;
use std::io;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A node's log, vote and identity. Cheap to clone; when the last clone is dropped, work stops as in a crash.
///
/// ```text
/// append, save_vote, truncate_after, save_identity ─▶ one ordered queue ─▶ write ─▶ sync ─▶ done, in order
///     └─ readable at once (memory) ─▶ readable from the file once written
/// ```
///
/// Nothing here bounds the queue: submitters do, by waiting for `done`.
#[derive(Clone)]
pub struct Storage {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    reads: Reads,
    env: Env,
    /// Their end is that of the threads which do what is never waited for.
    _threads: Vec<mpsc::Sender<()>>,
}

/// How long nobody reads from files before they are closed.
const READER_RESTS_AFTER: Duration = Duration::from_secs(5);

/// How reads that miss the memory are made.
enum Reads {
    Inline(Mutex<Reader>),
    Thread(mpsc::Sender<ReadJob>),
}

struct ReadJob {
    start: u64,
    end: u64,
    bytes_max: u64,
    answer: oneshot::Sender<Result<Vec<LogRecord>, ReadError>>,
}

/// Records being collected.
struct Read {
    records: Vec<LogRecord>,
    /// Bytes of payload that still fit.
    left: u64,
}

impl Read {
    /// Adds `part`, unless it doesn't fit behind what there is; returns whether more may follow.
    fn add(&mut self, part: Vec<LogRecord>) -> bool {
        let bytes: u64 = part.iter().map(|r| r.payload.len() as u64).sum();
        if bytes > self.left && !self.records.is_empty() {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.records.extend(part);
        self.left > 0
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

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.abandon();
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage")
            .field("dir", &self.handle.core.dir)
            .finish_non_exhaustive()
    }
}

impl Storage {
    /// Locks `dir`, formats it for the node called `name` when it is empty, and recovers what is in it.
    /// Blocks.
    ///
    /// # Errors
    /// Whatever makes it unsafe to go on; nothing in the directory is changed then.
    pub fn open(
        env: &Env,
        dir: &Path,
        name: &str,
        options: Options,
        metadata: Arc<dyn Metadata>,
    ) -> Result<(Storage, Recovered), OpenError> {
        let summaries = Arc::downgrade(&metadata);
        let (core, recovered) = open::open(env, dir, name, options, metadata)?;
        let core = Arc::new(core);
        let shared = core.shared.clone();
        let mut reader = Reader::new(env.files().clone(), dir.to_owned(), shared, Some(summaries));
        let mut threads = Vec::new();
        let reads = if options.execution == Execution::Threads {
            let spawn = |name, run: Box<dyn FnOnce() + Send>| {
                env.spawn_thread(name, run)
                    .map_err(OpenError::io("start a thread for", dir))
            };
            // Before anything is appended: else a fresh log would begin with no room.
            core.space
                .complete()
                .map_err(OpenError::io("make spare segments in", dir))?;
            let worker = core.clone();
            spawn("storage-write", Box::new(move || worker.run()))?;
            let (jobs, inbox) = mpsc::channel::<ReadJob>();
            let serve = move || loop {
                match inbox.recv_timeout(READER_RESTS_AFTER) {
                    // A reader that gave up has dropped its end.
                    Ok(job) => drop(job.answer.send(reader.read(job.start, job.end, job.bytes_max))),
                    Err(RecvTimeoutError::Timeout) => reader.rest(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            spawn("storage-read", Box::new(serve))?;
            for (name, again_and_again) in background::ALL {
                let (ends, ended) = mpsc::channel();
                let core = core.clone();
                spawn(name, Box::new(move || again_and_again(&core, &ended)))?;
                threads.push(ends);
            }
            Reads::Thread(jobs)
        } else {
            Reads::Inline(Mutex::new(reader))
        };
        Ok((
            Storage {
                handle: Arc::new(Handle {
                    core,
                    reads,
                    env: env.clone(),
                    _threads: threads,
                }),
            },
            recovered,
        ))
    }

    /// Reads all files again, to see whether they still can be read; `pace` hears of the bytes as they are read and says
    /// whether to go on. What is damaged is noted, as if a reader had met it; a damaged copy of the vote or the identity is
    /// mended at once. Blocks; not for [`Execution::Manual`], whose turns would be missing.
    pub fn check(&self, pace: &mut dyn FnMut(u64) -> bool) -> Checked {
        background::check(&self.handle.core, pace, || self.work())
    }

    /// Merges one run of small editlogs, if there is one; `pace` hears of the bytes as they are read and written, and says
    /// whether to go on. Blocks.
    pub fn merge(&self, pace: &mut dyn FnMut(u64) -> bool) -> Merging {
        background::merge(&self.handle.core, pace)
    }

    /// What went wrong on the disk since the storage was opened.
    pub fn tally(&self) -> DiskTally {
        *lock(&self.handle.core.tally)
    }

    /// Bytes of the log's files.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn bytes(&self) -> io::Result<u64> {
        file::bytes_in(&**self.handle.env.files(), &self.handle.core.dir)
    }

    /// Whether syncs have taken long for a while.
    pub fn is_slow(&self) -> bool {
        lock(&self.handle.core.sync_times).is_slow(self.handle.env.now())
    }

    /// How much room the disk has for more.
    pub fn room(&self) -> watch::Receiver<Room> {
        self.handle.core.space.room()
    }

    /// Becomes `Some` with the first damage that is found. The next opening repairs it.
    pub fn rot(&self) -> watch::Receiver<Option<Rot>> {
        self.handle.core.rot.subscribe()
    }

    /// Appends `records`, which follow the log's last. They are readable on return and durable once `done` is
    /// called.
    ///
    /// # Panics
    /// When they do not follow: only a bug of the caller can do that.
    pub fn append(&self, records: Vec<LogRecord>, done: Done) {
        if let Some(r) = records.iter().find(|r| r.payload.len() > PAYLOAD_BYTES_MAX) {
            let what = format!(
                "record {} has {} bytes, more than {PAYLOAD_BYTES_MAX}",
                r.id.index,
                r.payload.len()
            );
            return done(Err(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        self.handle.core.submit_with(|log| {
            let last_number = records.iter().map(|r| log.push(r.clone())).last().unwrap_or(0);
            Op::Append {
                records,
                last_number,
                done,
            }
        });
        self.work();
    }

    /// Saves the vote: `done` is called once both slots hold it (H5), and everything submitted before is
    /// durable.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.handle.core.submit(Op::Vote(vote, done));
        self.work();
    }

    /// Removes every record behind `last_kept`; all, when it is `None`. They are gone for readers on return,
    /// and for ever once `done` is called.
    pub fn truncate_after(&self, last_kept: Option<u64>, done: Done) {
        let first_removed = last_kept.map_or(0, |i| i + 1);
        self.handle.core.submit_with(|log| {
            log.truncate(first_removed);
            Op::Truncate { first_removed, done }
        });
        self.work();
    }

    /// Has the log begin behind `trimmed`, of which and all before `state` is what the log had made of the state machine: that is
    /// what [`Recovered::beginning`] gives from then on. A log that does not reach so far is empty afterwards, and goes on there. What
    /// is trimmed is gone for readers on return, and for ever once `done` is called; its files go some time later.
    pub fn begin_behind(&self, trimmed: LogId, state: Vec<u8>, done: Done) {
        self.handle.core.submit(Op::Begin { trimmed, state, done });
        self.work();
    }

    /// The last record that is trimmed.
    pub fn trimmed(&self) -> Option<LogId> {
        lock(&self.handle.core.shared).ids.before
    }

    /// The first record of each file: behind the one before it the log can be made to begin.
    pub fn starts(&self) -> Vec<u64> {
        let starts = lock(&self.handle.core.shared).starts();
        starts.into_iter().map(|(_, first)| first).collect()
    }

    /// Removes the files of what was trimmed, as a thread does with [`Execution::Threads`]. Returns how many. Blocks.
    pub fn remove_trimmed(&self) -> usize {
        background::remove_trimmed(&self.handle.core, &mut |_| true)
    }

    /// Notes that everything up to `committed` is committed. Has no sync of its own: it rides with the next
    /// batch, or with the mark that is written when the log goes idle. So a restart may find an older one,
    /// never a newer one (H8).
    pub fn save_committed(&self, committed: LogId) {
        self.handle.core.submit(Op::Committed {
            end: committed.index + 1,
        });
        self.work();
    }

    /// Keeps `value` under `key` beside the log. It may be lost at any time: only what can be had again from the log may be
    /// kept so.
    pub fn keep(&self, key: Vec<u8>, value: Vec<u8>) {
        self.handle.core.submit(Op::Keep { key, value });
        self.work();
    }

    /// Forgets what was kept under `key`.
    pub fn forget(&self, key: Vec<u8>) {
        self.handle.core.submit(Op::Forget { key });
        self.work();
    }

    /// The last of the keys from `from` to `to`, both included, and what was kept under it, whenever that was: the caller
    /// checks it. Blocks for a read of the disk.
    pub fn kept(&self, from: &[u8], to: &[u8]) -> Option<KeyValue> {
        self.handle.core.kept(from, to)
    }

    /// Saves the identity, as [`Storage::save_vote`] does the vote.
    pub fn save_identity(&self, identity: Identity, done: Done) {
        let bytes = encode_identity(&identity).len();
        if bytes > SLOT_PAYLOAD_BYTES_MAX {
            let what = format!("the identity takes {bytes} bytes, more than {SLOT_PAYLOAD_BYTES_MAX}");
            return done(Err(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        self.handle.core.submit(Op::Identity(Box::new(identity), done));
        self.work();
    }

    /// Ends in order: everything submitted is durable and the log marked when `done` is called, the directory
    /// is unlocked, and later operations fail.
    pub fn close(&self, done: Done) {
        self.handle.core.submit(Op::Close(done));
        self.work();
    }

    /// Records from `start` up to `end` (exclusive), with `max_bytes` of payload at most but at least one
    /// record if there is any. Empty when `start` is behind the log's end.
    ///
    /// # Errors
    /// When not even the first can be read.
    pub async fn read(&self, start: u64, end: u64, max_bytes: u64) -> Result<Vec<LogRecord>, ReadError> {
        let mut read = Read {
            records: Vec::new(),
            left: max_bytes,
        };
        // The range may go on from the files into memory, and memory moves on while files are read.
        loop {
            let next = read.records.last().map_or(start, |r| r.id.index + 1);
            let files_end = {
                let log = lock(&self.handle.core.shared);
                let end = end.min(log.ids.end);
                if next >= end {
                    return Ok(read.records);
                }
                let is_trimmed = log.ids.before.is_some_and(|before| next <= before.index);
                if is_trimmed || log.ids.get(next).is_none() {
                    return read.or(ReadError::NotFound { index: next });
                }
                if let Some(cached) = log.cache.get(next, end, read.left) {
                    read.add(cached);
                    return Ok(read.records);
                }
                // What is cached may not be in a file yet.
                log.cache.first_index().map_or(end, |from| end.min(from))
            };
            let part = match self.read_files(next, files_end, read.left).await {
                Ok(part) => part,
                Err(e) => return read.or(e),
            };
            let reached = part.last().is_some_and(|r| r.id.index + 1 == files_end);
            if !read.add(part) || !reached {
                return Ok(read.records);
            }
        }
    }

    async fn read_files(&self, start: u64, end: u64, bytes_max: u64) -> Result<Vec<LogRecord>, ReadError> {
        match &self.handle.reads {
            Reads::Inline(reader) => self.noted(lock(reader).read(start, end, bytes_max)),
            Reads::Thread(jobs) => {
                let gone = || ReadError::Io {
                    index: start,
                    message: "the storage has ended".to_owned(),
                };
                let (answer, answered) = oneshot::channel();
                let job = ReadJob {
                    start,
                    end,
                    bytes_max,
                    answer,
                };
                jobs.send(job).map_err(|_| gone())?;
                self.noted(answered.await.map_err(|_| gone())?)
            }
        }
    }

    fn noted<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        let core = &self.handle.core;
        if let Err(ReadError::Damaged { index }) = &read
            && let Some(rot) = core.rot_at(*index)
        {
            core.found(&rot);
        }
        read
    }

    /// As [`Storage::read`], but only from memory: `None` when that doesn't hold `start`.
    pub fn read_cached(&self, start: u64, end: u64, max_bytes: u64) -> Option<Vec<LogRecord>> {
        let log = lock(&self.handle.core.shared);
        let end = end.min(log.ids.end);
        if start >= end {
            return Some(Vec::new());
        }
        log.cache.get(start, end, max_bytes)
    }

    /// The last record's id, durable or not.
    pub fn last_log_id(&self) -> Option<LogId> {
        lock(&self.handle.core.shared).ids.last()
    }

    /// The first record's index; of a log that is empty since all of it was trimmed, that of the first one to come.
    pub fn first_index(&self) -> Option<u64> {
        let shared = lock(&self.handle.core.shared);
        let to_come = || shared.ids.before.map(|before| before.index + 1);
        shared.ids.first_index().or_else(to_come)
    }

    /// The id of the record at `index`. Needs no disk.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        lock(&self.handle.core.shared).ids.get(index)
    }

    /// Becomes `Some` when a write or sync failed, which is final: the process must end.
    pub fn failed(&self) -> watch::Receiver<Option<Failure>> {
        self.handle.core.failed.subscribe()
    }

    /// Works off one batch of what was submitted, for [`Execution::Manual`]; returns how many operations it
    /// held, 0 when there was nothing to do.
    pub fn turn(&self) -> usize {
        self.handle.core.turn()
    }

    /// Writes and syncs the mark that an idle log gets, and the file beside it, for [`Execution::Immediate`] and
    /// [`Execution::Manual`], which know no time.
    pub fn idle(&self) {
        self.handle.core.idle();
        self.handle.core.testify(Duration::ZERO);
    }

    /// Makes a spare, or a part of one, as a thread does with [`Execution::Threads`].
    #[cfg(test)]
    pub(crate) fn provide(&self) -> io::Result<bool> {
        self.handle.core.space.provide()
    }

    /// Opens the file of a segment, as a reader does.
    #[cfg(test)]
    pub(crate) fn open_segment(&self, number: u32) -> Arc<dyn redoubt_env::files::File> {
        let (core, files) = (&self.handle.core, self.handle.env.files());
        super::layout::open(&**files, &core.shared, &core.dir, number).expect("a segment's file")
    }

    /// What submitters, writer and reader share, for tests.
    #[cfg(test)]
    pub(crate) fn with_shared(&self, look: impl FnOnce(&super::state::Shared)) {
        look(&lock(&self.handle.core.shared));
    }

    fn work(&self) {
        if self.handle.core.options.execution == Execution::Immediate {
            while self.handle.core.turn() > 0 {}
        }
    }
}
