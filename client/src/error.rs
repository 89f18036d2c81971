//! One small error per kind of operation; each variant is final for the call that returned it.

use crate::nouns::Position;
use crate::reason::Reason;
use redoubt_proto::InvalidField;
use redoubt_types::{Chain, Offset};
use std::time::Duration;

/// A question to the journal failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No node gave a usable answer in time; the text says what each one did.
    #[error("the journal is unavailable: {0}")]
    Unavailable(String),
    /// The journal refused, and asking again would be refused again.
    #[error("refused ({reason}): {message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// An answer could not be read.
    #[error("a node's answer can't be read: {0}")]
    Invalid(#[from] InvalidField),
}

/// A writer operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriterError {
    /// A higher epoch exists. Final for this epoch.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Another holder's lease has not ended.
    #[error("another writer's lease has not ended: {message}")]
    LeaseHeld {
        /// When asking again makes sense.
        retry_after: Duration,
        /// For people.
        message: String,
    },
    /// The other holder renewed its lease while the request was on its way.
    #[error("the lease was renewed meanwhile")]
    LeaseRenewed,
    /// Refused, and asking again would be refused again.
    #[error("refused ({reason}): {message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
        /// The journal's position, if the refusal named it. It never releases a reply (H2).
        position: Option<Position>,
    },
    /// The deadline passed. Whether the operation took effect is not known.
    #[error("the journal is unavailable: {0}")]
    Unavailable(String),
}

/// An append stream ended for good. Unavailability is not among the causes: it is waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A higher epoch exists.
    #[error("fenced: {0}")]
    Fenced(String),
    /// What was pushed can never be admitted.
    #[error("refused ({reason}): {message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
    },
}

/// A tail ended for good. Failing, silent and damaged nodes are not among the causes while another may serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// The wanted offset lies beyond the quorum-confirmed tail.
    #[error("the offset lies beyond the journal's confirmed tail {tail}")]
    BeyondEnd {
        /// The confirmed tail.
        tail: Offset,
    },
    /// The wanted offset lies before the first editlog.
    #[error("the offset lies before the journal's beginning {beginning}")]
    BeforeBeginning {
        /// The first offset that is still there.
        beginning: Offset,
    },
    /// A node holds another history than the one that was read so far.
    #[error("node {node} holds another history at {at}: {what}")]
    Forked {
        /// The endpoint of that node.
        node: String,
        /// Where the two differ, as far as is known.
        at: Offset,
        /// The chain of what was read before `at`, if it is known.
        chain: Option<Chain>,
        /// Both values, for people.
        what: String,
    },
    /// Every node's copy is damaged at the offset.
    #[error("every node's copy is damaged: {0}")]
    DamagedEverywhere(String),
    /// Every node refused, and asking again would be refused again.
    #[error("refused ({reason}): {message}")]
    Refused {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
    },
}
