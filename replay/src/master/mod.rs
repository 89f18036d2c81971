//! The replicas' side: a stock server's master, over PSYNC.

mod full_sync;
mod link;
mod registry;
mod serve;

pub use serve::Replay;
pub(crate) use serve::{Shared, accept, listen_on};
