//! The gRPC edge of a node: messages in, nouns inside, messages out.

mod answer;
mod base;
mod channel;
mod cluster;
mod journal;
mod replicas;

pub(crate) use channel::channel;
pub(crate) use journal::JOURNAL;

use crate::raft::{Node, NodeConfig, NodeError, RaftService, Repair};
use crate::segment::{DiskTally, Gap, OpenError};
use cluster::ClusterService;
use futures_util::stream::{self, Stream};
use journal::JournalService;
use redoubt_env::Env;
use redoubt_env::net::Listener;
use redoubt_proto::v1::cluster_server::ClusterServer;
use redoubt_proto::v1::journal_server::JournalServer;
use redoubt_proto::v1::raft_server::{Raft, RaftServer};
use redoubt_types::limits::{
    GRPC_CONNECTION_WINDOW_BYTES, GRPC_FRAME_BYTES_MAX, GRPC_MESSAGE_BYTES_MAX, GRPC_STREAM_WINDOW_BYTES,
};
use replicas::ReplicaBoard;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::sync::watch;
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
    let mut tally = DiskTally::default();
    loop {
        let Some((node, repaired)) = open(&env, &config, stop.as_mut()).await? else {
            return Ok(());
        };
        tally.ranges_repaired += repaired;
        let (life, counted) = live(&env, node, tally, stop.as_mut()).await?;
        tally = tally + counted;
        match life {
            Life::Stopped => return Ok(()),
            Life::Repair => {}
        }
    }
}

/// How a node's life ended.
enum Life {
    /// It was asked to.
    Stopped,
    /// It is to be repaired and opened again.
    Repair,
}

/// Opens the node, repaired if need be, in so many ranges. `None` when `stop` came first.
async fn open(
    env: &Env,
    config: &NodeConfig,
    mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Option<(Arc<Node>, u64)>, NodeError> {
    let mut closed = Vec::new();
    loop {
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
                match repair(env, config, rot, stop.as_mut()).await? {
                    Some(gaps) => closed.extend(gaps.iter().map(Gap::place)),
                    None => return Ok(None),
                }
            }
            opened => return opened.map(|node| Some((node, closed.len() as u64))),
        }
    }
}

/// Serves until `stop` resolves, the node can't go on, or its disk is to be repaired. The node has ended in order then. `earlier`
/// was counted before; returns what was counted meanwhile.
async fn live(
    env: &Env,
    node: Arc<Node>,
    earlier: DiskTally,
    stop: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<(Life, DiskTally), NodeError> {
    // Listens only now that its state is what its log says: a connection that is accepted and not served would
    // have peers wait where they should look elsewhere.
    let listener = match listen(env, node.config()).await {
        Ok(listener) => listener,
        Err(e) => {
            node.shutdown().await;
            return Err(e);
        }
    };
    let id = node.identity().node;
    tracing::info!(name = node.config().name, %id, address = node.config().address, "listening");
    let (_alive, life) = watch::channel(());
    let serving = serve(node.clone(), earlier, listener, life);
    let result = tokio::select! {
        biased; // an ordered stop is not a failure, whatever ends with it
        () = stop => Ok(Life::Stopped),
        // A record that can't be read ends Raft too.
        error = node.failed() => if node.can_be_repaired() { Ok(Life::Repair) } else { Err(error) },
        rot = node.must_step_aside() => {
            tracing::warn!(path = %rot.path.display(), "steps aside, to repair what rotted");
            Ok(Life::Repair)
        }
        result = serving => result.map(|()| Life::Stopped).map_err(|e| NodeError::Server(e.to_string())),
    };
    let in_order = node.shutdown().await;
    match result? {
        // A life that has not ended may give a vote that the next one knows nothing of (H5).
        Life::Repair if !in_order => Err(NodeError::Raft("it did not end in order".into())),
        life => Ok((life, node.tally())),
    }
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
    let (_alive, life) = watch::channel(());
    let serving = server()
        .add_service(raft_limits(raft))
        .serve_with_incoming(incoming(listener, life));
    tokio::select! {
        biased; // an ordered stop is not a failure
        () = stop => Ok(None),
        repaired = repair.run() => repaired.map(Some),
        result = serving => Err(NodeError::Server(result.map_or_else(|e| e.to_string(), |()| "it ended".to_owned()))),
    }
}

async fn listen(env: &Env, config: &NodeConfig) -> Result<Box<dyn Listener>, NodeError> {
    let address = config.address.clone();
    let listener = env.net().listen(&address).await;
    listener.map_err(|source| NodeError::Listen { address, source })
}

/// Connections as they come; all of them break when the sender of `life` is dropped.
fn incoming(
    listener: Box<dyn Listener>,
    life: watch::Receiver<()>,
) -> impl Stream<Item = io::Result<channel::Incoming>> {
    stream::unfold((listener, life), |(mut listener, life)| async move {
        let accepted = listener
            .accept()
            .await
            .map(|(conn, _peer)| channel::Incoming::new(conn, life.clone()));
        Some((accepted, (listener, life)))
    })
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
        .max_frame_size(GRPC_FRAME_BYTES_MAX)
}

fn raft_limits<T: Raft>(raft: RaftServer<T>) -> RaftServer<T> {
    raft.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

async fn serve(
    node: Arc<Node>,
    earlier: DiskTally,
    listener: Box<dyn Listener>,
    life: watch::Receiver<()>,
) -> Result<(), tonic::transport::Error> {
    let board = Arc::new(ReplicaBoard::default());
    let journal = JournalServer::new(JournalService::new(node.clone(), board.clone()));
    let cluster = ClusterServer::new(ClusterService::new(node.clone(), board, earlier));
    let raft = RaftServer::new(RaftService::new(node));
    server()
        .add_service(journal.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
        .add_service(cluster.max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
        .add_service(raft_limits(raft))
        .serve_with_incoming(incoming(listener, life))
        .await
}
