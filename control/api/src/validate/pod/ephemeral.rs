//! Ephemeral containers: added to a pod that runs, through a subresource of their own, and never changed again.

use super::{
    super::node::{Errors, Node},
    container, pod_and_spec,
};
use crate::{FieldError, Value};
use std::collections::BTreeSet;

const REFUSED: &str = "cannot be set for an Ephemeral Container";

/// What fundamental services of a pod need, in the order of upstream's fields. Whoever looks into a pod doesn't.
const FORBIDDEN: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// The list in a pod's spec. `names`: those of all other containers.
pub(super) fn containers(
    spec: &Node<'_>,
    volumes: &BTreeSet<&str>,
    names: &BTreeSet<&str>,
    errors: &mut Errors,
) {
    let mut seen = names.clone();
    for one in spec.get("ephemeralContainers").each() {
        container::common(spec, &one, volumes, errors);
        container::image_without_spaces(&one, errors);
        let (name, target) = (one.get("name"), one.get("targetContainerName"));
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        if !target.text().is_empty() && !names.contains(target.text()) {
            errors.push(target.not_found());
        }
        for field in FORBIDDEN {
            let node = one.get(field);
            // An empty object is what Go calls a zero value.
            if node.is_set() && node.map().is_none_or(|map| !map.is_empty()) {
                errors.push(node.forbidden(REFUSED));
            }
        }
        for mount in one.get("volumeMounts").each() {
            for field in ["subPath", "subPathExpr"] {
                let node = mount.get(field);
                if !node.text().is_empty() {
                    errors.push(node.forbidden(REFUSED));
                }
            }
        }
    }
}

/// An update through `ephemeralcontainers`, in which nothing else differs: only additions are allowed.
pub(super) fn update(new: &Node<'_>, old: &Node<'_>) -> Vec<FieldError> {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let mirror = old.get("metadata").get("annotations").get(MIRROR);
    if mirror.is_set() {
        let why = "static pods do not support ephemeral containers";
        return vec![FieldError::forbidden("", why)];
    }
    let mut errors = Errors::default();
    pod_and_spec(new, &mut errors);
    let list = new.get("spec").get("ephemeralContainers");
    // The order isn't kept by patches.
    for before in old.get("spec").get("ephemeralContainers").each() {
        let name = before.get("name").text();
        let now = list.each().find(|c| c.get("name").text() == name);
        match now {
            None => errors.push(list.forbidden(format!(
                "existing ephemeral containers {name:?} may not be removed\n"
            ))),
            Some(now) if now.value != before.value => errors.push(list.forbidden(format!(
                "existing ephemeral containers {name:?} may not be changed\n{}",
                difference(before.value, now.value)
            ))),
            Some(_) => {}
        }
    }
    errors.into_vec()
}

/// The fields that differ, a line for each side.
fn difference(old: &Value, new: &Value) -> String {
    let (Some(before), Some(now)) = (old.as_object(), new.as_object()) else {
        return String::new();
    };
    let fields: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let mut text = String::new();
    for field in fields {
        let (old, new) = (before.get(field), now.get(field));
        if old == new {
            continue;
        }
        for (sign, value) in [('-', old), ('+', new)] {
            if let Some(value) = value {
                text.push_str(&format!("{sign} {field}: {value}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::{Registry, Value, validate::pod::updated::updated};
    use serde_json::json;

    fn pod(ephemeral: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "resourceVersion": "1"},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "initContainers": [{"name": "init", "image": "i"}],
                "containers": [{"name": "main", "image": "i"}], "ephemeralContainers": ephemeral}})
    }

    /// Through decoding, defaults and the update's path, as the server does it.
    fn refused(before: Value, now: Value) -> Vec<String> {
        updated("ephemeralcontainers", pod(before), pod(now)).1
    }

    #[test]
    fn additions_are_taken_and_everything_else_is_refused_in_upstreams_words() {
        let one = json!({"name": "d", "image": "i", "targetContainerName": "main", "stdin": true, "tty": true,
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        assert_eq!(refused(json!([]), json!([one])), [""; 0]);
        assert_eq!(
            refused(json!([one]), json!([one, {"name": "e", "image": "i"}])),
            [""; 0]
        );
        let list = "spec.ephemeralContainers: Forbidden: existing ephemeral containers";
        assert_eq!(
            refused(json!([one]), json!([])),
            [format!("{list} \"d\" may not be removed\n")]
        );
        let mut other = one.clone();
        other["image"] = "j".into();
        assert_eq!(
            refused(json!([one]), json!([other])),
            [format!(
                "{list} \"d\" may not be changed\n- image: \"i\"\n+ image: \"j\"\n"
            )]
        );
    }

    #[test]
    fn what_a_service_needs_is_not_for_them() {
        let at = "spec.ephemeralContainers[0]";
        let forbidden = |field: &str| {
            vec![format!(
                "{at}.{field}: Forbidden: cannot be set for an Ephemeral Container"
            )]
        };
        let exec = json!({"exec": {"command": ["x"]}});
        for (field, value) in [
            ("ports", json!([{"containerPort": 80}])),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("livenessProbe", exec.clone()),
            ("readinessProbe", exec.clone()),
            ("startupProbe", exec.clone()),
            ("lifecycle", json!({"preStop": exec})),
        ] {
            let mut one = json!({"name": "d", "image": "i"});
            one[field] = value;
            assert_eq!(refused(json!([]), json!([one])), forbidden(field));
        }
        let mount = json!([{"name": "v", "mountPath": "/v", "subPath": "x"}]);
        assert_eq!(
            refused(
                json!([]),
                json!([{"name": "d", "image": "i", "volumeMounts": mount}])
            ),
            forbidden("volumeMounts[0].subPath")
        );
        assert_eq!(
            refused(
                json!([]),
                json!([{"name": "main", "image": "i", "targetContainerName": "d"}])
            ),
            [
                format!("{at}.name: Duplicate value: \"main\""),
                format!("{at}.targetContainerName: Not found: \"d\""),
            ]
        );
        assert_eq!(
            refused(
                json!([]),
                json!([{"name": "d", "image": "i", "volumeDevices": [{"name": "v", "devicePath": "/d"}]}])
            ),
            [format!(
                "{at}.volumeDevices: Forbidden: block devices are not implemented"
            )]
        );
    }

    #[test]
    fn the_subresource_writes_nothing_else() {
        let pods = Registry::builtin()
            .by_resource("", "pods")
            .expect("pods are served");
        let mut old = pod(json!([]));
        old["metadata"]["generation"] = 3.into();
        let mut new = pod(json!([{"name": "d", "image": "i"}]));
        new["metadata"]["labels"] = json!({"a": "b"});
        new["spec"]["containers"][0]["image"] = "other".into();
        new["status"] = json!({"phase": "Failed"});
        pods.prepare_for_update(&mut new, &old, Some("ephemeralcontainers"));
        let mut expected = pod(json!([{"name": "d", "image": "i"}]));
        expected["metadata"]["generation"] = 4.into();
        assert_eq!(new, expected);
    }
}
