//! Nodes of a journal in this process, over loopback.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several test binaries, each of which uses a part; what fails here fails a test"
)]

pub mod power;
pub mod writer;

use redoubt_env::{Env, Task};
use redoubt_journal::base::{FoldAfter, Retention};
use redoubt_journal::raft::{CheckpointEvery, MetadataStore, NodeConfig, NodeError};
use redoubt_journal::segment::Options;
use redoubt_proto::v1;
use redoubt_proto::v1::cluster_client::ClusterClient;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_types::{Chain, payload_crc};
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::transport::Channel;

pub const REPLID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub const RUN_ID: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// A node, as a membership lists it.
pub async fn member(client: &mut ClusterClient<Channel>) -> v1::Member {
    let id = client
        .identify(v1::IdentifyRequest {})
        .await
        .unwrap()
        .into_inner();
    v1::Member {
        node_id: id.node_id,
        name: id.name,
        address: id.address,
    }
}

/// What makes `members` the cluster `cluster_id`.
pub fn first_membership(cluster_id: &str, mut members: Vec<v1::Member>) -> v1::BootstrapRequest {
    members.sort_by_key(|m| m.node_id);
    v1::BootstrapRequest {
        cluster_id: cluster_id.to_owned(),
        replid: REPLID.into(),
        members,
    }
}

pub struct RunningNode {
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    task: Option<Task<Result<(), NodeError>>>,
}

impl RunningNode {
    /// Starts a node; `address` is `127.0.0.1:0` the first time.
    pub async fn start(env: &Env, name: &str, dir: &Path, address: &str) -> RunningNode {
        Self::start_with(env, name, dir, address, Retention::default()).await
    }

    pub async fn start_with(
        env: &Env,
        name: &str,
        dir: &Path,
        address: &str,
        retention: Retention,
    ) -> RunningNode {
        let address = if address.ends_with(":0") {
            free_address()
        } else {
            address.to_owned()
        };
        let config = NodeConfig {
            name: name.to_owned(),
            address: address.clone(),
            dir: dir.to_owned(),
            storage: Options {
                segment_bytes: 1 << 20,
                zero_ahead_bytes: 1 << 16,
                ..Options::default()
            },
            metadata: MetadataStore::Sled,
            checkpoint_every: CheckpointEvery {
                entries: 8,
                bytes: 4096,
            },
            fold_after: FoldAfter::default(),
            retention,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let run = redoubt_journal::server::run(env.clone(), config, async move { drop(stopped.await) });
        let node = RunningNode {
            address,
            stop: Some(stop),
            task: Some(env.spawn(run)),
        };
        node.wait_listening().await;
        node
    }

    async fn wait_listening(&self) {
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(&self.address).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not listen", self.address);
    }

    /// Stops the node in order.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            task.await.expect("the node panicked").expect("the node failed");
        }
    }

    pub async fn journal(&self) -> JournalClient<Channel> {
        JournalClient::connect(format!("http://{}", self.address))
            .await
            .unwrap()
    }

    pub async fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::connect(format!("http://{}", self.address))
            .await
            .unwrap()
    }
}

pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Three nodes that make one cluster.
pub struct Trio {
    pub env: Env,
    pub nodes: Vec<RunningNode>,
    pub dirs: Vec<tempfile::TempDir>,
    pub cluster_id: String,
    pub retention: Retention,
}

impl Trio {
    pub async fn start() -> Trio {
        Self::start_with(Retention::default()).await
    }

    /// Starts node `i` again, on its directory and at its address.
    pub async fn start_again(&mut self, i: usize) {
        let (env, address) = (self.env.clone(), self.nodes[i].address.clone());
        let (dir, retention) = (self.dirs[i].path(), self.retention);
        self.nodes[i] = RunningNode::start_with(&env, &format!("n{i}"), dir, &address, retention).await;
    }

    pub async fn start_with(retention: Retention) -> Trio {
        let env = Env::real();
        let mut trio = Trio {
            env: env.clone(),
            nodes: Vec::new(),
            dirs: Vec::new(),
            cluster_id: "ab".repeat(16),
            retention,
        };
        for i in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            trio.nodes.push(
                RunningNode::start_with(&env, &format!("n{i}"), dir.path(), "127.0.0.1:0", retention).await,
            );
            trio.dirs.push(dir);
        }
        let request = trio.bootstrap_request().await;
        for node in &trio.nodes {
            let answer = node
                .cluster()
                .await
                .bootstrap(request.clone())
                .await
                .unwrap()
                .into_inner();
            assert_eq!(answer.refused, None);
        }
        trio
    }

    pub async fn bootstrap_request(&self) -> v1::BootstrapRequest {
        let mut members = Vec::new();
        for node in &self.nodes {
            members.push(member(&mut node.cluster().await).await);
        }
        first_membership(&self.cluster_id, members)
    }

    /// Asks every node in turn until one answers as the leader does.
    pub async fn acquire(&self, holder: u64) -> (usize, v1::Grant) {
        use v1::acquire_writer_response::Outcome;
        let mut last = None;
        for _ in 0..400 {
            for (i, node) in self.nodes.iter().enumerate() {
                let request = v1::AcquireWriterRequest {
                    journal: "default".into(),
                    holder,
                    holder_name: "test".into(),
                    lease_ms: 500,
                    ..Default::default()
                };
                let Ok(mut client) = JournalClient::connect(format!("http://{}", node.address)).await else {
                    continue;
                };
                match client
                    .acquire_writer(request)
                    .await
                    .map(|r| r.into_inner().outcome)
                {
                    Ok(Some(Outcome::Grant(grant))) => return (i, grant),
                    other => last = Some(format!("{other:?}")),
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no writer was granted: {last:?}");
    }
}

/// An append with everything right.
pub fn append(epoch: u64, replid: &str, start: u64, chain: Chain, payload: &[u8]) -> v1::AppendRequest {
    v1::AppendRequest {
        request_id: start,
        journal: "default".into(),
        entry: Some(v1::Entry {
            epoch,
            replid: replid.into(),
            start,
            chain: chain.get(),
            payload: bytes::Bytes::copy_from_slice(payload),
            payload_crc: payload_crc(payload),
            captured_wall_ms: 1,
        }),
        ..Default::default()
    }
}

/// Sends `requests` on one stream and collects the answers.
pub async fn send(node: &RunningNode, requests: Vec<v1::AppendRequest>) -> Vec<v1::AppendResponse> {
    let n = requests.len();
    let stream = futures_util::stream::iter(requests);
    let mut answers = node.journal().await.append(stream).await.unwrap().into_inner();
    let mut all = Vec::new();
    while all.len() < n {
        match answers.message().await.unwrap() {
            Some(answer) => all.push(answer),
            None => break,
        }
    }
    all
}

/// The end of an admitted entry and whether it was a duplicate; a refusal's reason otherwise.
pub fn outcome(answer: &v1::AppendResponse) -> Result<(u64, bool), v1::Reason> {
    use v1::append_response::Outcome;
    match answer.outcome.as_ref().unwrap() {
        Outcome::Admitted(a) => Ok((a.end, a.duplicate)),
        Outcome::Refused(r) => Err(r.reason()),
    }
}

/// Everything that a node serves from `from` to its confirmed tail. A node that has just started says that it
/// is not ready until it has heard of a leader; then it is asked again.
pub async fn tail(node: &RunningNode, from: u64) -> Vec<v1::TailResponse> {
    for _ in 0..200 {
        let request = v1::TailRequest {
            journal: "default".into(),
            from,
            ..Default::default()
        };
        let mut events = node.journal().await.tail(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            all.push(event);
        }
        match all.first().and_then(|e| e.event.as_ref()) {
            Some(v1::tail_response::Event::Refused(r)) if r.reason() == v1::Reason::NotReady => {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            _ => return all,
        }
    }
    panic!("{} never became ready", node.address);
}

/// The bytes of a tail.
pub fn bytes(events: &[v1::TailResponse]) -> Vec<u8> {
    let mut all = Vec::new();
    for event in events {
        if let Some(v1::tail_response::Event::Entry(e)) = &event.event {
            all.extend_from_slice(&e.entry.as_ref().unwrap().payload);
        }
    }
    all
}
