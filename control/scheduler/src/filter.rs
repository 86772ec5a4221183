//! Whether a node takes a pod, and if not, why: upstream's filters in upstream's order.

use crate::{
    neighbours::Neighbours, node::NodeInfo, pod::PodInfo, reasons::Reason, snapshot::Snapshot,
    spread,
};
use k8s_openapi::api::core::v1::Taint;
use std::{collections::BTreeMap, sync::Arc};

/// What a node says to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fits,
    /// It would if other pods left.
    NotNow,
    /// Not even if it were empty.
    Hopeless,
}

/// Reasons with the number of nodes that gave them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub reasons: Vec<(Reason, usize)>,
    pub hopeless: usize,
}

impl Refusals {
    fn add(&mut self, reason: Reason) {
        match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.reasons.push((reason, 1)),
        }
    }

    fn hopeless(&mut self, reason: Reason) -> Verdict {
        self.add(reason);
        self.hopeless += 1;
        Verdict::Hopeless
    }

    fn not_now(&mut self, reason: Reason) -> Verdict {
        self.add(reason);
        Verdict::NotNow
    }
}

/// A pod's demands, prepared for asking every node.
pub(crate) struct Filter<'a> {
    pod: &'a PodInfo,
    spread: Vec<spread::Required<'a>>,
    neighbours: Option<Neighbours<'a>>,
}

impl<'a> Filter<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Self {
        Self {
            pod,
            spread: spread::required(snapshot, pod),
            neighbours: Neighbours::new(snapshot, pod),
        }
    }

    /// The first check that fails gives the node's reason; only resources give several.
    pub(crate) fn ask(&self, node: &NodeInfo, refusals: &mut Refusals) -> Verdict {
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
            return refusals.not_now(Reason::HostPorts);
        }
        let resources = fits_resources(pod, node, refusals);
        if resources != Verdict::Fits {
            return resources;
        }
        for constraint in &self.spread {
            match constraint.refuses(node) {
                Some(Reason::SpreadLabelMissing) => {
                    return refusals.hopeless(Reason::SpreadLabelMissing);
                }
                Some(reason) => return refusals.not_now(reason),
                None => {}
            }
        }
        match self.neighbours.as_ref().and_then(|n| n.refuses(node)) {
            Some(Reason::PodAffinity) => refusals.hopeless(Reason::PodAffinity),
            Some(reason) => refusals.not_now(reason),
            None => Verdict::Fits,
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

fn fits_resources(pod: &PodInfo, node: &NodeInfo, refusals: &mut Refusals) -> Verdict {
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
    match (fits, hopeless) {
        (true, _) => Verdict::Fits,
        (false, false) => Verdict::NotNow,
        (false, true) => {
            refusals.hopeless += 1;
            Verdict::Hopeless
        }
    }
}
