//! Downward API: `fieldRef` and `resourceFieldRef`.

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, ResourceFieldSelector};

use crate::{
    Wanted, quantity,
    resources::{limited, requested},
};

/// What a field path may speak of that the object itself doesn't hold.
#[derive(Clone, Debug, Default)]
pub struct RuntimeFields<'a> {
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    pub node_name: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Unsupported(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("divisor of {0} is zero")]
    Divisor(String),
}

/// A field's value; an absent label or annotation is the empty string, as upstream has it.
pub fn field(
    wanted: &Wanted,
    selector: &ObjectFieldSelector,
    now: &RuntimeFields<'_>,
) -> Result<String, FieldError> {
    let meta = &wanted.pod.metadata;
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(FieldError::Unsupported(path.to_owned())),
        };
        return Ok(map
            .as_ref()
            .and_then(|m| m.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => wanted.name().to_owned(),
        "metadata.namespace" => wanted.namespace().to_owned(),
        "metadata.uid" => wanted.uid().to_owned(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => now.node_name.to_owned(),
        "spec.serviceAccountName" => wanted
            .spec()
            .service_account_name
            .clone()
            .unwrap_or_default(),
        "status.hostIP" => now.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => now.host_ips.join(","),
        "status.podIP" => now.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => now.pod_ips.join(","),
        _ => return Err(FieldError::Unsupported(path.to_owned())),
    })
}

/// `metadata.labels['key']` into its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// As upstream's `FormatMap`: sorted lines of `key="value"`, Go-quoted.
fn format_map(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", go_quote(v)))
        .collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A container's resource, divided by the divisor and rounded up; an absent limit is the node's.
pub fn resource(
    wanted: &Wanted,
    own: &Container,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => own,
        Some(name) => {
            wanted
                .container(name)
                .ok_or_else(|| FieldError::NoContainer(name.to_owned()))?
                .1
        }
    };
    let name = selector.resource.as_str();
    let unsupported = || FieldError::Resource(name.to_owned());
    let (list, resource) = name.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let given = match list {
        "limits" => limited(resources, resource),
        "requests" => requested(resources, resource),
        _ => return Err(unsupported()),
    };
    let milli = given
        .and_then(quantity::milli)
        .unwrap_or_else(|| match (list, resource) {
            ("limits", "cpu") => i128::from(wanted.node.cpus) * 1000,
            ("limits", "memory") => i128::from(wanted.node.memory_bytes) * 1000,
            _ => 0,
        });
    if !matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        && !resource.starts_with("hugepages-")
    {
        return Err(unsupported());
    }
    let divisor = match &selector.divisor {
        Some(q) if quantity::milli(q).is_some_and(|m| m > 0) => quantity::milli(q).unwrap_or(1000),
        Some(q) if quantity::milli(q).is_none_or(|m| m < 0) => {
            return Err(FieldError::Divisor(name.to_owned()));
        }
        _ => 1000,
    };
    Ok(((milli + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wanted;

    #[test]
    fn field_paths_read_as_upstream_reads_them() {
        let wanted = wanted(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u-1", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "a"}]}}));
        let (pod, host) = (
            ["10.0.0.1".to_owned(), "fd00::1".to_owned()],
            ["192.0.2.1".to_owned()],
        );
        let now = RuntimeFields {
            pod_ips: &pod,
            host_ips: &host,
            node_name: "n",
        };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u-1"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['c']", ""),
            ("metadata.labels", "a=\"x\\\"y\"\nb=\"2\""),
            ("metadata.annotations", ""),
            ("spec.nodeName", "n"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd00::1"),
            ("status.hostIP", "192.0.2.1"),
        ] {
            let selector = ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            };
            assert_eq!(
                field(&wanted, &selector, &now).as_deref(),
                Ok(expected),
                "{path}"
            );
        }
        let selector = ObjectFieldSelector {
            field_path: "spec.foo".to_owned(),
            api_version: None,
        };
        assert_eq!(
            field(&wanted, &selector, &now),
            Err(FieldError::Unsupported("spec.foo".to_owned()))
        );
    }

    #[test]
    fn resources_divide_and_round_up_and_default_to_the_node() {
        let wanted = wanted(serde_json::json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "250m", "memory": "100Mi"}}}, {"name": "b"}]}}));
        for (container, resource_name, divisor, expected) in [
            (None, "limits.cpu", None, "1"),
            (None, "limits.cpu", Some("1m"), "250"),
            (None, "limits.memory", Some("1Mi"), "100"),
            (None, "limits.memory", None, "104857600"),
            (None, "requests.cpu", None, "0"),
            (Some("b"), "limits.cpu", None, "2"),
            (Some("b"), "limits.memory", Some("1Gi"), "4"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: container.map(str::to_owned),
                divisor: divisor
                    .map(|d| k8s_openapi::apimachinery::pkg::api::resource::Quantity(d.to_owned())),
                resource: resource_name.to_owned(),
            };
            let own = &wanted.spec().containers[0];
            assert_eq!(
                resource(&wanted, own, &selector).as_deref(),
                Ok(expected),
                "{resource_name} {divisor:?}"
            );
        }
    }
}
