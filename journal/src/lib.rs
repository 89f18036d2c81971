//! One node of the journal.
//!
//! In the order of the data path: an append comes in at [`server`], is agreed on by [`raft`], lands in
//! [`segment`]s on a majority of disks, is admitted in log order by [`append`], and goes out again by [`tail`].

pub mod append;
pub mod base;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod raft;
pub mod segment;
pub mod server;
pub mod tail;
pub mod verify;
