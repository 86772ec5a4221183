//! A DaemonSet's template generation: how often its template changed, which `apps/v1` keeps in an annotation.
//!
//! Upstream has a field for it inside the server; its controller labels pods with it, beside the revision's hash.

use crate::{Value, meta};
use serde_json::json;

pub(crate) const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(TEMPLATE_GENERATION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = meta::metadata_mut(object)
        .entry("annotations")
        .or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[TEMPLATE_GENERATION] = generation.to_string().into();
}

pub(super) fn prepare_for_create(object: &mut Value) {
    object["status"] = json!({
        "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
    });
    let generation = template_generation(object).max(1);
    set_template_generation(object, generation);
}

/// Nobody but the server counts; the spec is already what this request may make of it.
pub(super) fn prepare_for_update(new: &mut Value, old: &Value) {
    let template = |object: &Value| object.pointer("/spec/template").cloned();
    let changed = template(new) != template(old);
    set_template_generation(new, template_generation(old) + i64::from(changed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_generation_counts_changes_of_the_template_alone() {
        let mut old = json!({"metadata": {}, "spec": {"template": {"a": 1}}});
        prepare_for_create(&mut old);
        assert_eq!(template_generation(&old), 1);
        let mut same =
            json!({"metadata": {}, "spec": {"minReadySeconds": 3, "template": {"a": 1}}});
        prepare_for_update(&mut same, &old);
        assert_eq!(template_generation(&same), 1);
        let mut forged = json!({
            "metadata": {"annotations": {TEMPLATE_GENERATION: "7"}}, "spec": {"template": {"a": 2}}});
        prepare_for_update(&mut forged, &same);
        assert_eq!(template_generation(&forged), 2);
    }
}
