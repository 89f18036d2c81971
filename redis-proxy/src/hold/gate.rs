//! The hold gate: which replies may leave.
//!
//! Decides, for each *batch* of replies, whether the position it depends on is committed and whether it is
//! still of the present (H14). Promises: batches are released in order; none before the journal has committed
//! up to its fence point; none unless this writer was the only one at some moment after its fence was
//! received. Must not know a socket, a task or a clock: times come in as readings.
//!
//! A batch goes open → sealed → fenced → released:
//!
//! ```text
//!  replies ─join─▶ [open] ─seal─▶ [sealed] ─fenced(point, at)─▶ [fenced…] ─▶ released
//!                                 one at most                   committed ≥ point, and sole writer after `at`
//! ```
//!
//! **Sealing comes before the fence is sent, never after.** A fence answers for what was *received* before it
//! was *sent*. Were the batch sealed when the answer arrives, this could happen: the fence is answered at
//! offset 100; another client's INCR runs, its effects end at 130; its reply is read and joins the batch that
//! is still open; the batch is sealed with fence point 100; committed reaches 100; the INCR's reply leaves
//! while its effects are in no journal.

use super::Horizon;
use redoubt_env::planted;
use redoubt_types::limits::HOLD_BATCHES_MAX;
use redoubt_types::{BootTime, Offset};
use std::collections::VecDeque;
use std::fmt;

/// A batch of replies that share one fence. Dense, in the order in which batches were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(u64);

impl BatchId {
    /// The number of batches before this one.
    pub const fn get(self) -> u64 {
        self.0
    }

    const fn next(self) -> Self {
        BatchId(self.0 + 1)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fence that can't be of the session: within one, fence points never go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's offset went back from {last} to {now}")]
pub struct FenceWentBack {
    /// The fence point before.
    pub last: Offset,
    /// This one.
    pub now: Offset,
}

/// A batch that has its fence point and is not released.
#[derive(Clone, Copy, Debug)]
struct Fenced {
    batch: BatchId,
    point: Offset,
    /// When the fence's answer had been received.
    at: BootTime,
}

/// The state of one session's held replies. See the module.
#[derive(Debug)]
pub struct Gate {
    open: BatchId,
    open_joined: bool,
    sealed: Option<BatchId>,
    fenced: VecDeque<Fenced>,
    last_point: Offset,
    horizon: Horizon,
    released_end: BatchId,
}

impl Gate {
    /// The gate of a session that begins when `committed` is committed and the lease lasts until
    /// `lease_until`.
    pub fn new(committed: Offset, lease_until: BootTime) -> Self {
        Gate {
            open: BatchId(0),
            open_joined: false,
            sealed: None,
            fenced: VecDeque::new(),
            last_point: Offset::ZERO,
            horizon: Horizon::new(committed, lease_until),
            released_end: BatchId(0),
        }
    }

    /// Puts replies that were just received into the open batch.
    pub fn join(&mut self) -> BatchId {
        self.open_joined = true;
        self.open
    }

    /// Whether the open batch is empty.
    pub fn open_is_empty(&self) -> bool {
        !self.open_joined
    }

    /// Closes the open batch because its fence is about to be sent. `None` when nothing joined it, or while
    /// another batch waits for its fence. The caller MUST send the fence after this returns (see the module).
    pub fn seal(&mut self) -> Option<BatchId> {
        if self.sealed.is_some() || !self.open_joined {
            return None;
        }
        let batch = self.open;
        self.sealed = Some(batch);
        self.open = batch.next();
        self.open_joined = false;
        Some(batch)
    }

    /// Gives the sealed batch its fence point. `at` is a reading of the clock taken *after* the fence's answer
    /// was received: the rule of H14 counts from there.
    ///
    /// # Errors
    /// When the point is below an earlier one: the session must end.
    ///
    /// # Panics
    /// When `batch` is not the sealed one, which only a bug can cause.
    pub fn fenced(&mut self, batch: BatchId, point: Offset, at: BootTime) -> Result<(), FenceWentBack> {
        assert_eq!(self.sealed, Some(batch), "only the sealed batch may be fenced");
        if point < self.last_point {
            return Err(FenceWentBack {
                last: self.last_point,
                now: point,
            });
        }
        self.sealed = None;
        self.last_point = point;
        let batch = if planted::on("hold_seal_at_answer") {
            // As if sealed only now: what joined since the fence was sent is taken as covered by it.
            let open = self.open;
            (self.open, self.open_joined) = (open.next(), false);
            open
        } else {
            batch
        };
        let newest = Fenced { batch, point, at };
        // The later fence covers the earlier batch too, so taking the two together only delays it.
        if self.fenced.len() >= HOLD_BATCHES_MAX {
            self.fenced.pop_back();
        }
        self.fenced.push_back(newest);
        self.advance();
        Ok(())
    }

    /// The journal has committed everything before `end`.
    pub fn committed(&mut self, end: Offset) {
        self.horizon.commit(end);
        self.advance();
    }

    /// This writer's lease is known to last until `until` (exclusive, its margin taken off).
    ///
    /// A lease is held without a gap from its grant on as far as any renewal of the same epoch reaches: the
    /// renewal would have failed had another writer come between. So a batch whose fence was received before
    /// `until` has such a moment, whether this is learnt before the fence or after it.
    pub fn lease(&mut self, until: BootTime) {
        self.horizon.extend(until);
        self.advance();
    }

    /// A quorum-confirmed round of this epoch that was sent at `sent_at` succeeded. What was fenced before
    /// that is of the present, lease or not: nobody else was writer when the round was decided.
    ///
    /// *Before* is strict: with a coarse clock, an equal reading may be that of a round that was sent first.
    pub fn round(&mut self, sent_at: BootTime) {
        let mut began = sent_at;
        if planted::on("h14_round_any_time") {
            // A round that was under way when the fence came counts too.
            let last = self
                .fenced
                .back()
                .map_or(began, |f| f.at.plus(std::time::Duration::from_nanos(1)));
            began = began.max(last);
        }
        self.horizon.extend(began);
        self.advance();
    }

    /// The end of what is released (exclusive): every batch before it may leave.
    pub fn released_end(&self) -> BatchId {
        self.released_end
    }

    /// What the journal has committed, as far as the gate was told.
    pub fn committed_end(&self) -> Offset {
        self.horizon.committed()
    }

    /// What fence points are compared with.
    pub fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// Releases from the front. A batch whose conditions hold waits for those before it, so that each
    /// client's order is kept; nothing is lost by that, since point and time of a later one are not lower.
    fn advance(&mut self) {
        while let Some(f) = self.fenced.front() {
            if !self.horizon.admits(f.point, f.at) {
                return;
            }
            self.released_end = f.batch.next();
            self.fenced.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
