//! Making a cluster of empty nodes (H6).
//!
//! Promises: every node is handed the identical membership and first replid, whoever asks and however often it
//! was cut midway; there is never a second cluster where one exists, and a node that lost its disk is not made
//! a voter under its old name. That every node answers is required: an unreachable one may hold a cluster.

use crate::client::Client;
use crate::convert;
use crate::error::ClientError;
use crate::nodes::Fault;
use crate::nouns::{Member, NodeIdentity};
use crate::reason::Reason;
use crate::refusal::Refused;
use futures_util::future::join_all;
use redoubt_env::planted;
use redoubt_proto::{InvalidField, v1};
use redoubt_types::limits::{ROUND_PAUSE_MAX, RPC_DEADLINE};
use redoubt_types::{BootTime, ClusterId, NodeId, ReplId};
use std::time::Duration;

/// What a cluster begins with; every first voter persists it before it may vote.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seed {
    cluster: ClusterId,
    replid: ReplId,
    /// Sorted by node id.
    members: Vec<Member>,
}

/// What a node told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    identity: NodeIdentity,
    seed: Option<Seed>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// All nodes are empty: a new cluster of these members.
    Mint(Vec<Member>),
    /// There is a cluster, perhaps not on all of its first voters yet: hand out what it began with again.
    Repeat(Seed),
    /// There is a cluster on every node, and none remembers what it began with: nothing to do.
    Nothing(ClusterId),
}

fn refuse<T>(reason: Reason, message: String) -> Result<T, Refused> {
    Err(Refused {
        reason,
        message,
        ..Refused::default()
    })
}

fn member_of(identity: &NodeIdentity) -> Member {
    Member {
        node: identity.node,
        name: identity.name.clone(),
        address: identity.address.clone(),
    }
}

/// Decides from what *every* node told.
fn plan(found: &[Found], expected: Option<ClusterId>) -> Result<Plan, Refused> {
    let mut members: Vec<_> = found.iter().map(|f| member_of(&f.identity)).collect();
    members.sort_by_key(|m| m.node);
    if let Some(twice) = members.windows(2).find(|w| w[0].node == w[1].node) {
        let message = format!(
            "two endpoints lead to the same node `{}` ({})",
            twice[0].name, twice[0].node
        );
        return refuse(Reason::Invalid, message);
    }
    let mut known = found
        .iter()
        .filter_map(|f| f.identity.cluster.map(|c| (c, &f.identity)));
    let Some((cluster, owner)) = known.next().filter(|_| !planted::on("h06_bootstrap_mints_again")) else {
        return match expected {
            Some(expected) => refuse(
                Reason::WrongCluster,
                format!(
                    "every node is empty, though cluster {expected} is expected: were all of them wiped?"
                ),
            ),
            None => Ok(Plan::Mint(members)),
        };
    };
    if let Some((other, node)) = known.find(|(c, _)| *c != cluster) {
        let message = format!(
            "`{}` is of cluster {cluster}, but `{}` is of {other}: list the nodes of one cluster only",
            owner.name, node.name
        );
        return refuse(Reason::WrongCluster, message);
    }
    if let Some(expected) = expected.filter(|e| *e != cluster) {
        return refuse(
            Reason::WrongCluster,
            format!("the nodes are of cluster {cluster}, not {expected}"),
        );
    }
    let mut seeds = found.iter().filter_map(|f| f.seed.as_ref());
    let seed = seeds.next();
    if let Some(seed) = seed
        && let Some(other) = seeds.find(|s| *s != seed)
    {
        let message =
            format!("the nodes were bootstrapped with different memberships: {seed:?} and {other:?}");
        return refuse(Reason::Invalid, message);
    }
    for node in found.iter().map(|f| &f.identity).filter(|i| i.cluster.is_none()) {
        if !seed.is_some_and(|s| s.members.iter().any(|m| m.node == node.node)) {
            let message = format!(
                "node `{}` ({}) was wiped or replaced: cluster {cluster} does not know this incarnation, so it \
                 must be added as a new member",
                node.name, node.address
            );
            return refuse(Reason::NotBootstrapped, message);
        }
    }
    Ok(seed.map_or(Plan::Nothing(cluster), |s| Plan::Repeat(s.clone())))
}

fn found(i: &v1::IdentifyResponse) -> Result<Found, InvalidField> {
    let identity = convert::identity(i)?;
    let seed = match (identity.cluster, &i.replid) {
        (Some(cluster), Some(replid)) => Some(Seed {
            cluster,
            replid: redoubt_proto::replid("identity.replid", replid)?,
            members: i.members.iter().map(convert::member).collect::<Result<_, _>>()?,
        }),
        _ => None,
    };
    Ok(Found { identity, seed })
}

impl Client {
    /// Makes a cluster of the configured nodes, or completes one whose making was cut midway: it may be called
    /// again at any time. Returns the cluster's id.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when some node did not answer within `deadline`, [`ClientError::Refused`]
    /// when the nodes are of different clusters, or an empty one is not among the cluster's first voters.
    pub async fn bootstrap(&self, deadline: Duration) -> Result<ClusterId, ClientError> {
        let until = self.inner.env.now().plus(deadline);
        loop {
            let found = self.identify_all(until).await?;
            let (seed, minted) = match plan(&found, self.inner.cluster.get().copied())? {
                Plan::Nothing(cluster) => {
                    self.inner.pin(cluster)?;
                    return Ok(cluster);
                }
                Plan::Repeat(seed) => (seed, false),
                Plan::Mint(members) => {
                    let cluster = ClusterId::new(self.inner.env.random_bytes());
                    let replid = ReplId::from_random(self.inner.env.random_bytes());
                    (
                        Seed {
                            cluster,
                            replid,
                            members,
                        },
                        true,
                    )
                }
            };
            match self.hand_out(&seed, &found, until).await? {
                Ok(()) => {
                    self.inner.pin(seed.cluster)?;
                    return Ok(seed.cluster);
                }
                // The first node took somebody else's seed between question and answer: nobody took ours, so
                // look again and complete theirs.
                Err((0, refused)) if minted && self.left(until).is_some() => {
                    tracing::warn!(
                        message = refused.message,
                        "somebody else is bootstrapping these nodes"
                    );
                    self.inner.env.sleep(ROUND_PAUSE_MAX).await;
                }
                Err((_, refused)) => return Err(refused.into()),
            }
        }
    }

    /// Hands the seed to its members, in the order of their ids: of two who mint at once only one gets past the
    /// first node. Returns the refusal with how many nodes had taken the seed before it.
    async fn hand_out(
        &self,
        seed: &Seed,
        found: &[Found],
        until: BootTime,
    ) -> Result<Result<(), (usize, Refused)>, ClientError> {
        let request = v1::BootstrapRequest {
            cluster_id: seed.cluster.to_string(),
            replid: seed.replid.to_string(),
            members: seed.members.iter().map(convert::member_to).collect(),
        };
        let of = |node: NodeId| found.iter().position(|f| f.identity.node == node);
        // Members that are not configured are left to another call; later members need no seed.
        for (taken, node) in seed.members.iter().filter_map(|m| of(m.node)).enumerate() {
            let send = async |within| {
                let mut cluster = self.inner.nodes.cluster(node)?;
                self.inner
                    .nodes
                    .within(within, cluster.bootstrap(request.clone()))
                    .await
            };
            if let Some(refusal) = self.until_answered(node, until, send).await?.refused {
                return Ok(Err((taken, Refused::from_wire(&refusal))));
            }
        }
        Ok(Ok(()))
    }

    async fn identify_all(&self, until: BootTime) -> Result<Vec<Found>, ClientError> {
        let asked = (0..self.inner.nodes.len()).map(|node| async move {
            let ask = |within| self.identify_at(node, within);
            let told = self.until_answered(node, until, ask).await?;
            Ok(found(&told)?)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Repeats a question to one node until it answers.
    async fn until_answered<T, F>(
        &self,
        node: usize,
        until: BootTime,
        ask: impl Fn(Duration) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let mut last = "was not asked in time".to_owned();
        while let Some(left) = self.left(until) {
            match ask(left.min(RPC_DEADLINE)).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => last = fault.0,
            }
            self.inner.env.sleep(ROUND_PAUSE_MAX.min(left)).await;
        }
        Err(ClientError::Unavailable(format!(
            "{}: {last}",
            self.inner.nodes.endpoint(node)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(n: u8) -> ClusterId {
        ClusterId::new([n; 16])
    }

    fn empty(node: u64) -> Found {
        let identity = NodeIdentity {
            node: NodeId::new(node).unwrap(),
            name: format!("n{}", node % 10),
            address: format!("127.0.0.1:{}", 7000 + node % 10),
            cluster: None,
            version: String::new(),
        };
        Found { identity, seed: None }
    }

    fn seed(c: u8, nodes: &[u64]) -> Seed {
        let members = nodes.iter().map(|n| member_of(&empty(*n).identity)).collect();
        Seed {
            cluster: cluster(c),
            replid: ReplId::from_random([c; 20]),
            members,
        }
    }

    fn seeded(node: u64, seed: &Seed) -> Found {
        let mut found = empty(node);
        found.identity.cluster = Some(seed.cluster);
        found.seed = Some(seed.clone());
        found
    }

    fn refusal(found: &[Found], expected: Option<ClusterId>) -> Refused {
        plan(found, expected).unwrap_err()
    }

    #[test]
    fn h06_empty_nodes_become_a_cluster_of_all_of_them_sorted() {
        let found = [empty(3), empty(1), empty(2)];
        let Plan::Mint(members) = plan(&found, None).unwrap() else {
            panic!("nothing to repeat")
        };
        assert_eq!(
            members.iter().map(|m| m.node.get()).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }

    #[test]
    fn h06_a_bootstrap_cut_midway_is_repeated_as_it_was() {
        let seed = seed(7, &[1, 2, 3]);
        for having in [vec![2], vec![1, 3], vec![1, 2, 3]] {
            let found: Vec<_> = (1..=3)
                .map(|n| {
                    if having.contains(&n) {
                        seeded(n, &seed)
                    } else {
                        empty(n)
                    }
                })
                .collect();
            assert_eq!(plan(&found, None), Ok(Plan::Repeat(seed.clone())), "{having:?}");
            assert_eq!(plan(&found, Some(cluster(7))), Ok(Plan::Repeat(seed.clone())));
        }
    }

    #[test]
    fn h06_a_wiped_node_is_not_made_a_voter_again() {
        let seed = seed(7, &[1, 2, 3]);
        // n3 under a new incarnation.
        let refused = refusal(&[seeded(1, &seed), seeded(2, &seed), empty(13)], None);
        assert_eq!(refused.reason, Reason::NotBootstrapped);
        assert!(
            refused.message.contains("`n3`") && refused.message.contains("new member"),
            "{}",
            refused.message
        );
    }

    #[test]
    fn h06_nodes_of_two_clusters_are_refused_and_so_is_another_than_the_expected_one() {
        let (a, b) = (seed(7, &[1, 2]), seed(8, &[1, 2]));
        assert_eq!(
            refusal(&[seeded(1, &a), seeded(2, &b)], None).reason,
            Reason::WrongCluster
        );
        assert_eq!(
            refusal(&[seeded(1, &a)], Some(cluster(8))).reason,
            Reason::WrongCluster
        );
        assert_eq!(
            refusal(&[empty(1), empty(2)], Some(cluster(8))).reason,
            Reason::WrongCluster
        );
    }

    #[test]
    fn one_node_behind_two_endpoints_is_refused() {
        assert_eq!(refusal(&[empty(1), empty(1)], None).reason, Reason::Invalid);
    }

    #[test]
    fn members_that_joined_later_need_no_seed() {
        let seed = seed(7, &[1, 2]);
        let mut later = empty(3);
        later.identity.cluster = Some(seed.cluster);
        let found = [seeded(1, &seed), seeded(2, &seed), later.clone()];
        assert_eq!(plan(&found, None), Ok(Plan::Repeat(seed.clone())));
        assert_eq!(
            plan(std::slice::from_ref(&later), None),
            Ok(Plan::Nothing(seed.cluster))
        );
        assert_eq!(refusal(&[later, empty(4)], None).reason, Reason::NotBootstrapped);
    }
}
