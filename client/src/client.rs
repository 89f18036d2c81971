//! The client: which nodes there are, what the journal says about itself, and the way to streams and writer
//! operations.

use crate::append::{AppendStart, Appender};
use crate::convert;
use crate::error::ClientError;
use crate::health::{Next, Want};
use crate::nodes::{Fault, Nodes};
use crate::nouns::{CheckFound, Description, NodeIdentity, NodeStatus, ReplicaReport};
use crate::reason::Reason;
use crate::refusal::{Refused, Verdicts};
use crate::tail::Tailer;
use futures_util::future::join_all;
use redoubt_env::Env;
use redoubt_proto::v1::{self, describe_response};
use redoubt_types::limits::RPC_DEADLINE;
use redoubt_types::{BootTime, Chain, ClusterId, JournalName, Offset};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Where the journal is.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Every node's `host:port`.
    pub endpoints: Vec<String>,
    /// The journal's name.
    pub journal: JournalName,
    /// The cluster that must answer. `None`: the first one that does, for the client's whole life.
    pub cluster: Option<ClusterId>,
}

/// A client of the journal, cheap to clone; clones share connections and what is known of the nodes.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) env: Env,
    pub(crate) nodes: Nodes,
    pub(crate) journal: String,
    /// As configured or as first learned: a client never talks to two clusters.
    pub(crate) cluster: OnceLock<ClusterId>,
}

impl Inner {
    /// The cluster's name for a request: empty while it is not known.
    pub(crate) fn cluster_id(&self) -> String {
        self.cluster.get().map(ToString::to_string).unwrap_or_default()
    }

    /// Remembers the cluster that answered.
    ///
    /// # Errors
    /// When another one is expected.
    pub(crate) fn pin(&self, cluster: ClusterId) -> Result<(), Refused> {
        let expected = *self.cluster.get_or_init(|| cluster);
        if expected == cluster {
            return Ok(());
        }
        let message = format!("the node belongs to cluster {cluster}, not to {expected}");
        Err(Refused {
            reason: Reason::WrongCluster,
            message,
            ..Refused::default()
        })
    }
}

/// Silence after which a check is given up: a node that waits for a slow disk says nothing meanwhile.
const CHECK_SILENCE_MAX: Duration = Duration::from_secs(60);

fn unavailable(fault: Fault) -> ClientError {
    ClientError::Unavailable(fault.0)
}

/// What one node answered to a question.
pub(crate) enum Answered<T> {
    /// The result.
    Done(T),
    /// A refusal.
    Refused(Refused),
}

impl Client {
    /// A client of the nodes in `config`. Does no I/O: connections are made when they are first needed.
    pub fn new(env: Env, config: ClientConfig) -> Self {
        let nodes = Nodes::new(env.clone(), config.endpoints);
        let cluster = config.cluster.map_or_else(OnceLock::new, OnceLock::from);
        let journal = config.journal.as_str().to_owned();
        Client {
            inner: Arc::new(Inner {
                env,
                nodes,
                journal,
                cluster,
            }),
        }
    }

    /// Where the journal stands, as a quorum vouches: asks the nodes in turn until one's answer is confirmed.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when there was none within `deadline`, [`ClientError::Refused`] when every
    /// node refused for good.
    pub async fn describe(&self, deadline: Duration) -> Result<Description, ClientError> {
        let nodes = &self.inner.nodes;
        let until = self.inner.env.now().plus(deadline);
        let mut verdicts = Verdicts::new(nodes.len());
        let mut hunt = nodes.hunt(Want::Leader);
        while let Some(left) = self.left(until) {
            let node = match nodes.next(&mut hunt) {
                Next::Node(node) => node,
                Next::Pause(pause) => {
                    self.inner.env.sleep(pause.min(left)).await;
                    continue;
                }
            };
            match self.describe_at(node, true, left.min(RPC_DEADLINE)).await {
                Ok(Answered::Done(found)) => {
                    self.note_leader(node, &found);
                    if found.confirmed {
                        return Ok(found);
                    }
                    verdicts.transient(node, "its answer is not confirmed by a quorum".to_owned());
                }
                Ok(Answered::Refused(refused)) => verdicts.refused(nodes, node, refused),
                Err(fault) => {
                    nodes.failed(node, &fault);
                    verdicts.transient(node, fault.0);
                }
            }
            if let Some(refused) = verdicts.final_for_all() {
                return Err(refused.into());
            }
        }
        Err(ClientError::Unavailable(verdicts.text(nodes)))
    }

    /// One node's own view, confirmed or not.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when the node does not answer, [`ClientError::Refused`] when it refuses.
    pub async fn describe_node(&self, endpoint: &str, confirm: bool) -> Result<Description, ClientError> {
        let node = self.node(endpoint)?;
        match self.describe_at(node, confirm, RPC_DEADLINE).await {
            Ok(Answered::Done(found)) => Ok(found),
            Ok(Answered::Refused(refused)) => Err(refused.into()),
            Err(fault) => Err(ClientError::Unavailable(fault.0)),
        }
    }

    /// An append stream of the current epoch that begins at `start`. Its task ends when it is dropped.
    pub fn appender(&self, start: AppendStart) -> Appender {
        Appender::new(Arc::clone(&self.inner), start)
    }

    /// A verified tail of the journal from `from` on; with `follow` it goes on for ever, otherwise up to the
    /// confirmed tail. Its task ends when it is dropped.
    pub fn tail(&self, from: Offset, follow: bool) -> Tailer {
        Tailer::new(self.clone(), from, follow)
    }

    /// Tells every node how far a replay's replicas are. Best effort: failures are not reported.
    pub async fn report_replicas(&self, replay: &str, replicas: &[ReplicaReport]) {
        let nodes = &self.inner.nodes;
        let now = self.inner.env.now();
        let request = v1::ReportReplicasRequest {
            cluster_id: self.inner.cluster_id(),
            journal: self.inner.journal.clone(),
            replay: replay.to_owned(),
            replicas: replicas.iter().map(convert::report_to).collect(),
        };
        let reports = (0..nodes.len()).map(|node| {
            let request = request.clone();
            async move {
                if nodes.health().is_masked(node, now) {
                    return;
                }
                let sent = async {
                    let mut journal = nodes.journal(node)?;
                    nodes.within(RPC_DEADLINE, journal.report_replicas(request)).await
                };
                if let Err(fault) = sent.await {
                    nodes.failed(node, &fault);
                }
            }
        });
        join_all(reports).await;
    }

    /// How every node is, by endpoint, in the configured order.
    pub async fn status(&self) -> Vec<(String, Result<NodeStatus, ClientError>)> {
        let nodes = &self.inner.nodes;
        join_all((0..nodes.len()).map(|node| async move {
            let request = v1::StatusRequest {
                journal: self.inner.journal.clone(),
            };
            let asked = async {
                let mut cluster = nodes.cluster(node)?;
                nodes.within(RPC_DEADLINE, cluster.status(request)).await
            };
            let status = match asked.await {
                Ok(status) => convert::status(&status).map_err(ClientError::from),
                Err(fault) => Err(ClientError::Unavailable(fault.0)),
            };
            (nodes.endpoint(node).to_owned(), status)
        }))
        .await
    }

    /// Has the node at `endpoint` read all that it holds, the journal up to `until`; `told` hears of what it finds.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when the node does not answer, or no more, [`ClientError::Refused`] when it refuses.
    pub async fn check(
        &self,
        endpoint: &str,
        until: Offset,
        mut told: impl FnMut(CheckFound),
    ) -> Result<(), ClientError> {
        use v1::check_response::Found;
        let nodes = &self.inner.nodes;
        let mut cluster = nodes.cluster(self.node(endpoint)?).map_err(unavailable)?;
        let request = v1::CheckRequest {
            journal: self.inner.journal.clone(),
            until: until.get(),
        };
        let opened = nodes.within(CHECK_SILENCE_MAX, cluster.check(request)).await;
        let mut events = opened.map_err(unavailable)?;
        loop {
            let event = self.inner.env.timeout(CHECK_SILENCE_MAX, events.message()).await;
            let event = event.map_err(|e| ClientError::Unavailable(e.to_string()))?;
            let event = event.map_err(|status| unavailable(status.into()))?;
            match event.and_then(|e| e.found) {
                Some(Found::Read(read)) => told(CheckFound::Read {
                    bytes: read.bytes,
                    of: read.of,
                }),
                Some(Found::Damage(what)) => told(CheckFound::Damage(what)),
                Some(Found::Unchecked(why)) => told(CheckFound::Unchecked(why)),
                Some(Found::Chain(chain)) => told(CheckFound::Chain(Chain::from_u64(chain))),
                Some(Found::Refused(refused)) => return Err(Refused::from_wire(&refused).into()),
                None => return Ok(()),
            }
        }
    }

    /// Who the node at `endpoint` is.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when it does not answer, [`ClientError::Invalid`] when its answer can't be
    /// read.
    pub async fn identify(&self, endpoint: &str) -> Result<NodeIdentity, ClientError> {
        let node = self.node(endpoint)?;
        let found = self
            .identify_at(node, RPC_DEADLINE)
            .await
            .map_err(|f| ClientError::Unavailable(f.0))?;
        Ok(convert::identity(&found)?)
    }

    /// What is left until `until`, if anything.
    pub(crate) fn left(&self, until: BootTime) -> Option<Duration> {
        let left = until.since(self.inner.env.now());
        (!left.is_zero()).then_some(left)
    }

    pub(crate) async fn identify_at(
        &self,
        node: usize,
        within: Duration,
    ) -> Result<v1::IdentifyResponse, Fault> {
        let mut cluster = self.inner.nodes.cluster(node)?;
        self.inner
            .nodes
            .within(within, cluster.identify(v1::IdentifyRequest {}))
            .await
    }

    pub(crate) async fn describe_at(
        &self,
        node: usize,
        confirm: bool,
        within: Duration,
    ) -> Result<Answered<Description>, Fault> {
        let nodes = &self.inner.nodes;
        let request = v1::DescribeRequest {
            cluster_id: self.inner.cluster_id(),
            journal: self.inner.journal.clone(),
            confirm,
        };
        let mut journal = nodes.journal(node)?;
        match nodes.within(within, journal.describe(request)).await?.outcome {
            Some(describe_response::Outcome::Description(d)) => {
                let found = convert::description(&d)?;
                Ok(match self.inner.pin(found.cluster) {
                    Ok(()) => Answered::Done(found),
                    Err(refused) => Answered::Refused(refused),
                })
            }
            Some(describe_response::Outcome::Refused(r)) => Ok(Answered::Refused(Refused::from_wire(&r))),
            None => Err(Fault("its answer to Describe is empty".to_owned())),
        }
    }

    fn note_leader(&self, node: usize, found: &Description) {
        let nodes = &self.inner.nodes;
        match found.leader.as_deref().and_then(|l| nodes.find(l)) {
            Some(leader) if leader == node => nodes.led(node),
            Some(leader) => {
                let mut health = nodes.health();
                health.answered(node);
                health.leader_is(leader);
            }
            None => nodes.health().answered(node),
        }
    }

    pub(crate) fn node(&self, endpoint: &str) -> Result<usize, ClientError> {
        self.inner.nodes.find(endpoint).ok_or_else(|| {
            ClientError::Unavailable(format!("`{endpoint}` is not among the configured endpoints"))
        })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("journal", &self.inner.journal)
            .finish_non_exhaustive()
    }
}
