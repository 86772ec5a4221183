//! DaemonSets and ControllerRevisions.

use super::{
    apps::{at_most_100_percent, collisions, int_or_percent, number, running_template, unmatched},
    meta,
    node::{Errors, Node},
};
use crate::{FieldError, Value, selector::LabelSelector};

pub fn daemon_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    spec(&Node::root(object).get("spec"), &mut errors);
    errors.into_vec()
}

pub fn daemon_set_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let selector = |object| Node::root(object).get("spec").get("selector");
    errors.immutable(&selector(new), &selector(old));
    spec(&Node::root(new).get("spec"), &mut errors);
    errors.into_vec()
}

fn spec(spec: &Node<'_>, errors: &mut Errors) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_set() {
        meta::label_selector(&selector, errors);
    }
    // What isn't a selector was told about above.
    if let Ok(parsed) = LabelSelector::from_object(Some(selector.value)) {
        let labels = template.get("metadata").get("labels");
        if !parsed.is_some_and(|s| s.matches(labels.map())) {
            errors.push(unmatched(&labels));
        }
    }
    let terms = selector.get("matchLabels").len() + selector.get("matchExpressions").len();
    if selector.is_set() && terms == 0 {
        errors.push(selector.invalid("empty selector is invalid for daemonset"));
    }
    running_template(&template, "DaemonSet", errors);
    errors.non_negative(&spec.get("minReadySeconds"));
    strategy(&spec.get("updateStrategy"), errors);
    errors.non_negative(&spec.get("revisionHistoryLimit"));
}

fn strategy(strategy: &Node<'_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => errors.push(rolling.required("")),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            for share in [&unavailable, &surge] {
                int_or_percent(share, errors);
            }
            for share in [&unavailable, &surge] {
                at_most_100_percent(share, errors);
            }
            match (number(&unavailable) != 0, number(&surge) != 0) {
                (true, true) => {
                    errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"));
                }
                (false, false) => {
                    errors.push(unavailable.required("cannot be 0 when maxSurge is 0"));
                }
                _ => {}
            }
        }
        _ => errors.push(strategy.not_supported(&["RollingUpdate", "OnDelete"])),
    }
}

pub fn daemon_set_status(new: &Value, old: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = Node::root(new).get("status");
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        errors.non_negative(&status.get(field));
    }
    collisions(&status, old, &mut errors);
    errors.into_vec()
}

pub fn controller_revision(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    errors.non_negative(&root.get("revision"));
    let data = root.get("data");
    match data.value {
        Value::Object(_) => {}
        Value::Null => errors.push(data.required("data is mandatory")),
        _ => errors.push(data.required("data must be a valid JSON object")),
    }
    errors.into_vec()
}

/// The number may change: a rollback makes an old revision the newest.
pub fn controller_revision_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (new, old) = (Node::root(new), Node::root(old));
    errors.non_negative(&new.get("revision"));
    errors.immutable(&new.get("data"), &old.get("data"));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(spec: Value) -> Value {
        let mut object = json!({"spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
                {"name": "c", "image": "i"}]}},
        }});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        crate::defaults::daemon_set(&mut object);
        object
    }

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rollout_is_by_surge_or_by_unavailability() {
        let rolling = |unavailable: Value, surge: Value| {
            let rolling = json!({"maxUnavailable": unavailable, "maxSurge": surge});
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            texts(daemon_set(&set(json!({"updateStrategy": strategy}))))
        };
        let at = "spec.updateStrategy.rollingUpdate";
        assert_eq!(rolling(json!(1), json!(0)), [""; 0]);
        assert_eq!(rolling(json!("0%"), json!("50%")), [""; 0]);
        assert_eq!(
            rolling(json!(0), json!("0%")),
            [format!(
                "{at}.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"
            )]
        );
        assert_eq!(
            rolling(json!(1), json!(2)),
            [format!(
                "{at}.maxSurge: Invalid value: 2: may not be set when maxUnavailable is non-zero"
            )]
        );
        assert_eq!(
            rolling(json!("200%"), json!(0)),
            [format!(
                "{at}.maxUnavailable: Invalid value: \"200%\": must not be greater than 100%"
            )]
        );
    }

    #[test]
    fn selector_and_template_must_agree_and_the_selector_stays() {
        assert_eq!(texts(daemon_set(&set(json!({})))), [""; 0]);
        let empty = set(json!({"selector": {}}));
        assert_eq!(texts(daemon_set(&empty)).len(), 1);
        let other = set(json!({"selector": {"matchLabels": {"app": "y"}}}));
        let found = texts(daemon_set(&other));
        assert!(found[0].contains("`selector` does not match template `labels`"));
        let found = texts(daemon_set_update(&other, &set(json!({}))));
        assert!(found[0].starts_with("spec.selector: Invalid value"));
        assert!(found[0].ends_with("field is immutable"));
    }

    #[test]
    fn a_revision_holds_an_object_for_good() {
        let revision = |data: Value| texts(controller_revision(&json!({"data": data})));
        assert_eq!(revision(json!({"a": 1})), [""; 0]);
        assert_eq!(
            revision(Value::Null),
            ["data: Required value: data is mandatory"]
        );
        assert_eq!(
            revision(json!([1])),
            ["data: Required value: data must be a valid JSON object"]
        );
        let (one, two) = (
            json!({"data": {"a": 1}, "revision": 1}),
            json!({"data": {"a": 2}, "revision": -1}),
        );
        let found = texts(controller_revision_update(&two, &one));
        assert_eq!(found.len(), 2);
        let renumbered = json!({"data": {"a": 1}, "revision": 7});
        assert_eq!(
            texts(controller_revision_update(&renumbered, &one)),
            [""; 0]
        );
    }
}
