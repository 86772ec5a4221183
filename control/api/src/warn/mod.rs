//! What a client is warned of: fields that do nothing, do less than they seem to, or are on their way out.
//!
//! A warning never refuses. The texts are upstream's, `path.to.field: message`. Pods are warned of when they are
//! made, not when they are changed: then it is mostly machines that write them.

mod addresses;
mod metadata;
mod owners;
mod pod;
mod ports;
mod services;
mod volumes;

pub use owners::{Stage, dedup_owner_references};

use crate::{Resource, Value, quantity::Canonical, validate::node::Node};

/// What to tell about a new object, as it is after defaulting and admission.
pub fn on_create(resource: &Resource, object: &Value) -> Vec<String> {
    let root = Node::root(object);
    let mut warnings = Vec::new();
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Pod") => {
            metadata::hostname(
                &root,
                "this is used in the Pod's hostname, which can result in surprising behavior",
                &mut warnings,
            );
            pod::pod(&root, &mut warnings);
        }
        ("apps", "Deployment" | "ReplicaSet") | ("", "ReplicationController") => {
            metadata::hostname(
                &root,
                "this is used in Pod names and hostnames, which can result in surprising behavior",
                &mut warnings,
            );
            pod::pod(&root.get("spec").get("template"), &mut warnings);
        }
        ("apps", "DaemonSet") => pod::pod(&root.get("spec").get("template"), &mut warnings),
        ("", "ResourceQuota") => quota(&root, &mut warnings),
        ("discovery.k8s.io", "EndpointSlice") => {
            if root.get("addressType").text() == "FQDN" {
                warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
            }
            addresses::slice(&root, &mut warnings);
        }
        _ => both(resource, &root, None, &mut warnings),
    }
    warnings
}

/// What to tell about a change through the main resource or a subresource.
pub fn on_update(
    resource: &Resource,
    new: &Value,
    old: &Value,
    subresource: Option<&str>,
) -> Vec<String> {
    let (root, before) = (Node::root(new), Node::root(old));
    let mut warnings = Vec::new();
    let kind = (resource.group.as_str(), resource.kind.as_str());
    match (kind, subresource) {
        (("", "Pod"), Some("status")) => {
            for field in ["podIPs", "hostIPs"] {
                for address in root.get("status").get(field).each() {
                    addresses::ip(&address.get("ip"), &mut warnings);
                }
            }
        }
        (("", "Service"), Some("status")) => {
            let ingress = root.get("status").get("loadBalancer").get("ingress");
            for (i, address) in ingress.each().enumerate() {
                // Upstream's path ends at the index.
                let ip = address.get("ip");
                addresses::ip_at(&ingress.path.index(i), ip.text(), &mut warnings);
            }
        }
        (_, Some(_)) | (("", "Pod" | "ResourceQuota"), None) => {}
        (("apps", "Deployment" | "ReplicaSet") | ("", "ReplicationController"), None) => {
            if crate::meta::generation(new) != crate::meta::generation(old) {
                pod::pod(&root.get("spec").get("template"), &mut warnings);
            }
        }
        (("apps", "DaemonSet"), None) => {
            let template = |object: &Value| object.pointer("/spec/template").cloned();
            if template(new) != template(old) {
                pod::pod(&root.get("spec").get("template"), &mut warnings);
            }
        }
        (("discovery.k8s.io", "EndpointSlice"), None) => addresses::slice(&root, &mut warnings),
        (_, None) => both(resource, &root, Some(&before), &mut warnings),
    }
    warnings
}

/// Kinds that are warned of in the same way whether they are new or changed.
fn both(
    resource: &Resource,
    root: &Node<'_>,
    before: Option<&Node<'_>>,
    warnings: &mut Vec<String>,
) {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Service") => services::service(root, warnings),
        ("", "Endpoints") => addresses::endpoints(root, warnings),
        ("", "Secret") => metadata::secret(root, warnings),
        ("", "ServiceAccount") => metadata::mountable_secrets(root, before, warnings),
        ("", "Node") => {
            let spec = root.get("spec");
            if spec.get("configSource").is_set() {
                warnings.push("spec.configSource: the feature is removed".to_owned());
            }
            if !spec.get("externalID").text().is_empty() {
                warnings.push(
                    "spec.externalID: this field is deprecated, and is unused by Kubernetes"
                        .to_owned(),
                );
            }
            for range in spec.get("podCIDRs").each() {
                addresses::cidr(&range, warnings);
            }
        }
        (group, _) if group.contains('.') && !group.ends_with(".k8s.io") => {
            metadata::finalizers(root, before, warnings);
        }
        _ => {}
    }
}

fn quota(root: &Node<'_>, warnings: &mut Vec<String>) {
    let hard = root.get("spec").get("hard");
    let figure = |name: &str| {
        let value = hard.value.get(name)?;
        Some((name.to_owned(), Canonical::of(Some(value))))
    };
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let bare = || {
            (name != "ephemeral-storage")
                .then(|| figure(name))
                .flatten()
        };
        let request = figure(&format!("requests.{name}")).or_else(bare);
        let limit = figure(&format!("limits.{name}"));
        if let (Some((request_name, request)), Some((limit_name, limit))) = (request, limit)
            && request.number > limit.number
        {
            warnings.push(format!(
                "ResourceQuota {request_name} ({request}) should be less than {limit_name} ({limit})"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
