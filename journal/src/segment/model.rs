//! What a journal node stores, in plain numbers: the consensus library is not known here.

use bytes::Bytes;
use redoubt_types::{ClusterId, NodeId, ReplId};
use std::time::Duration;

/// The identity of a log record. Terms never fall from one record to the next; indexes are dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term it was proposed in.
    pub term: u64,
    /// The node that proposed it.
    pub leader: u64,
    /// Its place in the log.
    pub index: u64,
}

/// What a record is to consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Without content: a new leader's first record.
    Blank,
    /// An entry of the application.
    Normal,
    /// A change of the group's membership.
    Membership,
}

/// One record of the log. Cloning shares the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its identity.
    pub id: LogId,
    /// What it is.
    pub kind: RecordKind,
    /// Its content, opaque here; [`PAYLOAD_BYTES_MAX`] at most.
    pub payload: Bytes,
}

/// Payload of one record at most, bytes: four times what a node decodes from the network, so that only a bug
/// can exceed it, and small enough that a damaged length never makes a reader allocate without bound.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A vote, or a term that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The node voted for; 0 stands for none.
    pub node: u64,
    /// Whether a majority is known to have granted it.
    pub committed: bool,
}

/// One node of the first membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedMember {
    /// Its incarnation.
    pub node: NodeId,
    /// Its label.
    pub name: String,
    /// Where its peers reach it, `host:port`.
    pub address: String,
}

/// What bootstrap gave every node, identical on each (H6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMembershipSeed {
    /// The cluster.
    pub cluster: ClusterId,
    /// The replid of the empty history.
    pub replid: ReplId,
    /// The first membership, exactly as it was agreed.
    pub members: Vec<SeedMember>,
}

/// Who this data directory is. Minted when the directory is formatted, so that a node that lost its disk
/// can't act on what it promised before (H6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The incarnation.
    pub node: NodeId,
    /// The label that the directory was formatted for.
    pub name: String,
    /// What bootstrap said; `None` before.
    pub cluster: Option<ClusterMembershipSeed>,
}

/// Who runs the storage's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// One thread for votes and log, one for reads that miss the cache.
    Threads,
    /// Within the submitting call: for simulations. Marks are written by [`super::Storage::idle`].
    Immediate,
    /// Only in [`super::Storage::turn`]: for tests that decide what is coalesced.
    Manual,
}

/// How the storage behaves. None of it changes the disk's format, and all of it may differ at each opening.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length at which a segment is sealed, bytes; a record that is larger has a longer segment of its own.
    pub segment_bytes: u32,
    /// Bytes of payload kept in memory behind the log's end. Records not yet written stay beyond it.
    pub cache_bytes: u64,
    /// How far a segment is filled with zeros ahead of its end, bytes, so that most syncs change no metadata.
    /// The batch that crosses what is filled pays for the next stretch: with 4 MiB the 99th percentile of
    /// small appends was two to three times that with 1 MiB, at the same median.
    pub zero_ahead_bytes: u32,
    /// How much of the disk is kept in hand beyond the segment to come, bytes, so that elections and leases go on when the
    /// disk is full (H4); with [`Execution::Threads`] only.
    pub reserve_bytes: u64,
    /// Bytes of payload that one write takes at most, before it is synced and answered.
    pub batch_bytes: u64,
    /// How long the log is quiet before it is marked durable up to its end (H7).
    pub idle_after: Duration,
    /// How long after the last time all files are read again, to see whether they still can be; with
    /// [`Execution::Threads`] only.
    pub scrub_every: Duration,
    /// How fast that is done at most, bytes per second.
    pub scrub_bytes_per_second: u64,
    /// Adjacent editlogs are merged into one of so many bytes at most; one that has more than half of that stays as it is.
    pub merge_bytes: u64,
    /// So many are merged, or fewer that have half of [`Options::merge_bytes`] together.
    pub merge_at_files: usize,
    /// How long after the last time it is seen whether there are editlogs to merge; with [`Execution::Threads`] only.
    pub merge_every: Duration,
    /// How fast they are read and written at most, bytes per second.
    pub merge_bytes_per_second: u64,
    /// Who does the work.
    pub execution: Execution,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 16 * 1024 * 1024,
            zero_ahead_bytes: 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
            batch_bytes: 8 * 1024 * 1024,
            idle_after: Duration::from_millis(20),
            scrub_every: Duration::from_secs(24 * 60 * 60),
            scrub_bytes_per_second: 16 * 1024 * 1024,
            merge_bytes: 64 * 1024 * 1024,
            merge_at_files: 8,
            merge_every: Duration::from_secs(10),
            merge_bytes_per_second: 16 * 1024 * 1024,
            execution: Execution::Threads,
        }
    }
}

/// What was found when a directory was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who the directory is.
    pub identity: Identity,
    /// The last vote saved; `None` if there was none ever.
    pub vote: Option<Vote>,
    /// The log's last record.
    pub last: Option<LogId>,
    /// The last record known to be committed: a lower bound, since it is saved lazily (H8).
    pub committed: Option<LogId>,
    /// Bytes of a torn write that were cut: never acknowledged ones.
    pub truncated_bytes: u64,
    /// What the log had made of the state machine up to where it was trimmed; `None` if it was not.
    pub beginning: Option<Vec<u8>>,
}
