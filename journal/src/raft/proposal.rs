//! A proposal on its way, and why it may not be one.

use super::config::ProposeError;
use super::types::TypeConfig;
use crate::append::Verdict;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use tokio::sync::oneshot;

/// A proposal on its way; resolves when it was applied on this node.
pub struct Proposed(pub(super) oneshot::Receiver<ClientWriteResult<TypeConfig>>);

impl Proposed {
    /// Waits for the verdict.
    ///
    /// # Errors
    /// When the entry may or may not be applied elsewhere.
    pub async fn verdict(self) -> Result<Verdict, ProposeError> {
        match self.0.await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(f))) => Err(forward(&f)),
            Ok(Err(e)) => Err(ProposeError::NotReady(e.to_string())),
            Err(_) => Err(ProposeError::NotReady("Raft dropped the proposal".into())),
        }
    }
}

pub(super) fn forward(f: &ForwardToLeader<TypeConfig>) -> ProposeError {
    match &f.leader_node {
        Some(peer) => ProposeError::NotLeader {
            leader: Some(peer.address.clone()),
        },
        None => ProposeError::NotReady(f.to_string()),
    }
}
