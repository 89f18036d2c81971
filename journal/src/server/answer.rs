//! From verdicts and errors to answers.

use crate::append::{Position, Refused, Session, WriterState};
use crate::raft::ProposeError;
use crate::tail::TailError;
use redoubt_proto::{InvalidField, v1};
use redoubt_types::Epoch;
use std::time::Duration;
use v1::Reason;

/// When to ask again after an answer that a moment changes.
const SOON: Duration = Duration::from_millis(50);
/// When to ask again where a person may have to make room.
const WHEN_FULL: Duration = Duration::from_millis(500);

pub(super) fn refusal(reason: Reason, message: impl Into<String>) -> v1::Refusal {
    v1::Refusal {
        reason: reason as i32,
        message: message.into(),
        ..Default::default()
    }
}

pub(super) fn invalid(e: InvalidField) -> v1::Refusal {
    refusal(Reason::Invalid, e.to_string())
}

pub(super) fn not_proposed(e: ProposeError) -> v1::Refusal {
    let message = e.to_string();
    match e {
        ProposeError::NotBootstrapped => refusal(Reason::NotBootstrapped, message),
        ProposeError::NotLeader { leader } => v1::Refusal {
            leader,
            ..refusal(Reason::NotLeader, message)
        },
        ProposeError::NotReady(_) => again(Reason::NotReady, message, SOON),
        ProposeError::NoRoom => again(Reason::NoRoom, message, WHEN_FULL),
    }
}

fn again(reason: Reason, message: String, after: Duration) -> v1::Refusal {
    v1::Refusal {
        retry_after_ms: Some(after.as_millis() as u64),
        ..refusal(reason, message)
    }
}

pub(super) fn refused(r: &Refused) -> v1::Refusal {
    let (reason, at) = match r {
        Refused::NotBootstrapped => (Reason::NotBootstrapped, None),
        Refused::OtherCluster(_) => (Reason::WrongCluster, None),
        Refused::Fenced { .. } => (Reason::Fenced, None),
        Refused::NeverGranted(_) => (Reason::Invalid, None),
        Refused::LeaseRenewed => (Reason::LeaseRenewed, None),
        Refused::Lineage(_) | Refused::SessionNotAtTail { .. } => (Reason::Lineage, None),
        Refused::Mismatch { at, .. } => (Reason::Mismatch, Some(position(at))),
        Refused::Checksum { .. } => (Reason::Checksum, None),
        Refused::Framing(_) => (Reason::Framing, None),
        Refused::Base(_) => (Reason::BadBase, None),
    };
    v1::Refusal {
        position: at,
        ..refusal(reason, r.to_string())
    }
}

pub(super) fn tail_refused(e: TailError) -> v1::Refusal {
    let message = e.to_string();
    match e {
        TailError::NotReady(e) => not_proposed(e),
        TailError::BeforeBeginning { .. } => refusal(Reason::BeforeBeginning, message),
        TailError::BeyondEnd { .. } => refusal(Reason::BeyondEnd, message),
        TailError::Damaged { .. } | TailError::Confused { .. } => refusal(Reason::Damaged, message),
    }
}

pub(super) fn position(p: &Position) -> v1::Position {
    v1::Position {
        tail: p.tail.get(),
        tail_chain: p.tail_chain.get(),
        pending_end: p.pending_end.get(),
        pending_chain: p.pending_chain.get(),
        groups: p.groups,
        db: p.db.get(),
    }
}

pub(super) fn session(s: &Session) -> v1::Session {
    v1::Session {
        epoch: s.epoch.get(),
        run_id: s.run_id.to_string(),
        at: s.at.get(),
        server: s.server.clone(),
    }
}

pub(super) fn writer(
    w: Option<&WriterState>,
    s: Option<&Session>,
    lease_remaining: Option<Duration>,
) -> v1::Writer {
    v1::Writer {
        epoch: w.map_or(0, |w| Epoch::get(w.epoch)),
        holder: w.map_or(0, |w| w.holder.get()),
        holder_name: w.map(|w| w.name.clone()).unwrap_or_default(),
        lease_ms: w.map_or(0, |w| w.lease.as_millis() as u64),
        released: w.is_some_and(|w| w.released),
        session: s.map(session),
        lease_remaining_ms: lease_remaining.map(|d| d.as_millis() as u64),
        renewed_wall_ms: w.map_or(0, |w| w.renewed_wall.ms()),
    }
}
