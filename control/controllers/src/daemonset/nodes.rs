//! Which nodes a DaemonSet is for.

use crate::{common::tolerates, daemonset::pod::tolerations};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Toleration},
};
use std::collections::BTreeMap;

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A pod should run there.
    Run,
    /// No new pod comes, and one that is there stays: a taint keeps others away but throws nobody out.
    Stay,
    /// None should be there.
    Leave,
}

impl Verdict {
    pub(super) fn should_run(self) -> bool {
        self == Verdict::Run
    }
}

/// The demands of a DaemonSet's template, for asking every node.
pub(super) struct Placement<'s> {
    node_name: &'s str,
    labels: Option<&'s BTreeMap<String, String>>,
    terms: Option<&'s [NodeSelectorTerm]>,
    tolerations: Vec<Toleration>,
}

impl<'s> Placement<'s> {
    pub(super) fn of(set: &'s DaemonSet) -> Self {
        let template = set.spec.as_ref().map(|spec| &spec.template);
        let spec = template.and_then(|template| template.spec.as_ref());
        let affinity = spec
            .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
            .and_then(|affinity| {
                affinity
                    .required_during_scheduling_ignored_during_execution
                    .as_ref()
            });
        Self {
            node_name: spec
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or_default(),
            labels: spec.and_then(|spec| spec.node_selector.as_ref()),
            terms: affinity.map(|selector| selector.node_selector_terms.as_slice()),
            tolerations: spec.map(tolerations).unwrap_or_default(),
        }
    }

    pub(super) fn ask(&self, node: &Node) -> Verdict {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if !(self.node_name.is_empty() || self.node_name == name) || !self.selects(node, name) {
            return Verdict::Leave;
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        let refusing = |effects: &[&str]| {
            taints.into_iter().flatten().any(|taint| {
                effects.contains(&taint.effect.as_str())
                    && !self.tolerations.iter().any(|t| tolerates(t, taint))
            })
        };
        match (refusing(&["NoExecute"]), refusing(&["NoSchedule"])) {
            (true, _) => Verdict::Leave,
            (false, true) => Verdict::Stay,
            (false, false) => Verdict::Run,
        }
    }

    fn selects(&self, node: &Node, name: &str) -> bool {
        let empty = BTreeMap::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
        self.labels
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .terms
                .is_none_or(|terms| terms.iter().any(|term| term_matches(term, name, labels)))
    }
}

/// All of a term's expressions; an empty term matches no node.
fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    if expressions.clone().next().is_none() && fields.clone().next().is_none() {
        return false;
    }
    expressions
        .into_iter()
        .all(|e| matches(e, labels.get(&e.key).map(String::as_str)))
        && fields
            .into_iter()
            .all(|e| e.key == "metadata.name" && matches(e, Some(name)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let numbers = || {
        let bound: i64 = values.first()?.parse().ok()?;
        Some((value?.parse::<i64>().ok()?, bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => value.is_none_or(|value| !listed(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(number, bound)| number > bound),
        "Lt" => numbers().is_some_and(|(number, bound)| number < bound),
        _ => false,
    }
}
