//! `redoubt.v1.Cluster`: identity, bootstrap, status.

use super::answer::{invalid, refusal};
use super::journal::describe;
use super::replicas::ReplicaBoard;
use crate::raft::Node;
use crate::segment::{ClusterMembershipSeed, SeedMember};
use redoubt_proto::v1::cluster_server::Cluster;
use redoubt_proto::{InvalidField, cluster_id, node_id, replid, v1};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use v1::Reason;

/// Members of a first membership at most: Raft groups larger than this only get slower.
const MEMBERS_MAX: usize = 9;

/// How long Status waits for a quorum's word.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct ClusterService {
    node: Arc<Node>,
    board: Arc<ReplicaBoard>,
}

impl ClusterService {
    pub(super) fn new(node: Arc<Node>, board: Arc<ReplicaBoard>) -> Self {
        ClusterService { node, board }
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
        }))
    }
}
