//! Pod affinity and anti-affinity, in both directions: what the pod wants of those that are
//! placed, and what those want of it.

use crate::{
    node::NodeInfo,
    pod::{AffinityTerm, PodInfo},
    reasons::Reason,
    selector::Labels,
    snapshot::{GroupKey, Slot, Snapshot},
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Topology key and value.
type Domain<'a> = (&'a str, &'a str);

/// Required terms, counted for one pod before any node is looked at.
pub(crate) struct Neighbours<'a> {
    pod: &'a PodInfo,
    /// Domains that a placed pod's anti-affinity closes to this pod.
    closed: HashSet<Domain<'a>>,
    /// Domains that hold a pod matching all of this pod's affinity terms.
    wanted: HashSet<Domain<'a>>,
    /// Per anti-affinity term: domains that hold a matching pod.
    unwanted: Vec<HashSet<Domain<'a>>>,
    /// Nobody matches the pod's affinity anywhere, but it matches itself: it may be the first.
    may_be_first: bool,
}

impl AffinityTerm {
    fn matches(
        &self,
        namespace: &str,
        labels: &Labels,
        namespaces: &BTreeMap<String, Labels>,
    ) -> bool {
        let in_scope = self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                namespaces
                    .get(namespace)
                    .is_some_and(|labels| selector.matches(labels))
            });
        in_scope && self.selector.matches(labels)
    }
}

fn domain<'a>(snapshot: &'a Snapshot, slot: Slot, key: &'a str) -> Option<Domain<'a>> {
    let value = snapshot.nodes[slot].labels.get(key)?;
    Some((key, value))
}

impl<'a> Neighbours<'a> {
    /// `None` when no required term concerns the pod.
    pub(crate) fn new(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Option<Self> {
        let matches_pod = |term: &AffinityTerm| {
            term.matches(&pod.key.namespace, &pod.labels, &snapshot.namespaces)
        };
        let closed: HashSet<_> = snapshot
            .anti
            .iter()
            .filter(|(term, _)| matches_pod(term))
            .flat_map(|(term, slots)| {
                slots
                    .keys()
                    .filter_map(|slot| domain(snapshot, *slot, &term.topology_key))
            })
            .collect();
        if closed.is_empty() && pod.affinity.is_empty() && pod.anti_affinity.is_empty() {
            return None;
        }
        let matches_group = |term: &AffinityTerm, group: &GroupKey| {
            term.matches(&group.namespace, &group.labels, &snapshot.namespaces)
        };
        let mut wanted = HashSet::new();
        let mut unwanted = vec![HashSet::new(); pod.anti_affinity.len()];
        let mut anyone = false;
        for (group, counts) in &snapshot.groups {
            if !pod.affinity.is_empty() && pod.affinity.iter().all(|t| matches_group(t, group)) {
                anyone = true;
                for slot in counts.all.keys() {
                    let keys = pod.affinity.iter().map(|term| &term.topology_key);
                    wanted.extend(keys.filter_map(|key| domain(snapshot, *slot, key)));
                }
            }
            for (term, domains) in pod.anti_affinity.iter().zip(&mut unwanted) {
                if matches_group(term, group) {
                    let slots = counts.all.keys();
                    domains.extend(
                        slots.filter_map(|slot| domain(snapshot, *slot, &term.topology_key)),
                    );
                }
            }
        }
        Some(Self {
            pod,
            closed,
            wanted,
            unwanted,
            may_be_first: !anyone && pod.affinity.iter().all(matches_pod),
        })
    }

    pub(crate) fn refuses(&self, node: &NodeInfo) -> Option<Reason> {
        let value = |key: &str| node.labels.get(key).map(String::as_str);
        for term in &self.pod.affinity {
            let near = value(&term.topology_key).is_some_and(|value| {
                self.may_be_first || self.wanted.contains(&(term.topology_key.as_str(), value))
            });
            if !near {
                return Some(Reason::PodAffinity);
            }
        }
        for (term, domains) in self.pod.anti_affinity.iter().zip(&self.unwanted) {
            let key = term.topology_key.as_str();
            if value(key).is_some_and(|value| domains.contains(&(key, value))) {
                return Some(Reason::PodAntiAffinity);
            }
        }
        let closed = !self.closed.is_empty()
            && node
                .labels
                .iter()
                .any(|(key, value)| self.closed.contains(&(key.as_str(), value.as_str())));
        closed.then_some(Reason::ExistingAntiAffinity)
    }
}

/// How much each domain attracts the pod; `None` when nothing attracts or repels it.
pub(crate) fn attraction<'a>(
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
) -> Option<HashMap<&'a str, HashMap<&'a str, i64>>> {
    let mut scores: HashMap<&str, HashMap<&str, i64>> = HashMap::new();
    let mut add = |slot: Slot, key: &'a str, amount: i64| {
        if let Some((key, value)) = domain(snapshot, slot, key) {
            *scores.entry(key).or_default().entry(value).or_default() += amount;
        }
    };
    for (weight, term) in &pod.preferred_pods {
        for (group, counts) in &snapshot.groups {
            if term.matches(&group.namespace, &group.labels, &snapshot.namespaces) {
                for (slot, count) in &counts.all {
                    add(*slot, &term.topology_key, weight * count);
                }
            }
        }
    }
    for ((weight, term), slots) in &snapshot.preferred {
        if term.matches(&pod.key.namespace, &pod.labels, &snapshot.namespaces) {
            for (slot, count) in slots {
                add(*slot, &term.topology_key, weight * count);
            }
        }
    }
    (!scores.is_empty()).then_some(scores)
}
