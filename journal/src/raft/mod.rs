//! Consensus: openraft over the segments, and the journal's state machine over openraft.
//!
//! Decides nothing by itself: what is agreed on is openraft's, what is admitted is [`crate::append`]'s, what
//! is on disk is [`crate::segment`]'s. It promises that an answer to a proposal was applied on this node, and that a
//! confirmed position was confirmed by a quorum. Raft's terms and indexes end here.

mod aside;
mod bases;
mod checkpoint;
mod coalesce;
mod condition;
mod config;
mod log_store;
mod machine;
mod network;
mod node;
mod pages;
mod proposal;
mod read_index;
mod repair;
mod service;
mod steward;
mod trim;
mod types;

pub use bases::{BaseDoubt, Standpoint};
pub use checkpoint::CheckpointEvery;
pub(crate) use checkpoint::admission_at;
#[cfg(any(test, fuzzing))]
pub(crate) use checkpoint::fuzz as fuzz_checkpoint;
pub use condition::Condition;
pub use config::{MetadataStore, NodeConfig, NodeError, ProposeError};
pub use machine::{JournalState, Progress};
pub use node::Node;
pub use proposal::Proposed;
pub use repair::{Repair, RepairService};
pub use service::RaftService;
pub use types::Peer;
