//! Which of the nodes that fit is best: upstream's default scores and weights.

use crate::{
    neighbours::attraction,
    node::NodeInfo,
    pod::PodInfo,
    snapshot::{Slot, Snapshot},
    spread,
};

const FULL: f64 = 100.0;

/// The best of the feasible nodes; the first of equals, which is a different one for each pod.
pub(crate) fn rank(snapshot: &Snapshot, pod: &PodInfo, feasible: &[Slot]) -> Option<Slot> {
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
