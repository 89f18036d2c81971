//! A session: one server process, one replid, one epoch, bound together.
//!
//! When one of the three changes the session ends, and nothing that it held is ever released. A cut capture
//! link is no such change. The session knows no socket: clients, fence and capture hold it and ask whether
//! it is over.

use crate::client::peers::Peers;
use crate::hold::{CleanReads, Hold};
use crate::pause::Pause;
use crate::pressure::Pressure;
use crate::upstream::Upstream;
use redoubt_types::{Epoch, ReplId, RunId};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A higher epoch exists.
    Fenced(String),
    /// The server process, its role or its replid is not the session's any more.
    ServerChanged(String),
    /// Capture could not go on where it stopped: the server's backlog no longer reaches there.
    CaptureLost(String),
    /// The stream is not one that can be journalled.
    BadStream(String),
    /// The journal refused an append for good.
    AppendRefused(String),
    /// The program ends.
    Shutdown,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndReason::Fenced(why) => write!(f, "fenced: {why}"),
            EndReason::ServerChanged(why) => write!(f, "the server changed: {why}"),
            EndReason::CaptureLost(why) => write!(f, "capture can't go on: {why}"),
            EndReason::BadStream(why) => write!(f, "the replication stream is unusable: {why}"),
            EndReason::AppendRefused(why) => write!(f, "the journal refused an append: {why}"),
            EndReason::Shutdown => f.write_str("shutting down"),
        }
    }
}

/// What a session binds, and whether it is over. Shared by everything that serves under it.
#[derive(Debug)]
pub struct Session {
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The replid under which the server writes; the lineage's last.
    pub replid: ReplId,
    /// The server process.
    pub run_id: RunId,
    /// The way to the server.
    pub upstream: Upstream,
    /// What decides when a reply may leave.
    pub hold: Hold,
    /// What tells which reads need not wait for that.
    pub clean: CleanReads,
    /// What decides whether requests may be passed on.
    pub pressure: Pressure,
    /// What its clients have paused.
    pub pause: Pause,
    /// Whom it serves.
    pub peers: Peers,
    ended: watch::Sender<Option<EndReason>>,
}

impl Session {
    /// A session that has just begun. Clients are stopped at more than `uncommitted_max` bytes written and not
    /// committed.
    pub fn new(
        epoch: Epoch,
        replid: ReplId,
        run_id: RunId,
        upstream: Upstream,
        hold: Hold,
        uncommitted_max: u64,
    ) -> Self {
        Session {
            epoch,
            replid,
            run_id,
            peers: Peers::new(upstream.own_user()),
            upstream,
            pressure: Pressure::new(uncommitted_max, hold.committed()),
            clean: CleanReads::new(hold.committed()),
            hold,
            pause: Pause::default(),
            ended: watch::Sender::new(None),
        }
    }

    /// Ends the session, unless it is over already: the first reason stands.
    pub fn end(&self, reason: EndReason) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(reason);
            }
            first
        });
    }

    /// Ends the session when what is returned is dropped, if it is not over by then: for tasks without which it is of no use,
    /// however they end.
    pub(crate) fn end_with_guard(self: &Arc<Self>, why: &'static str) -> EndGuard {
        EndGuard {
            session: Arc::clone(self),
            why,
            armed: true,
        }
    }

    /// Why the session is over, `None` while it is not.
    pub fn ended(&self) -> Option<EndReason> {
        self.ended.borrow().clone()
    }

    /// Waits for the end. Cancel-safe.
    pub async fn wait_end(&self) -> EndReason {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(EndReason::Shutdown),
            Err(_) => EndReason::Shutdown,
        }
    }
}

/// See [`Session::end_with_guard`].
pub(crate) struct EndGuard {
    session: Arc<Session>,
    why: &'static str,
    armed: bool,
}

impl EndGuard {
    /// The task may end from now on.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if self.armed {
            self.session.end(EndReason::ServerChanged(self.why.to_owned()));
        }
    }
}
