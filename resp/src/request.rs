//! What clients send: where each command ends, and its *head*, which is enough to decide about it.
//!
//! Decides boundaries exactly where Redis sees them (multibulk and inline commands, empty lines, `*0`, `*-1`),
//! and is stricter where Redis is lax (a bulk's trailing CR LF, the LF of a header): whatever could be read in
//! two ways is refused, so that nothing passes the proxy in another shape than the server sees. Promises the
//! same heads and bodies for any cutting of the input. Never holds more than [`REQUEST_HOLD_BYTES_MAX`] and
//! one line; larger commands stream through. Knows no command by name and decides nothing about any.

mod inline;

#[cfg(any(test, fuzzing))]
pub(crate) use inline::split_args as split_line;

use crate::number::{signed, whole_header};
use bytes::{Buf, Bytes, BytesMut};
use redoubt_types::limits::{
    BULK_BYTES_MAX, LINE_BYTES_MAX, REQUEST_HEAD_ARG_BYTES_MAX, REQUEST_HEAD_ARGS_MAX,
    REQUEST_HOLD_BYTES_MAX, RESP_ELEMENTS_MAX,
};

/// Why a client's bytes can't be read on. The texts are Redis' own: answer `-ERR <text>` and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The number of arguments is no plain number or above [`RESP_ELEMENTS_MAX`].
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// An argument's length is no plain number or above [`BULK_BYTES_MAX`], or the argument does not end there.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// An argument does not begin with `$`.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedDollar(u8),
    /// The line with the number of arguments does not end.
    #[error("Protocol error: too big mbulk count string")]
    TooBigCount,
    /// The line with an argument's length does not end.
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    /// An inline command does not end.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// The quotes of an inline command don't match.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// What is known of a command before it is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The name and first arguments, in the case they were sent in: at most [`REQUEST_HEAD_ARGS_MAX`], each
    /// cut to [`REQUEST_HEAD_ARG_BYTES_MAX`]. Of a command larger than [`REQUEST_HOLD_BYTES_MAX`] only those
    /// that lie within its first so many bytes, so there may be fewer than
    /// [`RequestHead::arg_count`] promises: see [`RequestHead::is_partial`].
    pub args: Vec<Bytes>,
    /// How many arguments the command has, its name included; at least 1.
    pub arg_count: usize,
}

impl RequestHead {
    /// Whether arguments that would have been shown lie too far behind in a large command. What has to be
    /// decided by them should be refused.
    pub fn is_partial(&self) -> bool {
        self.args.len() < self.arg_count.min(REQUEST_HEAD_ARGS_MAX)
    }

    /// The command's name, in the case it was sent in. Always shown: it comes first.
    pub fn name(&self) -> &[u8] {
        self.arg(0)
    }

    /// Argument `i` (0 is the name) as far as it is shown; empty if it is not.
    pub fn arg(&self, i: usize) -> &[u8] {
        self.args.get(i).map_or(&[], |arg| arg)
    }

    /// Whether argument `i` (0 is the name) is `word`, in any case.
    pub fn is(&self, i: usize, word: &str) -> bool {
        self.args
            .get(i)
            .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// A command arrives as one `Head` and then one or more `Body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEvent {
    /// A command begins.
    Head(RequestHead),
    /// The next bytes of the command, exactly as received.
    Body {
        /// The bytes; never empty.
        bytes: Bytes,
        /// Whether the command ends with them. A command of up to [`REQUEST_HOLD_BYTES_MAX`] comes in one piece.
        last: bool,
    },
}

/// Where an argument lies, from the command's first byte.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    len: usize,
}

/// A resumable scanner of a client's bytes.
#[derive(Debug, Default)]
pub struct RequestScanner {
    phase: Phase,
    /// A body piece that follows the head just returned.
    pending: Option<(Bytes, bool)>,
    /// Index of the next header in the input; beyond its end while an argument is incomplete.
    next_at: usize,
    /// Whether the two bytes before `next_at` are an argument's CR LF that was not seen yet.
    trailer_due: bool,
    args_left: u64,
    arg_count: usize,
    spans: [Span; REQUEST_HEAD_ARGS_MAX],
    span_count: usize,
    /// Up to where the input was searched for a line's end without finding it.
    searched: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The input begins at a command's first byte.
    #[default]
    Start,
    /// The input begins at the first byte of a multibulk command whose count was read.
    Holding,
    /// The head was returned; the input begins within the command.
    Streaming,
    Failed(RequestError),
}

impl RequestScanner {
    /// A scanner at the beginning of a connection.
    pub fn new() -> Self {
        RequestScanner::default()
    }

    /// Whether the last event ended a command: nothing of the next one was returned yet.
    pub fn at_boundary(&self) -> bool {
        matches!(self.phase, Phase::Start | Phase::Holding) && self.pending.is_none()
    }

    /// Whether the head that was just returned is that of a multibulk command whose bytes are all there: the next event
    /// is its one [`RequestEvent::Body`].
    pub fn holds_whole_multibulk(&self) -> bool {
        matches!(&self.pending, Some((bytes, true)) if bytes.first() == Some(&b'*'))
    }

    /// Takes the next event off the front of `input`; `None` when more bytes are needed. What it leaves in
    /// `input` must be there, unchanged, at the next call, with the connection's next bytes behind it.
    /// Commands without arguments (`*0`, `*-1`, empty lines) get no answer from a server and are swallowed.
    ///
    /// # Errors
    /// When the bytes are no command; every further call says the same. The commands before were returned.
    /// A command whose head was returned may end so in its middle.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<RequestEvent>, RequestError> {
        if let Some((bytes, last)) = self.pending.take() {
            return Ok(Some(RequestEvent::Body { bytes, last }));
        }
        let result = match self.phase {
            Phase::Failed(e) => return Err(e),
            Phase::Start | Phase::Holding => self.next_head(input),
            Phase::Streaming => self.next_piece(input),
        };
        if let Err(e) = result {
            self.phase = Phase::Failed(e);
        }
        result
    }

    fn next_head(&mut self, input: &mut BytesMut) -> Result<Option<RequestEvent>, RequestError> {
        while self.phase == Phase::Start {
            let Some(&first) = input.first() else {
                return Ok(None);
            };
            if first != b'*' {
                match self.inline(input)? {
                    Inline::Incomplete => return Ok(None),
                    Inline::Empty => {}
                    Inline::Head(head) => return Ok(Some(RequestEvent::Head(head))),
                }
            } else if !self.begin_multibulk(input)? {
                return Ok(None);
            }
        }
        // Nothing is decided by bytes beyond the window, so that the outcome is the same for any cutting.
        let window = &input[..input.len().min(REQUEST_HOLD_BYTES_MAX)];
        let complete = self.walk(window)?;
        if !complete && window.len() < REQUEST_HOLD_BYTES_MAX {
            return Ok(None);
        }
        let shown = self.spans[..self.span_count]
            .iter()
            .take_while(|s| s.start + s.len <= window.len())
            .count();
        let piece = self.walked(window.len());
        // Arguments end before their trailer, so whatever is shown lies within the piece.
        let bytes = input.split_to(piece).freeze();
        let args = self.spans[..shown]
            .iter()
            .map(|s| bytes.slice(s.start..s.start + s.len))
            .collect();
        self.took(piece);
        self.phase = if complete { Phase::Start } else { Phase::Streaming };
        self.pending = Some((bytes, complete));
        Ok(Some(RequestEvent::Head(RequestHead {
            args,
            arg_count: self.arg_count,
        })))
    }

    /// The next bytes of a command whose head was returned. Those before an error come before it.
    fn next_piece(&mut self, input: &mut BytesMut) -> Result<Option<RequestEvent>, RequestError> {
        let (last, piece, error) = match self.walk(input) {
            Ok(last) => (last, self.walked(input.len()), None),
            Err(e) => (
                false,
                if self.trailer_due {
                    self.next_at - 2
                } else {
                    self.next_at
                },
                Some(e),
            ),
        };
        if piece == 0 {
            return error.map_or(Ok(None), Err);
        }
        let bytes = input.split_to(piece).freeze();
        self.took(piece);
        if last {
            self.phase = Phase::Start;
        }
        Ok(Some(RequestEvent::Body { bytes, last }))
    }

    /// How many of `len` bytes at the front belong to what was walked over. An argument's CR LF stays until
    /// both are there, to be checked together.
    fn walked(&self, len: usize) -> usize {
        if self.next_at <= len {
            self.next_at
        } else {
            len.min(self.next_at - 2)
        }
    }

    fn took(&mut self, piece: usize) {
        self.next_at -= piece;
        self.searched = 0;
    }

    /// Reads the header of a multibulk command at the front of `input`. False when it is incomplete.
    fn begin_multibulk(&mut self, input: &mut BytesMut) -> Result<bool, RequestError> {
        let (count, used) = match whole_header(b'*', input) {
            Some((count, used)) => (i64::try_from(count).ok(), used),
            None => match self.line_end(input, 0).map_err(|_| RequestError::TooBigCount)? {
                None => return Ok(false),
                Some(cr) => (signed(&input[1..cr]), cr + 2),
            },
        };
        if input[used - 1] != b'\n' {
            return Err(RequestError::InvalidMultibulkLength);
        }
        let count = count.ok_or(RequestError::InvalidMultibulkLength)?;
        self.searched = 0;
        if count <= 0 {
            input.advance(used);
            return Ok(true);
        }
        let count = count.unsigned_abs();
        if count > RESP_ELEMENTS_MAX {
            return Err(RequestError::InvalidMultibulkLength);
        }
        self.phase = Phase::Holding;
        self.next_at = used;
        self.trailer_due = false;
        self.args_left = count;
        self.arg_count = count as usize;
        self.span_count = 0;
        Ok(true)
    }

    /// Walks from header to header as far as `bytes` reach. Returns whether the command is complete.
    fn walk(&mut self, bytes: &[u8]) -> Result<bool, RequestError> {
        while self.next_at <= bytes.len() {
            if self.trailer_due {
                if bytes[self.next_at - 2..self.next_at] != *b"\r\n" {
                    return Err(RequestError::InvalidBulkLength);
                }
                self.trailer_due = false;
            }
            if self.args_left == 0 {
                return Ok(true);
            }
            let Some((len, header)) = self.bulk_header(bytes)? else {
                return Ok(false);
            };
            let start = self.next_at + header;
            if self.phase == Phase::Holding && self.span_count < REQUEST_HEAD_ARGS_MAX {
                self.spans[self.span_count] = Span {
                    start,
                    len: len.min(REQUEST_HEAD_ARG_BYTES_MAX),
                };
                self.span_count += 1;
            }
            self.next_at = start + len + 2;
            self.trailer_due = true;
            self.args_left -= 1;
            self.searched = 0;
        }
        Ok(false)
    }

    /// The header at `next_at`: the argument's length and the header's; `None` when it is incomplete.
    #[inline(always)]
    fn bulk_header(&mut self, bytes: &[u8]) -> Result<Option<(usize, usize)>, RequestError> {
        let (len, header) = match whole_header(b'$', &bytes[self.next_at..]) {
            Some(found) => found,
            None => match self.odd_bulk_header(bytes)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        if len > BULK_BYTES_MAX {
            return Err(RequestError::InvalidBulkLength);
        }
        Ok(Some((len as usize, header)))
    }

    /// A header that is incomplete, or malformed: in what way is Redis' order of checks.
    #[inline(never)]
    fn odd_bulk_header(&mut self, bytes: &[u8]) -> Result<Option<(u64, usize)>, RequestError> {
        let Some(cr) = self
            .line_end(bytes, self.next_at)
            .map_err(|_| RequestError::TooBigBulkCount)?
        else {
            return Ok(None);
        };
        let line = &bytes[self.next_at..cr];
        match line.first() {
            Some(b'$') => {}
            first => return Err(RequestError::ExpectedDollar(first.copied().unwrap_or(b'\r'))),
        }
        let len = signed(&line[1..])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or(RequestError::InvalidBulkLength)?;
        if bytes[cr + 1] != b'\n' {
            return Err(RequestError::InvalidBulkLength);
        }
        Ok(Some((len, cr + 2 - self.next_at)))
    }

    /// Index of the CR of the line that begins at `from`, once a byte follows it. Fails when the line is
    /// longer than [`LINE_BYTES_MAX`]. Goes on where the last search ended, so that a line that trickles in
    /// is not searched from its start again.
    fn line_end(&mut self, bytes: &[u8], from: usize) -> Result<Option<usize>, ()> {
        let limit = from + LINE_BYTES_MAX;
        let until = bytes.len().min(limit);
        let begin = self.searched.clamp(from, until);
        match bytes[begin..until].iter().position(|b| *b == b'\r') {
            Some(at) if begin + at + 1 < bytes.len() => Ok(Some(begin + at)),
            Some(at) => {
                self.searched = begin + at;
                Ok(None)
            }
            None if bytes.len() > limit => Err(()),
            None => {
                self.searched = until;
                Ok(None)
            }
        }
    }

    /// An inline command at the front of `input`.
    fn inline(&mut self, input: &mut BytesMut) -> Result<Inline, RequestError> {
        let until = input.len().min(LINE_BYTES_MAX + 1);
        let begin = self.searched.min(until);
        let Some(lf) = input[begin..until]
            .iter()
            .position(|b| *b == b'\n')
            .map(|at| begin + at)
        else {
            if input.len() > LINE_BYTES_MAX {
                return Err(RequestError::TooBigInline);
            }
            self.searched = until;
            return Ok(Inline::Incomplete);
        };
        self.searched = 0;
        let line = input[..lf].strip_suffix(b"\r").unwrap_or(&input[..lf]);
        let args = inline::split_args(line).ok_or(RequestError::UnbalancedQuotes)?;
        if args.is_empty() {
            input.advance(lf + 1);
            return Ok(Inline::Empty);
        }
        let arg_count = args.len();
        let args = args
            .into_iter()
            .take(REQUEST_HEAD_ARGS_MAX)
            .map(|mut arg| {
                arg.truncate(REQUEST_HEAD_ARG_BYTES_MAX);
                Bytes::from(arg)
            })
            .collect();
        self.pending = Some((input.split_to(lf + 1).freeze(), true));
        Ok(Inline::Head(RequestHead { args, arg_count }))
    }
}

enum Inline {
    Incomplete,
    Empty,
    Head(RequestHead),
}

#[cfg(test)]
mod tests;
