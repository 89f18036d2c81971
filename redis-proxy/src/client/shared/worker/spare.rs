//! Connections that are kept for clients who will need one of their own.
//!
//! Also while a script keeps the server busy, and nothing can be proven (H11), it must be possible to end that script: so the
//! last of them is for whoever wants to do just that.

use super::super::link::Link;
use super::Worker;
use crate::upstream::{Proven, prove_for_client};
use redoubt_resp::request::RequestHead;
use redoubt_types::limits::{SPARES_MAX, UPSTREAM_RETRY_PAUSE};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

impl Worker {
    /// A connection for a client that needs its own for `first`, if there is one for it.
    pub(super) fn take_spare(&mut self, first: Option<&RequestHead>) -> Option<Proven> {
        // The server may have closed some since they were last looked at.
        self.watch_spares(&mut Context::from_waker(Waker::noop()));
        let for_anyone = self.spares.len() > 1 || first.is_some_and(ends_a_script);
        if for_anyone { self.spares.pop() } else { None }
    }

    fn watch_spares(&mut self, cx: &mut Context<'_>) {
        self.spares.retain_mut(|spare| spare.control.poll_is_idle(cx));
    }

    /// Keeps a few proven connections.
    pub(super) fn keep_spares(&mut self, cx: &mut Context<'_>) {
        self.watch_spares(cx);
        if matches!(self.link, Link::Unasked) {
            return;
        }
        if self.spares.len() >= SPARES_MAX {
            return;
        }
        let (session, env) = (Arc::clone(&self.session), self.common.env.clone());
        let sparing = self.sparing.get_or_insert_with(|| {
            self.common.env.spawn(async move {
                match prove_for_client(&session, &env).await {
                    Ok(proven) => Some(proven),
                    Err(error) => {
                        tracing::debug!(%error, "no spare connection");
                        env.sleep(UPSTREAM_RETRY_PAUSE).await;
                        None
                    }
                }
            })
        });
        if let Poll::Ready(made) = Pin::new(sparing).poll(cx) {
            self.sparing = None;
            self.spares.extend(made.flatten());
            // Watched, or tried again.
            cx.waker().wake_by_ref();
        }
    }
}

/// Whether a busy server takes the command because it ends what keeps it busy.
fn ends_a_script(head: &RequestHead) -> bool {
    (head.is(0, "script") || head.is(0, "function")) && head.is(1, "kill")
}
