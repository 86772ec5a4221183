//! Scalars with a text form of their own: quantities, times, durations, base64. Each function checks a text and
//! answers its canonical form, or upstream's message.

use crate::quantity::Canonical;
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use jiff::Timestamp;

pub(super) fn quantity(text: &str) -> Result<String, String> {
    Canonical::parse(text.trim())
        .map(|q| q.to_string())
        .map_err(|e| e.to_string())
}

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// To whole seconds in UTC.
pub(super) fn time(text: &str) -> Result<String, String> {
    timestamp(text, RFC3339).map(|t| format_time(t.as_second()))
}

/// To six digits in UTC.
pub(super) fn micro_time(text: &str) -> Result<String, String> {
    timestamp(text, RFC3339_MICRO).map(|t| format_micro_time(t.as_second(), t.subsec_nanosecond()))
}

fn timestamp(text: &str, layout: &str) -> Result<Timestamp, String> {
    let refuse = |at: usize, part: &str| {
        let rest = text.get(at..).unwrap_or_default();
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}")
    };
    // RFC 3339 alone: jiff also reads other ISO 8601 forms.
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let parts = [
        (4, 0, "2006"),
        (5, 4, "-"),
        (7, 5, "01"),
        (8, 7, "-"),
        (10, 8, "02"),
        (11, 10, "T"),
        (13, 11, "15"),
        (14, 13, ":"),
        (16, 14, "04"),
        (17, 16, ":"),
        (19, 17, "05"),
    ];
    for (i, want) in shape.iter().enumerate() {
        let ok = text.as_bytes().get(i).is_some_and(|b| match want {
            b'd' => b.is_ascii_digit(),
            other => b == other,
        });
        if !ok {
            let (_, start, part) = parts
                .iter()
                .find(|(end, ..)| i < *end)
                .expect("the parts cover the shape");
            return Err(refuse(*start, part));
        }
    }
    let zone = text[19..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let zone_ok = zone == "Z"
        || (zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':');
    if !zone_ok {
        return Err(refuse(text.len() - zone.len(), "Z07:00"));
    }
    let out_of_range = |what: &str| format!("parsing time {text:?}: {what} out of range");
    for (range, max, what) in [
        (5..7, 12, "month"),
        (8..10, 31, "day"),
        (11..13, 23, "hour"),
        (14..16, 59, "minute"),
        (17..19, 59, "second"),
    ] {
        let number: u32 = text[range].parse().expect("the shape was checked above");
        if number > max || (matches!(what, "month" | "day") && number == 0) {
            return Err(out_of_range(what));
        }
    }
    text.parse().map_err(|_| out_of_range("day"))
}

pub(super) fn format_time(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => String::new(),
    }
}

pub(super) fn format_micro_time(seconds: i64, nanos: i32) -> String {
    match Timestamp::new(seconds, nanos) {
        Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        Err(_) => String::new(),
    }
}

/// Seconds and nanoseconds of a canonical time.
pub(super) fn parse_time(text: &str) -> Option<(i64, i32)> {
    let t: Timestamp = text.parse().ok()?;
    Some((t.as_second(), t.subsec_nanosecond()))
}

/// In nanoseconds. Both letters that look like a µ are known to Go.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go's duration text, as Go writes it.
pub(super) fn duration(text: &str) -> Result<String, String> {
    parse_duration(text)
        .map(format_duration)
        .ok_or_else(|| format!("time: invalid duration {text:?}"))
}

/// Nanoseconds of Go's duration text. In whole numbers: what [`format_duration`] writes is read as the same again.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, unit) = DURATION_UNITS.iter().find(|(u, _)| *u == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: u64 = match whole {
            "" => 0,
            whole => whole.parse().ok()?,
        };
        // Nobody's unit has more digits than an hour has nanoseconds.
        let fraction = &fraction[..fraction.len().min(18)];
        let below = match fraction {
            "" => 0,
            digits => {
                let scale = 10u128.pow(digits.len() as u32);
                digits.parse::<u128>().ok()? * u128::from(*unit) / scale
            }
        };
        nanos = nanos
            .checked_add(whole.checked_mul(*unit)?)?
            .checked_add(u64::try_from(below).ok()?)?;
        rest = tail;
    }
    let nanos = i128::from(nanos);
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

/// Go's text of a duration in nanoseconds.
pub(super) fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |n: u64, unit: u64| {
        let text = format!(
            "{}.{:0width$}",
            n / unit,
            n % unit,
            width = unit.ilog10() as usize
        );
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", fraction(n, 1_000));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", fraction(n, 1_000_000));
    }
    let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
    let seconds = fraction(n % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// Standard base64; line breaks are ignored, as Go does.
pub(super) fn base64(text: &str) -> Result<String, String> {
    decode_base64(text).map(|bytes| STANDARD.encode(bytes))
}

pub(super) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    // Go refuses missing padding but not stray bits after the last byte.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    LENIENT.decode(&clean).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) => at,
            base64::DecodeError::InvalidLastSymbol { offset, .. } => offset,
            _ => clean.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_to_the_nanosecond() {
        for (text, nanos) in [
            ("1.023µs", Some(1023)),
            ("1.023μs", Some(1023)),
            ("0", Some(0)),
            ("-1h1m1.5s", Some(-3_661_500_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("0.1000000000000000000000001s", Some(100_000_000)),
            ("2562047h47m16.854775807s", Some(i64::MAX)),
            ("-2562047h47m16.854775808s", Some(i64::MIN)),
            ("2562047h47m16.854775808s", None),
            ("", None),
            ("-", None),
            (".s", None),
            ("1..5s", None),
            ("1", None),
            ("1d", None),
        ] {
            assert_eq!(parse_duration(text), nanos, "{text}");
            if let Some(nanos) = nanos {
                assert_eq!(
                    parse_duration(&format_duration(nanos)),
                    Some(nanos),
                    "{text}"
                );
            }
        }
    }
}
