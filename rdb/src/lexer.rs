//! The format's primitives: fixed bytes, lengths, strings; each can be cut at any byte.
//!
//! Promises that a call which says "not yet" has taken all input and goes on with the next as if there had
//! been no cut. Holds at most [`HELD_BYTES_MAX`] of one string, and only of those that are asked for whole
//! (key names, packed encodings, aux fields); others are handed on piece by piece. Nothing is allocated by a
//! declared length.

use crate::digest::Sip;
use crate::error::Fault;
use crate::lzf::Lzf;
use crate::number::Decimal;

/// Bytes of a string that is held whole at most. Servers refuse to let a listpack grow beyond 1 GiB, and a
/// key beyond 512 MB by default.
pub(crate) const HELD_BYTES_MAX: u64 = 1 << 30;
/// Room that is kept for the next string, bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What is there to be read.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Input { bytes, at: 0 }
    }

    /// Bytes that were taken.
    pub(crate) fn taken(&self) -> usize {
        self.at
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Takes up to `n` bytes.
    pub(crate) fn up_to(&mut self, n: u64) -> &'a [u8] {
        let rest = self.rest();
        let n = usize::try_from(n).map_or(rest.len(), |n| n.min(rest.len()));
        self.at += n;
        &rest[..n]
    }
}

/// Where a string goes.
pub(crate) trait Sink {
    /// Its length, before its bytes.
    fn begin(&mut self, bytes: u64) -> Result<(), Fault>;
    /// Some of its bytes.
    fn piece(&mut self, bytes: &[u8]);
}

impl Sink for Sip {
    fn begin(&mut self, bytes: u64) -> Result<(), Fault> {
        self.number(bytes);
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) {
        self.raw(bytes);
    }
}

impl Sink for Vec<u8> {
    fn begin(&mut self, bytes: u64) -> Result<(), Fault> {
        if bytes > HELD_BYTES_MAX {
            return Err(Fault::TooLarge {
                bytes,
                bytes_max: HELD_BYTES_MAX,
            });
        }
        self.clear();
        self.shrink_to(KEPT_BYTES_MAX);
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A length, or the way in which a string is encoded instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Plain(u64),
    Encoded(u8),
}

/// Where in a string the input was cut.
#[derive(Default)]
enum Text {
    #[default]
    Head,
    Number(usize),
    PackedLength,
    PlainLength(u64),
    Packed(Box<Lzf>),
    Raw(u64),
}

/// Reads primitives. All of one primitive is read before the next is begun.
#[derive(Default)]
pub(crate) struct Lexer {
    small: [u8; 16],
    filled: usize,
    text: Text,
    held: Vec<u8>,
}

impl Lexer {
    /// `n` bytes, 16 at most, in front of those that mean nothing.
    fn gather(&mut self, n: usize, input: &mut Input<'_>) -> Option<[u8; 16]> {
        let piece = input.up_to((n - self.filled) as u64);
        self.small[self.filled..self.filled + piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
        if self.filled < n {
            return None;
        }
        self.filled = 0;
        Some(self.small)
    }

    /// `N` bytes, 16 at most.
    pub(crate) fn fixed<const N: usize>(&mut self, input: &mut Input<'_>) -> Option<[u8; N]> {
        let all = self.gather(N, input)?;
        all.first_chunk().copied()
    }

    /// One byte.
    pub(crate) fn byte(&mut self, input: &mut Input<'_>) -> Option<u8> {
        self.fixed::<1>(input).map(|[byte]| byte)
    }

    /// A point in time, milliseconds.
    pub(crate) fn millis(&mut self, input: &mut Input<'_>) -> Option<i64> {
        self.fixed(input).map(i64::from_le_bytes)
    }

    fn length_or_encoding(&mut self, input: &mut Input<'_>) -> Result<Option<Length>, Fault> {
        let first = match (self.filled, input.rest().first()) {
            (0, None) => return Ok(None),
            (0, Some(first)) => *first,
            _ => self.small[0],
        };
        let size = match (first >> 6, first) {
            (0 | 3, _) => 1,
            (1, _) => 2,
            (_, 0x80) => 5,
            (_, 0x81) => 9,
            _ => return Err(Fault::Broken("a length has an unknown form")),
        };
        let Some(all) = self.gather(size, input) else {
            return Ok(None);
        };
        let n = match size {
            1 if first >> 6 == 3 => return Ok(Some(Length::Encoded(first & 0x3f))),
            1 => u64::from(first),
            2 => u64::from(first & 0x3f) << 8 | u64::from(all[1]),
            5 => u64::from(u32::from_be_bytes([all[1], all[2], all[3], all[4]])),
            _ => u64::from_be_bytes([all[1], all[2], all[3], all[4], all[5], all[6], all[7], all[8]]),
        };
        Ok(Some(Length::Plain(n)))
    }

    /// A length or a count.
    pub(crate) fn length(&mut self, input: &mut Input<'_>) -> Result<Option<u64>, Fault> {
        match self.length_or_encoding(input)? {
            Some(Length::Plain(n)) => Ok(Some(n)),
            Some(Length::Encoded(_)) => Err(Fault::Broken("a string's encoding stands for a length")),
            None => Ok(None),
        }
    }

    /// A string, piece by piece. `true` when it has ended.
    pub(crate) fn string(&mut self, input: &mut Input<'_>, sink: &mut impl Sink) -> Result<bool, Fault> {
        loop {
            match &mut self.text {
                Text::Head => {
                    let Some(length) = self.length_or_encoding(input)? else {
                        return Ok(false);
                    };
                    self.text = match length {
                        Length::Plain(bytes) => {
                            sink.begin(bytes)?;
                            Text::Raw(bytes)
                        }
                        Length::Encoded(size @ 0..=2) => Text::Number(1 << size),
                        Length::Encoded(3) => Text::PackedLength,
                        Length::Encoded(_) => return Err(Fault::Broken("a string has an unknown encoding")),
                    };
                }
                Text::Raw(left) => {
                    let piece = input.up_to(*left);
                    sink.piece(piece);
                    *left -= piece.len() as u64;
                    if *left > 0 {
                        return Ok(false);
                    }
                    break;
                }
                Text::Number(size) => {
                    let size = *size;
                    let Some(all) = self.gather(size, input) else {
                        return Ok(false);
                    };
                    let n = match size {
                        1 => i64::from(i8::from_le_bytes([all[0]])),
                        2 => i64::from(i16::from_le_bytes([all[0], all[1]])),
                        _ => i64::from(i32::from_le_bytes([all[0], all[1], all[2], all[3]])),
                    };
                    let text = Decimal::new(n);
                    sink.begin(text.as_bytes().len() as u64)?;
                    sink.piece(text.as_bytes());
                    break;
                }
                Text::PackedLength => {
                    let Some(packed) = self.length(input)? else {
                        return Ok(false);
                    };
                    self.text = Text::PlainLength(packed);
                }
                Text::PlainLength(packed) => {
                    let packed = *packed;
                    let Some(plain) = self.length(input)? else {
                        return Ok(false);
                    };
                    sink.begin(plain)?;
                    self.text = Text::Packed(Box::new(Lzf::new(packed, plain)));
                }
                Text::Packed(lzf) => {
                    let piece = input.up_to(lzf.packed_left());
                    lzf.unpack(piece, sink)?;
                    if lzf.packed_left() > 0 {
                        return Ok(false);
                    }
                    lzf.end()?;
                    break;
                }
            }
        }
        self.text = Text::Head;
        Ok(true)
    }

    /// A string whole, when all of it is there.
    pub(crate) fn whole<'s, 'a: 's>(&'s mut self, input: &mut Input<'a>) -> Result<Option<&'s [u8]>, Fault> {
        if let Some(bytes) = self.uncut(input) {
            return Ok(Some(bytes));
        }
        let mut held = std::mem::take(&mut self.held);
        let ended = self.string(input, &mut held);
        self.held = held;
        Ok(if ended? { Some(&self.held) } else { None })
    }

    /// A short plain string that is there as a whole: most are.
    fn uncut<'a>(&self, input: &mut Input<'a>) -> Option<&'a [u8]> {
        if self.filled > 0 || !matches!(self.text, Text::Head) {
            return None;
        }
        let (skip, bytes) = match *input.rest() {
            [first, ..] if first < 0x40 => (1, usize::from(first)),
            [first, second, ..] if first < 0x80 => (2, usize::from(first & 0x3f) << 8 | usize::from(second)),
            _ => return None,
        };
        let found = input.rest().get(skip..skip + bytes)?;
        input.at += skip + bytes;
        Some(found)
    }
}
