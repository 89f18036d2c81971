//! One client of a shared connection.
//!
//! Decides what of its bytes may go there: whole plain commands as they were sent, a stand-in for those that are answered
//! by the proxy. Promises that nothing else does: no byte of a command that is not complete, none that a server could read
//! in another way. Must not know the other clients.

use super::flights::Slot;
use super::names::Names;
use super::outbox::Outbox;
use super::plain::{Fit, Plain};
use super::ready::Signal;
use crate::client::Permit;
use crate::client::inspect::{Verdict, inspect, names_set_repl};
use crate::client::peers::Peers;
use crate::pause::Writes;
use bytes::{Bytes, BytesMut};
use redoubt_env::net::Conn;
use redoubt_resp::request::{RequestEvent, RequestHead, RequestScanner};
use redoubt_types::BootTime;
use std::sync::Arc;

/// What goes to the server in the place of a command that the proxy answers: it has one answer, whose place is taken,
/// and MONITOR does not show it.
const STAND_IN: &[u8] = b"*2\r\n$4\r\nPING\r\n$7\r\nredoubt\r\n";

/// What becomes of a client when it has had all its answers.
#[derive(Debug)]
pub(super) enum Then {
    /// It goes on.
    Stays,
    /// It has said that it ends, or must.
    Ends,
    /// This command, whose bytes its scanner still has, needs a connection of its own.
    Moves(RequestHead),
}

/// What came of a client's bytes.
#[derive(Debug)]
pub(super) enum Taken {
    /// A command for the server, and what stands in the place of its answer, if anything.
    Command(Bytes, Option<Bytes>),
    /// More bytes are needed.
    Incomplete,
    /// No more is taken of it: see [`Guest::then`].
    Stopped,
}

/// A client.
pub(super) struct Guest {
    /// Its place.
    pub(super) slot: Slot,
    /// Its connection.
    pub(super) conn: Box<dyn Conn>,
    /// Where it connected from.
    pub(super) peer: String,
    /// Its waker.
    pub(super) signal: Arc<Signal>,
    /// What it has sent that was not taken.
    pub(super) input: BytesMut,
    /// What it is to get.
    pub(super) outbox: Outbox,
    /// Commands without an answer.
    pub(super) unanswered: usize,
    /// What becomes of it.
    pub(super) then: Then,
    /// Whether it is listed as one that has to wait with what it sends.
    pub(super) deferred: bool,
    /// Since when what it has sent waits for the server, or for its turn.
    pub(super) waits_since: Option<BootTime>,
    /// What it has said about itself.
    pub(super) names: Names,
    /// Its count among all clients.
    pub(super) permit: Permit,
    /// Reads its commands.
    pub(super) scanner: RequestScanner,
}

impl Guest {
    /// The next of what it has sent. What is `held` does not share a connection.
    pub(super) fn take(&mut self, plain: &Plain, peers: &Peers, held: Option<&Writes>) -> Taken {
        if !matches!(self.then, Then::Stays) {
            return Taken::Stopped;
        }
        let head = match self.scanner.next(&mut self.input) {
            Ok(Some(RequestEvent::Head(head))) => head,
            // A body follows its head, which is never left without it.
            Ok(Some(RequestEvent::Body { .. })) | Ok(None) => return Taken::Incomplete,
            Err(error) => {
                self.then = Then::Ends;
                return stand_in(format!("-ERR {error}\r\n"));
            }
        };
        let fit = plain.fit(&head);
        let is_held = held.is_some_and(|writes| writes.may_write(&head));
        // An inline command could be read in two ways; of a large one only a part is there.
        if fit == Fit::Needs || is_held || !self.scanner.holds_whole_multibulk() {
            self.then = Then::Moves(head);
            return Taken::Stopped;
        }
        let bytes = match self.scanner.next(&mut self.input) {
            Ok(Some(RequestEvent::Body { bytes, .. })) => bytes,
            _ => return Taken::Incomplete,
        };
        match fit {
            Fit::Names => {
                self.names.remember(&head);
                stand_in("+OK\r\n".to_owned())
            }
            Fit::Quits => {
                self.then = Then::Ends;
                stand_in("+OK\r\n".to_owned())
            }
            Fit::Plain | Fit::Needs => match inspect(&head, peers) {
                Verdict::Refuse(code) => stand_in(format!("-{}\r\n", code.text())),
                Verdict::ForwardUnlessSetRepl(code) if names_set_repl(&bytes) => {
                    stand_in(format!("-{}\r\n", code.text()))
                }
                _ => Taken::Command(bytes, None),
            },
        }
    }

    /// Whether it has had all its answers.
    pub(super) fn is_quiet(&self) -> bool {
        self.unanswered == 0 && self.outbox.is_empty()
    }
}

fn stand_in(answer: String) -> Taken {
    Taken::Command(Bytes::from_static(STAND_IN), Some(answer.into()))
}

#[cfg(test)]
mod tests;
