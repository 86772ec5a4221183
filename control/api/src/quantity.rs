//! Quantities: `100m`, `1.5Gi`, `2e3`, exact to the nano as upstream's.
//!
//! [`Quantity`] is the number, for arithmetic; [`Canonical`] keeps the family of suffixes too, for printing.

use std::{cmp::Ordering, fmt};

/// A decimal number: `nanos / 10^9`, as upstream keeps nothing smaller than a nano.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Quantity {
    nanos: i128,
}

/// A quantity with its suffixes' family; its `Display` is upstream's canonical form (`1000m` is `1`, `0.5` is `500m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canonical {
    pub number: Quantity,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    DecimalExponent,
    BinarySi,
}

/// A text that is no quantity; upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// Upstream caps at 2⁶³-1 units.
const CAP: i128 = i64::MAX as i128 * NANO;
/// Suffixes of powers of 1000 from nano, and of 1024 from Ki.
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0 };

    /// Parses upstream's syntax. Fractions below a nano are rounded up; what is too large is capped.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Canonical::parse(text).map(|q| q.number)
    }

    /// Of a tree's value; absent or malformed counts as zero, as in an object that was validated.
    pub fn of(value: Option<&crate::Value>) -> Self {
        match value {
            Some(crate::Value::String(text)) => Self::parse(text).unwrap_or_default(),
            Some(crate::Value::Number(n)) => Self::parse(&n.to_string()).unwrap_or_default(),
            _ => Self::ZERO,
        }
    }

    /// Rounded up to whole units (bytes, pods).
    pub fn value(self) -> i64 {
        round_up(self.nanos, NANO)
    }

    /// Rounded up to thousandths (milli-CPUs).
    pub fn milli_value(self) -> i64 {
        round_up(self.nanos, NANO / 1000)
    }

    pub fn from_value(value: i64) -> Self {
        Self {
            nanos: i128::from(value) * NANO,
        }
    }

    pub fn from_milli(milli: i64) -> Self {
        Self {
            nanos: i128::from(milli) * (NANO / 1000),
        }
    }

    pub fn sign(self) -> Ordering {
        self.nanos.cmp(&0)
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
        }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
        }
    }
}

/// The suffixes are the left side's, unless that is nothing.
impl std::ops::Add for Canonical {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.number.is_zero() {
            other.format
        } else {
            self.format
        };
        Self {
            number: self.number + other.number,
            format,
        }
    }
}

/// The suffixes are the left side's, unless that is nothing.
impl std::ops::Sub for Canonical {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let format = if self.number.is_zero() {
            other.format
        } else {
            self.format
        };
        Self {
            number: self.number - other.number,
            format,
        }
    }
}

/// With decimal suffixes.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Canonical {
            number: *self,
            format: Format::DecimalSi,
        }
        .fmt(f)
    }
}

fn round_up(nanos: i128, step: i128) -> i64 {
    let value = nanos.div_euclid(step) + i128::from(nanos.rem_euclid(step) != 0);
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl Canonical {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty())
            || fraction.contains('.')
            || !suffix_shape(suffix)
        {
            return Err(ParseError::Format);
        }
        let (format, ten, two) = parse_suffix(suffix)?;
        let magnitude = scale(whole, fraction, ten, two);
        let nanos = if negative { -magnitude } else { magnitude };
        Ok(Self {
            number: Quantity { nanos },
            format,
        })
    }
}

impl Canonical {
    /// Nothing, with decimal suffixes.
    pub const ZERO: Self = Self {
        number: Quantity::ZERO,
        format: Format::DecimalSi,
    };

    /// Of a tree's value; absent or malformed counts as zero, as in an object that was validated.
    pub fn of(value: Option<&crate::Value>) -> Self {
        match value {
            Some(crate::Value::String(text)) => Self::parse(text).unwrap_or(Self::ZERO),
            Some(crate::Value::Number(n)) => Self::parse(&n.to_string()).unwrap_or(Self::ZERO),
            _ => Self::ZERO,
        }
    }

    /// A whole number of units, with decimal suffixes.
    pub fn from_value(value: i64) -> Self {
        Self {
            number: Quantity::from_value(value),
            format: Format::DecimalSi,
        }
    }

    /// Rounded up to whole units, as upstream counts bytes of storage.
    pub fn rounded_to_whole(self) -> Self {
        Self {
            number: Quantity::from_value(self.number.value()),
            ..self
        }
    }

    /// Rounded up to thousandths, as upstream rounds requests and limits.
    pub fn rounded_to_milli(self) -> Self {
        let step = NANO / 1000;
        let nanos = self.number.nanos;
        let rounded = (nanos.div_euclid(step) + i128::from(nanos.rem_euclid(step) != 0)) * step;
        Self {
            number: Quantity { nanos: rounded },
            ..self
        }
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`.
fn suffix_shape(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.chars().all(|c| c.is_ascii_digit())
}

/// Family, power of ten, power of two.
fn parse_suffix(suffix: &str) -> Result<(Format, i32, u32), ParseError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::DecimalSi, *power, 0));
    }
    if let Some((_, power)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::BinarySi, 0, *power));
    }
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .and_then(|digits| digits.parse().ok());
    exponent
        .map(|power| (Format::DecimalExponent, power, 0))
        .ok_or(ParseError::Suffix)
}

/// Digits times a power, in nanos: rounded up, capped.
fn scale(whole: &str, fraction: &str, ten: i32, two: u32) -> i128 {
    let mut digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|b| b - b'0')
        .collect();
    let point = i32::try_from(whole.len())
        .unwrap_or(i32::MAX)
        .saturating_add(ten)
        .saturating_add(9);
    let leading = digits.iter().take_while(|d| **d == 0).count();
    if leading == digits.len() {
        return 0;
    }
    let integral = usize::try_from(point).unwrap_or(0);
    // More than this many digits before the point is beyond the cap whatever they are.
    if integral.saturating_sub(leading) > 38 {
        return CAP;
    }
    let mut sticky =
        point < 0 || digits.len() > integral && digits[integral..].iter().any(|d| *d != 0);
    let tail: Vec<u8> = if digits.len() > integral {
        digits.split_off(integral)
    } else {
        vec![]
    };
    digits.resize(integral, 0);
    let mut value: i128 = 0;
    for digit in digits {
        value = value.saturating_mul(10).saturating_add(digit.into());
    }
    if two > 0 {
        // The fraction counts before it is cut: 1.5Gi, 0.1Ki.
        let mut below: i128 = 0;
        let mut unit: i128 = 1;
        for digit in tail.iter().take(18) {
            below = below * 10 + i128::from(*digit);
            unit *= 10;
        }
        let factor = 1i128 << two;
        sticky = (below * factor.min(1 << 60)) % unit != 0 || tail.iter().skip(18).any(|d| *d != 0);
        value = value
            .saturating_mul(factor)
            .saturating_add(below * factor / unit);
    }
    value.saturating_add(sticky.into()).min(CAP)
}

impl fmt::Display for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.number.nanos;
        if nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && nanos.abs() >= 1024 * NANO && nanos % NANO == 0 {
            let mut value = nanos / NANO;
            let mut suffix = "";
            for (name, _) in BINARY {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = name;
            }
            return write!(f, "{value}{suffix}");
        }
        let (mut mantissa, mut exponent) = (nanos, -9);
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{mantissa}"),
            (Format::DecimalExponent, e) => write!(f, "{mantissa}e{e}"),
            (_, e) => {
                let (suffix, _) = DECIMAL
                    .iter()
                    .find(|(_, p)| *p == e)
                    .expect("the exponent is a step of three");
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_in_upstreams_canonical_form() {
        for (input, expect) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("100000", "100k"),
            ("0", "0"),
            ("0Mi", "0"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("100Ki", "100Ki"),
            ("0.1Ki", "102400m"),
            ("-5m", "-5m"),
            ("+1", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1023", "1023"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("1e-3", "1e-3"),
            ("9223372036854775807", "9223372036854775807"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("123Mi", "123Mi"),
            ("99999999999999999999", "9223372036854775807"),
        ] {
            assert_eq!(
                Canonical::parse(input).unwrap().to_string(),
                expect,
                "{input}"
            );
        }
    }

    #[test]
    fn what_is_no_quantity_is_told_apart_by_shape_and_suffix() {
        for (input, expect) in [
            ("", ParseError::Format),
            ("abc", ParseError::Format),
            ("1 Gi", ParseError::Format),
            ("1.2.3", ParseError::Format),
            ("--1", ParseError::Format),
            ("1Gb", ParseError::Format),
            ("1mm", ParseError::Suffix),
            ("1ki", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1i", ParseError::Suffix),
            ("1e3e", ParseError::Format),
            (".", ParseError::Format),
        ] {
            assert_eq!(Canonical::parse(input), Err(expect), "{input}");
        }
    }

    #[test]
    fn what_is_far_too_large_is_capped_with_a_fraction_too() {
        let digits = "9".repeat(38);
        for text in [format!("{digits}.3Mi"), format!("{digits}.3"), digits] {
            assert_eq!(Quantity::parse(&text).unwrap().value(), i64::MAX, "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let q = |t| Quantity::parse(t).unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -1);
        assert_eq!(q("1u").milli_value(), 1);
        assert_eq!(q("2Gi").value(), 2 << 30);
        assert!(q("1Gi") > q("1G"));
        assert_eq!((q("1") + q("500m") - q("1")).to_string(), "500m");
    }
}
