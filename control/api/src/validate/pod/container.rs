//! Containers: images, ports, environment, probes, resources.

use super::{
    super::{
        names,
        node::{Errors, Node},
    },
    ephemeral, handlers, resize, resources, security, volume,
};
use crate::{FieldError, quantity::Quantity};
use std::collections::BTreeSet;

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
        handlers::lifecycle(spec, &container, errors);
        handlers::probes(&container, errors);
        handlers::restart_policy(&container, errors);
    }
    host_port_conflicts(list.each(), errors);
    for container in spec.get("initContainers").each() {
        common(spec, &container, volumes, errors);
        let name = container.get("name");
        if !name.text().is_empty() && !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        host_port_conflicts(std::iter::once(container.clone()), errors);
        handlers::restart_policy(&container, errors);
        if container.get("restartPolicy").text() == "Always" {
            handlers::lifecycle(spec, &container, errors);
            handlers::probes(&container, errors);
        } else {
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
    ephemeral::containers(spec, volumes, &seen, errors);
}

pub(super) fn common(
    spec: &Node<'_>,
    container: &Node<'_>,
    volumes: &BTreeSet<&str>,
    errors: &mut Errors,
) {
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
    resources::resources(&container.get("resources"), errors);
    resize::policy(spec, container, errors);
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
