//! What a node is told, and what can go wrong.

use super::checkpoint::CheckpointEvery;
use crate::base::{FoldAfter, Retention};
use crate::segment::{MapMetadata, Metadata, OpenError, Options, SledMetadata};
use openraft::{Config, SnapshotPolicy};
use redoubt_types::limits::{
    ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, GRPC_MESSAGE_BYTES_MAX, HEARTBEAT_INTERVAL,
    RAFT_BATCH_BYTES_MAX,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Log entries in one AppendEntries at most; bytes are bounded by what the log reader returns.
const RAFT_BATCH_ENTRIES_MAX: u64 = 512;

// A batch that the log reader bounds, with its envelope, must be one that a peer decodes.
const _: () = assert!(RAFT_BATCH_BYTES_MAX <= GRPC_MESSAGE_BYTES_MAX / 2);

/// What a node is told at start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its label.
    pub name: String,
    /// Where it listens, and peers and clients reach it: `host:port`, no port 0.
    pub address: String,
    /// Its data directory.
    pub dir: PathBuf,
    /// How it stores.
    pub storage: Options,
    /// Where it keeps what can be rebuilt.
    pub metadata: MetadataStore,
    /// How much of the log lies between two checkpoints: what a start replays at most, and what the index holds twice.
    pub checkpoint_every: CheckpointEvery,
    /// When a fold is due, while this node leads.
    pub fold_after: FoldAfter,
    /// What is kept for a restore to the past.
    pub retention: Retention,
}

/// Where a node keeps what can be rebuilt from its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataStore {
    /// In sled, under `metadata/` in the data directory.
    #[default]
    Sled,
    /// Nowhere: every start rebuilds it. For a data directory that is not on the machine's own file system.
    Memory,
}

/// Why a node could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The rebuildable metadata can't be opened.
    #[error(
        "the metadata in {dir} can't be opened: {source}. It can be rebuilt: remove that directory and start again"
    )]
    Metadata {
        /// Its directory.
        dir: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Storage failed: final for this process.
    #[error("storage failed, nothing is written any more: {0}")]
    Storage(String),
    /// Raft stopped.
    #[error("Raft stopped: {0}")]
    Raft(String),
    /// What the log begins behind is not readable by this version.
    #[error("the state that the log begins behind is of another version, or no state")]
    Beginning,
    /// The bases can't be opened.
    #[error("the bases can't be opened: {0}")]
    Bases(std::io::Error),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The server ended by an error.
    #[error("the gRPC server ended: {0}")]
    Server(String),
}

/// Why a proposal was not applied here. Whether it is applied elsewhere is unknown for all but `NotLeader`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The node has no cluster yet.
    #[error("the node belongs to no cluster yet: bootstrap it")]
    NotBootstrapped,
    /// Another node leads, or none does.
    #[error("this node is not the leader")]
    NotLeader {
        /// `host:port` of the leader, if known.
        leader: Option<String>,
    },
    /// Too few nodes have room on their disks for data.
    #[error("the disks of the journal's nodes are full: fewer than a majority have room for data")]
    NoRoom,
    /// No quorum, or the leader has not caught up with its own term yet.
    #[error("not now: {0}")]
    NotReady(String),
}

pub(super) fn open_metadata(config: &NodeConfig) -> Result<Arc<dyn Metadata>, NodeError> {
    match config.metadata {
        MetadataStore::Memory => Ok(Arc::new(MapMetadata::default())),
        MetadataStore::Sled => {
            let dir = config.dir.join("metadata");
            match SledMetadata::open(&dir) {
                Ok(metadata) => Ok(Arc::new(metadata)),
                Err(source) => Err(NodeError::Metadata { dir, source }),
            }
        }
    }
}

pub(super) fn raft_config(cluster: &str) -> Result<Config, openraft::ConfigError> {
    let ms = |d: Duration| d.as_millis() as u64;
    Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: ms(HEARTBEAT_INTERVAL),
        election_timeout_min: ms(ELECTION_TIMEOUT_MIN),
        election_timeout_max: ms(ELECTION_TIMEOUT_MAX),
        max_payload_entries: RAFT_BATCH_ENTRIES_MAX,
        max_append_entries: Some(RAFT_BATCH_ENTRIES_MAX),
        // A node that was cut off must not raise the term when it comes back.
        enable_pre_vote: Some(true),
        // A node that led before it was restarted has applied less than it acknowledged: it must be elected again,
        // in a term whose first entry stands behind all of that (H1, H8).
        enable_leader_restore: Some(redoubt_env::planted::on("h08_leader_restored")),
        // The log is the journal: nothing of it goes before a base covers it. A snapshot is what the log begins behind, and is built
        // only then (`trim.rs`): all that it covers goes.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        ..Config::default()
    }
    .validate()
}
