//! Keeps a lease renewed, from the grant to the end of the session.
//!
//! Promises that a fence is told as soon as the journal says so, and only then: as long as it merely can't be
//! reached, renewals are tried again, for a lapsed lease may still be renewed (H14). Knows nothing of how an
//! epoch comes to serve: it renews all through the takeover's steps.

use super::lease::{Lease, LeaseTerms};
use crate::session::{EndReason, Session};
use redoubt_client::{Client, WriterError};
use redoubt_env::{Env, Task, planted};
use redoubt_types::limits::RPC_DEADLINE;
use redoubt_types::{BootTime, Epoch, HolderId};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// How long to wait before a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_millis(100);

/// Renews the lease of one epoch until it is dropped, or the epoch is fenced.
pub struct LeaseKeeper {
    shared: Arc<Shared>,
    _task: Task<()>,
}

struct Shared {
    terms: LeaseTerms,
    lease: watch::Sender<Lease>,
    fenced: watch::Sender<Option<String>>,
    /// The session that the epoch came to serve.
    session: OnceLock<Arc<Session>>,
}

impl LeaseKeeper {
    /// Keeps the lease of `epoch`, whose grant was asked for at `sent_at`.
    pub fn start(
        env: &Env,
        client: Client,
        epoch: Epoch,
        holder: HolderId,
        terms: LeaseTerms,
        sent_at: BootTime,
    ) -> Self {
        let shared = Arc::new(Shared {
            terms,
            lease: watch::Sender::new(Lease::granted(terms, sent_at)),
            fenced: watch::Sender::new(None),
            session: OnceLock::new(),
        });
        let task = env.spawn(keep(env.clone(), client, epoch, holder, Arc::clone(&shared)));
        LeaseKeeper { shared, _task: task }
    }

    /// What the lease is counted with.
    pub fn terms(&self) -> LeaseTerms {
        self.shared.terms
    }

    /// Until when (exclusive) the lease is certainly valid.
    pub fn until(&self) -> BootTime {
        self.shared.lease.borrow().until()
    }

    /// An append that was newly committed has renewed the lease; it was sent at `sent_at`.
    pub fn renewed(&self, sent_at: BootTime) {
        self.shared.lease.send_modify(|lease| lease.renewed(sent_at));
    }

    /// From now on `session` is told of renewals and ended by a fence.
    pub fn bind(&self, session: &Arc<Session>) {
        let _ = self.shared.session.set(Arc::clone(session));
        if let Some(why) = &*self.shared.fenced.borrow() {
            session.end(EndReason::Fenced(why.clone()));
        }
    }

    /// Waits until the journal says that the epoch is fenced. Cancel-safe.
    pub async fn fenced(&self) -> String {
        let mut fenced = self.shared.fenced.subscribe();
        let why = match fenced.wait_for(Option::is_some).await {
            Ok(why) => why.clone(),
            Err(_) => None,
        };
        why.unwrap_or_default()
    }
}

async fn keep(env: Env, client: Client, epoch: Epoch, holder: HolderId, shared: Arc<Shared>) {
    loop {
        let due = shared.lease.borrow().renewal_due();
        if env.now() < due {
            // Appends may have put it off meanwhile.
            env.sleep_until(due).await;
            continue;
        }
        while planted::held("pause_before_renewal") {
            env.sleep(RENEW_AGAIN).await;
        }
        match client.renew(epoch, holder, RPC_DEADLINE).await {
            Ok(renewed) => {
                shared.lease.send_modify(|lease| lease.renewed(renewed.sent_at));
                if let Some(session) = shared.session.get() {
                    let LeaseTerms { duration, margin, .. } = shared.terms;
                    session.hold.on_renewed(renewed.sent_at, duration, margin);
                }
            }
            Err(WriterError::Fenced(why)) => {
                shared.fenced.send_replace(Some(why.clone()));
                if let Some(session) = shared.session.get() {
                    session.end(EndReason::Fenced(why));
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%epoch, %error, "the lease was not renewed");
                env.sleep(RENEW_AGAIN).await;
            }
        }
    }
}
