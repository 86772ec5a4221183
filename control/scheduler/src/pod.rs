//! A pod as the scheduler sees it: everything that decides its place, parsed once.

use crate::{
    resources::{Resources, pod_requests, pod_weight},
    selector::{Labels, NodeTerm, Selector},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Pod, PodAffinityTerm, Taint, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use kernelet_client::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A pod that waits for a node, or that counts against one.
#[derive(Debug)]
pub struct PodInfo {
    pub key: ObjectKey,
    pub uid: Arc<str>,
    pub labels: Arc<Labels>,
    pub priority: i32,
    /// Where it is bound already.
    pub node: Option<Arc<str>>,
    pub requests: Resources,
    /// Milli-cpu and memory for comparing nodes.
    pub weight: (i64, i64),
    pub node_selector: BTreeMap<String, String>,
    /// Required node terms, of which one must match; `None`: no demand.
    pub required_nodes: Option<Vec<NodeTerm>>,
    pub preferred_nodes: Vec<(i32, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
    pub affinity: Vec<AffinityTerm>,
    pub anti_affinity: Vec<AffinityTerm>,
    /// Positive weights attract, negative ones repel.
    pub preferred_pods: Vec<(i64, AffinityTerm)>,
    pub spread: Vec<Spread>,
    /// The controlling owner's uid: its pods are spread when nothing else is said.
    pub owner: Option<Arc<str>>,
    pub never_preempts: bool,
    pub terminating: bool,
    /// The node whose pods were asked to leave for it, as the object says.
    pub nominated: Option<Arc<str>>,
    pub started: Option<Timestamp>,
    pub generation: Option<i64>,
    /// The message of its PodScheduled=False condition, as the object had it.
    pub unscheduled_because: Option<String>,
}

/// A port on the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both can't be bound on one node; the unspecified address takes every address.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// Which pods a pod wants near it, or away from it, and what "near" means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    pub namespaces: BTreeSet<String>,
    /// Further namespaces, by their labels.
    pub namespace_selector: Option<Selector>,
    pub selector: Selector,
    pub topology_key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnsatisfiable {
    DoNotSchedule,
    ScheduleAnyway,
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub struct Spread {
    pub max_skew: i64,
    pub min_domains: i64,
    pub topology_key: String,
    pub selector: Selector,
    pub when: WhenUnsatisfiable,
    /// Count only nodes that the pod's node selector and affinity allow.
    pub honor_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honor_taints: bool,
}

impl PodInfo {
    pub fn new(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let empty = Default::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let labels = meta.labels.clone().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let affinity = spec.affinity.as_ref();
        let nodes = affinity.and_then(|a| a.node_affinity.as_ref());
        let pods = affinity.and_then(|a| a.pod_affinity.as_ref());
        let anti = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let term = |term: &PodAffinityTerm| AffinityTerm::new(term, namespace, &labels);
        let weighted = |sign: i64, w: &WeightedPodAffinityTerm| {
            (sign * i64::from(w.weight), term(&w.pod_affinity_term))
        };
        let required = |list: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            list.into_iter().flatten().map(term).collect()
        };
        let attracting = pods.and_then(|p| {
            p.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let repelling = anti.and_then(|p| {
            p.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let preferred_pods = attracting
            .into_iter()
            .flatten()
            .map(|w| weighted(1, w))
            .chain(repelling.into_iter().flatten().map(|w| weighted(-1, w)))
            .collect();
        let owner = meta
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        Self {
            key: ObjectKey::of(pod),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            priority: spec.priority.unwrap_or_default(),
            node: spec
                .node_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(Arc::from),
            requests: pod_requests(spec),
            weight: pod_weight(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required_nodes: nodes
                .and_then(|n| {
                    n.required_during_scheduling_ignored_during_execution
                        .as_ref()
                })
                .map(|s| s.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred_nodes: nodes
                .and_then(|n| {
                    n.preferred_during_scheduling_ignored_during_execution
                        .as_ref()
                })
                .into_iter()
                .flatten()
                .map(|p| (p.weight, NodeTerm::new(&p.preference)))
                .collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            host_ports: host_ports(spec),
            affinity: required(pods.and_then(|p| {
                p.required_during_scheduling_ignored_during_execution
                    .as_ref()
            })),
            anti_affinity: required(anti.and_then(|p| {
                p.required_during_scheduling_ignored_during_execution
                    .as_ref()
            })),
            preferred_pods,
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| Spread::new(constraint, &labels))
                .collect(),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            terminating: meta.deletion_timestamp.is_some(),
            labels: Arc::new(labels),
            nominated: pod
                .status
                .as_ref()
                .and_then(|status| status.nominated_node_name.as_deref())
                .filter(|name| !name.is_empty())
                .map(Arc::from),
            started: pod
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref())
                .map(|time| time.0),
            generation: meta.generation,
            unscheduled_because: pod
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .find(|c| c.type_ == "PodScheduled" && c.status == "False")
                .map(|condition| condition.message.clone().unwrap_or_default()),
        }
    }

    /// Whether the object's condition says this already.
    pub fn says_unschedulable(&self, message: &str) -> bool {
        self.unscheduled_because.as_deref() == Some(message)
    }

    pub fn is_marked_unscheduled(&self) -> bool {
        self.unscheduled_because.is_some()
    }

    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| tolerates(t, taint))
    }
}

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .map(|selector| Selector::new(Some(selector))),
            selector: Selector::new(term.label_selector.as_ref())
                .with_own(&term.match_label_keys, labels, true)
                .with_own(&term.mismatch_label_keys, labels, false),
            topology_key: term.topology_key.clone(),
        }
    }
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        Self {
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            topology_key: constraint.topology_key.clone(),
            selector: Selector::new(constraint.label_selector.as_ref()).with_own(
                &constraint.match_label_keys,
                labels,
                true,
            ),
            when: if constraint.when_unsatisfiable == "ScheduleAnyway" {
                WhenUnsatisfiable::ScheduleAnyway
            } else {
                WhenUnsatisfiable::DoNotSchedule
            },
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

fn host_ports(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0)?;
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// Upstream's toleration rule: effect, then key, then value.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}
