//! The reply path: the server's bytes in, held, and out again once they may leave.
//!
//! Decides nothing about release, it asks the hold for each *piece* (what one read brought). Promises that
//! bytes leave in the order in which they came, none before its piece is released, and that a marker's error
//! has become the refusal's text. Must not know a socket or a clock.

use super::inspect::RefusalCode;
use super::monitor::Monitor;
use crate::hold::{Ticket, Waiter};
use crate::pause::Asked;
use bytes::{Buf, Bytes, BytesMut};
use redoubt_resp::reply::{FrameEnd, ReplyError, ReplyRewriter};
use redoubt_types::BootTime;
use redoubt_types::limits::{CLIENT_HELD_BYTES_MAX, CLIENT_HELD_PIECES_MAX, GUEST_ANSWER_BYTES_MAX};
use std::collections::VecDeque;

/// Bytes that wait for one ticket.
#[derive(Clone, Copy, Debug)]
struct Piece {
    ticket: Ticket,
    len: usize,
    received: BootTime,
}

/// The state of one client's reply path.
pub struct Replies {
    rewriter: ReplyRewriter,
    /// Markers whose errors have not come back. Under CLIENT REPLY OFF they never do: replies then go through
    /// the slower of two ways for the rest of the connection, and that is all.
    markers: usize,
    /// Released bytes first, then held ones.
    bytes: BytesMut,
    /// How many bytes at the front are released.
    released: usize,
    /// What waits behind them, oldest first.
    held: VecDeque<Piece>,
    waiter: Waiter,
    /// Whole answers that were received, pushes apart.
    answers: u64,
    /// Pauses that the client may ask for, by the server's answers.
    asked: Vec<Asked>,
    /// Once the client has asked for MONITOR.
    monitor: Option<Monitor>,
    /// Bytes of the answer that is coming in.
    begun: usize,
    /// Those answers of which the last was a large one.
    until_large: u64,
}

impl Replies {
    /// The reply path of a new connection.
    pub fn new(waiter: Waiter, marker_prefix: &str) -> Self {
        Replies {
            rewriter: ReplyRewriter::new(marker_prefix),
            markers: 0,
            bytes: BytesMut::new(),
            released: 0,
            held: VecDeque::new(),
            waiter,
            answers: 0,
            asked: Vec::new(),
            monitor: None,
            begun: 0,
            until_large: 0,
        }
    }

    /// The same, behind `owed`: bytes that were released elsewhere.
    #[must_use]
    pub(super) fn behind(mut self, owed: BytesMut) -> Self {
        self.released = owed.len();
        self.bytes = owed;
        self
    }

    /// Whole answers that were received, pushes apart.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// How many of the last of them were all small enough for a shared connection.
    pub fn small_answers(&self) -> u64 {
        self.answers - self.until_large
    }

    /// The hold, to be woken by it.
    pub fn waiter(&self) -> &Waiter {
        &self.waiter
    }

    /// Markers were sent: their errors are to be replaced.
    pub fn expect_markers(&mut self, n: usize) {
        self.markers += n;
    }

    /// Pauses that the client has asked for, and may, since this was last called.
    pub fn take_asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.asked)
    }

    /// MONITOR was sent: from now on the proxy's own commands are left out of what comes. `authenticates` says whether it
    /// sends AUTH, too.
    pub fn expect_monitor(&mut self, authenticates: bool) {
        let at_boundary = self.rewriter.at_boundary();
        self.monitor
            .get_or_insert_with(|| Monitor::new(at_boundary, authenticates));
    }

    /// Whether the server connection may be read.
    pub fn has_room(&self) -> bool {
        self.bytes.len() < CLIENT_HELD_BYTES_MAX && self.held.len() < CLIENT_HELD_PIECES_MAX
    }

    /// Where the next bytes are to be read to, with room for `at_least`: only append.
    pub fn tail(&mut self, at_least: usize) -> &mut BytesMut {
        self.bytes.reserve(at_least);
        &mut self.bytes
    }

    /// The last `n` bytes were just appended to the tail, received by `now`: they are held from here on.
    ///
    /// # Errors
    /// When they can't be a server's answers. Nothing of them is ever released then.
    pub fn received(&mut self, n: usize, now: BootTime) -> Result<(), ReplyError> {
        let start = self.bytes.len() - n;
        let (answers, until_large) = (&mut self.answers, &mut self.until_large);
        let (mut begun, mut counted, mut frames) = (self.begun, 0, Vec::new());
        let is_monitor = self.monitor.is_some();
        let mut count = |frame: FrameEnd| {
            *answers += u64::from(!frame.is_push());
            if begun + frame.end - counted > GUEST_ANSWER_BYTES_MAX {
                *until_large = *answers;
            }
            (begun, counted) = (0, frame.end);
            if is_monitor {
                frames.push(frame);
            }
        };
        let mut len = n;
        if self.markers == 0 && !self.rewriter.is_holding() {
            self.rewriter.pass(&self.bytes[start..], &mut count)?;
        } else {
            let raw = self.bytes.split_off(start);
            let (markers, pauses) = (&mut self.markers, &mut self.asked);
            let instead = |code: &[u8]| {
                let code = std::str::from_utf8(code).ok()?;
                let line = if let Some(asked) = Asked::of_code(code) {
                    pauses.push(asked);
                    Bytes::from_static(b"+OK")
                } else {
                    format!("-{}", RefusalCode::new(code.parse().ok()?)?.text()).into()
                };
                *markers = markers.saturating_sub(1);
                Some(line)
            };
            // Ends are told within all of `bytes` here.
            let count = |frame: FrameEnd| {
                count(FrameEnd {
                    end: frame.end - start,
                    ..frame
                });
            };
            self.rewriter.rewrite(&raw, &mut self.bytes, instead, count)?;
            len = self.bytes.len() - start;
        }
        if let Some(monitor) = &mut self.monitor {
            let all = self.bytes.split_off(start);
            monitor.show(&all, &frames, &mut self.bytes);
        }
        self.begun = begun + len - counted;
        self.hold(self.bytes.len() - start, now);
        Ok(())
    }

    /// Appends a line of the proxy's own, without its CR LF. It waits like any reply, so that it comes after
    /// those before it.
    pub fn append_line(&mut self, line: &str, now: BootTime) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
        self.hold(line.len() + 2, now);
    }

    fn hold(&mut self, len: usize, now: BootTime) {
        if len == 0 {
            return;
        }
        let ticket = self.waiter.ticket();
        match self.held.back_mut() {
            Some(last) if last.ticket == ticket => last.len += len,
            _ => self.held.push_back(Piece {
                ticket,
                len,
                received: now,
            }),
        }
    }

    /// What may be written to the client now.
    pub fn released(&mut self) -> &[u8] {
        while let Some(piece) = self.held.front()
            && self.waiter.is_released(piece.ticket)
        {
            self.released += piece.len;
            self.held.pop_front();
        }
        &self.bytes[..self.released]
    }

    /// The client has taken the first `n` released bytes.
    pub fn written(&mut self, n: usize) {
        self.released -= n;
        self.bytes.advance(n);
    }

    /// When the oldest bytes that are still held were received.
    pub fn held_since(&self) -> Option<BootTime> {
        self.held.front().map(|piece| piece.received)
    }

    /// Whether everything received has been written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests;
