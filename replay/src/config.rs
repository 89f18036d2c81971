//! What a replay is told, and its limits.

use redoubt_types::{ClusterId, JournalName};
use std::time::Duration;

/// How a replay is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where replicas connect, `ip:port`; port 0 picks a free one.
    pub listen: String,
    /// The journal's nodes, `host:port` each.
    pub endpoints: Vec<String>,
    /// The journal that is replayed.
    pub journal: JournalName,
    /// The cluster it must belong to; `None` takes whichever the endpoints are of.
    pub cluster: Option<ClusterId>,
    /// This replay's name in `redoubt status`.
    pub name: String,
}

/// Connections at a time at most; further ones are closed at once. One whose replica does not read holds a tail's
/// window and prefetch (3 MB) and an entry or two, so this bounds memory at about 1 GB, and at next to nothing where
/// replicas read. Stock servers try again every second.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// Addresses whose full syncs are remembered after their links are gone.
pub(crate) const REPLICA_ADDRESSES_MAX: usize = 1024;
/// From connecting to a complete PSYNC at most. A stock replica needs a few round trips, and waits 5 s for
/// each answer itself.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Silence of a replica after which its link is closed: the default `repl-timeout` of a stock master. Replicas
/// acknowledge every second.
pub(crate) const REPLICA_SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a replica that waits for its answer is sent a newline. A stock replica gives a master up that is
/// silent for 5 s here.
pub(crate) const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
/// One attempt to learn the quorum-confirmed tail; another follows as long as the replica waits. Long enough
/// for a dead and a hanging node to be masked.
pub(crate) const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two attempts that failed at once.
pub(crate) const CONFIRM_PAUSE: Duration = Duration::from_millis(200);
/// How long a replica's next bytes of a base are looked for among the nodes. Less than the default `repl-timeout`, after which it gives
/// its master up.
pub(crate) const BASE_CHUNK_DEADLINE: Duration = Duration::from_secs(40);
/// How long a base's first bytes are looked for before a replica is told that there is none: it keeps what it has and asks again.
pub(crate) const BASE_BEGIN_DEADLINE: Duration = Duration::from_secs(10);
/// How often positions are told to the journal.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long a link that ended in order is kept for the replica to close it. Closing at once could reset the
/// connection with bytes still on their way.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// Pause after the listener failed to accept (out of file descriptors, for instance).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Rebuild: how long a quorum is waited for at the start.
pub(crate) const REBUILD_CONFIRM_DEADLINE: Duration = Duration::from_secs(30);
/// Rebuild: how often the server is asked how far it is.
pub(crate) const REBUILD_POLL_EVERY: Duration = Duration::from_millis(50);
/// Rebuild: how long the server may stand still before the rebuild is given up. Longer than a journal's
/// election and than the pause that a stock replica makes between two attempts to connect.
pub(crate) const REBUILD_STALL_MAX: Duration = Duration::from_secs(60);
/// Rebuild: one answer of the server at most. A base takes a while to be dropped or loaded.
pub(crate) const TARGET_DEADLINE: Duration = Duration::from_secs(20);
/// Rebuild: one answer of the server at most, bytes. INFO and FUNCTION LIST of an empty server are a few KB.
pub(crate) const TARGET_ANSWER_BYTES_MAX: usize = 1024 * 1024;
