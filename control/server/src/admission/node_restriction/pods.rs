//! Pods that a node writes: mirrors of its own files, and the statuses of those that run on it.

use kernelet_api::{ApiError, Value, meta};

use super::super::{Operation, Request};
use crate::authz::node::{PodRefs, collect, is_mirror};

pub(super) fn node_of(pod: &Value) -> &str {
    pod.pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub fn check(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), ApiError> {
    let refuse = |why: String| Err(request.forbidden(meta::name(pod), why));
    match request.operation {
        Operation::Create => mirror(request, node, pod),
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

fn mirror(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), ApiError> {
    let refuse = |why: String| Err(request.forbidden(meta::name(pod), why));
    if !is_mirror(pod) {
        return refuse(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if node_of(pod) != node {
        return refuse(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = pod
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let owner = match owners {
        [owner] => owner,
        [] => {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return refuse(format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        ));
    }
    if owner["controller"] != true {
        return refuse(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let nodes = request.state.cache.resource("nodes");
    let Some(found) = nodes.and_then(|nodes| nodes.get(node)) else {
        return Err(ApiError::not_found("", "nodes", node));
    };
    let uid = owner["uid"].as_str().unwrap_or_default();
    if *found.index.uid != *uid {
        return refuse(format!(
            "node {node} UID mismatch: expected {uid} got {}",
            found.index.uid
        ));
    }
    match api_reference(pod) {
        Some(what) => refuse(format!(
            "node {node:?} can not create pods that reference {what}"
        )),
        None => Ok(()),
    }
}

/// What a pod refers to in the API: what a node must not give itself access to by making pods.
fn api_reference(pod: &Value) -> Option<&'static str> {
    let mut refs = PodRefs::default();
    collect(pod, &mut refs);
    if !refs.service_account.is_empty() {
        return Some("serviceaccounts");
    }
    if !refs.secrets.is_empty() {
        return Some("secrets");
    }
    if !refs.config_maps.is_empty() {
        return Some("configmaps");
    }
    let list = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    if !list(pod, "/spec/resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    let has = |value: &Value, field: &str| value.get(field).is_some_and(Value::is_object);
    list(pod, "/spec/volumes").iter().find_map(|volume| {
        for (kind, what) in [
            ("configMap", "configmaps (via configmap volumes)"),
            ("secret", "secrets (via secret volumes)"),
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            (
                "ephemeral",
                "persistentvolumeclaims (via ephemeral volumes)",
            ),
            ("azureFile", "secrets (via azureFile volumes)"),
        ] {
            if has(volume, kind) {
                return Some(what);
            }
        }
        list(volume, "/projected/sources")
            .iter()
            .find_map(|source| {
                [
                    ("configMap", "configmaps (via projected volumes)"),
                    ("secret", "secrets (via projected volumes)"),
                    (
                        "serviceAccountToken",
                        "serviceaccounts (via projected volumes)",
                    ),
                    ("clusterTrustBundle", "clustertrustbundles"),
                    ("podCertificate", "podcertificates"),
                ]
                .into_iter()
                .find_map(|(kind, what)| has(source, kind).then_some(what))
            })
    })
}

pub fn status(
    request: &Request<'_>,
    node: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let refuse = |why: String| Err(request.forbidden(meta::name(new), why));
    let old = old.unwrap_or(new);
    if node_of(old) != node {
        return refuse(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels = |pod: &Value| {
        meta::labels(pod)
            .filter(|labels| !labels.is_empty())
            .cloned()
    };
    if labels(new) != labels(old) {
        return refuse(format!(
            "node {node:?} cannot update labels through pod status"
        ));
    }
    let claims = |pod: &Value| pod.pointer("/status/resourceClaimStatuses").cloned();
    if claims(new) != claims(old) {
        return refuse(format!(
            "node {node:?} cannot update resource claim statues"
        ));
    }
    Ok(())
}
