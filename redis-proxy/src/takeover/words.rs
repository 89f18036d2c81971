//! The words between the takeover's core and its driver: what is to be done, and how it went.

use super::look::{Look, Past, Promotion};
use crate::session::EndReason;
use redoubt_client::{Grant, Session as SessionRecord};
use redoubt_types::{BootTime, Epoch, LineageStep, Offset, ReplId, RunId, WallTime};
use std::fmt;
use std::time::Duration;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the server what it is.
    Look,
    /// Ask the journal where it stands, confirmed by a quorum.
    Describe,
    /// Set the server's backlog (H13), on this process and only while it is a replica.
    Prepare(RunId),
    /// Acquire the next epoch, and from the grant on keep its lease renewed.
    Acquire,
    /// Commit the session record.
    RecordSession(SessionRecord),
    /// On one connection: look again, and if [`Look::promotable`] still holds, REPLICAOF NO ONE.
    Promote(Promotion),
    /// Attach to the master as its replica.
    Capture(Attach),
    /// Commit the lineage record.
    RecordLineage(LineageStep),
    /// Serve clients until the session ends.
    Serve(Box<Serving>),
    /// If it is this process still, and not the replay's replica, REPLICAOF replay.
    Demote(RunId),
    /// Give the epoch back.
    Release(Epoch),
    /// Do nothing for a while.
    Wait {
        /// How long.
        pause: Duration,
        /// For people: what is waited for.
        why: String,
        /// Somebody has to do something.
        refused: bool,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Look => f.write_str("look at the server"),
            Action::Describe => f.write_str("ask the journal where it stands"),
            Action::Prepare(_) => f.write_str("set the replica's backlog"),
            Action::Acquire => f.write_str("acquire the next epoch"),
            Action::RecordSession(s) => {
                write!(
                    f,
                    "record the session: epoch {}, {} ({}) at {}",
                    s.epoch, s.run_id, s.server, s.at
                )
            }
            Action::Promote(p) => write!(f, "promote the server at {} under {}", p.at, p.replid),
            Action::Capture(a) => write!(
                f,
                "capture from {} under {} ({} bytes of overlap)",
                a.at, a.under, a.overlap
            ),
            Action::RecordLineage(l) => write!(f, "record the lineage: {} from {}", l.replid, l.from),
            Action::Serve(s) => write!(f, "serve epoch {} under {}", s.grant.epoch, s.replid),
            Action::Demote(run_id) => write!(f, "make the server {run_id} a replica of the replay"),
            Action::Release(epoch) => write!(f, "give epoch {epoch} back"),
            Action::Wait { pause, why, .. } => write!(f, "wait {pause:?}: {why}"),
        }
    }
}

/// Where and how capture attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The process that it must be.
    pub run_id: RunId,
    /// The replid to ask under: the lineage's last.
    pub under: ReplId,
    /// The journal's tail, from which capture goes on.
    pub at: Offset,
    /// Bytes before the tail to ask for too, and to compare with the journal's.
    pub overlap: u64,
}

/// What a session is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    /// The grant that it rests on.
    pub grant: Grant,
    /// The server's process.
    pub run_id: RunId,
    /// The replid that it writes under.
    pub replid: ReplId,
}

/// The answer to an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The program has begun.
    Started,
    /// [`Action::Look`] was answered.
    Looked(Box<Look>),
    /// [`Action::Describe`] was answered.
    Described(Box<Past>),
    /// [`Action::Acquire`] was granted.
    Granted(Box<Grant>),
    /// [`Action::Acquire`] was refused: another holder's lease has not ended.
    LeaseHeld(Duration, String),
    /// Prepare, RecordSession, RecordLineage, Demote, Release or Wait is done.
    Done,
    /// [`Action::Promote`] is done; this is what the server is now.
    Promoted(Box<Look>),
    /// The check before REPLICAOF NO ONE failed, and nothing was done.
    NotPromoted(String),
    /// Capture was answered +CONTINUE under this replid, and the overlap is equal.
    Captured(ReplId),
    /// Capture was answered anything else than +CONTINUE.
    CaptureRefused(String),
    /// The overlap differs from the journal's bytes.
    CaptureDiffers(String),
    /// The action failed in a way that may be better the next time; whether it took effect is not known.
    Failed(String),
    /// The journal refused the action, and would again.
    Refused(String),
    /// The session ended.
    Ended {
        /// Why.
        reason: EndReason,
        /// How long it had served.
        served: Duration,
    },
    /// The epoch that is held is not the newest any more.
    Fenced(String),
}

/// The time, as the state machine is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The boot-time clock.
    pub now: BootTime,
    /// The wall clock.
    pub wall: WallTime,
}
