//! Stepping aside: when a node leaves the cluster for as long as it takes to repair what rotted on its disk.
//!
//! Repair works on a directory that nobody writes to, so a node that meets rot while it runs ends in order, as at a stop, is
//! repaired as at a start, and comes back. It does so only while the others make a quorum without it: until then it goes
//! on as it is, and whoever asks for what rotted is told so. One that leads hands that over first.
//!
//! Two nodes may find rot at the same time. Each waits a random moment and then asks the others; one that is being repaired
//! does not answer. Should both go all the same, the quorum is back once they are repaired, which needs no leader.

use super::node::Node;
use super::types::{Peer, carried};
use crate::segment::Rot;
use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use redoubt_types::limits::RPC_DEADLINE;
use std::collections::BTreeSet;
use std::time::Duration;

/// Pause between two questions to the others.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Every how many questions a log line says why the node is still there.
const TELL_EVERY: u32 = 60;
/// How long a leader waits for another one.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

impl Node {
    /// Waits until damage was found on this node's disk, and until the others can do without the node.
    pub async fn must_step_aside(&self) -> Rot {
        let mut found = self.rot();
        let rot = match found.wait_for(Option::is_some).await {
            Ok(rot) => rot.clone(),
            // The storage is gone, which others tell.
            Err(_) => None,
        };
        let Some(rot) = rot else {
            return std::future::pending().await;
        };
        let mut asked: u32 = 0;
        loop {
            let moment = self.env().random_nonzero() % ASK_AGAIN.as_millis() as u64;
            self.env().sleep(Duration::from_millis(moment)).await;
            match self.is_dispensable().await {
                Ok(()) => break,
                Err(why) if asked.is_multiple_of(TELL_EVERY) => tracing::error!(
                    path = %rot.path.display(),
                    "what rotted is repaired once the others can do without this node: {why}"
                ),
                Err(_) => {}
            }
            asked = asked.wrapping_add(1);
            self.env().sleep(ASK_AGAIN).await;
        }
        self.hand_over().await;
        rot
    }

    /// Whether the other voters make a quorum, and answer.
    async fn is_dispensable(&self) -> Result<(), String> {
        let raft = self.raft().map_err(|e| e.to_string())?;
        let membership = raft.metrics().borrow_watched().membership_config.clone();
        let me = self.identity().node.get();
        let others: Vec<(u64, Peer)> = membership
            .membership()
            .nodes()
            .filter(|(id, _)| **id != me)
            .map(|(id, peer)| (*id, peer.clone()))
            .collect();
        let asked = others.iter().map(|(id, peer)| async move {
            match self.env().timeout(RPC_DEADLINE, self.vote_of(*id, peer)).await {
                Ok((id, Ok(_))) => Ok(id),
                Ok((_, Err(why))) => Err(why),
                Err(elapsed) => Err(format!("({}: {elapsed})", peer.name)),
            }
        });
        let answers = join_all(asked).await;
        let there: BTreeSet<u64> = answers.iter().filter_map(|a| a.as_ref().ok().copied()).collect();
        let configs = membership.membership().get_joint_config();
        if carried(configs, |id| there.contains(&id)) {
            Ok(())
        } else {
            let why: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
            Err(format!(
                "{} of {} others answer {}",
                there.len(),
                others.len(),
                why.join(" ")
            ))
        }
    }

    /// Has another node lead, if this one does and another can. Gives up after a while: an election does the rest.
    async fn hand_over(&self) {
        if let Some(to) = self.most_advanced_follower(|_| true) {
            self.hand_over_to(to).await;
        }
    }

    /// Has the node `to` lead, if it can.
    pub(super) async fn hand_over_to(&self, to: u64) {
        let Ok(raft) = self.raft() else { return };
        tracing::info!(to, "hands the leadership over");
        if raft.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let me = self.identity().node.get();
        let mut metrics = raft.metrics();
        let another = async {
            while metrics.borrow_watched().current_leader.is_none_or(|id| id == me) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if self.env().timeout(HAND_OVER_WITHIN, another).await.is_err() {
            tracing::warn!(to, "no other node leads yet");
        }
    }

    /// The voter, other than this node, that is `suitable` and has most of the log; `None` when this node does not lead.
    pub(super) fn most_advanced_follower(&self, suitable: impl Fn(u64) -> bool) -> Option<u64> {
        let raft = self.raft().ok()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let me = self.identity().node.get();
        if metrics.current_leader != Some(me) {
            return None;
        }
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let followers = metrics.replication.as_ref()?.iter();
        followers
            .filter(|(id, _)| **id != me && voters.contains(id) && suitable(**id))
            .max_by_key(|(_, matched)| matched.as_ref().map(|id| id.index))
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dispensable_only_if_the_rest_is_a_majority_of_all() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let is_majority = |there: &BTreeSet<u64>, voters: &BTreeSet<u64>| {
            carried(std::slice::from_ref(voters), |id| there.contains(&id))
        };
        assert!(is_majority(&set(&[2, 3]), &set(&[1, 2, 3])));
        assert!(!is_majority(&set(&[3]), &set(&[1, 2, 3])), "one of three");
        assert!(!is_majority(&set(&[]), &set(&[1])), "the only one");
        assert!(!is_majority(&set(&[2, 9]), &set(&[1, 2, 3])), "9 has no vote");
        assert!(!is_majority(&set(&[2, 3]), &set(&[1, 2, 3, 4])), "two of four");
    }
}
