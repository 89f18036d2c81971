//! Durations on the command line: `500ms`, `1s`, `2m`.

use std::time::Duration;

/// Parses a whole number followed by `ms`, `s` or `m`.
///
/// # Errors
/// A sentence for the user, when `text` is anything else.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let ms_each = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(format!("{text:?} is no duration; write 500ms, 1s or 2m")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no duration; write 500ms, 1s or 2m"))?;
    number
        .checked_mul(ms_each)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is too long"))
}

/// A duration as people read it: `850 ms`, `1.5 s`.
pub(crate) fn shown(d: Duration) -> String {
    if d < Duration::from_secs(1) {
        return format!("{} ms", d.as_millis());
    }
    let tenths = d.as_millis() / 100;
    if tenths.is_multiple_of(10) {
        format!("{} s", tenths / 10)
    } else {
        format!("{}.{} s", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("0ms"), Ok(Duration::ZERO));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "s", "1h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn people_read_seconds() {
        assert_eq!(shown(Duration::from_millis(850)), "850 ms");
        assert_eq!(shown(Duration::from_millis(1000)), "1 s");
        assert_eq!(shown(Duration::from_millis(61_540)), "61.5 s");
    }
}
