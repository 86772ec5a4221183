//! Resizing in place: which resources a running container may be given through `resize`, and with what effect.

use super::{
    super::node::{Errors, Node},
    pod_and_spec, qos_class,
};
use crate::{FieldError, Value};
use serde_json::{Map, json};
use std::collections::BTreeSet;

const RESOURCES: &[&str] = &["cpu", "memory"];
const POLICIES: &[&str] = &["NotRequired", "RestartContainer"];

/// A container's `resizePolicy`. Upstream gives the list's path for what is wrong in an element.
pub(super) fn policy(spec: &Node<'_>, container: &Node<'_>, errors: &mut Errors) {
    let list = container.get("resizePolicy");
    let never = spec.get("restartPolicy").text() == "Never";
    let mut seen = BTreeSet::new();
    for one in list.each() {
        let (name, policy) = (
            one.get("resourceName").text(),
            one.get("restartPolicy").text(),
        );
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&one.path, name));
        }
        for (text, supported) in [(name, RESOURCES), (policy, POLICIES)] {
            if text.is_empty() {
                errors.push(list.required(""));
            } else if !supported.contains(&text) {
                errors.push(FieldError::not_supported(&list.path, text, supported));
            }
        }
        if never && policy != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(&list.path, policy, why));
        }
    }
}

/// What of a new spec an update through `resize` keeps: containers' resources, and what must be refused.
pub(crate) fn prepare(new: &mut Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    let list = |pod: &Value, list: &str| -> Vec<Value> {
        let found = pod.pointer(&format!("/spec/{list}"));
        found.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    // Containers that came or went are left as they are, and refused by the validation.
    if lists
        .iter()
        .any(|l| list(new, l).len() != list(old, l).len())
    {
        return;
    }
    let merged: Vec<Vec<Value>> = lists
        .iter()
        .map(|l| with_resources(list(new, l), list(old, l)))
        .collect();
    let Some(spec) = old.get("spec") else { return };
    new["spec"] = spec.clone();
    for (name, containers) in lists.iter().zip(merged) {
        if !containers.is_empty() {
            new["spec"][name] = containers.into();
        }
    }
}

fn with_resources(new: Vec<Value>, old: Vec<Value>) -> Vec<Value> {
    if new
        .iter()
        .zip(&old)
        .any(|(new, old)| new["name"] != old["name"])
    {
        return new;
    }
    let merge = |(new, mut old): (Value, Value)| {
        if let Some(map) = old.as_object_mut() {
            for field in ["resources", "resizePolicy"] {
                match new.get(field) {
                    Some(value) => drop(map.insert(field.to_owned(), value.clone())),
                    None => drop(map.remove(field)),
                }
            }
        }
        old
    };
    new.into_iter().zip(old).map(merge).collect()
}

/// An update through `resize`, after [`prepare`].
pub(super) fn update(new: &Node<'_>, old: &Node<'_>) -> Vec<FieldError> {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if old.get("metadata").get("annotations").get(MIRROR).is_set() {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    let mut errors = Errors::default();
    pod_and_spec(new, &mut errors);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    if qos_class(new.value) != qos_class(old.value) {
        let class = new.get("status").get("qosClass").text();
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&spec.path, class, why));
    }
    if !same_containers(&spec, &before, &mut errors) {
        return errors.into_vec();
    }
    for list in ["initContainers", "containers"] {
        for (now, was) in spec.get(list).each().zip(before.get(list).each()) {
            let sidecar = was.get("restartPolicy").text() == "Always";
            if list == "containers" || sidecar {
                nothing_removed(&now.get("resources"), &was.get("resources"), &mut errors);
            }
        }
    }
    for (list, why) in [
        ("containers", "only cpu and memory resources are mutable"),
        (
            "initContainers",
            "only cpu and memory resources for sidecar containers are mutable",
        ),
    ] {
        for (now, was) in spec.get(list).each().zip(before.get(list).each()) {
            let sidecar = was.get("restartPolicy").text() == "Always";
            if list == "containers" || sidecar {
                if taken_back(now.value, was.value) != taken_back(was.value, was.value) {
                    errors.push(spec.forbidden(why));
                }
            } else if now.value != was.value {
                let why = "resources for non-sidecar init containers are immutable";
                errors.push(spec.forbidden(why));
            }
        }
    }
    errors.into_vec()
}

fn same_containers(spec: &Node<'_>, before: &Node<'_>, errors: &mut Errors) -> bool {
    let mut same = true;
    for list in ["containers", "initContainers"] {
        let (now, was) = (spec.get(list), before.get(list));
        if now.len() != was.len() {
            let why = format!("{list} may not be added or removed on resize");
            errors.push(now.forbidden(why));
            same = false;
            continue;
        }
        for (now, was) in now.each().zip(was.each()) {
            let name = now.get("name");
            if name.text() != was.get("name").text() {
                let why = format!("{list} may not be renamed or reordered on resize");
                errors.push(name.forbidden(why));
                same = false;
            }
        }
    }
    same
}

fn nothing_removed(now: &Node<'_>, was: &Node<'_>, errors: &mut Errors) {
    for (list, what) in [
        ("requests", "resource requests"),
        ("limits", "resource limits"),
    ] {
        let now = now.get(list);
        let was = was.get(list);
        if was.entries().any(|(name, _)| !now.get(name).is_set()) {
            errors.push(now.forbidden(format!("{what} cannot be removed")));
        }
    }
}

/// A container with the CPU and memory that it had.
fn taken_back(now: &Value, was: &Value) -> Value {
    let mut container = now.clone();
    let mut resources = Map::new();
    for list in ["limits", "requests"] {
        let of = |c: &Value| {
            let found = c.pointer(&format!("/resources/{list}"));
            found
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default()
        };
        let mut merged = of(now);
        merged.retain(|name, _| !RESOURCES.contains(&name.as_str()));
        merged.extend(
            of(was)
                .into_iter()
                .filter(|(name, _)| RESOURCES.contains(&name.as_str())),
        );
        resources.insert(list.to_owned(), merged.into());
    }
    if let Some(claims) = now.pointer("/resources/claims") {
        resources.insert("claims".to_owned(), claims.clone());
    }
    if let Some(map) = container.as_object_mut() {
        map.insert("resources".to_owned(), json!(resources));
    }
    container
}

#[cfg(test)]
mod tests {
    use crate::{Registry, Value, validate::pod::updated::updated};
    use serde_json::json;

    fn pod(containers: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "resourceVersion": "1"},
            "spec": {"containers": containers}, "status": {"qosClass": "Burstable"}})
    }

    fn one(resources: Value) -> Value {
        json!([{"name": "c", "image": "i", "resources": resources}])
    }

    /// The spec after an update through `resize`, or why it is refused.
    fn resized(before: Value, now: Value) -> Result<Value, Vec<String>> {
        let (new, errors) = updated("resize", pod(before), pod(now));
        if errors.is_empty() {
            return Ok(new["spec"]["containers"].clone());
        }
        Err(errors)
    }

    #[test]
    fn cpu_and_memory_are_changed_and_nothing_else() {
        let small =
            json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"memory": "2Mi"}});
        let large = json!({"requests": {"cpu": "200m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "4Mi"}});
        let mut wish = one(large.clone());
        wish[0]["image"] = "other".into();
        let containers = resized(one(small), wish).expect("it is taken");
        assert_eq!(containers[0]["resources"], large);
        assert_eq!(containers[0]["image"], "i", "the rest is as it was");
    }

    #[test]
    fn refusals_are_upstreams() {
        let some = json!({"requests": {"cpu": "100m"}, "limits": {"memory": "2Mi"}});
        for (now, expected) in [
            (
                one(json!({"requests": {"cpu": "100m", "memory": "1Mi"}})),
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ),
            (
                one(json!({"limits": {"memory": "2Mi"}, "requests": {"memory": "1Mi"}})),
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ),
            (
                one(
                    json!({"requests": {"cpu": "1", "memory": "2Mi"}, "limits": {"cpu": "1", "memory": "2Mi"}}),
                ),
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
            ),
            (
                one(
                    json!({"requests": {"cpu": "100m", "ephemeral-storage": "1Gi"}, "limits": {"memory": "2Mi"}}),
                ),
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                json!([{"name": "d", "image": "i", "resources": some}]),
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
            ),
            (
                json!([{"name": "c", "image": "i", "resources": some}, {"name": "d", "image": "i"}]),
                "spec.containers: Forbidden: containers may not be added or removed on resize",
            ),
        ] {
            let errors = resized(one(some.clone()), now).expect_err(expected);
            assert_eq!(errors, [expected]);
        }
    }

    #[test]
    fn policies_are_checked() {
        let with = |policies: Value, restart: &str| {
            let mut pod = pod(one(json!({})));
            pod["spec"]["containers"][0]["resizePolicy"] = policies;
            pod["spec"]["restartPolicy"] = restart.into();
            let pods = Registry::builtin()
                .by_resource("", "pods")
                .expect("pods are served");
            pods.default(&mut pod);
            let errors = pods.validate_create(&pod);
            errors
                .iter()
                .map(ToString::to_string)
                .filter(|e| e.contains("resizePolicy"))
                .collect::<Vec<_>>()
        };
        let good = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"},
            {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        assert_eq!(with(good.clone(), "Always"), [""; 0]);
        let at = "spec.containers[0].resizePolicy";
        assert_eq!(
            with(good, "Never"),
            [format!(
                "{at}: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'"
            )]
        );
        assert_eq!(
            with(
                json!([{"resourceName": "disk", "restartPolicy": "Maybe"}]),
                "Always"
            ),
            [
                format!("{at}: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\""),
                format!(
                    "{at}: Unsupported value: \"Maybe\": supported values: \"NotRequired\", \"RestartContainer\""
                ),
            ]
        );
    }
}
