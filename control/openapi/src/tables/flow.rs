//! FlowSchemas and PriorityLevelConfigurations.

use kernelet_api::{Value, meta};

use super::cells::{at, text};

/// FlowSchemas are listed in the order in which they are matched.
pub(super) fn sort(objects: &mut [&Value]) {
    objects.sort_by_key(|object| {
        let precedence = at(object, "spec.matchingPrecedence").and_then(Value::as_i64);
        (precedence, meta::name(object))
    });
}

pub(super) fn distinguisher(object: &Value) -> &str {
    match text(object, "spec.distinguisherMethod.type") {
        "" => "<none>",
        method => method,
    }
}

/// `True`, `False`, or `?` while nobody has looked.
pub(super) fn dangling(object: &Value) -> &str {
    at(object, "status.conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|condition| text(condition, "type") == "Dangling")
        .map_or("?", |condition| text(condition, "status"))
}

/// A number below `spec.limited`.
pub(super) fn limited(object: &Value, path: &str) -> Value {
    at(object, "spec.limited")
        .and_then(|limited| at(limited, path))
        .filter(|value| !value.is_null())
        .cloned()
        .unwrap_or_else(|| "<none>".into())
}
