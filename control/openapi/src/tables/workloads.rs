//! Cells of Deployments, ReplicaSets and PodDisruptionBudgets.

use kernelet_api::Value;

use super::cells::{self, NONE, at, number};

/// Ready pods of those wanted.
pub(super) fn deployment_ready(object: &Value) -> String {
    format!(
        "{}/{}",
        number(object, "status.readyReplicas"),
        number(object, "spec.replicas")
    )
}

/// The label selector as one line. For an empty one, upstream prints nothing for Deployments and `<none>` for
/// ReplicaSets.
pub(super) fn selector(object: &Value) -> String {
    let replica_set = object.get("kind").and_then(Value::as_str) == Some("ReplicaSet");
    match cells::selector(at(object, "spec.selector")) {
        Some(text) if text.is_empty() && replica_set => NONE.to_owned(),
        Some(text) => text,
        None if replica_set => "<error>".to_owned(),
        None => "<invalid>".to_owned(),
    }
}

/// A number or a percentage.
pub(super) fn amount(object: &Value, path: &str) -> String {
    match at(object, path) {
        None | Some(Value::Null) => "N/A".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(number) => number.to_string(),
    }
}
