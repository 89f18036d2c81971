//! The worker's side towards the server: the connection is made and read.
//!
//! Promises that whoever waits for an answer on a connection that is lost is dropped, and that what all clients are owed stays
//! below a bound.

use super::super::flights::{Arrived, FlightId, OutOfStep, Slot};
use super::super::link::Link;
use super::Worker;
use crate::pressure::Mark;
use crate::session::EndReason;
use crate::upstream::fence::{Meaning, meaning_of};
use redoubt_env::planted;
use redoubt_resp::reply::Value;
use redoubt_types::BootTime;
use redoubt_types::limits::OUTBOXES_BYTES_MAX;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// What came of a fence.
struct Fence {
    flight: FlightId,
    answer: Value,
    /// What had been passed on when it was asked for.
    asked: Mark,
}

impl Worker {
    /// Makes the connection, or reads it, and takes in what the server says.
    pub(super) fn read_link(&mut self, cx: &mut Context<'_>) -> bool {
        if let Poll::Ready((plain, keyed)) = self.link.poll_made(cx) {
            self.plain = plain;
            self.session.clean.set_keyed(keyed);
            if self.flights.wants_fence() {
                self.send_fence();
            }
            return true;
        }
        let Some(conn) = self.link.conn() else {
            return false;
        };
        let mut buffer = ReadBuf::new(&mut self.scratch);
        match Pin::new(conn).poll_read(cx, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => {
                self.lose_link("it was closed");
                return true;
            }
        }
        // A reading of the clock after what was received: H14 counts from here.
        let now = self.common.env.now();
        let (mut fences, mut may_go_on) = (Vec::new(), Vec::new());
        let guests = &mut self.guests;
        let taken = self
            .flights
            .received(buffer.filled(), now, |arrived| match arrived {
                Arrived::Reply(piece) => {
                    if let Some(guest) = guests.get_mut(piece.slot.key).filter(|g| g.slot == piece.slot) {
                        guest.receive(piece);
                        if guest.is_full && guest.has_room() {
                            guest.is_full = false;
                            may_go_on.push(piece.slot);
                        }
                    }
                }
                Arrived::Fence(flight, answer, asked) => fences.push(Fence {
                    flight,
                    answer,
                    asked,
                }),
            });
        for slot in may_go_on {
            self.defer(slot);
        }
        self.bound_outboxes();
        if let Err(error) = taken {
            return self.fall_out_of_step(&error, now);
        }
        fences.into_iter().all(|fence| self.take_fence(&fence, now))
    }

    /// Takes in the answer to a fence; false when it has ended the session.
    fn take_fence(&mut self, fence: &Fence, now: BootTime) -> bool {
        let meaning = match planted::held("pause_before_fence") {
            // As if it were busy: it is asked again.
            true => Meaning::NotYet,
            false => meaning_of(&self.session, &fence.answer),
        };
        let fenced = match self.patience.point(meaning, now) {
            Ok(Some(point)) => {
                self.session.pressure.written(point, fence.asked);
                let fenced = self.flights.fenced(fence.flight, point, now);
                fenced.map_err(|e| EndReason::ServerChanged(e.to_string()))
            }
            Ok(None) => Ok(()),
            Err(reason) => Err(reason),
        };
        fenced.map_err(|reason| self.session.end(reason)).is_ok()
    }

    /// Nobody knows any more whose the answers are: those since the last fence are given to nobody.
    fn fall_out_of_step(&mut self, error: &OutOfStep, now: BootTime) -> bool {
        tracing::warn!(%error, "the connection that clients share is out of step");
        for slot in self.flights.distrust() {
            self.drop_guest(slot);
        }
        self.lose_link("it is out of step");
        // A server that never gives a fence is not waited for, whatever it says instead.
        match self.patience.point(Meaning::Failed(error.to_string()), now) {
            Ok(_) => true,
            Err(reason) => {
                self.session.end(reason);
                false
            }
        }
    }

    /// Drops whoever is owed most while all together are owed too much.
    fn bound_outboxes(&mut self) {
        while self.total.get() > OUTBOXES_BYTES_MAX {
            let most = self.guests.iter().max_by_key(|(_, guest)| guest.outbox.len());
            let Some(slot) = most.map(|(_, guest)| guest.slot) else {
                return;
            };
            tracing::warn!(peer = self.guests[slot.key].peer, "a client is owed too much");
            self.drop_guest(slot);
        }
    }

    /// Drops a client as it is, if it is still there.
    pub(super) fn drop_guest(&mut self, slot: Slot) {
        if self.guests.get(slot.key).is_some_and(|g| g.slot == slot) {
            self.guests.remove(slot.key);
        }
    }

    /// Drops those whose commands' outcomes can't be known, and begins to make another connection.
    fn lose_link(&mut self, why: &str) {
        tracing::info!(why, "the connection that clients share is lost");
        self.flights.cut();
        self.outbound.clear();
        self.guests.retain(|_, guest| guest.unanswered == 0);
        self.make_link();
    }

    /// Begins to make a connection.
    pub(super) fn make_link(&mut self) {
        let (session, env) = (Arc::clone(&self.session), self.common.env.clone());
        self.link = Link::make(session, self.protocol, env);
    }
}
