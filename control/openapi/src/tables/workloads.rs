//! Deployments, ReplicaSets and PodDisruptionBudgets.

use jiff::Timestamp;
use kernelet_api::Value;

use super::cells::{NONE, age, at, containers, name, number, selector};

const TEMPLATE: &str = "spec.template.spec.containers";

/// Absent counts as 1: objects are defaulted before they are stored, but a partial one may be printed.
fn replicas(object: &Value) -> i64 {
    at(object, "spec.replicas")
        .and_then(Value::as_i64)
        .unwrap_or(1)
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        format!(
            "{}/{}",
            number(object, "status.readyReplicas"),
            replicas(object)
        )
        .into(),
        number(object, "status.updatedReplicas").into(),
        number(object, "status.availableReplicas").into(),
        age(object, now),
        names,
        images,
        selector(at(object, "spec.selector"))
            .unwrap_or_else(|| "<invalid>".to_owned())
            .into(),
    ]
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    let selector = match selector(at(object, "spec.selector")) {
        Some(text) if text.is_empty() => NONE.to_owned(),
        Some(text) => text,
        None => "<error>".to_owned(),
    };
    vec![
        name(object),
        replicas(object).into(),
        number(object, "status.replicas").into(),
        number(object, "status.readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}

pub(super) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    // Numbers and percentages are printed alike: as text.
    let amount = |path: &str| -> Value {
        match at(object, path) {
            None | Some(Value::Null) => "N/A".into(),
            Some(Value::String(text)) => text.as_str().into(),
            Some(number) => number.to_string().into(),
        }
    };
    vec![
        name(object),
        amount("spec.minAvailable"),
        amount("spec.maxUnavailable"),
        number(object, "status.disruptionsAllowed").into(),
        age(object, now),
    ]
}
