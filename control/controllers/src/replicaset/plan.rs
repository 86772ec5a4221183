//! What a ReplicaSet or ReplicationController needs next. Pure: its object, the pods that are or could be its own,
//! the time.

use crate::{
    common::{
        Availability, availability, controller_of, is_active, is_controlled_by, is_ready, phase,
        ready_since, since, time,
    },
    replicaset::{BURST, owner::Replicated},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSetCondition, ReplicaSetStatus},
    core::v1::Pod,
};
use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
    sync::Arc,
    time::Duration,
};

/// Steps in the order in which they are taken. The status is that of the pods seen now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub create: usize,
    pub delete: Vec<Arc<Pod>>,
    pub status: ReplicaSetStatus,
    /// When a pod becomes available by time alone.
    pub recheck: Option<Duration>,
}

/// `pods`: those it controls and those without a controller in its namespace. `related`: pods of
/// its owner's other sets, for spreading deletions over nodes.
pub(crate) fn plan<S: Replicated>(
    set: &S,
    pods: &[Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let Some(spec) = set.wanted() else {
        return Plan::default();
    };
    let deleting = set.meta().deletion_timestamp.is_some();
    let mut plan = Plan::default();
    let mut owned = Vec::new();
    for pod in pods {
        let mine = is_controlled_by(&pod.metadata, set.meta());
        let matches = spec.selector.matches(&pod.metadata);
        if mine && !matches && !deleting {
            plan.release.push(pod.clone());
        } else if mine {
            owned.push(pod.clone());
        } else if matches && controller_of(&pod.metadata).is_none() && is_active(pod) && !deleting {
            plan.adopt.push(pod.clone());
            owned.push(pod.clone());
        }
    }
    let active: Vec<_> = owned.iter().filter(|pod| is_active(pod)).cloned().collect();
    let wanted = usize::try_from(spec.replicas).unwrap_or(0);
    if !deleting {
        plan.create = wanted.saturating_sub(active.len()).min(BURST);
        let surplus = active.len().saturating_sub(wanted).min(BURST);
        if surplus > 0 {
            plan.delete = first_to_go(active.clone(), related, surplus, now);
        }
    }
    let availability = |pod: &Arc<Pod>| availability(pod, spec.min_ready_seconds, now);
    plan.recheck = active
        .iter()
        .filter_map(|pod| match availability(pod) {
            Availability::In(left) => Some(left),
            _ => None,
        })
        .min();
    let template = spec.template.and_then(|t| t.metadata.as_ref());
    let template_labels = template.and_then(|meta| meta.labels.as_ref());
    let fully_labelled = |pod: &&Arc<Pod>| {
        template_labels.into_iter().flatten().all(|(key, value)| {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(key)) == Some(value)
        })
    };
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let available = |pod: &&Arc<Pod>| availability(pod) == Availability::Available;
    let leaving = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_some() && !matches!(phase(pod), "Succeeded" | "Failed")
    };
    plan.status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(active.iter().filter(fully_labelled).count())),
        ready_replicas: Some(count(active.iter().filter(|pod| is_ready(pod)).count())),
        available_replicas: Some(count(active.iter().filter(available).count())),
        terminating_replicas: Some(count(owned.iter().filter(leaving).count())),
        observed_generation: set.meta().generation,
        conditions: set
            .status()
            .and_then(|status| S::neutral(status).conditions),
    };
    plan
}

/// Sets or clears the condition that says why pods couldn't be created or deleted.
pub(crate) fn set_failure(
    status: &mut ReplicaSetStatus,
    failure: Option<(&str, String)>,
    now: Timestamp,
) {
    const TYPE: &str = "ReplicaFailure";
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|c| c.type_ == TYPE);
    match (failure, known) {
        (Some(_), Some(_)) => {}
        (Some((reason, message)), None) => conditions.push(ReplicaSetCondition {
            type_: TYPE.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: time(now),
        }),
        (None, Some(at)) => drop(conditions.remove(at)),
        (None, None) => {}
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
}

/// The pods that can best be spared, upstream's order: not assigned, not running, not ready,
/// cheap by annotation, crowded together, ready for a short time, often restarted, young.
fn first_to_go(
    mut pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods;
    }
    let mut per_node: HashMap<String, usize> = HashMap::new();
    for pod in pods.iter().chain(related).filter(|pod| is_active(pod)) {
        if let Some(node) = node_of(pod) {
            *per_node.entry(node.to_owned()).or_default() += 1;
        }
    }
    let crowd = |pod: &Pod| node_of(pod).and_then(|node| per_node.get(node)).copied();
    pods.sort_by(|a, b| compare(a, b, crowd(a), crowd(b), now));
    pods.truncate(count);
    pods
}

fn node_of(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref();
    node.filter(|node| !node.is_empty())
}

fn compare(
    a: &Pod,
    b: &Pod,
    crowd_a: Option<usize>,
    crowd_b: Option<usize>,
    now: Timestamp,
) -> Ordering {
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |pod: &Pod| -> i32 {
        let annotations = pod.metadata.annotations.as_ref();
        annotations
            .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0)
    };
    let restarts = |pod: &Pod| {
        let status = pod.status.as_ref();
        let containers = status.and_then(|s| s.container_statuses.as_ref());
        let counts = containers.into_iter().flatten().map(|c| c.restart_count);
        counts.max().unwrap_or(0)
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    node_of(a)
        .is_some()
        .cmp(&node_of(b).is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| age_class(ready_since(a), now).cmp(&age_class(ready_since(b), now)))
        .then_with(|| Reverse(restarts(a)).cmp(&Reverse(restarts(b))))
        .then_with(|| age_class(created(a), now).cmp(&age_class(created(b), now)))
        // Within a class the choice is arbitrary but stable: always removing the youngest would
        // keep the same few pods alive for ever.
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// Ages on a logarithmic scale: pods of similar age count as equal. Unknown is youngest.
fn age_class(from: Option<Timestamp>, now: Timestamp) -> u32 {
    from.map_or(0, |from| since(from, now).as_secs().max(1).ilog2() + 1)
}
