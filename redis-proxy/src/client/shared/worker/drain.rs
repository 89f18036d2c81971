//! The end of what clients of a shared connection have sent, when the proxy is to stop.
//!
//! Promises that what they had sent by then is executed and answered, that nothing else is, and that each is ended when it
//! has its answers.

use super::super::flights::Slot;
use super::super::guest::Then;
use super::Worker;
use super::fly::read_into;
use redoubt_types::limits::CLIENT_READ_BYTES_MAX;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

impl Worker {
    /// The proxy is to stop: reads what clients have sent by now. Nothing that they send later is read.
    pub(super) fn begin_drain(&mut self) {
        self.draining = true;
        let keys: Vec<usize> = self.guests.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.read_last(key));
    }

    /// Reads what a client has sent by now, and lists it for that being taken.
    pub(super) fn read_last(&mut self, key: usize) {
        let guest = &mut self.guests[key];
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        // Its end, or that it is gone, is found out when it is written to.
        while guest.input.len() < CLIENT_READ_BYTES_MAX
            && let Poll::Ready(Some(1..)) = read_into(guest, &mut self.scratch, cx)
        {}
        let slot = guest.slot;
        self.defer(slot);
    }

    /// Ends those who have nothing to send, and so need not wait until something can be sent.
    pub(super) fn end_idle(&mut self) -> bool {
        if !self.draining {
            return false;
        }
        let guests = &mut self.guests;
        let is_idle = |slot: &&Slot| {
            let guest = guests.get(slot.key).filter(|g| g.slot == **slot);
            guest.is_some_and(|guest| matches!(guest.then, Then::Stays) && guest.is_idle())
        };
        let idle: Vec<Slot> = self.deferred.iter().filter(is_idle).copied().collect();
        for slot in &idle {
            self.guests[slot.key].then = Then::Ends;
            self.let_go(*slot);
        }
        !idle.is_empty()
    }
}
