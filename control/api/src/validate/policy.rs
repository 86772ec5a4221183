//! PodDisruptionBudgets and PriorityClasses.

use super::{
    apps, meta,
    node::{Errors, Node},
};
use crate::{FieldError, Value};

pub fn pdb(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    let (available, unavailable) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if available.is_set() && unavailable.is_set() {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for node in [available, unavailable] {
        if node.is_set() {
            apps::int_or_percent(&node, &mut errors);
            apps::at_most_100_percent(&node, &mut errors);
        }
    }
    meta::label_selector(&spec.get("selector"), &mut errors);
    let policy = spec.get("unhealthyPodEvictionPolicy");
    if policy.is_set() && !matches!(policy.text(), "AlwaysAllow" | "IfHealthyBudget") {
        errors.push(policy.not_supported(&["AlwaysAllow", "IfHealthyBudget"]));
    }
    errors.into_vec()
}

pub fn pdb_update(new: &Value, _: &Value) -> Vec<FieldError> {
    pdb(new)
}

pub fn pdb_status(new: &Value, _: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = Node::root(new).get("status");
    meta::conditions(&status.get("conditions"), &mut errors);
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        errors.non_negative(&status.get(field));
    }
    errors.into_vec()
}

const HIGHEST_OF_USERS: i64 = 1_000_000_000;
const SYSTEM: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

pub fn priority_class(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let (name, value) = (root.get("metadata").get("name"), root.get("value"));
    let number = value.int().unwrap_or(0);
    if name.text().starts_with("system-") {
        let known = SYSTEM.iter().find(|(system, _)| *system == name.text());
        let why = match known {
            None => Some(format!(
                "{} is not a known system priority class",
                name.text()
            )),
            Some((system, value)) if *value != number => {
                Some(format!("value of {system} PriorityClass must be {value}"))
            }
            Some((system, _)) if root.get("globalDefault").is_true() => Some(format!(
                "globalDefault of {system} PriorityClass must be false"
            )),
            Some(_) => None,
        };
        if let Some(why) = why {
            errors.push(name.forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            )));
        }
    } else if number > HIGHEST_OF_USERS {
        errors.push(value.forbidden(format!(
            "maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}"
        )));
    }
    errors.one_of(
        &root.get("preemptionPolicy"),
        &["PreemptLowerPriority", "Never"],
    );
    errors.into_vec()
}

pub fn priority_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (new, old) = (Node::root(new), Node::root(old));
    if new.get("value").value != old.get("value").value {
        errors.push(
            new.get("value")
                .forbidden("may not be changed in an update."),
        );
    }
    errors.immutable(&new.get("preemptionPolicy"), &old.get("preemptionPolicy"));
    errors.into_vec()
}
