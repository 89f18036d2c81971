//! Numbers as text.

/// A number's decimal text, as servers keep it for strings that are numbers.
pub(crate) struct Decimal {
    digits: [u8; 20],
    begin: usize,
}

impl Decimal {
    /// The text of `n`.
    pub(crate) fn new(n: i64) -> Decimal {
        let (mut digits, mut begin, mut rest) = ([0; 20], 20, n.unsigned_abs());
        loop {
            begin -= 1;
            digits[begin] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if n < 0 {
            begin -= 1;
            digits[begin] = b'-';
        }
        Decimal { digits, begin }
    }

    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.begin..]
    }
}

/// A sorted set's score from its text, as C's `strtod` has it.
pub(crate) fn score(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().filter(|score: &f64| !score.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decimals_are_those_of_the_standard_library(n: i64) {
            let (decimal, text) = (Decimal::new(n), n.to_string());
            prop_assert_eq!(decimal.as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn the_extremes_have_their_text() {
        for n in [0, i64::MIN, i64::MAX, -1, 10] {
            assert_eq!(Decimal::new(n).as_bytes(), n.to_string().as_bytes());
        }
    }

    #[test]
    fn scores_are_read_as_servers_write_them() {
        assert_eq!(score(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(score(b"inf"), Some(f64::INFINITY));
        assert_eq!(score(b"1e+30"), Some(1e30));
        assert_eq!(score(b"0.10000000000000001"), Some(0.1));
        assert_eq!(score(b"nan"), None);
        assert_eq!(score(b""), None);
    }
}
