//! `apiserver_flowcontrol_*`, under upstream's names.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{config::Flow, level::Rejection, shares::Bounds};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

/// The families; clones are the same ones.
#[derive(Clone, Default)]
pub struct FlowMetrics {
    dispatched: Family<FlowLabels, Counter>,
    executing: Family<FlowLabels, Gauge>,
    seats: Family<FlowLabels, Gauge>,
    inqueue: Family<FlowLabels, Gauge>,
    rejected: Family<RejectedLabels, Counter>,
    nominal: Family<LevelLabels, Gauge>,
    lower: Family<LevelLabels, Gauge>,
    upper: Family<LevelLabels, Gauge>,
    current: Family<LevelLabels, Gauge>,
}

/// One schema's own counters, looked up once.
pub struct FlowCounters {
    dispatched: Counter,
    executing: Gauge,
    seats: Gauge,
    inqueue: Gauge,
    families: FlowMetrics,
}

impl FlowMetrics {
    pub fn register(registry: &mut Registry) -> FlowMetrics {
        let own = FlowMetrics::default();
        let name = |rest: &str| format!("apiserver_flowcontrol_{rest}");
        registry.register(
            name("rejected_requests"),
            "Number of requests rejected by API Priority and Fairness subsystem",
            own.rejected.clone(),
        );
        registry.register(
            name("dispatched_requests"),
            "Number of requests executed by API Priority and Fairness subsystem",
            own.dispatched.clone(),
        );
        for (rest, help, family) in [
            (
                "current_inqueue_requests",
                "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                &own.inqueue,
            ),
            (
                "current_executing_requests",
                "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                &own.executing,
            ),
            (
                "current_executing_seats",
                "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
                &own.seats,
            ),
        ] {
            registry.register(name(rest), help, family.clone());
        }
        for (rest, help, family) in [
            (
                "nominal_limit_seats",
                "Nominal number of execution seats configured for each priority level",
                &own.nominal,
            ),
            (
                "lower_limit_seats",
                "Configured lower bound on number of execution seats available to each priority level",
                &own.lower,
            ),
            (
                "upper_limit_seats",
                "Configured upper bound on number of execution seats available to each priority level",
                &own.upper,
            ),
            (
                "current_limit_seats",
                "current derived number of execution seats available to each priority level",
                &own.current,
            ),
        ] {
            registry.register(name(rest), help, family.clone());
        }
        own
    }

    pub(super) fn counters(&self, schema: &str, level: &str) -> FlowCounters {
        let labels = FlowLabels {
            priority_level: level.to_owned(),
            flow_schema: schema.to_owned(),
        };
        FlowCounters {
            dispatched: self.dispatched.get_or_create(&labels).clone(),
            executing: self.executing.get_or_create(&labels).clone(),
            seats: self.seats.get_or_create(&labels).clone(),
            inqueue: self.inqueue.get_or_create(&labels).clone(),
            families: self.clone(),
        }
    }

    pub(super) fn bounds(&self, level: &str, bounds: Bounds) {
        let labels = LevelLabels {
            priority_level: level.to_owned(),
        };
        for (family, seats) in [
            (&self.nominal, bounds.nominal),
            (&self.lower, bounds.lower),
            (&self.upper, bounds.upper),
        ] {
            family.get_or_create(&labels).set(seats.into());
        }
    }

    pub(super) fn limit(&self, level: &str, seats: u32) {
        let labels = LevelLabels {
            priority_level: level.to_owned(),
        };
        self.current.get_or_create(&labels).set(seats.into());
    }
}

impl Flow {
    pub fn dispatched(&self, seats: u32) {
        self.counters.dispatched.inc();
        self.counters.executing.inc();
        self.counters.seats.inc_by(seats.into());
    }

    pub fn finished(&self, seats: u32) {
        self.counters.executing.dec();
        self.counters.seats.dec_by(seats.into());
    }

    /// So many more wait.
    pub fn queued(&self, change: i64) {
        self.counters.inqueue.inc_by(change);
    }

    pub fn rejected(&self, why: Rejection) {
        let labels = RejectedLabels {
            priority_level: self.level_name.clone(),
            flow_schema: self.name.clone(),
            reason: why.reason(),
        };
        self.counters.families.rejected.get_or_create(&labels).inc();
    }
}
