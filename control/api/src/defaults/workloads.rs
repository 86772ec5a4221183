//! Defaults of ReplicationControllers and DaemonSets.

use super::{inner, set, template, text};
use crate::{
    Value,
    meta::{child_mut, metadata_mut},
    strategy::TEMPLATE_GENERATION,
};
use serde_json::json;

/// Selector and labels come from the template where they are not given.
pub fn replication_controller(object: &mut Value) {
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
        .cloned();
    let spec = child_mut(object, "spec");
    set(spec, "replicas", 1);
    template(spec);
    let Some(labels) = labels else { return };
    let missing = |map: Option<&Value>| {
        map.and_then(Value::as_object)
            .is_none_or(|map| map.is_empty())
    };
    if missing(spec.get("selector")) {
        spec.insert("selector".to_owned(), labels.clone());
    }
    let metadata = metadata_mut(object);
    if missing(metadata.get("labels")) {
        metadata.insert("labels".to_owned(), labels);
    }
}

/// Besides the strategy: the template's generation, which `apps/v1` keeps in an annotation, has a value of its own
/// before the server counts, so that whoever creates the object is booked as its manager.
pub fn daemon_set(object: &mut Value) {
    let metadata = metadata_mut(object);
    metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = inner(metadata, "annotations") {
        set(annotations, TEMPLATE_GENERATION, "0");
    }
    let spec = child_mut(object, "spec");
    spec.entry("updateStrategy").or_insert_with(|| json!({}));
    if let Some(strategy) = inner(spec, "updateStrategy") {
        set(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
            if let Some(rolling) = inner(strategy, "rollingUpdate") {
                set(rolling, "maxUnavailable", 1);
                set(rolling, "maxSurge", 0);
            }
        }
    }
    set(spec, "revisionHistoryLimit", 10);
    template(spec);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replication_controller_takes_selector_and_labels_from_its_template() {
        let mut object =
            json!({"spec": {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}});
        replication_controller(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"app": "x"}));
        assert_eq!(object["metadata"]["labels"], json!({"app": "x"}));
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(
            object["spec"]["template"]["spec"]["restartPolicy"],
            "Always"
        );
        let mut own = json!({
            "metadata": {"labels": {"own": "y"}},
            "spec": {"replicas": 0, "selector": {"a": "b"},
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}},
        });
        replication_controller(&mut own);
        assert_eq!(own["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(own["metadata"]["labels"], json!({"own": "y"}));
        assert_eq!(own["spec"]["replicas"], 0);
    }

    #[test]
    fn a_daemon_set_rolls_one_node_at_a_time_unless_told() {
        let mut object = json!({"spec": {"template": {"spec": {}}}});
        daemon_set(&mut object);
        assert_eq!(
            object["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(object["spec"]["revisionHistoryLimit"], 10);
        assert_eq!(object["metadata"]["annotations"][TEMPLATE_GENERATION], "0");
        let mut by_hand = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        daemon_set(&mut by_hand);
        assert_eq!(
            by_hand["spec"]["updateStrategy"],
            json!({"type": "OnDelete"})
        );
    }
}
