//! What a client of a shared connection is to get, and how much of it may leave.

use super::flights::{FlightId, Piece, Released};
use crate::hold::ReadKeys;
use bytes::{Buf, BytesMut};
use redoubt_types::limits::CLIENT_HELD_PIECES_MAX;
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

/// Bytes that wait.
#[derive(Clone, Copy, Debug)]
struct Held {
    flight: FlightId,
    len: usize,
    /// They are the answer to a read of these keys, or a part of it.
    reads: Option<ReadKeys>,
}

/// Answers for one client, in order.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Released bytes first, then held ones.
    bytes: BytesMut,
    released: usize,
    /// What waits behind them, oldest first.
    held: VecDeque<Held>,
    /// Whether the last answer is not complete.
    within: bool,
    total: Total,
}

impl Outbox {
    /// An empty one, counted in `total`.
    pub(super) fn new(total: Total) -> Self {
        Outbox {
            bytes: BytesMut::new(),
            released: 0,
            held: VecDeque::new(),
            within: false,
            total,
        }
    }

    /// A piece of an answer that came with the newest flight yet: it is held from here on.
    pub(super) fn hold(&mut self, piece: Piece<'_>) {
        let Piece { flight, reads, .. } = piece;
        let len = piece.bytes.len();
        self.bytes.extend_from_slice(piece.bytes);
        self.total.0.fetch_add(len, Ordering::Relaxed);
        let crowded = self.held.len() >= CLIENT_HELD_PIECES_MAX;
        match self.held.back_mut() {
            Some(last) if self.within => last.len += len,
            // Reads are kept apart, since each may leave for itself, unless there are too many to be kept so.
            Some(last) if last.flight == flight && ((last.reads.is_none() && reads.is_none()) || crowded) => {
                last.len += len;
                last.reads = None;
            }
            _ => self.held.push_back(Held { flight, len, reads }),
        }
        self.within = !piece.ends;
    }

    /// What may be written now that this is released, and of clean reads what `is_clean` says. In order: what waits keeps
    /// everything behind it.
    pub(super) fn released(&mut self, released: Released, is_clean: impl Fn(&ReadKeys) -> bool) -> &[u8] {
        while let Some(Held { flight, len, reads }) = self.held.front() {
            let clean = || *flight < released.reads_end && reads.as_ref().is_some_and(&is_clean);
            if !(*flight < released.end || clean()) {
                break;
            }
            self.released += len;
            self.held.pop_front();
        }
        &self.bytes[..self.released]
    }

    /// Whether something of this flight, or of an earlier one, was held when it was last asked.
    pub(super) fn holds_of(&self, flight: FlightId) -> bool {
        self.held.front().is_some_and(|held| held.flight <= flight)
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
    use super::super::flights::{Flights, Slot};
    use super::*;
    use crate::pressure::Mark;
    use bytes::Bytes;
    use redoubt_resp::request::RequestHead;

    fn piece(flight: FlightId, bytes: &[u8]) -> Piece<'_> {
        Piece {
            slot: Slot { key: 0, id: 0 },
            flight,
            bytes,
            ends: true,
            reads: None,
        }
    }

    fn up_to(end: FlightId) -> Released {
        Released { end, reads_end: end }
    }

    #[test]
    fn the_total_is_of_what_is_there() {
        let total = Total::default();
        let mut flights = Flights::default();
        let (first, second) = (
            flights.seal(Mark::default(), &mut BytesMut::new()),
            flights.seal(Mark::default(), &mut BytesMut::new()),
        );
        let (mut one, mut other) = (Outbox::new(total.clone()), Outbox::new(total.clone()));
        one.hold(piece(first, b"abc"));
        other.hold(piece(second, b"defgh"));
        assert_eq!(total.get(), 8);
        assert_eq!(one.released(up_to(first), |_| true), b"");
        assert!(one.has_held() && one.holds_of(first));
        assert_eq!(one.released(up_to(second), |_| true), b"abc");
        assert!(!one.has_held() && !one.holds_of(second));
        one.written(1);
        assert_eq!(total.get(), 7);
        assert_eq!(&one.take_released()[..], b"bc");
        assert_eq!((total.get(), one.len()), (5, 0));
        drop(other);
        assert_eq!(total.get(), 0);
        drop(one);
        assert_eq!(total.get(), 0);
    }

    #[test]
    fn h21_a_clean_read_leaves_early_but_in_order() {
        let keys = |name: &'static [u8]| {
            let args = vec![Bytes::from_static(b"GET"), Bytes::from_static(name)];
            ReadKeys::of(&RequestHead { args, arg_count: 2 })
        };
        let mut flights = Flights::default();
        let (first, second) = (
            flights.seal(Mark::default(), &mut BytesMut::new()),
            flights.seal(Mark::default(), &mut BytesMut::new()),
        );
        let end = flights.seal(Mark::default(), &mut BytesMut::new());
        let mut outbox = Outbox::new(Total::default());
        let read = |flight, bytes, ends, name| Piece {
            ends,
            reads: keys(name),
            ..piece(flight, bytes)
        };
        outbox.hold(read(first, b"$1\r\n", false, b"a"));
        outbox.hold(read(first, b"A\r\n", true, b"a"));
        outbox.hold(read(first, b"$1\r\nB\r\n", true, b"b"));
        outbox.hold(piece(first, b"+OK\r\n"));
        outbox.hold(read(second, b"$1\r\nC\r\n", true, b"a"));
        let none = up_to(FlightId::default());
        assert_eq!(outbox.released(none, |_| true), b"", "its fence is not answered");
        let reads = |reads_end| Released { reads_end, ..none };
        let a_is_clean = |asked: &ReadKeys| Some(*asked) == keys(b"a");
        assert_eq!(outbox.released(reads(second), a_is_clean), b"$1\r\nA\r\n");
        assert_eq!(outbox.released(reads(end), a_is_clean).len(), 7, "b is not clean");
        assert_eq!(outbox.released(reads(end), |_| true).len(), 14, "a write waits");
        assert!(outbox.holds_of(first));
        assert_eq!(
            outbox
                .released(
                    Released {
                        end: second,
                        reads_end: second
                    },
                    |_| true
                )
                .len(),
            19
        );
        assert!(!outbox.holds_of(first) && outbox.holds_of(second));
        let last = Released {
            end: second,
            reads_end: end,
        };
        assert_eq!(outbox.released(last, a_is_clean).len(), 26);
        assert!(!outbox.has_held());
    }
}
