//! One node: its storage, its identity, and Raft once it belongs to a cluster.

use super::checkpoint::Checkpoint;
use super::condition::{Condition, Conditions};
use super::config::{NodeConfig, NodeError, ProposeError, open_metadata, raft_config};
use super::log_store::LogStore;
use super::machine::{JournalState, Machine, Progress};
use super::network::{Network, Peers, meant_for};
use super::pages::Pages;
use super::proposal::{Proposed, forward};
use super::repair::fetched;
use super::types::{Data, Peer, TypeConfig, log_id_from_disk};
use crate::append::{Command, Genesis, IndexEntry, Seek, Verdict};
use crate::base::{BaseStore, Turns};
use crate::segment::{
    Checked, ClusterMembershipSeed, DiskTally, Identity, LogId, LogRecord, ReadError, Recovered, Rot, Storage,
};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::impls::ProgressResponder;
use redoubt_env::{Env, Task};
use redoubt_proto::v1;
use redoubt_types::NodeId;
use redoubt_types::limits::{RAFT_BATCH_BYTES_MAX, RPC_DEADLINE};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

pub(super) type Raft = openraft::Raft<TypeConfig, Machine>;

/// How often a node looks whether the journal's first entry is still to be proposed.
const GENESIS_EVERY: Duration = Duration::from_millis(100);

/// Why a node ends whose Raft was begun and not finished.
const START_CUT: &str = "its start was cut short; started again, this node goes on from its disk";

/// Goes when Raft's start is cut short, by an error or because nobody waits for it any more. The node has to end then:
/// what was cut may have voted, and a second start in this process would begin with the vote that was there
/// before it, and could give another one in the same term (H5).
struct Unfinished<'a>(&'a watch::Sender<bool>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// A node of the journal.
pub struct Node {
    env: Env,
    config: NodeConfig,
    pub(super) storage: Storage,
    /// What followers told of their disks, while this node leads.
    pub(super) conditions: Conditions,
    recovered: Recovered,
    identity: Mutex<Identity>,
    pub(super) machine: Machine,
    /// The older parts of the index.
    pub(super) pages: Pages,
    peers: Peers,
    pub(super) bases: BaseStore,
    turns: Mutex<Turns>,
    raft: watch::Sender<Option<Raft>>,
    bootstrapping: tokio::sync::Mutex<()>,
    /// Raft's start was begun and not finished: see [`Unfinished`].
    start_cut: watch::Sender<bool>,
    genesis: Mutex<Option<Task<()>>>,
    stewards: Mutex<Vec<Task<()>>>,
}

impl Node {
    /// Opens the data directory, and starts Raft if the node belongs to a cluster.
    ///
    /// # Errors
    /// When the directory is locked, damaged below what is known durable, or of an unknown format.
    pub async fn open(env: Env, config: NodeConfig) -> Result<Arc<Node>, NodeError> {
        let metadata = open_metadata(&config)?;
        let options = config.storage;
        let (storage, recovered) = Storage::open(&env, &config.dir, &config.name, options, metadata)?;
        if recovered.truncated_bytes > 0 {
            tracing::warn!(
                bytes = recovered.truncated_bytes,
                "cut what a crash left unfinished at the log's end"
            );
        }
        let every = config.checkpoint_every;
        let cluster = recovered.identity.cluster.as_ref().map(|seed| seed.cluster);
        let committed = recovered.committed.as_ref().map(log_id_from_disk);
        let checkpoint = cluster.and_then(|c| Checkpoint::newest(&storage, committed, c));
        let beginning = match &recovered.beginning {
            None => None,
            Some(bytes) => Some(Checkpoint::decode(bytes).ok_or(NodeError::Beginning)?),
        };
        let state = JournalState::from(checkpoint.or_else(|| beginning.clone()), every, &env);
        let node = Arc::new(Node {
            machine: Machine::new(env.clone(), storage.clone(), state, beginning),
            pages: Pages::new(env.clone(), storage.clone(), every),
            peers: Peers::new(env.clone()),
            bases: BaseStore::open(&env, &config.dir).map_err(NodeError::Bases)?,
            turns: Mutex::default(),
            identity: Mutex::new(recovered.identity.clone()),
            raft: watch::Sender::new(None),
            bootstrapping: tokio::sync::Mutex::new(()),
            start_cut: watch::Sender::new(false),
            genesis: Mutex::new(None),
            stewards: Mutex::default(),
            conditions: Conditions::default(),
            env,
            config,
            storage,
            recovered,
        });
        let steward = node.env.spawn(Node::look_after(Arc::downgrade(&node)));
        let bases = node.env.spawn(Node::keep_bases(Arc::downgrade(&node)));
        *node.stewards.lock().unwrap_or_else(PoisonError::into_inner) = vec![steward, bases];
        let seed = node.identity().cluster.clone();
        if let Some(seed) = seed {
            node.start_raft(&seed).await?;
        }
        Ok(node)
    }

    /// What the node is told at start.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The environment.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The leader's book of folds.
    pub fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its identity.
    pub fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal's state on this node. Never held across an await.
    pub fn state(&self) -> MutexGuard<'_, JournalState> {
        self.machine.state()
    }

    /// Tells of every change of the tail or the lineage on this node.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.machine.progress()
    }

    /// Log records from `start` to before `end`, as many as fit into `max_bytes`, at least one.
    ///
    /// # Errors
    /// When a record is damaged on this node's disk, or can't be read.
    pub async fn records(&self, start: u64, end: u64, max_bytes: u64) -> Result<Vec<LogRecord>, ReadError> {
        self.storage.read(start, end, max_bytes).await
    }

    /// The admitted entries of whole groups as `seek` wants them, `most` at the most; none when the journal has none there
    /// yet.
    ///
    /// # Errors
    /// As for [`Node::records`].
    pub async fn index(&self, seek: Seek, most: usize) -> Result<Vec<IndexEntry>, ReadError> {
        self.pages.read(&self.machine, seek, most).await
    }

    /// The id of the last record, durable or not.
    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.storage.last_log_id()
    }

    /// Records from `first` to before `end`, for a peer that lacks them.
    pub(super) async fn fetch(&self, first: u64, end: u64) -> Result<v1::RaftFetchResponse, String> {
        // Before the read: what is committed by then is so for what is read.
        let committed_end = self.progress().borrow().applied_end;
        let before = first.checked_sub(1).and_then(|i| self.storage.log_id_at(i));
        let records = self.records(first, end, RAFT_BATCH_BYTES_MAX as u64).await;
        let last = self.last_log_id();
        fetched(records.map_err(|e| e.to_string())?, before, last, committed_end)
    }

    /// What went wrong on the disk since the node was opened.
    pub fn tally(&self) -> DiskTally {
        self.storage.tally()
    }

    /// Bytes of the log's files.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn log_bytes(&self) -> std::io::Result<u64> {
        self.storage.bytes()
    }

    /// Reads all files again, as of [`Storage::check`].
    pub fn check(&self, pace: &mut dyn FnMut(u64) -> bool) -> Checked {
        self.storage.check(pace)
    }

    /// Becomes `Some` with the first damage that is found on this node's disk.
    pub(super) fn rot(&self) -> watch::Receiver<Option<Rot>> {
        self.storage.rot()
    }

    /// Whether nothing is wrong with the disk but that something on it rotted: then the node need not end for good, since
    /// a repair mends that.
    pub fn can_be_repaired(&self) -> bool {
        self.storage.rot().borrow().is_some() && self.storage.failed().borrow().is_none()
    }

    /// Waits until the node can't go on; it must end then.
    pub async fn failed(&self) -> NodeError {
        let mut storage = self.storage.failed();
        let mut start_cut = self.start_cut.subscribe();
        let mut raft = self.raft.subscribe();
        let stopped = async {
            let Ok(Some(raft)) = raft.wait_for(Option::is_some).await.map(|r| r.clone()) else {
                return std::future::pending().await;
            };
            let mut metrics = raft.metrics();
            loop {
                if let Err(fatal) = &metrics.borrow_watched().running_state {
                    return NodeError::Raft(fatal.to_string());
                }
                if metrics.changed().await.is_err() {
                    return NodeError::Raft("its metrics ended".into());
                }
            }
        };
        tokio::select! {
            biased; // a failed disk is the cause when Raft stopped because of it
            failure = storage.wait_for(Option::is_some) => {
                NodeError::Storage(failure.ok().and_then(|f| f.as_ref().map(ToString::to_string)).unwrap_or_default())
            }
            error = stopped => error,
            _ = start_cut.wait_for(|cut| *cut) => NodeError::Raft(START_CUT.into()),
        }
    }

    /// Ends Raft, then the storage: its directory can be opened again afterwards, by this process only if both ended in
    /// order, which is what is returned. Else something may still act on what this node was.
    pub async fn shutdown(&self) -> bool {
        let raft = self.raft.borrow().clone();
        let mut in_order = true;
        if let Some(raft) = raft
            && raft.shutdown().await.is_err()
        {
            tracing::warn!("Raft did not end in order");
            in_order = false;
        }
        let (tx, closed) = oneshot::channel();
        self.storage.close(Box::new(move |result| drop(tx.send(result))));
        match closed.await {
            Ok(Ok(())) => in_order,
            Ok(Err(e)) => {
                tracing::warn!("the storage did not end in order: {e}");
                false
            }
            Err(_) => false,
        }
    }

    /// Makes this node a voter of a new cluster. The seed is durable before Raft starts and may vote; repeating
    /// it with the same content is the success that it was, or finishes what was cut: a caller that leaves may leave
    /// between the two.
    ///
    /// # Errors
    /// A sentence for people, when the seed is not for this node or the node belongs to another cluster.
    pub async fn bootstrap(&self, seed: ClusterMembershipSeed) -> Result<(), String> {
        let _one_at_a_time = self.bootstrapping.lock().await;
        let mut identity = self.identity().clone();
        match &identity.cluster {
            Some(old) if *old == seed => {
                if self.raft.borrow().is_some() {
                    return Ok(());
                }
                if *self.start_cut.borrow() {
                    return Err(START_CUT.to_owned());
                }
                return self.start_raft(&seed).await.map_err(|e| e.to_string());
            }
            Some(old) => {
                return Err(format!(
                    "{} belongs to cluster {} already",
                    self.config.name, old.cluster
                ));
            }
            None => {}
        }
        if !seed
            .members
            .iter()
            .any(|m| m.node == identity.node && m.name == identity.name)
        {
            return Err(format!(
                "the membership does not list this node: {} with id {}",
                identity.name, identity.node
            ));
        }
        identity.cluster = Some(seed.clone());
        let (tx, rx) = oneshot::channel();
        self.storage
            .save_identity(identity.clone(), Box::new(move |result| drop(tx.send(result))));
        rx.await
            .map_err(|_| "the storage thread has ended".to_owned())?
            .map_err(|e| e.to_string())?;
        *self.identity() = identity;
        self.start_raft(&seed).await.map_err(|e| e.to_string())
    }

    async fn start_raft(&self, seed: &ClusterMembershipSeed) -> Result<(), NodeError> {
        let fatal = |e: &dyn std::fmt::Display| NodeError::Raft(e.to_string());
        let me = self.identity().node;
        let network = Network {
            env: self.env.clone(),
            cluster: seed.cluster,
            me,
            conditions: self.conditions.clone(),
        };
        let unfinished = Unfinished(&self.start_cut);
        let store = LogStore::new(self.storage.clone(), &self.recovered, self.machine.clone());
        let config = Arc::new(raft_config(&seed.cluster.to_string()).map_err(|e| fatal(&e))?);
        let raft = Raft::new(me.get(), config, network, store, self.machine.clone())
            .await
            .map_err(|e| fatal(&e))?;
        // The same first membership on every node; a node whose log has begun refuses it, and is right.
        let members: BTreeMap<u64, Peer> = seed
            .members
            .iter()
            .map(|m| {
                (
                    m.node.get(),
                    Peer {
                        name: m.name.clone(),
                        address: m.address.clone(),
                    },
                )
            })
            .collect();
        match raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(e) => return Err(fatal(&e)),
        }
        let genesis = Command::Genesis(Genesis {
            cluster: seed.cluster,
            replid: seed.replid,
        });
        let keeper = propose_genesis(self.env.clone(), raft.clone(), self.machine.clone(), genesis);
        *self.genesis.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.env.spawn(keeper));
        self.raft.send_replace(Some(raft));
        std::mem::forget(unfinished);
        Ok(())
    }

    pub(super) fn raft(&self) -> Result<Raft, ProposeError> {
        self.raft.borrow().clone().ok_or(ProposeError::NotBootstrapped)
    }

    /// Peers, for calls that are not replication.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Raft, if a peer's request was meant for this incarnation of this cluster.
    pub(super) fn meant_for_us(&self, envelope: Option<&v1::RaftEnvelope>) -> Result<Raft, String> {
        {
            let identity = self.identity();
            let cluster = identity
                .cluster
                .as_ref()
                .map(|c| c.cluster.to_string())
                .unwrap_or_default();
            meant_for(envelope, &cluster, identity.node)?;
        }
        self.raft().map_err(|e| e.to_string())
    }

    /// `host:port` of the leader, if this node knows of one.
    pub fn leader(&self) -> Option<String> {
        let raft = self.raft().ok()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        metrics
            .membership_config
            .membership()
            .get_node(&id)
            .map(|p| p.address.clone())
    }

    /// `leader`, `follower`, `candidate`, `learner`, or `not bootstrapped`.
    pub fn role(&self) -> &'static str {
        let Ok(raft) = self.raft() else {
            return "not bootstrapped";
        };
        match raft.metrics().borrow_watched().state {
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopped",
        }
    }

    /// The members, by node id.
    pub fn members(&self) -> Vec<(NodeId, Peer)> {
        let Ok(raft) = self.raft() else { return Vec::new() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes
            .filter_map(|(id, peer)| Some((NodeId::new(*id)?, peer.clone())))
            .collect()
    }

    /// Whether this node leads and has applied an entry of its own term: only then does its state hold all
    /// that an earlier leader acknowledged, and may decide about a proposal (H1).
    /// Returns the term too.
    pub(super) fn leading(&self) -> Result<(Raft, u64), ProposeError> {
        let raft = self.raft()?;
        let term = {
            let leader = raft.as_leader().map_err(|f| forward(&f))?;
            leader.term()
        };
        if self.state().applied_term() != Some(term)
            && !redoubt_env::planted::on("h01_leader_before_its_term")
        {
            return Err(ProposeError::NotReady(
                "the leader has not applied an entry of its own term yet".into(),
            ));
        }
        Ok((raft, term))
    }

    /// Proposes a command. Proposals made one after the other reach the log in that order, or not at all.
    ///
    /// # Errors
    /// When this node may not propose; nothing was proposed then.
    pub async fn propose(&self, command: &Command) -> Result<Proposed, ProposeError> {
        let (raft, term) = self.leading()?;
        if matches!(command, Command::Append(_)) {
            self.admits_data(&raft, term)?;
        } else if self.condition() == Condition::Full {
            return Err(ProposeError::NoRoom);
        }
        let (responder, verdict) = ProgressResponder::complete_only();
        let enqueued = raft
            .client_write_ff(Data(command.encode()), Some(responder))
            .await;
        enqueued.map_err(|fatal| ProposeError::NotReady(fatal.to_string()))?;
        Ok(Proposed(verdict))
    }

    /// Proposes a command that is decided by `decide` from the state that it will be proposed against, and
    /// waits for its verdict.
    ///
    /// # Errors
    /// `Ok(Err(_))` is `decide`'s own refusal; `Err(_)` as for [`Node::propose`] and [`Proposed::verdict`].
    pub async fn propose_if<R>(
        &self,
        decide: impl FnOnce(&JournalState) -> Result<Command, R>,
    ) -> Result<Result<Verdict, R>, ProposeError> {
        self.leading()?;
        let command = match decide(&self.state()) {
            Ok(command) => command,
            Err(refused) => return Ok(Err(refused)),
        };
        let proposed = self.propose(&command).await?;
        let verdict = self.env.timeout(RPC_DEADLINE, proposed.verdict()).await;
        verdict
            .map_err(|e| ProposeError::NotReady(e.to_string()))?
            .map(Ok)
    }
}

/// Proposes the journal's first entry whenever this node leads, until one is applied.
async fn propose_genesis(env: Env, raft: Raft, machine: Machine, genesis: Command) {
    while machine.state().admission.lineage().is_none() {
        if raft.is_leader()
            && let Err(e) = raft.client_write(Data(genesis.encode())).await
        {
            tracing::debug!("the first entry was not written yet: {e}");
        }
        env.sleep(GENESIS_EVERY).await;
    }
}
