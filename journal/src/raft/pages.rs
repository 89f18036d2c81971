//! The older parts of the index, for readers that begin in the past.
//!
//! They are not kept but made again, by replaying the log from the checkpoint before what a reader wants up to the next:
//! what is needed for that is verified anyway, and a second copy on disk could only differ. A few are kept in memory, so
//! that readers who are behind together share them; the rest of a journal, however long, takes none.

use super::checkpoint::{Checkpoint, CheckpointEvery};
use super::machine::{JournalState, Machine};
use super::types::entry_from_disk;
use crate::append::{EntryIndex, IndexEntry, Seek};
use crate::segment::{ReadError, Storage};
use redoubt_env::Env;
use redoubt_types::ClusterId;
use redoubt_types::limits::RAFT_BATCH_BYTES_MAX;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pages in memory at most, each of [`CheckpointEvery`] entries: 12 MiB of small entries in all.
const PAGES_MAX: usize = 8;

/// The index between two checkpoints.
#[derive(Debug)]
struct Page {
    index: EntryIndex,
    /// Behind its last place in the log.
    ends_at: u64,
}

impl Page {
    /// What the index of `state` holds: all since the last checkpoint but one.
    fn of(state: &JournalState) -> Self {
        Page {
            index: state.index.clone(),
            ends_at: state.next(),
        }
    }

    /// What `seek` wants of it; none when there is nothing from there on in this page. `None` when another page has it.
    fn read(&self, seek: Seek, most: usize) -> Option<Vec<IndexEntry>> {
        let found = self.index.read(seek, most)?;
        let here = match seek {
            Seek::Log(index) => index < self.ends_at,
            Seek::Offset(_) => !found.is_empty(),
        };
        here.then_some(found)
    }
}

/// Makes pages, and has the last ones in memory.
pub(super) struct Pages {
    env: Env,
    storage: Storage,
    every: CheckpointEvery,
    /// The most recently used in front.
    recent: Mutex<VecDeque<Arc<Page>>>,
    /// One is made at a time: readers that want the same one wait for it.
    making: tokio::sync::Mutex<()>,
}

impl Pages {
    pub(super) fn new(env: Env, storage: Storage, every: CheckpointEvery) -> Self {
        Pages {
            env,
            storage,
            every,
            recent: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    /// The admitted entries of whole groups as `seek` wants them, `most` at the most; none when the journal has none there
    /// yet. `machine` is the state that goes on: its index has what is newest.
    ///
    /// # Errors
    /// When the log can't be read where the index has to be made again from it.
    pub(super) async fn read(
        &self,
        machine: &Machine,
        mut seek: Seek,
        most: usize,
    ) -> Result<Vec<IndexEntry>, ReadError> {
        loop {
            let (end, cluster) = {
                let state = machine.state();
                if let Some(found) = state.index.read(seek, most) {
                    return Ok(found);
                }
                // What is in memory begins at a checkpoint: no group reaches over it.
                (state.index.begins_at(), state.admission.cluster())
            };
            let page = self.page(machine, seek, end, cluster).await?;
            match page.read(seek, most) {
                Some(found) if !found.is_empty() => return Ok(found),
                // Renewals only, up to the next page.
                Some(_) => seek = Seek::Log(page.ends_at),
                None => return Err(ReadError::NotFound { index: page.ends_at }),
            }
        }
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<Page>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, seek: Seek) -> Option<Arc<Page>> {
        let mut recent = self.recent();
        let at = recent.iter().position(|p| p.read(seek, 1).is_some())?;
        let page = recent.remove(at)?;
        recent.push_front(page.clone());
        Some(page)
    }

    async fn page(
        &self,
        machine: &Machine,
        seek: Seek,
        end: u64,
        cluster: Option<ClusterId>,
    ) -> Result<Arc<Page>, ReadError> {
        if let Some(page) = self.find(seek) {
            return Ok(page);
        }
        let _one_at_a_time = self.making.lock().await;
        if let Some(page) = self.find(seek) {
            return Ok(page);
        }
        let page = Arc::new(self.make(machine, seek, end, cluster).await?);
        let mut recent = self.recent();
        recent.push_front(page.clone());
        recent.truncate(PAGES_MAX);
        Ok(page)
    }

    /// The state at the newest checkpoint before what `seek` wants, or where the log begins.
    fn state_before(
        &self,
        machine: &Machine,
        seek: Seek,
        cluster: Option<ClusterId>,
    ) -> Result<JournalState, ReadError> {
        let checkpoint = cluster.and_then(|c| Checkpoint::before(&self.storage, seek, c));
        if checkpoint.is_some() {
            return Ok(JournalState::from(checkpoint, self.every, &self.env));
        }
        let Some(trimmed) = self.storage.trimmed() else {
            return Ok(JournalState::from(None, self.every, &self.env));
        };
        // It may be about to begin later: then a reader of what goes finds out at the next step.
        let beginning = machine.beginning().filter(|b| {
            b.applied.index == trimmed.index
                && match seek {
                    Seek::Log(index) => index > trimmed.index,
                    Seek::Offset(offset) => offset >= b.standing.tail,
                }
        });
        let beginning = beginning.ok_or(ReadError::NotFound { index: trimmed.index })?;
        Ok(JournalState::from(
            Some(Checkpoint::clone(&beginning)),
            self.every,
            &self.env,
        ))
    }

    /// The state before entry `index`.
    ///
    /// # Errors
    /// When the log can't be read up to there, or does not reach back to it.
    pub(super) async fn state_at(&self, machine: &Machine, index: u64) -> Result<JournalState, ReadError> {
        let cluster = machine.state().admission.cluster();
        let mut state = self.state_before(machine, Seek::Log(index), cluster)?;
        while state.next() < index {
            let next = state.next();
            let unreadable = |e: io::Error| ReadError::Io {
                index: next,
                message: e.to_string(),
            };
            let records = self
                .storage
                .read(next, index, RAFT_BATCH_BYTES_MAX as u64)
                .await?;
            for record in records {
                let entry = entry_from_disk(record).map_err(unreadable)?;
                state.apply(&entry, &self.env).map_err(unreadable)?;
            }
        }
        Ok(state)
    }

    /// Replays the log from the newest checkpoint before what `seek` wants, up to `end` at most. Checkpoints that are missing
    /// on the way are made again.
    async fn make(
        &self,
        machine: &Machine,
        seek: Seek,
        end: u64,
        cluster: Option<ClusterId>,
    ) -> Result<Page, ReadError> {
        let mut state = self.state_before(machine, seek, cluster)?;
        while state.next() < end {
            let next = state.next();
            let unreadable = |e: io::Error| ReadError::Io {
                index: next,
                message: e.to_string(),
            };
            let left = state.until_checkpoint();
            let end = end.min(next.saturating_add(left.entries));
            let bytes = left.bytes.min(RAFT_BATCH_BYTES_MAX as u64);
            for record in self.storage.read(next, end, bytes).await? {
                let entry = entry_from_disk(record).map_err(unreadable)?;
                state.apply(&entry, &self.env).map_err(unreadable)?;
                let Some(checkpoint) = state.checkpoint() else {
                    continue;
                };
                let page = Page::of(&state);
                if page.read(seek, 1).is_some() {
                    return Ok(page);
                }
                checkpoint.keep(&self.storage);
            }
        }
        Ok(Page::of(&state))
    }
}
