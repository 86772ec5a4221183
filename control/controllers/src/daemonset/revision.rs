//! A DaemonSet's revisions: what one holds, which is the newest, which are kept. Pure.

use super::pod::HASH;
use crate::{common::controller_reference, deployment::template_hash};
use k8s_openapi::{
    api::apps::v1::{ControllerRevision, DaemonSet},
    apimachinery::pkg::runtime::RawExtension,
};
use kube::{ResourceExt, api::ObjectMeta};
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

/// The patch that brings a revision's template back, as `kubectl rollout undo` sends it.
fn data(set: &DaemonSet) -> Value {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut template = serde_json::to_value(template).unwrap_or(Value::Null);
    if let Some(map) = template.as_object_mut() {
        map.insert("$patch".to_owned(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

/// Whether the revision holds the DaemonSet's template.
pub(super) fn is_current(set: &DaemonSet, revision: &ControllerRevision) -> bool {
    revision.data.as_ref().map(|raw| &raw.0) == Some(&data(set))
}

/// The revisions of a DaemonSet, told apart.
pub(super) struct History {
    /// Those of its template; of several, the newest is last.
    pub current: Vec<Arc<ControllerRevision>>,
    /// All others, the oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
}

impl History {
    pub(super) fn of(set: &DaemonSet, revisions: Vec<Arc<ControllerRevision>>) -> Self {
        let (mut current, mut old): (Vec<_>, Vec<_>) =
            revisions.into_iter().partition(|r| is_current(set, r));
        let order = |r: &Arc<ControllerRevision>| (r.revision, r.name_any());
        current.sort_by_key(order);
        old.sort_by_key(order);
        Self { current, old }
    }

    /// The number of the newest revision.
    pub(super) fn number(&self) -> i64 {
        self.old.last().map_or(0, |last| last.revision) + 1
    }

    /// Old revisions beyond the limit, none of which has a pod left.
    pub(super) fn to_forget(&self, limit: i32, alive: &HashSet<&str>) -> Vec<&ControllerRevision> {
        let keep = usize::try_from(limit).unwrap_or(0);
        let surplus = self.old.len().saturating_sub(keep);
        let dead = self
            .old
            .iter()
            .filter(|revision| !alive.contains(hash_of(revision)));
        dead.take(surplus).map(Arc::as_ref).collect()
    }
}

pub(super) fn hash_of(revision: &ControllerRevision) -> &str {
    revision.labels().get(HASH).map_or("", String::as_str)
}

pub(super) fn new(set: &DaemonSet, number: i64) -> ControllerRevision {
    let template = set.spec.as_ref().map(|spec| spec.template.clone());
    let template = template.unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&template, collisions.unwrap_or(0));
    let mut labels = template.metadata.and_then(|m| m.labels).unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data(set))),
        revision: number,
    }
}
