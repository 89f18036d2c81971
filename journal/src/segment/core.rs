//! The ordered queue from submission to completion, and the one thread of control that works it off.
//!
//! Promises that answers come in the order of submission, each after everything before it is durable, and
//! that the first failed write or sync is the last: all later operations fail with it.

use super::beginning::Beginning;
use super::end::END;
use super::error::Failure;
use super::format::SEGMENT_HEADER_BYTES;
use super::held::{Held, Hold};
use super::layout;
use super::metadata::{KeyValue, Metadata};
use super::model::{Identity, LogId, LogRecord, Options, Vote};
use super::open;
use super::persisted::{encode_identity, encode_vote};
use super::scrub::{Known, Rot};
use super::slots::Slots;
use super::slow::SyncTimes;
use super::space::Space;
use super::state::{Shared, lock};
use super::summary;
use super::tally::DiskTally;
use super::writer::Writer;
use redoubt_env::files::Files;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Called once, when what it was submitted with is durable or has failed. Must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A submitted operation.
pub(crate) enum Op {
    Append {
        records: Vec<LogRecord>,
        last_number: u64,
        done: Done,
    },
    Truncate {
        first_removed: u64,
        done: Done,
    },
    /// Has the log begin behind a record.
    Begin {
        trimmed: LogId,
        state: Vec<u8>,
        done: Done,
    },
    Vote(Vote, Done),
    Identity(Box<Identity>, Done),
    Committed {
        end: u64,
    },
    /// Put into the metadata: it can be rebuilt.
    Keep {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Forget {
        key: Vec<u8>,
    },
    /// Has the copies in the two-slot files compared, and hears of those that were mended.
    CheckSlots(Box<dyn FnOnce(Vec<&'static str>) + Send>),
    Close(Done),
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    /// The last handle was dropped: nothing more is worked off, as in a crash.
    abandoned: bool,
}

/// What the working thread alone touches.
pub(crate) struct Io {
    pub(crate) writer: Writer,
    pub(crate) vote: Slots,
    pub(crate) identity: Slots,
    pub(crate) metadata: Arc<dyn Metadata>,
    /// Let go when the storage is closed; the last to go, so that whoever gets the directory then finds all else let go.
    pub(crate) hold: Hold,
}

/// The queue, its worker's state, and the log as it reads.
pub(crate) struct Core {
    queue: Mutex<Queue>,
    wake: Condvar,
    io: Mutex<Option<Io>>,
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) known: Arc<Known>,
    pub(crate) space: Arc<Space>,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) held: Held,
    /// Held while editlogs are merged, or what was trimmed is removed.
    pub(crate) merging: Mutex<()>,
    /// No file of a segment before this one is left.
    pub(crate) removed_before: AtomicU32,
    pub(crate) sync_times: Arc<Mutex<SyncTimes>>,
    /// Nothing is written any more, and the directory may be another's.
    closed: AtomicBool,
    pub(crate) failed: watch::Sender<Option<Failure>>,
    /// The first damage that was found since the directory was opened.
    pub(crate) rot: watch::Sender<Option<Rot>>,
    pub(crate) tally: Mutex<DiskTally>,
    pub(crate) options: Options,
    pub(crate) dir: PathBuf,
    /// Weak: whoever closed the storage may open the metadata again.
    metadata: Weak<dyn Metadata>,
}

/// How old what the file beside the log says may be. It costs two syncs.
const TESTIFY_EVERY: Duration = Duration::from_secs(1);

type Answer = (Done, Result<(), Failure>);

impl Core {
    pub(crate) fn new(
        io: Io,
        shared: Arc<Mutex<Shared>>,
        known: Known,
        space: Arc<Space>,
        files: Arc<dyn Files>,
        options: Options,
        dir: PathBuf,
    ) -> Self {
        let first_segment = lock(&shared).first_segment;
        Core {
            metadata: Arc::downgrade(&io.metadata),
            held: io.hold.handle(),
            merging: Mutex::default(),
            // What an opening leaves of earlier ones it removes itself.
            removed_before: AtomicU32::new(first_segment),
            sync_times: io.writer.sync_times(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            io: Mutex::new(Some(io)),
            shared,
            known: Arc::new(known),
            space,
            files,
            closed: AtomicBool::new(false),
            failed: watch::Sender::new(None),
            rot: watch::Sender::new(None),
            tally: Mutex::default(),
            options,
            dir,
        }
    }

    /// The last of the keys from `from` to `to` in the metadata, and its value, if it can be read.
    pub(crate) fn kept(&self, from: &[u8], to: &[u8]) -> Option<KeyValue> {
        let kept = self.metadata.upgrade()?.last_between(from, to);
        kept.unwrap_or_else(|error| {
            tracing::warn!(%error, "the metadata can't be read: what it lacks is rebuilt");
            None
        })
    }

    /// Where the damage is that was met in reading `index`.
    pub(crate) fn rot_at(&self, index: u64) -> Option<Rot> {
        let (place, ..) = lock(&self.shared).find(index)?;
        let lies = layout::find(&self.shared, &self.dir, place.at.segment);
        let offset = place.at.offset.max(SEGMENT_HEADER_BYTES);
        Some(Rot::at(&lies, place.at.segment, offset))
    }

    /// Notes damage: the summary of its segment is forgotten, so that the next opening reads all of it, and repairs it.
    pub(crate) fn found(&self, rot: &Rot) {
        let noted = match (rot.segment, self.metadata.upgrade()) {
            (Some(segment), Some(metadata)) => metadata.remove(&summary::key(segment)),
            _ => Ok(()),
        };
        let (path, offset) = (rot.path.display(), rot.offset);
        match noted {
            Ok(()) => tracing::error!(%path, offset, "what was durable can't be read any more"),
            Err(error) => {
                tracing::error!(%path, offset, %error, "what was durable can't be read any more, and that can't be noted")
            }
        }
        lock(&self.tally).rot_met += 1;
        keep_first(&self.rot, rot.clone());
    }

    pub(crate) fn submit(&self, op: Op) {
        lock(&self.queue).ops.push_back(op);
        self.wake.notify_one();
        self.fail_if_closed();
    }

    /// Answers what comes after the end. The end is noted before the queue is looked through a last time: whatever was put
    /// in after that look finds it noted.
    fn fail_if_closed(&self) {
        if self.is_closed() {
            while self.turn() > 0 {}
        }
    }

    /// Submits what `make` makes of the log, so that operations are queued in the order in which they changed
    /// the log.
    pub(crate) fn submit_with(&self, make: impl FnOnce(&mut Shared) -> Op) {
        let mut queue = lock(&self.queue);
        let op = make(&mut lock(&self.shared));
        queue.ops.push_back(op);
        drop(queue);
        self.wake.notify_one();
        self.fail_if_closed();
    }

    /// Whether the storage was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Stops the worker after what it is doing.
    pub(crate) fn abandon(&self) {
        lock(&self.queue).abandoned = true;
        self.wake.notify_one();
    }

    /// The worker: returns once the storage is closed or abandoned.
    pub(crate) fn run(&self) {
        while self.wait() {
            if self.turn() == 0 {
                self.idle();
            }
            self.testify(TESTIFY_EVERY);
        }
        lock(&self.io).take();
        self.closed.store(true, Ordering::SeqCst);
        self.fail_if_closed();
    }

    /// Waits for an operation, or until the log was quiet for so long that it wants a mark, or to be testified to. `false`
    /// when it is over.
    fn wait(&self) -> bool {
        let quiet_for = match &*lock(&self.io) {
            None => return false,
            Some(_) if self.failed.borrow().is_some() => None,
            Some(io) if io.writer.wants_mark() => Some(self.options.idle_after),
            Some(io) if io.writer.wants_witness() => Some(TESTIFY_EVERY),
            Some(_) => None,
        };
        let mut queue = lock(&self.queue);
        while queue.ops.is_empty() && !queue.abandoned {
            if let Some(quiet_for) = quiet_for {
                let waited = self.wake.wait_timeout(queue, quiet_for);
                let (q, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                if timeout.timed_out() {
                    return !q.abandoned;
                }
                queue = q;
            } else {
                queue = self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
        !queue.abandoned
    }

    /// Works off what is queued, one batch of it at most; returns the number of operations.
    pub(crate) fn turn(&self) -> usize {
        let mut io = lock(&self.io);
        let ops = self.take_batch();
        let count = ops.len();
        let mut turn = Turn {
            core: self,
            waiting: Vec::new(),
            answers: Vec::new(),
            number: 0,
        };
        for op in ops {
            turn.op(&mut io, op);
        }
        if let Some(open) = io.as_mut() {
            turn.settle(&mut open.writer);
        }
        let answers = turn.answers;
        // Answered without the lock: whoever is answered may submit again.
        drop(io);
        for (done, result) in answers {
            done(result.map_err(io::Error::from));
        }
        count
    }

    /// Marks the log durable up to its end, unless it is marked already.
    pub(crate) fn idle(&self) {
        self.unless_failed(|io| io.writer.mark());
    }

    /// Has the file beside the log say how far it is, if it says less and has for `at_least`. Under load too, and on a log that
    /// is never quiet because a lease is renewed: what was written since the file said so would be missed by nobody if its file
    /// were cut short.
    pub(crate) fn testify(&self, at_least: Duration) {
        self.unless_failed(|io| match io.writer.testimony_is_due(at_least) {
            true => io.writer.testify(),
            false => Ok(()),
        });
    }

    fn unless_failed(&self, write: impl FnOnce(&mut Io) -> Result<(), Failure>) {
        if self.failed.borrow().is_none()
            && let Some(io) = lock(&self.io).as_mut()
            && let Err(failure) = write(io)
        {
            self.fail(failure);
        }
    }

    fn take_batch(&self) -> Vec<Op> {
        let mut queue = lock(&self.queue);
        let mut bytes = 0;
        let mut ops = Vec::new();
        while bytes < self.options.batch_bytes {
            let Some(op) = queue.ops.pop_front() else { break };
            if let Op::Append { records, .. } = &op {
                bytes += records.iter().map(|r| r.payload.len() as u64).sum::<u64>();
            }
            ops.push(op);
        }
        ops
    }

    pub(crate) fn fail(&self, failure: Failure) {
        tracing::error!(%failure, "storage failed");
        keep_first(&self.failed, failure);
    }

    fn closed(&self) -> Failure {
        Failure {
            verb: "write to",
            path: self.dir.clone(),
            message: "the storage was closed".to_owned(),
            kind: io::ErrorKind::BrokenPipe,
        }
    }
}

/// Tells `value`, unless something was told before.
fn keep_first<T>(told: &watch::Sender<Option<T>>, value: T) {
    told.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(value);
        is_first
    });
}

/// One batch being worked off.
struct Turn<'a> {
    core: &'a Core,
    /// Wait for the next sync.
    waiting: Vec<Done>,
    answers: Vec<Answer>,
    /// Number of the last record staged.
    number: u64,
}

impl Turn<'_> {
    fn op(&mut self, slot: &mut Option<Io>, op: Op) {
        let failed = self.core.failed.borrow().clone();
        let (Some(io), None) = (slot.as_mut(), &failed) else {
            let failure = failed.unwrap_or_else(|| self.core.closed());
            if let Some(done) = op.done() {
                self.answers.push((done, Err(failure)));
            }
            return;
        };
        match op {
            Op::Append {
                records,
                last_number,
                done,
            } => {
                self.waiting.push(done);
                for record in &records {
                    if let Err(failure) = io.writer.append(record) {
                        return self.fail(failure);
                    }
                    if io.writer.batch_bytes() >= self.core.options.batch_bytes
                        && let Err(failure) = io.writer.flush()
                    {
                        return self.fail(failure);
                    }
                }
                self.number = last_number;
            }
            Op::Truncate { first_removed, done } => {
                io.writer.truncate(first_removed);
                self.waiting.push(done);
            }
            Op::Begin { trimmed, state, done } => self.begin(io, trimmed, state, done),
            Op::Committed { end } => io.writer.set_committed(end),
            Op::Keep { key, value } => {
                if let Err(error) = io.metadata.put(&key, &value) {
                    tracing::warn!(%error, "the metadata can't be written: what it lacks is rebuilt");
                }
            }
            Op::Forget { key } => {
                if let Err(error) = io.metadata.remove(&key) {
                    tracing::warn!(%error, "the metadata can't be written: what it has too much takes room");
                }
            }
            Op::Vote(vote, done) => self.slots(io, done, |io| io.vote.save(&encode_vote(Some(vote)))),
            Op::Identity(identity, done) => {
                self.slots(io, done, |io| io.identity.save(&encode_identity(&identity)));
            }
            Op::CheckSlots(answer) => self.check_slots(io, answer),
            Op::Close(done) => self.close(slot, done),
        }
    }

    /// A slot file is written only after everything submitted before it is durable.
    fn slots(&mut self, io: &mut Io, done: Done, save: impl FnOnce(&mut Io) -> Result<(), Failure>) {
        self.settle(&mut io.writer);
        self.waiting.push(done);
        if self.core.failed.borrow().is_some() {
            return self.settle(&mut io.writer);
        }
        match save(io) {
            Ok(()) => self.settle(&mut io.writer),
            Err(failure) => self.fail(failure),
        }
    }

    /// Has the log begin behind `trimmed`, in the last file that holds no later record than the one behind it as its first; in a new
    /// one, when it holds no later record at all.
    ///
    /// The order matters: the beginning is durable before readers, and whoever removes files, are told (`every_call_may_fail…`).
    fn begin(&mut self, io: &mut Io, trimmed: LogId, state: Vec<u8>, done: Done) {
        self.settle(&mut io.writer);
        self.waiting.push(done);
        if self.core.failed.borrow().is_none() {
            let begun = self.begun(io, trimmed, state);
            if let Err(failure) = begun {
                return self.fail(failure);
            }
        }
        self.settle(&mut io.writer);
    }

    fn begun(&mut self, io: &mut Io, trimmed: LogId, state: Vec<u8>) -> Result<(), Failure> {
        let core = self.core;
        let next = trimmed.index + 1;
        let goes_on = lock(&core.shared).ids.end > next;
        let anew = match goes_on {
            true => None,
            false => Some(io.writer.begin_anew(next)?),
        };
        let (changes, durable) = (io.writer.take_changes(), io.writer.durable());
        lock(&core.shared).written(changes, self.number, durable, core.options.cache_bytes);
        // As one change: no file may be merged over the place where the log is cut (`Merge::make` looks whether it was).
        let begin = || {
            let segment = anew.unwrap_or_else(|| lock(&core.shared).start_before(next));
            let beginning = Beginning {
                segment,
                trimmed,
                state,
            };
            if !lock(&core.shared).can_begin_behind(trimmed) {
                let what = format!("{trimmed:?} is not a record of it");
                return Err(Failure::new("trim the log in", &core.dir)(io::Error::other(what)));
            }
            if !redoubt_env::planted::on("trimmed_without_a_beginning") {
                beginning.publish(&*core.files, &core.dir)?;
            }
            lock(&core.shared).trim(segment, trimmed);
            Ok(())
        };
        core.held.change(begin).unwrap_or_else(|| Err(core.closed()))
    }

    fn check_slots(&mut self, io: &mut Io, answer: Box<dyn FnOnce(Vec<&'static str>) + Send>) {
        let mut mended = Vec::new();
        for (name, slots) in [(open::VOTE, &mut io.vote), (open::IDENTITY, &mut io.identity)] {
            match slots.mend() {
                Ok(true) => mended.push(name),
                Ok(false) => {}
                Err(failure) => return self.fail(failure),
            }
        }
        match io.writer.mend_end() {
            Ok(true) => mended.push(END),
            Ok(false) => {}
            Err(failure) => return self.fail(failure),
        }
        answer(mended);
    }

    fn close(&mut self, slot: &mut Option<Io>, done: Done) {
        if let Some(io) = slot.as_mut() {
            self.settle(&mut io.writer);
            if self.core.failed.borrow().is_none()
                && let Err(failure) = io.writer.mark().and_then(|()| io.writer.testify())
            {
                self.fail(failure);
            }
            if let Err(error) = io.metadata.flush() {
                tracing::warn!(%error, "could not flush the metadata: what it lacks is rebuilt");
            }
        }
        *slot = None;
        self.core.closed.store(true, Ordering::SeqCst);
        let result = self.core.failed.borrow().clone().map_or(Ok(()), Err);
        self.answers.push((done, result));
    }

    /// Makes the batch durable and answers all that waits for it.
    fn settle(&mut self, writer: &mut Writer) {
        if self.core.failed.borrow().is_none() {
            match writer.flush() {
                Ok(()) => {
                    let changes = writer.take_changes();
                    let cache_bytes = self.core.options.cache_bytes;
                    lock(&self.core.shared).written(changes, self.number, writer.durable(), cache_bytes);
                }
                Err(failure) => self.core.fail(failure),
            }
        }
        let result = self.core.failed.borrow().clone().map_or(Ok(()), Err);
        self.answers
            .extend(self.waiting.drain(..).map(|done| (done, result.clone())));
    }

    fn fail(&mut self, failure: Failure) {
        self.core.fail(failure.clone());
        self.answers
            .extend(self.waiting.drain(..).map(|done| (done, Err(failure.clone()))));
    }
}

impl Op {
    fn done(self) -> Option<Done> {
        match self {
            Op::Append { done, .. } | Op::Truncate { done, .. } | Op::Begin { done, .. } => Some(done),
            Op::Vote(_, done) | Op::Identity(_, done) | Op::Close(done) => Some(done),
            Op::Committed { .. } | Op::Keep { .. } | Op::Forget { .. } | Op::CheckSlots(_) => None,
        }
    }
}
