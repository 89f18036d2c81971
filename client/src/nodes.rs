//! One lazily made HTTP/2 channel to each node and one for each tail, over the network seam, and what is known of the
//! nodes' health.

use crate::health::{Health, Hunt, Next, Want};
use hyper_util::rt::TokioIo;
use redoubt_env::{Env, planted};
use redoubt_proto::v1::cluster_client::ClusterClient;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_types::limits::{
    CONNECT_DEADLINE, GRPC_CONNECTION_WINDOW_BYTES, GRPC_FRAME_BYTES_MAX, GRPC_MESSAGE_BYTES_MAX,
    GRPC_STREAM_WINDOW_BYTES, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, TAIL_WINDOW_BYTES,
};
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

/// Why a node gave no usable answer, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let mut text = status.message().to_owned();
        // tonic says no more than "transport error"; the cause is at the end of the chain.
        let mut cause = status.source();
        while let Some(e) = cause {
            if e.source().is_none() {
                text = format!("{text}: {e}");
            }
            cause = e.source();
        }
        if text.is_empty() {
            text = format!("gRPC status {:?}", status.code());
        }
        Fault(text)
    }
}

impl From<redoubt_proto::InvalidField> for Fault {
    fn from(e: redoubt_proto::InvalidField) -> Self {
        Fault(format!("unusable answer: {e}"))
    }
}

/// The configured nodes.
pub(crate) struct Nodes {
    env: Env,
    endpoints: Vec<String>,
    channels: Vec<OnceLock<Channel>>,
    health: Mutex<Health>,
}

impl Nodes {
    /// No I/O is done before the first request.
    pub(crate) fn new(env: Env, endpoints: Vec<String>) -> Self {
        let channels = endpoints.iter().map(|_| OnceLock::new()).collect();
        // Clients begin at different nodes, so that tails and questions spread.
        let first = (env.random_nonzero() % endpoints.len().max(1) as u64) as usize;
        let health = Mutex::new(Health::new(endpoints.len(), first));
        Nodes {
            env,
            endpoints,
            channels,
            health,
        }
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// The node's `host:port`.
    pub(crate) fn endpoint(&self, node: usize) -> &str {
        &self.endpoints[node]
    }

    /// The node at `endpoint`, if it is configured.
    pub(crate) fn find(&self, endpoint: &str) -> Option<usize> {
        self.endpoints.iter().position(|e| e == endpoint)
    }

    /// What is known of the nodes' health.
    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next step of `hunt`.
    pub(crate) fn next(&self, hunt: &mut Hunt) -> Next {
        hunt.next(&self.health(), self.env.now())
    }

    /// A hunt for `want` over these nodes.
    pub(crate) fn hunt(&self, want: Want) -> Hunt {
        Hunt::new(want, self.len())
    }

    /// The node failed: masks it.
    pub(crate) fn failed(&self, node: usize, fault: &Fault) {
        tracing::debug!(
            node = self.endpoint(node),
            reason = fault.0,
            "journal node failed"
        );
        let now = self.env.now();
        self.health().failed(node, now);
    }

    /// The node said that another one leads: `hint`, if it named one that is configured.
    pub(crate) fn not_leader(&self, node: usize, hint: Option<&str>) {
        let hint = hint.and_then(|h| self.find(h)).filter(|h| *h != node);
        let mut health = self.health();
        health.answered(node);
        health.not_leader(node);
        if let Some(leader) = hint {
            health.leader_is(leader);
        }
    }

    /// The node acted as the leader.
    pub(crate) fn led(&self, node: usize) {
        let mut health = self.health();
        health.answered(node);
        health.leader_is(node);
    }

    /// The journal service of a node.
    pub(crate) fn journal(&self, node: usize) -> Result<JournalClient<Channel>, Fault> {
        Ok(JournalClient::new(self.channel(node)?)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    /// The journal service of a node over a connection of its own, for one tail. Over a shared one, a few tails whose
    /// consumers don't read would take its whole window, and everybody else would hear nothing.
    pub(crate) fn journal_for_tail(&self, node: usize) -> Result<JournalClient<Channel>, Fault> {
        if planted::on("tails_share_a_connection") {
            return self.journal(node);
        }
        let channel = self.connect(node, TAIL_WINDOW_BYTES, TAIL_WINDOW_BYTES)?;
        Ok(JournalClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    /// The cluster service of a node.
    pub(crate) fn cluster(&self, node: usize) -> Result<ClusterClient<Channel>, Fault> {
        Ok(ClusterClient::new(self.channel(node)?).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    /// Awaits the answer of one RPC, for `within` at most.
    pub(crate) async fn within<T>(
        &self,
        within: Duration,
        rpc: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Fault> {
        match self.env.timeout(within, rpc).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(status.into()),
            Err(elapsed) => Err(Fault(elapsed.to_string())),
        }
    }

    fn channel(&self, node: usize) -> Result<Channel, Fault> {
        if let Some(channel) = self.channels[node].get() {
            return Ok(channel.clone());
        }
        let channel = self.connect(node, GRPC_STREAM_WINDOW_BYTES, GRPC_CONNECTION_WINDOW_BYTES)?;
        Ok(self.channels[node].get_or_init(|| channel).clone())
    }

    /// A channel that connects when it is first used, with these windows of a stream and of the whole connection.
    fn connect(&self, node: usize, of_stream: u32, of_connection: u32) -> Result<Channel, Fault> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoints[node]))
            .map_err(|e| Fault(format!("`{}` is no host:port: {e}", self.endpoints[node])))?
            .initial_stream_window_size(of_stream)
            .initial_connection_window_size(of_connection)
            .max_frame_size(GRPC_FRAME_BYTES_MAX)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let (env, address) = (self.env.clone(), self.endpoints[node].clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (env, address) = (env.clone(), address.clone());
            async move {
                match env.timeout(CONNECT_DEADLINE, env.net().connect(&address)).await {
                    Ok(connected) => connected.map(TokioIo::new),
                    Err(elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)),
                }
            }
        });
        Ok(endpoint.connect_with_connector_lazy(connector))
    }
}
