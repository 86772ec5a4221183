//! The core group's kinds but pods, and the smaller groups.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kernelet_api::Value;

use super::cells::{
    NONE, UNKNOWN, age, at, first_three, human_duration, labels, list, name, number, or, since,
    size, text, time,
};

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "status.phase").into(),
        age(object, now),
    ]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "type").into(),
        size(object, "data").into(),
        age(object, now),
    ]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let keys = size(object, "data") + size(object, "binaryData");
    vec![name(object), keys.into(), age(object, now)]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "spec.holderIdentity").into(),
        age(object, now),
    ]
}

pub(super) fn created_at(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "metadata.creationTimestamp").into(),
    ]
}

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = list(object, "spec.clusterIPs")
        .first()
        .and_then(Value::as_str)
        .unwrap_or(NONE);
    let ports: Vec<String> = list(object, "spec.ports")
        .iter()
        .map(|port| {
            let (number_, node_port, protocol) = (
                number(port, "port"),
                number(port, "nodePort"),
                text(port, "protocol"),
            );
            if node_port > 0 {
                format!("{number_}:{node_port}/{protocol}")
            } else {
                format!("{number_}/{protocol}")
            }
        })
        .collect();
    vec![
        name(object),
        text(object, "spec.type").into(),
        cluster_ip.into(),
        external_ip(object).into(),
        or(&ports.join(","), NONE).into(),
        age(object, now),
        labels(at(object, "spec.selector")).into(),
    ]
}

fn external_ip(service: &Value) -> String {
    let external: Vec<String> = list(service, "spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), NONE).to_owned(),
        "LoadBalancer" => {
            let ingress: BTreeSet<String> = list(service, "status.loadBalancer.ingress")
                .iter()
                .map(|ingress| or(text(ingress, "ip"), text(ingress, "hostname")).to_owned())
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<String> = ingress.into_iter().chain(external).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = || {
            list(subset, "addresses")
                .iter()
                .map(|address| text(address, "ip"))
        };
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|ip| host_port(ip, number(port, "port"))));
        }
    }
    let nothing = if list(object, "subsets").is_empty() {
        NONE
    } else {
        ""
    };
    vec![
        name(object),
        first_three(&all, nothing).into(),
        age(object, now),
    ]
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "ports")
        .iter()
        .map(|port| {
            match (
                port.get("port").and_then(Value::as_i64),
                port.get("name").and_then(Value::as_str),
            ) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            }
        })
        .collect();
    let addresses: Vec<String> = list(object, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(object),
        text(object, "addressType").into(),
        first_three(&ports, "<unset>").into(),
        first_three(&addresses, "<unset>").into(),
        age(object, now),
    ]
}

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list(object, "status.conditions")
        .iter()
        .find(|it| text(it, "type") == "Ready");
    let mut status = match ready {
        Some(ready) if text(ready, "status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(object, "spec.unschedulable").and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |ty: &str| -> Value {
        list(object, "status.addresses")
            .iter()
            .find(|address| text(address, "type") == ty)
            .map_or(NONE, |address| text(address, "address"))
            .into()
    };
    let info = |field: &str| text(object, &format!("status.nodeInfo.{field}")).to_owned();
    let known = |field: &str| -> Value { or(&info(field), UNKNOWN).into() };
    vec![
        name(object),
        status.into(),
        or(&roles(object), NONE).into(),
        age(object, now),
        info("kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let labels = at(node, "metadata.labels").and_then(Value::as_object);
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

/// Both groups' form of events: `events.k8s.io` renamed most fields.
pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let either = |core: &str, events: &str| -> &str {
        let text_of_core = text(object, core);
        if text_of_core.is_empty() {
            text(object, events)
        } else {
            text_of_core
        }
    };
    let stamp = |core: &str, events: &str| {
        [at(object, core), at(object, events)]
            .into_iter()
            .flatten()
            .find(|value| time(Some(value)).is_some())
    };
    let first = since(
        stamp("firstTimestamp", "deprecatedFirstTimestamp").or(at(object, "eventTime")),
        now,
    );
    let last = stamp("lastTimestamp", "deprecatedLastTimestamp").map(|last| since(Some(last), now));
    let mut count = number(object, "count") + number(object, "deprecatedCount");
    let series = object.get("series").filter(|series| !series.is_null());
    let last = match series {
        Some(series) => {
            count = number(series, "count");
            since(series.get("lastObservedTime"), now)
        }
        None => {
            // Events of the newer group that happened once have no count.
            count = count.max(1);
            last.unwrap_or_else(|| first.clone())
        }
    };
    let kind = either("involvedObject.kind", "regarding.kind").to_lowercase();
    let target = match either("involvedObject.name", "regarding.name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = either("source.component", "deprecatedSource.component");
    let component = either_text(
        component,
        either("reportingComponent", "reportingController"),
    );
    let host = either_text(
        either("source.host", "deprecatedSource.host"),
        text(object, "reportingInstance"),
    );
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        last.into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        either("involvedObject.fieldPath", "regarding.fieldPath").into(),
        source.into(),
        either("message", "note").trim().into(),
        first.into(),
        count.into(),
        name(object),
    ]
}

fn either_text<'t>(first: &'t str, second: &'t str) -> &'t str {
    or(first, second)
}

pub(super) fn certificate_signing_request(object: &Value, now: Timestamp) -> Vec<Value> {
    let has = |ty: &str| {
        list(object, "status.conditions")
            .iter()
            .any(|it| text(it, "type") == ty)
    };
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !text(object, "status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    let duration = at(object, "spec.expirationSeconds")
        .and_then(Value::as_i64)
        .map_or_else(|| NONE.to_owned(), human_duration);
    vec![
        name(object),
        age(object, now),
        or(text(object, "spec.signerName"), NONE).into(),
        text(object, "spec.username").into(),
        duration.into(),
        status.into(),
    ]
}

pub(super) fn role_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| -> Value {
        let names: Vec<String> = list(object, "subjects")
            .iter()
            .filter(|subject| text(subject, "kind") == kind)
            .map(|subject| match kind {
                "ServiceAccount" => {
                    format!("{}/{}", text(subject, "namespace"), text(subject, "name"))
                }
                _ => text(subject, "name").to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        name(object),
        format!(
            "{}/{}",
            text(object, "roleRef.kind"),
            text(object, "roleRef.name")
        )
        .into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
