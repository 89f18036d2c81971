//! One client of a shared connection.
//!
//! Decides what of its bytes may go there: whole plain commands as they were sent, a stand-in for those that are answered
//! by the proxy. Promises that nothing else does: no byte of a command that is not complete, none that a server could read
//! in another way. Must not know the other clients.

use super::allowance::Allowance;
use super::flights::{Piece, Slot};
use super::names::Names;
use super::outbox::Outbox;
use super::plain::{Fit, Plain};
use super::ready::Signal;
use crate::client::Permit;
use crate::client::inspect::{Verdict, inspect, names_set_repl};
use crate::client::peers::Peers;
use crate::hold::ReadKeys;
use crate::hold::keyed::Keyed;
use crate::pause::Writes;
use bytes::{Bytes, BytesMut};
use redoubt_env::net::Conn;
use redoubt_resp::request::{RequestError, RequestEvent, RequestHead, RequestScanner};
use redoubt_types::BootTime;
use redoubt_types::limits::CARRIED_BYTES_MAX;
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
    /// It needs a connection of its own: for this command, whose bytes its scanner still has, or for what it gets.
    Moves(Option<RequestHead>),
}

/// What came of a client's bytes.
#[derive(Debug)]
pub(super) enum Taken {
    /// A command for the server, and what stands in the place of its answer, if anything.
    Command(Bytes, Option<Bytes>),
    /// A command for the server that reads these keys, and shows nothing else.
    Read(Bytes, ReadKeys),
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
    /// How many there may be.
    pub(super) allowance: Allowance,
    /// Whether it was not read because there may be no more of them for now.
    pub(super) is_full: bool,
    /// A command whose body its scanner still has: read ahead, and not judged yet.
    pub(super) next: Option<RequestHead>,
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
    /// The next of what it has sent. What it reads is told if `keyed` knows; what is `held` does not share a connection.
    pub(super) fn take(
        &mut self,
        plain: &Plain,
        peers: &Peers,
        keyed: Option<&Keyed>,
        held: Option<&Writes>,
    ) -> Taken {
        if !matches!(self.then, Then::Stays) {
            return Taken::Stopped;
        }
        let head = match self.next_head() {
            Ok(Some(head)) => head,
            Ok(None) => return Taken::Incomplete,
            Err(error) => {
                self.then = Then::Ends;
                return stand_in(format!("-ERR {error}\r\n"));
            }
        };
        let fit = match held {
            Some(writes) if writes.may_write(&head) => Fit::Needs,
            _ => self.fit(plain, &head),
        };
        if fit == Fit::Needs {
            self.then = Then::Moves(Some(head));
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
                _ if keyed.is_some_and(|keyed| keyed.reads_only_named(&head)) => match ReadKeys::of(&head) {
                    Some(keys) => Taken::Read(bytes, keys),
                    None => Taken::Command(bytes, None),
                },
                _ => Taken::Command(bytes, None),
            },
        }
    }

    /// Looks at what it says next without taking it. One whose next command needs a connection of its own is not kept
    /// waiting by others who have the shared one.
    pub(super) fn look(&mut self, plain: &Plain) {
        if !matches!(self.then, Then::Stays) {
            return;
        }
        // An error is found again when its turn comes.
        if let Ok(Some(head)) = self.next_head() {
            match self.fit(plain, &head) {
                Fit::Needs => self.then = Then::Moves(Some(head)),
                Fit::Plain | Fit::Names | Fit::Quits => self.next = Some(head),
            }
        }
    }

    fn next_head(&mut self) -> Result<Option<RequestHead>, RequestError> {
        if let Some(head) = self.next.take() {
            return Ok(Some(head));
        }
        match self.scanner.next(&mut self.input)? {
            Some(RequestEvent::Head(head)) => Ok(Some(head)),
            // A body follows its head, which is never left without it.
            Some(RequestEvent::Body { .. }) | None => Ok(None),
        }
    }

    /// What the command asks for whose body the scanner has.
    fn fit(&self, plain: &Plain, head: &RequestHead) -> Fit {
        // An inline command could be read in two ways; of a large one only a part is there.
        if self.scanner.holds_whole_multibulk() {
            plain.fit(head)
        } else {
            Fit::Needs
        }
    }

    /// Takes in a piece of an answer.
    pub(super) fn receive(&mut self, piece: Piece<'_>) {
        self.outbox.hold(piece);
        self.unanswered -= usize::from(piece.ends);
        self.allowance.received(piece.bytes.len(), piece.ends);
        if self.allowance.is_exceeded() && matches!(self.then, Then::Stays) {
            // Where the server is read no faster than the client takes it.
            self.then = Then::Moves(None);
        }
    }

    /// Whether one more of its commands may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.allowance.has_room(self.unanswered, self.outbox.len())
    }

    /// Whether it is owed so much that nothing more of it is read before it takes some of that.
    pub(super) fn is_choked(&self) -> bool {
        !self.allowance.has_room(0, self.outbox.len())
    }

    /// Whether it says nothing, and nothing is under way for it.
    pub(super) fn is_idle(&self) -> bool {
        let quiet = self.unanswered == 0 && self.outbox.is_empty();
        quiet && self.input.is_empty() && self.next.is_none() && self.scanner.at_boundary()
    }

    /// Whether nothing stands in the way of what becomes of it.
    pub(super) fn may_go(&self) -> bool {
        self.unanswered == 0
            && match self.then {
                Then::Stays => false,
                Then::Ends => self.outbox.is_empty(),
                // It takes along what it has not taken yet.
                Then::Moves(_) => !self.outbox.has_held() && self.outbox.len() <= CARRIED_BYTES_MAX,
            }
    }
}

fn stand_in(answer: String) -> Taken {
    Taken::Command(Bytes::from_static(STAND_IN), Some(answer.into()))
}

#[cfg(test)]
mod tests;
