//! `redoubt.v1` over the shared journal.

use super::{Disk, Faults, Shared};
use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_proto::v1::cluster_server::ClusterServer;
use redoubt_proto::v1::journal_server::{Journal, JournalServer};
use redoubt_types::Chain;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) index: usize,
    pub(crate) env: Env,
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) faults: Arc<Mutex<Faults>>,
    pub(crate) disk: Arc<Mutex<Disk>>,
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

pub(super) fn refusal(reason: v1::Reason, message: &str) -> v1::Refusal {
    v1::Refusal {
        reason: reason.into(),
        message: message.to_owned(),
        ..Default::default()
    }
}

impl Service {
    pub(crate) async fn serve(self, incoming: TcpIncoming) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .add_service(JournalServer::new(self.clone()))
            .add_service(ClusterServer::new(self))
            .serve_with_incoming(incoming)
            .await
    }

    fn faults(&self) -> Faults {
        self.faults.lock().unwrap().clone()
    }

    pub(super) fn called(&self, what: &'static str) {
        self.shared.lock().unwrap().calls.push((self.index, what));
    }

    pub(super) async fn silence(&self) {
        if self.faults().silent {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn cluster(&self) -> Option<String> {
        let seeded = self
            .disk
            .lock()
            .unwrap()
            .seed
            .as_ref()
            .map(|s| s.cluster_id.clone());
        let own = self
            .faults()
            .foreign
            .or(self.shared.lock().unwrap().cluster)
            .map(|c| c.to_string());
        seeded.or(own)
    }

    fn meant_for_us(&self, cluster: &str) -> Result<(), v1::Refusal> {
        match self.cluster() {
            None => Err(refusal(v1::Reason::NotBootstrapped, "empty")),
            Some(own) if !cluster.is_empty() && own != cluster => Err(refusal(
                v1::Reason::WrongCluster,
                &format!("this node is of {own}"),
            )),
            Some(_) => Ok(()),
        }
    }

    fn leads(&self, cluster: &str) -> Result<(), v1::Refusal> {
        self.meant_for_us(cluster)?;
        let faults = self.faults();
        if let Some(reason) = faults.refuse {
            return Err(refusal(reason, "as told"));
        }
        let shared = self.shared.lock().unwrap();
        if shared.leader != Some(self.index) {
            let leader = shared
                .leader
                .filter(|_| !faults.no_hint)
                .map(|l| shared.addresses[l].clone());
            return Err(v1::Refusal {
                leader,
                ..refusal(v1::Reason::NotLeader, "another one leads")
            });
        }
        Ok(())
    }

    /// One append: its answer, and whether the stream breaks.
    fn append_one(&self, request: v1::AppendRequest, admitted: usize) -> (v1::AppendResponse, bool) {
        let entry = request.entry.unwrap();
        let result = self
            .leads(&request.cluster_id)
            .and_then(|()| self.shared.lock().unwrap().admit(&entry));
        self.changed.send_modify(|n| *n += 1);
        let (outcome, lost) = match result {
            Ok(duplicate) => {
                let end = entry.start + entry.payload.len() as u64;
                let outcome = v1::append_response::Outcome::Admitted(v1::Admitted {
                    end,
                    duplicate,
                    tail: end,
                });
                (
                    outcome,
                    self.faults().lose_answer_after.is_some_and(|n| admitted + 1 >= n),
                )
            }
            Err(refused) => (v1::append_response::Outcome::Refused(refused), false),
        };
        (
            v1::AppendResponse {
                request_id: request.request_id,
                outcome: Some(outcome),
            },
            lost,
        )
    }

    async fn tail_into(self, request: v1::TailRequest, tx: mpsc::Sender<Result<v1::TailResponse, Status>>) {
        use v1::tail_response::Event;
        let send = async |event| tx.send(Ok(v1::TailResponse { event: Some(event) })).await.is_ok();
        let mut changes = self.changed.subscribe();
        if let Err(refused) = self.meant_for_us(&request.cluster_id) {
            send(Event::Refused(refused)).await;
            return;
        }
        if let Some(reason) = self.faults().refuse {
            send(Event::Refused(refusal(reason, "as told"))).await;
            return;
        }
        let cluster_id = self.cluster().unwrap();
        let (begin, mut steps) = {
            let shared = self.shared.lock().unwrap();
            let end = self.known(&shared).0;
            if request.from > shared.bytes.len() as u64 {
                (
                    Event::Refused(refusal(v1::Reason::BeyondEnd, "beyond")),
                    usize::MAX,
                )
            } else if request.from < shared.beginning {
                (
                    Event::Refused(refusal(v1::Reason::BeforeBeginning, "before")),
                    usize::MAX,
                )
            } else {
                let start = v1::TailStart {
                    cluster_id,
                    node_name: format!("n{}", self.index),
                    lineage: shared.lineage.clone(),
                    tail: end,
                };
                (Event::Start(start), shared.lineage.len())
            }
        };
        if !send(begin).await || steps == usize::MAX {
            return;
        }
        let (mut at, mut sent, mut marked) = (request.from, 0, None);
        loop {
            changes.mark_unchanged();
            let faults = self.faults();
            if faults.mute_tail_after.is_some_and(|n| sent >= n) {
                return std::future::pending().await;
            }
            if faults.cut_tail_after.is_some_and(|n| sent >= n) {
                let _ = tx.send(Err(Status::unavailable("cut"))).await;
                return;
            }
            let event = self.next_event(&faults, at, &mut steps);
            // The same mark again only as a sign of life.
            let again = matches!(event, Event::Mark(_)) && marked == Some(at);
            let life = Duration::from_millis(300);
            if again && self.env.timeout(life, changes.changed()).await.is_ok() {
                continue;
            }
            match &event {
                Event::Entry(e) => {
                    let e = e.entry.as_ref().unwrap();
                    at = e.start + e.payload.len() as u64;
                    sent += 1;
                }
                Event::Mark(mark) if !request.follow => {
                    if mark.tail > at {
                        panic!("the fake skipped something");
                    }
                    return;
                }
                Event::Mark(_) => marked = Some(at),
                _ => {}
            }
            let last = matches!(event, Event::Refused(_));
            if !send(event).await || last {
                return;
            }
        }
    }

    /// Up to where this node knows the journal, in bytes and entries.
    fn known(&self, shared: &Shared) -> (u64, usize) {
        let limit = self.faults().cut_off_at.unwrap_or(u64::MAX);
        let mut end = 0;
        for (i, e) in shared.entries.iter().enumerate() {
            let e = e.entry.as_ref().unwrap();
            if e.start + e.payload.len() as u64 > limit {
                return (end, i);
            }
            end = e.start + e.payload.len() as u64;
        }
        (end, shared.entries.len())
    }

    fn next_event(&self, faults: &Faults, at: u64, steps: &mut usize) -> v1::tail_response::Event {
        use v1::tail_response::Event;
        let shared = self.shared.lock().unwrap();
        if let Some(step) = shared.lineage.get(*steps).filter(|s| s.from <= at) {
            *steps += 1;
            return Event::Lineage(step.clone());
        }
        let fork = u64::from(faults.fork);
        let (end, count) = self.known(&shared);
        let holds = |byte: Option<u64>, e: &v1::Entry| {
            byte.is_some_and(|b| (e.start..e.start + e.payload.len() as u64).contains(&b))
        };
        for tailed in &shared.entries[..count] {
            let e = tailed.entry.as_ref().unwrap();
            if e.start + e.payload.len() as u64 <= at {
                continue;
            }
            if holds(faults.damaged_at, e) {
                return Event::Refused(refusal(v1::Reason::Damaged, "rotten here"));
            }
            let mut tailed = tailed.clone();
            let entry = tailed.entry.as_mut().unwrap();
            entry.chain ^= fork;
            if holds(faults.rot_at, e) {
                let mut rotten = entry.payload.to_vec();
                rotten[0] ^= 1;
                entry.payload = rotten.into();
            }
            return Event::Entry(tailed);
        }
        let chain = Chain::EMPTY.extend(&shared.bytes[..end as usize]).get() ^ fork;
        Event::Mark(v1::TailMark {
            tail: end,
            tail_chain: chain,
        })
    }

    pub(super) fn description(&self, confirm: bool) -> v1::Description {
        let faults = self.faults();
        let shared = self.shared.lock().unwrap();
        v1::Description {
            cluster_id: faults
                .foreign
                .or(shared.cluster)
                .map(|c| c.to_string())
                .unwrap_or_default(),
            node_name: format!("n{}", self.index),
            node_id: self.disk.lock().unwrap().node_id,
            position: Some(shared.position()),
            confirmed: confirm && !faults.unconfirmed,
            lineage: shared.lineage.clone(),
            writer: Some(v1::Writer {
                epoch: shared.epoch,
                holder: shared.holder,
                ..Default::default()
            }),
            leader: shared.leader.map(|l| shared.addresses[l].clone()),
            beginning: shared.beginning,
            base: None,
            holds_base: false,
        }
    }
}

#[tonic::async_trait]
impl Journal for Service {
    type AppendStream = Answers<v1::AppendResponse>;
    type TailStream = Answers<v1::TailResponse>;

    async fn describe(
        &self,
        r: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        use v1::describe_response::Outcome;
        self.called("describe");
        self.silence().await;
        let r = r.into_inner();
        let outcome = match self.meant_for_us(&r.cluster_id) {
            Ok(()) => Outcome::Description(self.description(r.confirm)),
            Err(refused) => Outcome::Refused(refused),
        };
        Ok(Response::new(v1::DescribeResponse {
            outcome: Some(outcome),
        }))
    }

    async fn acquire_writer(
        &self,
        r: Request<v1::AcquireWriterRequest>,
    ) -> Result<Response<v1::AcquireWriterResponse>, Status> {
        use v1::acquire_writer_response::Outcome;
        self.called("acquire");
        self.silence().await;
        let r = r.into_inner();
        let outcome = match self.leads(&r.cluster_id) {
            Err(refused) => Outcome::Refused(refused),
            Ok(()) => {
                let mut shared = self.shared.lock().unwrap();
                if shared.holder != 0 && shared.holder != r.holder {
                    let held = refusal(v1::Reason::LeaseHeld, "held");
                    Outcome::Refused(v1::Refusal {
                        retry_after_ms: Some(77),
                        ..held
                    })
                } else {
                    shared.holder = r.holder;
                    shared.epoch += 1;
                    Outcome::Grant(v1::Grant {
                        epoch: shared.epoch,
                        position: Some(shared.position()),
                        lineage: shared.lineage.clone(),
                        session: None,
                        previous_wall_ms: 5,
                        previous_lease_ms: 6,
                    })
                }
            }
        };
        Ok(Response::new(v1::AcquireWriterResponse {
            outcome: Some(outcome),
        }))
    }

    async fn renew_writer(
        &self,
        r: Request<v1::RenewWriterRequest>,
    ) -> Result<Response<v1::RenewWriterResponse>, Status> {
        self.called("renew");
        self.silence().await;
        let r = r.into_inner();
        let refused = self.leads(&r.cluster_id).err().or_else(|| {
            let fenced = self.shared.lock().unwrap().epoch != r.epoch;
            fenced.then(|| refusal(v1::Reason::Fenced, "another epoch"))
        });
        Ok(Response::new(v1::RenewWriterResponse { refused }))
    }

    async fn release_writer(
        &self,
        r: Request<v1::ReleaseWriterRequest>,
    ) -> Result<Response<v1::ReleaseWriterResponse>, Status> {
        let refused = self.leads(&r.into_inner().cluster_id).err();
        if refused.is_none() {
            self.shared.lock().unwrap().holder = 0;
        }
        Ok(Response::new(v1::ReleaseWriterResponse { refused }))
    }

    async fn record_session(
        &self,
        r: Request<v1::RecordSessionRequest>,
    ) -> Result<Response<v1::RecordSessionResponse>, Status> {
        let refused = self.leads(&r.into_inner().cluster_id).err();
        Ok(Response::new(v1::RecordSessionResponse { refused }))
    }

    async fn record_lineage(
        &self,
        r: Request<v1::RecordLineageRequest>,
    ) -> Result<Response<v1::RecordLineageResponse>, Status> {
        let r = r.into_inner();
        let mut refused = self.leads(&r.cluster_id).err();
        if refused.is_none() {
            let (step, mut shared) = (r.step.unwrap(), self.shared.lock().unwrap());
            if step.from == shared.bytes.len() as u64 {
                shared.lineage.push(step);
            } else {
                let not_at_tail = refusal(v1::Reason::Lineage, "not at the tail");
                refused = Some(v1::Refusal {
                    position: Some(shared.position()),
                    ..not_at_tail
                });
            }
        }
        Ok(Response::new(v1::RecordLineageResponse { refused }))
    }

    async fn append(
        &self,
        requests: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.called("append");
        let (tx, rx) = mpsc::channel(64);
        let service = self.clone();
        let mut requests = requests.into_inner();
        drop_with(tx.clone(), &self.env, async move {
            let mut admitted = 0;
            while let Ok(Some(request)) = requests.message().await {
                service.silence().await;
                let (answer, lost) = service.append_one(request, admitted);
                admitted += 1;
                service.env.sleep(service.faults().answer_delay).await;
                if lost {
                    let _ = tx.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
                if tx.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn tail(&self, r: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        self.called("tail");
        let (tx, rx) = mpsc::channel(4);
        let service = self.clone();
        drop_with(tx.clone(), &self.env, service.tail_into(r.into_inner(), tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn report_replicas(
        &self,
        r: Request<v1::ReportReplicasRequest>,
    ) -> Result<Response<v1::ReportReplicasResponse>, Status> {
        self.shared
            .lock()
            .unwrap()
            .reports
            .push((self.index, r.into_inner().replay));
        Ok(Response::new(v1::ReportReplicasResponse::default()))
    }

    type GetBaseStream = Answers<v1::GetBaseResponse>;
    type PutBaseStream = Answers<v1::PutBaseResponse>;

    async fn get_base(
        &self,
        _: Request<v1::GetBaseRequest>,
    ) -> Result<Response<Self::GetBaseStream>, Status> {
        no_bases()
    }

    async fn put_base(
        &self,
        _: Request<Streaming<v1::PutBaseRequest>>,
    ) -> Result<Response<Self::PutBaseStream>, Status> {
        no_bases()
    }

    async fn commit_base(
        &self,
        _: Request<v1::CommitBaseRequest>,
    ) -> Result<Response<v1::CommitBaseResponse>, Status> {
        no_bases()
    }

    async fn offer_fold(
        &self,
        _: Request<v1::OfferFoldRequest>,
    ) -> Result<Response<v1::OfferFoldResponse>, Status> {
        no_bases()
    }

    async fn compact(&self, _: Request<v1::CompactRequest>) -> Result<Response<v1::CompactResponse>, Status> {
        no_bases()
    }
}

/// What the client does with bases is tried on real nodes (`journal/tests/bases.rs`).
fn no_bases<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this journal has no bases"))
}

/// Runs `f` until it ends or nobody listens any more.
fn drop_with<T: Send + 'static>(
    listener: mpsc::Sender<T>,
    env: &Env,
    f: impl Future<Output = ()> + Send + 'static,
) {
    let outer = env.clone();
    let task = env.spawn(async move {
        tokio::select! {
            biased;
            () = listener.closed() => {}
            () = f => {}
        }
    });
    // The handle must outlive this call: it ends the task when it is dropped.
    std::mem::forget((task, outer));
}
