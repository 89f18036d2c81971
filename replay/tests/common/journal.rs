//! A fake journal: Describe, Tail and ReportReplicas over a byte stream that the test writes, and bases beside it. Several nodes
//! serve the same stream; each can be told to damage what it serves.

use super::bases::Bases;
use redoubt_proto::v1::journal_server::{Journal, JournalServer};
use redoubt_proto::v1::{self, tail_response::Event};
use redoubt_resp::stream::StreamScanner;
use redoubt_types::{Chain, Epoch, Lineage, LineageStep, Offset, ReplId, payload_crc};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// A replid made of one digit, for tests that people read.
pub fn replid(digit: char) -> ReplId {
    digit.to_string().repeat(40).parse().unwrap()
}

#[derive(Clone, Debug)]
struct Entry {
    start: u64,
    /// Chain of the stream before it.
    chain: Chain,
    end: u64,
    replid: ReplId,
    epoch: u64,
    first_txid: u64,
    groups: u32,
    db: u32,
}

struct State {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Chain of the whole stream.
    chain: Chain,
    lineage: Lineage,
    groups: u64,
    scanner: StreamScanner,
    confirmed: bool,
    /// Nodes show a state as old as this, as after a restart without a quorum.
    shown: Option<usize>,
    reports: Vec<v1::ReplicaReport>,
    beginning: u64,
    server: Option<String>,
}

impl State {
    fn tail(&self) -> u64 {
        self.shown.map_or(self.bytes.len() as u64, |entries| {
            self.entries[..entries].last().map_or(0, |e| e.end)
        })
    }

    fn position(&self) -> v1::Position {
        let tail = self.tail();
        let chain = self
            .shown
            .map_or(self.chain, |shown| self.entries[shown].chain)
            .get();
        v1::Position {
            tail,
            tail_chain: chain,
            pending_end: tail,
            pending_chain: chain,
            groups: self.groups,
            db: self.scanner.db().get(),
        }
    }
}

/// The journal that all nodes serve.
#[derive(Clone)]
pub struct FakeJournal {
    state: Arc<Mutex<State>>,
    pub bases: Bases,
    changed: watch::Sender<u64>,
}

impl FakeJournal {
    /// An empty journal whose first replid is made of `digit`.
    pub fn new(digit: char) -> Self {
        let state = State {
            bytes: Vec::new(),
            entries: Vec::new(),
            chain: Chain::EMPTY,
            lineage: Lineage::new(replid(digit)),
            groups: 0,
            scanner: StreamScanner::default(),
            confirmed: true,
            shown: None,
            reports: Vec::new(),
            beginning: 0,
            server: None,
        };
        FakeJournal {
            state: Arc::new(Mutex::new(state)),
            bases: Bases::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Appends commands as one entry; returns the new tail.
    pub fn append(&self, commands: &[&[&str]]) -> u64 {
        let mut payload = bytes::BytesMut::new();
        for command in commands {
            let args: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
            redoubt_resp::stream::encode_command(&args, &mut payload);
        }
        self.change(|s| {
            let (start, db) = (s.bytes.len() as u64, s.scanner.db().get());
            let mut groups = 0;
            s.scanner.scan(&payload, |_| groups += 1).unwrap();
            assert!(s.scanner.at_boundary(), "the test appended half a group");
            s.bytes.extend_from_slice(&payload);
            let last = *s.lineage.last();
            s.entries.push(Entry {
                start,
                chain: s.chain,
                end: s.bytes.len() as u64,
                replid: last.replid,
                epoch: last.epoch.map_or(1, Epoch::get),
                first_txid: s.groups + 1,
                groups,
                db,
            });
            s.chain = s.chain.extend(&payload);
            s.groups += u64::from(groups);
            s.bytes.len() as u64
        })
    }

    /// A promotion at the tail: a new replid, made of `digit`.
    pub fn promote(&self, digit: char) {
        self.change(|s| {
            let tail = Offset::new(s.bytes.len() as u64);
            let epoch = Epoch::new(s.lineage.len() as u64);
            s.lineage
                .push(
                    LineageStep {
                        replid: replid(digit),
                        from: tail,
                        epoch,
                    },
                    tail,
                )
                .unwrap();
        });
    }

    /// Whether a quorum answers.
    pub fn set_quorum(&self, confirmed: bool) {
        self.change(|s| s.confirmed = confirmed);
    }

    /// Makes the nodes know `entries` entries only, as restarted ones may; `None`: all.
    pub fn show(&self, entries: Option<usize>) {
        self.change(|s| s.shown = entries);
    }

    /// Nodes give nothing before `at` any more.
    pub fn trim(&self, at: u64) {
        self.change(|s| s.beginning = at);
    }

    /// The newest session's server is this.
    pub fn set_server(&self, server: &str) {
        self.change(|s| s.server = Some(server.to_owned()));
    }

    /// The whole stream.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    /// The tail: last replid, offset, chain, groups and database.
    pub fn place(&self) -> (ReplId, u64, Chain, u64, u32) {
        let s = self.state.lock().unwrap();
        let db = s.scanner.db().get();
        (
            s.lineage.last().replid,
            s.bytes.len() as u64,
            s.chain,
            s.groups,
            db,
        )
    }

    /// The latest report of replicas.
    pub fn reports(&self) -> Vec<v1::ReplicaReport> {
        self.state.lock().unwrap().reports.clone()
    }

    /// Starts a node on a free port. Its copy of entry number `damaged`, counted from 0, has one bit flipped.
    pub async fn node(&self, name: &str, damaged: Option<usize>) -> FakeNode {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let service = Node {
            journal: self.clone(),
            name: name.to_owned(),
            damaged,
            endpoint: endpoint.clone(),
        };
        let sent = Arc::new(Mutex::new(Sent::default()));
        let service = Service {
            node: Arc::new(service),
            sent: sent.clone(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(JournalServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        FakeNode {
            endpoint,
            sent,
            task: tokio::spawn(async move { drop(server.await) }),
        }
    }
}

/// What a node sent.
#[derive(Default)]
struct Sent {
    entries: u64,
    damaged: u64,
}

/// A running node; dropping it ends it.
pub struct FakeNode {
    pub endpoint: String,
    sent: Arc<Mutex<Sent>>,
    task: JoinHandle<()>,
}

impl FakeNode {
    /// How often it sent its damaged entry.
    pub fn damage_sent(&self) -> u64 {
        self.sent.lock().unwrap().damaged
    }

    /// Entries that it sent.
    pub fn entries_sent(&self) -> u64 {
        self.sent.lock().unwrap().entries
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Node {
    journal: FakeJournal,
    name: String,
    damaged: Option<usize>,
    endpoint: String,
}

struct Service {
    node: Arc<Node>,
    sent: Arc<Mutex<Sent>>,
}

type Sender = mpsc::Sender<Result<v1::TailResponse, Status>>;

impl Node {
    /// What a tail sends next from `at` on, knowing `steps` steps; `None` when it has all.
    fn next(&self, at: u64, steps: usize, sent: &Mutex<Sent>) -> Option<Event> {
        let s = self.journal.state.lock().unwrap();
        let number = s.entries.iter().position(|e| e.end > at && e.end <= s.tail());
        let entry = number.map(|n| &s.entries[n]);
        let due = s.lineage.steps().nth(steps);
        if let Some(step) = due.filter(|step| entry.is_none_or(|e| step.from.get() <= e.start)) {
            return Some(Event::Lineage(redoubt_proto::lineage_step(step)));
        }
        let entry = entry?;
        let mut payload = s.bytes[entry.start as usize..entry.end as usize].to_vec();
        let payload_crc = payload_crc(&payload);
        if self.damaged.is_some() && self.damaged == number {
            sent.lock().unwrap().damaged += 1;
            payload[0] ^= 1;
        }
        Some(Event::Entry(v1::TailEntry {
            entry: Some(v1::Entry {
                epoch: entry.epoch,
                replid: entry.replid.to_string(),
                start: entry.start,
                chain: entry.chain.get(),
                payload: payload.into(),
                payload_crc,
                captured_wall_ms: 1_700_000_000_000,
            }),
            first_txid: entry.first_txid,
            groups: entry.groups,
            db: entry.db,
            at_group_start: true,
        }))
    }

    async fn tail(&self, mut at: u64, follow: bool, sent: &Mutex<Sent>, out: &Sender) -> Option<()> {
        let event = |event| Ok(v1::TailResponse { event: Some(event) });
        let mut changed = self.journal.changed.subscribe();
        let (tail, lineage) = {
            let s = self.journal.state.lock().unwrap();
            (s.tail(), redoubt_proto::lineage_to(&s.lineage))
        };
        let beginning = self.journal.state.lock().unwrap().beginning;
        if at > tail || at < beginning {
            let reason = if at > tail {
                v1::Reason::BeyondEnd
            } else {
                v1::Reason::BeforeBeginning
            };
            let refusal = v1::Refusal {
                reason: reason.into(),
                message: format!("{at} is not in {beginning}..={tail}"),
                ..Default::default()
            };
            return out.send(event(Event::Refused(refusal))).await.ok();
        }
        let mut steps = lineage.len();
        let start = v1::TailStart {
            cluster_id: CLUSTER.into(),
            node_name: self.name.clone(),
            lineage,
            tail,
        };
        out.send(event(Event::Start(start))).await.ok()?;
        loop {
            changed.mark_unchanged();
            while let Some(next) = self.next(at, steps, sent) {
                match &next {
                    Event::Lineage(_) => steps += 1,
                    Event::Entry(e) => {
                        let entry = e.entry.as_ref()?;
                        at = entry.start + entry.payload.len() as u64;
                        sent.lock().unwrap().entries += 1;
                    }
                    _ => {}
                }
                out.send(event(next)).await.ok()?;
            }
            if !follow {
                return Some(());
            }
            let mark = {
                let position = self.journal.state.lock().unwrap().position();
                v1::TailMark {
                    tail: position.tail,
                    tail_chain: position.tail_chain,
                }
            };
            out.send(event(Event::Mark(mark))).await.ok()?;
            let _ = tokio::time::timeout(Duration::from_millis(500), changed.changed()).await;
        }
    }
}

pub type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the fake journal takes no writes"))
}

#[tonic::async_trait]
impl Journal for Service {
    type AppendStream = Events<v1::AppendResponse>;
    type TailStream = Events<v1::TailResponse>;
    type GetBaseStream = Events<v1::GetBaseResponse>;
    type PutBaseStream = Events<v1::PutBaseResponse>;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let base = self.node.journal.bases.current();
        let s = self.node.journal.state.lock().unwrap();
        let description = v1::Description {
            cluster_id: CLUSTER.into(),
            node_name: self.node.name.clone(),
            node_id: 1,
            position: Some(s.position()),
            confirmed: s.confirmed && request.get_ref().confirm,
            lineage: redoubt_proto::lineage_to(&s.lineage),
            writer: Some(v1::Writer {
                session: s.server.as_ref().map(|server| v1::Session {
                    epoch: 1,
                    run_id: "e".repeat(40),
                    at: 0,
                    server: server.clone(),
                }),
                ..Default::default()
            }),
            leader: Some(self.node.endpoint.clone()),
            beginning: s.beginning,
            base: base.as_ref().map(redoubt_proto::base),
            holds_base: base.is_some(),
        };
        let outcome = Some(v1::describe_response::Outcome::Description(description));
        Ok(Response::new(v1::DescribeResponse { outcome }))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let (out, events) = mpsc::channel(4);
        let (node, sent) = (self.node.clone(), self.sent.clone());
        let v1::TailRequest { from, follow, .. } = request.into_inner();
        tokio::spawn(async move { node.tail(from, follow, &sent, &out).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(events).map(|e| e))))
    }

    async fn report_replicas(
        &self,
        request: Request<v1::ReportReplicasRequest>,
    ) -> Result<Response<v1::ReportReplicasResponse>, Status> {
        self.node.journal.state.lock().unwrap().reports = request.into_inner().replicas;
        Ok(Response::new(v1::ReportReplicasResponse { refused: None }))
    }

    async fn acquire_writer(
        &self,
        _: Request<v1::AcquireWriterRequest>,
    ) -> Result<Response<v1::AcquireWriterResponse>, Status> {
        unused()
    }

    async fn renew_writer(
        &self,
        _: Request<v1::RenewWriterRequest>,
    ) -> Result<Response<v1::RenewWriterResponse>, Status> {
        unused()
    }

    async fn release_writer(
        &self,
        _: Request<v1::ReleaseWriterRequest>,
    ) -> Result<Response<v1::ReleaseWriterResponse>, Status> {
        unused()
    }

    async fn record_session(
        &self,
        _: Request<v1::RecordSessionRequest>,
    ) -> Result<Response<v1::RecordSessionResponse>, Status> {
        unused()
    }

    async fn record_lineage(
        &self,
        _: Request<v1::RecordLineageRequest>,
    ) -> Result<Response<v1::RecordLineageResponse>, Status> {
        unused()
    }

    async fn append(
        &self,
        _: Request<tonic::Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        unused()
    }

    async fn get_base(
        &self,
        request: Request<v1::GetBaseRequest>,
    ) -> Result<Response<Self::GetBaseStream>, Status> {
        Ok(self.node.journal.bases.get(request.into_inner()))
    }

    async fn put_base(
        &self,
        request: Request<tonic::Streaming<v1::PutBaseRequest>>,
    ) -> Result<Response<Self::PutBaseStream>, Status> {
        Ok(self.node.journal.bases.put(&self.node.name, request.into_inner()))
    }

    async fn commit_base(
        &self,
        request: Request<v1::CommitBaseRequest>,
    ) -> Result<Response<v1::CommitBaseResponse>, Status> {
        self.node.journal.bases.commit(request.into_inner())
    }

    async fn offer_fold(
        &self,
        request: Request<v1::OfferFoldRequest>,
    ) -> Result<Response<v1::OfferFoldResponse>, Status> {
        self.node.journal.bases.offer(request.into_inner())
    }

    async fn compact(&self, _: Request<v1::CompactRequest>) -> Result<Response<v1::CompactResponse>, Status> {
        unused()
    }
}
