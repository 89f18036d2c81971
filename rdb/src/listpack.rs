//! Listpacks, the packed encoding of Redis 7.0 and later; and what an element of any packed encoding is.
//!
//! | bytes | |
//! |---|---|
//! | 4 | length of all, little endian |
//! | 2 | elements, 65,535 when they are that many or more |
//! | … | elements: encoding, data, length of both backwards |
//! | 1 | 0xff |
//!
//! Everything that is said twice is compared: lengths forwards and backwards, and counts.

use crate::digest::Sip;
use crate::error::Fault;
use crate::number::{Decimal, score};

/// An element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Bytes(&'a [u8]),
    Number(i64),
}

impl Item<'_> {
    /// Writes the string that it stands for.
    pub(crate) fn write_to(self, sip: &mut Sip) {
        match self {
            Item::Bytes(bytes) => sip.str(bytes),
            Item::Number(n) => sip.str(Decimal::new(n).as_bytes()),
        }
    }

    /// The number that it stands for, where only numbers stand.
    pub(crate) fn number(self) -> Option<i64> {
        match self {
            Item::Number(n) => Some(n),
            Item::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        }
    }

    /// The score that it stands for.
    #[expect(clippy::cast_precision_loss, reason = "as servers do")]
    pub(crate) fn score(self) -> Option<f64> {
        match self {
            Item::Number(n) => Some(n as f64),
            Item::Bytes(bytes) => score(bytes),
        }
    }
}

/// Takes `N` bytes off the front.
pub(crate) fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(front)
}

/// Takes `n` bytes off the front.
pub(crate) fn take_slice<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(front)
}

/// 24 bits with a sign, little endian.
pub(crate) fn int24([a, b, c]: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
}

/// The elements of a listpack.
pub(crate) struct Listpack<'a> {
    rest: &'a [u8],
    /// Elements that are still to come, if it says how many.
    left: Option<u16>,
    ended: bool,
}

impl<'a> Listpack<'a> {
    /// A listpack of `bytes`.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut rest = bytes;
        let head = take::<4>(&mut rest).zip(take::<2>(&mut rest));
        let (total, count) = head.ok_or(Fault::Broken("a listpack is too short"))?;
        if u32::from_le_bytes(*total) as usize != bytes.len() {
            return Err(Fault::Broken("a listpack's length is not its own"));
        }
        let count = u16::from_le_bytes(*count);
        let left = (count < u16::MAX).then_some(count);
        Ok(Listpack {
            rest,
            left,
            ended: false,
        })
    }

    fn step(&mut self) -> Result<Option<Item<'a>>, Fault> {
        const CUT: Fault = Fault::Broken("a listpack's element does not end in it");
        if self.ended {
            return Ok(None);
        }
        if let [0xff] = self.rest {
            self.ended = true;
            return match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err(Fault::Broken("a listpack has fewer elements than it says")),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(1)
                .ok_or(Fault::Broken("a listpack has more elements than it says"))?;
        }
        let begin = self.rest.len();
        let item = element(&mut self.rest)?.ok_or(CUT)?;
        if !back_length(begin - self.rest.len(), &mut self.rest) {
            return Err(Fault::Broken("a listpack's element has another length backwards"));
        }
        Ok(Some(item))
    }
}

/// An element without its length backwards; `None` when it is cut off.
fn element<'a>(rest: &mut &'a [u8]) -> Result<Option<Item<'a>>, Fault> {
    let Some(&[first]) = take::<1>(rest) else {
        return Ok(None);
    };
    let string = |rest: &mut &'a [u8], bytes: usize| take_slice(rest, bytes).map(Item::Bytes);
    Ok(match first {
        0..0x80 => Some(Item::Number(i64::from(first))),
        0x80..0xc0 => string(rest, usize::from(first & 0x3f)),
        0xc0..0xe0 => take::<1>(rest).map(|[low]| {
            let bits = u16::from(first & 0x1f) << 8 | u16::from(*low);
            Item::Number(i64::from((bits << 3).cast_signed() >> 3))
        }),
        0xe0..0xf0 => match take::<1>(rest) {
            Some([low]) => string(rest, usize::from(first & 0x0f) << 8 | usize::from(*low)),
            None => None,
        },
        0xf0 => match take::<4>(rest) {
            Some(bytes) => string(rest, u32::from_le_bytes(*bytes) as usize),
            None => None,
        },
        0xf1 => take(rest).map(|n| Item::Number(i16::from_le_bytes(*n).into())),
        0xf2 => take(rest).map(|n| Item::Number(int24(*n))),
        0xf3 => take(rest).map(|n| Item::Number(i32::from_le_bytes(*n).into())),
        0xf4 => take(rest).map(|n| Item::Number(i64::from_le_bytes(*n))),
        _ => return Err(Fault::Broken("a listpack's element has an unknown encoding")),
    })
}

/// Takes the length of an element of `bytes`, as it is read from behind; whether it is that.
fn back_length(bytes: usize, rest: &mut &[u8]) -> bool {
    let size = match bytes {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    let Some(found) = take_slice(rest, size) else {
        return false;
    };
    found.iter().enumerate().all(|(i, byte)| {
        let septet = (bytes as u64 >> (7 * (size - 1 - i)) & 0x7f) as u8;
        *byte == if i == 0 { septet } else { septet | 0x80 }
    })
}

impl<'a> Iterator for Listpack<'a> {
    type Item = Result<Item<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Listpacks as a server writes them, for tests.
#[cfg(any(test, fuzzing))]
pub(crate) fn write(items: &[Item<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for item in items {
        let begin = body.len();
        match *item {
            Item::Bytes(bytes) => {
                match bytes.len() {
                    n @ 0..64 => body.push(0x80 | n as u8),
                    n @ 64..4096 => body.extend_from_slice(&[0xe0 | (n >> 8) as u8, n as u8]),
                    n => {
                        body.push(0xf0);
                        body.extend_from_slice(&(n as u32).to_le_bytes());
                    }
                }
                body.extend_from_slice(bytes);
            }
            Item::Number(n) => match n {
                0..128 => body.push(n as u8),
                -4096..4096 => body.extend_from_slice(&[0xc0 | ((n >> 8) as u8 & 0x1f), n as u8]),
                -0x8000..0x8000 => body.extend([0xf1].into_iter().chain(n.to_le_bytes()).take(3)),
                -0x80_0000..0x80_0000 => body.extend([0xf2].into_iter().chain(n.to_le_bytes()).take(4)),
                -0x8000_0000..0x8000_0000 => body.extend([0xf3].into_iter().chain(n.to_le_bytes()).take(5)),
                n => body.extend([0xf4].into_iter().chain(n.to_le_bytes())),
            },
        }
        let bytes = body.len() - begin;
        let size = [127, 16_382, 2_097_150, 268_435_454]
            .iter()
            .filter(|max| bytes > **max)
            .count()
            + 1;
        for i in (0..size).rev() {
            let septet = (bytes >> (7 * i) & 0x7f) as u8;
            body.push(if i + 1 == size { septet } else { septet | 0x80 });
        }
    }
    let mut out = ((body.len() + 7) as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&u16::try_from(items.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&body);
    out.push(0xff);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Vec<Item<'_>>, Fault> {
        Listpack::open(bytes)?.collect()
    }

    fn number() -> impl Strategy<Value = i64> {
        (any::<i64>(), 0u32..64).prop_map(|(n, shift)| n >> shift)
    }

    #[test]
    fn a_listpack_of_a_server_is_read() {
        // DUMP of RPUSH l a 1 4095 -4096 100000 on Redis 7.4.
        let bytes = b"\x1a\0\0\0\x05\0\x81a\x02\x01\x01\xcf\xff\x02\xd0\0\x02\xf2\xa0\x86\x01\x04\xff";
        let mut bytes = bytes.to_vec();
        bytes[0] = bytes.len() as u8;
        let want = [
            Item::Bytes(b"a"),
            Item::Number(1),
            Item::Number(4095),
            Item::Number(-4096),
            Item::Number(100_000),
        ];
        assert_eq!(read(&bytes).unwrap(), want);
        assert_eq!(write(&want), bytes);
    }

    #[test]
    fn what_is_said_twice_must_agree() {
        let good = write(&[Item::Bytes(b"abc"), Item::Number(1)]);
        assert!(read(&good).is_ok());
        for (at, what) in [
            (0, "length"),
            (4, "count"),
            (6, "element"),
            (10, "backwards"),
            (good.len() - 1, "end"),
        ] {
            for change in [1, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                assert!(read(&bad).is_err(), "{what}");
            }
        }
    }

    #[test]
    fn lengths_backwards_at_their_limits() {
        for bytes in [
            125, 126, 127, 128, 16_379, 16_380, 16_381, 16_382, 16_383, 2_097_145, 2_097_146, 2_097_147,
        ] {
            let long = vec![b'x'; bytes];
            assert_eq!(read(&write(&[Item::Bytes(&long)])).unwrap(), [Item::Bytes(&long)]);
        }
    }

    #[test]
    fn more_elements_than_can_be_counted() {
        let items = vec![Item::Number(5); 70_000];
        assert_eq!(read(&write(&items)).unwrap().len(), 70_000);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(strings: Vec<Vec<u8>>, numbers in proptest::collection::vec(number(), 0..40)) {
            let items: Vec<_> = strings.iter().map(|s| Item::Bytes(s)).chain(numbers.into_iter().map(Item::Number)).collect();
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
