//! A session: one server process, one replid, one epoch, bound together.
//!
//! When one of the three changes the session ends, and nothing that it held is ever released. A cut capture
//! link is no such change. The session knows no socket: clients, fence and capture hold it and ask whether
//! it is over.

use crate::hold::Hold;
use redoubt_env::planted;
use redoubt_types::limits::PASSED_BYTES_MAX;
use redoubt_types::{Epoch, ReplId, RunId};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

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
    /// `host:port` of the server.
    pub upstream: String,
    /// What decides when a reply may leave.
    pub hold: Hold,
    ended: watch::Sender<Option<EndReason>>,
    backpressure: watch::Sender<bool>,
    /// Request bytes that were passed on since the last fence.
    passed: AtomicU64,
    /// Told at each fence.
    fenced: Notify,
}

impl Session {
    /// A session that has just begun.
    pub fn new(epoch: Epoch, replid: ReplId, run_id: RunId, upstream: String, hold: Hold) -> Self {
        let (ended, backpressure) = (watch::Sender::new(None), watch::Sender::new(false));
        Session {
            epoch,
            replid,
            run_id,
            upstream,
            hold,
            ended,
            backpressure,
            passed: AtomicU64::new(0),
            fenced: Notify::new(),
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

    /// Stops or lets go on the reading from clients: too many bytes are captured and not committed, or
    /// capture is cut (H12).
    pub fn set_backpressure(&self, on: bool) {
        self.backpressure
            .send_if_modified(|b| std::mem::replace(b, on) != on);
    }

    /// `bytes` of requests were passed on to the server.
    pub(crate) fn passed(&self, bytes: usize) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether requests may be passed on before the next fence.
    pub(crate) fn may_pass(&self) -> bool {
        self.passed.load(Ordering::Relaxed) < PASSED_BYTES_MAX || planted::on("passed_without_bound")
    }

    /// A fence told how far the server has written.
    pub(crate) fn fence_told(&self) {
        self.passed.store(0, Ordering::Relaxed);
        self.fenced.notify_waiters();
    }

    /// Asks for a fence, unless requests may be passed on already, and waits for it. Cancel-safe.
    pub(crate) async fn wait_fence(&self) {
        let fenced = self.fenced.notified();
        // Only now that the next one can't be missed.
        if self.may_pass() {
            return;
        }
        self.hold.ask_for_fence();
        fenced.await;
    }

    /// Whether clients are not to be read now; the receiver tells of changes.
    pub fn backpressure(&self) -> watch::Receiver<bool> {
        self.backpressure.subscribe()
    }
}
