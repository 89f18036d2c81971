//! openraft's log storage over the segments. The vote, the log and their order are the I/O thread's; openraft
//! sees completions.

use super::machine::Machine;
use super::types::{
    Entry, LogId, TypeConfig, Vote, entry_from_disk, entry_to_disk, log_id_from_disk, log_id_to_disk,
    vote_of, vote_to_disk,
};
use crate::segment::{ReadError, Recovered, Storage};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use redoubt_types::limits::RAFT_BATCH_BYTES_MAX;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The log as openraft sees it; clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    storage: Storage,
    vote: Arc<Mutex<Option<Vote>>>,
    committed: Option<LogId>,
    machine: Machine,
}

impl LogStore {
    pub(super) fn new(storage: Storage, recovered: &Recovered, machine: Machine) -> Self {
        let vote = recovered.vote.map(|v| vote_of(v.term, v.node, v.committed));
        let committed = recovered.committed.as_ref().map(log_id_from_disk);
        LogStore {
            storage,
            vote: Arc::new(Mutex::new(vote)),
            committed,
            machine,
        }
    }

    async fn read(&self, start: u64, end: u64, max_bytes: u64) -> io::Result<Vec<Entry>> {
        let records = self
            .storage
            .read(start, end, max_bytes)
            .await
            .map_err(read_error)?;
        records.into_iter().map(entry_from_disk).collect()
    }

    /// Waits until the I/O thread has done what `submit` gave it.
    async fn completed(submit: impl FnOnce(crate::segment::Done)) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        submit(Box::new(move |result| {
            // A receiver that is gone was dropped with the whole node.
            let _ = tx.send(result);
        }));
        rx.await
            .unwrap_or_else(|_| Err(io::Error::other("the storage thread has ended")))
    }
}

fn read_error(e: ReadError) -> io::Error {
    io::Error::other(e)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => n + 1,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => self.storage.last_log_id().map_or(0, |id| id.index + 1),
        };
        if start >= end {
            return Ok(Vec::new());
        }
        // What openraft asks for here it takes for the whole range. A damaged record must not cut it short: a
        // state machine that went on behind the gap would decide otherwise than its peers.
        let end = end.min(self.storage.last_log_id().map_or(0, |id| id.index + 1));
        let entries = self.read(start, end, u64::MAX).await?;
        let read_end = start + entries.len() as u64;
        if read_end < end {
            // Asked for alone, the record that ended the read says what is wrong with it.
            self.read(read_end, read_end + 1, u64::MAX).await?;
            return Err(io::Error::other(format!(
                "the log was read up to {read_end} only, not {end}"
            )));
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.vote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, RAFT_BATCH_BYTES_MAX as u64).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_log_id = self.storage.last_log_id().as_ref().map(log_id_from_disk);
        Ok(LogState {
            last_purged_log_id: self.storage.trimmed().as_ref().map(log_id_from_disk),
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let on_disk = vote_to_disk(vote);
        Self::completed(|done| self.storage.save_vote(on_disk, done)).await?;
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = &committed {
            self.storage.save_committed(log_id_to_disk(id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // The mark may be older than what was committed, never newer (H8): what it misses is learnt from a leader.
        Ok(self.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(|e| entry_to_disk(&e)).collect();
        self.storage
            .append(records, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last_kept = last_log_id.map(|id| id.index);
        Self::completed(|done| self.storage.truncate_after(last_kept, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // Only what a snapshot covers is purged, and one is built only of what a base covers (`trim.rs`).
        self.machine.trim(log_id).await
    }
}
