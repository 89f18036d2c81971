//! The storage of a journal node: the Raft log *is* the journal.
//!
//! Decides what is durable, where it lies, and what of it survives a crash. Promises that what was answered
//! as durable is found again, that nothing truncated comes back, that a vote never goes back, and that a
//! damaged byte is never handed out (H5, H7, H8). Knows no consensus library: terms and indexes are plain
//! numbers here. docs/disk-format.md has the byte tables and the argument.

// In the order of the data path: submitted, encoded, written; then read, recovered.
mod background;
mod batch;
mod beginning;
mod behind;
mod cache;
mod core;
mod end;
mod error;
mod file;
mod format;
mod found;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gap;
mod held;
mod index;
mod layout;
mod merge;
mod merged;
mod metadata;
mod model;
mod open;
mod patch;
mod persisted;
mod reader;
mod recover;
mod salvage;
mod scan;
mod scrub;
mod slots;
mod slow;
mod space;
mod state;
mod storage;
mod summary;
mod tally;
#[cfg(test)]
mod tests;
mod writer;

pub use core::Done;
pub use error::{Failure, OpenError, ReadError};
pub use merge::Merging;
pub use metadata::{KeyValue, MapMetadata, Metadata, SledMetadata};
pub use model::{
    ClusterMembershipSeed, Execution, Identity, LogId, LogRecord, Options, PAYLOAD_BYTES_MAX, RecordKind,
    Recovered, SeedMember, Vote,
};
pub(crate) use open::SEGMENT_BYTES_MAX;
pub use patch::Gap;
pub(crate) use patch::NOBODY;
pub use salvage::Salvage;
pub use scrub::{Checked, Rot};
pub use space::Room;
pub use storage::Storage;
pub use tally::DiskTally;
