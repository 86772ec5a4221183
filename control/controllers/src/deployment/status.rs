//! A deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure in
//! upstream's words.

use crate::{
    common::{since, time},
    deployment::scale::{available, size, strategy, wanted},
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use kube::ResourceExt;
use std::time::Duration;

pub(crate) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(crate) const COMPLETE: &str = "NewReplicaSetAvailable";
pub(crate) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub(crate) fn find<'a>(
    status: &'a DeploymentStatus,
    type_: &str,
) -> Option<&'a DeploymentCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_)
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

pub(crate) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: time(now),
        last_transition_time: time(now),
    }
}

/// Replaces the condition of this type, unless status and reason are as before; the transition
/// time moves only with the status.
pub(crate) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(known) = find(status, &condition.type_) {
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

/// Seconds that a rollout may go without progress; none when it may take for ever.
fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    let bounded = seconds != i32::MAX;
    bounded.then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

pub(crate) fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

/// Pausing and resuming are noted, so that the time in between doesn't count as no progress.
pub(crate) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if !has_deadline(deployment) {
        return;
    }
    let reason = find(status, PROGRESSING).and_then(|c| c.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return;
    }
    let noted = reason == Some(PAUSED);
    let (reason, message) = match (is_paused(deployment), noted) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    let message = message.to_owned();
    set(
        status,
        condition(PROGRESSING, "Unknown", reason, message, now),
    );
}

pub(crate) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|s| s.paused) == Some(true)
}

/// The counts as the sets report them, and whether enough pods are available.
pub(crate) fn calculate<'a>(
    deployment: &Deployment,
    known: &DeploymentStatus,
    old: impl Iterator<Item = &'a ReplicaSet>,
    new: Option<&'a ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let all: Vec<_> = old.chain(new).collect();
    let sum = |of: &dyn Fn(&ReplicaSetStatus) -> i32| -> i32 {
        all.iter()
            .filter_map(|set| set.status.as_ref())
            .map(of)
            .sum()
    };
    let total: i32 = all.iter().map(|set| size(set)).sum();
    let available_now: i32 = all.iter().map(|set| available(set)).sum();
    let updated = new.and_then(|set| set.status.as_ref()).map(|s| s.replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&|s| s.replicas)),
        updated_replicas: Some(updated.unwrap_or(0)),
        ready_replicas: Some(sum(&|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: Some(available_now),
        unavailable_replicas: Some((total - available_now).max(0)),
        terminating_replicas: Some(sum(&|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: known.collision_count,
        conditions: known.conditions.clone(),
    };
    let wanted = wanted(deployment);
    let least = wanted - strategy(deployment).unavailable(wanted);
    let (value, reason, message) = if available_now >= least {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    let message = message.to_owned();
    set(
        &mut status,
        condition(AVAILABLE, value, reason, message, now),
    );
    status
}

/// All wanted pods are of the new template and available, and no others are left.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(wanted(deployment));
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether the counts moved in the rollout's direction.
fn moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Time that is left for the next progress; `None` when it isn't limited or long over.
fn time_left(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let limit = deadline(deployment)?;
    let condition = find(status, PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(COMPLETE | TIMED_OUT)) {
        return None;
    }
    let from = condition.last_update_time.as_ref()?.0;
    Some(limit.saturating_sub(since(from, now)))
}

/// What the rollout has come to: sets Progressing and ReplicaFailure. `before` are the counts of
/// the last status.
pub(crate) fn judge(
    deployment: &Deployment,
    before: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let known = find(status, PROGRESSING).cloned();
    if !has_deadline(deployment) {
        remove(status, PROGRESSING);
    }
    let was_complete = status.replicas == status.updated_replicas
        && known.as_ref().and_then(|c| c.reason.as_deref()) == Some(COMPLETE);
    if has_deadline(deployment) && !was_complete {
        let what = match new {
            Some(set) => format!("ReplicaSet \"{}\"", set.name_any()),
            None => format!("Deployment \"{}\"", deployment.name_any()),
        };
        if is_complete(deployment, status) {
            let message = format!("{what} has successfully progressed.");
            set(
                status,
                condition(PROGRESSING, "True", COMPLETE, message, now),
            );
        } else if moved(before, status) {
            let message = format!("{what} is progressing.");
            let mut next = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            if let Some(known) = known.filter(|known| known.status == "True") {
                next.last_transition_time = known.last_transition_time;
            }
            // Taken out first: the update time must move although nothing else does.
            remove(status, PROGRESSING);
            set(status, next);
        } else if time_left(deployment, status, now) == Some(Duration::ZERO) {
            let message = format!("{what} has timed out progressing.");
            set(
                status,
                condition(PROGRESSING, "False", TIMED_OUT, message, now),
            );
        }
    }
    match failure(sets, new) {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

/// When to look again although nothing changes: when the deadline passes.
pub(crate) fn recheck(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    if is_complete(deployment, status) || is_paused(deployment) {
        return None;
    }
    time_left(deployment, status, now).map(|left| left + Duration::from_secs(1))
}

/// Why pods couldn't be made, from the current set if it failed, else from any other.
fn failure(sets: &[&ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions.iter().find(|c| c.type_ == REPLICA_FAILURE)?;
        Some(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    };
    new.and_then(of)
        .or_else(|| sets.iter().find_map(|set| of(set)))
}
