//! Requests and limits, and the quality of service that follows from them.

use super::super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value, quantity::Quantity};
use std::collections::{BTreeMap, BTreeSet};

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Standard elsewhere (in quotas), not for containers.
const QUOTA: &[&str] = &[
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) fn resources(resources: &Node<'_>, errors: &mut Errors) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (name, quantity) in limits.entries() {
        resource_name(name, &quantity, errors);
        resource_value(name, &quantity, errors);
    }
    for (name, quantity) in requests.entries() {
        resource_name(name, &quantity, errors);
        resource_value(name, &quantity, errors);
        let overcommit = STANDARD.contains(&name);
        let refuse =
            |detail: String| FieldError::invalid(&requests.path, quantity.value.clone(), detail);
        match limits.value.get(name) {
            Some(limit) => {
                let shown = limit.as_str().unwrap_or_default();
                let (want, most) = (
                    Quantity::of(Some(quantity.value)),
                    Quantity::of(Some(limit)),
                );
                if want != most && !overcommit {
                    errors.push(refuse(format!("must be equal to {name} limit of {shown}")));
                } else if want > most {
                    errors.push(refuse(format!(
                        "must be less than or equal to {name} limit of {shown}"
                    )));
                }
            }
            None if !overcommit => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
    }
    let has = |wanted: fn(&str) -> bool| {
        limits
            .map()
            .into_iter()
            .chain(requests.map())
            .any(|m| m.keys().any(|k| wanted(k)))
    };
    if has(|k| k.starts_with("hugepages-")) && !has(|k| matches!(k, "cpu" | "memory")) {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
}

fn resource_name(name: &str, quantity: &Node<'_>, errors: &mut Errors) {
    let invalid = |detail: &str| FieldError::invalid(&quantity.path, name, detail);
    let messages = names::qualified_name(name);
    let malformed = !messages.is_empty();
    for message in messages {
        errors.push(invalid(&message));
    }
    let for_containers = STANDARD.contains(&name) || name.starts_with("hugepages-");
    match name.split_once('/') {
        None if !for_containers => {
            if !malformed && !QUOTA.contains(&name) {
                errors.push(invalid(
                    "must be a standard resource type or fully qualified",
                ));
            }
            errors.push(invalid("must be a standard resource for containers"));
        }
        Some((domain, _))
            if !domain.ends_with("kubernetes.io") && name.starts_with("requests.") =>
        {
            errors.push(invalid("doesn't follow extended resource name standard"));
        }
        _ => {}
    }
}

fn resource_value(name: &str, quantity: &Node<'_>, errors: &mut Errors) {
    let value = Quantity::of(Some(quantity.value));
    if value < Quantity::ZERO {
        errors.push(quantity.invalid("must be greater than or equal to 0"));
    }
    let whole = name.contains('/')
        && !name
            .split('/')
            .next()
            .is_some_and(|d| d.ends_with("kubernetes.io"));
    if whole && !value.is_whole() {
        errors.push(quantity.invalid("must be an integer"));
    }
}

/// Guaranteed, Burstable or BestEffort, from the requests and limits of all containers.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = Node::root(pod).get("spec");
    let (mut requests, mut limits): (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) =
        Default::default();
    let mut guaranteed = true;
    for container in spec
        .get("containers")
        .each()
        .chain(spec.get("initContainers").each())
    {
        let resources = container.get("resources");
        let counted = |from: &str, into: &mut BTreeMap<String, Quantity>| {
            let mut found = BTreeSet::new();
            for (name, value) in resources.get(from).entries() {
                let value = Quantity::of(Some(value.value));
                if matches!(name, "cpu" | "memory") && value > Quantity::ZERO {
                    let sum = into.entry(name.to_owned()).or_default();
                    *sum = *sum + value;
                    found.insert(name.to_owned());
                }
            }
            found
        };
        counted("requests", &mut requests);
        guaranteed &= counted("limits", &mut limits).len() == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests
        .iter()
        .all(|(name, value)| limits.get(name) == Some(value));
    if guaranteed && equal && requests.len() == limits.len() {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
