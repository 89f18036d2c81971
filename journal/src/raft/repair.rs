//! Repair: closes the gaps that rot has left in a node's log with what its peers have, before the node takes part again.
//!
//! Until then it is no node: it votes for nobody and acknowledges nothing, so no election and no commit counts what it
//! has lost. It answers one question only, for the records that it can still read, so that nodes which rotted in
//! different places heal each other; no leader is needed for that.
//!
//! Which records are the missing ones? One that is committed is the only one of its index that can ever be. One of a
//! known term and index is that one, committed or not (a leader makes one record of an index). So a record is taken if
//! the peer that has it knows it to be committed, or if the records before and behind the gap are of one term and it
//! is of that term too. The peer must also have the same record before the gap, which says that all before are the same;
//! where it has another, a removal of records is among what was lost, and the gap is followed down to where both agree.
//! Committed records of a later term than the one behind the gap prove that what was lost is no part of the log any more:
//! committed ones, since a leader that was cut off has records of a later term that nobody else will ever have.
//!
//! Where nothing behind the gap tells how many are missing, the node may have lost what a majority needed it for, and what
//! a leader still counts it as having. So a leader is asked for the end of its log, all of which must be committed, and
//! all of that is taken, as far as the gap has room for it.
//!
//! The reasoning is that of "Protocol-Aware Recovery for Consensus-Based Storage" (FAST '18), with marks in place of its
//! identifiers.

use super::config::{NodeConfig, NodeError, open_metadata};
use super::network::{Peers, envelope, meant_for};
use super::service::fetch_refused;
use super::types::{
    entry_from_disk, entry_from_wire, entry_to_disk, entry_to_wire, log_id_from_disk, log_id_to_wire,
};
use crate::segment::{
    Gap, LogId, LogRecord, NOBODY, PAYLOAD_BYTES_MAX, SEGMENT_BYTES_MAX, Salvage, SeedMember,
};
use futures_util::stream::BoxStream;
use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_proto::v1::raft_server::Raft;
use redoubt_types::NodeId;
use redoubt_types::limits::{RAFT_BATCH_BYTES_MAX, RPC_DEADLINE};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Pause between attempts to close what is open.
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// Attempts between two lines in the log.
const TELL_EVERY: u32 = 100;

/// A node whose log has gaps.
pub struct Repair {
    env: Env,
    peers: Peers,
    me: NodeId,
    cluster: redoubt_types::ClusterId,
    members: Vec<SeedMember>,
    salvage: Arc<Mutex<Salvage>>,
}

impl Repair {
    /// Opens the directory for repair. `None` when the node belongs to no cluster that could have what it lost.
    ///
    /// # Errors
    /// When it can't be read, or nothing around the damage tells what is missing.
    pub fn open(env: &Env, config: &NodeConfig) -> Result<Option<Repair>, NodeError> {
        let metadata = open_metadata(config)?;
        let salvage = Salvage::open(env, &config.dir, &*metadata, &mut |_| {})?;
        let Some(seed) = salvage.identity().cluster.clone() else {
            return Ok(None);
        };
        Ok(Some(Repair {
            env: env.clone(),
            peers: Peers::new(env.clone()),
            me: salvage.identity().node,
            cluster: seed.cluster,
            members: seed.members,
            salvage: Arc::new(Mutex::new(salvage)),
        }))
    }

    /// The service that a node has meanwhile.
    pub fn service(&self) -> RepairService {
        RepairService {
            cluster: self.cluster.to_string(),
            me: self.me,
            salvage: Arc::downgrade(&self.salvage),
        }
    }

    /// Waits until gaps were closed, all that can be by now: the directory can be read again then, when this is dropped.
    /// Returns the closed ones.
    ///
    /// # Errors
    /// When a patch can't be written.
    pub async fn run(&self) -> Result<Vec<Gap>, NodeError> {
        let gaps = lock(&self.salvage).gaps().to_vec();
        let mut attempts: u32 = 0;
        loop {
            let mut closed = Vec::new();
            for gap in gaps.iter().filter(|gap| !gap.waits()) {
                match self.find(gap).await {
                    Ok((as_there, records, peer)) => {
                        lock(&self.salvage)
                            .close_gap(&as_there, &records)
                            .map_err(|failure| NodeError::Storage(failure.to_string()))?;
                        let first = as_there.first_wanted();
                        tracing::info!(
                            first,
                            records = records.len(),
                            peer,
                            "repaired what rotted on this disk"
                        );
                        closed.push(*gap);
                    }
                    Err(why) if attempts.is_multiple_of(TELL_EVERY) => {
                        tracing::warn!(first = gap.first_wanted(), "can't be repaired yet: {why}");
                    }
                    Err(_) => {}
                }
            }
            // Those that are left may hang on those that were closed: the directory has to be read anew for them.
            if !closed.is_empty() {
                return Ok(closed);
            }
            attempts = attempts.wrapping_add(1);
            self.env.sleep(TRY_AGAIN).await;
        }
    }

    /// The missing records, the gap as it shows in the log of who has them, and who that is.
    async fn find(&self, gap: &Gap) -> Result<(Gap, Vec<LogRecord>, String), String> {
        let committed = if gap.is_open_ended() {
            self.log_end_by_now().await?
        } else {
            0
        };
        let mut why = String::new();
        let mut wanted = Wanted::new(*gap, committed);
        for peer in self.members.iter().filter(|m| m.node != self.me) {
            wanted.next_peer(gap);
            match self.fetch(peer, &mut wanted).await {
                Ok(()) => return Ok((wanted.gap, wanted.records, peer.name.clone())),
                Err(e) => why = format!("{why}{}: {e}; ", peer.name),
            }
        }
        Err(why)
    }

    /// Behind the last index that the leader had when it was asked, a quorum having committed all of that since. What was
    /// committed when it was asked would not do: this node may have acknowledged a record that is committed later, and
    /// counted as having it then.
    async fn log_end_by_now(&self) -> Result<u64, String> {
        let mut why = String::new();
        for peer in self.members.iter().filter(|m| m.node != self.me) {
            let request = v1::RaftReadIndexRequest {
                envelope: Some(envelope(self.cluster, self.me, peer.node.get())),
                whole_log: true,
            };
            let mut client = self.peers.at(&peer.address);
            let answer = self.env.timeout(RPC_DEADLINE, client.read_index(request)).await;
            match answer.map(|a| a.map(Response::into_inner)) {
                Ok(Ok(v1::RaftReadIndexResponse { read: Some(read), .. })) => return Ok(read.index + 1),
                Ok(Ok(refused)) => {
                    why = format!("{why}{}: {}; ", peer.name, refused.refused.unwrap_or_default())
                }
                Ok(Err(status)) => why = format!("{why}{}: {}; ", peer.name, status.message()),
                Err(elapsed) => why = format!("{why}{}: {elapsed}; ", peer.name),
            }
        }
        Err(format!("no leader says where the log ends: {why}"))
    }

    /// Takes from one peer all that is still wanted.
    async fn fetch(&self, peer: &SeedMember, wanted: &mut Wanted) -> Result<(), String> {
        loop {
            let request = v1::RaftFetchRequest {
                envelope: Some(envelope(self.cluster, self.me, peer.node.get())),
                first: wanted.next(),
                end: wanted.end(),
            };
            let mut client = self.peers.at(&peer.address);
            let answer = self
                .env
                .timeout(RPC_DEADLINE, client.fetch_entries(request))
                .await;
            let answer = answer.map_err(|e| e.to_string())?;
            let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
            let id_at = |index| lock(&self.salvage).log_id_at(index);
            if wanted.take(answer, id_at)? == Taken::All {
                return Ok(());
            }
        }
    }
}

/// Why a gap can't be closed yet.
const ANOTHER_FIRST: &str = "another gap must be closed first";

/// Bytes of records that a file that was lost can have held, at most: what a node lacks beyond that, it never had.
const LOST_BYTES_MAX: u64 = SEGMENT_BYTES_MAX as u64 + PAYLOAD_BYTES_MAX as u64;

/// What is still wanted.
struct Wanted {
    gap: Gap,
    /// Behind the last index of the log by now, where only that tells how many are missing.
    log_end: u64,
    records: Vec<LogRecord>,
    /// Bytes of their payload.
    bytes: u64,
    /// How many of the records are proven.
    proven: usize,
    /// The lowest index at which a peer has a record of a later term than what stands behind the gap. If that is committed, all
    /// that stands here from it on was removed later.
    later_at: Option<u64>,
}

/// What an answer brought.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// More is wanted.
    Part,
    /// Everything, and it is proven to be what is missing.
    All,
}

impl Wanted {
    fn new(gap: Gap, log_end: u64) -> Self {
        Wanted {
            gap,
            log_end,
            records: Vec::new(),
            bytes: 0,
            proven: 0,
            later_at: None,
        }
    }

    fn next(&self) -> u64 {
        self.gap.first_wanted() + self.records.len() as u64
    }

    fn end(&self) -> u64 {
        self.gap.end_wanted(|| self.log_end)
    }

    fn last(&self) -> Option<LogId> {
        self.records.last().map(|r| r.id).or(self.gap.before())
    }

    /// Begins with another peer: what the last one did not prove is forgotten, above all that something was removed.
    fn next_peer(&mut self, gap: &Gap) {
        if self.proven == 0 {
            *self = Wanted::new(*gap, self.log_end);
        }
        self.records.truncate(self.proven);
        self.bytes = self.records.iter().map(|r| r.payload.len() as u64).sum();
        self.gap = self.gap.removed_as(gap);
        self.later_at = None;
    }

    /// Takes a peer's answer; `id_at` tells the records that stand here.
    fn take(
        &mut self,
        answer: v1::RaftFetchResponse,
        id_at: impl Fn(u64) -> Option<LogId>,
    ) -> Result<Taken, String> {
        if let Some(why) = answer.refused {
            return Err(why);
        }
        // The same record before means the same records all the way down.
        let before = answer.before.map(|id| (id.term, id.index));
        let ours = self.last().map(|id| (id.term, id.index));
        if ours.is_some() && before != ours && !redoubt_env::planted::on("h07_repair_from_any_history") {
            let theirs = answer.before.or(answer.last);
            return self
                .step_back(theirs.map(|id| (id.term, id.index)), id_at)
                .map(|()| Taken::Part);
        }
        let (next, came) = (self.next(), answer.entries.len());
        for (entry, index) in answer.entries.into_iter().zip(next..self.end()) {
            let entry = entry_from_wire(entry).map_err(|e| e.to_string())?;
            let record = entry_to_disk(&entry);
            if record.id.index != index || self.last().is_some_and(|last| record.id.term < last.term) {
                return Err(format!(
                    "its record {:?} does not follow {:?}",
                    record.id,
                    self.last()
                ));
            }
            if self.gap.is_later(record.id.term) {
                self.later_at = Some(index);
                self.gap = self.gap.removed_from(index);
                break;
            }
            self.bytes += record.payload.len() as u64;
            self.records.push(record);
            if self.gap.is_cut_short() && self.bytes >= LOST_BYTES_MAX {
                self.log_end = index + 1;
                break;
            }
        }
        let (first, end) = (self.gap.first_wanted(), self.end());
        let of_one_term = |term: u64| self.records.iter().all(|r| r.id.term == term);
        let by_term =
            self.gap.term().is_some_and(of_one_term) || redoubt_env::planted::on("h07_repair_with_anything");
        self.proven = if by_term {
            self.records.len()
        } else {
            let below = answer.committed_end.saturating_sub(first);
            self.proven.max(self.records.len().min(below as usize))
        };
        if self.next() < end {
            return match came {
                0 => Err(format!("it has nothing from {next} on")),
                _ => Ok(Taken::Part),
            };
        }
        // Also where no record is missing: the one before is proven by it, or that what stands here was removed.
        let needed = end.max(self.later_at.map_or(0, |index| index + 1));
        if !by_term && answer.committed_end < needed {
            return Err(format!(
                "it knows what is below {} to be committed, not what is below {needed}",
                answer.committed_end
            ));
        }
        Ok(Taken::All)
    }

    /// The peer's record, of this term and index, is not the one that stands here.
    fn step_back(
        &mut self,
        theirs: Option<(u64, u64)>,
        id_at: impl Fn(u64) -> Option<LogId>,
    ) -> Result<(), String> {
        let stands = self.last();
        let Some((term, index)) = theirs.filter(|_| self.records.is_empty()) else {
            return Err(format!("it has {theirs:?} where {stands:?} stands here"));
        };
        if index + 1 > self.gap.first_wanted() {
            return Err(format!("its log ends with {theirs:?}"));
        }
        if !self.gap.may_step_back() {
            return Err(ANOTHER_FIRST.to_owned());
        }
        // Whether a record that is missing here is the peer's can't be told.
        let here = id_at(index).ok_or(ANOTHER_FIRST)?;
        if here.term == term && here.leader != NOBODY {
            return Err(format!("its log ends with {theirs:?}"));
        }
        let before = index.checked_sub(1).map(|i| id_at(i).ok_or(ANOTHER_FIRST));
        if self.gap.is_later(term) {
            self.later_at = Some(index);
        }
        self.gap = self.gap.stepped_back(index, term, before.transpose()?);
        Ok(())
    }
}

/// An answer to a fetch.
pub(super) fn fetched(
    records: Vec<LogRecord>,
    before: Option<LogId>,
    last: Option<LogId>,
    committed_end: u64,
) -> Result<v1::RaftFetchResponse, String> {
    if records.iter().any(|r| r.id.leader == NOBODY) {
        return Err("a record was removed here, and is missing too".to_owned());
    }
    let to_wire = |id: LogId| log_id_to_wire(&log_id_from_disk(&id));
    let entries = records
        .into_iter()
        .map(|r| entry_from_disk(r).map(|e| entry_to_wire(&e)))
        .collect::<Result<_, _>>();
    Ok(v1::RaftFetchResponse {
        entries: entries.map_err(|e| e.to_string())?,
        before: before.filter(|id| id.leader != NOBODY).map(to_wire),
        last: last.filter(|id| id.leader != NOBODY).map(to_wire),
        committed_end,
        refused: None,
    })
}

fn lock(salvage: &Mutex<Salvage>) -> MutexGuard<'_, Salvage> {
    salvage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node answers while its gaps are being closed.
pub struct RepairService {
    cluster: String,
    me: NodeId,
    /// Weak: a connection that outlives the repair must not keep the directory locked.
    salvage: Weak<Mutex<Salvage>>,
}

impl RepairService {
    fn fetch(&self, request: &v1::RaftFetchRequest) -> Result<v1::RaftFetchResponse, String> {
        meant_for(request.envelope.as_ref(), &self.cluster, self.me)?;
        let salvage = self.salvage.upgrade().ok_or("the repair is over")?;
        let salvage = lock(&salvage);
        let before = request.first.checked_sub(1).and_then(|i| salvage.log_id_at(i));
        let records = salvage
            .read(request.first, request.end, RAFT_BATCH_BYTES_MAX as u64)
            .map_err(|e| e.to_string())?;
        // Its end says nothing while something is missing.
        fetched(records, before, None, salvage.committed_end())
    }
}

/// The answer to everything else: as that of a node that is not there.
fn not_now<T>() -> Result<Response<T>, Status> {
    Err(Status::unavailable("this node is repairing its log"))
}

#[tonic::async_trait]
impl Raft for RepairService {
    type AppendEntriesStream = BoxStream<'static, Result<v1::RaftAppendResponse, Status>>;

    async fn append_entries(
        &self,
        _: Request<Streaming<v1::RaftAppendRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        not_now()
    }

    async fn vote(&self, _: Request<v1::RaftVoteRequest>) -> Result<Response<v1::RaftVoteResponse>, Status> {
        not_now()
    }

    async fn pre_vote(
        &self,
        _: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftVoteResponse>, Status> {
        not_now()
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::RaftTransferRequest>,
    ) -> Result<Response<v1::RaftTransferResponse>, Status> {
        not_now()
    }

    async fn read_index(
        &self,
        _: Request<v1::RaftReadIndexRequest>,
    ) -> Result<Response<v1::RaftReadIndexResponse>, Status> {
        not_now()
    }

    async fn current_vote(
        &self,
        _: Request<v1::RaftCurrentVoteRequest>,
    ) -> Result<Response<v1::RaftCurrentVoteResponse>, Status> {
        not_now()
    }

    async fn fetch_entries(
        &self,
        request: Request<v1::RaftFetchRequest>,
    ) -> Result<Response<v1::RaftFetchResponse>, Status> {
        let answer = self.fetch(request.get_ref());
        Ok(Response::new(answer.unwrap_or_else(fetch_refused)))
    }

    async fn install_snapshot(
        &self,
        _: Request<v1::RaftSnapshotRequest>,
    ) -> Result<Response<v1::RaftSnapshotResponse>, Status> {
        not_now()
    }

    async fn holds_base(
        &self,
        _: Request<v1::RaftHoldsBaseRequest>,
    ) -> Result<Response<v1::RaftHoldsBaseResponse>, Status> {
        not_now()
    }
}

#[cfg(test)]
mod tests;
