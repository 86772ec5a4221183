//! The two back-offs of a pod: between restarts of a crashing container, and between tries of a failed step.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Doubling from `FIRST` to `MAX`.
pub trait BackOff {
    const FIRST: Duration;
    const MAX: Duration;

    fn next(delay: Option<Duration>) -> Duration {
        match delay {
            None => Self::FIRST,
            Some(delay) => (delay * 2).min(Self::MAX),
        }
    }
}

/// The kubelet's crash loop: the first restart is immediate, the next waits 10 s after the exit, doubling to
/// 5 min; a container that ran 10 min longer than its last restart starts anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashBackOff {
    entry: Option<CrashEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CrashEntry {
    delay: Duration,
    restarted_at: Timestamp,
}

impl BackOff for CrashBackOff {
    const FIRST: Duration = Duration::from_secs(10);
    const MAX: Duration = Duration::from_secs(300);
}

impl CrashBackOff {
    const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

    /// The delay in force and its end, for a container that exited at `exited_at`; `None`: restart now.
    pub fn waits_until(
        &self,
        exited_at: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Timestamp)> {
        let entry = self.entry.as_ref()?;
        if exited_at.duration_since(entry.restarted_at) > Self::RESET_AFTER {
            return None;
        }
        let end = exited_at + entry.delay;
        (now < end).then_some((entry.delay, end))
    }

    /// A restart takes place at `now` of what exited at `exited_at`.
    pub fn restarted(&mut self, exited_at: Timestamp, now: Timestamp) {
        let current = self
            .entry
            .as_ref()
            .filter(|e| exited_at.duration_since(e.restarted_at) <= Self::RESET_AFTER)
            .map(|e| e.delay);
        self.entry = Some(CrashEntry {
            delay: Self::next(current),
            restarted_at: now,
        });
    }

    /// After a restart of the agent the history is gone but for the count: the delay that so many restarts in
    /// a row would have earned, so that a crash loop doesn't start anew with every agent.
    pub fn restored(restarts: u32, last_start: Option<Timestamp>) -> Self {
        let entry = last_start
            .filter(|_| restarts > 0)
            .map(|restarted_at| CrashEntry {
                delay: Self::FIRST
                    .saturating_mul(1 << (restarts - 1).min(6))
                    .min(Self::MAX),
                restarted_at,
            });
        Self { entry }
    }
}

/// Between tries of a step that failed: image steps wait 10 s to 5 min as upstream, others 250 ms to 1 min.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBackOff {
    delay: Duration,
    kind: RetryKind,
    pub attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryKind {
    Image,
    Other,
}

struct ImageRetry;
impl BackOff for ImageRetry {
    const FIRST: Duration = Duration::from_secs(10);
    const MAX: Duration = Duration::from_secs(300);
}

struct OtherRetry;
impl BackOff for OtherRetry {
    const FIRST: Duration = Duration::from_millis(250);
    const MAX: Duration = Duration::from_secs(60);
}

impl RetryBackOff {
    pub fn first(kind: RetryKind) -> Self {
        Self {
            delay: Self::step(kind, None),
            kind,
            attempts: 1,
        }
    }

    pub fn again(&self) -> Self {
        Self {
            delay: Self::step(self.kind, Some(self.delay)),
            kind: self.kind,
            attempts: self.attempts + 1,
        }
    }

    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// The cause may be gone: the next try is due now, and if it fails the waiting starts anew.
    pub fn at_once(&self) -> Self {
        Self {
            delay: Duration::ZERO,
            ..self.clone()
        }
    }

    fn step(kind: RetryKind, delay: Option<Duration>) -> Duration {
        let delay = delay.filter(|d| !d.is_zero());
        match kind {
            RetryKind::Image => ImageRetry::next(delay),
            RetryKind::Other => OtherRetry::next(delay),
        }
    }
}

/// As Go prints a duration of whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(delay: Duration) -> String {
    let secs = delay.as_secs();
    match (secs / 60, secs % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + secs).expect("in range")
    }

    #[test]
    fn a_crash_loop_doubles_from_ten_seconds_to_five_minutes() {
        let mut back_off = CrashBackOff::default();
        let mut now = at(0);
        assert_eq!(
            back_off.waits_until(now, now),
            None,
            "the first restart is immediate"
        );
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            back_off.restarted(now, now);
            let (delay, end) = back_off.waits_until(now, now).expect("waits");
            assert_eq!(delay.as_secs(), expected);
            assert_eq!(back_off.waits_until(now, end), None);
            now = end;
        }
    }

    #[test]
    fn ten_good_minutes_reset_the_back_off() {
        let mut back_off = CrashBackOff::default();
        back_off.restarted(at(0), at(0));
        back_off.restarted(at(10), at(20));
        assert_eq!(
            back_off
                .waits_until(at(620), at(620))
                .map(|w| w.0.as_secs()),
            Some(20)
        );
        assert_eq!(back_off.waits_until(at(621), at(621)), None);
        back_off.restarted(at(621), at(621));
        assert_eq!(
            back_off
                .waits_until(at(622), at(622))
                .map(|w| w.0.as_secs()),
            Some(10)
        );
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (secs, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (160, "2m40s")] {
            assert_eq!(go_seconds(Duration::from_secs(secs)), text);
        }
    }
}
