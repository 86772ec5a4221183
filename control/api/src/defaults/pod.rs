//! Defaults of pods and of the templates that pods are made from.

use super::{Object, each, inner, set, text};
use crate::{Value, meta::child_mut, quantity::Canonical};
use serde_json::json;

/// A pod: the template's defaults, and those that only pods have.
pub fn pod(object: &mut Value) {
    let spec = child_mut(object, "spec");
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
            if host_network {
                each(container, "ports").for_each(host_port);
            }
        }
    }
    set(spec, "enableServiceLinks", true);
    pod_spec(spec);
}

/// The pod template of a Deployment or ReplicaSet.
pub fn pod_template(template: &mut Value) {
    pod_spec(child_mut(template, "spec"));
}

/// What a pod and a template have in common.
pub fn pod_spec(spec: &mut Object) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    // The deprecated name always mirrors the new one.
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        spec.insert("serviceAccountName".to_owned(), account.clone().into());
        spec.insert("serviceAccount".to_owned(), account.into());
    }
    each(spec, "volumes").for_each(volume);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = inner(container, "resources") else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

fn host_port(port: &mut Object) {
    if let Some(number) = port.get("containerPort").cloned() {
        set(port, "hostPort", number);
    }
}

fn container(container: &mut Object) {
    let image = text(container, "image");
    let latest = pulls_latest(image);
    set(
        container,
        "imagePullPolicy",
        if latest { "Always" } else { "IfNotPresent" },
    );
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    each(container, "ports").for_each(|port| set(port, "protocol", "TCP"));
    if let Some(resources) = inner(container, "resources") {
        round_up(resources);
    }
    for variable in each(container, "env") {
        if let Some(source) = inner(variable, "valueFrom") {
            field_ref(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = inner(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = inner(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = inner(lifecycle, hook).and_then(|h| inner(h, "httpGet")) {
                http_get(get);
            }
        }
    }
}

/// Whether the image's tag is `latest`, said or meant: nothing but a name means it, a name with a digest doesn't.
fn pulls_latest(image: &str) -> bool {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none() && !name.is_empty(),
    }
}

/// Upstream keeps no fractions below a thousandth.
fn round_up(resources: &mut Object) {
    for list in ["limits", "requests"] {
        for quantity in inner(resources, list)
            .into_iter()
            .flat_map(|list| list.values_mut())
        {
            let parsed = quantity
                .as_str()
                .and_then(|text| Canonical::parse(text).ok());
            if let Some(rounded) = parsed.map(|q| q.rounded_to_milli().to_string()) {
                *quantity = rounded.into();
            }
        }
    }
}

fn field_ref(source: &mut Object) {
    if let Some(field) = inner(source, "fieldRef") {
        set(field, "apiVersion", "v1");
    }
}

fn probe(probe: &mut Object) {
    set(probe, "timeoutSeconds", 1);
    set(probe, "periodSeconds", 10);
    set(probe, "successThreshold", 1);
    set(probe, "failureThreshold", 3);
    if let Some(get) = inner(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = inner(probe, "grpc") {
        set(grpc, "service", "");
    }
}

fn http_get(get: &mut Object) {
    set(get, "path", "/");
    set(get, "scheme", "HTTP");
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "projected", "downwardAPI"] {
        if let Some(source) = inner(volume, source) {
            set(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = inner(volume, "hostPath") {
        set(path, "type", "");
    }
    if let Some(api) = inner(volume, "downwardAPI") {
        each(api, "items").for_each(field_ref);
    }
    if let Some(projected) = inner(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = inner(source, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(api) = inner(source, "downwardAPI") {
                each(api, "items").for_each(field_ref);
            }
        }
    }
}
