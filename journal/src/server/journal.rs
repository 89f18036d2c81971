//! `redoubt.v1.Journal`: what writers and readers ask of a node.

use super::answer::{self, invalid, not_proposed, refusal, refused, tail_refused};
use super::base;
use super::replicas::ReplicaBoard;
use crate::append::{Acquire, AppendEntry, Command, LeaseDecision, Session, Verdict};
use crate::raft::{JournalState, Node, ProposeError, Proposed};
use crate::tail::{Cursor, TailEvent};
use futures_util::stream::{self, BoxStream, StreamExt};
use redoubt_proto::v1::journal_server::Journal;
use redoubt_proto::{
    InvalidField, epoch, holder, lineage_step, lineage_step_from, lineage_to, replid, run_id, v1,
};
use redoubt_types::limits::{APPEND_WINDOW_ENTRIES, ENTRY_PAYLOAD_BYTES_ACCEPTED};
use redoubt_types::{Chain, HolderId, Offset, WallTime};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use v1::Reason;

/// Leases longer than this are refused: a dead writer would hold everybody up for as long.
const LEASE_MAX: Duration = Duration::from_secs(600);
/// Leases shorter than this are refused: no holder could keep one over a network.
const LEASE_MIN: Duration = Duration::from_millis(100);
/// A name, bytes at most.
const NAME_BYTES_MAX: usize = 128;
/// Replicas in one report at most: more than a replay has connections.
const REPLICAS_MAX: usize = 1024;
/// A replica's address, bytes at most: a host name, a port and brackets.
const ADDRESS_BYTES_MAX: usize = 300;
/// The one journal there is.
pub(crate) const JOURNAL: &str = "default";

pub(super) struct JournalService {
    node: Arc<Node>,
    board: Arc<ReplicaBoard>,
}

/// What this node knows of the journal, once it has begun.
pub(super) fn describe(node: &Node, confirmed: bool) -> Option<v1::Description> {
    let leader = node.leader();
    let base = node.state().admission.base().cloned();
    let holds_base = base.as_ref().is_some_and(|base| node.bases().holds(base));
    let leads = node.role() == "leader";
    let (node_name, node_id) = {
        let identity = node.identity();
        (identity.name.clone(), identity.node.get())
    };
    let state = node.state();
    let (cluster, lineage) = (state.admission.cluster()?, state.admission.lineage()?);
    let writer = state.admission.writer();
    let remaining = writer
        .filter(|_| leads)
        .map(|w| state.lease.remaining(w, node.env().now()));
    Some(v1::Description {
        cluster_id: cluster.to_string(),
        node_name,
        node_id,
        position: Some(answer::position(&state.admission.position())),
        confirmed,
        lineage: lineage_to(lineage),
        writer: Some(answer::writer(writer, state.admission.session(), remaining)),
        leader,
        beginning: state.beginning().get(),
        base: base.as_ref().map(redoubt_proto::base),
        holds_base,
    })
}

impl JournalService {
    pub(super) fn new(node: Arc<Node>, board: Arc<ReplicaBoard>) -> Self {
        JournalService { node, board }
    }

    /// Refuses what was meant for another cluster or journal.
    fn check(&self, cluster: &str, journal: &str) -> Result<(), v1::Refusal> {
        check(&self.node, cluster, journal)
    }

    async fn acquire(&self, r: &v1::AcquireWriterRequest) -> Result<v1::Grant, v1::Refusal> {
        self.check(&r.cluster_id, &r.journal)?;
        let asking = holder("holder", r.holder).map_err(invalid)?;
        let lease = Duration::from_millis(r.lease_ms);
        if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
            let why = format!("must be {LEASE_MIN:?} to {LEASE_MAX:?}, not {lease:?}");
            return Err(invalid(InvalidField::new("lease_ms", why)));
        }
        within("holder_name", &r.holder_name, NAME_BYTES_MAX).map_err(invalid)?;
        let claim = |state: &JournalState| self.claim(state, asking, r, lease);
        match self.node.propose_if(claim).await.map_err(not_proposed)?? {
            Verdict::Granted(g) => Ok(v1::Grant {
                epoch: g.epoch.get(),
                position: Some(answer::position(&g.position)),
                lineage: lineage_to(&g.lineage),
                session: g.session.as_ref().map(answer::session),
                previous_wall_ms: g.previous.as_ref().map_or(0, |w| w.renewed_wall.ms()),
                previous_lease_ms: g.previous.as_ref().map_or(0, |w| w.lease.as_millis() as u64),
            }),
            other => Err(unexpected(&other)),
        }
    }

    fn claim(
        &self,
        state: &JournalState,
        asking: HolderId,
        r: &v1::AcquireWriterRequest,
        lease: Duration,
    ) -> Result<Command, v1::Refusal> {
        let writer = state.admission.writer();
        match state.lease.decide(writer, asking, self.node.env().now()) {
            LeaseDecision::Free { seen_renewals } => Ok(Command::Acquire(Acquire {
                holder: asking,
                name: r.holder_name.clone(),
                lease,
                seen_renewals,
                sent: WallTime::from_ms(r.sent_wall_ms),
            })),
            LeaseDecision::Held { remaining } => {
                let name = writer.map(|w| w.name.as_str()).unwrap_or_default();
                let message = format!("{name:?} holds the lease for another {remaining:?}");
                let retry_after_ms = Some(remaining.as_millis() as u64 + 1);
                Err(v1::Refusal {
                    retry_after_ms,
                    ..refusal(Reason::LeaseHeld, message)
                })
            }
        }
    }

    /// Proposes a command whose verdict is done or refused.
    async fn done(
        &self,
        cluster: &str,
        journal: &str,
        command: Result<Command, InvalidField>,
    ) -> Option<v1::Refusal> {
        let result = async {
            self.check(cluster, journal)?;
            let command = command.map_err(invalid)?;
            match self
                .node
                .propose_if(|_| Ok::<_, v1::Refusal>(command))
                .await
                .map_err(not_proposed)??
            {
                Verdict::Done => Ok(()),
                other => Err(unexpected(&other)),
            }
        };
        result.await.err()
    }
}

pub(super) fn check(node: &Node, cluster: &str, journal: &str) -> Result<(), v1::Refusal> {
    if journal != JOURNAL {
        return Err(refusal(
            Reason::UnknownJournal,
            format!("there is no journal {journal:?}, only {JOURNAL:?}"),
        ));
    }
    let ours = node.identity().cluster.as_ref().map(|c| c.cluster.to_string());
    match ours {
        None => Err(not_proposed(ProposeError::NotBootstrapped)),
        Some(ours) if !cluster.is_empty() && cluster != ours => {
            let message = format!("the request is for cluster {cluster:?}, this node is of {ours}");
            Err(refusal(Reason::WrongCluster, message))
        }
        Some(_) => Ok(()),
    }
}

fn unexpected(verdict: &Verdict) -> v1::Refusal {
    match verdict {
        Verdict::Refused(r) => refused(r),
        other => refusal(Reason::NotReady, format!("the log answered {other:?}")),
    }
}

/// Refuses a text that is too long to be kept: what is written for people is small.
fn within(field: &'static str, text: &str, bytes_max: usize) -> Result<(), InvalidField> {
    if text.len() > bytes_max {
        return Err(InvalidField::new(
            field,
            format!("is longer than {bytes_max} bytes"),
        ));
    }
    Ok(())
}

fn session_of(s: Option<&v1::Session>) -> Result<Command, InvalidField> {
    let s = s.ok_or_else(|| InvalidField::new("session", "is missing"))?;
    within("session.server", &s.server, NAME_BYTES_MAX)?;
    Ok(Command::Session(Session {
        epoch: epoch("session.epoch", s.epoch)?,
        run_id: run_id("session.run_id", &s.run_id)?,
        at: Offset::new(s.at),
        server: s.server.clone(),
    }))
}

fn lineage_of(step: Option<&v1::LineageStep>) -> Result<Command, InvalidField> {
    let step = step.ok_or_else(|| InvalidField::new("step", "is missing"))?;
    Ok(Command::Lineage(lineage_step_from(step)?))
}

/// Checks that a report is as small as it has to be: it is kept in memory.
fn report_of(r: &v1::ReportReplicasRequest) -> Result<(), InvalidField> {
    within("replay", &r.replay, NAME_BYTES_MAX)?;
    if r.replicas.len() > REPLICAS_MAX {
        let why = format!("lists {}, at most {REPLICAS_MAX} are taken", r.replicas.len());
        return Err(InvalidField::new("replicas", why));
    }
    for replica in &r.replicas {
        within("replicas.address", &replica.address, ADDRESS_BYTES_MAX)?;
        within("replicas.replid", &replica.replid, NAME_BYTES_MAX)?;
        within("replicas.state", &replica.state, NAME_BYTES_MAX)?;
    }
    Ok(())
}

fn entry_of(e: Option<v1::Entry>) -> Result<AppendEntry, InvalidField> {
    let e = e.ok_or_else(|| InvalidField::new("entry", "is missing"))?;
    if e.payload.len() > ENTRY_PAYLOAD_BYTES_ACCEPTED {
        let why = format!(
            "holds {} bytes, at most {ENTRY_PAYLOAD_BYTES_ACCEPTED} are taken",
            e.payload.len()
        );
        return Err(InvalidField::new("entry.payload", why));
    }
    if e.start.checked_add(e.payload.len() as u64).is_none() {
        return Err(InvalidField::new("entry.start", "ends beyond 2^64"));
    }
    Ok(AppendEntry {
        epoch: epoch("entry.epoch", e.epoch)?,
        replid: replid("entry.replid", &e.replid)?,
        start: Offset::new(e.start),
        chain: Chain::from_u64(e.chain),
        payload_crc: e.payload_crc,
        captured: WallTime::from_ms(e.captured_wall_ms),
        payload: e.payload,
    })
}

fn entry_to(a: AppendEntry) -> v1::Entry {
    v1::Entry {
        epoch: a.epoch.get(),
        replid: a.replid.to_string(),
        start: a.start.get(),
        chain: a.chain.get(),
        payload: a.payload,
        payload_crc: a.payload_crc,
        captured_wall_ms: a.captured.ms(),
    }
}

/// Proposes one append; the proposal's place in the log is settled when this returns.
async fn propose(node: &Node, request: v1::AppendRequest) -> Result<Proposed, v1::Refusal> {
    check(node, &request.cluster_id, &request.journal)?;
    let entry = entry_of(request.entry).map_err(invalid)?;
    node.propose(&Command::Append(entry)).await.map_err(not_proposed)
}

async fn answered(request_id: u64, proposed: Result<Proposed, v1::Refusal>) -> v1::AppendResponse {
    use v1::append_response::Outcome;
    let verdict = match proposed {
        Ok(proposed) => proposed.verdict().await.map_err(not_proposed),
        Err(refused) => Err(refused),
    };
    let admitted = |end: Offset, tail: Offset, duplicate| {
        Outcome::Admitted(v1::Admitted {
            end: end.get(),
            duplicate,
            tail: tail.get(),
        })
    };
    let outcome = match verdict {
        Ok(Verdict::Admitted { end, tail, .. }) => admitted(end, tail, false),
        Ok(Verdict::Duplicate { end, tail }) => admitted(end, tail, true),
        Ok(other) => Outcome::Refused(unexpected(&other)),
        Err(refused) => Outcome::Refused(refused),
    };
    v1::AppendResponse {
        request_id,
        outcome: Some(outcome),
    }
}

/// `None` ends the stream.
fn tail_response(event: TailEvent) -> Option<v1::TailResponse> {
    use v1::tail_response::Event;
    let event = match event {
        TailEvent::Entry(index, entry) => Event::Entry(v1::TailEntry {
            entry: Some(entry_to(entry)),
            first_txid: index.first_txid.get(),
            groups: index.groups,
            db: index.db.get(),
            at_group_start: index.at_group_start,
        }),
        TailEvent::Lineage(step) => Event::Lineage(lineage_step(&step)),
        TailEvent::Mark(tail, chain) => Event::Mark(v1::TailMark {
            tail: tail.get(),
            tail_chain: chain.get(),
        }),
        TailEvent::End => return None,
    };
    Some(v1::TailResponse { event: Some(event) })
}

fn refusal_event(refused: v1::Refusal) -> Result<v1::TailResponse, Status> {
    Ok(v1::TailResponse {
        event: Some(v1::tail_response::Event::Refused(refused)),
    })
}

#[tonic::async_trait]
impl Journal for JournalService {
    type AppendStream = BoxStream<'static, Result<v1::AppendResponse, Status>>;
    type GetBaseStream = base::Got;
    type PutBaseStream = base::Put;
    type TailStream = BoxStream<'static, Result<v1::TailResponse, Status>>;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        use v1::describe_response::Outcome;
        let request = request.into_inner();
        let outcome = match self.check(&request.cluster_id, &request.journal) {
            Err(refused) => Outcome::Refused(refused),
            Ok(()) => {
                let confirmed = request.confirm && self.node.confirm().await.is_ok();
                match describe(&self.node, confirmed) {
                    Some(description) => Outcome::Description(description),
                    None => Outcome::Refused(refusal(
                        Reason::NotReady,
                        "the journal has not begun on this node",
                    )),
                }
            }
        };
        Ok(Response::new(v1::DescribeResponse {
            outcome: Some(outcome),
        }))
    }

    async fn acquire_writer(
        &self,
        request: Request<v1::AcquireWriterRequest>,
    ) -> Result<Response<v1::AcquireWriterResponse>, Status> {
        use v1::acquire_writer_response::Outcome;
        let outcome = match self.acquire(&request.into_inner()).await {
            Ok(grant) => Outcome::Grant(grant),
            Err(refused) => Outcome::Refused(refused),
        };
        Ok(Response::new(v1::AcquireWriterResponse {
            outcome: Some(outcome),
        }))
    }

    async fn renew_writer(
        &self,
        request: Request<v1::RenewWriterRequest>,
    ) -> Result<Response<v1::RenewWriterResponse>, Status> {
        let r = request.into_inner();
        let command = epoch("epoch", r.epoch).and_then(|epoch| {
            let holder = holder("holder", r.holder)?;
            Ok(Command::Renew {
                epoch,
                holder,
                sent: WallTime::from_ms(r.sent_wall_ms),
            })
        });
        let refused = self.done(&r.cluster_id, &r.journal, command).await;
        Ok(Response::new(v1::RenewWriterResponse { refused }))
    }

    async fn release_writer(
        &self,
        request: Request<v1::ReleaseWriterRequest>,
    ) -> Result<Response<v1::ReleaseWriterResponse>, Status> {
        let r = request.into_inner();
        let command = epoch("epoch", r.epoch).and_then(|epoch| {
            Ok(Command::Release {
                epoch,
                holder: holder("holder", r.holder)?,
            })
        });
        let refused = self.done(&r.cluster_id, &r.journal, command).await;
        Ok(Response::new(v1::ReleaseWriterResponse { refused }))
    }

    async fn record_session(
        &self,
        request: Request<v1::RecordSessionRequest>,
    ) -> Result<Response<v1::RecordSessionResponse>, Status> {
        let r = request.into_inner();
        let refused = self
            .done(&r.cluster_id, &r.journal, session_of(r.session.as_ref()))
            .await;
        Ok(Response::new(v1::RecordSessionResponse { refused }))
    }

    async fn record_lineage(
        &self,
        request: Request<v1::RecordLineageRequest>,
    ) -> Result<Response<v1::RecordLineageResponse>, Status> {
        let r = request.into_inner();
        let refused = self
            .done(&r.cluster_id, &r.journal, lineage_of(r.step.as_ref()))
            .await;
        Ok(Response::new(v1::RecordLineageResponse { refused }))
    }

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // Proposed by one task, in the order of the stream; answered in the same order as verdicts come. The
        // bound between the two is also the bound on what one stream may have in flight.
        let (tx, rx) = mpsc::channel(2 * APPEND_WINDOW_ENTRIES);
        let node = self.node.clone();
        let mut requests = request.into_inner();
        let proposing = self.node.env().spawn(async move {
            // What can't be decoded can't be answered by its id: it ends the stream, with its reason, behind the
            // answers to all before it.
            while let Some(request) = requests.message().await.transpose() {
                let (broken, step) = match request {
                    Ok(request) => (false, Ok((request.request_id, propose(&node, request).await))),
                    Err(status) => (true, Err(status)),
                };
                if tx.send(step).await.is_err() || broken {
                    return;
                }
            }
        });
        let answers = stream::unfold((rx, proposing), |(mut rx, proposing)| async move {
            let answer = match rx.recv().await? {
                Ok((request_id, proposed)) => Ok(answered(request_id, proposed).await),
                Err(status) => Err(status),
            };
            Some((answer, (rx, proposing)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let r = request.into_inner();
        if let Err(refused) = self.check(&r.cluster_id, &r.journal) {
            return Ok(Response::new(stream::iter([refusal_event(refused)]).boxed()));
        }
        let opened = Cursor::open(self.node.clone(), Offset::new(r.from), r.follow).await;
        let (cursor, lineage, tail) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                return Ok(Response::new(
                    stream::iter([refusal_event(tail_refused(e))]).boxed(),
                ));
            }
        };
        let (cluster_id, node_name) = {
            let identity = self.node.identity();
            let cluster = identity.cluster.as_ref().map(|c| c.cluster.to_string());
            (cluster.unwrap_or_default(), identity.name.clone())
        };
        let start = v1::TailStart {
            cluster_id,
            node_name,
            lineage: lineage_to(&lineage),
            tail: tail.get(),
        };
        let start = v1::TailResponse {
            event: Some(v1::tail_response::Event::Start(start)),
        };
        let events = stream::unfold(Some(cursor), |cursor| async move {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(event) => tail_response(event).map(|response| (Ok(response), Some(cursor))),
                Err(e) => Some((refusal_event(tail_refused(e)), None)),
            }
        });
        Ok(Response::new(stream::iter([Ok(start)]).chain(events).boxed()))
    }

    async fn report_replicas(
        &self,
        request: Request<v1::ReportReplicasRequest>,
    ) -> Result<Response<v1::ReportReplicasResponse>, Status> {
        let r = request.into_inner();
        let refused = self.check(&r.cluster_id, &r.journal);
        let refused = refused.and_then(|()| report_of(&r).map_err(invalid)).err();
        if refused.is_none() {
            self.board.put(self.node.env(), r.replay, r.replicas);
        }
        Ok(Response::new(v1::ReportReplicasResponse { refused }))
    }

    async fn get_base(
        &self,
        request: Request<v1::GetBaseRequest>,
    ) -> Result<Response<Self::GetBaseStream>, Status> {
        Ok(Response::new(base::get(self.node.clone(), request.into_inner())))
    }

    async fn put_base(
        &self,
        request: Request<Streaming<v1::PutBaseRequest>>,
    ) -> Result<Response<Self::PutBaseStream>, Status> {
        Ok(Response::new(base::put(&self.node, request.into_inner())))
    }

    async fn commit_base(
        &self,
        request: Request<v1::CommitBaseRequest>,
    ) -> Result<Response<v1::CommitBaseResponse>, Status> {
        let refused = base::commit(&self.node, request.into_inner()).await.err();
        Ok(Response::new(v1::CommitBaseResponse { refused }))
    }

    async fn offer_fold(
        &self,
        request: Request<v1::OfferFoldRequest>,
    ) -> Result<Response<v1::OfferFoldResponse>, Status> {
        use v1::offer_fold_response::Outcome;
        let outcome = match base::offer(&self.node, request.into_inner()).await {
            Ok(yours) => Outcome::Yours(yours),
            Err(refused) => Outcome::Refused(refused),
        };
        Ok(Response::new(v1::OfferFoldResponse {
            outcome: Some(outcome),
        }))
    }

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<v1::CompactResponse>, Status> {
        let refused = base::compact(&self.node, &request.into_inner()).err();
        Ok(Response::new(v1::CompactResponse { refused }))
    }
}
