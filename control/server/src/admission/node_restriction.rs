//! NodeRestriction: a node writes its own Node, Lease and pods' status, and gets tokens for its own pods alone.

use kernelet_api::{ApiError, Value, meta};

use super::{Operation, Request};

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
        ("", "pods", "") => pods(request, node, new),
        ("", "pods", "status") => {
            if node_of(old.unwrap_or(new)) != node {
                return refuse(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            if meta::labels(new) != old.and_then(meta::labels) {
                return refuse(format!(
                    "node {node:?} cannot update labels through pod status"
                ));
            }
            Ok(())
        }
        ("", "pods", "eviction") => Ok(()),
        ("", "nodes", _) => nodes(request, node, new, old),
        ("", "serviceaccounts", "token") => token(request, node, new),
        ("coordination.k8s.io", "leases", _) => {
            if request.namespace != "kube-node-lease" || name != node {
                return refuse(
                    "can only access node lease with the same name as the requesting node"
                        .to_owned(),
                );
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn node_of(pod: &Value) -> &str {
    pod.pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn pods(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), ApiError> {
    let refuse = |why: String| Err(request.forbidden(meta::name(pod), why));
    match request.operation {
        Operation::Create => {
            let mirror = meta::annotations(pod)
                .is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
            if !mirror {
                return refuse(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                ));
            }
            if node_of(pod) != node {
                return refuse(format!(
                    "node {node:?} can only create pods with spec.nodeName set to itself"
                ));
            }
            Ok(())
        }
        Operation::Delete if node_of(pod) != node => refuse(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        Operation::Delete => Ok(()),
        Operation::Update => refuse(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            "UPDATE"
        )),
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
    let empty = serde_json::Map::new();
    let labels = meta::labels(new).unwrap_or(&empty);
    let before = old.and_then(meta::labels).unwrap_or(&empty);
    let mut changed: Vec<&str> = labels
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(key, _)| key.as_str())
        .chain(
            before
                .keys()
                .filter(|key| !labels.contains_key(*key))
                .map(String::as_str),
        )
        .filter(|key| is_restricted(key))
        .collect();
    changed.sort_unstable();
    match request.operation {
        Operation::Create | Operation::Update if !changed.is_empty() => refuse(format!(
            "is not allowed to modify labels: {}",
            changed.join(", ")
        )),
        Operation::Update
            if old
                .is_some_and(|old| old.pointer("/spec/taints") != new.pointer("/spec/taints")) =>
        {
            refuse(format!("node {node:?} is not allowed to modify taints"))
        }
        _ => Ok(()),
    }
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

fn token(request: &Request<'_>, node: &str, token: &Value) -> Result<(), ApiError> {
    let refuse = |why: String| Err(request.forbidden(meta::name(token), why));
    let bound = |field: &str| {
        token
            .pointer(&format!("/spec/boundObjectRef/{field}"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if bound("kind") != "Pod" {
        return refuse("node requested token not bound to a pod".to_owned());
    }
    if bound("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid".to_owned());
    }
    let key = format!("{}/{}", request.namespace, bound("name"));
    let pods = request
        .state
        .cache
        .resource("pods")
        .ok_or_else(ApiError::page_not_found)?;
    let Some(pod) = pods.get(&key) else {
        return Err(ApiError::not_found("", "pods", bound("name")));
    };
    if *pod.index.uid != *bound("uid") {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            bound("uid")
        );
        return Err(ApiError::conflict("", "pods", bound("name"), why));
    }
    if node_of(&pod.tree()) != node {
        return refuse(
            "node requested token bound to a pod scheduled on a different node".to_owned(),
        );
    }
    Ok(())
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
            ("foo.k8s.io/x", true),
            ("evilkubernetes.io/x", false),
        ] {
            assert_eq!(is_restricted(key), expect, "{key}");
        }
    }
}
