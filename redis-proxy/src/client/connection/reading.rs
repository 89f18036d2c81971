//! A connection's side towards the client: what it sends is read, and what the server gets of it is decided.
//!
//! Promises that nothing is passed on before its turn, or while clients have paused it; and that who has to wait is still
//! listened to, if only to learn that it is gone.

use super::{ClientRead, Connection, Ended, Step, UpstreamWrite, poll_read};
use crate::client::requests::Offence;
use crate::pause::Kind;
use redoubt_types::limits::{
    CLIENT_OUTBOUND_BYTES_MAX, CLIENT_READ_BYTES_MAX, CLIENT_READ_BYTES_MIN, DRAIN_WAITING_MAX,
    PAUSE_ANSWER_MAX,
};
use std::task::{Context, Poll};

impl Connection {
    /// Takes no more of the client's requests.
    pub(super) fn stop_requests(&mut self, write: UpstreamWrite) {
        self.client_read_side = ClientRead::Ended;
        self.input.clear();
        if write == UpstreamWrite::Closed {
            self.outbound.clear();
        }
        if self.upstream_write_side != UpstreamWrite::Closed {
            self.upstream_write_side = write;
        }
    }

    /// Reads the client and decides what the server gets.
    pub(super) fn read_client(&mut self, cx: &mut Context<'_>) -> Step {
        let full = self.outbound.len() >= CLIENT_OUTBOUND_BYTES_MAX;
        if self.client_read_side == ClientRead::Ended || full {
            return Step::Idle;
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                // What came behind a CLIENT PAUSE is still to be passed on.
                let rest = !self.requests.is_paused() && !self.input.is_empty();
                return if rest { Step::Idle } else { self.end_drain(cx) };
            }
            self.pause = None;
        }
        // A request that a client has paused may wait for any time.
        let paused = self.paused.poll(cx);
        if paused == Some(Kind::All) {
            self.waits_since = None;
            let rest = !self.input.is_empty() || self.requests.has_pending();
            return if rest || self.drain.is_none() {
                self.read_ahead(cx)
            } else {
                self.end_drain(cx)
            };
        }
        if self.turn.poll(cx).is_pending() {
            let step = self.read_ahead(cx);
            if !self.input.is_empty() || self.requests.has_pending() {
                self.waits_since.get_or_insert_with(|| self.env.now());
            }
            return step;
        }
        self.waits_since = None;
        self.requests.hold_writes(self.paused.held_writes(paused));
        if self.pass_requests() {
            return Step::Progress;
        }
        if self.requests.is_stalled() {
            return self.read_ahead(cx);
        }
        if self.drain.is_some() {
            return self.end_drain(cx);
        }
        self.input.reserve(self.client_read.0);
        match poll_read(&mut self.client, &mut self.input, cx) {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.client_read.learn(n);
                self.pass_requests();
                Step::Progress
            }
            Poll::Ready(Ok(_)) => {
                self.stop_requests(UpstreamWrite::Closing);
                Step::Progress
            }
            Poll::Ready(Err(_)) => Step::Close(Ended::Dropped("the client is gone")),
            Poll::Pending => Step::Idle,
        }
    }

    /// The proxy is to stop: reads what the client has sent by now. Nothing that it sends later is read, so that its answers
    /// come to an end, and nothing of that is executed.
    pub(super) fn begin_drain(&mut self, cx: &mut Context<'_>) {
        let env = self.env.clone();
        self.drain = Some(Box::pin(async move { env.sleep(DRAIN_WAITING_MAX).await }));
        while self.client_read_side == ClientRead::Requests && self.input.len() < CLIENT_READ_BYTES_MAX {
            self.input.reserve(CLIENT_READ_BYTES_MIN);
            match poll_read(&mut self.client, &mut self.input, cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                // Its end, or that it is gone, is found out when it is written to.
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
    }

    /// Everything that may be passed on has been, if the proxy is to stop: closes the server's side once the client has its
    /// answers. A command that waits for something may never have one: it ends with its connection, as when a client goes.
    /// What the server sends until then is delivered in any case.
    pub(super) fn end_drain(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(waited) = &mut self.drain else {
            return Step::Idle;
        };
        let done = match self.requests.owes(self.replies.answers()) {
            _ if !self.outbound.is_empty() => false,
            Some(owed) => self.replies.is_empty() && self.replies.answers() >= owed,
            None => waited.as_mut().poll(cx).is_ready(),
        };
        if !done {
            return Step::Idle;
        }
        self.stop_requests(UpstreamWrite::Closing);
        Step::Progress
    }

    /// Reads a little that is not passed on yet: a request that waits for its turn counts for the deadline as a
    /// reply does. Whoever sent it may be gone long since, and nothing of it has been executed.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Step {
        if self.input.len() < CLIENT_READ_BYTES_MIN && self.drain.is_none() {
            self.input.reserve(CLIENT_READ_BYTES_MIN);
            match poll_read(&mut self.client, &mut self.input, cx) {
                Poll::Ready(Ok(n)) if n > 0 => return Step::Progress,
                // It is read again when what came before it was passed on.
                Poll::Ready(Ok(_)) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return Step::Close(Ended::Dropped("the client is gone")),
            }
        }
        Step::Idle
    }

    /// Moves what can be decided from input to outbound; whether that was anything.
    pub(super) fn pass_requests(&mut self) -> bool {
        if self.client_read_side == ClientRead::EndOnly {
            self.input.clear();
        }
        let pending = self.requests.is_paused() || self.requests.has_pending();
        if self.pause.is_some() || (self.input.is_empty() && !pending) {
            return false;
        }
        let before = (self.input.len(), self.outbound.len());
        let passed = self
            .requests
            .pass(&mut self.input, &mut self.outbound, CLIENT_OUTBOUND_BYTES_MAX);
        self.session.pressure.passed(self.outbound.len() - before.1);
        self.replies.expect_markers(passed.markers);
        if passed.monitor {
            let own_logins = self.session.upstream.login().is_some();
            self.replies.expect_monitor(own_logins);
        }
        if passed.asked {
            let env = self.env.clone();
            self.pause = Some(Box::pin(async move { env.sleep(PAUSE_ANSWER_MAX).await }));
            return true;
        }
        if let Some(asked) = passed.pause {
            let (env, pause) = (self.env.clone(), asked.min(self.release_deadline));
            self.pause = Some(Box::pin(async move { env.sleep(pause).await }));
            return true;
        }
        match passed.error {
            None => {}
            Some(Offence::LeftToServer) => self.client_read_side = ClientRead::EndOnly,
            Some(Offence::Midway(line)) => {
                self.stop_requests(UpstreamWrite::Closing);
                self.last_line = Some(line);
            }
        }
        before != (self.input.len(), self.outbound.len())
    }
}
