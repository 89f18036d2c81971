//! LZF, as servers compress strings of more than 20 bytes (`rdbcompression yes`), unpacked as it streams by.
//!
//! A byte below 32 announces that many literals and one more; any other a copy of what was unpacked up to
//! 8 KiB before: three bits of length (seven: the next byte is added) plus two, and thirteen of distance
//! minus one. Holds that window and what one call unpacks, in portions.

use crate::error::Fault;
use crate::lexer::Sink;

/// Bytes that a copy reaches back at most.
const WINDOW_BYTES: usize = 1 << 13;
/// Unpacked bytes at which they are handed on.
const PORTION_BYTES: usize = 8 * WINDOW_BYTES;

enum State {
    Control,
    Literals(usize),
    Longer(usize),
    Distance { bytes: usize, high: usize },
}

/// A string that is being unpacked.
pub(crate) struct Lzf {
    packed_left: u64,
    plain_left: u64,
    state: State,
    /// The window, and behind `handed` what was unpacked since.
    plain: Vec<u8>,
    handed: usize,
}

impl Lzf {
    /// A string of `plain` bytes in `packed`.
    pub(crate) fn new(packed: u64, plain: u64) -> Lzf {
        Lzf {
            packed_left: packed,
            plain_left: plain,
            state: State::Control,
            plain: Vec::new(),
            handed: 0,
        }
    }

    /// Packed bytes that are still to come.
    pub(crate) fn packed_left(&self) -> u64 {
        self.packed_left
    }

    /// Unpacks the next bytes, at most [`packed_left`](Self::packed_left).
    pub(crate) fn unpack(&mut self, mut packed: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
        self.packed_left -= packed.len() as u64;
        while let Some((&byte, rest)) = packed.split_first() {
            self.state = match self.state {
                State::Control if byte < 32 => State::Literals(usize::from(byte) + 1),
                State::Control => {
                    let (bytes, high) = (usize::from(byte >> 5) + 2, usize::from(byte & 31) << 8);
                    if bytes == 9 {
                        State::Longer(high)
                    } else {
                        State::Distance { bytes, high }
                    }
                }
                State::Longer(high) => State::Distance {
                    bytes: usize::from(byte) + 9,
                    high,
                },
                State::Distance { bytes, high } => {
                    self.copy(bytes, (high | usize::from(byte)) + 1)?;
                    State::Control
                }
                State::Literals(left) => {
                    let (piece, rest) = packed.split_at(left.min(packed.len()));
                    self.claim(piece.len())?;
                    self.plain.extend_from_slice(piece);
                    packed = rest;
                    self.state = match left - piece.len() {
                        0 => State::Control,
                        left => State::Literals(left),
                    };
                    self.hand_on(PORTION_BYTES, sink);
                    continue;
                }
            };
            packed = rest;
            self.hand_on(PORTION_BYTES, sink);
        }
        self.hand_on(0, sink);
        Ok(())
    }

    /// Checks that the string ends here.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.plain_left > 0 || !matches!(self.state, State::Control) {
            return Err(Fault::Broken("a compressed string is shorter than it says"));
        }
        Ok(())
    }

    fn claim(&mut self, bytes: usize) -> Result<(), Fault> {
        let left = self.plain_left.checked_sub(bytes as u64);
        self.plain_left = left.ok_or(Fault::Broken("a compressed string is longer than it says"))?;
        Ok(())
    }

    fn copy(&mut self, bytes: usize, distance: usize) -> Result<(), Fault> {
        self.claim(bytes)?;
        let begin = self.plain.len().checked_sub(distance);
        let begin = begin.ok_or(Fault::Broken("a compressed string refers to before its begin"))?;
        // A copy may reach into itself: then what lies between repeats.
        let mut left = bytes;
        while left > 0 {
            let portion = left.min(self.plain.len() - begin);
            self.plain.extend_from_within(begin..begin + portion);
            left -= portion;
        }
        Ok(())
    }

    /// Hands on what was unpacked, if that is more than `bytes`, and forgets what is out of reach.
    fn hand_on(&mut self, bytes: usize, sink: &mut impl Sink) {
        if self.plain.len() - self.handed > bytes {
            sink.piece(&self.plain[self.handed..]);
            if self.plain.len() > PORTION_BYTES {
                self.plain.drain(..self.plain.len() - WINDOW_BYTES);
            }
            self.handed = self.plain.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unpack(packed: &[u8], plain: u64, cut: usize) -> Result<Vec<u8>, Fault> {
        let (mut lzf, mut out) = (Lzf::new(packed.len() as u64, plain), Vec::new());
        for piece in packed.chunks(cut.max(1)) {
            lzf.unpack(piece, &mut out)?;
        }
        lzf.end().map(|()| out)
    }

    /// The same, written as simply as can be.
    fn simple(packed: &[u8]) -> Option<Vec<u8>> {
        let (mut at, mut out) = (0, Vec::new());
        while at < packed.len() {
            let control = usize::from(packed[at]);
            at += 1;
            if control < 32 {
                out.extend_from_slice(packed.get(at..at + control + 1)?);
                at += control + 1;
                continue;
            }
            let mut bytes = (control >> 5) + 2;
            if bytes == 9 {
                bytes += usize::from(*packed.get(at)?);
                at += 1;
            }
            let distance = ((control & 31) << 8 | usize::from(*packed.get(at)?)) + 1;
            at += 1;
            for _ in 0..bytes {
                out.push(*out.get(out.len().checked_sub(distance)?)?);
            }
        }
        Some(out)
    }

    #[test]
    fn literals_and_copies_that_reach_into_themselves() {
        assert_eq!(
            unpack(b"\x01ab\x80\x01\x00c", 9, 1).unwrap(),
            b"abababab".iter().chain(b"c").copied().collect::<Vec<_>>()
        );
        assert_eq!(unpack(b"\x00x\xe0\x0a\x00", 20, 2).unwrap(), b"x".repeat(20));
        assert!(unpack(b"\x00x\xe0\x0a\x01", 20, 5).is_err(), "before the begin");
        assert!(unpack(b"\x00x", 2, 5).is_err(), "too short");
        assert!(unpack(b"\x01xy", 1, 5).is_err(), "too long");
        assert!(unpack(b"\x05xy", 2, 5).is_err(), "cut");
    }

    #[test]
    fn a_long_string_is_unpacked_in_bounded_memory() {
        let mut packed = b"\x1f0123456789abcdefghijklmnopqrstuv".to_vec();
        for i in 0..10_000u32 {
            packed.extend_from_slice(&[0xe0 | (i % 2) as u8, 0xff, 0x1f]);
        }
        // Distances above what there is are broken; so the first copies are near.
        for i in 0..4 {
            packed[33 + 3 * i] = 0xe0;
        }
        let plain = simple(&packed).unwrap();
        let (mut lzf, mut out) = (Lzf::new(packed.len() as u64, plain.len() as u64), Vec::new());
        lzf.unpack(&packed, &mut out).unwrap();
        assert!(
            lzf.plain.capacity() < 3 * PORTION_BYTES,
            "{}",
            lzf.plain.capacity()
        );
        assert!(out == plain && plain.len() > 2_000_000);
    }

    proptest! {
        #[test]
        fn any_bytes_unpack_as_the_simple_way_does(packed in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200), cut in 1usize..20) {
            let simple = simple(&packed);
            let plain = simple.as_ref().map_or(u64::MAX, |p| p.len() as u64);
            prop_assert_eq!(unpack(&packed, plain, cut).ok(), simple);
        }
    }
}
