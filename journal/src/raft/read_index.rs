//! Asking a quorum whether this node still leads: what is committed here covers all that was acknowledged then.
//!
//! The leader notes what is committed, and only then asks every voter for the vote that it has given by now. A
//! leader of a later term has a majority's votes of that term before it commits anything. So when the voters of a
//! majority answer with votes of the asking leader's term or before, no later leader had committed anything when the
//! question was asked, and what was noted covers everything acknowledged until then, by this leader and, since an
//! entry of its own term is committed, by all before it (Ongaro's dissertation, section 6.4). Noted after the
//! answers, it would be as good; noted while entries of this term are yet to be committed, it would be older than what
//! earlier leaders acknowledged.
//!
//! openraft's own question (`get_read_log_id`) is not used: it counts answers on the replication stream, where, as of
//! 0.10.0-alpha.37, the answer to a request from before the question settles later ones that carry no entries. A
//! voter that has followed another leader since would be counted (H8).

use super::config::ProposeError;
use super::network::envelope;
use super::node::Node;
use super::types::{LogId, Membership, Vote, carried, log_id_from_wire, vote_from_wire};
use crate::raft::Peer;
use futures_util::stream::{FuturesUnordered, StreamExt};
use openraft::async_runtime::WatchReceiver;
use redoubt_env::planted;
use redoubt_proto::v1;
use redoubt_types::limits::RPC_DEADLINE;
use std::collections::BTreeSet;

/// A leader's question, and who has vouched so far.
#[derive(Debug)]
struct Question {
    term: u64,
    /// The voters; two sets while the membership changes, and each must carry it.
    configs: Vec<BTreeSet<u64>>,
    vouching: BTreeSet<u64>,
}

impl Question {
    fn new(term: u64, configs: Vec<BTreeSet<u64>>) -> Self {
        Question {
            term,
            configs,
            vouching: BTreeSet::new(),
        }
    }

    /// `node` has given `vote` by now. Returns whether the question is carried.
    fn answered(&mut self, node: u64, vote: &Vote) -> bool {
        if vote.leader_id.term <= self.term || planted::on("h08_any_vote_vouches") {
            self.vouching.insert(node);
        }
        carried(&self.configs, |id| self.vouching.contains(&id))
    }
}

/// What the leader notes before it asks.
struct Noted {
    vote: Vote,
    committed: Option<LogId>,
    membership: Membership,
}

impl Node {
    /// Asks a quorum, through the leader, and waits until this node has applied all that was acknowledged
    /// before the question.
    ///
    /// # Errors
    /// When no quorum vouches within [`RPC_DEADLINE`].
    pub async fn confirm(&self) -> Result<(), ProposeError> {
        let asked = self.env().timeout(RPC_DEADLINE, async {
            let read = if self.raft()?.is_leader() {
                self.read_index_as_leader().await
            } else {
                self.read_index_of_leader().await
            }?;
            let mut progress = self.progress();
            let caught_up = progress.wait_for(|p| p.applied_end > read.index).await;
            caught_up
                .map(drop)
                .map_err(|_| ProposeError::NotReady("the node ends".into()))
        });
        asked
            .await
            .map_err(|e| ProposeError::NotReady(format!("no quorum answered: {e}")))?
    }

    /// The log id that covers all that was acknowledged before the call.
    ///
    /// # Errors
    /// When this node does not lead, or no quorum vouches that it does. Waits for peers as long as they take.
    pub(super) async fn read_index_as_leader(&self) -> Result<LogId, ProposeError> {
        let raft = self.raft()?;
        let noted = raft.with_raft_state(|state| Noted {
            vote: *state.vote_ref(),
            committed: state.cluster_committed().copied(),
            membership: state.membership_state.effective().membership().clone(),
        });
        let noted = noted.await.map_err(|e| ProposeError::NotReady(e.to_string()))?;
        let (term, me) = (noted.vote.leader_id.term, self.identity().node.get());
        if !noted.vote.committed || noted.vote.leader_id.voted_for != me {
            return Err(ProposeError::NotLeader {
                leader: self.leader(),
            });
        }
        let committed = noted
            .committed
            .filter(|id| id.leader_id.term == term)
            .ok_or_else(|| {
                ProposeError::NotReady("the leader has not committed an entry of its own term yet".into())
            })?;
        let mut question = Question::new(term, noted.membership.get_joint_config().clone());
        let mut carried = question.answered(me, &noted.vote);
        let mut answers: FuturesUnordered<_> = noted
            .membership
            .nodes()
            .filter(|(id, _)| **id != me)
            .map(|(id, peer)| self.vote_of(*id, peer))
            .collect();
        let mut why = String::new();
        while !carried {
            match answers.next().await {
                Some((id, Ok(vote))) => carried = question.answered(id, &vote),
                Some((_, Err(e))) => why = e,
                None => {
                    return Err(ProposeError::NotReady(format!(
                        "no quorum vouches for the leader {why}"
                    )));
                }
            }
        }
        Ok(committed)
    }

    /// The last log id at the time of the call, once all up to it is committed in this node's present term, and a quorum
    /// has vouched for that since.
    ///
    /// # Errors
    /// When this node does not lead, or not any more, or no quorum commits within [`RPC_DEADLINE`].
    pub(super) async fn whole_log_as_leader(&self) -> Result<LogId, ProposeError> {
        let raft = self.raft()?;
        let term = raft
            .with_raft_state(|state| state.vote_ref().leader_id.term)
            .await;
        let term = term.map_err(|e| ProposeError::NotReady(e.to_string()))?;
        // What a peer was ever sent was read from here.
        let last = self.last_log_id();
        let last = last.ok_or_else(|| ProposeError::NotReady("the log is empty".into()))?;
        let mut progress = self.progress();
        let applied = progress.wait_for(|p| p.applied_end > last.index);
        let applied = self.env().timeout(RPC_DEADLINE, applied).await;
        applied
            .map_err(|e| ProposeError::NotReady(format!("not all of the log is committed: {e}")))?
            .map_err(|_| ProposeError::NotReady("the node ends".into()))?;
        let read = self.read_index_as_leader().await?;
        if read.leader_id.term == term {
            Ok(read)
        } else {
            Err(ProposeError::NotReady("it led anew meanwhile".into()))
        }
    }

    /// The vote that a peer has given by now.
    pub(super) async fn vote_of(&self, id: u64, peer: &Peer) -> (u64, Result<Vote, String>) {
        let request = v1::RaftCurrentVoteRequest {
            envelope: self.envelope_to(id),
        };
        let answer = match self.peers().at(&peer.address).current_vote(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return (id, Err(format!("({}: {})", peer.name, status.message()))),
        };
        let vote = answer.vote.as_ref().map(vote_from_wire);
        let refused = || format!("({}: {})", peer.name, answer.refused.unwrap_or_default());
        (id, vote.ok_or_else(refused))
    }

    fn envelope_to(&self, node: u64) -> Option<v1::RaftEnvelope> {
        let identity = self.identity();
        let seed = identity.cluster.as_ref()?;
        Some(envelope(seed.cluster, identity.node, node))
    }

    async fn read_index_of_leader(&self) -> Result<LogId, ProposeError> {
        let raft = self.raft()?;
        let (leader, address) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let no_leader = || ProposeError::NotReady("no leader is known".into());
            let id = metrics.current_leader.ok_or_else(no_leader)?;
            let peer = metrics
                .membership_config
                .membership()
                .get_node(&id)
                .ok_or_else(no_leader)?;
            (id, peer.address.clone())
        };
        let request = v1::RaftReadIndexRequest {
            envelope: self.envelope_to(leader),
            whole_log: false,
        };
        let answer = self.peers().at(&address).read_index(request).await;
        let answer = answer
            .map_err(|e| ProposeError::NotReady(e.to_string()))?
            .into_inner();
        match (answer.read, answer.refused) {
            (Some(read), None) => Ok(log_id_from_wire(&read)),
            (_, why) => Err(ProposeError::NotReady(
                why.unwrap_or_else(|| "the leader's answer is empty".into()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::vote_of;

    fn three() -> Vec<BTreeSet<u64>> {
        vec![BTreeSet::from([1, 2, 3])]
    }

    #[test]
    fn a_majority_that_has_voted_for_nobody_later_carries() {
        let mut q = Question::new(7, three());
        assert!(!q.answered(1, &vote_of(7, 1, true)), "one of three");
        assert!(!q.answered(1, &vote_of(7, 1, true)), "it counts once");
        assert!(
            q.answered(3, &vote_of(6, 2, true)),
            "it has not heard of term 7 yet"
        );
    }

    #[test]
    fn h08_whoever_has_voted_for_a_later_leader_does_not_vouch() {
        let mut q = Question::new(7, three());
        assert!(!q.answered(1, &vote_of(7, 1, true)));
        assert!(
            !q.answered(2, &vote_of(8, 3, false)),
            "granted, whether or not it won"
        );
        assert!(!q.answered(3, &vote_of(8, 3, true)), "it leads");
    }

    #[test]
    fn learners_do_not_count_and_each_half_of_a_change_must_carry() {
        let mut q = Question::new(2, vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])]);
        let vote = vote_of(2, 1, true);
        assert!(!q.answered(1, &vote));
        assert!(!q.answered(9, &vote), "no voter");
        assert!(!q.answered(2, &vote), "the old half only");
        assert!(!q.answered(4, &vote));
        assert!(q.answered(5, &vote));
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn catches_a_quorum_of_any_votes() {
        planted::assert_catches(
            "raft::read_index::tests::h08_whoever_has_voted_for_a_later_leader_does_not_vouch",
            "h08_any_vote_vouches",
        );
    }
}
