//! What `redoubt status` tells: everything that the nodes say, put together. Its JSON form is this structure.
//!
//! Pure. Where nodes differ, the leader's word is taken before another's, and a confirmed one before one that is not.

use redoubt_client::{ClientError, Description, FoldStatus, NodeStatus, ReplicaReport, Writer};
use redoubt_types::{Offset, WallTime};
use serde::Serialize;
use std::time::Duration;

/// One endpoint and what came from it.
pub(crate) type Asked = (String, Result<NodeStatus, ClientError>);

/// How the cluster is. Offsets are bytes, times named `_ms` milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct View {
    /// 32 hexadecimal digits; null before bootstrap.
    pub(crate) cluster: Option<String>,
    /// The leader's `host:port`.
    pub(crate) leader: Option<String>,
    /// End of the last whole group.
    pub(crate) tail: Option<u64>,
    /// End of the last committed byte, an unfinished group's included.
    pub(crate) committed: Option<u64>,
    /// A quorum confirms the tail.
    pub(crate) confirmed: bool,
    /// The txid of the last group, 0 before the first.
    pub(crate) txid: Option<u64>,
    /// The first offset that can be read.
    pub(crate) beginning: Option<u64>,
    /// The writer's epoch.
    pub(crate) epoch: Option<u64>,
    /// Who writes.
    pub(crate) writer: Option<WriterView>,
    /// The replids so far, oldest first.
    pub(crate) lineage: Vec<StepView>,
    /// One per endpoint.
    pub(crate) nodes: Vec<NodeView>,
    /// As replays reported them lately.
    pub(crate) replicas: Vec<ReplicaView>,
    /// The base that the editlogs are behind; null before the first.
    pub(crate) base: Option<BaseView>,
    /// How folds go, as the leader knows; null if none was heard of.
    pub(crate) fold: Option<FoldView>,
}

/// A base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BaseView {
    /// The offset that it stands at.
    pub(crate) at: u64,
    /// Of its RDB.
    pub(crate) bytes: u64,
    /// Keys in it.
    pub(crate) keys: u64,
    /// What wrote it.
    pub(crate) server: String,
    /// Nodes that hold it, of those that answered.
    pub(crate) held_by: Vec<String>,
}

/// How folds go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FoldView {
    /// `idle`, `wanted`, `folding` or `failed`.
    pub(crate) state: String,
    /// The replay that folds, or did last.
    pub(crate) replay: String,
    /// How far it is, or why it failed.
    pub(crate) message: String,
    /// Bytes of the stream behind the base.
    pub(crate) bytes_since_base: u64,
    /// Folds that failed one after the other.
    pub(crate) failures: u32,
    /// Live replicas that differ from the journal.
    pub(crate) differing: Vec<String>,
}

/// The writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct WriterView {
    /// Its name.
    pub(crate) name: String,
    /// Its process' identity, 16 hexadecimal digits.
    pub(crate) holder: Option<String>,
    /// `held`, `lapsed`, `released` or `unknown` (only the leader knows whether a lease has lapsed).
    pub(crate) lease: &'static str,
    /// What is left of it, as the leader counts.
    pub(crate) lease_remaining_ms: Option<u64>,
    /// How long it lasts from a renewal.
    pub(crate) lease_ms: u64,
    /// Since its newest renewal, by wall clocks: for people only.
    pub(crate) renewed_ms_ago: u64,
    /// `none` (the epoch has named no server yet), `starting`, `serving` or `released`.
    pub(crate) session_state: &'static str,
    /// The newest session.
    pub(crate) session: Option<SessionView>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SessionView {
    /// Its epoch.
    pub(crate) epoch: u64,
    /// The server's process.
    pub(crate) run_id: String,
    /// Where it was promoted or resumed.
    pub(crate) at: u64,
    /// What the server is.
    pub(crate) server: String,
}

/// A replid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StepView {
    /// 40 hexadecimal digits.
    pub(crate) replid: String,
    /// The first offset written under it.
    pub(crate) from: u64,
    /// The epoch that brought it; null for the one minted at bootstrap.
    pub(crate) epoch: Option<u64>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NodeView {
    /// Where it was asked.
    pub(crate) endpoint: String,
    /// Its name.
    pub(crate) name: Option<String>,
    /// Its incarnation, 16 hexadecimal digits.
    pub(crate) node: Option<String>,
    /// `leader`, `follower`, `candidate`, `learner` or `not bootstrapped`.
    pub(crate) role: Option<String>,
    /// Its own tail.
    pub(crate) tail: Option<u64>,
    /// End of what it knows to be committed.
    pub(crate) committed: Option<u64>,
    /// Its disk.
    pub(crate) disk: Option<DiskView>,
    /// Its program's version.
    pub(crate) version: Option<String>,
    /// Why it did not answer.
    pub(crate) error: Option<String>,
}

/// A node's disk. Counts are since its process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiskView {
    /// `well`, `slow`, `low` (no room for data) or `full` (no room at all).
    pub(crate) condition: String,
    /// Times that a file could not be read as it was written; the same damage may be met again until it is repaired.
    pub(crate) rot_met: u64,
    /// Ranges of the log that were fetched from other nodes.
    pub(crate) ranges_repaired: u64,
    /// Copies of the vote or the identity that were made again from the other one.
    pub(crate) copies_mended: u64,
    /// Times that all files were read again.
    pub(crate) passes: u64,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ReplicaView {
    /// The replay that feeds it.
    pub(crate) replay: String,
    /// Its `host:port`.
    pub(crate) address: String,
    /// `sync`, `online` or `waiting`.
    pub(crate) state: String,
    /// What it acknowledged.
    pub(crate) acked: u64,
    /// What it was sent.
    pub(crate) sent: u64,
    /// From what it acknowledged to the tail.
    pub(crate) lag_bytes: Option<u64>,
    /// The replid that its link was opened under.
    pub(crate) replid: String,
    /// Full syncs since the replay started.
    pub(crate) full_syncs: u64,
    /// Age of the report.
    pub(crate) age_ms: u64,
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl View {
    /// Puts together what came from all endpoints; `now` is this machine's wall clock.
    pub(crate) fn new(asked: &[Asked], now: WallTime) -> Self {
        let answered: Vec<_> = asked
            .iter()
            .filter_map(|(_, status)| status.as_ref().ok())
            .collect();
        let mut view = View {
            nodes: asked.iter().map(node).collect(),
            cluster: answered
                .iter()
                .find_map(|s| s.identity.cluster)
                .map(|c| c.to_string()),
            leader: leader(asked, &answered),
            ..View::default()
        };
        if let Some(description) = best(&answered) {
            view.describe(description, now);
        }
        view.replicas = replicas(&answered, view.tail);
        view.base = base(&answered);
        view.fold = answered.iter().find_map(|s| s.fold.as_ref()).map(fold);
        view
    }

    fn describe(&mut self, description: &Description, now: WallTime) {
        let position = &description.position;
        self.tail = Some(position.tail.get());
        self.committed = Some(position.pending_end.get());
        self.confirmed = description.confirmed;
        self.txid = Some(position.groups);
        self.beginning = Some(description.beginning.get());
        self.epoch = description.writer.epoch.map(|e| e.get());
        self.writer = description
            .writer
            .epoch
            .is_some()
            .then(|| writer(description, now));
        let step = |s: &redoubt_types::LineageStep| StepView {
            replid: s.replid.to_string(),
            from: s.from.get(),
            epoch: s.epoch.map(|e| e.get()),
        };
        self.lineage = description.lineage.steps().map(step).collect();
    }
}

/// The leader as it says itself, else as the others say, unless it was asked and did not answer: that one was.
fn leader(asked: &[Asked], answered: &[&NodeStatus]) -> Option<String> {
    let itself = answered
        .iter()
        .find(|s| s.role == "leader")
        .map(|s| s.identity.address.clone());
    let silent = |address: &String| {
        asked
            .iter()
            .any(|(endpoint, status)| endpoint == address && status.is_err())
    };
    itself.or_else(|| {
        answered
            .iter()
            .find_map(|s| s.leader.clone().filter(|l| !silent(l)))
    })
}

/// The description that is believed: a confirmed one, the leader's, the one that is furthest, in this order.
fn best<'a>(answered: &[&'a NodeStatus]) -> Option<&'a Description> {
    let described = answered
        .iter()
        .filter_map(|s| Some((s.role == "leader", s.description.as_ref()?)));
    described
        .max_by_key(|(leads, d)| (d.confirmed, *leads, d.position.tail))
        .map(|(_, d)| d)
}

/// The newest base that any node knows of, and who has it.
fn base(answered: &[&NodeStatus]) -> Option<BaseView> {
    let described = || answered.iter().filter_map(|s| s.description.as_ref());
    let base = described()
        .filter_map(|d| d.base.as_ref())
        .max_by_key(|b| b.at())?;
    let holds = described().filter(|d| d.holds_base && d.base.as_ref() == Some(base));
    Some(BaseView {
        at: base.at().get(),
        bytes: base.bytes,
        keys: base.keys,
        server: base.server.clone(),
        held_by: holds.map(|d| d.node_name.clone()).collect(),
    })
}

fn fold(fold: &FoldStatus) -> FoldView {
    FoldView {
        state: fold.state.clone(),
        replay: fold.replay.clone(),
        message: fold.message.clone(),
        bytes_since_base: fold.bytes_since_base,
        failures: fold.failures,
        differing: fold.differing.clone(),
    }
}

fn writer(description: &Description, now: WallTime) -> WriterView {
    let writer = &description.writer;
    WriterView {
        name: writer.holder_name.clone(),
        holder: writer.holder.map(|h| h.to_string()),
        lease: match (writer.released, writer.lease_remaining) {
            (true, _) => "released",
            (false, None) => "unknown",
            (false, Some(Duration::ZERO)) => "lapsed",
            (false, Some(_)) => "held",
        },
        lease_remaining_ms: writer.lease_remaining.map(ms),
        lease_ms: ms(writer.lease),
        renewed_ms_ago: now.ms().saturating_sub(writer.renewed_wall.ms()),
        session_state: session_state(writer, description),
        session: writer.session.as_ref().map(|s| SessionView {
            epoch: s.epoch.get(),
            run_id: s.run_id.to_string(),
            at: s.at.get(),
            server: s.server.clone(),
        }),
    }
}

/// A session serves once its epoch's replid is in the lineage. One that was resumed brings no replid; it serves for
/// sure once something was written, a PING within ten seconds if nothing else.
fn session_state(writer: &Writer, description: &Description) -> &'static str {
    let Some(session) = writer.session.as_ref().filter(|s| Some(s.epoch) == writer.epoch) else {
        return "none";
    };
    if writer.released {
        "released"
    } else if description.lineage.last().epoch == writer.epoch || description.position.tail > session.at {
        "serving"
    } else {
        "starting"
    }
}

fn node((endpoint, status): &Asked) -> NodeView {
    let endpoint = endpoint.clone();
    match status {
        Err(e) => NodeView {
            endpoint,
            error: Some(e.to_string()),
            ..NodeView::default()
        },
        Ok(status) => NodeView {
            endpoint,
            name: Some(status.identity.name.clone()),
            node: Some(status.identity.node.to_string()),
            role: Some(status.role.clone()),
            tail: status.description.as_ref().map(|d| d.position.tail.get()),
            committed: status.description.as_ref().map(|d| d.position.pending_end.get()),
            disk: Some(DiskView {
                condition: status.disk.condition.clone(),
                rot_met: status.disk.rot_met,
                ranges_repaired: status.disk.ranges_repaired,
                copies_mended: status.disk.copies_mended,
                passes: status.disk.passes,
            }),
            version: Some(status.identity.version.clone()),
            error: None,
        },
    }
}

/// Replays tell every node; of several reports about one replica the youngest counts.
fn replicas(answered: &[&NodeStatus], tail: Option<u64>) -> Vec<ReplicaView> {
    let mut reports: Vec<&(String, ReplicaReport, Duration)> =
        answered.iter().flat_map(|s| &s.replicas).collect();
    reports.sort_by(|a, b| (&a.0, &a.1.address, a.2).cmp(&(&b.0, &b.1.address, b.2)));
    reports.dedup_by(|later, first| (&later.0, &later.1.address) == (&first.0, &first.1.address));
    let view = |(replay, report, age): &(String, ReplicaReport, Duration)| ReplicaView {
        replay: replay.clone(),
        address: report.address.clone(),
        state: report.state.clone(),
        acked: report.acked.get(),
        sent: report.sent.get(),
        lag_bytes: tail.map(|t| Offset::new(t).since(report.acked).unwrap_or(0)),
        replid: report.replid.to_string(),
        full_syncs: report.full_syncs,
        age_ms: ms(*age),
    };
    reports.into_iter().map(view).collect()
}

#[cfg(test)]
mod tests;
