//! Why nodes refuse a pod, in upstream's words (v1.35): people and tools search for them.

use crate::preempt::Preemption;
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Why one node refuses a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    NodeUnschedulable,
    UntoleratedTaint,
    NodeAffinity,
    HostPorts,
    TooManyPods,
    Insufficient(Arc<str>),
    Spread,
    SpreadLabelMissing,
    PodAffinity,
    PodAntiAffinity,
    ExistingAntiAffinity,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeUnschedulable => "node(s) were unschedulable",
            Self::UntoleratedTaint => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::HostPorts => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabelMissing => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
        })
    }
}

/// What may happen in the cluster so that a pod fits after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterEvent {
    /// A node appeared, or changed its labels, taints, capacity or schedulability.
    NodeChanged,
    /// A pod stopped counting against its node.
    PodGone,
    /// A pod was placed, or a placed one changed its labels.
    PodPlaced,
}

impl Reason {
    /// Whether the event can make this reason go away.
    pub fn may_be_cured_by(&self, event: ClusterEvent) -> bool {
        match self {
            Self::NodeUnschedulable
            | Self::UntoleratedTaint
            | Self::NodeAffinity
            | Self::SpreadLabelMissing => event == ClusterEvent::NodeChanged,
            Self::HostPorts | Self::TooManyPods | Self::Insufficient(_) => {
                event != ClusterEvent::PodPlaced
            }
            // Another pod's coming raises the minimum of a spread, or is the wanted neighbour.
            Self::Spread | Self::PodAffinity => true,
            Self::PodAntiAffinity | Self::ExistingAntiAffinity => event != ClusterEvent::PodPlaced,
        }
    }
}

/// No node takes the pod. The text is what the pod's condition and event say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    pub nodes: usize,
    /// How many nodes gave each reason; a node may give several.
    pub reasons: Vec<(Reason, usize)>,
    pub preemption: Preemption,
}

impl Unschedulable {
    pub fn may_be_cured_by(&self, event: ClusterEvent) -> bool {
        (self.reasons.is_empty() && event == ClusterEvent::NodeChanged)
            || self
                .reasons
                .iter()
                .any(|(reason, _)| reason.may_be_cured_by(event))
    }
}

impl std::error::Error for Unschedulable {}

/// What upstream's plugin for resource claims says of a pod that has none.
const NO_CLAIMS: &str = "no new claims to deallocate";

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes;
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        // Sorted as texts, count included, as upstream sorts them.
        let reasons: BTreeSet<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        write!(f, "0/{nodes} nodes are available: {}.", join(reasons))?;
        match &self.preemption {
            Preemption::Begun => Ok(()),
            Preemption::NotEligible(why) => write!(f, " {NO_CLAIMS}, preemption: {why}"),
            Preemption::NoUse(verdicts) => {
                let verdicts = verdicts
                    .iter()
                    .map(|(verdict, count)| format!("{count} {verdict}"))
                    .collect();
                let verdicts = join(verdicts);
                write!(
                    f,
                    " {NO_CLAIMS}, preemption: 0/{nodes} nodes are available: {verdicts}."
                )
            }
        }
    }
}

fn join(texts: BTreeSet<String>) -> String {
    texts.into_iter().collect::<Vec<_>>().join(", ")
}
