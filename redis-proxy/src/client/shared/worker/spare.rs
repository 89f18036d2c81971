//! Connections that are kept for clients who will need one of their own.

use super::Worker;
use crate::upstream::prove;
use redoubt_types::limits::UPSTREAM_RETRY_PAUSE;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

impl Worker {
    /// Keeps a proven connection for the next client that needs its own.
    pub(super) fn keep_spare(&mut self, cx: &mut Context<'_>) {
        if self
            .spare
            .as_mut()
            .is_some_and(|spare| !spare.control.poll_is_idle(cx))
        {
            self.spare = None;
        }
        if self.spare.is_some() {
            return;
        }
        let (session, env) = (Arc::clone(&self.session), self.common.env.clone());
        let sparing = self.sparing.get_or_insert_with(|| {
            self.common.env.spawn(async move {
                match prove(&session, &env).await {
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
            self.spare = made.flatten();
            // Watched, or tried again.
            cx.waker().wake_by_ref();
        }
    }
}
