//! The arithmetic of rolling updates: how far over and under the wanted count a rollout may go,
//! and how a change of the wanted count is shared among ReplicaSets.

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Recreate,
    Rolling { surge: i32, unavailable: i32 },
}

pub(crate) fn wanted(deployment: &Deployment) -> i32 {
    let spec = deployment.spec.as_ref();
    spec.and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Surge is rounded up and unavailable down; both zero would never move, so one pod may be
/// missing then.
pub(crate) fn strategy(deployment: &Deployment) -> Strategy {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let wanted = wanted(deployment);
    let quarter = IntOrString::String("25%".to_owned());
    let of = |value: Option<&IntOrString>, up| share(value.unwrap_or(&quarter), wanted, up);
    let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    Strategy::Rolling {
        surge,
        unavailable: if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        },
    }
}

/// A number, or a percentage of `whole`.
pub(crate) fn share(value: &IntOrString, whole: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let exact = percent * i64::from(whole);
            let rounded = if round_up {
                (exact + 99).div_euclid(100)
            } else {
                exact.div_euclid(100)
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

impl Strategy {
    pub(crate) fn surge(self) -> i32 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { surge, .. } => surge,
        }
    }

    /// How many of the wanted pods may be missing.
    pub(crate) fn unavailable(self, wanted: i32) -> i32 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { unavailable, .. } => unavailable.min(wanted),
        }
    }
}

pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// Pods that exist or soon will: a set that was told to shrink counts with what it still has, so
/// that a slow deletion can't be overtaken by the next creation.
pub(crate) fn occupied(set: &ReplicaSet) -> i32 {
    let has = set.status.as_ref().map_or(0, |status| status.replicas);
    size(set).max(has)
}

pub(crate) fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    status.and_then(|s| s.available_replicas).unwrap_or(0)
}

/// The set's part of `to_add` pods (negative: to remove) that are shared by size, of which
/// `added` have been given out.
pub(crate) fn proportion(
    set: &ReplicaSet,
    deployment: &Deployment,
    to_add: i32,
    added: i32,
) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let left = to_add - added;
    let fraction = fraction(set, deployment);
    if to_add > 0 {
        fraction.min(left)
    } else {
        fraction.max(left)
    }
}

/// By how much the set changes when it keeps its share of the whole.
fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let size = size(set);
    let wanted = wanted(deployment);
    if wanted == 0 {
        return -size;
    }
    let annotations = set.metadata.annotations.as_ref();
    let before = annotations
        .and_then(|annotations| annotations.get(MAX))
        .and_then(|max| max.parse::<i32>().ok())
        .filter(|max| *max > 0)
        .or_else(|| deployment.status.as_ref().and_then(|s| s.replicas))
        .filter(|before| *before > 0)
        .unwrap_or(1);
    let now = wanted + strategy(deployment).surge();
    let exact = f64::from(size) * f64::from(now) / f64::from(before);
    // A quotient of 32-bit counts; beyond their range the cast saturates.
    (exact.round() as i32).saturating_sub(size)
}
