//! The state machine under openraft: admission in log order, the offset index, and the leader's lease clock.

use super::checkpoint::{Checkpoint, CheckpointEvery};
use super::types::{Entry, LogId, StoredMembership, TypeConfig, log_id_to_disk};
use crate::append::{Admission, Command, EntryIndex, IndexEntry, LeaseKeeper, Verdict};
use crate::segment::Storage;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend};
use redoubt_env::Env;
use redoubt_types::Offset;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// What the log has made of the journal so far on this node.
#[derive(Debug)]
pub struct JournalState {
    /// Position, writer, session, lineage.
    pub admission: Admission,
    /// Where the newest bytes lie: all since the checkpoint before the last. What is older, [`super::pages`] knows.
    pub index: EntryIndex,
    /// When renewals were applied.
    pub lease: LeaseKeeper,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    every: CheckpointEvery,
    /// What was applied since the last checkpoint.
    since: CheckpointEvery,
    /// The place behind the last checkpoint, and the tail there.
    checkpointed: (u64, Offset),
    /// Where the log begins.
    pub(super) beginning: Offset,
}

impl JournalState {
    /// The state at a checkpoint, or before the first entry.
    pub(super) fn from(checkpoint: Option<Checkpoint>, every: CheckpointEvery, env: &Env) -> Self {
        let beginning = JournalState {
            admission: Admission::new(),
            index: EntryIndex::default(),
            lease: LeaseKeeper::default(),
            applied: None,
            membership: StoredMembership::default(),
            every,
            since: CheckpointEvery { entries: 0, bytes: 0 },
            checkpointed: (0, Offset::ZERO),
            beginning: Offset::ZERO,
        };
        let Some(checkpoint) = checkpoint else {
            return beginning;
        };
        let tail = checkpoint.standing.tail;
        let next = checkpoint.applied.index + 1;
        let mut state = JournalState {
            admission: checkpoint.standing.into(),
            index: EntryIndex::beginning_at(next, tail),
            applied: Some(checkpoint.applied),
            membership: checkpoint.membership,
            checkpointed: (next, tail),
            ..beginning
        };
        // As if the entry were applied now: whoever counts the lease from here counts it too long, never too short (H14).
        let term = checkpoint.applied.leader_id.term;
        state
            .lease
            .on_applied(term, state.admission.renewals(), env.now());
        state
    }

    /// The first offset that this node's log holds.
    pub fn beginning(&self) -> Offset {
        self.beginning
    }

    /// The place of the entry that comes next.
    pub(super) fn next(&self) -> u64 {
        self.applied.map_or(0, |id| id.index + 1)
    }

    pub(super) fn apply(&mut self, entry: &Entry, env: &Env) -> io::Result<Verdict> {
        // A gap would make this node's journal another one than its peers', for ever: better no node than that.
        let (index, next) = (entry.log_id.index, self.next());
        if index != next {
            return Err(io::Error::other(format!(
                "entry {index} was to be applied where {next} comes next"
            )));
        }
        self.since.entries += 1;
        let verdict = match &entry.payload {
            EntryPayload::Blank => Verdict::Blank,
            EntryPayload::Membership(m) => {
                self.membership = StoredMembership::new(Some(entry.log_id), m.clone());
                Verdict::Blank
            }
            EntryPayload::Normal(data) => {
                self.since.bytes += data.0.len() as u64;
                let start = self.admission.position().pending_end;
                let command = Command::decode(&data.0).map_err(io::Error::other)?;
                let verdict = self.admission.apply(&command);
                self.follow(&verdict, start, entry.log_id.index);
                verdict
            }
        };
        self.applied = Some(entry.log_id);
        self.lease
            .on_applied(entry.log_id.leader_id.term, self.admission.renewals(), env.now());
        Ok(verdict)
    }

    /// What is to be applied before the next checkpoint is due; 1 and 1 at least.
    pub(super) fn until_checkpoint(&self) -> CheckpointEvery {
        CheckpointEvery {
            entries: self.every.entries.saturating_sub(self.since.entries).max(1),
            bytes: self.every.bytes.saturating_sub(self.since.bytes).max(1),
        }
    }

    /// A checkpoint of the state as it is now, if enough was applied since the last one. Inside a group there is none: its
    /// fragments would be cut off from it (H3).
    pub(super) fn checkpoint(&mut self) -> Option<Checkpoint> {
        if self.since.entries < self.every.entries && self.since.bytes < self.every.bytes {
            return None;
        }
        let checkpoint = Checkpoint {
            applied: self.applied?,
            membership: self.membership.clone(),
            standing: self.admission.standing()?,
        };
        let (index, tail) = self.checkpointed;
        self.index.forget_before(index, tail);
        self.checkpointed = (self.next(), checkpoint.standing.tail);
        self.since = CheckpointEvery { entries: 0, bytes: 0 };
        Some(checkpoint)
    }

    fn follow(&mut self, verdict: &Verdict, start: Offset, log_index: u64) {
        match verdict {
            Verdict::Admitted { frame, tail, .. } => self.index.push(
                IndexEntry {
                    start,
                    log_index,
                    first_txid: frame.first_txid,
                    groups: frame.groups,
                    db: frame.db,
                    at_group_start: frame.at_group_start,
                },
                (frame.whole || redoubt_env::planted::on("h03_serve_fragments")).then_some(*tail),
            ),
            Verdict::Granted(_) => self.index.discard_pending(),
            _ => {}
        }
    }

    /// Term of the last applied entry.
    pub(super) fn applied_term(&self) -> Option<u64> {
        self.applied.map(|id| id.leader_id.term)
    }
}

/// What tails wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The journal's tail on this node.
    pub tail: Offset,
    /// How many replids the lineage has.
    pub replids: usize,
    /// Index of the last applied entry, exclusive end.
    pub(super) applied_end: u64,
}

/// The state, shared by the machine, which writes, and the servers, which read.
#[derive(Clone)]
pub(super) struct Machine {
    state: Arc<Mutex<JournalState>>,
    progress: watch::Sender<Progress>,
    snapshots: Arc<Mutex<Snapshots>>,
    /// Keeps the checkpoints.
    storage: Storage,
    env: Env,
}

impl Machine {
    /// Goes on from `state`; the log begins behind `beginning`.
    pub(super) fn new(
        env: Env,
        storage: Storage,
        mut state: JournalState,
        beginning: Option<Checkpoint>,
    ) -> Self {
        state.beginning = beginning.as_ref().map_or(Offset::ZERO, |b| b.standing.tail);
        let begins = beginning.map(Arc::new);
        let snapshots = Snapshots {
            current: begins.clone(),
            begins,
            next: None,
        };
        let machine = Machine {
            snapshots: Arc::new(Mutex::new(snapshots)),
            state: Arc::new(Mutex::new(state)),
            progress: watch::Sender::new(Progress::default()),
            storage,
            env,
        };
        machine.publish();
        machine
    }

    /// The state. Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Applies the next entry of the log.
    pub(super) fn step(&self, entry: &Entry) -> io::Result<Verdict> {
        let (verdict, checkpoint) = {
            let mut state = self.state();
            (state.apply(entry, &self.env)?, state.checkpoint())
        };
        if let Some(checkpoint) = checkpoint {
            checkpoint.keep(&self.storage);
        }
        Ok(verdict)
    }

    fn publish(&self) {
        let progress = {
            let state = self.state();
            Progress {
                tail: state.admission.position().tail,
                replids: state.admission.lineage().map_or(0, |l| l.len()),
                applied_end: state.next(),
            }
        };
        self.progress
            .send_if_modified(|p| std::mem::replace(p, progress) != progress);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Arc<Checkpoint>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let verdict = self.step(&entry)?;
            if let Some(responder) = responder {
                responder.send(verdict);
            }
        }
        self.publish();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(Builder(self.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.clone())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: Arc<Checkpoint>,
    ) -> Result<(), io::Error> {
        // Durable before the state is another one: what is answered from then on must be there after a crash.
        begin_behind(&self.storage, &snapshot).await?;
        let every = self.state().every;
        let mut state = JournalState::from(Some(Checkpoint::clone(&snapshot)), every, &self.env);
        state.beginning = snapshot.standing.tail;
        *self.state() = state;
        {
            let mut snapshots = self.snapshots();
            snapshots.current = Some(snapshot.clone());
            snapshots.begins = Some(snapshot);
        }
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, Arc<Checkpoint>>>, io::Error> {
        Ok(self.snapshots().current.clone().map(snapshot_of))
    }
}

/// What the log begins behind: the state that it had made up to there. It is small, and all that a node needs which lacks that part of
/// the log, besides the base that everything since then is about, which it gets by itself.
#[derive(Debug, Default)]
struct Snapshots {
    begins: Option<Arc<Checkpoint>>,
    /// That, or what was built since and what it begins behind soon.
    current: Option<Arc<Checkpoint>>,
    /// What is built next.
    next: Option<Arc<Checkpoint>>,
}

pub(super) fn snapshot_of(checkpoint: Arc<Checkpoint>) -> SnapshotOf<TypeConfig, Arc<Checkpoint>> {
    SnapshotOf::<TypeConfig, Arc<Checkpoint>> {
        meta: SnapshotMetaOf::<TypeConfig> {
            last_log_id: Some(checkpoint.applied),
            last_membership: checkpoint.membership.clone(),
        },
        snapshot: checkpoint,
    }
}

async fn begin_behind(storage: &Storage, checkpoint: &Checkpoint) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    let done = Box::new(move |result| drop(tx.send(result)));
    storage.begin_behind(log_id_to_disk(&checkpoint.applied), checkpoint.encode(), done);
    rx.await
        .unwrap_or_else(|_| Err(io::Error::other("the storage thread has ended")))?;
    Checkpoint::forget_before(storage, checkpoint.applied.index);
    Ok(())
}

impl Machine {
    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the log begins behind.
    pub(super) fn beginning(&self) -> Option<Arc<Checkpoint>> {
        self.snapshots().begins.clone()
    }

    /// The next snapshot that is built is this one: the log is to begin behind it.
    pub(super) fn prepare(&self, checkpoint: Checkpoint) {
        self.snapshots().next = Some(Arc::new(checkpoint));
    }

    /// Has the log begin behind `upto`, of which a snapshot was built.
    ///
    /// # Errors
    /// When there is none of it, or it can't be made durable.
    pub(super) async fn trim(&self, upto: LogId) -> io::Result<()> {
        if self.storage.trimmed().is_some_and(|id| id.index >= upto.index) {
            return Ok(());
        }
        let current = self.snapshots().current.clone().filter(|c| c.applied == upto);
        let Some(checkpoint) = current else {
            return Err(io::Error::other(format!(
                "the log was to be trimmed up to {upto}, of which there is no snapshot"
            )));
        };
        begin_behind(&self.storage, &checkpoint).await?;
        self.state().beginning = checkpoint.standing.tail;
        self.snapshots().begins = Some(checkpoint);
        Ok(())
    }
}

/// Builds what was prepared; else what there was is built again.
pub(super) struct Builder(Machine);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Arc<Checkpoint>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Arc<Checkpoint>>, io::Error> {
        let mut snapshots = self.0.snapshots();
        if let Some(next) = snapshots.next.take() {
            snapshots.current = Some(next);
        }
        let current = snapshots.current.clone();
        drop(snapshots);
        let current = current.ok_or_else(|| {
            io::Error::other("a snapshot was asked for, but the log begins with its first entry")
        })?;
        Ok(snapshot_of(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{blank, log_id};

    #[test]
    fn h07_an_entry_behind_a_gap_is_never_applied() {
        let env = Env::real();
        let mut state = JournalState::from(None, CheckpointEvery::default(), &env);
        assert!(
            state.apply(&blank(1), &env).is_err(),
            "the first entry is missing"
        );
        for index in 0..3 {
            assert!(state.apply(&blank(index), &env).is_ok());
        }
        for index in [2, 4] {
            assert!(state.apply(&blank(index), &env).is_err(), "{index}");
        }
        assert_eq!(state.applied, Some(log_id(1, 2)));
    }
}
