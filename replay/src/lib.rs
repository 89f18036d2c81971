//! Tails the journal, verifies it, and replays it in order into stock redis-servers, as their master; or ([`sink`]), as an
//! ordinary client, into a server that can't be told REPLICAOF.
//!
//! A stock server that is told `REPLICAOF` this program's address is fed the journal byte for byte, over the
//! replication protocol that it speaks already. Journal offsets are replication offsets, so what a replica
//! acknowledges is how much of the journal it has applied, and a replica that is promoted goes on counting
//! where the journal ends.
//!
//! Invariants of absence: no byte reaches a replica that the client's tail did not verify; nothing of our own
//! is ever added to a stream that has begun; no PSYNC is answered from one node's view alone; nothing here
//! promotes anything but the target of a rebuild.
//!
//! In data-path order: `source` is the journal's side, `master` the replicas' side, [`sink`] the side of a server that is written
//! to by a client, and [`rebuild`] makes one empty server equal to the journal and lets it go.

mod config;
mod error;
mod keyspace;
mod master;
mod rebuild;
pub mod sink;
mod source;

pub use config::Config;
pub use error::Error;
pub use master::Replay;
pub use rebuild::{Progress, RebuildError, RebuildReport, Unfit, rebuild};

use redoubt_env::Env;

/// Serves replicas until the future is dropped.
///
/// # Errors
/// [`Error`] when it can't begin: no endpoints, or the address to listen on can't be had.
pub async fn run(config: Config, env: Env) -> Result<(), Error> {
    Replay::bind(config, env).await?.serve().await;
    Ok(())
}
