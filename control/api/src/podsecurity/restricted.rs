//! What the level `restricted` demands: the hardening that a pod has to say itself.

use std::collections::BTreeSet;

use super::{
    Finding, Subject,
    baseline::{self, SECCOMP, capability_list},
    containers, finding, flag, name, plural, quoted, setters,
};
use crate::Value;

pub(super) fn escalation(pod: &Subject<'_>) -> Option<Finding> {
    const FIELD: &str = "/securityContext/allowPrivilegeEscalation";
    let bad = pod.bad(|container| flag(container, FIELD) != Some(false));
    if bad.is_empty() {
        return None;
    }
    let who = containers(&bad);
    finding(
        "allowPrivilegeEscalation != false",
        format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

pub(super) fn capabilities(pod: &Subject<'_>) -> Option<Finding> {
    let keeping = pod.bad(|container| !capability_list(container, "drop").any(|c| c == "ALL"));
    let mut forbidden: BTreeSet<&str> = BTreeSet::new();
    let adding = pod.bad(|container| {
        let added: Vec<&str> = capability_list(container, "add")
            .filter(|capability| *capability != "NET_BIND_SERVICE")
            .collect();
        forbidden.extend(&added);
        !added.is_empty()
    });
    let mut parts = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        parts.push(format!(
            "{who} must set securityContext.capabilities.drop=[\"ALL\"]"
        ));
    }
    if !adding.is_empty() {
        parts.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(forbidden)
        ));
    }
    if parts.is_empty() {
        return None;
    }
    finding("unrestricted capabilities", parts.join("; "))
}

const GOOD_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const BAD_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn volumes(pod: &Subject<'_>) -> Option<Finding> {
    let list = pod.spec.get("volumes").and_then(Value::as_array);
    let is = |volume: &Value, source: &&str| volume.get(*source).is_some_and(|s| !s.is_null());
    let bad: Vec<&Value> = list
        .into_iter()
        .flatten()
        .filter(|volume| !GOOD_VOLUMES.iter().any(|source| is(volume, source)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = bad
        .iter()
        .map(|volume| {
            let mut sources = BAD_VOLUMES.iter();
            sources
                .find(|source| is(volume, source))
                .copied()
                .unwrap_or("unknown")
        })
        .collect();
    finding(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            quoted(bad.iter().map(|volume| name(volume))),
            plural("uses", "use", bad.len()),
            plural(
                "restricted volume type",
                "restricted volume types",
                types.len()
            ),
            quoted(types)
        ),
    )
}

pub(super) fn non_root(pod: &Subject<'_>) -> Option<Finding> {
    const FIELD: &str = "/securityContext/runAsNonRoot";
    const REASON: &str = "runAsNonRoot != true";
    let own = flag(pod.spec, FIELD);
    let rooted = pod.bad(|container| flag(container, FIELD) == Some(false));
    if let Some(who) = setters(own == Some(false), &rooted) {
        return finding(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = pod.bad(|container| flag(container, FIELD).is_none());
    if own == Some(true) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    finding(
        REASON,
        format!("pod or {who} must set securityContext.runAsNonRoot=true"),
    )
}

pub(super) fn user(pod: &Subject<'_>) -> Option<Finding> {
    let is_root = |value: &Value| {
        let user = value.pointer("/securityContext/runAsUser");
        user.and_then(Value::as_i64) == Some(0)
    };
    let bad = pod.bad(is_root);
    let who = setters(is_root(pod.spec), &bad)?;
    finding("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn seccomp(pod: &Subject<'_>) -> Option<Finding> {
    if let Some(set) = baseline::seccomp(pod) {
        return Some(set);
    }
    let is_set = |profile: Option<&Value>| profile.is_some_and(Value::is_object);
    let silent = pod.bad(|container| !is_set(container.pointer(SECCOMP)));
    if is_set(pod.at(SECCOMP)) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    finding(
        "seccompProfile",
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    )
}
