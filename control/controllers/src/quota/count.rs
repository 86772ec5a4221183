//! One count of what a quota has used.

use crate::{common::now, inventory::Kind};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use kernelet_api::{
    Value, meta,
    quantity::Canonical,
    quota::{Counter, ResourceList, scopes_match},
};
use kube::{
    Client,
    api::{DynamicObject, ListParams},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What a count came to.
pub(super) struct Counted {
    pub status: ResourceQuotaStatus,
    /// When a pod that is being deleted ceases to count, if nothing else happens before.
    pub changes_after: Option<Duration>,
}

/// Kinds that quotas can name though nothing serves them: there are none of them.
const UNSERVED: [&str; 2] = ["persistentvolumeclaims", "replicationcontrollers"];

pub(super) async fn count(
    client: &Client,
    kinds: &[Kind],
    quota: &ResourceQuota,
) -> kube::Result<Counted> {
    let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
    let spec = quota.spec.clone().unwrap_or_default();
    let hard = spec.hard.clone().unwrap_or_default();
    let tree = serde_json::to_value(quota).map_err(kube::Error::SerdeError)?;
    let names = || hard.keys().map(String::as_str);
    let now = now();
    let mut used = ResourceList::new();
    let mut changes_after = None;
    let served = kinds.iter().filter(|kind| kind.namespaced);
    for kind in served {
        let (group, plural) = (kind.resource.group.as_str(), kind.resource.plural.as_str());
        let Some(counter) = Counter::of(group, plural) else {
            continue;
        };
        let wanted = counter.matching(names());
        if wanted.is_empty() {
            continue;
        }
        let (usage, end) = usage(client, kind, namespace, &counter, &tree, now).await?;
        sooner(&mut changes_after, end);
        add(&mut used, &wanted, &usage);
    }
    for plural in UNSERVED {
        if let Some(counter) = Counter::of("", plural) {
            add(&mut used, &counter.matching(names()), &ResourceList::new());
        }
    }
    let known = quota.status.as_ref().and_then(|s| s.used.clone());
    let mut all: BTreeMap<String, Quantity> = known.unwrap_or_default();
    all.retain(|name, _| hard.contains_key(name));
    all.extend(
        used.into_iter()
            .map(|(name, quantity)| (name, Quantity(quantity.to_string()))),
    );
    Ok(Counted {
        status: ResourceQuotaStatus {
            hard: Some(hard),
            used: Some(all),
        },
        changes_after,
    })
}

/// Each of the wanted resources, though nothing was used of it.
fn add(used: &mut ResourceList, wanted: &BTreeSet<String>, usage: &ResourceList) {
    for name in wanted {
        let sum = used.entry(name.clone()).or_insert(Canonical::ZERO);
        *sum = *sum + usage.get(name).copied().unwrap_or(Canonical::ZERO);
    }
}

fn sooner(time: &mut Option<Duration>, other: Option<Duration>) {
    *time = match (*time, other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

/// What all objects of a kind in the namespace use of the quota, and when that becomes less by itself.
async fn usage(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    counter: &Counter,
    quota: &Value,
    now: Timestamp,
) -> kube::Result<(ResourceList, Option<Duration>)> {
    let api = kind.api(client.clone(), namespace);
    let mut sum = ResourceList::new();
    if counter.needs_only_numbers() {
        // Objects that are all alike need not be read.
        if !scopes_match(counter, quota, &Value::Null) {
            return Ok((sum, None));
        }
        let list = api.list_metadata(&ListParams::default().limit(1)).await?;
        let more = list.metadata.remaining_item_count.unwrap_or(0);
        let number = i64::try_from(list.items.len()).unwrap_or(i64::MAX) + more;
        for (name, _) in counter.usage(&Value::Null, now) {
            sum.insert(name, Canonical::from_value(number));
        }
        return Ok((sum, None));
    }
    let mut end = None;
    for object in api.list(&ListParams::default()).await?.items {
        let object = tree(object)?;
        if !scopes_match(counter, quota, &object) {
            continue;
        }
        let usage = counter.usage(&object, now);
        for (name, quantity) in &usage {
            let total = sum.get(name).copied().unwrap_or(Canonical::ZERO);
            sum.insert(name.clone(), total + *quantity);
        }
        if usage.contains_key("pods") {
            sooner(&mut end, ceases(&object, now));
        }
    }
    Ok((sum, end))
}

fn tree(object: DynamicObject) -> kube::Result<Value> {
    serde_json::to_value(object).map_err(kube::Error::SerdeError)
}

/// When a pod that is being deleted is past its grace.
fn ceases(pod: &Value, now: Timestamp) -> Option<Duration> {
    let deletion: Timestamp = meta::deletion_timestamp(pod).parse().ok()?;
    let grace = pod
        .pointer("/metadata/deletionGracePeriodSeconds")?
        .as_i64()?;
    let end = deletion
        .checked_add(SignedDuration::from_secs(grace))
        .ok()?;
    let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
    Some(left + Duration::from_secs(1))
}
