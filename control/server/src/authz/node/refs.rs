//! What a pod refers to, and so gives its node access to.

use std::collections::BTreeSet;

use kernelet_api::{Value, meta};

use crate::cache::CachedObject;

/// The annotation of a pod that a node made of a file of its own.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a pod on a node refers to.
#[derive(Debug, Default)]
pub struct PodRefs {
    pub node: String,
    pub service_account: String,
    pub secrets: BTreeSet<String>,
    pub config_maps: BTreeSet<String>,
    pub claims: BTreeSet<String>,
}

/// Volumes with a Secret's name in this place of theirs.
const SECRETS_IN_VOLUMES: [&str; 11] = [
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/iscsi/secretRef/name",
    "/storageos/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/portworxVolume/secretRef/name",
];

pub fn refs(object: &CachedObject) -> Option<PodRefs> {
    let refs = refs_of(&object.tree());
    (!refs.node.is_empty()).then_some(refs)
}

/// The pod's references. A mirror pod has none: no node may give itself access by making pods.
pub fn refs_of(pod: &Value) -> PodRefs {
    let spec = &pod["spec"];
    let mut refs = PodRefs {
        node: text(spec, "/nodeName").unwrap_or_default(),
        ..PodRefs::default()
    };
    if is_mirror(pod) {
        return refs;
    }
    collect(pod, &mut refs);
    refs
}

pub fn is_mirror(pod: &Value) -> bool {
    meta::annotations(pod).is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// What the pod's spec names, whatever the pod is.
pub fn collect(pod: &Value, refs: &mut PodRefs) {
    let spec = &pod["spec"];
    refs.service_account = text(spec, "/serviceAccountName").unwrap_or_default();
    for pull in list(spec, "/imagePullSecrets") {
        refs.secrets.extend(text(pull, "/name"));
    }
    for volume in list(spec, "/volumes") {
        let named = |path: &&str| text(volume, path);
        refs.secrets
            .extend(SECRETS_IN_VOLUMES.iter().filter_map(named));
        refs.config_maps.extend(text(volume, "/configMap/name"));
        refs.claims
            .extend(text(volume, "/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some_and(Value::is_object) {
            // An ephemeral volume's claim is named after pod and volume.
            let name = text(volume, "/name").unwrap_or_default();
            refs.claims.insert(format!("{}-{name}", meta::name(pod)));
        }
        for source in list(volume, "/projected/sources") {
            refs.secrets.extend(text(source, "/secret/name"));
            refs.config_maps.extend(text(source, "/configMap/name"));
        }
    }
    for containers in ["/containers", "/initContainers", "/ephemeralContainers"] {
        for container in list(spec, containers) {
            for from in list(container, "/envFrom") {
                refs.secrets.extend(text(from, "/secretRef/name"));
                refs.config_maps.extend(text(from, "/configMapRef/name"));
            }
            for env in list(container, "/env") {
                refs.secrets
                    .extend(text(env, "/valueFrom/secretKeyRef/name"));
                refs.config_maps
                    .extend(text(env, "/valueFrom/configMapKeyRef/name"));
            }
        }
    }
}

fn text(value: &Value, path: &str) -> Option<String> {
    let text = value.pointer(path)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value
        .pointer(path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_refers_to_what_its_spec_names_and_a_mirror_pod_to_nothing() {
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {
                "nodeName": "a", "serviceAccountName": "sa",
                "volumes": [
                    {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
                    {"name": "d", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                    {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
                ],
                "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "cm"}}}]}],
            },
        });
        let refs = refs_of(&pod);
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(refs.service_account, "sa");
        assert_eq!(names(&refs.secrets), "csi projected");
        assert_eq!(names(&refs.config_maps), "cm");
        assert_eq!(names(&refs.claims), "claim p-scratch");
        pod["metadata"]["annotations"] = json!({MIRROR: "x"});
        let refs = refs_of(&pod);
        assert_eq!(refs.node, "a");
        assert!(
            refs.service_account.is_empty() && refs.secrets.is_empty() && refs.claims.is_empty()
        );
    }
}
