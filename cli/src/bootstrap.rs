//! `redoubt bootstrap`: makes a cluster of journal nodes that have none yet.

use crate::failure::Failure;
use redoubt_client::{Client, ClientError};
use redoubt_types::ClusterId;
use std::time::Duration;

/// Why there is no cluster yet.
#[derive(Debug)]
pub(crate) enum Error {
    /// Not every node answered in time.
    Unavailable(Failure),
    /// The nodes can't be made one cluster.
    Final(Failure),
}

/// Makes one cluster of all of the client's endpoints. Running it again, also after a crash midway, is safe: a cluster
/// that exists is kept, and completed.
///
/// # Errors
/// See [`Error`].
pub(crate) async fn bootstrap(client: &Client, deadline: Duration) -> Result<ClusterId, Error> {
    client.bootstrap(deadline).await.map_err(|e| match e {
        ClientError::Unavailable(why) => Error::Unavailable(Failure::unavailable(format!(
            "the cluster is not bootstrapped, every journal node must answer for that: {why}"
        ))),
        e => Error::Final(Failure::failed(format!("the cluster can't be bootstrapped: {e}"))),
    })
}

/// Prints the cluster's id.
///
/// # Errors
/// When a node does not answer, or they belong to different clusters.
pub(crate) async fn run(client: &Client, deadline: Duration) -> Result<(), Failure> {
    match bootstrap(client, deadline).await {
        Ok(cluster) => {
            crate::output::line(&format!("the journal nodes are cluster {cluster}"));
            Ok(())
        }
        Err(Error::Unavailable(failure) | Error::Final(failure)) => Err(failure),
    }
}
