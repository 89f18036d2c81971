//! What admission says: where the journal stands, who writes, and what became of an entry.

use redoubt_types::{Base, Chain, ClusterId, Db, Epoch, HolderId, Lineage, Offset, RunId, Txid, WallTime};
use std::time::Duration;

/// Where the journal stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// End of the last whole group: what readers follow.
    pub tail: Offset,
    /// Chain at the tail.
    pub tail_chain: Chain,
    /// End of the last admitted byte; beyond the tail while a large group's fragments arrive.
    pub pending_end: Offset,
    /// Chain there.
    pub pending_chain: Chain,
    /// Groups before the tail.
    pub groups: u64,
    /// The database selected at the tail.
    pub db: Db,
}

/// Which server process an epoch promotes, or resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The epoch.
    pub epoch: Epoch,
    /// The process.
    pub run_id: RunId,
    /// The tail at which it is promoted.
    pub at: Offset,
    /// What the server is, such as `redis 7.0.15`.
    pub server: String,
}

/// The newest writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterState {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its process.
    pub holder: HolderId,
    /// Its name, for people.
    pub name: String,
    /// How long its lease lasts from each renewal.
    pub lease: Duration,
    /// It gave the lease back: its epoch is over.
    pub released: bool,
    /// Its wall clock at its newest renewal.
    pub renewed_wall: WallTime,
}

/// Everything that a new writer decides from, as of its claim's own position in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The new epoch.
    pub epoch: Epoch,
    /// The journal's position: final for all earlier epochs.
    pub position: Position,
    /// The lineage.
    pub lineage: Lineage,
    /// The newest session record.
    pub session: Option<Session>,
    /// The writer before.
    pub previous: Option<WriterState>,
}

/// How an admitted payload lies among the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Groups that end in it.
    pub groups: u32,
    /// Txid of the first group that ends in it, or that it is part of.
    pub first_txid: Txid,
    /// The database selected before it.
    pub db: Db,
    /// Whether it begins a group.
    pub at_group_start: bool,
    /// Whether the tail is now at its end.
    pub whole: bool,
}

/// Why an entry of the log is nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The journal has no first entry yet.
    #[error("the journal has not begun")]
    NotBootstrapped,
    /// The journal has begun already, as another one.
    #[error("the journal belongs to cluster {0} already")]
    OtherCluster(ClusterId),
    /// The epoch is not the current one.
    #[error("epoch {asked} is fenced: the current epoch is {current}{}", if *.released { ", given back" } else { "" })]
    Fenced {
        /// The epoch of the entry.
        asked: Epoch,
        /// The current one.
        current: Epoch,
        /// The current one is over as well.
        released: bool,
    },
    /// No writer has that epoch yet.
    #[error("epoch {0} was never granted")]
    NeverGranted(Epoch),
    /// The lease was renewed after the leader decided that it was over.
    #[error("the lease was renewed while the claim was on its way")]
    LeaseRenewed,
    /// The replid is not the one to write under, or the lineage does not take it.
    #[error("{0}")]
    Lineage(String),
    /// Offset or chain is not the pending end, nor is it a retry.
    #[error("the append begins at {start} with chain {chain}; the pending end is {} with chain {}", .at.pending_end, .at.pending_chain)]
    Mismatch {
        /// Where it begins.
        start: Offset,
        /// Its chain before.
        chain: Chain,
        /// Where the journal stands.
        at: Box<Position>,
    },
    /// The payload's checksum is wrong.
    #[error("the payload's CRC-32 is {found:08x}, its writer computed {expected:08x}")]
    Checksum {
        /// As its writer computed it.
        expected: u32,
        /// As it is.
        found: u32,
    },
    /// The payload is neither whole groups nor a fragment of one.
    #[error("the payload is neither whole groups nor a fragment of one: {0}")]
    Framing(String),
    /// The session does not stand at the tail.
    #[error("a session at {at} was recorded where the tail is {tail}")]
    SessionNotAtTail {
        /// Where it was said to be.
        at: Offset,
        /// The tail.
        tail: Offset,
    },
    /// The base can't be the journal's.
    #[error("the base can't be the journal's: {0}")]
    Base(String),
}

/// What became of an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The entry is Raft's own: a new leader's first, or a membership.
    Blank,
    /// Done: genesis, renewal, release, session, lineage or base.
    Done,
    /// Bytes joined the journal.
    Admitted {
        /// Their end.
        end: Offset,
        /// The tail after them.
        tail: Offset,
        /// How they lie.
        frame: Frame,
    },
    /// Bytes that had joined before under the same epoch: the success it was, once more.
    Duplicate {
        /// Their end.
        end: Offset,
        /// The tail.
        tail: Offset,
    },
    /// A new writer.
    Granted(Box<Granted>),
    /// Nothing.
    Refused(Refused),
}

/// All of an [`Admission`] between two groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The cluster.
    pub cluster: ClusterId,
    /// The lineage.
    pub lineage: Lineage,
    /// End of the last group.
    pub tail: Offset,
    /// Chain there.
    pub tail_chain: Chain,
    /// Groups before it.
    pub groups: u64,
    /// The database selected there.
    pub db: Db,
    /// The newest writer.
    pub writer: Option<WriterState>,
    /// The newest session record.
    pub session: Option<Session>,
    /// As of [`Admission::renewals`].
    pub renewals: u64,
    /// What a retry is known by, oldest first.
    pub boundaries: Vec<(Offset, Chain)>,
    /// The journal's base.
    pub base: Option<Base>,
}
