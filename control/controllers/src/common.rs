//! What several controllers need: their surroundings, owners, selectors, pods' readiness.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Pod, PodCondition, Taint, Toleration},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time},
};
use kernelet_client::{Index, Informers, is_not_found};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{Selector, SelectorExt},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug, time::Duration};
use tokio_util::sync::CancellationToken;

/// What every controller's loop stands on.
#[derive(Clone)]
pub(crate) struct Context {
    /// Writes go here, under the controllers' identity.
    pub client: Client,
    /// Reads come from here.
    pub informers: Informers,
    /// Pods by their controller's uid, or by `orphans_of` their namespace.
    pub pods_by_controller: Index<Pod>,
    pub pods_by_node: Index<Pod>,
    /// ReplicaSets by their controller's uid, or by `orphans_of` their namespace.
    pub sets_by_controller: Index<ReplicaSet>,
    pub shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn new(client: Client, informers: &Informers, shutdown: CancellationToken) -> Self {
        let pods = informers.all::<Pod>();
        let sets = informers.all::<ReplicaSet>();
        Self {
            client,
            informers: informers.clone(),
            pods_by_controller: pods.index(|pod| vec![controller_key(&pod.metadata)]),
            pods_by_node: pods.index(|pod| {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                node.filter(|node| !node.is_empty()).into_iter().collect()
            }),
            sets_by_controller: sets.index(|set| vec![controller_key(&set.metadata)]),
            shutdown,
        }
    }
}

/// The index key of an object: its controller's uid, or that of its namespace's orphans.
pub(crate) fn controller_key(meta: &ObjectMeta) -> String {
    match controller_of(meta) {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(meta.namespace.as_deref().unwrap_or_default()),
    }
}

/// The index key of a namespace's objects that have no controller.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("without/{namespace}")
}

/// What the API said, without the client's wrapping: for events and conditions.
pub(crate) fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// A request that failed: what was attempted, and the API's answer as its source.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}")]
pub(crate) struct Failed {
    attempted: String,
    pub source: kube::Error,
}

pub(crate) trait Attempt<T> {
    /// Says what was attempted when it failed.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failed>;
}

impl<T> Attempt<T> for kube::Result<T> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failed> {
        self.map_err(|source| Failed {
            attempted: what(),
            source,
        })
    }
}

/// Now, in the whole seconds that the API's times hold.
pub(crate) fn now() -> Timestamp {
    whole_seconds(Timestamp::now())
}

pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

pub(crate) fn time(now: Timestamp) -> Option<Time> {
    Some(Time(now))
}

/// Time from `from` to `to`; zero when `to` is earlier.
pub(crate) fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from).max(SignedDuration::ZERO)).unwrap_or_default()
}

pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(meta).is_some_and(|by| Some(&by.uid) == owner.uid.as_ref())
}

/// The reference that makes `owner` the controller of an object.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A label selector ready to match. What can't be parsed matches nothing, and so does an empty
/// selector: for a controller that would mean every pod of the namespace.
pub(crate) struct Matcher(Option<Selector>);

impl Matcher {
    pub(crate) fn new(selector: &LabelSelector) -> Self {
        let selector = Selector::try_from(selector.clone()).ok();
        Self(selector.filter(|selector| !selector.selects_all()))
    }

    /// For kinds where an empty selector selects everything.
    pub(crate) fn all_if_empty(selector: &LabelSelector) -> Self {
        Self(Selector::try_from(selector.clone()).ok())
    }

    pub(crate) fn matches(&self, object: &ObjectMeta) -> bool {
        self.matches_labels(object.labels.as_ref())
    }

    pub(crate) fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let empty = BTreeMap::new();
        self.0
            .as_ref()
            .is_some_and(|selector| selector.matches(labels.unwrap_or(&empty)))
    }
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == type_)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the pod has been ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether a pod has been ready for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// Ready, and available after this long if it stays so.
    In(Duration),
    NotReady,
}

pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    let wanted = Duration::from_secs(u64::try_from(min_ready_seconds).unwrap_or(0));
    let Some(ready_since) = ready_since(pod).filter(|_| !wanted.is_zero()) else {
        return if wanted.is_zero() {
            Availability::Available
        } else {
            Availability::NotReady
        };
    };
    match wanted.checked_sub(since(ready_since, now)) {
        None | Some(Duration::ZERO) => Availability::Available,
        Some(left) => Availability::In(left),
    }
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match text(&toleration.operator).as_str() {
            "Exists" => true,
            "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
            _ => false,
        }
}

/// The refusal that a namespace which is being deleted gives to every new object.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let cause = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403
        && (cause
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
            || status.message.contains("because it is being terminated"))
}

/// Writes an object's status, and nothing else of it: fields that the new status lacks are taken
/// away. An annotation may go with it. Returns without an error when the object is gone.
pub(crate) async fn write_status<K, S>(
    api: &Api<K>,
    object: &ObjectMeta,
    annotation: Option<(&str, String)>,
    old: Option<&S>,
    new: &S,
) -> kube::Result<()>
where
    K: Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let mut status = serde_json::to_value(new).map_err(kube::Error::SerdeError)?;
    let old = serde_json::to_value(old).map_err(kube::Error::SerdeError)?;
    if let (Some(status), Some(old)) = (status.as_object_mut(), old.as_object()) {
        for field in old.keys() {
            status.entry(field).or_insert(serde_json::Value::Null);
        }
    }
    // The uid keeps it off a namesake that came meanwhile.
    let mut patch = serde_json::json!({"metadata": {"uid": object.uid}, "status": status});
    if let Some((key, value)) = annotation {
        patch["metadata"]["annotations"] = serde_json::json!({key: value});
    }
    let name = object.name.as_deref().unwrap_or_default();
    let params = PatchParams::default();
    match api.patch_status(name, &params, &Patch::Merge(&patch)).await {
        Err(error) if is_not_found(&error) => Ok(()),
        result => result.map(drop),
    }
}
