//! The request path: a client's bytes in, the server's bytes out.
//!
//! Decides what of each command goes to the server: its own bytes unchanged, or a *marker* in its place when
//! it is refused. A marker is a command that no server knows, so the server itself answers with an error, in
//! order, aborts an open MULTI, and keeps silent under CLIENT REPLY OFF; on the way back the error's text is
//! replaced ([`super::replies`]). A WAIT becomes a script that gives its answer, for the same reasons, and a CLIENT PAUSE
//! something that the server would let the same clients do. Promises that no byte of a command leaves before its head was inspected.
//! Must not know a socket.

use super::inspect::{RefusalCode, Verdict, inspect, names_set_repl};
use super::peers::Member;
use super::protocol::{Hello, hello};
use super::shared::Names;
use super::shared::plain::{Fit, Plain};
use super::ties::Ties;
use super::wait::Wait;
use crate::pause::Writes;
use bytes::{BufMut, BytesMut};
use redoubt_env::planted;
use redoubt_resp::request::{RequestError, RequestEvent, RequestHead, RequestScanner};
use redoubt_resp::stream::encode_command;
use redoubt_types::limits::LINE_BYTES_MAX;
use std::sync::Arc;
use std::time::Duration;

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
    /// For how long nothing more may be passed on; [`Duration::MAX`] for as long as the caller will have it.
    pub pause: Option<Duration>,
    /// Whether a pause of clients was asked for: nothing more is to be passed on before its answer is there.
    pub asked: bool,
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
    member: Member,
    /// What every marker's name begins with.
    marker_prefix: Arc<str>,
    route: Route,
    /// Whether a head was taken whose first bytes were not.
    body_due: bool,
    /// Whether a part of the command in progress has been given to the server.
    midway: bool,
    failed: bool,
    /// The command with which the client came here from a shared connection.
    first: Option<RequestHead>,
    /// What the server says of its commands, if the client may go back there.
    plain: Option<Arc<Plain>>,
    ties: Ties,
    /// What the client has said about itself.
    names: Names,
    /// Commands that the server has got, or a part of.
    commands: u64,
    /// How many of them there were with the last one that is whole.
    whole: u64,
    /// How many of them there were with the last one that may wait.
    waits_until: u64,
    /// Whether answers don't tell which commands were answered.
    uncountable: bool,
    /// A WAIT that is answered once its pause is over.
    paused: Option<Wait>,
    /// Whether the client has begun a transaction, and whether something was queued in it that may write.
    multi: Option<bool>,
    /// Commands that may write are not passed on now.
    held: Option<Arc<Writes>>,
    /// Whether the next command is one of those.
    stalled: bool,
}

impl Requests {
    /// The request path of a new connection.
    pub fn new(member: Member, marker_prefix: Arc<str>) -> Self {
        let scanner = RequestScanner::new();
        Requests {
            scanner,
            member,
            marker_prefix,
            route: Route::Forward,
            body_due: false,
            midway: false,
            failed: false,
            first: None,
            plain: None,
            ties: Ties::default(),
            names: Names::default(),
            commands: 0,
            whole: 0,
            waits_until: 0,
            uncountable: false,
            paused: None,
            multi: None,
            held: None,
            stalled: false,
        }
    }

    /// The same, of a client that comes from a shared connection, with the command `first` if its bytes are still in
    /// `scanner`, and may go back there.
    pub(super) fn moved(
        self,
        scanner: RequestScanner,
        first: Option<RequestHead>,
        plain: Arc<Plain>,
        names: Names,
    ) -> Self {
        Requests {
            scanner,
            first,
            names,
            plain: Some(plain),
            ..self
        }
    }

    /// What the client has said about itself, and whether it may speak another version of RESP than when it came.
    pub(super) fn into_names(self) -> (Names, bool) {
        (self.names, self.ties.said_hello())
    }

    /// Whether there is something to pass on although nothing was read yet.
    pub(super) fn has_pending(&self) -> bool {
        self.first.is_some()
    }

    /// From now on commands that may write are not passed on; or again are.
    pub fn hold_writes(&mut self, writes: Option<Arc<Writes>>) {
        self.held = writes;
    }

    /// Whether the next command waits because it may write.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// How many answers the client is owed in all, if it could go back to a shared connection once it has had them.
    pub(super) fn owes_before_leaving(&self) -> Option<u64> {
        let quiet = self.scanner.at_boundary() && !self.body_due && !self.failed && self.first.is_none();
        (self.plain.is_some() && quiet && self.ties.are_loose()).then_some(self.commands)
    }

    /// How many answers the client is owed for whole commands, `None` while that can't be told: when it listens to channels, for
    /// one. `answers` is how many it was given.
    pub(super) fn owes(&self, answers: u64) -> Option<u64> {
        let blocked = self.paused.is_some() || answers < self.waits_until;
        (!self.uncountable && !blocked).then_some(self.whole)
    }

    /// Whether something goes to the server when a pause is over, whatever the client sends.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Takes from `input` what can be decided and puts what the server gets behind what is in `output`. Stops
    /// when `output` has `output_bytes_max`, so that a client that sends faster than its server reads is not
    /// copied without bound. Returns nothing more after an [`Offence`]. After a pause it is to be called again when
    /// that is over, and not before.
    pub fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut, output_bytes_max: usize) -> Passed {
        let mut passed = Passed::default();
        self.stalled = false;
        if let Some(wait) = self.paused.take() {
            wait.encode(output);
        }
        // The first bytes of a command come with its head and wait in the scanner: they are always taken.
        while !self.failed && self.paused.is_none() {
            if !self.body_due && (passed.asked || output.len() >= output_bytes_max) {
                break;
            }
            let event = match self.first.take() {
                Some(first) => Ok(Some(RequestEvent::Head(first))),
                None => self.scanner.next(input),
            };
            match event {
                Ok(Some(RequestEvent::Head(head))) if self.is_held(&head) => {
                    self.first = Some(head);
                    self.stalled = true;
                    break;
                }
                Ok(Some(RequestEvent::Head(head))) => {
                    self.body_due = true;
                    self.follow(&head);
                    self.commands += 1;
                    match answering(&head) {
                        Answering::AtOnce => {}
                        Answering::MayWait => self.waits_until = self.commands,
                        Answering::Otherwise => self.uncountable = true,
                    }
                    if let Some(plain) = &self.plain {
                        let fit = plain.fit(&head);
                        // One that the server does not know leaves nothing either; libraries try SETINFO on every server.
                        let tries =
                            head.is(0, "client") && head.is(1, "setinfo") && !plain.knows("client|setinfo");
                        let remembers = fit == Fit::Names && self.ties.is_executed();
                        if remembers {
                            self.names.remember(&head);
                        }
                        if let Some(Hello::Version(Some(name))) = hello(&head) {
                            self.names.remember_name(name);
                        }
                        let is_plain = fit == Fit::Plain || remembers || tries;
                        let may_be_shared = fit == Fit::Plain && self.scanner.holds_whole_multibulk();
                        self.ties.passed(&head, is_plain, may_be_shared);
                    }
                    self.route = match inspect(&head, self.member.peers()) {
                        Verdict::Forward => Route::Forward,
                        Verdict::ForwardMonitor => {
                            passed.monitor = true;
                            Route::Forward
                        }
                        Verdict::ForwardUnlessSetRepl(code) => Route::ForwardUnlessSetRepl(code),
                        Verdict::Answer(wait) => {
                            passed.pause = wait.pause;
                            match wait.pause {
                                Some(_) => self.paused = Some(wait),
                                None => wait.encode(output),
                            }
                            Route::Drop
                        }
                        Verdict::Pause(asked, _) if self.multi.is_none() => {
                            let marker = format!("{}{}", self.marker_prefix, asked.code());
                            // It is let do what the client asks for, by its users' rights, and answered with its name.
                            encode_command(&[b"CLIENT", b"KILL", b"TYPE", marker.as_bytes()], output);
                            passed.markers += 1;
                            passed.asked = true;
                            Route::Drop
                        }
                        Verdict::Pause(_, code) | Verdict::Refuse(code) => {
                            self.refuse(code, output, &mut passed)
                        }
                    };
                }
                Ok(Some(RequestEvent::Body { bytes, last })) => {
                    self.body_due = false;
                    if last {
                        self.whole = self.commands;
                    }
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

    /// Whether a command is not to be passed on now.
    fn is_held(&self, head: &RequestHead) -> bool {
        let Some(writes) = &self.held else {
            return false;
        };
        writes.may_write(head) || (head.is(0, "exec") && self.multi == Some(true))
    }

    /// Takes note of what is queued in a transaction. What may write is known only while it is held.
    fn follow(&mut self, head: &RequestHead) {
        let is = |word: &str| head.is(0, word);
        if is("multi") && head.arg_count == 1 {
            self.multi.get_or_insert(false);
        } else if is("exec") || is("discard") || is("reset") {
            self.multi = None;
        } else if let Some(may_write) = &mut self.multi {
            *may_write |= self.held.as_ref().is_none_or(|writes| writes.may_write(head));
        }
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

/// How a command is answered.
enum Answering {
    /// Once, when the server comes to it.
    AtOnce,
    /// Once, when something has happened.
    MayWait,
    /// Not once.
    Otherwise,
}

fn answering(head: &RequestHead) -> Answering {
    const WAIT: &[&str] = &[
        "blmove",
        "blmpop",
        "blpop",
        "brpop",
        "brpoplpush",
        "bzmpop",
        "bzpopmax",
        "bzpopmin",
        "wait",
        "waitaof",
        "xread",
        "xreadgroup",
    ];
    const OTHERWISE: &[&str] = &[
        "monitor",
        "psubscribe",
        "punsubscribe",
        "ssubscribe",
        "subscribe",
        "sunsubscribe",
        "unsubscribe",
    ];
    let is = |word: &&str| head.is(0, word);
    match () {
        () if WAIT.iter().any(is) => Answering::MayWait,
        () if OTHERWISE.iter().any(is) || (is(&"client") && head.is(1, "reply")) => Answering::Otherwise,
        () => Answering::AtOnce,
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
