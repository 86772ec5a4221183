//! Rates of counters, between one question and the next.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

/// A rate over less is noise, over more is history.
const SHORTEST_MS: i64 = 500;
const LONGEST_MS: i64 = 120_000;
/// The point that a rate is measured against is renewed after this time, upstream's housekeeping interval.
const RENEW_MS: i64 = 10_000;

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Timestamp,
    value: u64,
}

/// What each counter was at earlier questions.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<String, (Point, Point)>>);

impl Rates {
    /// How much the counter of that name grows in a second; `None` at the first question, and after it began anew.
    pub fn of(&self, name: &str, value: u64, at: Timestamp) -> Option<u64> {
        let age = |point: &Point| at.as_millisecond() - point.at.as_millisecond();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Counters of what is gone.
        known.retain(|_, (_, newer)| age(newer) < LONGEST_MS);
        let now = Point { at, value };
        let (older, newer) = known.entry(name.to_owned()).or_insert((now, now));
        if age(newer) >= RENEW_MS {
            (*older, *newer) = (*newer, now);
        }
        let base = if age(newer) >= SHORTEST_MS {
            *newer
        } else {
            *older
        };
        let passed = age(&base);
        if passed < SHORTEST_MS {
            return None;
        }
        let Some(grown) = value.checked_sub(base.value) else {
            (*older, *newer) = (now, now);
            return None;
        };
        let rate = u128::from(grown) * 1000 / u128::try_from(passed).ok()?;
        u64::try_from(rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_question_has_a_rate() {
        let rates = Rates::default();
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert_eq!(rates.of("a", 100, at(1000)), None);
        assert_eq!(rates.of("a", 110, at(1100)), None, "too soon");
        assert_eq!(rates.of("a", 300, at(2000)), Some(200));
        assert_eq!(rates.of("b", 300, at(2000)), None);
        assert_eq!(rates.of("a", 2300, at(11_500)), Some(209));
        assert_eq!(rates.of("a", 2400, at(12_500)), Some(100));
        assert_eq!(rates.of("a", 5, at(13_500)), None, "it began anew");
        assert_eq!(rates.of("a", 1005, at(14_500)), Some(1000));
        assert_eq!(rates.of("a", 1005, at(900_000)), None, "long ago");
    }
}
