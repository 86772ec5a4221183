//! Times as text, without a time zone or a library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Year, month, day, hour, minute, second of seconds after 1970, UTC.
fn civil(seconds: u64) -> (u64, u64, u64, u64, u64, u64) {
    // Days to a date in a calendar that begins in March, so that the leap day is a year's last.
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let rest = seconds % 86_400;
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2016-10-06T00:17:09.669794202Z`.
pub(crate) fn rfc3339_nano(time: SystemTime) -> String {
    let d = since_epoch(time);
    let (year, month, day, hour, minute, second) = civil(d.as_secs());
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z",
        d.subsec_nanos()
    )
}

/// `20161006-001709`: the end of a rotated log's name.
pub(crate) fn compact(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second) = civil(since_epoch(time).as_secs());
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        let cases = [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_709_251_199, "20240229-235959"),
            (1_709_251_200, "20240301-000000"),
            (4_107_542_400, "21000301-000000"),
        ];
        for (seconds, text) in cases {
            assert_eq!(compact(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let time = UNIX_EPOCH + Duration::new(1_475_713_029, 669_794_202);
        assert_eq!(rfc3339_nano(time), "2016-10-06T00:17:09.669794202Z");
    }
}
