//! The strategic merge patch that brings the API's status to ours, with nothing in it that hasn't changed.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::conditions::{OWN, PASSING};

/// Whether the API already has everything of ours. Asked at every turn of a pod's task, so without a detour by JSON.
pub(super) fn same(theirs: &PodStatus, ours: &PodStatus) -> bool {
    theirs.phase == ours.phase
        && theirs.reason == ours.reason
        && theirs.message == ours.message
        && theirs.host_ip == ours.host_ip
        && theirs.host_ips == ours.host_ips
        && theirs.pod_ip == ours.pod_ip
        && theirs.pod_ips == ours.pod_ips
        && theirs.start_time == ours.start_time
        && theirs.qos_class == ours.qos_class
        && theirs.observed_generation == ours.observed_generation
        && theirs.init_container_statuses == ours.init_container_statuses
        && theirs.container_statuses == ours.container_statuses
        && theirs.ephemeral_container_statuses == ours.ephemeral_container_statuses
        && changed_conditions(theirs, ours).next().is_none()
        && passed_conditions(theirs, ours).next().is_none()
}

/// A status as the API gives it, in the form that ours have: an empty object there is nothing here.
pub(crate) fn normalized(mut status: PodStatus) -> PodStatus {
    let all = status
        .init_container_statuses
        .iter_mut()
        .chain(&mut status.container_statuses)
        .chain(&mut status.ephemeral_container_statuses)
        .flatten();
    for container in all {
        container.last_state = container
            .last_state
            .take()
            .filter(|s| *s != Default::default());
        container.resources = container
            .resources
            .take()
            .filter(|r| *r != Default::default());
        container.allocated_resources = container
            .allocated_resources
            .take()
            .filter(|r| !r.is_empty());
    }
    for list in [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ] {
        *list = list.take().filter(|l| !l.is_empty());
    }
    status
}

/// The body of the PATCH of `status`; the uid guards against a namesake. `None`: nothing to tell.
pub fn status_patch(uid: &str, theirs: Option<&PodStatus>, ours: &PodStatus) -> Option<Value> {
    let fields = fields(theirs, ours);
    (!fields.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": fields}))
}

fn fields(theirs: Option<&PodStatus>, ours: &PodStatus) -> Map<String, Value> {
    let default = PodStatus::default();
    let theirs = theirs.unwrap_or(&default);
    let mut patch = Map::new();
    let mut put = |name: &str, old: Value, new: Value| {
        if old != new {
            patch.insert(name.to_owned(), new);
        }
    };
    put("phase", json!(theirs.phase), json!(ours.phase));
    put("reason", json!(theirs.reason), json!(ours.reason));
    put("message", json!(theirs.message), json!(ours.message));
    put("hostIP", json!(theirs.host_ip), json!(ours.host_ip));
    put(
        "hostIPs",
        json!(theirs.host_ips),
        replaced(&json!(theirs.host_ips), json!(ours.host_ips)),
    );
    put("podIP", json!(theirs.pod_ip), json!(ours.pod_ip));
    put(
        "podIPs",
        json!(theirs.pod_ips),
        replaced(&json!(theirs.pod_ips), json!(ours.pod_ips)),
    );
    put(
        "startTime",
        json!(theirs.start_time),
        json!(ours.start_time),
    );
    put("qosClass", json!(theirs.qos_class), json!(ours.qos_class));
    put(
        "observedGeneration",
        json!(theirs.observed_generation),
        json!(ours.observed_generation),
    );
    put(
        "initContainerStatuses",
        json!(theirs.init_container_statuses),
        json!(ours.init_container_statuses),
    );
    put(
        "containerStatuses",
        json!(theirs.container_statuses),
        json!(ours.container_statuses),
    );
    put(
        "ephemeralContainerStatuses",
        json!(theirs.ephemeral_container_statuses),
        json!(ours.ephemeral_container_statuses),
    );
    let changed = conditions(theirs, ours);
    if !changed.is_empty() {
        patch.insert("conditions".to_owned(), Value::Array(changed));
    }
    patch
}

/// The conditions of ours that the API has otherwise or not at all, each with what it has.
fn changed_conditions<'a>(
    theirs: &'a PodStatus,
    ours: &'a PodStatus,
) -> impl Iterator<Item = (Option<&'a PodCondition>, &'a PodCondition)> {
    let before = |type_: &str| {
        let mut all = theirs.conditions.iter().flatten();
        all.find(|c| c.type_ == type_)
    };
    let own = ours.conditions.iter().flatten();
    own.filter(|c| OWN.contains(&c.type_.as_str()))
        .map(move |c| (before(&c.type_), c))
        .filter(|(before, c)| *before != Some(*c))
}

/// The types of what the API still has and that no longer holds.
fn passed_conditions<'a>(
    theirs: &'a PodStatus,
    ours: &'a PodStatus,
) -> impl Iterator<Item = &'a str> {
    let has = |type_: &str| ours.conditions.iter().flatten().any(|c| c.type_ == type_);
    let theirs = theirs.conditions.iter().flatten();
    theirs
        .map(|c| c.type_.as_str())
        .filter(move |type_| PASSING.contains(type_) && !has(type_))
}

/// Conditions merge by type, so only ours that changed are sent. An absent reason must be sent as null.
fn conditions(theirs: &PodStatus, ours: &PodStatus) -> Vec<Value> {
    let gone = passed_conditions(theirs, ours);
    changed_conditions(theirs, ours)
        .map(|(before, c)| condition(before, c))
        .chain(gone.map(|type_| json!({"$patch": "delete", "type": type_})))
        .collect()
}

fn condition(old: Option<&PodCondition>, new: &PodCondition) -> Value {
    let mut value = json!(new);
    for (name, gone) in [
        (
            "reason",
            old.is_some_and(|o| o.reason.is_some()) && new.reason.is_none(),
        ),
        (
            "message",
            old.is_some_and(|o| o.message.is_some()) && new.message.is_none(),
        ),
    ] {
        if gone && let Some(map) = value.as_object_mut() {
            map.insert(name.to_owned(), Value::Null);
        }
    }
    value
}

/// A list that the strategic patch would merge by its key: replaced as a whole when it had something.
fn replaced(old: &Value, new: Value) -> Value {
    match (old, new) {
        (Value::Array(old), Value::Array(mut new)) if *old != new && !old.is_empty() => {
            new.insert(0, json!({"$patch": "replace"}));
            Value::Array(new)
        }
        (_, new) => new,
    }
}
