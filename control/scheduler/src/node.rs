//! A node as the scheduler sees it, with the pods that count against it.

use crate::{
    pod::{HostPort, PodInfo},
    resources::Resources,
    selector::Labels,
};
use k8s_openapi::api::core::v1::{Node, Taint};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Sums are kept as pods come and go, never recomputed.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    /// False while only pods name it: the node object isn't there (yet, or any more).
    pub exists: bool,
    pub labels: Labels,
    /// The zone label's value, at hand because every decision about an owner's pods needs it.
    pub zone: Option<Box<str>>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub requested: Resources,
    pub weight: (i64, i64),
    pub pods: i64,
    pub host_ports: Vec<HostPort>,
}

impl NodeInfo {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Takes the object's state; true when something changed that may let a pod in.
    pub fn describe(&mut self, node: &Node) -> bool {
        let spec = node.spec.as_ref();
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        let unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or_default();
        let allocatable = node
            .status
            .as_ref()
            .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()))
            .map(Resources::from_list)
            .unwrap_or_default();
        let changed = !self.exists
            || labels != self.labels
            || taints != self.taints
            || unschedulable != self.unschedulable
            || allocatable != self.allocatable;
        self.exists = true;
        self.zone = labels.get(ZONE).map(|zone| zone.as_str().into());
        self.labels = labels;
        self.taints = taints;
        self.unschedulable = unschedulable;
        self.allocatable = allocatable;
        changed
    }

    pub fn add(&mut self, pod: &PodInfo) {
        self.requested.add(&pod.requests);
        self.weight.0 += pod.weight.0;
        self.weight.1 += pod.weight.1;
        self.pods += 1;
        self.host_ports.extend(pod.host_ports.iter().cloned());
    }

    pub fn remove(&mut self, pod: &PodInfo) {
        self.requested.subtract(&pod.requests);
        self.weight.0 -= pod.weight.0;
        self.weight.1 -= pod.weight.1;
        self.pods -= 1;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|used| used == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }
}
