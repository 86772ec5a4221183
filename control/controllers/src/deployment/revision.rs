//! Which ReplicaSet is the deployment's current one, and how revisions are numbered.

use crate::{
    common::controller_reference,
    deployment::scale::{DESIRED, MAX, strategy, wanted},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
    core::v1::PodTemplateSpec,
};
use kube::{ResourceExt, api::ObjectMeta};
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Annotations of a deployment that say something about itself only.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
const HISTORY_BYTES: usize = 2000;

pub(crate) fn revision(set: &ReplicaSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(REVISION))
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

/// Whether the set was made from this template, give or take the label that names it.
pub(crate) fn is_from(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    own.is_some_and(|own| canonical(own) == canonical(template))
}

/// Absent and empty are the same to the API.
fn canonical(template: &PodTemplateSpec) -> Value {
    fn strip(value: Value) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::Array(items) => {
                let items: Vec<_> = items.into_iter().filter_map(strip).collect();
                (!items.is_empty()).then_some(Value::Array(items))
            }
            Value::Object(fields) => {
                let fields: serde_json::Map<_, _> = fields
                    .into_iter()
                    .filter_map(|(key, value)| Some((key, strip(value)?)))
                    .collect();
                (!fields.is_empty()).then_some(Value::Object(fields))
            }
            other => Some(other),
        }
    }
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(TEMPLATE_HASH);
    }
    let value = serde_json::to_value(&template).unwrap_or(Value::Null);
    strip(value).unwrap_or(Value::Null)
}

/// The oldest set made from the deployment's template: with several, choosing the oldest is the
/// same choice every time.
pub(crate) fn current(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let template = &deployment.spec.as_ref()?.template;
    let mut matching: Vec<_> = (0..sets.len())
        .filter(|at| is_from(&sets[*at], template))
        .collect();
    matching.sort_by_key(|at| age_order(&sets[*at]));
    matching.first().copied()
}

pub(crate) fn age_order(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    let created = set.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (created, set.name_any())
}

/// A new ReplicaSet for the deployment's template.
pub(crate) fn new_set(deployment: &Deployment, replicas: i32, revision: i64) -> ReplicaSet {
    let empty = Default::default();
    let spec = deployment.spec.as_ref().unwrap_or(&empty);
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions.unwrap_or(0));
    let mut template = spec.template.clone();
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(deployment, &mut set, revision);
    note_sizes(deployment, &mut set);
    set
}

/// Takes over the deployment's annotations and raises the revision; true when that changed
/// something.
pub(crate) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0);
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old {
            remember(annotations, &old);
        }
    }
    *annotations != before
}

/// Keeps the numbers that a set had before a rollback made it current again.
fn remember(annotations: &mut BTreeMap<String, String>, revision: &str) {
    let mut history: Vec<&str> = annotations
        .get(HISTORY)
        .map(|history| history.split(',').collect())
        .unwrap_or_default();
    history.push(revision);
    while history.iter().map(|r| r.len() + 1).sum::<usize>() > HISTORY_BYTES {
        history.remove(0);
    }
    let history = history.join(",");
    annotations.insert(HISTORY.to_owned(), history);
}

/// Notes the deployment's size on the set, so that a later change of it is recognised; true when
/// the note changed.
pub(crate) fn note_sizes(deployment: &Deployment, set: &mut ReplicaSet) -> bool {
    let desired = wanted(deployment);
    let max = desired + strategy(deployment).surge();
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut note = |key: &str, number: i32| {
        let number = number.to_string();
        annotations.insert(key.to_owned(), number.clone()) != Some(number)
    };
    let desired = note(DESIRED, desired);
    note(MAX, max) || desired
}

/// Ten characters at most, none of which can form a word; collisions are told apart by their
/// count. FNV-1a over the template's canonical JSON: stable across restarts and releases.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = canonical(template).to_string().into_bytes();
    if collisions > 0 {
        bytes.extend(collisions.to_le_bytes());
    }
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    hash.to_string()
        .bytes()
        .map(|digit| char::from(SAFE[usize::from(digit) % SAFE.len()]))
        .collect()
}
