//! QoS class and the numbers that a cgroup takes, computed from requests and limits as the kubelet does.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{NodeFacts, quantity};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The cgroup folder's name below `kubepods`; Guaranteed pods stand there directly.
    pub fn folder(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }

    /// Only cpu and memory count, of all containers, init containers included.
    pub fn of(spec: &PodSpec) -> Self {
        let mut any = false;
        let mut guaranteed = true;
        for container in spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
        {
            let resources = container.resources.as_ref();
            for name in ["cpu", "memory"] {
                let request = requested(resources, name)
                    .filter(|q| quantity::milli(q).is_some_and(|m| m > 0));
                let limit =
                    limited(resources, name).filter(|q| quantity::milli(q).is_some_and(|m| m > 0));
                any |= request.is_some() || limit.is_some();
                let equal = match (request, limit) {
                    (Some(request), Some(limit)) => {
                        quantity::milli(request) == quantity::milli(limit)
                    }
                    (None, Some(_)) => true,
                    _ => false,
                };
                guaranteed &= equal;
            }
        }
        match (any, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

/// A cgroup's limits, in the kernel's units. `None`: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// v1 `cpu.shares`; v2's weight follows from it.
    pub cpu_shares: u64,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: u64,
    pub memory_bytes: Option<i64>,
    pub pids: Option<u64>,
}

pub const CPU_PERIOD_US: u64 = 100_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MIN_QUOTA_US: i64 = 1000;

impl CgroupLimits {
    /// `cpu.weight`: the kubelet's linear map of 2..262144 to 1..10000.
    pub fn cpu_weight(&self) -> u64 {
        1 + (self.cpu_shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9999
            / (MAX_SHARES - MIN_SHARES)
    }

    fn new(
        cpu_request: Option<i128>,
        cpu_limit: Option<i128>,
        memory_limit: Option<i64>,
        pids: Option<u64>,
    ) -> Self {
        let shares = cpu_request
            .or(cpu_limit)
            .map_or(MIN_SHARES, |m| clamp_u64(m * 1024 / 1000));
        Self {
            cpu_shares: shares.clamp(MIN_SHARES, MAX_SHARES),
            cpu_quota_us: cpu_limit.filter(|m| *m > 0).map(|m| {
                i64::try_from(m * i128::from(CPU_PERIOD_US) / 1000)
                    .unwrap_or(i64::MAX)
                    .max(MIN_QUOTA_US)
            }),
            cpu_period_us: CPU_PERIOD_US,
            memory_bytes: memory_limit.filter(|m| *m > 0),
            pids,
        }
    }

    /// One container's.
    pub fn of_container(container: &Container) -> Self {
        let resources = container.resources.as_ref();
        Self::new(
            requested(resources, "cpu").and_then(quantity::milli),
            limited(resources, "cpu").and_then(quantity::milli),
            limited(resources, "memory").and_then(quantity::value),
            None,
        )
    }

    /// The pod's: the sum of its containers, and limited only where every container is.
    pub fn of_pod(spec: &PodSpec, pids: Option<u64>) -> Self {
        let cpu = pod_request(spec, "cpu", false);
        let cpu_limit = pod_limit(spec, "cpu");
        let memory_limit =
            pod_limit(spec, "memory").and_then(|m| i64::try_from((m + 999) / 1000).ok());
        Self::new(cpu.filter(|m| *m > 0), cpu_limit, memory_limit, pids)
    }
}

fn clamp_u64(n: i128) -> u64 {
    u64::try_from(n.max(0)).unwrap_or(u64::MAX)
}

pub(crate) fn requested<'a>(
    resources: Option<&'a ResourceRequirements>,
    name: &str,
) -> Option<&'a Quantity> {
    resources?.requests.as_ref()?.get(name)
}

pub(crate) fn limited<'a>(
    resources: Option<&'a ResourceRequirements>,
    name: &str,
) -> Option<&'a Quantity> {
    resources?.limits.as_ref()?.get(name)
}

/// The pod's effective request in milli-units: containers and sidecars together, or an init container with the
/// sidecars before it, whichever is larger; plus overhead.
pub fn pod_request(spec: &PodSpec, name: &str, memory_style: bool) -> Option<i128> {
    let of = |c: &Container| {
        let resources = c.resources.as_ref();
        requested(resources, name)
            .or_else(|| limited(resources, name).filter(|_| memory_style))
            .and_then(quantity::milli)
            .unwrap_or(0)
    };
    Some(fold(spec, of) + overhead(spec, name))
}

fn overhead(spec: &PodSpec, name: &str) -> i128 {
    spec.overhead
        .as_ref()
        .and_then(|o: &BTreeMap<_, _>| o.get(name))
        .and_then(quantity::milli)
        .unwrap_or(0)
}

fn pod_limit(spec: &PodSpec, name: &str) -> Option<i128> {
    let limit = |c: &Container| {
        limited(c.resources.as_ref(), name)
            .and_then(quantity::milli)
            .filter(|m| *m > 0)
    };
    let every = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    if every.clone().any(|c| limit(c).is_none()) || every.count() == 0 {
        return None;
    }
    Some(fold(spec, |c| limit(c).unwrap_or(0)) + overhead(spec, name))
}

fn fold(spec: &PodSpec, of: impl Fn(&Container) -> i128) -> i128 {
    let mut sidecars = 0;
    let mut init_peak = 0;
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += of(container);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + of(container));
        }
    }
    let running: i128 = spec.containers.iter().map(&of).sum();
    (running + sidecars).max(init_peak)
}

/// The kubelet's `oom_score_adj`, never below what this process may set.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node: &NodeFacts) -> i32 {
    const GUARANTEED: i64 = -997;
    const NODE_CRITICAL: i32 = 2_000_001_000;
    let score = if spec.priority.is_some_and(|p| p >= NODE_CRITICAL) {
        GUARANTEED
    } else {
        match QosClass::of(spec) {
            QosClass::Guaranteed => GUARANTEED,
            QosClass::BestEffort => 1000,
            QosClass::Burstable => {
                let request = requested(container.resources.as_ref(), "memory")
                    .or_else(|| limited(container.resources.as_ref(), "memory"))
                    .and_then(quantity::value)
                    .unwrap_or(0);
                let capacity = i64::try_from(node.memory_bytes.max(1)).unwrap_or(i64::MAX);
                let adjusted =
                    i64::try_from(1000 - 1000 * i128::from(request) / i128::from(capacity))
                        .unwrap_or(3);
                // Above every Guaranteed container, below every BestEffort one.
                adjusted.clamp(1000 + GUARANTEED, 999)
            }
        }
    };
    i32::try_from(score)
        .unwrap_or(1000)
        .max(node.oom_score_floor)
}

#[cfg(test)]
mod tests;
