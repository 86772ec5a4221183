//! ReplicationControllers.

use super::{
    apps::{not_above, running_template, unmatched},
    node::{Errors, Node},
};
use crate::{FieldError, Value};

pub fn replication_controller(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    errors.non_negative(&spec.get("minReadySeconds"));
    let selector = spec.get("selector");
    if selector.len() == 0 {
        errors.push(selector.required(""));
    }
    let replicas = spec.get("replicas");
    match replicas.is_set() {
        true => errors.non_negative(&replicas),
        false => errors.push(replicas.required("")),
    }
    let template = spec.get("template");
    if !template.is_set() {
        errors.push(template.required(""));
        return errors.into_vec();
    }
    let labels = template.get("metadata").get("labels");
    let selected = selector
        .entries()
        .all(|(key, wanted)| labels.value.get(key) == Some(wanted.value));
    if !selected {
        errors.push(unmatched(&labels));
    }
    running_template(&template, "ReplicationController", &mut errors);
    errors.into_vec()
}

/// The selector may change: pods that it no longer selects are released.
pub fn replication_controller_update(new: &Value, _: &Value) -> Vec<FieldError> {
    replication_controller(new)
}

pub fn replication_controller_status(new: &Value, _: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = Node::root(new).get("status");
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ] {
        errors.non_negative(&status.get(field));
    }
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    not_above(&status, &parts, &mut errors);
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: Value) -> Vec<String> {
        let mut object = json!({"spec": spec});
        crate::defaults::replication_controller(&mut object);
        let errors = replication_controller(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
            {"name": "c", "image": "i"}]}})
    }

    #[test]
    fn the_selector_must_select_the_template() {
        assert_eq!(found(json!({"template": template()})), [""; 0]);
        assert_eq!(
            found(json!({"selector": {"app": "y"}, "template": template()})),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            found(json!({})),
            [
                "spec.selector: Required value",
                "spec.template: Required value"
            ]
        );
    }

    #[test]
    fn its_pods_run_for_ever() {
        let mut template = template();
        template["spec"]["restartPolicy"] = "Never".into();
        template["spec"]["activeDeadlineSeconds"] = 5.into();
        assert_eq!(
            found(json!({"replicas": -1, "template": template})),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
            ]
        );
    }
}
