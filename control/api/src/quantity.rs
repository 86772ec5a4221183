//! Quantities: `100m`, `1.5Gi`, `2e3`, kept exactly.

use std::cmp::Ordering;

/// A decimal number: `value / 10^9`, as upstream keeps nothing smaller than a nano.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Quantity {
    nanos: i128,
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

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0 };

    /// Parses upstream's syntax. Fractions below a nano are rounded up; what is too large is capped.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let _ = text;
        todo!()
    }

    /// Rounded up to whole units (bytes, pods).
    pub fn value(self) -> i64 {
        clamp(self.nanos.div_euclid(NANO) + i128::from(self.nanos.rem_euclid(NANO) != 0))
    }

    /// Rounded up to thousandths (milli-CPUs).
    pub fn milli_value(self) -> i64 {
        let step = NANO / 1000;
        clamp(self.nanos.div_euclid(step) + i128::from(self.nanos.rem_euclid(step) != 0))
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

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}
