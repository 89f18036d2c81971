//! Flights begin here: clients are read, and what they say is sent.
//!
//! Promises that each client's commands are sent in order, whole, and none before its turn.

use super::super::flights::Slot;
use super::super::guest::{Guest, Taken, Then};
use super::Worker;
use crate::pause::Kind;
use crate::upstream::fence::FENCE;
use bytes::Buf;
use redoubt_resp::stream::encode_command;
use redoubt_types::limits::{
    CLIENT_HELD_BYTES_MAX, CLIENT_HELD_PIECES_MAX, CLIENT_READ_BYTES_MIN, FLIGHT_BYTES_MAX,
    FLIGHTS_IN_THE_AIR_MAX,
};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl Worker {
    /// Reads those that may be read, and sends what they say as one flight.
    pub(super) fn fly(&mut self, cx: &mut Context<'_>) -> bool {
        let turn = self.turn.poll(cx).is_ready();
        let paused = self.paused.poll(cx);
        let all = paused == Some(Kind::All);
        self.held_writes = self.paused.held_writes(paused);
        self.may_read = turn && self.link.conn().is_some() && !all;
        let mut progress = false;
        if !self.may_read {
            self.read_ahead(all);
        } else if self.outbound.is_empty() && self.flights.in_the_air() < FLIGHTS_IN_THE_AIR_MAX {
            while self.outbound.len() < FLIGHT_BYTES_MAX
                && let Some(slot) = self.deferred.pop_front()
            {
                self.read(slot);
                // It may have been let go, which is to be looked at.
                progress = true;
            }
            if !self.outbound.is_empty() {
                self.session.pressure.passed(self.outbound.len());
                self.send_fence();
            }
        }
        progress | self.write_link(cx)
    }

    /// Ends a flight, or asks again for the fence of one that has landed.
    pub(super) fn send_fence(&mut self) {
        encode_command(FENCE, &mut self.outbound);
        self.flights.seal();
    }

    pub(super) fn write_link(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while !self.outbound.is_empty() {
            let Some(conn) = self.link.conn() else {
                break;
            };
            match Pin::new(conn).poll_write(cx, &self.outbound) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.outbound.advance(n);
                    progress = true;
                }
                Poll::Ready(_) => {
                    self.lose_link("it can't be written to");
                    return true;
                }
                Poll::Pending => break,
            }
        }
        progress
    }

    /// Takes commands of a client that is not listed any more, as many as there may be.
    pub(super) fn read(&mut self, slot: Slot) {
        let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == slot) else {
            return;
        };
        guest.deferred = false;
        guest.waits_since = None;
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        loop {
            if guest.unanswered >= CLIENT_HELD_PIECES_MAX || guest.outbox.len() >= CLIENT_HELD_BYTES_MAX {
                // It is looked at again when it has been written to.
                return;
            }
            if self.outbound.len() >= FLIGHT_BYTES_MAX {
                return self.defer(slot);
            }
            match guest.take(&self.plain, &self.session.peers, self.held_writes.as_deref()) {
                Taken::Command(bytes, instead) => {
                    self.outbound.extend_from_slice(&bytes);
                    guest.unanswered += 1;
                    self.flights.send(slot, instead);
                }
                Taken::Stopped if guest.is_quiet() => return self.let_go(slot),
                Taken::Stopped => return,
                Taken::Incomplete => match read_into(guest, &mut self.scratch, cx) {
                    Poll::Ready(Some(0)) => guest.then = Then::Ends,
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => {
                        self.guests.remove(slot.key);
                        return;
                    }
                    Poll::Pending => return,
                },
            }
        }
    }

    /// Reads a little that is not sent yet: what waits for its turn counts for the deadline as an answer does. Whoever
    /// sent it may be gone long since, and nothing of it has been executed. What is paused may wait for any time.
    pub(super) fn read_ahead(&mut self, paused: bool) {
        let now = self.common.env.now();
        let mut gone = Vec::new();
        for slot in &self.deferred {
            let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == *slot) else {
                continue;
            };
            let waker = Waker::from(Arc::clone(&guest.signal));
            let cx = &mut Context::from_waker(&waker);
            while guest.input.len() < CLIENT_READ_BYTES_MIN
                && let Poll::Ready(read) = read_into(guest, &mut self.scratch, cx)
            {
                match read {
                    // It is seen again when what came before it was taken.
                    Some(0) => break,
                    Some(_) => {}
                    None => {
                        gone.push(slot.key);
                        break;
                    }
                }
            }
            if paused {
                guest.waits_since = None;
            } else if !guest.input.is_empty() {
                guest.waits_since.get_or_insert(now);
            }
        }
        for key in gone {
            self.guests.remove(key);
        }
    }
}

/// Reads into a client's input. The number of bytes; 0 at its end, `None` when its connection has failed.
fn read_into(guest: &mut Guest, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<Option<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    Pin::new(&mut guest.conn).poll_read(cx, &mut buffer).map(|read| {
        read.ok().map(|()| {
            guest.input.extend_from_slice(buffer.filled());
            buffer.filled().len()
        })
    })
}
