//! Between wire and nouns, at this crate's edge.

use crate::nouns::{
    Description, DiskStatus, FoldStatus, Grant, Member, NodeIdentity, NodeStatus, Position, ReplicaReport,
    Session, Writer,
};
use redoubt_proto::{InvalidField, v1};
use redoubt_types::{BootTime, Chain, Db, Epoch, HolderId, Offset, WallTime};
use std::time::Duration;

fn present<T>(field: &'static str, value: Option<T>) -> Result<T, InvalidField> {
    value.ok_or_else(|| InvalidField::new(field, "is missing"))
}

/// A position from the wire.
pub(crate) fn position(p: &v1::Position) -> Result<Position, InvalidField> {
    if p.pending_end < p.tail {
        let why = format!("{} lies before the tail {}", p.pending_end, p.tail);
        return Err(InvalidField::new("position.pending_end", why));
    }
    Ok(Position {
        tail: Offset::new(p.tail),
        tail_chain: Chain::from_u64(p.tail_chain),
        pending_end: Offset::new(p.pending_end),
        pending_chain: Chain::from_u64(p.pending_chain),
        groups: p.groups,
        db: Db::new(p.db),
    })
}

fn session(s: &v1::Session) -> Result<Session, InvalidField> {
    Ok(Session {
        epoch: redoubt_proto::epoch("session.epoch", s.epoch)?,
        run_id: redoubt_proto::run_id("session.run_id", &s.run_id)?,
        at: Offset::new(s.at),
        server: s.server.clone(),
    })
}

/// A session record to the wire.
pub(crate) fn session_to(s: &Session) -> v1::Session {
    v1::Session {
        epoch: s.epoch.get(),
        run_id: s.run_id.to_string(),
        at: s.at.get(),
        server: s.server.clone(),
    }
}

fn writer(w: &v1::Writer) -> Result<Writer, InvalidField> {
    Ok(Writer {
        epoch: Epoch::new(w.epoch),
        holder: HolderId::new(w.holder),
        holder_name: w.holder_name.clone(),
        lease: Duration::from_millis(w.lease_ms),
        released: w.released,
        session: w.session.as_ref().map(session).transpose()?,
        lease_remaining: w.lease_remaining_ms.map(Duration::from_millis),
        renewed_wall: WallTime::from_ms(w.renewed_wall_ms),
    })
}

/// A description from the wire.
pub(crate) fn description(d: &v1::Description) -> Result<Description, InvalidField> {
    Ok(Description {
        cluster: redoubt_proto::cluster_id("description.cluster_id", &d.cluster_id)?,
        node_name: d.node_name.clone(),
        node: redoubt_proto::node_id("description.node_id", d.node_id)?,
        position: position(present("description.position", d.position.as_ref())?)?,
        confirmed: d.confirmed,
        lineage: redoubt_proto::lineage_from(&d.lineage)?,
        writer: writer(present("description.writer", d.writer.as_ref())?)?,
        leader: d.leader.clone(),
        beginning: Offset::new(d.beginning),
        base: d.base.as_ref().map(redoubt_proto::base_from).transpose()?,
        holds_base: d.holds_base,
    })
}

/// A grant from the wire; `sent_at` is when the attempt that it answers was sent.
pub(crate) fn grant(g: &v1::Grant, sent_at: BootTime) -> Result<Grant, InvalidField> {
    Ok(Grant {
        epoch: redoubt_proto::epoch("grant.epoch", g.epoch)?,
        position: position(present("grant.position", g.position.as_ref())?)?,
        lineage: redoubt_proto::lineage_from(&g.lineage)?,
        session: g.session.as_ref().map(session).transpose()?,
        previous_wall: WallTime::from_ms(g.previous_wall_ms),
        previous_lease: Duration::from_millis(g.previous_lease_ms),
        sent_at,
    })
}

/// An identity from the wire.
pub(crate) fn identity(i: &v1::IdentifyResponse) -> Result<NodeIdentity, InvalidField> {
    let cluster = i
        .cluster_id
        .as_deref()
        .map(|c| redoubt_proto::cluster_id("identity.cluster_id", c));
    Ok(NodeIdentity {
        node: redoubt_proto::node_id("identity.node_id", i.node_id)?,
        name: i.name.clone(),
        address: i.address.clone(),
        cluster: cluster.transpose()?,
        version: i.version.clone(),
    })
}

/// A member from the wire.
pub(crate) fn member(m: &v1::Member) -> Result<Member, InvalidField> {
    Ok(Member {
        node: redoubt_proto::node_id("member.node_id", m.node_id)?,
        name: m.name.clone(),
        address: m.address.clone(),
    })
}

/// A member to the wire.
pub(crate) fn member_to(m: &Member) -> v1::Member {
    v1::Member {
        node_id: m.node.get(),
        name: m.name.clone(),
        address: m.address.clone(),
    }
}

fn report(r: &v1::ReplicaReport) -> Result<ReplicaReport, InvalidField> {
    Ok(ReplicaReport {
        address: r.address.clone(),
        acked: Offset::new(r.acked),
        sent: Offset::new(r.sent),
        replid: redoubt_proto::replid("report.replid", &r.replid)?,
        state: r.state.clone(),
        full_syncs: r.full_syncs,
    })
}

/// A replica's report to the wire.
pub(crate) fn report_to(r: &ReplicaReport) -> v1::ReplicaReport {
    v1::ReplicaReport {
        address: r.address.clone(),
        acked: r.acked.get(),
        sent: r.sent.get(),
        replid: r.replid.to_string(),
        state: r.state.clone(),
        full_syncs: r.full_syncs,
    }
}

fn disk(d: &v1::DiskStatus) -> DiskStatus {
    DiskStatus {
        condition: d.condition.clone(),
        rot_met: d.rot_met,
        ranges_repaired: d.ranges_repaired,
        copies_mended: d.copies_mended,
        passes: d.passes,
    }
}

/// A node's status from the wire.
pub(crate) fn status(s: &v1::StatusResponse) -> Result<NodeStatus, InvalidField> {
    let replicas = s.replicas.iter().map(|r| {
        let seen = report(present("replica.report", r.report.as_ref())?)?;
        Ok((r.replay.clone(), seen, Duration::from_millis(r.age_ms)))
    });
    Ok(NodeStatus {
        identity: identity(present("status.identity", s.identity.as_ref())?)?,
        role: s.role.clone(),
        leader: s.leader.clone(),
        description: s.description.as_ref().map(description).transpose()?,
        members: s.members.iter().map(member).collect::<Result<_, _>>()?,
        replicas: replicas.collect::<Result<_, InvalidField>>()?,
        disk: s.disk.as_ref().map(disk).unwrap_or_default(),
        fold: s.fold.as_ref().map(|f| FoldStatus {
            state: f.state.clone(),
            replay: f.replay.clone(),
            message: f.message.clone(),
            bytes_since_base: f.bytes_since_base,
            failures: f.failures,
            differing: f.differing.clone(),
        }),
    })
}
