//! Containers: images, ports, environment, probes, resources.

use super::{
    super::{
        names,
        node::{Errors, Node},
    },
    security, volume,
};
use crate::{FieldError, Value, quantity::Quantity};
use std::collections::{BTreeMap, BTreeSet};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn containers(spec: &Node<'_>, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let list = spec.get("containers");
    if list.len() == 0 {
        errors.push(list.required(""));
    }
    let mut seen = BTreeSet::new();
    for container in list.each() {
        common(spec, &container, volumes, errors);
        let name = container.get("name");
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        probes(&container, errors);
    }
    host_port_conflicts(list.each(), errors);
    for container in spec.get("initContainers").each() {
        common(spec, &container, volumes, errors);
        let name = container.get("name");
        if !name.text().is_empty() && !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        host_port_conflicts(std::iter::once(container.clone()), errors);
        let policy = container.get("restartPolicy");
        match policy.text() {
            "" => {}
            "Always" => probes(&container, errors),
            _ => errors.push(policy.not_supported(&["Always"])),
        }
        if policy.text() != "Always" {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                let node = container.get(field);
                if node.is_set() {
                    errors.push(node.forbidden(
                        "may not be set for init containers without restartPolicy=Always",
                    ));
                }
            }
        }
    }
}

fn common(spec: &Node<'_>, container: &Node<'_>, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let name = container.get("name");
    if errors.require(&name) {
        errors.messages(&name, names::dns_label(name.text()));
    }
    errors.require(&container.get("image"));
    errors.one_of(
        &container.get("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    ports(&container.get("ports"), errors);
    environment(container, errors);
    volume::mounts(container, volumes, errors);
    errors.one_of(
        &container.get("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    resources(&container.get("resources"), errors);
    security::container(spec, &container.get("securityContext"), errors);
}

pub(super) fn image_without_spaces(container: &Node<'_>, errors: &mut Errors) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn ports(ports: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in ports.each() {
        let name = port.get("name");
        if !name.text().is_empty() {
            let messages = names::port_name(name.text());
            if messages.is_empty() && !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
            errors.messages(&name, messages);
        }
        let number = port.get("containerPort");
        if number.int().unwrap_or(0) == 0 {
            errors.push(number.required(""));
        } else {
            errors.port(&number);
        }
        if port.get("hostPort").int().unwrap_or(0) != 0 {
            errors.port(&port.get("hostPort"));
        }
        errors.one_of(&port.get("protocol"), PROTOCOLS);
    }
}

fn host_port_conflicts<'a>(containers: impl Iterator<Item = Node<'a>>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for container in containers {
        for port in container.get("ports").each() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|n| *n != 0) else {
                continue;
            };
            let key = format!(
                "{}/{}/{number}",
                port.get("protocol").text(),
                port.get("hostIP").text()
            );
            if !seen.insert(key.clone()) {
                errors.push(FieldError::duplicate(&host.path, key));
            }
        }
    }
}

fn environment(container: &Node<'_>, errors: &mut Errors) {
    for variable in container.get("env").each() {
        let name = variable.get("name");
        if errors.require(&name) {
            errors.messages(&name, names::env_name(name.text()));
        }
        value_from(&variable, errors);
    }
    let from = container.get("envFrom");
    for source in from.each() {
        let prefix = source.get("prefix");
        if !prefix.text().is_empty() {
            errors.messages(&prefix, names::env_name(prefix.text()));
        }
        let mut sources = 0;
        for field in ["configMapRef", "secretRef"] {
            let reference = source.get(field);
            if reference.is_set() {
                sources += 1;
                let name = reference.get("name");
                if errors.require(&name) {
                    let masked = names::mask_trailing_dash(name.text());
                    errors.messages(&name, names::dns_subdomain(&masked));
                }
            }
        }
        // Upstream gives the list's path here, not the element's.
        match sources {
            0 => errors.push(FieldError::invalid(
                &from.path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                &from.path,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(variable: &Node<'_>, errors: &mut Errors) {
    let from = variable.get("valueFrom");
    if !from.is_set() {
        return;
    }
    let mut sources = 0;
    let field = from.get("fieldRef");
    if field.is_set() {
        sources += 1;
        field_ref(&field, ENV_FIELDS, errors);
    }
    let resource = from.get("resourceFieldRef");
    if resource.is_set() {
        sources += 1;
        resource_field_ref(&resource, InVolume::No, errors);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let key_ref = from.get(name);
        if key_ref.is_set() {
            sources += 1;
            let (name, key) = (key_ref.get("name"), key_ref.get("key"));
            errors.messages(&name, names::dns_subdomain(name.text()));
            if errors.require(&key) {
                errors.messages(&key, names::config_key(key.text()));
            }
        }
    }
    sources += usize::from(from.get("fileKeyRef").is_set());
    let refuse = |detail: &str| FieldError::invalid(&from.path, "", detail);
    if sources == 0 {
        errors.push(refuse(
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if variable.get("value").len() > 0 {
        errors.push(refuse("may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(refuse(
            "may not have more than one field specified at a time",
        ));
    }
}

/// The field labels of pods that upstream converts; the rest can't be named in a fieldRef at all.
const POD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub(super) fn field_ref(reference: &Node<'_>, allowed: &[&str], errors: &mut Errors) {
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    if !errors.require(&version) || !errors.require(&path) {
        return;
    }
    if version.text() != "v1" {
        return errors.push(path.invalid(format!(
            "error converting fieldPath: unsupported pod version: {}",
            version.text()
        )));
    }
    let subscripted = path
        .text()
        .strip_suffix(']')
        .and_then(|p| p.split_once("['"));
    let (base, subscript) = match subscripted {
        Some((base, key)) if key.ends_with('\'') => (base, Some(&key[..key.len() - 1])),
        _ => (path.text(), None),
    };
    if !POD_FIELDS.contains(&base) {
        return errors.push(path.invalid(format!(
            "error converting fieldPath: field label not supported: {}",
            path.text()
        )));
    }
    match (subscript, base) {
        (Some(key), "metadata.annotations") => {
            for message in names::qualified_name(&key.to_lowercase()) {
                errors.push(FieldError::invalid(
                    &reference.path,
                    key.to_lowercase(),
                    message,
                ));
            }
        }
        (Some(key), "metadata.labels") => {
            for message in names::qualified_name(key) {
                errors.push(FieldError::invalid(&reference.path, key, message));
            }
        }
        (Some(_), _) => errors.push(FieldError::invalid(
            &reference.path,
            base,
            "does not support subscript",
        )),
        (None, _) if !allowed.contains(&base) => errors.push(path.not_supported(allowed)),
        (None, _) => {}
    }
}

/// Whether a resource is named in a volume, where the container must be named too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InVolume {
    Yes,
    No,
}

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZE_DIVISORS: &[&str] = &[
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

pub(super) fn resource_field_ref(reference: &Node<'_>, volume: InVolume, errors: &mut Errors) {
    let (container, resource) = (reference.get("containerName"), reference.get("resource"));
    let name = resource.text();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if volume == InVolume::Yes && container.text().is_empty() {
        errors.push(container.required(""));
    } else if name.is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCE_FIELDS.contains(&name) && !huge {
        errors.push(resource.not_supported(RESOURCE_FIELDS));
    }
    let divisor = reference.get("divisor");
    if Quantity::of(Some(divisor.value)).is_zero() {
        return;
    }
    let (what, allowed): (&str, &[&str]) = match name.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => ("cpu", &["1m", "1"]),
        "memory" => ("memory", SIZE_DIVISORS),
        "ephemeral-storage" => ("local ephemeral storage", SIZE_DIVISORS),
        _ if huge => ("hugepages", SIZE_DIVISORS),
        _ => return,
    };
    if !allowed.contains(&divisor.text()) {
        let values = if what == "cpu" {
            "1m and 1".to_owned()
        } else {
            allowed.join(", ")
        };
        let detail =
            format!("only divisor's values {values} are supported with the {what} resource");
        errors.push(FieldError::invalid(&divisor.path, name, detail));
    }
}

fn probes(container: &Node<'_>, errors: &mut Errors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(kind);
        if !probe.is_set() {
            continue;
        }
        handler(&probe, errors);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errors.non_negative(&probe.get(field));
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|n| n <= 0) {
            errors.push(grace.invalid("must be greater than 0"));
        }
        let success = probe.get("successThreshold");
        if kind == "readinessProbe" {
            if grace.is_set() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else if success.int().unwrap_or(0) != 1 {
            errors.push(FieldError::invalid(
                &success.path,
                success.int().unwrap_or(0),
                "must be 1",
            ));
        }
    }
}

fn handler(probe: &Node<'_>, errors: &mut Errors) {
    let mut any = false;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc"] {
        let action = probe.get(kind);
        if !action.is_set() {
            continue;
        }
        if any {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        any = true;
        match kind {
            "exec" => {
                errors.require(&action.get("command"));
            }
            "httpGet" => http_get(&action, errors),
            "tcpSocket" => port_or_name(&action.get("port"), errors),
            _ => errors.port(&action.get("port")),
        }
    }
    if !any {
        errors.push(probe.required("must specify a handler type"));
    }
}

fn http_get(action: &Node<'_>, errors: &mut Errors) {
    errors.require(&action.get("path"));
    port_or_name(&action.get("port"), errors);
    let scheme = action.get("scheme");
    if !matches!(scheme.text(), "HTTP" | "HTTPS") {
        errors.push(scheme.not_supported(&["HTTP", "HTTPS"]));
    }
    for header in action.get("httpHeaders").each() {
        let name = header.get("name").text();
        for message in names::http_header(name) {
            errors.push(FieldError::invalid(
                action.path.child("httpHeaders"),
                name,
                message,
            ));
        }
    }
}

/// A port's number, or the name of one.
pub(in super::super) fn port_or_name(port: &Node<'_>, errors: &mut Errors) {
    match port.value {
        Value::String(name) => errors.messages(port, names::port_name(name)),
        _ => errors.port(port),
    }
}

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Standard elsewhere (in quotas), not for containers.
const QUOTA: &[&str] = &[
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn resources(resources: &Node<'_>, errors: &mut Errors) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (name, quantity) in limits.entries() {
        resource_name(name, &quantity, errors);
        resource_value(name, &quantity, errors);
    }
    for (name, quantity) in requests.entries() {
        resource_name(name, &quantity, errors);
        resource_value(name, &quantity, errors);
        let overcommit = STANDARD.contains(&name);
        let refuse =
            |detail: String| FieldError::invalid(&requests.path, quantity.value.clone(), detail);
        match limits.value.get(name) {
            Some(limit) => {
                let shown = limit.as_str().unwrap_or_default();
                let (want, most) = (
                    Quantity::of(Some(quantity.value)),
                    Quantity::of(Some(limit)),
                );
                if want != most && !overcommit {
                    errors.push(refuse(format!("must be equal to {name} limit of {shown}")));
                } else if want > most {
                    errors.push(refuse(format!(
                        "must be less than or equal to {name} limit of {shown}"
                    )));
                }
            }
            None if !overcommit => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
    }
    let has = |wanted: fn(&str) -> bool| {
        limits
            .map()
            .into_iter()
            .chain(requests.map())
            .any(|m| m.keys().any(|k| wanted(k)))
    };
    if has(|k| k.starts_with("hugepages-")) && !has(|k| matches!(k, "cpu" | "memory")) {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
}

fn resource_name(name: &str, quantity: &Node<'_>, errors: &mut Errors) {
    let invalid = |detail: &str| FieldError::invalid(&quantity.path, name, detail);
    let messages = names::qualified_name(name);
    let malformed = !messages.is_empty();
    for message in messages {
        errors.push(invalid(&message));
    }
    let for_containers = STANDARD.contains(&name) || name.starts_with("hugepages-");
    match name.split_once('/') {
        None if !for_containers => {
            if !malformed && !QUOTA.contains(&name) {
                errors.push(invalid(
                    "must be a standard resource type or fully qualified",
                ));
            }
            errors.push(invalid("must be a standard resource for containers"));
        }
        Some((domain, _))
            if !domain.ends_with("kubernetes.io") && name.starts_with("requests.") =>
        {
            errors.push(invalid("doesn't follow extended resource name standard"));
        }
        _ => {}
    }
}

fn resource_value(name: &str, quantity: &Node<'_>, errors: &mut Errors) {
    let value = Quantity::of(Some(quantity.value));
    if value < Quantity::ZERO {
        errors.push(quantity.invalid("must be greater than or equal to 0"));
    }
    let whole = name.contains('/')
        && !name
            .split('/')
            .next()
            .is_some_and(|d| d.ends_with("kubernetes.io"));
    if whole && !value.is_whole() {
        errors.push(quantity.invalid("must be an integer"));
    }
}

/// Guaranteed, Burstable or BestEffort, from the requests and limits of all containers.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = Node::root(pod).get("spec");
    let (mut requests, mut limits): (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) =
        Default::default();
    let mut guaranteed = true;
    for container in spec
        .get("containers")
        .each()
        .chain(spec.get("initContainers").each())
    {
        let resources = container.get("resources");
        let counted = |from: &str, into: &mut BTreeMap<String, Quantity>| {
            let mut found = BTreeSet::new();
            for (name, value) in resources.get(from).entries() {
                let value = Quantity::of(Some(value.value));
                if matches!(name, "cpu" | "memory") && value > Quantity::ZERO {
                    let sum = into.entry(name.to_owned()).or_default();
                    *sum = *sum + value;
                    found.insert(name.to_owned());
                }
            }
            found
        };
        counted("requests", &mut requests);
        guaranteed &= counted("limits", &mut limits).len() == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests
        .iter()
        .all(|(name, value)| limits.get(name) == Some(value));
    if guaranteed && equal && requests.len() == limits.len() {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
