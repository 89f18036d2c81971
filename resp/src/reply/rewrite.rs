//! Answers in the place of the server's.
//!
//! A command that the proxy refuses is replaced by an unknown one, named by a marker, on its way to the server;
//! the server's error for it is replaced by the refusal on its way back. So the refusal comes in order, and
//! what an error does to an open MULTI (EXECABORT) is the server's own doing. A type of clients that no server knows, named
//! so to `CLIENT KILL`, is a marker as well: that error comes only to whom the server lets kill clients.

use super::{FrameEnd, ReplyError, ReplyScanner};
use bytes::{Bytes, BytesMut};

/// How Redis from 7.0 on and Valkey begin the error for an unknown command; its name follows as it was sent,
/// cut at 128 bytes, and a closing quote.
const UNKNOWN: &[u8] = b"-ERR unknown command ";
/// How they begin the one for a type of clients that they do not know, which goes on likewise.
const UNKNOWN_TYPE: &[u8] = b"-ERR Unknown client type ";
/// Where the two differ first.
const DIFFER_AT: usize = 5;
/// Bytes of a marker's code at most: markers must stay below the 128 bytes that servers repeat.
const CODE_BYTES_MAX: usize = 64;

/// Copies a server's answers and replaces the errors about markers.
#[derive(Debug)]
pub struct ReplyRewriter {
    scanner: ReplyScanner,
    /// What a refused command's name begins with.
    prefix: Bytes,
    /// A top-level error's beginning, while it may still be one about a marker.
    held: Vec<u8>,
    /// What stands in the place of the error line whose end is awaited.
    replacement: Option<Bytes>,
    /// Whether the CR of that line was the last byte.
    cr_seen: bool,
}

/// What one more byte says about an error line whose beginning is held.
enum Verdict {
    Undecided,
    Marker,
    Other,
}

impl ReplyRewriter {
    /// A rewriter for markers `<prefix><code>`, code being up to 64 letters, digits, `_` and `-`. The prefix
    /// should be random per process: a client that guesses it can have its own errors rewritten, no more.
    ///
    /// # Panics
    /// When `prefix` is empty, longer than 60 bytes, or holds anything but letters, digits, `_`, `-` and `:`.
    pub fn new(prefix: &str) -> Self {
        let plain = prefix.bytes().all(|b| is_code(b) || b == b':');
        assert!(
            plain && (1..=60).contains(&prefix.len()),
            "{prefix:?} can't be a marker's prefix"
        );
        ReplyRewriter {
            scanner: ReplyScanner::new(),
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            held: Vec::new(),
            replacement: None,
            cr_seen: false,
        }
    }

    /// Whether everything so far is whole frames.
    pub fn at_boundary(&self) -> bool {
        !self.is_holding() && self.scanner.at_boundary()
    }

    /// Whether the beginning of a line is held back, or the rest of a replaced one is awaited. Only
    /// [`ReplyRewriter::rewrite`] may be called then.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty() || self.replacement.is_some()
    }

    /// Goes over `bytes` without rewriting any: what to use while no refusal is outstanding. Ends are indices
    /// in `bytes`.
    ///
    /// # Errors
    /// When the bytes can't be a server's answers.
    ///
    /// # Panics
    /// When the rewriter is holding.
    pub fn pass(&mut self, bytes: &[u8], on_frame: impl FnMut(FrameEnd)) -> Result<(), ReplyError> {
        assert!(
            !self.is_holding(),
            "a refusal is outstanding: {:?}",
            self.held.escape_ascii().to_string()
        );
        self.scanner.scan(bytes, on_frame)
    }

    /// Copies `bytes` behind what is in `out`, except that a top-level error line about `<prefix><code>`
    /// becomes `replacement(code)`, a whole line without its CR LF (`-ERR …`); left as it is for `None`.
    /// Ends are indices in `out`. What is held back of a line that is cut follows with its next bytes.
    ///
    /// # Errors
    /// When the bytes can't be a server's answers; what was copied before stands.
    pub fn rewrite(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        mut replacement: impl FnMut(&[u8]) -> Option<Bytes>,
        mut on_frame: impl FnMut(FrameEnd),
    ) -> Result<(), ReplyError> {
        let mut pos = 0;
        while pos < bytes.len() {
            if self.replacement.is_some() {
                pos += self.swallow(&bytes[pos..], out, &mut on_frame)?;
            } else if self.held.is_empty() && bytes[pos] == UNKNOWN[0] && self.scanner.at_boundary() {
                self.held.push(bytes[pos]);
                pos += 1;
            } else if !self.held.is_empty() {
                match self.judge(bytes[pos]) {
                    Verdict::Undecided => {
                        self.held.push(bytes[pos]);
                        pos += 1;
                    }
                    Verdict::Marker => {
                        let code = &self.held[self.beginning().len() + 1 + self.prefix.len()..];
                        match replacement(code) {
                            Some(line) => {
                                self.replacement = Some(line);
                                self.held.clear();
                            }
                            None => self.let_go(out)?,
                        }
                    }
                    Verdict::Other => self.let_go(out)?,
                }
            } else {
                let frame = self.scanner.next_frame(&bytes[pos..])?;
                let end = frame.map_or(bytes.len(), |f| pos + f.end);
                out.extend_from_slice(&bytes[pos..end]);
                if let Some(FrameEnd { kind, .. }) = frame {
                    on_frame(FrameEnd { end: out.len(), kind });
                }
                pos = end;
            }
        }
        Ok(())
    }

    /// The beginning that `held` has, or may have.
    fn beginning(&self) -> &'static [u8] {
        if self.held.get(DIFFER_AT) == Some(&UNKNOWN_TYPE[DIFFER_AT]) {
            UNKNOWN_TYPE
        } else {
            UNKNOWN
        }
    }

    /// Whether `held` followed by `byte` is the beginning of an error about a marker, all of one up to its
    /// closing quote, or neither.
    fn judge(&self, byte: u8) -> Verdict {
        let at = self.held.len();
        let beginning = self.beginning();
        let name_at = beginning.len() + 1;
        let code_at = name_at + self.prefix.len();
        let goes_on = if at == DIFFER_AT {
            byte == UNKNOWN[at] || byte == UNKNOWN_TYPE[at]
        } else if at < beginning.len() {
            byte == beginning[at]
        } else if at == beginning.len() {
            matches!(byte, b'\'' | b'`' | b'"')
        } else if at < code_at {
            byte == self.prefix[at - name_at]
        } else if byte == self.held[beginning.len()] {
            return Verdict::Marker;
        } else {
            is_code(byte) && at < code_at + CODE_BYTES_MAX
        };
        if goes_on {
            Verdict::Undecided
        } else {
            Verdict::Other
        }
    }

    /// The held beginning is an error like any other: it and what follows go through the scanner.
    fn let_go(&mut self, out: &mut BytesMut) -> Result<(), ReplyError> {
        let held = std::mem::take(&mut self.held);
        // It holds no line end, so no frame ends in it.
        self.scanner.next_frame(&held)?;
        out.extend_from_slice(&held);
        Ok(())
    }

    /// Drops the rest of a line that is replaced, and puts its replacement when it has ended.
    fn swallow(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        on_frame: &mut impl FnMut(FrameEnd),
    ) -> Result<usize, ReplyError> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.cr_seen {
                if *byte != b'\n' {
                    self.replacement = None;
                    self.scanner.poison();
                    return Err(ReplyError::BadTrailer);
                }
                self.cr_seen = false;
                if let Some(line) = self.replacement.take() {
                    out.extend_from_slice(&line);
                    out.extend_from_slice(b"\r\n");
                    on_frame(FrameEnd {
                        end: out.len(),
                        kind: b'-',
                    });
                }
                return Ok(at + 1);
            }
            self.cr_seen = *byte == b'\r';
        }
        Ok(bytes.len())
    }
}

fn is_code(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
