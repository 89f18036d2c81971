//! When a client's requests may be passed on.
//!
//! Not while backpressure is on: too much is written and not committed, or capture is cut. When it goes off, those
//! that were held back come one after the other, a moment apart: all at once they could write more than the server's
//! replica buffer holds before anybody could know of it, and capture would be cut for good. Must not know a socket.

use crate::session::Session;
use redoubt_env::Env;
use redoubt_types::limits::CLIENT_RETURN_EVERY;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::watch;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One client's turn.
pub(super) struct Turn {
    env: Env,
    session: Arc<Session>,
    backpressure: watch::Receiver<bool>,
    changed: Waiting,
    /// Whether it was seen on since this client was last let go.
    held_back: bool,
    /// This client's moment, once it is off.
    moment: Option<Waiting>,
}

impl Turn {
    pub(super) fn new(env: Env, session: Arc<Session>) -> Self {
        let backpressure = session.backpressure();
        Turn {
            env,
            session,
            changed: changed(backpressure.clone()),
            backpressure,
            held_back: false,
            moment: None,
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
            (self.held_back, self.moment) = (true, None);
            return Poll::Pending;
        }
        if std::mem::take(&mut self.held_back) {
            let (env, wait) = (self.env.clone(), CLIENT_RETURN_EVERY * self.session.take_place());
            self.moment =
                (!wait.is_zero()).then(|| Box::pin(async move { env.sleep(wait).await }) as Waiting);
        }
        if let Some(moment) = &mut self.moment {
            ready!(moment.as_mut().poll(cx));
            self.moment = None;
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
