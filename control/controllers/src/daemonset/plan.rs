//! What a DaemonSet needs next on each node. Pure: its object, nodes, its pods, the time.

use super::{
    backoff::FailedPods,
    nodes::{Placement, Verdict},
    pod::{hash_of, is_updated, target},
    rolling,
};
use crate::common::{Availability, availability, is_finished, is_ready, phase};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};
use kernelet_client::EventType;
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Pods to make, by node, and to delete, with what to tell of it.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    pub events: Vec<(EventType, &'static str, String)>,
    /// When a failed pod may be looked at again.
    pub recheck: Option<Duration>,
}

/// A DaemonSet with its nodes and pods, as they stand.
pub(super) struct View<'v> {
    pub set: &'v DaemonSet,
    /// The newest revision's hash.
    pub hash: &'v str,
    pub now: Timestamp,
    pub nodes: BTreeMap<&'v str, Verdict>,
    /// Its pods by the node that they are on or for; those that have ended and are leaving don't count.
    pub pods: BTreeMap<&'v str, Vec<&'v Arc<Pod>>>,
}

impl<'v> View<'v> {
    pub(super) fn new(
        set: &'v DaemonSet,
        hash: &'v str,
        nodes: &'v [Arc<Node>],
        pods: &'v [Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let placement = Placement::of(set);
        let verdict = |node: &'v Arc<Node>| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            (name, placement.ask(node))
        };
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in pods {
            let over = is_finished(pod) && is_leaving(pod);
            if let Some(node) = target(pod).filter(|_| !over) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| order(pod));
        }
        Self {
            set,
            hash,
            now,
            nodes: nodes.iter().map(verdict).collect(),
            pods: by_node,
        }
    }

    pub(super) fn availability(&self, pod: &Pod) -> Availability {
        let spec = self.set.spec.as_ref();
        let wanted = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        availability(pod, wanted, self.now)
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        self.availability(pod) == Availability::Available
    }

    pub(super) fn verdict(&self, node: &str) -> Option<Verdict> {
        self.nodes.get(node).copied()
    }

    /// Nodes that should run a pod.
    pub(super) fn desired(&self) -> usize {
        self.nodes.values().filter(|v| v.should_run()).count()
    }

    /// Missing pods, failed ones, surplus ones, those on nodes that they should not be on.
    pub(super) fn manage(&self, failed: &mut FailedPods) -> Steps {
        let mut steps = Steps::default();
        for (node, verdict) in &self.nodes {
            self.on_node(node, *verdict, failed, &mut steps);
        }
        // Never scheduled, and never will be: its node is gone. Nobody else deletes it.
        let lost = self
            .pods
            .iter()
            .filter(|(node, _)| !self.nodes.contains_key(*node))
            .flat_map(|(_, pods)| pods)
            .filter(|pod| !is_scheduled(pod));
        steps.delete.extend(lost.map(|pod| Arc::clone(pod)));
        steps
    }

    fn on_node(&self, node: &str, verdict: Verdict, failed: &mut FailedPods, steps: &mut Steps) {
        let pods = self.pods.get(node).map_or(&[][..], Vec::as_slice);
        if pods.is_empty() {
            if verdict == Verdict::Run {
                steps.create.push(node.to_owned());
            }
            return;
        }
        let staying = pods.iter().filter(|pod| !is_leaving(pod));
        if verdict == Verdict::Leave {
            steps.delete.extend(staying.map(|pod| Arc::clone(pod)));
            return;
        }
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        for pod in staying {
            match phase(pod) {
                "Failed" => self.on_failed(pod, node, failed, steps),
                "Succeeded" => {
                    let message = format!(
                        "Found succeeded daemon pod {} on node {node}, will try to delete it",
                        full_name(pod)
                    );
                    let event = (EventType::Normal, "SucceededDaemonPod", message);
                    steps.events.push(event);
                    steps.delete.push(Arc::clone(pod));
                }
                _ => running.push(pod),
            }
        }
        if !rolling::surges(self.set) {
            let surplus = running.into_iter().skip(1);
            steps.delete.extend(surplus.map(Arc::clone));
        } else if running.is_empty() {
            // Whatever is leaving needn't be waited for.
            if verdict == Verdict::Run {
                steps.create.push(node.to_owned());
            }
        } else if running.len() > 1 {
            self.surplus_in_surge(&running, steps);
        }
    }

    fn on_failed(&self, pod: &Arc<Pod>, node: &str, failed: &mut FailedPods, steps: &mut Steps) {
        let generation = self.set.status.as_ref().and_then(|s| s.observed_generation);
        let uid = self.set.uid().unwrap_or_default();
        let key = format!("{uid}/{}/{node}", generation.unwrap_or(0));
        match failed.ask(&key, self.now) {
            Err(left) => steps.recheck = steps.recheck.into_iter().chain([left]).min(),
            Ok(()) => {
                let message = format!(
                    "Found failed daemon pod {} on node {node}, will try to kill it",
                    full_name(pod)
                );
                let event = (EventType::Warning, "FailedDaemonPod", message);
                steps.events.push(event);
                steps.delete.push(Arc::clone(pod));
            }
        }
    }

    /// Two may run where one replaces the other: the old one while it is ready and the new one isn't.
    fn surplus_in_surge(&self, running: &[&Arc<Pod>], steps: &mut Steps) {
        let (mut newest, mut old) = (None, None);
        for pod in running {
            let first = if hash_of(pod) == self.hash {
                &mut newest
            } else {
                &mut old
            };
            match first {
                None => *first = Some(*pod),
                Some(_) => steps.delete.push(Arc::clone(pod)),
            }
        }
        if let (Some(new), Some(old)) = (newest, old)
            && (!is_ready(old) || self.is_available(new))
        {
            steps.delete.push(Arc::clone(old));
        }
    }

    /// `observed`: the generation that was acted upon; with none the old one stays.
    pub(super) fn status(&self, observed: Option<i64>) -> DaemonSetStatus {
        let known = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: observed.or(known.observed_generation),
            collision_count: known.collision_count,
            conditions: known.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, verdict) in &self.nodes {
            let oldest = self.pods.get(node).and_then(|pods| pods.first());
            match (verdict, oldest) {
                (Verdict::Run, oldest) => {
                    status.desired_number_scheduled += 1;
                    let Some(pod) = oldest else { continue };
                    status.current_number_scheduled += 1;
                    status.number_ready += i32::from(is_ready(pod));
                    available += i32::from(self.is_available(pod));
                    updated += i32::from(is_updated(self.set, pod, self.hash));
                }
                (_, Some(_)) => status.number_misscheduled += 1,
                (_, None) => {}
            }
        }
        status.updated_number_scheduled = Some(updated);
        status.number_available = Some(available);
        status.number_unavailable = Some(status.desired_number_scheduled - available);
        status
    }

    /// When a pod becomes available by time alone.
    pub(super) fn recheck(&self) -> Option<Duration> {
        let pods = self.pods.values().flatten();
        pods.filter_map(|pod| match self.availability(pod) {
            Availability::In(left) => Some(left),
            _ => None,
        })
        .min()
    }
}

pub(super) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_scheduled(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| !node.is_empty())
}

/// Those on a node first, then the oldest.
fn order(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (!is_scheduled(pod), created, pod.name_any())
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Equal apart from zeros, which the API leaves out.
pub(super) fn is_same(known: &DaemonSetStatus, status: &DaemonSetStatus) -> bool {
    let zero = |n: Option<i32>| n.unwrap_or(0);
    (
        known.desired_number_scheduled,
        known.current_number_scheduled,
        known.number_misscheduled,
        known.number_ready,
    ) == (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_misscheduled,
        status.number_ready,
    ) && zero(known.updated_number_scheduled) == zero(status.updated_number_scheduled)
        && zero(known.number_available) == zero(status.number_available)
        && zero(known.number_unavailable) == zero(status.number_unavailable)
        && known.observed_generation == status.observed_generation
        && zero(known.collision_count) == zero(status.collision_count)
}
