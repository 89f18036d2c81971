//! Bases: what stands for all of the journal before an offset.
//!
//! The RDB of a base comes to every node by itself, beside the log (`shelf`, and `store` as what the rest of the node sees of it);
//! which base is the journal's is an entry of the log ([`crate::append::NewBase`]). Which replay makes the next one is the leader's to
//! say (`turn`). What may go from the log once a base covers it is decided in `crate::raft`.
//!
//! Promises that a base is held whole, as its checksums say, or not at all: also after a crash at any step.

mod retention;
mod shelf;
mod store;
mod sums;
mod turn;

pub use retention::{Kept, Retention};
pub(crate) use shelf::BASES;
pub use shelf::{PutError, ReadBaseError};
pub use store::{BaseStore, Incoming};
pub use turn::{FoldAfter, Folding, Offer, Turns};
