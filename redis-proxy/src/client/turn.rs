//! When a client's requests may be passed on.
//!
//! When the session's [pressure](crate::pressure) allows it, by both of its bounds. Must not know a socket.

use crate::session::Session;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::watch;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One client's turn.
pub(super) struct Turn {
    session: Arc<Session>,
    backpressure: watch::Receiver<bool>,
    changed: Waiting,
    /// The next fence, once that is awaited.
    fence: Option<Waiting>,
}

impl Turn {
    pub(super) fn new(session: Arc<Session>) -> Self {
        let backpressure = session.pressure.watch();
        Turn {
            session,
            changed: changed(backpressure.clone()),
            backpressure,
            fence: None,
        }
    }

    /// Ready when requests may be passed on now. Otherwise the task is woken when that may have changed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.changed.as_mut().poll(cx).is_ready() {
            // Seen, or the next wait would be for the same change.
            self.backpressure.mark_unchanged();
            self.changed = changed(self.backpressure.clone());
        }
        if *self.backpressure.borrow() {
            return Poll::Pending;
        }
        while !self.session.pressure.may_pass() {
            let session = Arc::clone(&self.session);
            let fence = self.fence.get_or_insert_with(|| Box::pin(next_fence(session)));
            ready!(fence.as_mut().poll(cx));
            self.fence = None;
        }
        Poll::Ready(())
    }
}

fn changed(mut watched: watch::Receiver<bool>) -> Waiting {
    Box::pin(async move {
        if watched.changed().await.is_err() {
            // The session is gone, and with it this connection.
            pending::<()>().await;
        }
    })
}

async fn next_fence(session: Arc<Session>) {
    session.pressure.wait_fence(|| session.hold.ask_for_fence()).await;
}
