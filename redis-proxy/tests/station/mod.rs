//! A session on a real redis-server whose appends go to a real journal of one node, all but the server in this
//! process.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's")]

use crate::lab::{SOON, Server};
use bytes::BytesMut;
use redoubt_client::{AppendStart, Client, ClientConfig, Session as SessionRecord, TailEvent};
use redoubt_env::{Env, Task};
use redoubt_journal::base::{FoldAfter, Retention};
use redoubt_journal::raft::{CheckpointEvery, MetadataStore, NodeConfig};
use redoubt_journal::segment::Options;
use redoubt_proxy::append::Append;
use redoubt_proxy::append::keeper::LeaseKeeper;
use redoubt_proxy::append::lease::LeaseTerms;
use redoubt_proxy::capture::buffer::{Bounds, DoubleBuffer};
use redoubt_proxy::capture::link::{Link, Target};
use redoubt_proxy::capture::{Capture, CaptureTerms};
use redoubt_proxy::hold::Hold;
use redoubt_proxy::session::{EndReason, Session};
use redoubt_proxy::upstream::Control;
use redoubt_resp::info::{parse_info, parse_replication, parse_server};
use redoubt_types::limits::{ENTRY_PAYLOAD_BYTES_MAX, UNCOMMITTED_BYTES_MAX};
use redoubt_types::{HolderId, JournalName, LineageStep, Offset};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

const TERMS: LeaseTerms = LeaseTerms {
    duration: Duration::from_secs(3),
    margin: Duration::from_millis(300),
    renew_every: Duration::from_millis(750),
};

/// One command of each kind that matters for framing: plain, large, transactions, scripts, other databases.
pub(crate) async fn effects_of(control: &mut Control, round: usize) {
    let n = round.to_string();
    let large = vec![b'v'; 1 + (round * 7919) % 100_000];
    let script = "redis.call('SET', KEYS[1], 'x') redis.call('INCR', 'n') return 1";
    let commands: Vec<Vec<&[u8]>> = vec![
        vec![b"SET", b"k", n.as_bytes()],
        vec![b"SET", b"large", &large],
        vec![b"SET", b"short-lived", b"x", b"PX", b"5"],
        vec![b"SELECT", b"3"],
        vec![b"RPUSH", b"list", n.as_bytes()],
        vec![b"MULTI"],
        vec![b"INCR", b"n"],
        vec![b"SET", b"in-multi", &large[..large.len() / 3]],
        vec![b"EXEC"],
        vec![b"EVAL", script.as_bytes(), b"1", b"from-script"],
        vec![b"SELECT", b"0"],
        vec![b"PUBLISH", b"channel", b"message"],
    ];
    for command in commands {
        let answer = control.call(&command, SOON).await.unwrap();
        assert_eq!(answer.as_error(), None);
    }
}

/// Everything of the server's history from where it stands now.
pub(crate) async fn target(env: &Env, server: &Server) -> Target {
    let info = server.control(env).await.call(&[b"INFO"], SOON).await.unwrap();
    let text = info.as_bytes().unwrap();
    let (identity, replication) = (parse_server(text).unwrap(), parse_replication(text).unwrap());
    Target {
        upstream: server.upstream(),
        run_id: identity.run_id,
        under: replication.replid,
        from: replication.offset,
        listening_port: 7000,
    }
}

/// What stops a journal node, and its end.
type Node = (watch::Sender<bool>, oneshot::Receiver<()>);

pub(crate) struct Station {
    pub(crate) env: Env,
    pub(crate) server: Server,
    /// The server's stream from the session's beginning.
    pub(crate) target: Target,
    pub(crate) client: Client,
    pub(crate) session: Arc<Session>,
    node: Option<Node>,
    address: String,
    capture: Task<EndReason>,
    stop: watch::Sender<bool>,
    dir: TempDir,
}

impl Station {
    /// A server that has written nothing yet, and its session at the journal's beginning.
    pub(crate) async fn new() -> Self {
        let env = Env::real();
        let server = Server::start(&env).await;
        let target = target(&env, &server).await;
        assert_eq!(
            target.from,
            Offset::ZERO,
            "the journal is empty, so the server has to be"
        );
        let probe = env.net().listen("127.0.0.1:0").await.unwrap();
        let address = probe.local_addr();
        drop(probe);
        let dir = TempDir::new().unwrap();
        let node = node(&env, &address, &dir);
        let config = ClientConfig {
            endpoints: vec![address.clone()],
            journal: JournalName::default(),
            cluster: None,
        };
        let client = Client::new(env.clone(), config);
        client.bootstrap(SOON).await.unwrap();
        let (session, append, buffer) = session(&env, &client, &target).await;
        let (link, _) = Link::attach(&env, &target).await.unwrap();
        let terms = CaptureTerms {
            listening_port: 7000,
            unreachable_max: Duration::from_secs(15),
        };
        let capture = Capture::new(env.clone(), Arc::clone(&session), terms, link, buffer);
        let (stop, mut stopped) = watch::channel(false);
        let capture = env.spawn(capture.run(append, async move {
            let _ = stopped.wait_for(|s| *s).await;
        }));
        Station {
            env,
            server,
            target,
            client,
            session,
            node: Some(node),
            address,
            capture,
            stop,
            dir,
        }
    }

    /// Asks capture to end in order.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Why the session ended; it has to.
    pub(crate) async fn ended(&mut self) -> EndReason {
        self.env.timeout(SOON, &mut self.capture).await.unwrap().unwrap()
    }

    /// The server's offset.
    pub(crate) async fn offset(&self) -> Offset {
        let info = self
            .server
            .control(&self.env)
            .await
            .call(&[b"INFO", b"replication"], SOON)
            .await
            .unwrap();
        parse_replication(info.as_bytes().unwrap()).unwrap().offset
    }

    /// What the server believes that capture holds.
    pub(crate) async fn acked_offset(&self) -> Option<Offset> {
        let info = self
            .server
            .control(&self.env)
            .await
            .call(&[b"INFO", b"replication"], SOON)
            .await
            .unwrap();
        // slave0:ip=127.0.0.1,port=7000,state=online,offset=14,lag=0
        let line = parse_info(info.as_bytes().unwrap()).get("slave0")?.to_owned();
        let offset = line.split(',').find_map(|part| part.strip_prefix("offset="))?;
        Some(Offset::new(offset.parse().unwrap()))
    }

    /// Waits until everything before `end` is committed.
    pub(crate) async fn committed(&self, end: Offset) {
        self.until(async || self.session.hold.committed() >= end).await;
    }

    /// Waits until the server knows that capture holds everything before `end`.
    pub(crate) async fn acked(&self, end: Offset) {
        self.until(async || self.acked_offset().await >= Some(end)).await;
    }

    async fn until(&self, done: impl AsyncFn() -> bool) {
        let waiting = async {
            while !done().await {
                self.env.sleep(Duration::from_millis(5)).await;
            }
        };
        if self.env.timeout(SOON, waiting).await.is_err() {
            let status = self.client.status().await;
            panic!("the journal is {status:#?}, the session {:?}", self.session);
        }
    }

    /// The journal's bytes from the session's beginning to `end`.
    pub(crate) async fn journal_bytes(&self, end: Offset) -> BytesMut {
        let wanted = end.since(self.target.from).unwrap() as usize;
        let (mut tail, mut bytes) = (self.client.tail(self.target.from, false), BytesMut::new());
        while bytes.len() < wanted {
            match self.env.timeout(SOON, tail.next()).await.unwrap().unwrap() {
                TailEvent::Entry(entry) => bytes.extend_from_slice(&entry.bytes),
                TailEvent::End => break,
                TailEvent::Lineage(_) | TailEvent::Mark { .. } => {}
            }
        }
        bytes
    }

    pub(crate) async fn stop_journal(&mut self) {
        let (stop, node) = self.node.take().unwrap();
        stop.send_replace(true);
        self.env.timeout(SOON, node).await.unwrap().unwrap();
    }

    pub(crate) async fn start_journal(&mut self) {
        self.node = Some(node(&self.env, &self.address, &self.dir));
    }
}

/// A journal node with a thread and a runtime of its own: with them go the connections that it serves.
fn node(env: &Env, address: &str, dir: &TempDir) -> Node {
    let config = NodeConfig {
        name: "j1".to_owned(),
        address: address.to_owned(),
        dir: dir.path().join("journal"),
        metadata: MetadataStore::Sled,
        checkpoint_every: CheckpointEvery::default(),
        storage: Options {
            segment_bytes: 16 * 1024 * 1024,
            ..Options::default()
        },
        fold_after: FoldAfter::default(),
        retention: Retention::default(),
    };
    let (stop, mut stopped) = watch::channel(false);
    let (done, ended) = oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stopped = async move {
            let _ = stopped.wait_for(|s| *s).await;
        };
        runtime
            .block_on(redoubt_journal::server::run(Env::real(), config, stopped))
            .unwrap();
        drop(runtime);
        let _ = done.send(());
    };
    env.spawn_thread("journal", run).unwrap();
    (stop, ended)
}

/// Epoch, records and lease of a session that begins at the target.
async fn session(env: &Env, client: &Client, target: &Target) -> (Arc<Session>, Append, DoubleBuffer) {
    let holder = HolderId::new(env.random_nonzero()).unwrap();
    let grant = client
        .acquire(holder, "station", TERMS.duration, SOON)
        .await
        .unwrap();
    let (epoch, at) = (grant.epoch, target.from);
    let record = SessionRecord {
        epoch,
        run_id: target.run_id,
        at,
        server: "redis".to_owned(),
    };
    client.record_session(&record, SOON).await.unwrap();
    let step = LineageStep {
        replid: target.under,
        from: at,
        epoch: Some(epoch),
    };
    client.record_lineage(&step, SOON).await.unwrap();
    let keeper = LeaseKeeper::start(env, client.clone(), epoch, holder, TERMS, grant.sent_at);
    let hold = Hold::new(at, keeper.until(), env.clone());
    let session = Arc::new(Session::new(
        epoch,
        target.under,
        target.run_id,
        target.upstream.clone(),
        hold,
        UNCOMMITTED_BYTES_MAX,
    ));
    keeper.bind(&session);
    let start = AppendStart {
        epoch,
        replid: target.under,
        start: at,
        chain: grant.position.tail_chain,
    };
    let append = Append::new(client.appender(start), Arc::clone(&session), keeper);
    let bounds = Bounds {
        entry_max: ENTRY_PAYLOAD_BYTES_MAX,
        uncommitted_max: UNCOMMITTED_BYTES_MAX,
    };
    (session, append, DoubleBuffer::new(at, grant.position.db, bounds))
}
