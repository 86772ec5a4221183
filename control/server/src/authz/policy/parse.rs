//! The text form of roles and bindings: one block an object, one line a rule or subject.
//!
//! ```text
//! clusterrole NAME [+label …] [<label …]        role NAMESPACE NAME
//!   verbs | groups | resources [| names]          verbs | paths
//! clusterrolebinding NAME ROLE-KIND ROLE        rolebinding NAMESPACE NAME ROLE-KIND ROLE
//!   KIND [namespace/]name
//! ```
//!
//! `+view` labels a role to be aggregated to `view`; `<view` makes its rules the union of those so labelled.

use kernelet_api::Value;
use serde_json::{Map, json};

use crate::authz::rules::Rule;

pub const GROUP: &str = "rbac.authorization.k8s.io";
const LABEL: &str = "kubernetes.io/bootstrapping";
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// An object of the policy, and the plural under which it is written.
pub struct Object {
    pub plural: &'static str,
    pub value: Value,
}

/// The objects that a text describes, in its order. The text is a constant of the program: a line that can't be
/// understood is a defect that the tests find, and becomes nothing.
pub fn objects(text: &str) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(line) = line.strip_prefix("  ") {
            if let Some(object) = objects.last_mut() {
                extend(object, line);
            }
        } else {
            objects.extend(header(line));
        }
    }
    objects
}

fn header(line: &str) -> Option<Object> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let namespace = match kind {
        "role" | "rolebinding" => words.next()?,
        _ => "",
    };
    let mut metadata = json!({
        "name": words.next()?,
        "labels": {LABEL: "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    let (plural, name) = match kind {
        "role" => ("roles", "Role"),
        "clusterrole" => ("clusterroles", "ClusterRole"),
        "rolebinding" => ("rolebindings", "RoleBinding"),
        "clusterrolebinding" => ("clusterrolebindings", "ClusterRoleBinding"),
        _ => return None,
    };
    let mut value = json!({"apiVersion": format!("{GROUP}/v1"), "kind": name});
    if plural.ends_with("bindings") {
        let (kind, role) = (words.next()?, words.next()?);
        value["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
        value["subjects"] = json!([]);
    } else {
        value["rules"] = json!([]);
        let mut selectors: Vec<Value> = Vec::new();
        for word in words {
            let label = |part: &str| format!("{GROUP}/aggregate-to-{part}");
            if let Some(part) = word.strip_prefix('+') {
                metadata["labels"][label(part)] = "true".into();
            } else if let Some(part) = word.strip_prefix('<') {
                selectors.push(json!({"matchLabels": {label(part): "true"}}));
            }
        }
        if !selectors.is_empty() {
            value["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
    }
    value["metadata"] = metadata;
    Some(Object { plural, value })
}

fn extend(object: &mut Object, line: &str) {
    let (field, item) = if object.plural.ends_with("bindings") {
        ("subjects", subject(line))
    } else {
        ("rules", Some(rule_to_value(&rule(line))))
    };
    if let Some(list) = object.value[field].as_array_mut() {
        list.extend(item);
    }
}

fn subject(line: &str) -> Option<Value> {
    let (kind, name) = line.split_once(' ')?;
    Some(match name.split_once('/') {
        Some((namespace, name)) => json!({"kind": kind, "name": name, "namespace": namespace}),
        None => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    })
}

fn list(text: &str) -> Vec<String> {
    let name = |item: &str| if item == "core" { "" } else { item }.to_owned();
    text.split(',').map(name).collect()
}

/// A rule's line.
pub fn rule(line: &str) -> Rule {
    let mut parts = line.split(" | ").map(list);
    let verbs = parts.next().unwrap_or_default();
    let second = parts.next().unwrap_or_default();
    match parts.next() {
        None => Rule {
            verbs,
            non_resource_urls: second,
            ..Rule::default()
        },
        Some(resources) => Rule {
            verbs,
            api_groups: second,
            resources,
            resource_names: parts.next().unwrap_or_default(),
            ..Rule::default()
        },
    }
}

/// A rule as an API object has it.
pub fn rule_to_value(rule: &Rule) -> Value {
    let mut map = Map::new();
    for (key, values) in [
        ("verbs", &rule.verbs),
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ] {
        if !values.is_empty() {
            map.insert(key.to_owned(), json!(values));
        }
    }
    Value::Object(map)
}
