//! Wall-clock times for people: UTC, to the millisecond.

use redoubt_types::WallTime;

/// `2026-11-24T10:32:10.123Z`.
pub(crate) fn shown(at: WallTime) -> String {
    let (ms, seconds) = (at.ms() % 1000, at.ms() / 1000);
    let (second, minute, hour) = (seconds % 60, seconds / 60 % 60, seconds / 3600 % 24);
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day, `days` after 1970-01-01. Counts in years that begin in March, so that the leap day is the
/// last of its year, and in eras of 400 years, which all have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    // 1970-01-01 is 719,468 days after 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, over and over: 153 in five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_date_does() {
        assert_eq!(shown(WallTime::from_ms(0)), "1970-01-01T00:00:00.000Z");
        // date -u -d @1709164800; @1709251199; @1795516330
        assert_eq!(
            shown(WallTime::from_ms(1_709_164_800_000)),
            "2024-02-29T00:00:00.000Z"
        );
        assert_eq!(
            shown(WallTime::from_ms(1_709_251_199_999)),
            "2024-02-29T23:59:59.999Z"
        );
        assert_eq!(
            shown(WallTime::from_ms(4_107_542_400_001)),
            "2100-03-01T00:00:00.001Z"
        );
    }
}
