//! openraft's types as this journal has them, and their bytes.

use crate::append::Verdict;
use crate::segment;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use prost::Message;
use redoubt_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

/// The only place that names the runtime under openraft.
pub(super) type Runtime = openraft_rt_tokio::TokioRuntime;

/// An application entry: an encoded [`crate::append::Command`]. Never re-encoded on its way from the
/// proposal to the disk and to the peers.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Data(pub(super) Bytes);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its label.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
}

openraft::declare_raft_types!(
    /// The journal's configuration of openraft.
    pub(super) TypeConfig:
        D = Data,
        R = Verdict,
        NodeId = u64,
        Node = Peer,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

/// Whether more than half of the voters of each of `configs` are as `counts` says: two sets while the membership changes, and
/// each must carry it.
pub(super) fn carried(configs: &[BTreeSet<u64>], counts: impl Fn(u64) -> bool) -> bool {
    configs
        .iter()
        .all(|voters| 2 * voters.iter().filter(|id| counts(**id)).count() > voters.len())
}

pub(super) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Peer>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: CommittedLeaderId::new(term),
        index,
    }
}

pub(super) fn log_id_from_disk(id: &segment::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(super) fn log_id_to_disk(id: &LogId) -> segment::LogId {
    segment::LogId {
        term: id.leader_id.term,
        leader: 0,
        index: id.index,
    }
}

pub(super) fn log_id_from_wire(id: &v1::RaftLogId) -> LogId {
    log_id(id.term, id.index)
}

pub(super) fn log_id_to_wire(id: &LogId) -> v1::RaftLogId {
    v1::RaftLogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(super) fn vote_of(term: u64, node: u64, committed: bool) -> Vote {
    Vote {
        leader_id: leader_id_std::LeaderId::new(term, node),
        committed,
    }
}

pub(super) fn vote_to_disk(vote: &Vote) -> segment::Vote {
    segment::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn vote_to_wire(vote: &Vote) -> v1::RaftVoteState {
    v1::RaftVoteState {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn vote_from_wire(vote: &v1::RaftVoteState) -> Vote {
    vote_of(vote.term, vote.node, vote.committed)
}

pub(super) fn membership_to_wire(membership: &Membership) -> v1::RaftMembership {
    let configs = membership.get_joint_config().iter();
    v1::RaftMembership {
        configs: configs
            .map(|c| v1::raft_membership::Config {
                voters: c.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, n)| v1::Member {
                node_id: *id,
                name: n.name.clone(),
                address: n.address.clone(),
            })
            .collect(),
    }
}

pub(super) fn membership_from_wire(message: v1::RaftMembership) -> io::Result<Membership> {
    let configs: Vec<BTreeSet<u64>> = message
        .configs
        .into_iter()
        .map(|c| c.voters.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Peer> = message
        .nodes
        .into_iter()
        .map(|m| {
            (
                m.node_id,
                Peer {
                    name: m.name,
                    address: m.address,
                },
            )
        })
        .collect();
    Membership::new(configs, nodes).map_err(io::Error::other)
}

/// An entry's kind and payload, as disk and wire hold them.
fn parts(entry: &Entry) -> (segment::RecordKind, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (segment::RecordKind::Blank, Bytes::new()),
        EntryPayload::Normal(data) => (segment::RecordKind::Normal, data.0.clone()),
        EntryPayload::Membership(m) => (
            segment::RecordKind::Membership,
            membership_to_wire(m).encode_to_vec().into(),
        ),
    }
}

fn entry_of(id: LogId, kind: segment::RecordKind, payload: Bytes) -> io::Result<Entry> {
    let payload = match kind {
        segment::RecordKind::Blank => EntryPayload::Blank,
        segment::RecordKind::Normal => EntryPayload::Normal(Data(payload)),
        segment::RecordKind::Membership => {
            let message = v1::RaftMembership::decode(payload).map_err(io::Error::other)?;
            EntryPayload::Membership(membership_from_wire(message)?)
        }
    };
    Ok(Entry { log_id: id, payload })
}

pub(super) fn entry_to_disk(entry: &Entry) -> segment::LogRecord {
    let (kind, payload) = parts(entry);
    segment::LogRecord {
        id: log_id_to_disk(&entry.log_id),
        kind,
        payload,
    }
}

pub(super) fn entry_from_disk(record: segment::LogRecord) -> io::Result<Entry> {
    entry_of(log_id_from_disk(&record.id), record.kind, record.payload)
}

const WIRE_BLANK: u32 = 0;
const WIRE_NORMAL: u32 = 1;
const WIRE_MEMBERSHIP: u32 = 2;

/// An entry of term 1 that says nothing, for tests.
#[cfg(test)]
pub(super) fn blank(index: u64) -> Entry {
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Blank,
    }
}

pub(super) fn entry_to_wire(entry: &Entry) -> v1::RaftEntry {
    let (kind, payload) = parts(entry);
    let kind = match kind {
        segment::RecordKind::Blank => WIRE_BLANK,
        segment::RecordKind::Normal => WIRE_NORMAL,
        segment::RecordKind::Membership => WIRE_MEMBERSHIP,
    };
    v1::RaftEntry {
        id: Some(log_id_to_wire(&entry.log_id)),
        kind,
        payload,
    }
}

pub(super) fn entry_from_wire(entry: v1::RaftEntry) -> io::Result<Entry> {
    let id = entry
        .id
        .as_ref()
        .ok_or_else(|| io::Error::other("a Raft entry has no id"))?;
    let kind = match entry.kind {
        WIRE_BLANK => segment::RecordKind::Blank,
        WIRE_NORMAL => segment::RecordKind::Normal,
        WIRE_MEMBERSHIP => segment::RecordKind::Membership,
        other => {
            return Err(io::Error::other(format!(
                "a Raft entry is of unknown kind {other}"
            )));
        }
    };
    entry_of(log_id_from_wire(id), kind, entry.payload)
}
