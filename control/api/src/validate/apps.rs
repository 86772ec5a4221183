//! Deployments and ReplicaSets.

use super::{
    meta, names,
    node::{Errors, Node},
    pod,
};
use crate::{FieldError, Value, selector::LabelSelector};

pub fn deployment(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    errors.non_negative(&spec.get("replicas"));
    selector_and_template(&spec, &mut errors);
    strategy(&spec.get("strategy"), &mut errors);
    let min_ready = spec.get("minReadySeconds");
    errors.non_negative(&min_ready);
    errors.non_negative(&spec.get("revisionHistoryLimit"));
    let deadline = spec.get("progressDeadlineSeconds");
    errors.non_negative(&deadline);
    if deadline
        .int()
        .is_some_and(|n| n <= min_ready.int().unwrap_or(0))
    {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    errors.into_vec()
}

pub fn deployment_update(new: &Value, old: &Value) -> Vec<FieldError> {
    with_fixed_selector(deployment(new), new, old)
}

pub fn replica_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    errors.non_negative(&spec.get("replicas"));
    errors.non_negative(&spec.get("minReadySeconds"));
    selector_and_template(&spec, &mut errors);
    errors.into_vec()
}

pub fn replica_set_update(new: &Value, old: &Value) -> Vec<FieldError> {
    with_fixed_selector(replica_set(new), new, old)
}

fn with_fixed_selector(found: Vec<FieldError>, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.extend(found);
    let selector = |object| Node::root(object).get("spec").get("selector");
    errors.immutable(&selector(new), &selector(old));
    errors.into_vec()
}

fn selector_and_template(spec: &Node<'_>, errors: &mut Errors) {
    let selector = spec.get("selector");
    if !selector.is_set() {
        errors.push(selector.required(""));
    } else {
        meta::label_selector(&selector, errors);
        if selector.get("matchLabels").len() + selector.get("matchExpressions").len() == 0 {
            errors.push(selector.invalid("empty selector is invalid for deployment"));
        }
    }
    let template = spec.get("template");
    match LabelSelector::from_object(Some(selector.value)) {
        Err(_) => return errors.push(selector.invalid("invalid label selector")),
        // An absent selector matches nothing, and upstream tells so.
        Ok(parsed) => {
            let labels = template.get("metadata").get("labels");
            if !parsed.is_some_and(|s| s.matches(labels.map())) {
                errors.push(unmatched(&labels));
            }
        }
    }
    running_template(&template, "ReplicaSet", errors);
}

/// The labels of a template that its selector doesn't select. Upstream prints an absent map as null.
pub(super) fn unmatched(labels: &Node<'_>) -> FieldError {
    FieldError::invalid(
        &labels.path,
        labels.value.clone(),
        "`selector` does not match template `labels`",
    )
}

/// The template of what keeps pods running for ever.
pub(super) fn running_template(template: &Node<'_>, kind: &str, errors: &mut Errors) {
    pod::template(template, errors);
    let spec = template.get("spec");
    let restart = spec.get("restartPolicy");
    if restart.text() != "Always" {
        errors.push(restart.not_supported(&["Always"]));
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(deadline.forbidden(why));
    }
}

fn strategy(strategy: &Node<'_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" => {
            if rolling.is_set() {
                errors.push(
                    rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"),
                );
            }
        }
        "RollingUpdate" => {
            if !rolling.is_set() {
                return errors.push(rolling.required("this should be defaulted and never be nil"));
            }
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(&unavailable, errors);
            int_or_percent(&surge, errors);
            if number(&unavailable) == 0 && number(&surge) == 0 {
                errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            at_most_100_percent(&unavailable, errors);
        }
        _ => errors.push(strategy.not_supported(&["Recreate", "RollingUpdate"])),
    }
}

/// A count or a percentage, not negative.
pub(super) fn int_or_percent(node: &Node<'_>, errors: &mut Errors) {
    match node.value {
        Value::String(text) => errors.messages(node, names::percent(text)),
        _ => errors.non_negative(node),
    }
}

pub(super) fn at_most_100_percent(node: &Node<'_>, errors: &mut Errors) {
    if percent(node).is_some_and(|p| p > 100) {
        errors.push(node.invalid("must not be greater than 100%"));
    }
}

fn percent(node: &Node<'_>) -> Option<i64> {
    node.text().strip_suffix('%')?.parse().ok()
}

pub(super) fn number(node: &Node<'_>) -> i64 {
    percent(node).or(node.int()).unwrap_or(0)
}

pub fn deployment_status(new: &Value, old: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = Node::root(new).get("status");
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ] {
        errors.non_negative(&status.get(field));
    }
    not_above(
        &status,
        &["updatedReplicas", "readyReplicas", "availableReplicas"],
        &mut errors,
    );
    collisions(&status, old, &mut errors);
    errors.into_vec()
}

/// The count of collisions only grows.
pub(super) fn collisions(status: &Node<'_>, old: &Value, errors: &mut Errors) {
    let collisions = status.get("collisionCount");
    let before = Node::root(old).get("status").get("collisionCount");
    let count = collisions.int().unwrap_or(0);
    if before.int().is_some_and(|was| count < was) {
        errors.push(FieldError::invalid(
            &collisions.path,
            count,
            "cannot be decremented",
        ));
    }
}

pub fn replica_set_status(new: &Value, _: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = Node::root(new).get("status");
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ] {
        errors.non_negative(&status.get(field));
    }
    not_above(
        &status,
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        &mut errors,
    );
    errors.into_vec()
}

/// No part is larger than the whole, and none is available that is not ready.
pub(super) fn not_above(status: &Node<'_>, parts: &[&str], errors: &mut Errors) {
    let count = |field: &str| status.get(field).int().unwrap_or(0);
    let refuse =
        |field: &str, why| FieldError::invalid(status.path.child(field), count(field), why);
    for part in parts.iter().filter(|part| count(part) > count("replicas")) {
        errors.push(refuse(part, "cannot be greater than status.replicas"));
    }
    if count("availableReplicas") > count("readyReplicas") {
        errors.push(refuse(
            "availableReplicas",
            "cannot be greater than readyReplicas",
        ));
    }
}
