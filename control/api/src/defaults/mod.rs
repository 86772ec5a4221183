//! Upstream's defaults, one function a kind. They run on canonical trees: an empty value that Go would not keep is
//! absent here.

mod flowcontrol;
mod pod;
mod quota;
mod workloads;

use crate::{Value, meta::child_mut};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, json};

pub use flowcontrol::{flow_schema, priority_level};
pub use pod::{pod, pod_spec, pod_template};
pub use quota::{limit_range, resource_quota};
pub use workloads::{daemon_set, replication_controller};

type Object = Map<String, Value>;

/// Sets a value where there is none, or an empty text.
fn set(map: &mut Object, key: &str, value: impl Into<Value>) {
    let missing = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if missing {
        map.insert(key.to_owned(), value.into());
    }
}

fn each<'a>(map: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn inner<'a>(map: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    map.get_mut(key).and_then(Value::as_object_mut)
}

fn text<'a>(map: &'a Object, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Nothing to fill in.
pub fn none(_: &mut Value) {}

pub fn namespace(object: &mut Value) {
    let name = crate::meta::name(object).to_owned();
    if !name.is_empty() {
        let metadata = crate::meta::metadata_mut(object);
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }
}

pub fn node(object: &mut Value) {
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
        && !status.contains_key("allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.insert("allocatable".to_owned(), capacity);
    }
}

/// Besides the type: `stringData` is for writing only, and wins over `data`.
pub fn secret(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    set(map, "type", "Opaque");
    if let Some(Value::Object(plain)) = map.remove("stringData") {
        if !matches!(map.get("data"), Some(Value::Object(_))) {
            map.insert("data".to_owned(), json!({}));
        }
        if let Some(data) = inner(map, "data") {
            for (key, value) in plain {
                let value = value.as_str().unwrap_or_default();
                data.insert(key, STANDARD.encode(value).into());
            }
        }
    }
}

pub fn service(object: &mut Value) {
    let spec = child_mut(object, "spec");
    set(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let missing = spec
                .get("sessionAffinityConfig")
                .and_then(|c| c.pointer("/clientIP/timeoutSeconds"))
                .is_none_or(Value::is_null);
            if missing {
                spec.insert(
                    "sessionAffinityConfig".to_owned(),
                    json!({"clientIP": {"timeoutSeconds": 10800}}),
                );
            }
        }
        _ => {}
    }
    set(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        set(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_else(|| 0.into());
        let unset = port
            .get("targetPort")
            .is_none_or(|t| t.as_i64() == Some(0) || t.as_str() == Some(""));
        if unset {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let ty = text(spec, "type").to_owned();
    let outside = matches!(ty.as_str(), "NodePort" | "LoadBalancer");
    let external = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|ips| !ips.is_empty());
    if outside || (ty == "ClusterIP" && external) {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if outside || ty == "ClusterIP" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if ty == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

pub fn endpoints(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for subset in each(map, "subsets") {
        each(subset, "ports").for_each(|port| set(port, "protocol", "TCP"));
    }
}

pub fn endpoint_slice(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    for port in each(map, "ports") {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    }
}

pub fn deployment(object: &mut Value) {
    let spec = child_mut(object, "spec");
    set(spec, "replicas", 1);
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    if let Some(strategy) = strategy.as_object_mut() {
        set(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
            if let Some(rolling) = rolling.as_object_mut() {
                set(rolling, "maxUnavailable", "25%");
                set(rolling, "maxSurge", "25%");
            }
        }
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    template(spec);
}

pub fn replica_set(object: &mut Value) {
    let spec = child_mut(object, "spec");
    set(spec, "replicas", 1);
    template(spec);
}

fn template(spec: &mut Object) {
    if let Some(template) = spec.get_mut("template") {
        pod_template(template);
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

pub fn role_binding(object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    if let Some(role) = inner(map, "roleRef") {
        set(role, "apiGroup", RBAC);
    }
    for subject in each(map, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set(subject, "apiGroup", RBAC);
        }
    }
}

pub fn priority_class(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        set(map, "preemptionPolicy", "PreemptLowerPriority");
    }
}

/// The body of a ServiceAccount's `token`.
pub fn token_request(object: &mut Value) {
    set(child_mut(object, "spec"), "expirationSeconds", 3600);
}

#[cfg(test)]
mod tests;
