//! Which node a pod goes to. Pure: a function of the snapshot and the pod.
//!
//! Nodes are tried from a start that the pod's uid gives, until enough fit (all below 100 nodes,
//! a tenth at 5,000: upstream's rule); those are ranked. So a decision costs the same on a full
//! and on an empty cluster, and two pods don't compete for the first node in the list.

use crate::{
    neighbours::{Neighbours, attraction},
    node::NodeInfo,
    pod::PodInfo,
    reasons::{Reason, Unschedulable},
    snapshot::{Slot, Snapshot},
    spread,
};
use k8s_openapi::api::core::v1::Taint;
use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// A node's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(pub Arc<str>);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The node for the pod, or every node's refusal.
pub fn decide(snapshot: &Snapshot, pod: &PodInfo) -> Result<NodeName, Unschedulable> {
    let total = snapshot.node_count();
    let filter = Filter {
        pod,
        spread: spread::required(snapshot, pod),
        neighbours: Neighbours::new(snapshot, pod),
    };
    let wanted = enough(total);
    let slots = snapshot.nodes.len();
    let start = start(pod, slots);
    let mut feasible: Vec<Slot> = Vec::with_capacity(wanted);
    let mut refusals = Refusals::default();
    for slot in (start..slots).chain(0..start) {
        let node = &snapshot.nodes[slot];
        if !node.exists {
            continue;
        }
        if filter.fits(node, &mut refusals) {
            feasible.push(slot);
            if feasible.len() >= wanted {
                break;
            }
        }
    }
    let Some(best) = rank(snapshot, pod, &feasible) else {
        return Err(Unschedulable {
            nodes: total,
            reasons: refusals.reasons,
            hopeless: refusals.hopeless,
            never_preempts: pod.never_preempts,
        });
    };
    Ok(NodeName(snapshot.nodes[best].name.as_str().into()))
}

/// How many fitting nodes are enough to choose among.
fn enough(nodes: usize) -> usize {
    const ALL_BELOW: usize = 100;
    if nodes < ALL_BELOW {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ALL_BELOW)
}

fn start(pod: &PodInfo, slots: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    pod.uid.hash(&mut hasher);
    pod.key.hash(&mut hasher);
    let slots = u64::try_from(slots).unwrap_or(1).max(1);
    usize::try_from(hasher.finish() % slots).unwrap_or(0)
}

#[derive(Default)]
struct Refusals {
    reasons: Vec<(Reason, usize)>,
    hopeless: usize,
}

impl Refusals {
    fn add(&mut self, reason: Reason) {
        match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.reasons.push((reason, 1)),
        }
    }

    /// Not even an empty node of this kind would do.
    fn hopeless(&mut self, reason: Reason) -> bool {
        self.add(reason);
        self.hopeless += 1;
        false
    }

    fn for_now(&mut self, reason: Reason) -> bool {
        self.add(reason);
        false
    }
}

struct Filter<'a> {
    pod: &'a PodInfo,
    spread: Vec<spread::Required<'a>>,
    neighbours: Option<Neighbours<'a>>,
}

impl Filter<'_> {
    /// The first check that fails gives the node's reason; only resources give several.
    fn fits(&self, node: &NodeInfo, refusals: &mut Refusals) -> bool {
        let pod = self.pod;
        if node.unschedulable && !pod.tolerates(&unschedulable_taint()) {
            return refusals.hopeless(Reason::NodeUnschedulable);
        }
        if untolerated(pod, node).is_some() {
            return refusals.hopeless(Reason::UntoleratedTaint);
        }
        if !fits_node_affinity(pod, node) {
            return refusals.hopeless(Reason::NodeAffinity);
        }
        let taken = |port| node.host_ports.iter().any(|used| used.conflicts(port));
        if pod.host_ports.iter().any(taken) {
            return refusals.for_now(Reason::HostPorts);
        }
        if !fits_resources(pod, node, refusals) {
            return false;
        }
        for constraint in &self.spread {
            match constraint.refuses(node) {
                Some(Reason::SpreadLabelMissing) => {
                    return refusals.hopeless(Reason::SpreadLabelMissing);
                }
                Some(reason) => return refusals.for_now(reason),
                None => {}
            }
        }
        match self.neighbours.as_ref().and_then(|n| n.refuses(node)) {
            Some(Reason::PodAffinity) => refusals.hopeless(Reason::PodAffinity),
            Some(reason) => refusals.for_now(reason),
            None => true,
        }
    }
}

fn unschedulable_taint() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

/// The first taint that keeps the pod away.
pub(crate) fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .find(|taint| !pod.tolerates(taint))
}

pub(crate) fn fits_node_affinity(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value))
        && pod
            .required_nodes
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
}

fn fits_resources(pod: &PodInfo, node: &NodeInfo, refusals: &mut Refusals) -> bool {
    let (need, used, have) = (&pod.requests, &node.requested, &node.allocatable);
    let mut fits = true;
    let mut hopeless = false;
    if node.pods + 1 > have.pods {
        refusals.add(Reason::TooManyPods);
        fits = false;
    }
    let mut check = |name: &str, need: i64, used: i64, have: i64| {
        if need > 0 && need > have - used {
            refusals.add(Reason::Insufficient(name.into()));
            fits = false;
            hopeless |= need > have;
        }
    };
    check("cpu", need.milli_cpu, used.milli_cpu, have.milli_cpu);
    check("memory", need.memory, used.memory, have.memory);
    check(
        "ephemeral-storage",
        need.ephemeral_storage,
        used.ephemeral_storage,
        have.ephemeral_storage,
    );
    for (name, amount) in &need.scalars {
        let of = |list: &BTreeMap<Arc<str>, i64>| list.get(name).copied().unwrap_or_default();
        check(name, *amount, of(&used.scalars), of(&have.scalars));
    }
    if hopeless {
        refusals.hopeless += 1;
    }
    fits
}

const FULL: f64 = 100.0;

/// The best of the feasible nodes; the first of equals, which is a different one for each pod.
fn rank(snapshot: &Snapshot, pod: &PodInfo, feasible: &[Slot]) -> Option<Slot> {
    if feasible.len() <= 1 {
        return feasible.first().copied();
    }
    let node = |slot: &Slot| &snapshot.nodes[*slot];
    let mut scores: Vec<f64> = feasible
        .iter()
        .map(|slot| free_share(pod, node(slot)) + balance(pod, node(slot)))
        .collect();
    let mut add = |weight: f64, parts: Vec<f64>| {
        for (score, part) in scores.iter_mut().zip(parts) {
            *score += weight * part;
        }
    };
    if !pod.preferred_nodes.is_empty() {
        let raw = |slot: &Slot| {
            let node = node(slot);
            let matching = pod
                .preferred_nodes
                .iter()
                .filter(|(_, term)| term.matches(&node.name, &node.labels));
            matching.map(|(weight, _)| f64::from(*weight)).sum()
        };
        add(2.0, share_of_most(feasible.iter().map(raw).collect()));
    }
    if feasible.iter().any(|slot| !node(slot).taints.is_empty()) {
        let soft = |slot: &Slot| {
            let taints = node(slot).taints.iter();
            let soft = taints.filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerates(t));
            soft.count() as f64
        };
        let shares = share_of_most(feasible.iter().map(soft).collect());
        add(3.0, shares.into_iter().map(|share| FULL - share).collect());
    }
    if let Some(crowding) = spread::crowding(snapshot, pod, feasible) {
        add(2.0, emptiest_first(&crowding));
    }
    if let Some(attraction) = attraction(snapshot, pod) {
        let raw = |slot: &Slot| {
            let labels = &node(slot).labels;
            let values = attraction
                .iter()
                .filter_map(|(key, values)| values.get(labels.get(*key)?.as_str()).copied());
            values.sum::<i64>() as f64
        };
        add(2.0, between_extremes(feasible.iter().map(raw).collect()));
    }
    let mut best = 0;
    for (at, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = at;
        }
    }
    Some(feasible[best])
}

/// Least allocated: the mean share of cpu and memory that stays free with this pod.
fn free_share(pod: &PodInfo, node: &NodeInfo) -> f64 {
    let free = |need: i64, used: i64, have: i64| {
        if have <= 0 || need + used > have {
            return 0.0;
        }
        (have - used - need) as f64 * FULL / have as f64
    };
    let have = &node.allocatable;
    (free(pod.weight.0, node.weight.0, have.milli_cpu)
        + free(pod.weight.1, node.weight.1, have.memory))
        / 2.0
}

/// Balanced allocation: cpu and memory used to the same share.
fn balance(pod: &PodInfo, node: &NodeInfo) -> f64 {
    let used = |need: i64, used: i64, have: i64| {
        if have <= 0 {
            return 1.0;
        }
        ((need + used) as f64 / have as f64).min(1.0)
    };
    let have = &node.allocatable;
    let cpu = used(pod.weight.0, node.weight.0, have.milli_cpu);
    let memory = used(pod.weight.1, node.weight.1, have.memory);
    (1.0 - (cpu - memory).abs() / 2.0) * FULL
}

fn share_of_most(raw: Vec<f64>) -> Vec<f64> {
    let most = raw.iter().copied().fold(0.0, f64::max);
    if most == 0.0 {
        return raw;
    }
    raw.into_iter().map(|value| value * FULL / most).collect()
}

fn between_extremes(raw: Vec<f64>) -> Vec<f64> {
    let most = raw.iter().copied().fold(f64::MIN, f64::max);
    let least = raw.iter().copied().fold(f64::MAX, f64::min);
    if most <= least {
        return vec![0.0; raw.len()];
    }
    raw.into_iter()
        .map(|value| (value - least) * FULL / (most - least))
        .collect()
}

/// Nodes without a constraint's label get nothing.
fn emptiest_first(crowding: &[Option<f64>]) -> Vec<f64> {
    let known = || crowding.iter().flatten().copied();
    let most = known().fold(0.0, f64::max);
    let least = known().fold(f64::MAX, f64::min);
    crowding
        .iter()
        .map(|score| match score {
            None => 0.0,
            Some(_) if most == 0.0 => FULL,
            Some(score) => (most + least - score) * FULL / most,
        })
        .collect()
}
