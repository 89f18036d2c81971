//! Raft's calls from peers. What was not meant for this incarnation of this cluster is refused (H6).

use super::checkpoint::Checkpoint;
use super::condition::Condition;
use super::machine::snapshot_of;
use super::node::Node;
use super::types::{
    TypeConfig, entry_from_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};
use futures_util::stream::{self, BoxStream, StreamExt};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use redoubt_proto::v1;
use redoubt_proto::v1::raft_append_response::Kind;
use redoubt_proto::v1::raft_server::Raft;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{Request, Response, Status, Streaming};

/// The gRPC service between nodes.
pub struct RaftService {
    node: Arc<Node>,
}

impl RaftService {
    /// The service of `node`.
    pub fn new(node: Arc<Node>) -> Self {
        RaftService { node }
    }
}

fn append_refused(message: String) -> v1::RaftAppendResponse {
    v1::RaftAppendResponse {
        kind: Kind::Refused as i32,
        message,
        ..Default::default()
    }
}

fn append_answer(result: StreamAppendResult<TypeConfig>) -> v1::RaftAppendResponse {
    let (kind, matching, vote) = match result {
        Ok(id) => (Kind::Success, id, None),
        Err(StreamAppendError::Conflict(id)) => (Kind::Conflict, Some(id), None),
        Err(StreamAppendError::HigherVote(vote)) => (Kind::HigherVote, None, Some(vote)),
    };
    v1::RaftAppendResponse {
        kind: kind as i32,
        matching: matching.as_ref().map(log_id_to_wire),
        vote: vote.as_ref().map(vote_to_wire),
        ..Default::default()
    }
}

fn append_request(request: v1::RaftAppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, String> {
    let vote = request
        .vote
        .as_ref()
        .map(vote_from_wire)
        .ok_or("field `vote` is missing")?;
    let entries = request
        .entries
        .into_iter()
        .map(entry_from_wire)
        .collect::<Result<Vec<_>, _>>();
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: request.previous.as_ref().map(log_id_from_wire),
        entries: entries.map_err(|e| e.to_string())?,
        leader_commit: request.committed.as_ref().map(log_id_from_wire),
    })
}

fn vote_request(request: &v1::RaftVoteRequest) -> Result<VoteRequest<TypeConfig>, String> {
    let vote = request
        .vote
        .as_ref()
        .map(vote_from_wire)
        .ok_or("field `vote` is missing")?;
    let last = request.last.as_ref().map(log_id_from_wire);
    Ok(VoteRequest {
        leadership_transfer: request.leadership_transfer,
        ..VoteRequest::new(vote, last)
    })
}

impl RaftService {
    async fn voted(&self, request: v1::RaftVoteRequest, pre: bool) -> Result<v1::RaftVoteResponse, String> {
        let raft = self.node.meant_for_us(request.envelope.as_ref())?;
        let rpc = vote_request(&request)?;
        let answer = if pre {
            raft.pre_vote(rpc).await
        } else {
            raft.vote(rpc).await
        };
        let answer = answer.map_err(|e| e.to_string())?;
        Ok(v1::RaftVoteResponse {
            vote: Some(vote_to_wire(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(log_id_to_wire),
            refused: None,
        })
    }
}

fn or_vote_refused(result: Result<v1::RaftVoteResponse, String>) -> Response<v1::RaftVoteResponse> {
    Response::new(result.unwrap_or_else(|why| v1::RaftVoteResponse {
        refused: Some(why),
        ..Default::default()
    }))
}

/// The answer to a node whose records can't be had from here.
pub(super) fn fetch_refused(why: String) -> v1::RaftFetchResponse {
    v1::RaftFetchResponse {
        refused: Some(why),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendEntriesStream = BoxStream<'static, Result<v1::RaftAppendResponse, Status>>;

    async fn append_entries(
        &self,
        request: Request<Streaming<v1::RaftAppendRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Ok(Response::new(stream::empty().boxed()));
        };
        let raft = match self.node.meant_for_us(first.envelope.as_ref()) {
            Ok(raft) => raft,
            Err(why) => return Ok(Response::new(stream::iter([Ok(append_refused(why))]).boxed())),
        };
        // A request that can't be taken ends the input; its refusal follows the answers to those before it.
        let broken = Arc::new(Mutex::new(None));
        let (node, sink) = (self.node.clone(), broken.clone());
        let taken = stream::iter([Ok(first)])
            .chain(requests)
            .map(move |request: Result<_, Status>| {
                let request = request.map_err(|status| status.to_string())?;
                node.meant_for_us(request.envelope.as_ref())?;
                // A storage that is given what it has no room for fails for good.
                if !request.entries.is_empty() && node.condition() == Condition::Full {
                    return Err("this node's disk is full".to_owned());
                }
                append_request(request)
            });
        let input = taken.scan((), move |(), request| {
            std::future::ready(match request {
                Ok(request) => Some(request),
                Err(why) => {
                    *sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    None
                }
            })
        });
        let answers = raft.stream_append(input).map(|result| match result {
            Ok(answer) => Ok(append_answer(answer)),
            Err(fatal) => Ok(append_refused(fatal.to_string())),
        });
        let last = stream::once(async move { broken.lock().unwrap_or_else(PoisonError::into_inner).take() })
            .filter_map(async |why| why.map(|why| Ok(append_refused(why))));
        let node = self.node.clone();
        let answers = answers.chain(last).map(move |answer| {
            answer.map(|answer: v1::RaftAppendResponse| v1::RaftAppendResponse {
                condition: node.condition().to_wire() as i32,
                ..answer
            })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(
        &self,
        request: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftVoteResponse>, Status> {
        Ok(or_vote_refused(self.voted(request.into_inner(), false).await))
    }

    async fn pre_vote(
        &self,
        request: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftVoteResponse>, Status> {
        Ok(or_vote_refused(self.voted(request.into_inner(), true).await))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::RaftTransferRequest>,
    ) -> Result<Response<v1::RaftTransferResponse>, Status> {
        let request = request.into_inner();
        let result = async {
            let raft = self.node.meant_for_us(request.envelope.as_ref())?;
            let from = request
                .from_leader
                .as_ref()
                .map(vote_from_wire)
                .ok_or("field `from_leader` is missing")?;
            let last = request.last.as_ref().map(log_id_from_wire);
            let transfer = TransferLeaderRequest::new(from, request.to, last);
            let answer = raft
                .handle_transfer_leader(transfer)
                .await
                .map_err(|e| e.to_string())?;
            answer.map_err(|e| e.to_string())
        };
        Ok(Response::new(v1::RaftTransferResponse {
            refused: result.await.err(),
        }))
    }

    async fn read_index(
        &self,
        request: Request<v1::RaftReadIndexRequest>,
    ) -> Result<Response<v1::RaftReadIndexResponse>, Status> {
        let result = async {
            let request = request.into_inner();
            self.node.meant_for_us(request.envelope.as_ref())?;
            let read = if request.whole_log {
                self.node.whole_log_as_leader().await
            } else {
                self.node.read_index_as_leader().await
            };
            read.map_err(|e| e.to_string())
        };
        let (read, refused) = match result.await {
            Ok(id) => (Some(log_id_to_wire(&id)), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Response::new(v1::RaftReadIndexResponse { read, refused }))
    }

    async fn fetch_entries(
        &self,
        request: Request<v1::RaftFetchRequest>,
    ) -> Result<Response<v1::RaftFetchResponse>, Status> {
        let request = request.into_inner();
        let result = async {
            self.node.meant_for_us(request.envelope.as_ref())?;
            self.node.fetch(request.first, request.end).await
        };
        Ok(Response::new(result.await.unwrap_or_else(fetch_refused)))
    }

    async fn current_vote(
        &self,
        request: Request<v1::RaftCurrentVoteRequest>,
    ) -> Result<Response<v1::RaftCurrentVoteResponse>, Status> {
        let result = async {
            let raft = self.node.meant_for_us(request.into_inner().envelope.as_ref())?;
            let vote = raft.with_raft_state(|state| *state.vote_ref()).await;
            vote.map_err(|fatal| fatal.to_string())
        };
        let (vote, refused) = match result.await {
            Ok(vote) => (Some(vote_to_wire(&vote)), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Response::new(v1::RaftCurrentVoteResponse { vote, refused }))
    }

    async fn holds_base(
        &self,
        request: Request<v1::RaftHoldsBaseRequest>,
    ) -> Result<Response<v1::RaftHoldsBaseResponse>, Status> {
        let request = request.into_inner();
        let result = async {
            self.node.meant_for_us(request.envelope.as_ref())?;
            let base = request.base.as_ref().ok_or("field `base` is missing")?;
            let base = redoubt_proto::base_from(base).map_err(|e| e.to_string())?;
            self.node.vouch_for(&base).await.map_err(|e| e.to_string())
        };
        Ok(Response::new(v1::RaftHoldsBaseResponse {
            refused: result.await.err(),
        }))
    }

    async fn install_snapshot(
        &self,
        request: Request<v1::RaftSnapshotRequest>,
    ) -> Result<Response<v1::RaftSnapshotResponse>, Status> {
        let request = request.into_inner();
        let result = async {
            let raft = self.node.meant_for_us(request.envelope.as_ref())?;
            let vote = request
                .vote
                .as_ref()
                .map(vote_from_wire)
                .ok_or("field `vote` is missing")?;
            let state = Checkpoint::decode(&request.state).ok_or("the state can't be read here")?;
            let at = state.standing.tail;
            let installed = raft
                .install_full_snapshot(vote, snapshot_of(Arc::new(state)))
                .await;
            let installed = installed.map_err(|fatal| fatal.to_string())?;
            tracing::info!(
                at = at.get(),
                "took the state that the leader's log begins behind"
            );
            Ok::<_, String>(installed.vote)
        };
        let (vote, refused) = match result.await {
            Ok(vote) => (Some(vote_to_wire(&vote)), None),
            Err(why) => (None, Some(why)),
        };
        Ok(Response::new(v1::RaftSnapshotResponse { vote, refused }))
    }
}
