//! The cluster as the scheduler knows it, kept up to date change by change.
//!
//! Nodes have slots that stay theirs. Pods that look the same to a selector (namespace and labels)
//! form a group with a count per slot, so that affinity and spreading evaluate a selector once per
//! group instead of once per pod; the terms of placed pods are grouped the same way.

use crate::{
    filter::{Filter, Refusals, Verdict},
    node::NodeInfo,
    pod::{AffinityTerm, PodInfo},
    selector::Labels,
};
use k8s_openapi::api::core::v1::{Namespace, Node};
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

pub(crate) type Slot = usize;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub namespace: Box<str>,
    pub labels: Arc<Labels>,
}

/// How many pods of a group are in each slot.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub all: HashMap<Slot, i64>,
    /// Without pods that are being deleted: those don't count for spreading.
    pub staying: HashMap<Slot, i64>,
}

/// Where an owner's pods are.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub slots: HashMap<Slot, i64>,
    pub zones: HashMap<Box<str>, i64>,
}

impl Owned {
    fn change(&mut self, slot: Slot, zone: Option<&str>, by: i64) {
        change(&mut self.slots, slot, by);
        if let Some(zone) = zone {
            change(&mut self.zones, zone.into(), by);
        }
    }

    /// A node's zone changed.
    fn move_zone(&mut self, slot: Slot, from: Option<&str>, to: Option<&str>) {
        if let Some(count) = self.slots.get(&slot).copied() {
            if let Some(from) = from {
                change(&mut self.zones, from.into(), -count);
            }
            if let Some(to) = to {
                change(&mut self.zones, to.into(), count);
            }
        }
    }
}

fn change<K: Hash + Eq + Clone>(counts: &mut HashMap<K, i64>, key: K, by: i64) {
    let count = counts.entry(key.clone()).or_default();
    *count += by;
    if *count == 0 {
        counts.remove(&key);
    }
}

fn change_keyed<K: Hash + Eq + Clone>(
    counts: &mut HashMap<K, HashMap<Slot, i64>>,
    key: &K,
    slot: Slot,
    by: i64,
) {
    let slots = counts.entry(key.clone()).or_default();
    change(slots, slot, by);
    if slots.is_empty() {
        counts.remove(key);
    }
}

#[derive(Debug, Default)]
pub struct Snapshot {
    pub(crate) nodes: Vec<NodeInfo>,
    slots: HashMap<Arc<str>, Slot>,
    free: Vec<Slot>,
    existing: usize,
    pods: HashMap<Arc<str>, (Arc<PodInfo>, Slot)>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) groups: HashMap<GroupKey, Counts>,
    /// Pods per controlling owner.
    pub(crate) owners: HashMap<Arc<str>, Owned>,
    /// Required anti-affinity of placed pods.
    pub(crate) anti: HashMap<AffinityTerm, HashMap<Slot, i64>>,
    /// Placed pods per priority: tells at once whether anybody could be preempted.
    priorities: BTreeMap<i32, usize>,
    /// Pods for which others were asked to leave a node, and which aren't placed yet.
    nominated: HashMap<Arc<str>, (Arc<PodInfo>, Slot)>,
    /// Preferred terms of placed pods with their weights; required affinity counts as weight 1.
    pub(crate) preferred: HashMap<(i64, AffinityTerm), HashMap<Slot, i64>>,
}

impl Snapshot {
    pub fn new() -> Self {
        Self::default()
    }

    /// Nodes that exist.
    pub fn node_count(&self) -> usize {
        self.existing
    }

    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// Takes a node's new state; true when something changed that may let a pod in.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let slot = self.slot(name);
        if !self.nodes[slot].exists {
            self.existing += 1;
        }
        let zone = self.nodes[slot].zone.clone();
        let better = self.nodes[slot].describe(node);
        let now = self.nodes[slot].zone.as_deref();
        if zone.as_deref() != now {
            for owned in self.owners.values_mut() {
                owned.move_zone(slot, zone.as_deref(), now);
            }
        }
        better
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.slots.get(name).copied() {
            if self.nodes[slot].exists {
                self.existing -= 1;
            }
            self.nodes[slot].exists = false;
            self.nominated.retain(|_, (_, at)| *at != slot);
            self.release(slot);
        }
    }

    pub fn set_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        self.namespaces.insert(name, labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Counts a pod against a node: because it is bound there, or is about to be.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let slot = self.slot(node);
        self.nominated.remove(&pod.uid);
        self.nodes[slot].add(&pod);
        self.count(&pod, slot, 1);
        *self.priorities.entry(pod.priority).or_default() += 1;
        self.pods.insert(pod.uid.clone(), (pod, slot));
    }

    /// The pod no longer counts; true when it did.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some((pod, slot)) = self.pods.remove(uid) else {
            return false;
        };
        self.nodes[slot].remove(&pod);
        self.count(&pod, slot, -1);
        if let Some(count) = self.priorities.get_mut(&pod.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&pod.priority);
            }
        }
        self.release(slot);
        true
    }

    /// Where the pod counts.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.pods
            .get(uid)
            .map(|(_, slot)| self.nodes[*slot].name.as_str())
    }

    /// Whether any placed pod has a lower priority.
    pub(crate) fn has_lower(&self, priority: i32) -> bool {
        self.priorities
            .keys()
            .next()
            .is_some_and(|lowest| *lowest < priority)
    }

    /// The pods with a lower priority, by where they are.
    pub(crate) fn lower(&self, priority: i32) -> HashMap<Slot, Vec<Arc<PodInfo>>> {
        let mut by_slot: HashMap<Slot, Vec<Arc<PodInfo>>> = HashMap::new();
        for (pod, slot) in self.pods.values() {
            if pod.priority < priority {
                by_slot.entry(*slot).or_default().push(pod.clone());
            }
        }
        by_slot
    }

    /// Keeps the node's room for the pod: others of no higher priority don't get it.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        if let Some(slot) = self.slots.get(node).copied() {
            self.nominated.insert(pod.uid.clone(), (pod, slot));
        }
    }

    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    pub(crate) fn nominated_slot(&self, uid: &str) -> Option<Slot> {
        self.nominated.get(uid).map(|(_, slot)| *slot)
    }

    /// What the node says, taking those into account for whom its room is kept.
    pub(crate) fn ask(
        &self,
        filter: &Filter<'_>,
        slot: Slot,
        pod: &PodInfo,
        refusals: &mut Refusals,
    ) -> Verdict {
        let node = &self.nodes[slot];
        let kept_for = |(other, at): &&(Arc<PodInfo>, Slot)| {
            *at == slot && other.uid != pod.uid && other.priority >= pod.priority
        };
        // Nearly always there is nobody.
        if self.nominated.is_empty() || !self.nominated.values().any(|n| kept_for(&n)) {
            return filter.ask(node, refusals);
        }
        let mut node = node.clone();
        for (other, _) in self.nominated.values().filter(kept_for) {
            node.add(other);
        }
        filter.ask(&node, refusals)
    }

    fn count(&mut self, pod: &PodInfo, slot: Slot, by: i64) {
        let key = GroupKey {
            namespace: pod.key.namespace.clone(),
            labels: pod.labels.clone(),
        };
        let group = self.groups.entry(key.clone()).or_default();
        change(&mut group.all, slot, by);
        if !pod.terminating {
            change(&mut group.staying, slot, by);
        }
        if group.all.is_empty() {
            self.groups.remove(&key);
        }
        if let Some(owner) = &pod.owner {
            let owned = self.owners.entry(owner.clone()).or_default();
            owned.change(slot, self.nodes[slot].zone.as_deref(), by);
            if owned.slots.is_empty() {
                self.owners.remove(owner);
            }
        }
        for term in &pod.anti_affinity {
            change_keyed(&mut self.anti, term, slot, by);
        }
        let required = pod.affinity.iter().map(|term| (1, term.clone()));
        for term in pod.preferred_pods.iter().cloned().chain(required) {
            change_keyed(&mut self.preferred, &term, slot, by);
        }
    }

    fn slot(&mut self, name: &str) -> Slot {
        if let Some(slot) = self.slots.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or(self.nodes.len());
        let info = NodeInfo::named(name);
        if slot == self.nodes.len() {
            self.nodes.push(info);
        } else {
            self.nodes[slot] = info;
        }
        self.slots.insert(name.into(), slot);
        slot
    }

    /// Frees a slot that neither a node object nor a pod needs.
    fn release(&mut self, slot: Slot) {
        let node = &self.nodes[slot];
        if !node.exists && node.pods == 0 {
            self.slots.remove(node.name.as_str());
            self.nodes[slot] = NodeInfo::default();
            self.free.push(slot);
        }
    }
}
