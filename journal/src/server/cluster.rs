//! `redoubt.v1.Cluster`: identity, bootstrap, status.

use super::answer::{invalid, refusal};
use super::journal::{check, describe};
use super::replicas::ReplicaBoard;
use crate::raft::Node;
use crate::segment::{ClusterMembershipSeed, DiskTally, SeedMember};
use crate::verify::{Found, live};
use futures_util::stream::{self, BoxStream, StreamExt};
use redoubt_proto::v1::cluster_server::Cluster;
use redoubt_proto::{InvalidField, cluster_id, node_id, replid, v1};
use redoubt_types::Offset;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tonic::{Request, Response, Status};
use v1::Reason;

/// Members of a first membership at most: Raft groups larger than this only get slower.
const MEMBERS_MAX: usize = 9;

/// What a check has found and its caller has not heard of yet, at most.
const CHECK_EVENTS_AHEAD: usize = 16;
/// How long Status waits for a quorum's word.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct ClusterService {
    node: Arc<Node>,
    board: Arc<ReplicaBoard>,
    /// What was counted before the node was opened.
    earlier: DiskTally,
    /// Held by a check: one at a time.
    checking: Arc<Mutex<()>>,
}

fn check_event(found: Found) -> v1::CheckResponse {
    use v1::check_response::Found as Wire;
    v1::CheckResponse {
        found: Some(match found {
            Found::Read { bytes, of } => Wire::Read(v1::CheckRead { bytes, of }),
            Found::Damage(what) => Wire::Damage(what),
            Found::Unchecked(why) => Wire::Unchecked(why),
            Found::Chain(chain) => Wire::Chain(chain.get()),
        }),
    }
}

impl ClusterService {
    pub(super) fn new(node: Arc<Node>, board: Arc<ReplicaBoard>, earlier: DiskTally) -> Self {
        ClusterService {
            node,
            board,
            earlier,
            checking: Arc::default(),
        }
    }

    fn disk(&self) -> v1::DiskStatus {
        let tally = self.earlier + self.node.tally();
        v1::DiskStatus {
            condition: self.node.condition().name().to_owned(),
            rot_met: tally.rot_met,
            ranges_repaired: tally.ranges_repaired,
            copies_mended: tally.copies_mended,
            passes: tally.passes,
        }
    }

    fn fold(&self) -> v1::FoldStatus {
        let (bytes_since_base, _) = self.node.since_base();
        let turns = self.node.turns();
        let (replay, message) = turns.last();
        v1::FoldStatus {
            state: turns.state().to_owned(),
            replay: replay.to_owned(),
            message: message.to_owned(),
            bytes_since_base,
            failures: turns.failures(),
            differing: turns.differing(),
        }
    }

    fn identity(&self) -> v1::IdentifyResponse {
        let identity = self.node.identity();
        let seed = identity.cluster.as_ref();
        let member = |m: &SeedMember| v1::Member {
            node_id: m.node.get(),
            name: m.name.clone(),
            address: m.address.clone(),
        };
        v1::IdentifyResponse {
            node_id: identity.node.get(),
            name: identity.name.clone(),
            address: self.node.config().address.clone(),
            cluster_id: seed.map(|s| s.cluster.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            replid: seed.map(|s| s.replid.to_string()),
            members: seed
                .map(|s| s.members.iter().map(member).collect())
                .unwrap_or_default(),
        }
    }
}

fn seed(request: &v1::BootstrapRequest) -> Result<ClusterMembershipSeed, InvalidField> {
    if request.members.is_empty() || request.members.len() > MEMBERS_MAX {
        let why = format!(
            "lists {} nodes, 1 to {MEMBERS_MAX} are wanted",
            request.members.len()
        );
        return Err(InvalidField::new("members", why));
    }
    if !request.members.is_sorted_by(|a, b| a.node_id < b.node_id) {
        return Err(InvalidField::new(
            "members",
            "must be sorted by node id, without duplicates",
        ));
    }
    let members = request.members.iter().map(|m| {
        let node = node_id("members.node_id", m.node_id)?;
        Ok(SeedMember {
            node,
            name: m.name.clone(),
            address: m.address.clone(),
        })
    });
    Ok(ClusterMembershipSeed {
        cluster: cluster_id("cluster_id", &request.cluster_id)?,
        replid: replid("replid", &request.replid)?,
        members: members.collect::<Result<_, InvalidField>>()?,
    })
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type CheckStream = BoxStream<'static, Result<v1::CheckResponse, Status>>;

    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        let r = request.into_inner();
        let alone = self.checking.clone().try_lock_owned();
        let refused = match (check(&self.node, "", &r.journal), alone) {
            (Err(refused), _) => refused,
            (_, Err(_)) => refusal(Reason::NotReady, "it is being checked already"),
            (Ok(()), Ok(alone)) => {
                let (found, events) = mpsc::channel(CHECK_EVENTS_AHEAD);
                let until = Offset::new(r.until);
                let task = self.node.env().spawn(live(self.node.clone(), until, found));
                let events = stream::unfold((events, task, alone), |(mut events, task, alone)| async move {
                    let found = events.recv().await?;
                    Some((Ok(check_event(found)), (events, task, alone)))
                });
                return Ok(Response::new(events.boxed()));
            }
        };
        let refused = v1::CheckResponse {
            found: Some(v1::check_response::Found::Refused(refused)),
        };
        Ok(Response::new(stream::iter([Ok(refused)]).boxed()))
    }

    async fn identify(
        &self,
        _request: Request<v1::IdentifyRequest>,
    ) -> Result<Response<v1::IdentifyResponse>, Status> {
        Ok(Response::new(self.identity()))
    }

    async fn bootstrap(
        &self,
        request: Request<v1::BootstrapRequest>,
    ) -> Result<Response<v1::BootstrapResponse>, Status> {
        let refused = match seed(&request.into_inner()) {
            Err(e) => Some(invalid(e)),
            Ok(seed) => self
                .node
                .bootstrap(seed)
                .await
                .err()
                .map(|why| refusal(Reason::WrongCluster, why)),
        };
        Ok(Response::new(v1::BootstrapResponse { refused }))
    }

    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        // A node that lags, or has no leader, is to be seen as such, and soon.
        let confirmed = self.node.env().timeout(CONFIRM_WITHIN, self.node.confirm()).await;
        let confirmed = confirmed.is_ok_and(|confirmed| confirmed.is_ok());
        let members = self.node.members().into_iter();
        Ok(Response::new(v1::StatusResponse {
            identity: Some(self.identity()),
            role: self.node.role().to_owned(),
            leader: self.node.leader(),
            description: describe(&self.node, confirmed),
            members: members
                .map(|(id, peer)| v1::Member {
                    node_id: id.get(),
                    name: peer.name,
                    address: peer.address,
                })
                .collect(),
            replicas: self.board.fresh(self.node.env()),
            disk: Some(self.disk()),
            fold: (self.node.role() == "leader").then(|| self.fold()),
        }))
    }
}
