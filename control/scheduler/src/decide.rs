//! Which node a pod goes to. Pure: a function of the snapshot and the pod.
//!
//! Nodes are tried from a start that the pod's uid gives, until enough fit (all below 100 nodes,
//! a tenth at 5,000: upstream's rule); those are ranked. So a decision costs the same on a full
//! and on an empty cluster, and two pods don't compete for the first node in the list.

use crate::{
    filter::{Filter, Refusals, Verdict},
    pod::PodInfo,
    preempt::Preemption,
    reasons::Unschedulable,
    score::rank,
    snapshot::{Slot, Snapshot},
};
use std::{
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
    let filter = Filter::new(snapshot, pod);
    let wanted = enough(total);
    let slots = snapshot.nodes.len();
    let start = start(pod, slots);
    let mut feasible: Vec<Slot> = Vec::with_capacity(wanted);
    let mut refusals = Refusals::default();
    for slot in (start..slots).chain(0..start) {
        if !snapshot.nodes[slot].exists {
            continue;
        }
        if snapshot.ask(&filter, slot, pod, &mut refusals) == Verdict::Fits {
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
            preemption: Preemption::not_tried(pod, total, refusals.hopeless),
        });
    };
    Ok(NodeName(snapshot.nodes[best].name.as_str().into()))
}

/// How many fitting nodes are enough to choose among.
pub(crate) fn enough(nodes: usize) -> usize {
    const ALL_BELOW: usize = 100;
    if nodes < ALL_BELOW {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ALL_BELOW)
}

pub(crate) fn start(pod: &PodInfo, slots: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    pod.uid.hash(&mut hasher);
    pod.key.hash(&mut hasher);
    let slots = u64::try_from(slots).unwrap_or(1).max(1);
    usize::try_from(hasher.finish() % slots).unwrap_or(0)
}
