//! Header numbers (`*3\r\n`, `$100\r\n`), read as strictly as Redis' `string2ll` reads them: no sign but `-`,
//! no leading zero. What a scanner reads differently from the server behind it is how requests are smuggled.

/// Digits of the longest header number that is ever valid; longer ones are refused unread.
const DIGITS_MAX: u8 = 10;

/// An unsigned number of which a prefix has been read. Holds at most [`DIGITS_MAX`] digits, so it can't
/// overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digits {
    value: u64,
    count: u8,
}

impl Digits {
    /// Takes one more digit; `None` when `byte` can't continue a number.
    pub(crate) fn push(self, byte: u8) -> Option<Self> {
        let digit = byte.wrapping_sub(b'0');
        let leading_zero = self.count > 0 && self.value == 0;
        if digit > 9 || leading_zero || self.count >= DIGITS_MAX {
            return None;
        }
        Some(Digits {
            value: self.value * 10 + u64::from(digit),
            count: self.count + 1,
        })
    }

    /// The number, if there was a digit at all.
    pub(crate) fn value(self) -> Option<u64> {
        (self.count > 0).then_some(self.value)
    }
}

/// Reads `<kind><digits>\r\n` at the start of `bytes`: the number and the header's length. `None` when it is
/// incomplete *or* malformed: the caller then goes byte by byte, so that there is one place that words errors.
#[inline]
pub(crate) fn whole_header(kind: u8, bytes: &[u8]) -> Option<(u64, usize)> {
    if *bytes.first()? != kind {
        return None;
    }
    let mut value = u64::from(bytes.get(1)?.wrapping_sub(b'0'));
    if value > 9 {
        return None;
    }
    let mut at = 2;
    loop {
        let byte = *bytes.get(at)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        if value == 0 || at > usize::from(DIGITS_MAX) {
            return None;
        }
        value = value * 10 + u64::from(digit);
        at += 1;
    }
    if bytes.get(at..at + 2)? != b"\r\n" {
        return None;
    }
    Some((value, at + 2))
}

/// Parses all of `text` as a signed decimal, as strictly as Redis does.
pub(crate) fn signed(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    digits.iter().try_fold(0i64, |n, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        let n = n.checked_mul(10)?;
        if negative {
            n.checked_sub(i64::from(digit))
        } else {
            n.checked_add(i64::from(digit))
        }
    })
}

/// Parses all of `text` as an unsigned decimal.
pub(crate) fn unsigned(text: &[u8]) -> Option<u64> {
    signed(text).and_then(|n| u64::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (text, want) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1x", None),
        ] {
            assert_eq!(signed(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn a_whole_header_is_what_its_bytes_are() {
        for (text, want) in [
            ("*3\r\n", Some((3, 4))),
            ("*0\r\nx", Some((0, 4))),
            ("*9999999999\r\n", Some((9_999_999_999, 13))),
            ("*99999999999\r\n", None),
            ("*00\r\n", None),
            ("*\r\n", None),
            ("*3\r", None),
            ("*3\n", None),
            ("*3\rx", None),
            ("$3\r\n", None),
            ("*-1\r\n", None),
            ("", None),
        ] {
            assert_eq!(whole_header(b'*', text.as_bytes()), want, "{text:?}");
            let mut digits = Some(Digits::default());
            for byte in text.bytes().skip(1).take_while(|b| *b != b'\r') {
                digits = digits.and_then(|d| d.push(byte));
            }
            if let Some((n, _)) = want {
                assert_eq!(digits.and_then(Digits::value), Some(n), "{text:?}");
            }
        }
    }
}
