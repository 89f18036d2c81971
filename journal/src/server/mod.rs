//! The gRPC edge of a node: messages in, nouns inside, messages out.

mod answer;
mod channel;
mod cluster;
mod journal;
mod replicas;

pub(crate) use channel::channel;

use crate::raft::{Node, NodeConfig, NodeError, RaftService, Repair};
use crate::segment::{Gap, OpenError};
use cluster::ClusterService;
use futures_util::stream::{self, Stream};
use journal::JournalService;
use redoubt_env::Env;
use redoubt_env::net::Listener;
use redoubt_proto::v1::cluster_server::ClusterServer;
use redoubt_proto::v1::journal_server::JournalServer;
use redoubt_proto::v1::raft_server::{Raft, RaftServer};
use redoubt_types::limits::{
    GRPC_CONNECTION_WINDOW_BYTES, GRPC_MESSAGE_BYTES_MAX, GRPC_STREAM_WINDOW_BYTES, RPC_DEADLINE,
};
use replicas::ReplicaBoard;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::sync::oneshot;
use tonic::transport::Server;

/// Runs a node until `stop` resolves or the node can't go on. Dropping the future is a crash.
///
/// # Errors
/// When the node can't start, or must end: a failed disk is final for the process.
pub async fn run(
    env: Env,
    config: NodeConfig,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), NodeError> {
    let mut stop = pin!(stop);
    let mut closed = Vec::new();
    let node = loop {
        match Node::open(env.clone(), config.clone()).await {
            Err(NodeError::Open(
                rot @ OpenError::Rot {
                    segment, position, ..
                },
            )) => {
                // What a patch did not mend, another will not.
                if closed.contains(&(segment, position)) {
                    return Err(rot.into());
                }
                match repair(&env, &config, rot, stop.as_mut()).await? {
                    Some(gaps) => closed.extend(gaps.iter().map(Gap::place)),
                    None => return Ok(()),
                }
            }
            opened => break opened?,
        }
    };
    // Listens only now that its state is what its log says: a connection that is accepted and not served would
    // have peers wait where they should look elsewhere.
    let listener = match listen(&env, node.config()).await {
        Ok(listener) => listener,
        Err(e) => {
            node.shutdown().await;
            return Err(e);
        }
    };
    let id = node.identity().node;
    tracing::info!(name = node.config().name, %id, address = node.config().address, "listening");
    let serving = serve(node.clone(), listener);
    let result = tokio::select! {
        biased; // an ordered stop is not a failure, whatever ends with it
        () = stop => Ok(()),
        error = node.failed() => Err(error),
        result = serving => result.map_err(|e| NodeError::Server(e.to_string())),
    };
    node.shutdown().await;
    result
}

/// Closes gaps of a log in which `rot` was found, and tells which. `None` when `stop` came first.
async fn repair(
    env: &Env,
    config: &NodeConfig,
    rot: OpenError,
    stop: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Option<Vec<Gap>>, NodeError> {
    tracing::error!("{rot}");
    let Some(repair) = Repair::open(env, config)? else {
        return Err(rot.into());
    };
    let listener = listen(env, config).await?;
    tracing::warn!("asks its peers for what is missing, and takes no part until it has that");
    let raft = RaftServer::new(repair.service());
    let (ends, ended) = oneshot::channel::<()>();
    // Its connections end with it: a peer that kept one would go on asking what answers nothing.
    let serving = server()
        .add_service(raft_limits(raft))
        .serve_with_incoming_shutdown(incoming(listener), async move { drop(ended.await) });
    let mut serving = pin!(serving);
    let repaired = tokio::select! {
        biased; // an ordered stop is not a failure
        () = stop => Ok(None),
        repaired = repair.run() => repaired.map(Some),
        result = &mut serving => return Err(NodeError::Server(result.map_or_else(|e| e.to_string(), |()| "it ended".to_owned()))),
    };
    drop(ends);
    if env.timeout(RPC_DEADLINE, serving).await.is_err() {
        tracing::debug!("a peer kept its connection to the repair");
    }
    repaired
}

async fn listen(env: &Env, config: &NodeConfig) -> Result<Box<dyn Listener>, NodeError> {
    let address = config.address.clone();
    let listener = env.net().listen(&address).await;
    listener.map_err(|source| NodeError::Listen { address, source })
}

fn incoming(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<channel::Incoming>> {
    stream::unfold(listener, |mut listener| async move {
        let accepted = listener
            .accept()
            .await
            .map(|(conn, _peer)| channel::Incoming::new(conn));
        Some((accepted, listener))
    })
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
}

fn raft_limits<T: Raft>(raft: RaftServer<T>) -> RaftServer<T> {
    raft.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

async fn serve(node: Arc<Node>, listener: Box<dyn Listener>) -> Result<(), tonic::transport::Error> {
    let board = Arc::new(ReplicaBoard::default());
    let journal = JournalServer::new(JournalService::new(node.clone(), board.clone()));
    let cluster = ClusterServer::new(ClusterService::new(node.clone(), board));
    let raft = RaftServer::new(RaftService::new(node));
    server()
        .add_service(journal.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
        .add_service(cluster.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
        .add_service(raft_limits(raft))
        .serve_with_incoming(incoming(listener))
        .await
}
