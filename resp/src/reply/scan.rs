//! The boundary scanner of replies.

use super::{FrameEnd, ReplyError};
use crate::number::{Digits, whole_header};
use redoubt_types::limits::{REPLY_BULK_BYTES_MAX, REPLY_DEPTH_MAX, REPLY_ELEMENTS_MAX, RESP_DEPTH_MAX};

/// Where in a frame the scanner stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before a value's type byte.
    #[default]
    Start,
    /// Within a line whose content does not matter; of any length, since nothing of it is kept.
    Line,
    /// Behind the CR of such a line.
    LineLf,
    /// Within the length of a string or aggregate of this type.
    Length(u8, Digits),
    /// Behind the minus of such a length.
    Minus(u8),
    /// Behind the `-1` of a null.
    NullCr,
    /// Behind the CR of a length.
    LengthLf(u8, u64),
    /// Within a string of which this many bytes (at least 1) are missing.
    Body(u64),
    /// Behind a string's last byte.
    BodyCr,
    /// An error was returned.
    Poisoned,
}

/// An aggregate whose elements are not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    left: u64,
    /// Attributes precede a value and are none themselves.
    attribute: bool,
}

/// How many levels there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DepthMax(usize);

impl Default for DepthMax {
    fn default() -> Self {
        DepthMax(REPLY_DEPTH_MAX)
    }
}

/// A resumable scanner of a server's answers. After an error it is poisoned: every further call returns
/// [`ReplyError::Poisoned`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyScanner {
    phase: Phase,
    /// Open aggregates, the outermost first.
    levels: Vec<Level>,
    depth_max: DepthMax,
    /// Attributes of the next top-level frame were seen.
    attributed: bool,
    /// Type of the top-level frame in progress.
    kind: u8,
}

impl ReplyScanner {
    /// A scanner at the beginning of a connection.
    pub fn new() -> Self {
        ReplyScanner::default()
    }

    /// A scanner for what is decoded afterwards, by a decoder that calls itself for each level.
    pub(super) fn shallow() -> Self {
        ReplyScanner {
            depth_max: DepthMax(RESP_DEPTH_MAX),
            ..ReplyScanner::default()
        }
    }

    /// Whether everything scanned so far is whole frames.
    pub fn at_boundary(&self) -> bool {
        self.phase == Phase::Start && self.levels.is_empty() && !self.attributed
    }

    /// Goes over `bytes`, which follow those of the last call, and reports the end of every top-level frame
    /// in order. Takes time linear in `bytes`.
    ///
    /// # Errors
    /// When the bytes can't be a server's answers; the scanner is poisoned then.
    pub fn scan(&mut self, bytes: &[u8], mut on_frame: impl FnMut(FrameEnd)) -> Result<(), ReplyError> {
        let mut pos = 0;
        while let Some(FrameEnd { end, kind }) = self.next_frame(&bytes[pos..])? {
            pos += end;
            on_frame(FrameEnd { end: pos, kind });
        }
        Ok(())
    }

    /// Goes over `bytes` up to the end of the first frame that ends there, and not further; over all of them
    /// if none does.
    ///
    /// # Errors
    /// As [`ReplyScanner::scan`].
    pub fn next_frame(&mut self, bytes: &[u8]) -> Result<Option<FrameEnd>, ReplyError> {
        if self.phase == Phase::Poisoned {
            return Err(ReplyError::Poisoned);
        }
        let mut pos = 0;
        while pos < bytes.len() {
            match self.step(&bytes[pos..]) {
                Ok((used, value_ended)) => {
                    pos += used;
                    if value_ended && self.end_value() {
                        return Ok(Some(FrameEnd {
                            end: pos,
                            kind: self.kind,
                        }));
                    }
                }
                Err(e) => {
                    self.phase = Phase::Poisoned;
                    return Err(e);
                }
            }
        }
        Ok(None)
    }

    /// Ends all scanning: an error was found outside of the scanner.
    pub(super) fn poison(&mut self) {
        self.phase = Phase::Poisoned;
    }

    /// Consumes at least one of `bytes`, which are not empty: how many, and whether a value ended with them.
    #[inline(always)]
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, bool), ReplyError> {
        match self.phase {
            Phase::Start => self.step_start(bytes),
            Phase::Line => Ok(self.step_line(bytes, 0)),
            Phase::Body(left) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.begin_body(left - here as u64);
                Ok((here, false))
            }
            _ => self.step_byte(bytes[0]).map(|ended| (1, ended)),
        }
    }

    #[inline(always)]
    fn step_start(&mut self, bytes: &[u8]) -> Result<(usize, bool), ReplyError> {
        let kind = bytes[0];
        if self.levels.is_empty() && kind != b'|' {
            self.kind = kind;
        }
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Ok(self.step_line(bytes, 1)),
            b'$' | b'!' | b'=' | b'*' | b'~' | b'%' | b'>' | b'|' => {
                let Some((n, used)) = whole_header(kind, bytes) else {
                    self.phase = Phase::Length(kind, Digits::default());
                    return Ok((1, false));
                };
                if matches!(kind, b'$' | b'!' | b'=') {
                    check_bulk(n)?;
                    let end = used + n as usize;
                    if bytes.get(end..end + 2) == Some(b"\r\n") {
                        return Ok((end + 2, true));
                    }
                }
                Ok((used, self.begin(kind, n)?))
            }
            _ => Err(ReplyError::UnknownType(kind)),
        }
    }

    /// The line of which `from` bytes are consumed, as far as it is here.
    fn step_line(&mut self, bytes: &[u8], from: usize) -> (usize, bool) {
        let Some(cr) = bytes[from..].iter().position(|b| *b == b'\r').map(|at| from + at) else {
            self.phase = Phase::Line;
            return (bytes.len(), false);
        };
        if bytes.get(cr + 1) == Some(&b'\n') {
            self.phase = Phase::Start;
            return (cr + 2, true);
        }
        self.phase = Phase::LineLf;
        (cr + 1, false)
    }

    /// The phases that only a cut (or an error, or a null) makes visible. Returns whether a value ended.
    #[inline(never)]
    fn step_byte(&mut self, byte: u8) -> Result<bool, ReplyError> {
        let expect = |want: u8, e| if byte == want { Ok(()) } else { Err(e) };
        match self.phase {
            Phase::Length(kind, digits) => {
                self.phase = match byte {
                    b'\r' => Phase::LengthLf(kind, digits.value().ok_or(ReplyError::BadLength)?),
                    // RESP2's nulls; no other type has any.
                    b'-' if digits == Digits::default() && matches!(kind, b'$' | b'*') => Phase::Minus(kind),
                    _ => Phase::Length(kind, digits.push(byte).ok_or(ReplyError::BadLength)?),
                };
            }
            Phase::Minus(_) => {
                expect(b'1', ReplyError::BadLength)?;
                self.phase = Phase::NullCr;
            }
            Phase::NullCr => {
                expect(b'\r', ReplyError::BadLength)?;
                self.phase = Phase::LineLf;
            }
            Phase::LengthLf(kind, n) => {
                expect(b'\n', ReplyError::BadLength)?;
                return self.begin(kind, n);
            }
            Phase::BodyCr => {
                expect(b'\r', ReplyError::BadTrailer)?;
                self.phase = Phase::LineLf;
            }
            Phase::LineLf => {
                expect(b'\n', ReplyError::BadTrailer)?;
                self.phase = Phase::Start;
                return Ok(true);
            }
            // The other phases never come here.
            Phase::Start | Phase::Line | Phase::Body(_) | Phase::Poisoned => {
                return Err(ReplyError::Poisoned);
            }
        }
        Ok(false)
    }

    /// Behind the header of a string or aggregate. Returns whether the value ended with it.
    fn begin(&mut self, kind: u8, n: u64) -> Result<bool, ReplyError> {
        if matches!(kind, b'$' | b'!' | b'=') {
            check_bulk(n)?;
            self.begin_body(n);
            return Ok(false);
        }
        if n > REPLY_ELEMENTS_MAX {
            return Err(ReplyError::TooManyElements(n));
        }
        self.phase = Phase::Start;
        let attribute = kind == b'|';
        let left = if matches!(kind, b'%' | b'|') { n * 2 } else { n };
        if attribute && self.levels.is_empty() {
            self.attributed = true;
        }
        if left == 0 {
            return Ok(!attribute);
        }
        if self.levels.len() >= self.depth_max.0 {
            return Err(ReplyError::TooDeep);
        }
        self.levels.push(Level { left, attribute });
        Ok(false)
    }

    fn begin_body(&mut self, left: u64) {
        self.phase = if left == 0 {
            Phase::BodyCr
        } else {
            Phase::Body(left)
        };
    }

    /// A value ended: so may the aggregates that it is the last of. Returns whether the top-level frame did.
    #[inline(always)]
    fn end_value(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            level.left -= 1;
            if level.left > 0 {
                return false;
            }
            let attribute = level.attribute;
            self.levels.pop();
            if attribute {
                return false;
            }
        }
        if self.levels.capacity() > RESP_DEPTH_MAX {
            // Room for an odd answer's depth is not kept for ever.
            self.levels = Vec::new();
        }
        self.attributed = false;
        true
    }
}

fn check_bulk(length: u64) -> Result<(), ReplyError> {
    if length > REPLY_BULK_BYTES_MAX {
        Err(ReplyError::BulkTooLong(length))
    } else {
        Ok(())
    }
}
