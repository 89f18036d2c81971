//! The nouns of Redoubt, each a type of its own so that no two can be mixed up.
//!
//! Nothing here does I/O, knows a clock or depends on an async runtime. Fields are private, absence is an
//! `Option` and never a zero, ranges are half-open and an `_end` is exclusive.

mod base;
mod chain;
mod clock;
mod ids;
pub mod limits;
mod lineage;
mod position;

pub use base::{Base, BaseChecksum, BaseName};
pub use chain::{Chain, payload_crc};
pub use clock::BootTime;
pub use ids::{ClusterId, HolderId, JournalName, NodeId, ParseIdError, ReplId, RunId};
pub use lineage::{Lineage, LineageError, LineageStep};
pub use position::{Db, Epoch, Offset, Txid, WallTime};
