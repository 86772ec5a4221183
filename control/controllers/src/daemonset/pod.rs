//! A DaemonSet's pods: what they tolerate by themselves, for which node they are, of which revision.

use crate::pods::from_template;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration},
};
use kube::ResourceExt;

/// The label that names a pod's revision, and a revision's own.
pub(super) const HASH: &str = "controller-revision-hash";
const TEMPLATE_GENERATION_LABEL: &str = "pod-template-generation";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const NODE_NAME: &str = "metadata.name";

/// The template's tolerations and those that every daemon has: it stays where others are driven away.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = ("network-unavailable", "NoSchedule");
    let own = [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    let on_the_host = spec.host_network == Some(true);
    for (condition, effect) in own.into_iter().chain(on_the_host.then_some(network)) {
        let wanted = Toleration {
            key: Some(format!("node.kubernetes.io/{condition}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same = |t: &Toleration| {
            (&t.key, &t.operator, &t.effect) == (&wanted.key, &wanted.operator, &wanted.effect)
                && t.value.as_deref().unwrap_or_default().is_empty()
        };
        match all.iter_mut().find(|t| same(t)) {
            // One with a limit would end.
            Some(known) => *known = wanted,
            None => all.push(wanted),
        }
    }
    all
}

/// A pod for one node. The scheduler binds it there: it goes nowhere else.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut pod = from_template(set, template.unwrap_or(&Default::default()));
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = template_generation(set) {
        labels.insert(TEMPLATE_GENERATION_LABEL.to_owned(), generation.to_owned());
    }
    if !hash.is_empty() {
        labels.insert(HASH.to_owned(), hash.to_owned());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let required = spec
        .affinity
        .get_or_insert_default()
        .node_affinity
        .get_or_insert_default();
    required.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NODE_NAME.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    pod
}

/// The node that a pod is on, or is meant for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    let name = fields.find(|field| field.key == NODE_NAME && field.operator == "In")?;
    match name.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

pub(super) fn hash_of(pod: &Pod) -> &str {
    label(pod, HASH)
}

fn label<'p>(pod: &'p Pod, key: &str) -> &'p str {
    pod.labels().get(key).map_or("", String::as_str)
}

/// Whether the pod was made from the template as it is.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    (!hash.is_empty() && hash_of(pod) == hash)
        || template_generation(set)
            .is_some_and(|generation| label(pod, TEMPLATE_GENERATION_LABEL) == generation)
}

fn template_generation(set: &DaemonSet) -> Option<&str> {
    let text = set.annotations().get(TEMPLATE_GENERATION)?;
    text.parse::<i64>().is_ok().then_some(text.as_str())
}
