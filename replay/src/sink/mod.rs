//! Client mode: the journal applied, in order, to any server that speaks RESP, by an ordinary client.
//!
//! For servers that can't be told REPLICAOF. Decides when what is read from the journal goes to the target, and where to go on
//! after whatever happened to either side. Promises that the target holds exactly what the stream up to its position gives
//! (docs/client-mode.md): the position is written in the same transaction as the effects that lead there, by one program at a time.
//!
//! What is not known about a transaction (the connection broke, no answer came) is never guessed: the next connection reads the
//! position, and that says. A transaction that is executed late, from a connection that was given up, can't do harm either: it
//! stands behind a WATCH of the position that it was made for, and EXEC does nothing once that moved.
//!
//! In the order of the data's path: `groups` (of what the tail delivers), `translate` with `filter` and `expiry` (what they mean for
//! the target), `batch` (transactions, and what the answers mean), `target` (a connection), `position` (where the target is), and
//! beside the path `pace`, `progress`, `endpoint` and `let_go`. All but `target`, `progress`, `let_go` and [`follow`] are pure.

mod batch;
mod endpoint;
mod expiry;
mod filter;
mod follow;
mod groups;
mod let_go;
mod pace;
mod position;
mod progress;
mod target;
mod translate;

pub use batch::Failure;
pub use endpoint::{Endpoint, EndpointError};
pub use filter::Filter;
pub use follow::follow;
pub use groups::GroupsError;
pub use let_go::{LetGo, let_go};
pub use position::Unfollowable;
pub use translate::TranslateError;

use redoubt_client::TailError;
use redoubt_types::{ClusterId, JournalName, Offset};
use target::TargetError;

/// How a target is followed into.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// The target.
    pub into: Endpoint,
    /// The key in its database 0 that holds the position.
    pub position_key: String,
    /// What is left out.
    pub filter: Filter,
    /// Commands per second at most.
    pub commands_per_second_max: Option<u32>,
    /// Whether to end at the tail that a quorum confirms at the start.
    pub until_tail: bool,
    /// The journal's nodes, `host:port` each.
    pub endpoints: Vec<String>,
    /// The journal.
    pub journal: JournalName,
    /// The cluster it must belong to; `None` takes whichever the endpoints are of.
    pub cluster: Option<ClusterId>,
    /// This replay's name in `redoubt status`.
    pub name: String,
}

/// Why a target is not followed into any further. What passes by itself is not among it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may not be followed into.
    #[error("{target} can't be followed into: {why}")]
    Unfit {
        /// Its address.
        target: String,
        /// Why.
        why: Unfollowable,
    },
    /// It refuses what it must allow.
    #[error("{target}: {why}")]
    Refused {
        /// Its address.
        target: String,
        /// What it refuses.
        why: String,
    },
    /// An effect failed on it.
    #[error(transparent)]
    Failed(Failure),
    /// A group can't be applied.
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// The journal's bytes don't continue what was applied.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// The journal can't be read from the target's position on.
    #[error("the journal can't be read behind {at}: {error}")]
    Tail {
        /// The target's position.
        at: Offset,
        /// Why.
        error: TailError,
    },
    /// What the target lacks is in a base, which client mode can't apply.
    #[error(
        "{target} stands at {at}, but the journal's editlogs begin at {beginning}: what is before that is in a base, which client mode \
         can't apply (use `redoubt rebuild`, or a replica, where the target can be one)"
    )]
    NeedsBase {
        /// Its address.
        target: String,
        /// Its position.
        at: Offset,
        /// Where the editlogs begin.
        beginning: Offset,
    },
    /// The connection breaks at the same transaction again and again.
    #[error("{target} broke the connection {times} times at the transaction behind {at}: {why}")]
    Stuck {
        /// Its address.
        target: String,
        /// How often.
        times: u32,
        /// Where it is.
        at: Offset,
        /// How it broke the last time.
        why: String,
    },
    /// The configuration names no journal node.
    #[error("no endpoints: name the journal's nodes as host:port,host:port,…")]
    NoEndpoints,
}

/// A target's error as a final one.
fn refused(endpoint: &Endpoint, error: &TargetError) -> SinkError {
    SinkError::Refused {
        target: endpoint.address().to_owned(),
        why: error.to_string(),
    }
}
