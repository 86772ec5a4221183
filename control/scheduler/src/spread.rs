//! Topology spread constraints: required ones refuse nodes, the others rank them.

use crate::{
    filter::{fits_node_affinity, untolerated},
    node::NodeInfo,
    pod::{PodInfo, Spread, WhenUnsatisfiable},
    reasons::Reason,
    snapshot::{Slot, Snapshot},
};
use std::collections::HashMap;

/// How uneven upstream's default constraints let an owner's pods be.
const HOST_SKEW: f64 = 3.0;
const ZONE_SKEW: f64 = 5.0;

/// One required constraint, counted for one pod before any node is looked at.
pub(crate) struct Required<'a> {
    constraint: &'a Spread,
    domains: HashMap<&'a str, i64>,
    fewest: i64,
    own: i64,
}

fn matching(snapshot: &Snapshot, pod: &PodInfo, constraint: &Spread) -> HashMap<Slot, i64> {
    let mut counts = HashMap::new();
    for (group, pods) in &snapshot.groups {
        if group.namespace == pod.key.namespace && constraint.selector.matches(&group.labels) {
            for (slot, count) in &pods.staying {
                *counts.entry(*slot).or_default() += count;
            }
        }
    }
    counts
}

fn counts_for(constraint: &Spread, node: &NodeInfo, pod: &PodInfo) -> bool {
    node.exists
        && (!constraint.honor_affinity || fits_node_affinity(pod, node))
        && (!constraint.honor_taints || untolerated(pod, node).is_none())
}

fn of_kind(pod: &PodInfo, when: WhenUnsatisfiable) -> Vec<&Spread> {
    pod.spread.iter().filter(|c| c.when == when).collect()
}

pub(crate) fn required<'a>(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Vec<Required<'a>> {
    let constraints = of_kind(pod, WhenUnsatisfiable::DoNotSchedule);
    let has_all_keys = |node: &NodeInfo| {
        constraints
            .iter()
            .all(|constraint| node.labels.contains_key(&constraint.topology_key))
    };
    constraints
        .iter()
        .map(|constraint| {
            let counts = matching(snapshot, pod, constraint);
            let mut domains: HashMap<&str, i64> = HashMap::new();
            for (slot, node) in snapshot.nodes.iter().enumerate() {
                if counts_for(constraint, node, pod)
                    && has_all_keys(node)
                    && let Some(value) = node.labels.get(&constraint.topology_key)
                {
                    *domains.entry(value).or_default() +=
                        counts.get(&slot).copied().unwrap_or_default();
                }
            }
            let enough = i64::try_from(domains.len()).is_ok_and(|n| n >= constraint.min_domains);
            let fewest = domains.values().copied().min().filter(|_| enough);
            Required {
                constraint,
                fewest: fewest.unwrap_or(0),
                own: constraint.selector.matches(&pod.labels).into(),
                domains,
            }
        })
        .collect()
}

impl Required<'_> {
    pub(crate) fn refuses(&self, node: &NodeInfo) -> Option<Reason> {
        let Some(value) = node.labels.get(&self.constraint.topology_key) else {
            return Some(Reason::SpreadLabelMissing);
        };
        let here = self.domains.get(value.as_str()).copied().unwrap_or(0);
        let skew = here + self.own - self.fewest;
        (skew > self.constraint.max_skew).then_some(Reason::Spread)
    }
}

/// How crowded each feasible node's domains are: higher is worse. `None`: no preference.
/// A `None` in the list is a node that lacks a constraint's label.
pub(crate) fn crowding(
    snapshot: &Snapshot,
    pod: &PodInfo,
    feasible: &[Slot],
) -> Option<Vec<Option<f64>>> {
    let constraints = of_kind(pod, WhenUnsatisfiable::ScheduleAnyway);
    if !constraints.is_empty() {
        let mut scores = vec![Some(0.0); feasible.len()];
        for constraint in constraints {
            let counts = matching(snapshot, pod, constraint);
            let mut domains: HashMap<&str, i64> = HashMap::new();
            for slot in feasible {
                if let Some(value) = snapshot.nodes[*slot].labels.get(&constraint.topology_key) {
                    domains.entry(value).or_default();
                }
            }
            for (slot, count) in &counts {
                let node = &snapshot.nodes[*slot];
                if counts_for(constraint, node, pod)
                    && let Some(value) = node.labels.get(&constraint.topology_key)
                    && let Some(domain) = domains.get_mut(value.as_str())
                {
                    *domain += count;
                }
            }
            let weight = domain_weight(domains.len());
            let skew = constraint.max_skew as f64 - 1.0;
            for (slot, score) in feasible.iter().zip(&mut scores) {
                let value = snapshot.nodes[*slot].labels.get(&constraint.topology_key);
                *score = match (value, *score) {
                    (Some(value), Some(score)) => {
                        Some(score + domains[value.as_str()] as f64 * weight + skew)
                    }
                    _ => None,
                };
            }
        }
        return Some(scores);
    }
    if !pod.spread.is_empty() {
        return None;
    }
    by_owner(snapshot, pod, feasible)
}

/// Without constraints of its own, a pod keeps away from its owner's other pods: first from those
/// on the same node, then from those in the same zone.
fn by_owner(snapshot: &Snapshot, pod: &PodInfo, feasible: &[Slot]) -> Option<Vec<Option<f64>>> {
    let owned = snapshot.owners.get(pod.owner.as_ref()?)?;
    let host_weight = domain_weight(feasible.len());
    let zone_weight = domain_weight(owned.zones.len());
    let score = |slot: &Slot| {
        let here = owned.slots.get(slot).copied().unwrap_or_default() as f64;
        let zone = snapshot.nodes[*slot].zone.as_ref();
        let near = zone.map(|zone| owned.zones.get(zone).copied().unwrap_or_default() as f64);
        let near = near.map_or(0.0, |near| near * zone_weight + ZONE_SKEW - 1.0);
        Some(here * host_weight + HOST_SKEW - 1.0 + near)
    };
    Some(feasible.iter().map(score).collect())
}

/// More domains mean fewer pods in each: their counts weigh more.
fn domain_weight(domains: usize) -> f64 {
    (domains as f64 + 2.0).ln()
}
