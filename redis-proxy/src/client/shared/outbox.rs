//! What a client of a shared connection is to get, and how much of it may leave.

use super::flights::FlightId;
use bytes::{Buf, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in all outboxes of a worker; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Total(Arc<AtomicUsize>);

impl Total {
    /// How many.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers for one client, in order.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Released bytes first, then held ones.
    bytes: BytesMut,
    released: usize,
    /// How many bytes each flight brought, oldest first.
    held: VecDeque<(FlightId, usize)>,
    total: Total,
}

impl Outbox {
    /// An empty one, counted in `total`.
    pub(super) fn new(total: Total) -> Self {
        Outbox {
            bytes: BytesMut::new(),
            released: 0,
            held: VecDeque::new(),
            total,
        }
    }

    /// Bytes that came with `flight`, the newest yet: they are held from here on.
    pub(super) fn hold(&mut self, flight: FlightId, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.total.0.fetch_add(bytes.len(), Ordering::Relaxed);
        match self.held.back_mut() {
            Some((last, len)) if *last == flight => *len += bytes.len(),
            _ => self.held.push_back((flight, bytes.len())),
        }
    }

    /// What may be written now that every flight before `end` is released.
    pub(super) fn released(&mut self, end: FlightId) -> &[u8] {
        while let Some((flight, len)) = self.held.front().copied()
            && flight < end
        {
            self.released += len;
            self.held.pop_front();
        }
        &self.bytes[..self.released]
    }

    /// The client has taken the first `n` released bytes.
    pub(super) fn written(&mut self, n: usize) {
        self.released -= n;
        self.bytes.advance(n);
        self.total.0.fetch_sub(n, Ordering::Relaxed);
        if self.bytes.is_empty() {
            // An idle client keeps no buffer.
            self.bytes = BytesMut::new();
        }
    }

    /// Bytes that were not written.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether everything was written.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether something is there that was not released when it was last asked.
    pub(super) fn has_held(&self) -> bool {
        self.released < self.bytes.len()
    }

    /// What is left, all of which is released.
    ///
    /// # Panics
    /// When something is held: it would leave past its flight's fence.
    pub(super) fn take_released(&mut self) -> BytesMut {
        assert_eq!(self.released, self.bytes.len(), "a held answer would leave");
        self.total.0.fetch_sub(self.released, Ordering::Relaxed);
        self.released = 0;
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::flights::Flights;
    use super::*;
    use crate::pressure::Mark;

    #[test]
    fn the_total_is_of_what_is_there() {
        let total = Total::default();
        let mut flights = Flights::default();
        let (first, second) = (
            flights.seal(Mark::default(), &mut BytesMut::new()),
            flights.seal(Mark::default(), &mut BytesMut::new()),
        );
        let (mut one, mut other) = (Outbox::new(total.clone()), Outbox::new(total.clone()));
        one.hold(first, b"abc");
        other.hold(second, b"defgh");
        assert_eq!(total.get(), 8);
        assert_eq!(one.released(first), b"");
        assert!(one.has_held());
        assert_eq!(one.released(second), b"abc");
        assert!(!one.has_held());
        one.written(1);
        assert_eq!(total.get(), 7);
        assert_eq!(&one.take_released()[..], b"bc");
        assert_eq!((total.get(), one.len()), (5, 0));
        drop(other);
        assert_eq!(total.get(), 0);
        drop(one);
        assert_eq!(total.get(), 0);
    }
}
