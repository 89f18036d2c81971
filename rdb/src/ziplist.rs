//! Ziplists, the packed encoding before Redis 7.0: in old files, and in no newer one.
//!
//! | bytes | |
//! |---|---|
//! | 4 | length of all, little endian |
//! | 4 | where the last element begins |
//! | 2 | elements, 65,535 when they are that many or more |
//! | … | elements: length of the one before, encoding, data |
//! | 1 | 0xff |

use crate::error::Fault;
use crate::listpack::{Item, int24, take, take_slice};

/// The elements of a ziplist.
pub(crate) struct Ziplist<'a> {
    rest: &'a [u8],
    bytes: usize,
    /// Where it says that the last element begins.
    tail: usize,
    /// Where the element before begins.
    before: usize,
    left: Option<u16>,
    ended: bool,
}

/// Bytes before the first element.
const HEAD_BYTES: usize = 10;

impl<'a> Ziplist<'a> {
    /// A ziplist of `bytes`.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = bytes;
        let head = take::<4>(&mut rest)
            .zip(take::<4>(&mut rest))
            .zip(take::<2>(&mut rest));
        let ((total, tail), count) = head.ok_or(Fault::Broken("a ziplist is too short"))?;
        if u32::from_le_bytes(*total) as usize != bytes.len() {
            return Err(Fault::Broken("a ziplist's length is not its own"));
        }
        let count = u16::from_le_bytes(*count);
        Ok(Ziplist {
            rest,
            bytes: bytes.len(),
            tail: u32::from_le_bytes(*tail) as usize,
            before: HEAD_BYTES,
            left: (count < u16::MAX).then_some(count),
            ended: false,
        })
    }

    fn step(&mut self) -> Result<Option<Item<'a>>, Fault> {
        const CUT: Fault = Fault::Broken("a ziplist's element does not end in it");
        if self.ended {
            return Ok(None);
        }
        if let [0xff] = self.rest {
            self.ended = true;
            if self.tail != self.before {
                return Err(Fault::Broken("a ziplist's last element is not where it says"));
            }
            return match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err(Fault::Broken("a ziplist has fewer elements than it says")),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(1)
                .ok_or(Fault::Broken("a ziplist has more elements than it says"))?;
        }
        let begin = self.bytes - self.rest.len();
        let before = match take::<1>(&mut self.rest).ok_or(CUT)? {
            [0xfe] => u32::from_le_bytes(*take(&mut self.rest).ok_or(CUT)?) as usize,
            [0xff] => return Err(Fault::Broken("a ziplist ends before its end")),
            [n] => usize::from(*n),
        };
        if before != begin - self.before {
            return Err(Fault::Broken("a ziplist's element has another length backwards"));
        }
        self.before = begin;
        element(&mut self.rest)?.ok_or(CUT).map(Some)
    }
}

/// An element without what stands in front of its encoding; `None` when it is cut off.
fn element<'a>(rest: &mut &'a [u8]) -> Result<Option<Item<'a>>, Fault> {
    let Some(&[first]) = take::<1>(rest) else {
        return Ok(None);
    };
    let string = |rest: &mut &'a [u8], bytes: usize| take_slice(rest, bytes).map(Item::Bytes);
    Ok(match first {
        0..0x40 => string(rest, usize::from(first)),
        0x40..0x80 => match take::<1>(rest) {
            Some([low]) => string(rest, usize::from(first & 0x3f) << 8 | usize::from(*low)),
            None => None,
        },
        0x80 => match take::<4>(rest) {
            Some(bytes) => string(rest, u32::from_be_bytes(*bytes) as usize),
            None => None,
        },
        0xc0 => take(rest).map(|n| Item::Number(i16::from_le_bytes(*n).into())),
        0xd0 => take(rest).map(|n| Item::Number(i32::from_le_bytes(*n).into())),
        0xe0 => take(rest).map(|n| Item::Number(i64::from_le_bytes(*n))),
        0xf0 => take(rest).map(|n| Item::Number(int24(*n))),
        0xfe => take(rest).map(|n| Item::Number(i8::from_le_bytes(*n).into())),
        0xf1..=0xfd => Some(Item::Number(i64::from(first - 0xf1))),
        _ => return Err(Fault::Broken("a ziplist's element has an unknown encoding")),
    })
}

impl<'a> Iterator for Ziplist<'a> {
    type Item = Result<Item<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Ziplists as a server writes them, for tests.
#[cfg(any(test, fuzzing))]
pub(crate) fn write(items: &[Item<'_>]) -> Vec<u8> {
    let (mut out, mut before, mut tail) = (vec![0; HEAD_BYTES], 0, HEAD_BYTES);
    for item in items {
        tail = out.len();
        if before < 254 {
            out.push(before as u8);
        } else {
            out.push(0xfe);
            out.extend_from_slice(&(before as u32).to_le_bytes());
        }
        match *item {
            Item::Bytes(bytes) => {
                match bytes.len() {
                    n @ 0..64 => out.push(n as u8),
                    n @ 64..16_384 => out.extend_from_slice(&[0x40 | (n >> 8) as u8, n as u8]),
                    n => {
                        out.push(0x80);
                        out.extend_from_slice(&(n as u32).to_be_bytes());
                    }
                }
                out.extend_from_slice(bytes);
            }
            Item::Number(n) => match n {
                0..13 => out.push(0xf1 + n as u8),
                -0x80..0x80 => out.extend([0xfe, n as u8]),
                -0x8000..0x8000 => out.extend([0xc0].into_iter().chain(n.to_le_bytes()).take(3)),
                -0x80_0000..0x80_0000 => out.extend([0xf0].into_iter().chain(n.to_le_bytes()).take(4)),
                -0x8000_0000..0x8000_0000 => out.extend([0xd0].into_iter().chain(n.to_le_bytes()).take(5)),
                n => out.extend([0xe0].into_iter().chain(n.to_le_bytes())),
            },
        }
        before = out.len() - tail;
    }
    out.push(0xff);
    let total = (out.len() as u32).to_le_bytes();
    out[..4].copy_from_slice(&total);
    out[4..8].copy_from_slice(&(tail as u32).to_le_bytes());
    out[8..10].copy_from_slice(&u16::try_from(items.len()).unwrap_or(u16::MAX).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Vec<Item<'_>>, Fault> {
        Ziplist::open(bytes)?.collect()
    }

    #[test]
    fn the_documented_example_is_read() {
        // The one in the comment that heads `ziplist.c`: "2" and "5".
        let bytes = b"\x0f\0\0\0\x0c\0\0\0\x02\0\0\xf3\x02\xf6\xff";
        assert_eq!(read(bytes).unwrap(), [Item::Number(2), Item::Number(5)]);
        assert_eq!(write(&[Item::Number(2), Item::Number(5)]), bytes);
    }

    #[test]
    fn what_is_said_twice_must_agree() {
        let good = write(&[Item::Bytes(b"abc"), Item::Number(1)]);
        assert!(read(&good).is_ok());
        for at in [0, 4, 8, 10, 11, 15, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(read(&bad).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(strings: Vec<Vec<u8>>, numbers: Vec<i64>, shift in 0u32..64) {
            let long = vec![b'x'; 20_000];
            let items: Vec<_> = strings.iter().map(|s| Item::Bytes(s)).chain([Item::Bytes(&long), Item::Bytes(&long[..300])])
                .chain(numbers.into_iter().map(|n| Item::Number(n >> shift))).collect();
            let bytes = write(&items);
            prop_assert_eq!(read(&bytes).unwrap(), items);
        }

        #[test]
        fn any_bytes_end(mut bytes: Vec<u8>, honest: bool) {
            if honest && bytes.len() >= 4 {
                let total = (bytes.len() as u32).to_le_bytes();
                bytes[..4].copy_from_slice(&total);
            }
            let _ = read(&bytes);
        }
    }
}
