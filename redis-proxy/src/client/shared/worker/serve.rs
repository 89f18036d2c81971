//! The worker's side towards the clients: what is released is written, and who has had all its answers may go.
//!
//! Promises that nothing is written that its flight's fence does not release.

use super::super::flights::Slot;
use super::super::guest::Then;
use super::{Worker, changed};
use crate::client::Arrival;
use crate::client::connection::linger;
use crate::client::own::{Moved, Moving, serve_own};
use crate::hold::ReadKeys;
use redoubt_types::limits::UPSTREAM_RETRY_PAUSE;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

impl Worker {
    /// Writes what the journal's progress releases, and asks again for a fence that was not given.
    pub(super) fn release(&mut self, cx: &mut Context<'_>) -> bool {
        while self.horizon_changed.as_mut().poll(cx).is_ready() {
            self.horizon.mark_unchanged();
            self.horizon_changed = changed(self.horizon.clone());
        }
        let horizon = *self.horizon.borrow();
        let slots = self.flights.release(horizon, *self.indexed.borrow());
        while self.flights.wants_index() && self.indexed_changed.as_mut().poll(cx).is_ready() {
            self.indexed.mark_unchanged();
            self.indexed_changed = changed(self.indexed.clone());
            cx.waker().wake_by_ref();
        }
        for slot in &slots {
            self.serve(*slot);
        }
        if self.flights.wants_fence() && self.flights.in_the_air() == 0 && self.link.takes_more() {
            let env = self.common.env.clone();
            let again = self
                .again
                .get_or_insert_with(|| Box::pin(async move { env.sleep(UPSTREAM_RETRY_PAUSE).await }));
            if again.as_mut().poll(cx).is_ready() {
                self.again = None;
                self.send_fence();
                return true;
            }
        } else {
            self.again = None;
        }
        !slots.is_empty()
    }

    /// Looks at each client that has something to do.
    pub(super) fn serve_listed(&mut self) -> bool {
        let mut listed = std::mem::take(&mut self.listed);
        self.ready.take(&mut listed);
        for key in &listed {
            if let Some(guest) = self.guests.get(*key) {
                guest.signal.seen();
                let slot = guest.slot;
                self.serve(slot);
            }
        }
        let any = !listed.is_empty();
        listed.clear();
        self.listed = listed;
        any
    }

    /// Writes what a client may have, and lists it for being read; or ends or moves it.
    pub(super) fn serve(&mut self, slot: Slot) {
        let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == slot) else {
            return;
        };
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        let (released, committed) = (self.flights.released(), self.horizon.borrow().committed());
        loop {
            let is_clean = |keys: &ReadKeys| self.session.clean.are_clean(keys, committed);
            let bytes = guest.outbox.released(released, is_clean);
            if bytes.is_empty() {
                break;
            }
            match Pin::new(&mut guest.conn).poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) if n > 0 => guest.outbox.written(n),
                Poll::Ready(_) => {
                    self.guests.remove(slot.key);
                    return;
                }
                Poll::Pending => {
                    if matches!(guest.then, Then::Stays) && guest.is_choked() {
                        // It may take nothing before it has sent all that it wants to: a server keeps answers for as long.
                        guest.then = Then::Moves(None);
                    }
                    break;
                }
            }
        }
        match guest.then {
            Then::Stays => self.defer(slot),
            _ if guest.may_go() => self.let_go(slot),
            _ => {}
        }
    }

    /// Lists a client for being read as soon as that may be.
    pub(super) fn defer(&mut self, slot: Slot) {
        let guest = &mut self.guests[slot.key];
        if !guest.deferred {
            guest.deferred = true;
            self.deferred.push_back(slot);
        }
        if self.stalled {
            // It has something to say, which may be what ends the stall.
            self.ahead.push(slot);
        }
    }

    /// Ends or moves a client: see [`Guest::may_go`](super::super::guest::Guest::may_go).
    pub(super) fn let_go(&mut self, slot: Slot) {
        let mut guest = self.guests.remove(slot.key);
        let env = self.common.env.clone();
        match guest.then {
            Then::Moves(first) => {
                let first = first.or(guest.next);
                let moving = Moving {
                    spare: self.take_spare(first.as_ref()),
                    arrival: Arrival {
                        conn: guest.conn,
                        peer: guest.peer,
                        input: guest.input,
                        names: guest.names,
                        protocol: self.protocol,
                        permit: guest.permit,
                    },
                    moved: Moved {
                        scanner: guest.scanner,
                        first,
                        plain: Arc::clone(&self.plain),
                        owed: guest.outbox.take_released(),
                    },
                };
                let (common, session) = (Arc::clone(&self.common), Arc::clone(&self.session));
                self.away.push(env.spawn(serve_own(common, session, moving)));
            }
            Then::Stays | Then::Ends => {
                let (conn, permit) = (guest.conn, guest.permit);
                self.ending.push(self.common.env.spawn(async move {
                    linger(&env, conn).await;
                    drop(permit);
                }));
            }
        }
    }
}
