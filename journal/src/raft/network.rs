//! Raft's calls to peers. Every request names the cluster and both incarnations (H6).

use super::checkpoint::Checkpoint;
use super::coalesce::coalesced;
use super::condition::{Condition, Conditions};
use super::types::{
    LogId, Peer, TypeConfig, Vote, entry_to_wire, log_id_from_wire, log_id_to_wire, vote_from_wire,
    vote_to_wire,
};
use futures_util::stream::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AnyError, OptionalSend};
use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_proto::v1::raft_client::RaftClient;
use redoubt_types::limits::{GRPC_MESSAGE_BYTES_MAX, RPC_DEADLINE};
use redoubt_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;

/// Makes connections to peers.
pub(super) struct Network {
    pub(super) env: Env,
    pub(super) cluster: ClusterId,
    pub(super) me: NodeId,
    pub(super) conditions: Conditions,
}

/// The connection to one peer.
pub(super) struct Connection {
    env: Env,
    envelope: v1::RaftEnvelope,
    address: String,
    client: RaftClient<Channel>,
    me: u64,
    target: u64,
    /// Attempts to stream in a row that brought no answer.
    failures: Arc<AtomicU32>,
    /// Whether it waits after failed attempts.
    pauses: bool,
    conditions: Conditions,
}

/// How long a peer may take to take a stream of entries. More than a heartbeat: the first batch may be large,
/// and the peer may be at something else.
const STREAM_DEADLINE: Duration = RPC_DEADLINE;
/// Pause after a first failed attempt; it doubles. openraft by itself tries an unreachable peer again
/// without any.
const STREAM_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause between attempts: what a node that comes back waits for at most.
const STREAM_PAUSE_MAX: Duration = Duration::from_millis(300);

/// How long a peer may take to take a state.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(10);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Connection {
        Connection {
            env: self.env.clone(),
            envelope: envelope(self.cluster, self.me, target),
            address: node.address.clone(),
            client: raft_client(&self.env, &node.address),
            me: self.me.get(),
            target,
            failures: Arc::default(),
            pauses: true,
            conditions: self.conditions.clone(),
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Connection {
        // A heartbeat has its own pace, and little time: a pause would use up all of it, for the rest of the term.
        Connection {
            pauses: false,
            ..self.new_client(target, node).await
        }
    }
}

pub(super) fn envelope(cluster: ClusterId, from: NodeId, to: u64) -> v1::RaftEnvelope {
    v1::RaftEnvelope {
        cluster_id: cluster.to_string(),
        from_node: from.get(),
        to_node: to,
    }
}

/// Whether a peer's request was meant for the node `me` of `cluster`: for this incarnation of it (H6).
///
/// # Errors
/// A sentence for the peer's log.
pub(super) fn meant_for(
    envelope: Option<&v1::RaftEnvelope>,
    cluster: &str,
    me: NodeId,
) -> Result<(), String> {
    let envelope = envelope.ok_or("field `envelope` is missing")?;
    if redoubt_env::planted::on("h06_any_incarnation") {
        return Ok(());
    }
    if envelope.cluster_id != cluster {
        return Err(format!(
            "meant for cluster {}, this node is of {cluster:?}",
            envelope.cluster_id
        ));
    }
    if envelope.to_node != me.get() {
        return Err(format!(
            "meant for incarnation {:016x}, this is {me}",
            envelope.to_node
        ));
    }
    Ok(())
}

fn raft_client(env: &Env, address: &str) -> RaftClient<Channel> {
    RaftClient::new(crate::server::channel(env, address))
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

/// Peers by address, for calls that are not replication. A connection is made once, and again when it breaks.
pub(super) struct Peers {
    env: Env,
    clients: Mutex<BTreeMap<String, RaftClient<Channel>>>,
}

impl Peers {
    pub(super) fn new(env: Env) -> Self {
        Peers {
            env,
            clients: Mutex::default(),
        }
    }

    /// The peer at `address`.
    pub(super) fn at(&self, address: &str) -> RaftClient<Channel> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return client.clone();
        }
        let client = raft_client(&self.env, address);
        clients.insert(address.to_owned(), client.clone());
        client
    }
}

fn unreachable(status: tonic::Status) -> RPCError<TypeConfig> {
    match status.code() {
        tonic::Code::Unavailable => RPCError::Unreachable(Unreachable::new(&status)),
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}

fn malformed(what: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&AnyError::error(format!(
        "a peer's answer is malformed: {what}"
    ))))
}

fn refused(message: String) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(message)))
}

fn append_to_wire(
    envelope: &v1::RaftEnvelope,
    rpc: &AppendEntriesRequest<TypeConfig>,
) -> v1::RaftAppendRequest {
    v1::RaftAppendRequest {
        envelope: Some(envelope.clone()),
        vote: Some(vote_to_wire(&rpc.vote)),
        previous: rpc.prev_log_id.as_ref().map(log_id_to_wire),
        entries: rpc.entries.iter().map(entry_to_wire).collect(),
        committed: rpc.leader_commit.as_ref().map(log_id_to_wire),
    }
}

fn append_from_wire(
    r: v1::RaftAppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
    use v1::raft_append_response::Kind;
    Ok(match r.kind() {
        Kind::Success => AppendEntriesResponse::Success,
        Kind::Partial => AppendEntriesResponse::PartialSuccess(r.matching.as_ref().map(log_id_from_wire)),
        Kind::Conflict => AppendEntriesResponse::Conflict,
        Kind::HigherVote => match &r.vote {
            Some(vote) => AppendEntriesResponse::HigherVote(vote_from_wire(vote)),
            None => return Err(malformed("a higher vote is missing")),
        },
        Kind::Refused => return Err(refused(r.message)),
        Kind::Unspecified => return Err(malformed("it has no kind")),
    })
}

fn stream_result(r: v1::RaftAppendResponse) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
    use v1::raft_append_response::Kind;
    let matching = r.matching.as_ref().map(log_id_from_wire);
    Ok(match r.kind() {
        Kind::Success | Kind::Partial => Ok(matching),
        Kind::Conflict => match matching {
            Some(id) => Err(StreamAppendError::Conflict(id)),
            None => return Err(malformed("a conflict names no log id")),
        },
        Kind::HigherVote => match &r.vote {
            Some(vote) => Err(StreamAppendError::HigherVote(vote_from_wire(vote))),
            None => return Err(malformed("a higher vote is missing")),
        },
        Kind::Refused => return Err(refused(r.message)),
        Kind::Unspecified => return Err(malformed("it has no kind")),
    })
}

impl Connection {
    async fn deadline<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match self.env.timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(unreachable(status)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.me,
                target: self.target,
                timeout: limit,
            })),
        }
    }

    /// Before another attempt to stream: waits, the longer the more of them failed, and leaves the old connection
    /// behind. What was sent on streams that were given up still counts against a connection's window; a
    /// follower that came back could be kept out by that for ever.
    async fn after_failures(&mut self) {
        let failures = self.failures.load(Ordering::Relaxed);
        if failures > 0 {
            let pause = STREAM_PAUSE_MIN
                .saturating_mul(1 << (failures - 1).min(16))
                .min(STREAM_PAUSE_MAX);
            if self.pauses {
                self.env.sleep(pause).await;
            }
            self.client = raft_client(&self.env, &self.address);
        }
    }

    fn vote_request(&self, rpc: &VoteRequest<TypeConfig>) -> v1::RaftVoteRequest {
        v1::RaftVoteRequest {
            envelope: Some(self.envelope.clone()),
            vote: Some(vote_to_wire(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(log_id_to_wire),
            leadership_transfer: rpc.leadership_transfer,
        }
    }
}

fn vote_response(r: v1::RaftVoteResponse) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
    if let Some(why) = r.refused {
        return Err(refused(why));
    }
    let vote: Vote = r
        .vote
        .as_ref()
        .map(vote_from_wire)
        .ok_or_else(|| malformed("a vote is missing"))?;
    let last: Option<LogId> = r.last.as_ref().map(log_id_from_wire);
    Ok(VoteResponse::new(vote, last, r.granted))
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = Arc<Checkpoint>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = futures_util::stream::iter([append_to_wire(&self.envelope, &rpc)]);
        let mut client = self.client.clone();
        let call = async {
            let mut answers = client.append_entries(request).await?.into_inner();
            let answer = answers.message().await?;
            answer
                .map(tonic::Response::new)
                .ok_or_else(|| tonic::Status::unavailable("the stream ended"))
        };
        let answer = self.deadline(RPCTypes::AppendEntries, option.hard_ttl(), call);
        let answer = answer.await?;
        let condition = Condition::from_wire(answer.condition);
        self.conditions
            .board()
            .note(self.target, condition, self.env.now());
        append_from_wire(answer)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            self.after_failures().await;
            // Until the first answer, this attempt counts as failed.
            let failures = Arc::clone(&self.failures);
            failures.fetch_add(1, Ordering::Relaxed);
            let envelope = self.envelope.clone();
            let requests = coalesced(self.env.clone(), input).map(move |rpc| append_to_wire(&envelope, &rpc));
            let mut client = self.client.clone();
            let call = client.append_entries(requests);
            let limit = STREAM_DEADLINE.max(option.hard_ttl());
            let answers = self.deadline(RPCTypes::AppendEntries, limit, call).await?;
            let (conditions, env, target) = (self.conditions.clone(), self.env.clone(), self.target);
            let results = answers.map(move |answer| match answer {
                Ok(answer) => {
                    let condition = Condition::from_wire(answer.condition);
                    conditions.board().note(target, condition, env.now());
                    failures.store(0, Ordering::Relaxed);
                    stream_result(answer)
                }
                Err(status) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    Err(unreachable(status))
                }
            });
            Ok(Box::pin(results) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client.clone();
        let call = client.vote(self.vote_request(&rpc));
        vote_response(self.deadline(RPCTypes::Vote, option.hard_ttl(), call).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client.clone();
        let call = client.pre_vote(self.vote_request(&rpc));
        vote_response(self.deadline(RPCTypes::Vote, option.hard_ttl(), call).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Arc<Checkpoint>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let request = v1::RaftSnapshotRequest {
            envelope: Some(self.envelope.clone()),
            vote: Some(vote_to_wire(&vote)),
            state: snapshot.snapshot.encode().into(),
        };
        // A state of kilobytes; but a node that takes it writes it to its disk, which may be slow.
        let mut client = self.client.clone();
        let call = client.install_snapshot(request);
        let answer = self.env.timeout(SNAPSHOT_DEADLINE, call).await;
        let failed = |why: String| StreamingError::Unreachable(Unreachable::new(&AnyError::error(why)));
        let answer = answer.map_err(|e| failed(e.to_string()))?;
        let answer = answer
            .map_err(|status| failed(status.message().to_owned()))?
            .into_inner();
        match (answer.refused, &answer.vote) {
            (None, Some(vote)) => Ok(SnapshotResponse::new(vote_from_wire(vote))),
            (refused, _) => Err(failed(
                refused.unwrap_or_else(|| "its answer is empty".to_owned()),
            )),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = v1::RaftTransferRequest {
            envelope: Some(self.envelope.clone()),
            from_leader: Some(vote_to_wire(req.from_leader())),
            to: *req.to_node_id(),
            last: req.last_log_id().map(log_id_to_wire),
        };
        let mut client = self.client.clone();
        let call = client.transfer_leader(request);
        match self
            .deadline(RPCTypes::TransferLeader, option.hard_ttl(), call)
            .await?
            .refused
        {
            None => Ok(Ok(())),
            Some(why) => Err(refused(why)),
        }
    }
}
