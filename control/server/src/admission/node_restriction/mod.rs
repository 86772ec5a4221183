//! NodeRestriction: a node writes its own Node, Lease and pods' statuses, and asks for what its own pods need.

mod pods;
mod token;

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::{ApiError, Value, meta};
use kernelet_pki::csr_identity;

use super::{Operation, Request};
use crate::authz::node::LEASES;

/// Label prefixes that nodes may set on themselves among the reserved ones.
const OWN_LABELS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const KNOWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Judges a write of `node`; for deletions and evictions `new` is the object that is to go.
pub fn check(
    request: &Request<'_>,
    node: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let name = meta::name(new);
    let refuse = |why: String| Err(request.forbidden(name, why));
    match (
        request.resource.group.as_str(),
        request.resource.plural.as_str(),
        request.subresource,
    ) {
        ("", "pods", "") => pods::check(request, node, new),
        ("", "pods", "status") => pods::status(request, node, new, old),
        ("", "pods", "eviction") if pods::node_of(new) != node => refuse(format!(
            "node {node} can only evict pods with spec.nodeName set to itself"
        )),
        ("", "pods", "eviction") => Ok(()),
        ("", "pods", other) => refuse(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("", "nodes", _) => nodes(request, node, new, old),
        ("", "persistentvolumeclaims", "status") => claim_status(request, node, new, old),
        ("", "persistentvolumeclaims", _) => refuse("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") => token::check(request, node, new),
        ("coordination.k8s.io", "leases", _) => {
            if request.namespace != LEASES {
                return refuse(format!(
                    "can only access leases in the {LEASES:?} system namespace"
                ));
            }
            if name != node {
                return refuse(
                    "can only access node lease with the same name as the requesting node"
                        .to_owned(),
                );
            }
            Ok(())
        }
        ("storage.k8s.io", "csinodes", _) if name != node => {
            refuse("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("certificates.k8s.io", "certificatesigningrequests", "")
            if request.operation == Operation::Create =>
        {
            certificate(request, node, new)
        }
        _ => Ok(()),
    }
}

fn nodes(
    request: &Request<'_>,
    node: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let name = meta::name(new);
    let refuse = |why: String| Err(request.forbidden(name, why));
    if name != node {
        return refuse(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        ));
    }
    let source = |node: &Value| {
        node.pointer("/spec/configSource")
            .filter(|s| !s.is_null())
            .cloned()
    };
    let changed = restricted_changes(new, old).join(", ");
    match (request.operation, old) {
        (Operation::Create, _) => {
            if source(new).is_some() {
                return refuse(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            if !changed.is_empty() {
                return refuse(format!(
                    "node {node:?} is not allowed to set the following labels: {changed}"
                ));
            }
        }
        (Operation::Update, Some(old)) => {
            if source(new).is_some() && source(new) != source(old) {
                return refuse(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if list(new, "/spec/taints") != list(old, "/spec/taints") {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            let owners = "/metadata/ownerReferences";
            if list(new, owners) != list(old, owners) {
                return refuse(format!(
                    "node {node:?} is not allowed to modify ownerReferences"
                ));
            }
            if !changed.is_empty() {
                return refuse(format!("is not allowed to modify labels: {changed}"));
            }
        }
        _ => {}
    }
    Ok(())
}

/// A list; absent and empty are the same.
fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value
        .pointer(path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The labels that differ and that a node can't give or take itself, in order.
fn restricted_changes<'v>(new: &'v Value, old: Option<&'v Value>) -> Vec<&'v str> {
    let get = |object: Option<&'v Value>, key: &str| {
        object
            .and_then(meta::labels)
            .and_then(|labels| labels.get(key))
    };
    let keys = |object: Option<&'v Value>| {
        object
            .and_then(meta::labels)
            .into_iter()
            .flat_map(|labels| labels.keys().map(String::as_str))
    };
    let mut changed: Vec<&str> = keys(Some(new))
        .chain(keys(old))
        .filter(|key| get(Some(new), key) != get(old, key))
        .filter(|key| is_restricted(key))
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// Labels of the reserved domains that nodes can't give themselves.
fn is_restricted(key: &str) -> bool {
    if KNOWN_LABELS.contains(&key) {
        return false;
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |domain: &str, root: &str| domain == root || domain.ends_with(&format!(".{root}"));
    if within(domain, "node-restriction.kubernetes.io") {
        return true;
    }
    (within(domain, "kubernetes.io") || within(domain, "k8s.io"))
        && !OWN_LABELS.iter().any(|own| within(domain, own))
}

/// Of a claim's status a node writes what it has done to the volume's size.
fn claim_status(
    request: &Request<'_>,
    node: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (place, fields) in [
            ("/metadata", &["resourceVersion", "managedFields"][..]),
            (
                "/status",
                &[
                    "capacity",
                    "conditions",
                    "allocatedResourceStatuses",
                    "allocatedResources",
                ],
            ),
        ] {
            if let Some(map) = claim.pointer_mut(place).and_then(Value::as_object_mut) {
                map.retain(|field, _| !fields.contains(&field.as_str()));
            }
        }
        claim
    };
    if old.is_some_and(|old| rest(old) == rest(new)) {
        return Ok(());
    }
    let why = format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    );
    Err(request.forbidden(meta::name(new), why))
}

/// A node asks for a node's certificate in its own name only.
fn certificate(request: &Request<'_>, node: &str, csr: &Value) -> Result<(), ApiError> {
    let spec = |field: &str| {
        let value = csr.pointer(&format!("/spec/{field}"));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    if !matches!(
        spec("signerName"),
        "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet"
    ) {
        return Ok(());
    }
    let refuse = |why: String| Err(request.forbidden(meta::name(csr), why));
    let identity = STANDARD
        .decode(spec("request"))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|pem| csr_identity(&pem));
    match identity {
        None => {
            refuse("unable to parse csr: PEM block type must be CERTIFICATE REQUEST".to_owned())
        }
        Some(identity) if identity.common_name != format!("system:node:{node}") => refuse(format!(
            "can only create a node CSR with CN=system:node:{node}"
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_labels_are_the_administrators() {
        for (key, expect) in [
            ("app", false),
            ("example.com/x", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("a.node-restriction.kubernetes.io/x", true),
            ("foo.k8s.io/x", true),
            ("evilkubernetes.io/x", false),
        ] {
            assert_eq!(is_restricted(key), expect, "{key}");
        }
    }
}
