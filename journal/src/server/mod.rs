//! The gRPC edge of a node: messages in, nouns inside, messages out.

mod answer;
mod channel;
mod cluster;
mod journal;
mod replicas;

pub(crate) use channel::channel;

use crate::raft::{Node, NodeConfig, NodeError, RaftService};
use cluster::ClusterService;
use futures_util::stream;
use journal::JournalService;
use redoubt_env::Env;
use redoubt_env::net::Listener;
use redoubt_proto::v1::cluster_server::ClusterServer;
use redoubt_proto::v1::journal_server::JournalServer;
use redoubt_proto::v1::raft_server::RaftServer;
use redoubt_types::limits::{GRPC_CONNECTION_WINDOW_BYTES, GRPC_MESSAGE_BYTES_MAX, GRPC_STREAM_WINDOW_BYTES};
use replicas::ReplicaBoard;
use std::sync::Arc;

/// Runs a node until `stop` resolves or the node can't go on. Dropping the future is a crash.
///
/// # Errors
/// When the node can't start, or must end: a failed disk is final for the process.
pub async fn run(
    env: Env,
    config: NodeConfig,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), NodeError> {
    let node = Node::open(env.clone(), config).await?;
    // Listens only now that its state is what its log says: a connection that is accepted and not served would
    // have peers wait where they should look elsewhere.
    let address = node.config().address.clone();
    let listener = match env.net().listen(&address).await {
        Ok(listener) => listener,
        Err(source) => {
            node.shutdown().await;
            return Err(NodeError::Listen { address, source });
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

async fn serve(node: Arc<Node>, listener: Box<dyn Listener>) -> Result<(), tonic::transport::Error> {
    let board = Arc::new(ReplicaBoard::default());
    let incoming = stream::unfold(listener, |mut listener| async move {
        let accepted = listener
            .accept()
            .await
            .map(|(conn, _peer)| channel::Incoming::new(conn));
        Some((accepted, listener))
    });
    let journal = JournalServer::new(JournalService::new(node.clone(), board.clone()));
    let cluster = ClusterServer::new(ClusterService::new(node.clone(), board));
    let raft = RaftServer::new(RaftService::new(node));
    tonic::transport::Server::builder()
        .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
        .add_service(journal.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
        .add_service(cluster.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
        .add_service(
            raft.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming(incoming)
        .await
}
