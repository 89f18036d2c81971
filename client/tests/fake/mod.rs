//! A journal for the client's tests: the wire is real, the cluster behind it is one mutex, and each node fails on
//! demand. A node runs on a thread and runtime of its own, so that killing it cuts every connection, as a
//! dead process does.
#![allow(dead_code, reason = "each test file uses its own part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "test code; clippy knows only the tests themselves for such"
)]

mod cluster;
mod service;

use bytes::Bytes;
use redoubt_client::{Client, ClientConfig};
use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_types::{Chain, ClusterId, Epoch, JournalName, Offset, ReplId, payload_crc};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tonic::transport::server::TcpIncoming;

/// The journal that all nodes share.
pub(crate) struct Shared {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) leader: Option<usize>,
    pub(crate) epoch: u64,
    pub(crate) holder: u64,
    pub(crate) entries: Vec<v1::TailEntry>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) lineage: Vec<v1::LineageStep>,
    pub(crate) boundaries: Vec<(u64, u64)>,
    pub(crate) beginning: u64,
    pub(crate) addresses: Vec<String>,
    /// Every call as it came in: the node and the kind.
    pub(crate) calls: Vec<(usize, &'static str)>,
    pub(crate) reports: Vec<(usize, String)>,
}

impl Shared {
    pub(crate) fn chain(&self) -> Chain {
        Chain::EMPTY.extend(&self.bytes)
    }

    pub(crate) fn position(&self) -> v1::Position {
        let (end, chain) = (self.bytes.len() as u64, self.chain().get());
        v1::Position {
            tail: end,
            tail_chain: chain,
            pending_end: end,
            pending_chain: chain,
            groups: self.entries.len() as u64,
            db: 0,
        }
    }

    /// Admits as the state machine would; `Ok` is whether it was a retry.
    pub(crate) fn admit(&mut self, e: &v1::Entry) -> Result<bool, v1::Refusal> {
        let refuse = |reason: v1::Reason, message: &str| v1::Refusal {
            reason: reason.into(),
            message: message.to_owned(),
            position: Some(self.position()),
            ..Default::default()
        };
        if e.epoch < self.epoch {
            return Err(refuse(v1::Reason::Fenced, "a newer epoch exists"));
        }
        if payload_crc(&e.payload) != e.payload_crc {
            return Err(refuse(v1::Reason::Checksum, "damaged"));
        }
        let end = e.start + e.payload.len() as u64;
        let chain_end = Chain::from_u64(e.chain).extend(&e.payload).get();
        if (e.start, e.chain) != (self.bytes.len() as u64, self.chain().get()) {
            if self.boundaries.contains(&(end, chain_end)) {
                return Ok(true);
            }
            return Err(refuse(v1::Reason::Mismatch, "not the pending end"));
        }
        self.bytes.extend_from_slice(&e.payload);
        self.boundaries.push((end, chain_end));
        self.entries.push(v1::TailEntry {
            first_txid: self.entries.len() as u64 + 1,
            groups: 1,
            db: 0,
            at_group_start: true,
            entry: Some(e.clone()),
        });
        Ok(false)
    }

    /// Admits `payload` as written by the current epoch.
    pub(crate) fn write(&mut self, payload: &[u8]) {
        let entry = v1::Entry {
            epoch: self.epoch.max(1),
            replid: self.lineage.last().unwrap().replid.clone(),
            start: self.bytes.len() as u64,
            chain: self.chain().get(),
            payload: Bytes::copy_from_slice(payload),
            payload_crc: payload_crc(payload),
            captured_wall_ms: 1,
        };
        self.admit(&entry).unwrap();
    }

    /// A new replid from the tail on.
    pub(crate) fn step(&mut self, n: u8) {
        let from = self.bytes.len() as u64;
        self.lineage.push(v1::LineageStep {
            replid: replid(n).to_string(),
            from,
            epoch: u64::from(n),
        });
    }
}

/// How a node fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Refuses appends and writer operations with this reason.
    pub(crate) refuse: Option<v1::Reason>,
    /// Takes everything and answers nothing.
    pub(crate) silent: bool,
    /// Answers appends this much later.
    pub(crate) answer_delay: Duration,
    /// Breaks an append stream after so many admitted entries, the last of them unanswered.
    pub(crate) lose_answer_after: Option<usize>,
    /// Breaks a tail after so many entries.
    pub(crate) cut_tail_after: Option<usize>,
    /// Says nothing more on a tail after so many entries.
    pub(crate) mute_tail_after: Option<usize>,
    /// Flips a bit of the entry that holds this byte.
    pub(crate) rot_at: Option<u64>,
    /// Refuses the entry that holds this byte as damaged.
    pub(crate) damaged_at: Option<u64>,
    /// Knows of nothing from this byte on, in good faith.
    pub(crate) cut_off_at: Option<u64>,
    /// Holds other bytes: all chains differ.
    pub(crate) fork: bool,
    /// Never finds a quorum.
    pub(crate) unconfirmed: bool,
    /// Says that it belongs to this cluster.
    pub(crate) foreign: Option<ClusterId>,
    /// Names no leader when it is not the leader itself.
    pub(crate) no_hint: bool,
}

/// What a node keeps on its disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) node_id: u64,
    pub(crate) seed: Option<v1::BootstrapRequest>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) address: String,
    pub(crate) faults: Arc<Mutex<Faults>>,
    pub(crate) disk: Arc<Mutex<Disk>>,
    stop: Option<oneshot::Sender<()>>,
    stopped: Option<oneshot::Receiver<()>>,
}

impl Node {
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    /// Cuts every connection, as the death of a process does.
    pub(crate) async fn kill(&mut self) {
        if let (Some(stop), Some(stopped)) = (self.stop.take(), self.stopped.take()) {
            stop.send(()).unwrap();
            stopped.await.unwrap();
        }
    }
}

/// The cluster.
pub(crate) struct Fake {
    pub(crate) env: Env,
    pub(crate) shared: Arc<Mutex<Shared>>,
    /// Counts changes of `shared`.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) fn replid(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

pub(crate) const CLUSTER: ClusterId = ClusterId::new([0xc1; 16]);

impl Fake {
    /// Nodes without a cluster.
    pub(crate) async fn empty(count: usize) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter("redoubt_client=debug")
            .try_init();
        let shared = Shared {
            cluster: None,
            leader: Some(0),
            epoch: 0,
            holder: 0,
            entries: Vec::new(),
            bytes: Vec::new(),
            lineage: vec![v1::LineageStep {
                replid: replid(0).to_string(),
                from: 0,
                epoch: 0,
            }],
            boundaries: vec![(0, 0)],
            beginning: 0,
            addresses: Vec::new(),
            calls: Vec::new(),
            reports: Vec::new(),
        };
        let mut fake = Fake {
            env: Env::real(),
            shared: Arc::new(Mutex::new(shared)),
            changed: watch::channel(0).0,
            nodes: Vec::new(),
        };
        for index in 0..count {
            // Ids fall as indexes rise, so that sorting by id shows.
            let disk = Disk {
                node_id: 100 - index as u64,
                seed: None,
            };
            fake.nodes.push(Node {
                index,
                address: "127.0.0.1:0".to_owned(),
                faults: Arc::default(),
                disk: Arc::new(Mutex::new(disk)),
                stop: None,
                stopped: None,
            });
            fake.start(index).await;
            let address = fake.nodes[index].address.clone();
            fake.shared().addresses.push(address);
        }
        fake
    }

    /// Nodes of a cluster; node 0 leads, epoch 1 is granted.
    pub(crate) async fn cluster(count: usize) -> Self {
        let fake = Fake::empty(count).await;
        {
            let mut shared = fake.shared();
            shared.cluster = Some(CLUSTER);
            shared.epoch = 1;
        }
        fake
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Changes the journal, and wakes its tails.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut Shared) -> T) -> T {
        let result = f(&mut self.shared());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Starts a node, at the address it had.
    pub(crate) async fn start(&mut self, index: usize) {
        let (stop, stopping) = oneshot::channel();
        let (up, started) = oneshot::channel();
        let (down, stopped) = oneshot::channel();
        let node = &mut self.nodes[index];
        let service = service::Service {
            index,
            env: self.env.clone(),
            shared: Arc::clone(&self.shared),
            changed: self.changed.clone(),
            faults: Arc::clone(&node.faults),
            disk: Arc::clone(&node.disk),
        };
        let address = node.address.parse().unwrap();
        self.env
            .spawn_thread("fake-node", move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let incoming = TcpIncoming::bind(address).unwrap();
                    up.send(incoming.local_addr().unwrap().to_string()).unwrap();
                    tokio::select! {
                        biased;
                        _ = stopping => {}
                        served = service.serve(incoming) => served.unwrap(),
                    }
                });
                drop(runtime);
                let _ = down.send(());
            })
            .unwrap();
        node.address = started.await.unwrap();
        node.stop = Some(stop);
        node.stopped = Some(stopped);
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig {
            endpoints: self.nodes.iter().map(|n| n.address.clone()).collect(),
            journal: JournalName::default(),
            cluster: None,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.env.clone(), self.config())
    }

    /// The nodes that got calls of this kind, in order.
    pub(crate) fn calls(&self, what: &str) -> Vec<usize> {
        self.shared()
            .calls
            .iter()
            .filter(|(_, c)| *c == what)
            .map(|(n, _)| *n)
            .collect()
    }
}

pub(crate) fn offset(n: usize) -> Offset {
    Offset::new(n as u64)
}

pub(crate) fn start() -> redoubt_client::AppendStart {
    redoubt_client::AppendStart {
        epoch: Epoch::FIRST,
        replid: replid(0),
        start: Offset::ZERO,
        chain: Chain::EMPTY,
    }
}
