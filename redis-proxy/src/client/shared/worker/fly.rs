//! Flights begin here: clients are read, and what they say is sent.
//!
//! Promises that each client's commands are sent in order, whole, and none before its turn; and that who waits because
//! nothing can be sent is still listened to, if only to learn that it needs a connection of its own, or is gone.

use super::super::flights::Slot;
use super::super::guest::{Guest, Taken, Then};
use super::{Waiting, Worker};
use crate::pause::Kind;
use bytes::Buf;
use redoubt_types::limits::{
    CLIENT_READ_BYTES_MIN, FLIGHT_BYTES_MAX, FLIGHTS_IN_THE_AIR_MAX, SHARED_FENCE_EVERY, STALL_AFTER,
};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl Worker {
    /// Reads those that may be read, and sends what they say as one flight.
    pub(super) fn fly(&mut self, cx: &mut Context<'_>) -> bool {
        let turn = self.turn.poll(cx).is_ready();
        let paused = self.paused.poll(cx);
        self.held_writes = self.paused.held_writes(paused);
        let free = self.outbound.is_empty() && self.flights.in_the_air() < FLIGHTS_IN_THE_AIR_MAX;
        let mut progress = false;
        if paused == Some(Kind::All) {
            self.wait_for_pause(cx);
            progress |= self.end_idle();
        } else if turn && free && self.link.takes_more() {
            (self.stalled, self.stall_landed) = (false, None);
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
            } else if self.flights.in_the_air() == 0 {
                self.keep_link(cx);
            }
        } else if !self.deferred.is_empty() {
            progress |= self.look_ahead(cx);
            progress |= self.end_idle();
        }
        progress | self.write_link(cx)
    }

    /// Nobody is read while clients have paused each other: what they say may wait for any time.
    fn wait_for_pause(&mut self, cx: &mut Context<'_>) {
        for slot in &self.deferred {
            if let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == *slot) {
                guest.waits_since = None;
            }
        }
        if self.flights.in_the_air() == 0 && self.link.takes_more() {
            self.keep_link(cx);
        }
    }

    /// Ends a flight, or asks again for the fence of one that has landed.
    pub(super) fn send_fence(&mut self) {
        let asked = self.session.pressure.mark();
        self.flights.seal(asked, &mut self.outbound);
    }

    /// Asks for a fence on a connection that has been idle, lest the server close it.
    fn keep_link(&mut self, cx: &mut Context<'_>) {
        // Where nothing is shared, it may be that no fence would be given.
        let shares = !self.plain.is_empty();
        if shares && self.poll_pause(cx, |worker| &mut worker.idle, SHARED_FENCE_EVERY) {
            self.send_fence();
        }
    }

    /// Whether the pause that is kept in `timer` is over; it begins when there is none.
    fn poll_pause(
        &mut self,
        cx: &mut Context<'_>,
        timer: impl Fn(&mut Self) -> &mut Option<Waiting<()>>,
        pause: Duration,
    ) -> bool {
        let env = self.common.env.clone();
        let waiting = timer(self).get_or_insert_with(|| Box::pin(async move { env.sleep(pause).await }));
        let over = waiting.as_mut().poll(cx).is_ready();
        if over {
            *timer(self) = None;
        }
        over
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
                    // What the server sent before it closed is still to be read.
                    self.outbound.clear();
                    self.link.stop_writing();
                    return true;
                }
                Poll::Pending => break,
            }
        }
        progress
    }

    /// Takes commands of a client that is not listed any more, as many as there may be.
    fn read(&mut self, slot: Slot) {
        let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == slot) else {
            return;
        };
        guest.deferred = false;
        guest.waits_since = None;
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        let keyed = self
            .common
            .options
            .clean_reads
            .then(|| self.session.clean.keyed());
        let keyed = keyed.flatten();
        loop {
            guest.is_full = !guest.has_room();
            if guest.is_full {
                // It is looked at again when it has been answered, or written to.
                return;
            }
            if self.outbound.len() >= FLIGHT_BYTES_MAX {
                return self.defer(slot);
            }
            match guest.take(
                &self.plain,
                &self.session.peers,
                keyed,
                self.held_writes.as_deref(),
            ) {
                Taken::Command(bytes, instead) => {
                    self.outbound.extend_from_slice(&bytes);
                    guest.unanswered += 1;
                    self.flights.send(slot, instead);
                }
                Taken::Read(bytes, keys) => {
                    self.outbound.extend_from_slice(&bytes);
                    guest.unanswered += 1;
                    self.flights.send_read(slot, keys);
                }
                Taken::Stopped if guest.may_go() => return self.let_go(slot),
                Taken::Stopped => return,
                Taken::Incomplete if self.draining => {
                    guest.then = Then::Ends;
                    if guest.may_go() {
                        self.let_go(slot);
                    }
                    return;
                }
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

    /// Listens to those who have to wait, once that takes longer than it should: a script keeps the server busy, or the
    /// connection is being made.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.stalled {
            let landed = self.flights.landed();
            if !self.poll_pause(cx, |worker| &mut worker.stall, STALL_AFTER) {
                return false;
            }
            if self.stall_landed != Some(landed) {
                // Something has come since: it begins anew.
                self.stall_landed = Some(landed);
                cx.waker().wake_by_ref();
                return false;
            }
            self.stalled = true;
            self.ahead.clear();
            self.ahead.extend(&self.deferred);
        }
        let ahead = std::mem::take(&mut self.ahead);
        for slot in &ahead {
            self.look(*slot);
        }
        !ahead.is_empty()
    }

    /// Reads a little of a client that has to wait. What it says counts for the deadline as an answer does. Whoever sent it may
    /// be gone long since, and nothing of it has been executed.
    fn look(&mut self, slot: Slot) {
        let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == slot) else {
            return;
        };
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        while !self.draining
            && guest.input.len() < CLIENT_READ_BYTES_MIN
            && let Poll::Ready(read) = read_into(guest, &mut self.scratch, cx)
        {
            match read {
                Some(0) if guest.is_idle() => {
                    guest.then = Then::Ends;
                    return self.let_go(slot);
                }
                // It is seen again when what came before it was taken.
                Some(0) => break,
                Some(_) => {}
                None => {
                    self.guests.remove(slot.key);
                    return;
                }
            }
        }
        // Before the server's commands are known nothing is plain, which is no reason to move.
        if guest.unanswered == 0 && !self.plain.is_empty() {
            guest.look(&self.plain);
        }
        if guest.may_go() {
            return self.let_go(slot);
        }
        // Behind an answer of its own it waits as long as that takes, as it would at the server.
        if guest.unanswered == 0 && (!guest.input.is_empty() || guest.next.is_some()) {
            guest.waits_since.get_or_insert(self.common.env.now());
        }
    }
}

/// Reads into a client's input. The number of bytes; 0 at its end, `None` when its connection has failed.
pub(super) fn read_into(guest: &mut Guest, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<Option<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    Pin::new(&mut guest.conn).poll_read(cx, &mut buffer).map(|read| {
        read.ok().map(|()| {
            guest.input.extend_from_slice(buffer.filled());
            buffer.filled().len()
        })
    })
}
