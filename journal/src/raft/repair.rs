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
//! Records of a later term than the one behind the gap prove that what was lost is no part of the log any more.
//! Where nothing behind the gap tells how many are missing, the node may have lost what a majority needed it for: then
//! a leader is asked what is committed by now, and all of that is taken, as far as the gap has room for it. The reasoning of
//! "Protocol-Aware Recovery for Consensus-Based Storage" (FAST '18), with marks in place of its identifiers.

use super::config::{NodeConfig, NodeError, open_metadata};
use super::network::{Peers, envelope};
use super::service::fetch_refused;
use super::types::{
    entry_from_disk, entry_from_wire, entry_to_disk, entry_to_wire, log_id_from_disk, log_id_to_wire,
};
use crate::segment::{Gap, LogId, LogRecord, Salvage, SeedMember};
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
            me: self.me.get(),
            salvage: Arc::downgrade(&self.salvage),
        }
    }

    /// Waits until every gap is closed that can be by now; the directory can be opened then, when this is dropped.
    ///
    /// # Errors
    /// When a patch can't be written.
    pub async fn run(&self) -> Result<(), NodeError> {
        let mut open = lock(&self.salvage).gaps().to_vec();
        let mut attempts: u32 = 0;
        loop {
            let mut left = Vec::new();
            for gap in open {
                if gap.waits() {
                    continue;
                }
                match self.find(&gap).await {
                    Ok((gap, records, peer)) => {
                        lock(&self.salvage)
                            .close_gap(&gap, &records)
                            .map_err(|failure| NodeError::Storage(failure.to_string()))?;
                        tracing::info!(
                            first = gap.first_wanted(),
                            records = records.len(),
                            peer,
                            "repaired what rotted on this disk"
                        );
                    }
                    Err(why) => {
                        if attempts.is_multiple_of(TELL_EVERY) {
                            tracing::warn!(first = gap.first_wanted(), "can't be repaired yet: {why}");
                        }
                        left.push(gap);
                    }
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            open = left;
            attempts = attempts.wrapping_add(1);
            self.env.sleep(TRY_AGAIN).await;
        }
    }

    /// The missing records, the gap as it shows in the log of who has them, and who that is.
    async fn find(&self, gap: &Gap) -> Result<(Gap, Vec<LogRecord>, String), String> {
        let committed = if gap.is_open_ended() {
            self.committed_by_now().await?
        } else {
            0
        };
        let mut why = String::new();
        for peer in self.members.iter().filter(|m| m.node != self.me) {
            match self.fetch(peer, gap, committed).await {
                Ok((gap, records)) => return Ok((gap, records, peer.name.clone())),
                Err(e) => why = format!("{why}{}: {e}; ", peer.name),
            }
        }
        Err(why)
    }

    /// Behind the last index that a quorum has committed by now, as its leader vouches.
    async fn committed_by_now(&self) -> Result<u64, String> {
        let mut why = String::new();
        for peer in self.members.iter().filter(|m| m.node != self.me) {
            let request = v1::RaftReadIndexRequest {
                envelope: Some(envelope(self.cluster, self.me, peer.node.get())),
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
        Err(format!("no leader says what is committed: {why}"))
    }

    /// All missing records from one peer, and the gap as that peer's log shows it.
    async fn fetch(
        &self,
        peer: &SeedMember,
        gap: &Gap,
        committed: u64,
    ) -> Result<(Gap, Vec<LogRecord>), String> {
        let mut wanted = Wanted::new(*gap, committed);
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
            match wanted.take(answer)? {
                Taken::Part => {}
                Taken::All => return Ok((wanted.gap, wanted.records)),
                Taken::OtherBefore(term) => {
                    let further_down = wanted.gap.first_wanted().checked_sub(2);
                    let before = further_down.and_then(|i| lock(&self.salvage).log_id_at(i));
                    if further_down.is_some() && before.is_none() {
                        return Err("another gap must be closed first".to_owned());
                    }
                    wanted.gap = wanted.gap.stepped_back(term, before);
                }
            }
        }
    }
}

/// What is still wanted of one peer.
struct Wanted {
    gap: Gap,
    /// What is committed by now, where only that tells how many are missing.
    committed: u64,
    records: Vec<LogRecord>,
}

/// What an answer brought.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// More is wanted.
    Part,
    /// Everything, and it is proven to be what is missing.
    All,
    /// The peer has another record before the gap, of this term.
    OtherBefore(u64),
}

impl Wanted {
    fn new(gap: Gap, committed: u64) -> Self {
        Wanted {
            gap,
            committed,
            records: Vec::new(),
        }
    }

    fn next(&self) -> u64 {
        self.gap.first_wanted() + self.records.len() as u64
    }

    fn end(&self) -> u64 {
        self.gap.end_wanted(|| self.committed)
    }

    fn last(&self) -> Option<LogId> {
        self.records.last().map(|r| r.id).or(self.gap.before())
    }

    fn take(&mut self, answer: v1::RaftFetchResponse) -> Result<Taken, String> {
        if let Some(why) = answer.refused {
            return Err(why);
        }
        // The same record before means the same records all the way down.
        let before = answer.before.map(|id| (id.term, id.index));
        let ours = self.last().map(|id| (id.term, id.index));
        if ours.is_some() && before != ours && !redoubt_env::planted::on("h07_repair_from_any_history") {
            return match before {
                Some((term, _)) if self.records.is_empty() => Ok(Taken::OtherBefore(term)),
                _ => Err(format!("it has {before:?} where {ours:?} stands here")),
            };
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
                self.gap = self.gap.removed_from(index);
                break;
            }
            self.records.push(record);
        }
        let end = self.end();
        if self.next() < end {
            return match came {
                0 => Err(format!("it has nothing from {next} on")),
                _ => Ok(Taken::Part),
            };
        }
        let of_one_term = |term: u64| self.records.iter().all(|r| r.id.term == term);
        let proven = answer.committed_end >= end
            || self.gap.term().is_some_and(of_one_term)
            || redoubt_env::planted::on("h07_repair_with_anything");
        if !proven {
            return Err(format!(
                "it knows what is below {} to be committed, not what is below {end}",
                answer.committed_end
            ));
        }
        Ok(Taken::All)
    }
}

/// An answer to a fetch.
pub(super) fn fetched(
    records: Vec<LogRecord>,
    before: Option<LogId>,
    committed_end: u64,
) -> Result<v1::RaftFetchResponse, String> {
    let entries = records
        .into_iter()
        .map(|r| entry_from_disk(r).map(|e| entry_to_wire(&e)))
        .collect::<Result<_, _>>();
    Ok(v1::RaftFetchResponse {
        entries: entries.map_err(|e| e.to_string())?,
        before: before.map(|id| log_id_to_wire(&log_id_from_disk(&id))),
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
    me: u64,
    /// Weak: a connection that outlives the repair must not keep the directory locked.
    salvage: Weak<Mutex<Salvage>>,
}

impl RepairService {
    fn fetch(&self, request: &v1::RaftFetchRequest) -> Result<v1::RaftFetchResponse, String> {
        let envelope = request.envelope.as_ref().ok_or("field `envelope` is missing")?;
        if envelope.cluster_id != self.cluster || envelope.to_node != self.me {
            return Err("meant for another node".to_owned());
        }
        let salvage = self.salvage.upgrade().ok_or("the repair is over")?;
        let salvage = lock(&salvage);
        let before = request.first.checked_sub(1).and_then(|i| salvage.log_id_at(i));
        let records = salvage
            .read(request.first, request.end, RAFT_BATCH_BYTES_MAX as u64)
            .map_err(|e| e.to_string())?;
        fetched(records, before, salvage.committed_end())
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
}

#[cfg(test)]
mod tests;
