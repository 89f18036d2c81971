//! The worker's side towards the server: the connection is made and read.
//!
//! Promises that whoever waits for an answer on a connection that is lost is dropped.

use super::super::flights::{Arrived, FlightId};
use super::super::link::Link;
use super::Worker;
use crate::session::EndReason;
use crate::upstream::fence::{Meaning, meaning_of};
use redoubt_env::planted;
use redoubt_resp::reply::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

impl Worker {
    /// Makes the connection, or reads it, and takes in what the server says.
    pub(super) fn read_link(&mut self, cx: &mut Context<'_>) -> bool {
        if let Poll::Ready(plain) = self.link.poll_made(cx) {
            self.plain = plain;
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
        let mut fences: Vec<(FlightId, Value)> = Vec::new();
        let guests = &mut self.guests;
        let taken = self
            .flights
            .received(buffer.filled(), now, |arrived| match arrived {
                Arrived::Reply(slot, flight, bytes, ends) => {
                    if let Some(guest) = guests.get_mut(slot.key).filter(|g| g.slot == slot) {
                        guest.outbox.hold(flight, bytes);
                        guest.unanswered -= usize::from(ends);
                    }
                }
                Arrived::Fence(flight, value) => fences.push((flight, value)),
            });
        if let Err(error) = taken {
            self.lose_link(&error.to_string());
            return true;
        }
        for (flight, value) in fences {
            let meaning = match planted::held("pause_before_fence") {
                // As if it were busy: it is asked again.
                true => Meaning::NotYet,
                false => meaning_of(&self.session, &value),
            };
            let fenced = match self.patience.point(meaning, now) {
                Ok(Some(point)) => {
                    self.session.pressure.written(point);
                    let fenced = self.flights.fenced(flight, point, now);
                    fenced.map_err(|e| EndReason::ServerChanged(e.to_string()))
                }
                Ok(None) => Ok(()),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = fenced {
                self.session.end(reason);
                return false;
            }
        }
        true
    }

    /// Drops those whose commands' outcomes can't be known, and begins to make another connection.
    pub(super) fn lose_link(&mut self, why: &str) {
        tracing::info!(why, "the connection that clients share is lost");
        self.flights.cut();
        self.outbound.clear();
        self.guests.retain(|_, guest| guest.unanswered == 0);
        self.link = Link::make(Arc::clone(&self.session), self.common.env.clone());
    }
}
