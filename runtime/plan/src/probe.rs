//! Probe results against their thresholds, as the kubelet's prober counts them.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;

use crate::wanted::seconds;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As `Unhealthy` events begin: `Readiness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    Success,
    Failure,
}

/// A probe's numbers, defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTiming {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl ProbeTiming {
    pub fn of(probe: &Probe) -> Self {
        let at_least_one =
            |n: Option<i32>, default: i32| n.filter(|n| *n > 0).unwrap_or(default).unsigned_abs();
        Self {
            initial_delay: seconds(probe.initial_delay_seconds.unwrap_or(0).into()),
            period: Duration::from_secs(at_least_one(probe.period_seconds, 10).into()),
            timeout: Duration::from_secs(at_least_one(probe.timeout_seconds, 1).into()),
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
        }
    }
}

/// What a container's probe has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    /// The verdict: changes only when a threshold is reached.
    pub verdict: Option<ProbeAnswer>,
    last: Option<ProbeAnswer>,
    run: u32,
    pub last_at: Option<Timestamp>,
}

impl ProbeState {
    pub fn passed(verdict: ProbeAnswer) -> Self {
        Self {
            verdict: Some(verdict),
            ..Self::default()
        }
    }

    /// Counts an answer; true when the verdict changed.
    pub fn record(&mut self, answer: ProbeAnswer, timing: &ProbeTiming, now: Timestamp) -> bool {
        self.run = if self.last == Some(answer) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(answer);
        self.last_at = Some(now);
        let threshold = match answer {
            ProbeAnswer::Success => timing.success_threshold,
            ProbeAnswer::Failure => timing.failure_threshold,
        };
        if self.run < threshold || self.verdict == Some(answer) {
            return false;
        }
        self.verdict = Some(answer);
        true
    }

    pub fn is(&self, answer: ProbeAnswer) -> bool {
        self.verdict == Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProbeAnswer::{Failure, Success};

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let timing = ProbeTiming::of(&Probe {
            success_threshold: Some(2),
            ..Probe::default()
        });
        assert_eq!(
            (
                timing.failure_threshold,
                timing.period.as_secs(),
                timing.timeout.as_secs()
            ),
            (3, 10, 1)
        );
        let mut state = ProbeState::default();
        let now = Timestamp::UNIX_EPOCH;
        for (answer, verdict) in [
            (Success, None),
            (Failure, None),
            (Success, None),
            (Success, Some(Success)),
            (Failure, Some(Success)),
            (Failure, Some(Success)),
            (Success, Some(Success)),
            (Failure, Some(Success)),
            (Failure, Some(Success)),
            (Failure, Some(Failure)),
            (Success, Some(Failure)),
        ] {
            state.record(answer, &timing, now);
            assert_eq!(state.verdict, verdict);
        }
    }
}
