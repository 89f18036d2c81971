//! The request path: a client's bytes in, the server's bytes out.
//!
//! Decides what of each command goes to the server: its own bytes unchanged, or a *marker* in its place when
//! it is refused. A marker is a command that no server knows, so the server itself answers with an error, in
//! order, aborts an open MULTI, and keeps silent under CLIENT REPLY OFF; on the way back the error's text is
//! replaced ([`super::replies`]). Promises that no byte of a command leaves before its head was inspected.
//! Must not know a socket.

use super::inspect::{OwnConnection, RefusalCode, Verdict, inspect, names_set_repl};
use bytes::{BufMut, BytesMut};
use redoubt_env::planted;
use redoubt_resp::request::{RequestError, RequestEvent, RequestScanner};
use redoubt_resp::stream::encode_command;
use redoubt_types::limits::LINE_BYTES_MAX;
use std::sync::Arc;

/// What happens to the bytes of the command in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Forward,
    Drop,
    /// Depends on its bytes: dropped if they name `set_repl`.
    ForwardUnlessSetRepl(RefusalCode),
}

/// What one call to [`Requests::pass`] came upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Markers that were sent in the place of refused commands.
    pub markers: usize,
    /// Whether MONITOR was sent.
    pub monitor: bool,
    /// What the client did wrong, once.
    pub error: Option<Offence>,
}

/// A protocol error of a client. Nothing more of what it sends is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offence {
    /// The server was given bytes that make it answer with that very error and close the connection.
    LeftToServer,
    /// It happened within a command of which the server has a part. The server must get no more, so that the
    /// part is never executed; the client gets this line.
    Midway(String),
}

/// The state of one client's request path.
#[derive(Debug)]
pub struct Requests {
    scanner: RequestScanner,
    own: OwnConnection,
    /// What every marker's name begins with.
    marker_prefix: Arc<str>,
    route: Route,
    /// Whether a head was taken whose first bytes were not.
    body_due: bool,
    /// Whether a part of the command in progress has been given to the server.
    midway: bool,
    failed: bool,
}

impl Requests {
    /// The request path of a new connection.
    pub fn new(own: OwnConnection, marker_prefix: Arc<str>) -> Self {
        let scanner = RequestScanner::new();
        Requests {
            scanner,
            own,
            marker_prefix,
            route: Route::Forward,
            body_due: false,
            midway: false,
            failed: false,
        }
    }

    /// Takes from `input` what can be decided and puts what the server gets behind what is in `output`. Stops
    /// when `output` has `output_bytes_max`, so that a client that sends faster than its server reads is not
    /// copied without bound. Returns nothing more after an [`Offence`].
    pub fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut, output_bytes_max: usize) -> Passed {
        let mut passed = Passed::default();
        // The first bytes of a command come with its head and wait in the scanner: they are always taken.
        while !self.failed && (self.body_due || output.len() < output_bytes_max) {
            match self.scanner.next(input) {
                Ok(Some(RequestEvent::Head(head))) => {
                    self.body_due = true;
                    self.route = match inspect(&head, &self.own) {
                        Verdict::Forward => Route::Forward,
                        Verdict::ForwardMonitor => {
                            passed.monitor = true;
                            Route::Forward
                        }
                        Verdict::ForwardUnlessSetRepl(code) => Route::ForwardUnlessSetRepl(code),
                        Verdict::Refuse(code) => self.refuse(code, output, &mut passed),
                    };
                }
                Ok(Some(RequestEvent::Body { bytes, last })) => {
                    self.body_due = false;
                    if let Route::ForwardUnlessSetRepl(code) = self.route {
                        let refused = names_set_repl(&bytes);
                        self.route = if refused {
                            self.refuse(code, output, &mut passed)
                        } else {
                            Route::Forward
                        };
                    }
                    if self.route == Route::Forward {
                        output.extend_from_slice(&bytes);
                        self.midway = !last;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.failed = true;
                    passed.error = Some(self.offend(error, output));
                }
            }
        }
        passed
    }

    fn refuse(&self, code: RefusalCode, output: &mut BytesMut, passed: &mut Passed) -> Route {
        if planted::on("refused_without_a_reply") {
            return Route::Drop;
        }
        let name = format!("{}{:02}", self.marker_prefix, code.get());
        encode_command(&[name.as_bytes()], output);
        passed.markers += 1;
        Route::Drop
    }

    fn offend(&self, error: RequestError, output: &mut BytesMut) -> Offence {
        if self.midway {
            return Offence::Midway(format!("-ERR {error}"));
        }
        provoke(error, output);
        Offence::LeftToServer
    }
}

/// Puts the shortest bytes that make a server answer with `error`, at the beginning of a command. The client's
/// own would do, if the server were as strict as our scanner is.
fn provoke(error: RequestError, output: &mut BytesMut) {
    let endless = |begin: &[u8], output: &mut BytesMut| {
        output.put_slice(begin);
        output.put_bytes(b'1', LINE_BYTES_MAX + 1);
    };
    match error {
        RequestError::InvalidMultibulkLength => output.put_slice(b"*x\r\n"),
        RequestError::InvalidBulkLength => output.put_slice(b"*1\r\n$x\r\n"),
        RequestError::ExpectedDollar(got) => {
            output.put_slice(b"*1\r\n");
            // A server looks for the line's end with a search that a NUL stops.
            output.put_u8(if got == 0 { b'.' } else { got });
            output.put_slice(b"\r\n");
        }
        RequestError::TooBigCount => endless(b"*", output),
        RequestError::TooBigBulkCount => endless(b"*1\r\n$", output),
        RequestError::TooBigInline => endless(b"", output),
        RequestError::UnbalancedQuotes => output.put_slice(b"\"\r\n"),
    }
}

#[cfg(test)]
mod tests;
