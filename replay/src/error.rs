//! What ends a replay.

use std::io;

/// Why a replay can't go on. What a replica or a journal node does is never among it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address to listen on can't be had.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address, as configured.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The configuration names no journal node.
    #[error("no endpoints: name the journal's nodes as host:port,host:port,…")]
    NoEndpoints,
}
