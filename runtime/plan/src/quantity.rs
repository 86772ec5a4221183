//! Kubernetes quantities, as far as resources need them: exact integers in milli-units.
//!
//! The API has validated them; what can't be read counts as absent.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity times 1000, rounded up, as upstream's `MilliValue`.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = scale(suffix)?;
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let down = 10i128
        .checked_pow(u32::try_from(fraction.len()).ok()?)?
        .checked_mul(denominator)?;
    let up = digits.checked_mul(numerator)?.checked_mul(1000)?;
    let rounded = up.checked_add(down - 1)? / down;
    Some(if negative { -rounded } else { rounded })
}

/// The quantity in whole units, rounded up, as upstream's `Value`.
pub fn value(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from(if milli > 0 {
        (milli + 999) / 1000
    } else {
        milli / 1000
    })
    .ok()
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_upstream_reads_them() {
        for (text, milli_value, whole) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("1e3", 1_000_000, 1000),
            (
                "1E",
                1_000_000_000_000_000_000_000,
                1_000_000_000_000_000_000,
            ),
            ("100u", 1, 1),
            ("-1", -1000, -1),
        ] {
            let quantity = Quantity(text.to_owned());
            assert_eq!(milli(&quantity), Some(milli_value), "{text}");
            assert_eq!(value(&quantity), Some(whole), "{text}");
        }
        for text in ["", "Mi", "x", "1Xi", "."] {
            assert_eq!(milli(&Quantity(text.to_owned())), None, "{text}");
        }
    }
}
