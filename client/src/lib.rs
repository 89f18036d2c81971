//! Client of the journal.
//!
//! Decides which node to ask and what a broken stream or a refusal means; promises that an [`Appender`]'s bytes
//! are admitted exactly once and in order, and that a [`Tailer`] passes on nothing that it has not verified.
//! Knows nothing of RESP, of Redis or of Raft. In the order of the data's path:

mod client;
mod nodes;

mod bootstrap;
mod writer;

mod append;
mod base;
mod tail;

mod convert;
mod error;
mod health;
mod nouns;
mod reason;
mod refusal;

pub use append::{AppendStart, Appended, Appender};
pub use base::{BaseReader, Chunks};
pub use client::{Client, ClientConfig};
pub use error::{AppendError, ClientError, TailError, WriterError};
pub use nouns::{
    CheckFound, Description, DiskStatus, FoldReport, FoldStatus, Grant, Member, NodeIdentity, NodeStatus,
    Position, Renewed, ReplicaReport, Session, Writer,
};
pub use reason::Reason;
pub use tail::{TailEvent, TailedEntry, Tailer};
