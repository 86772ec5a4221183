//! Cells of what keeps pods, their revisions and PodDisruptionBudgets.

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
/// ReplicaSets and DaemonSets.
pub(super) fn selector(object: &Value) -> String {
    let kind = object.get("kind").and_then(Value::as_str);
    let replica_set = matches!(kind, Some("ReplicaSet" | "DaemonSet"));
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

/// Whose the object is: `daemonset.apps/web`.
pub(super) fn controller(object: &Value) -> String {
    let owner = cells::list(object, "metadata.ownerReferences")
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let Some(owner) = owner else {
        return NONE.to_owned();
    };
    let (group, kind) = (
        cells::text(owner, "apiVersion")
            .split_once('/')
            .map_or("", |(group, _)| group),
        cells::text(owner, "kind").to_lowercase(),
    );
    let name = cells::text(owner, "name");
    match group {
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}
