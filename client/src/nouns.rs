//! What the journal says about itself, as types of this crate: nothing past its edge sees the wire's.

use redoubt_types::{
    Base, BootTime, Chain, ClusterId, Db, Epoch, HolderId, Lineage, NodeId, Offset, ReplId, RunId, WallTime,
};
use std::time::Duration;

/// Where a journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// End of the last whole group: what replicas follow.
    pub tail: Offset,
    /// Chain of the stream before the tail.
    pub tail_chain: Chain,
    /// End of the last admitted byte, fragments of an unfinished group included.
    pub pending_end: Offset,
    /// Chain of the stream before the pending end.
    pub pending_chain: Chain,
    /// Groups before the tail.
    pub groups: u64,
    /// The database selected at the tail.
    pub db: Db,
}

/// Which server process an epoch promotes, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The epoch.
    pub epoch: Epoch,
    /// The server's process.
    pub run_id: RunId,
    /// The tail at which it is promoted.
    pub at: Offset,
    /// What the server is, such as `redis 7.0.15`.
    pub server: String,
}

/// The state of the journal's writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The current epoch; `None` before the first.
    pub epoch: Option<Epoch>,
    /// Its holder.
    pub holder: Option<HolderId>,
    /// The holder's name, for people.
    pub holder_name: String,
    /// How long the lease lasts from a renewal.
    pub lease: Duration,
    /// The lease was given back.
    pub released: bool,
    /// The newest session record.
    pub session: Option<Session>,
    /// The lease's rest as the leader counts it; `None` from other nodes.
    pub lease_remaining: Option<Duration>,
    /// The holder's wall clock at its newest renewal (H10).
    pub renewed_wall: WallTime,
}

/// A node's answer to where the journal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The cluster.
    pub cluster: ClusterId,
    /// The answering node's name.
    pub node_name: String,
    /// The answering node's incarnation.
    pub node: NodeId,
    /// The journal's position.
    pub position: Position,
    /// A quorum vouched that no later position had been acknowledged when the question was asked.
    pub confirmed: bool,
    /// The replids so far.
    pub lineage: Lineage,
    /// The writer.
    pub writer: Writer,
    /// `host:port` of the leader, if known.
    pub leader: Option<String>,
    /// The first offset that the node holds.
    pub beginning: Offset,
    /// The journal's base, as the node knows it; `None` before the first.
    pub base: Option<Base>,
    /// Whether the node holds its RDB.
    pub holds_base: bool,
}

/// The right to write, as of the acquisition's own place in the log: the tail is final for all earlier epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The new epoch.
    pub epoch: Epoch,
    /// The journal's position; the pending end is the tail.
    pub position: Position,
    /// The replids so far.
    pub lineage: Lineage,
    /// The newest session record, of an earlier epoch.
    pub session: Option<Session>,
    /// The previous holder's wall clock at its newest renewal (H10).
    pub previous_wall: WallTime,
    /// The previous holder's lease; zero if there was none.
    pub previous_lease: Duration,
    /// When the attempt that was granted was sent: the holder counts its lease from here.
    pub sent_at: BootTime,
}

/// What a node that read all it holds tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckFound {
    /// How far it is.
    Read {
        /// Bytes that were read so far.
        bytes: u64,
        /// Bytes that there are, as far as the node knows.
        of: u64,
    },
    /// Something is damaged, in a sentence.
    Damage(String),
    /// Something could not be checked, in a sentence.
    Unchecked(String),
    /// The journal's chain up to the offset that was asked for, counted from the node's disk.
    Chain(Chain),
}

/// A renewed lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// When the attempt that succeeded was sent: the holder counts its lease from here.
    pub sent_at: BootTime,
}

/// How far one replica of a replay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// `host:port` as the replica announced it.
    pub address: String,
    /// What it acknowledged.
    pub acked: Offset,
    /// What was sent to it.
    pub sent: Offset,
    /// The replid that its link was opened under.
    pub replid: ReplId,
    /// `sync`, `online` or `waiting`.
    pub state: String,
    /// Full syncs answered to this address since the replay started.
    pub full_syncs: u64,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its incarnation.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
    /// Its cluster; `None` before bootstrap.
    pub cluster: Option<ClusterId>,
    /// The version of its program.
    pub version: String,
}

/// A voter of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its incarnation.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Who it is.
    pub identity: NodeIdentity,
    /// `leader`, `follower`, `candidate`, `learner` or `not bootstrapped`.
    pub role: String,
    /// `host:port` of the leader, if known.
    pub leader: Option<String>,
    /// Where the journal stands, confirmed or not; `None` before bootstrap.
    pub description: Option<Description>,
    /// The cluster's members.
    pub members: Vec<Member>,
    /// Replicas as replays reported them lately: the replay's name, the report and its age.
    pub replicas: Vec<(String, ReplicaReport, Duration)>,
    /// Its disk.
    pub disk: DiskStatus,
    /// What it knows of folds; `None` if it does not lead.
    pub fold: Option<FoldStatus>,
}

/// What became of the turn to fold that a replay was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldReport {
    /// It is not folding.
    Idle,
    /// It is; how far, in a sentence.
    Folding(String),
    /// The base is the journal's.
    Done,
    /// It came to nothing, and why.
    Failed(String),
}

/// What the leader knows of folds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldStatus {
    /// `idle`, `wanted`, `folding` or `failed`.
    pub state: String,
    /// The replay that folds, or did last.
    pub replay: String,
    /// How far it is, or why it failed.
    pub message: String,
    /// Bytes of the stream since the base.
    pub bytes_since_base: u64,
    /// Folds that failed one after the other.
    pub failures: u32,
    /// Live replicas that were found to differ from the journal, `host:port`.
    pub differing: Vec<String>,
}

/// How a node's disk is. Counts are since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStatus {
    /// `well`, `slow`, `low` (no room for data) or `full` (no room at all); empty if the node doesn't say.
    pub condition: String,
    /// Times that a file could not be read as it was written.
    pub rot_met: u64,
    /// Ranges of the log that were fetched from other nodes.
    pub ranges_repaired: u64,
    /// Copies of the vote or the identity that were made again from the other one.
    pub copies_mended: u64,
    /// Times that all files were read again.
    pub passes: u64,
}
