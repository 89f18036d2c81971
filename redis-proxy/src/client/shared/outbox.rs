//! What a client of a shared connection is to get, and how much of it may leave.

use super::flights::FlightId;
use bytes::{Buf, BytesMut};
use std::collections::VecDeque;

/// Answers for one client, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Released bytes first, then held ones.
    bytes: BytesMut,
    released: usize,
    /// How many bytes each flight brought, oldest first.
    held: VecDeque<(FlightId, usize)>,
}

impl Outbox {
    /// Bytes that came with `flight`, the newest yet: they are held from here on.
    pub(super) fn hold(&mut self, flight: FlightId, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
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
}
