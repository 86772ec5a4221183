//! LimitRanges and ResourceQuotas: which resources they may name, and figures that don't contradict each other.

use super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value, quantity::Canonical};
use std::collections::BTreeSet;

/// Known without a domain.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Of these, those that are counted in whole numbers.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const COMPUTE: &[&str] = &[
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
/// Upstream compares in thousandths only below this.
const MAX_MILLI: i64 = i64::MAX / 1000;

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// A resource of `kubernetes.io`, which names without a domain are too.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that a device plugin brings.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_standard_for_quota(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page(name)
}

/// The messages about a resource's name, wherever it stands.
fn resource_name(name: &str) -> Vec<String> {
    let messages = names::qualified_name(name);
    if !messages.is_empty() || name.contains('/') {
        return messages;
    }
    if name == "storage" || is_standard_for_quota(name) {
        return vec![];
    }
    vec!["must be a standard resource type or fully qualified".to_owned()]
}

fn container_resource_name(name: &str) -> Vec<String> {
    let mut messages = resource_name(name);
    if !name.contains('/') {
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
        if !standard && !name.starts_with("hugepages-") {
            messages.push("must be a standard resource for containers".to_owned());
        }
    } else if !is_native(name) && !is_extended(name) {
        messages.push("doesn't follow extended resource name standard".to_owned());
    }
    messages
}

fn quota_resource_name(name: &str) -> Vec<String> {
    let mut messages = resource_name(name);
    if !name.contains('/') && !is_standard_for_quota(name) {
        messages.push("must be a standard resource for quota".to_owned());
    }
    messages
}

pub fn limit_range(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let mut types = BTreeSet::new();
    for limit in Node::root(object).get("spec").get("limits").each() {
        let ty = limit.get("type");
        let messages = names::qualified_name(ty.text());
        if messages.is_empty() {
            let known = ["Pod", "Container", "PersistentVolumeClaim"].contains(&ty.text());
            if !known && !ty.text().contains('/') {
                errors.push(ty.invalid("must be a standard limit type or fully qualified"));
            }
        }
        errors.messages(&ty, messages);
        if !types.insert(ty.text()) {
            errors.push(ty.duplicate());
        }
        limit_range_item(&limit, &mut errors);
    }
    errors.into_vec()
}

pub fn limit_range_update(new: &Value, _: &Value) -> Vec<FieldError> {
    limit_range(new)
}

fn limit_range_item(limit: &Node<'_>, errors: &mut Errors) {
    let ty = limit.get("type").text();
    let mut keys = BTreeSet::new();
    let mut check = |field: &str, errors: &mut Errors| {
        for (name, quantity) in limit.get(field).entries() {
            let messages = match ty {
                "Pod" | "Container" => container_resource_name(name),
                _ => resource_name(name),
            };
            errors.extend(
                messages
                    .into_iter()
                    .map(|why| FieldError::invalid(&quantity.path, name, why)),
            );
            keys.insert(name);
        }
    };
    check("max", errors);
    check("min", errors);
    if ty == "Pod" {
        for field in ["default", "defaultRequest"] {
            if limit.get(field).len() > 0 {
                errors.push(
                    limit
                        .get(field)
                        .forbidden("may not be specified when `type` is 'Pod'"),
                );
            }
        }
    } else {
        check("default", errors);
        check("defaultRequest", errors);
    }
    let storage = |field: &str| limit.get(field).value.get("storage").is_some();
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        errors.push(limit.get("limits").required(
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    check("maxLimitRequestRatio", errors);
    for key in keys {
        limit_range_figures(limit, ty, key, errors);
    }
}

/// The figures of one resource must be in order: min ≤ defaultRequest ≤ default ≤ max.
fn limit_range_figures(limit: &Node<'_>, ty: &str, key: &str, errors: &mut Errors) {
    let figure = |field: &str| {
        let ignored = ty == "Pod" && field.starts_with("default");
        let value = limit.get(field).value.get(key).filter(|_| !ignored)?;
        Some(Canonical::of(Some(value)))
    };
    let mut refuse = |field: &str, shown: Canonical, why: String| {
        let path = limit.get(field).path.key(key);
        errors.push(FieldError::invalid(path, shown.to_string(), why));
    };
    let (min, max) = (figure("min"), figure("max"));
    let (default, request) = (figure("default"), figure("defaultRequest"));
    let ratio = figure("maxLimitRequestRatio");
    let above = |a: Option<Canonical>, b: Option<Canonical>| match (a, b) {
        (Some(a), Some(b)) if a.number > b.number => Some((a, b)),
        _ => None,
    };
    if let Some((min, max)) = above(min, max) {
        refuse(
            "min",
            min,
            format!("min value {min} is greater than max value {max}"),
        );
    }
    if let Some((min, request)) = above(min, request) {
        let why = format!("min value {min} is greater than default request value {request}");
        refuse("defaultRequest", request, why);
    }
    if let Some((request, max)) = above(request, max) {
        let why = format!("default request value {request} is greater than max value {max}");
        refuse("defaultRequest", request, why);
    }
    if let Some((request, default)) = above(request, default) {
        let why = format!(
            "default request value {request} is greater than default limit value {default}"
        );
        refuse("defaultRequest", request, why);
    }
    if let Some((min, default)) = above(min, default) {
        let why = format!("min value {min} is greater than default value {default}");
        refuse("default", min, why);
    }
    if let Some((default, max)) = above(default, max) {
        let why = format!("default value {default} is greater than max value {max}");
        refuse("default", max, why);
    }
    if let Some(ratio) = ratio {
        if ratio.number < Canonical::from_value(1).number {
            refuse(
                "maxLimitRequestRatio",
                ratio,
                format!("ratio {ratio} is less than 1"),
            );
        }
        if let (Some(min), Some(max)) = (min, max)
            && let Some(most) = exceeded_ratio(ratio, min, max)
        {
            let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
            refuse("maxLimitRequestRatio", ratio, why);
        }
    }
    let overcommit = is_native(key) && !key.starts_with("hugepages-");
    if !overcommit
        && let (Some(default), Some(request)) = (default, request)
        && default.number != request.number
    {
        let why = format!(
            "default value {default} must equal to defaultRequest value {request} in {key}"
        );
        refuse("defaultRequest", request, why);
    }
}

/// `max/min`, when the ratio is above it.
fn exceeded_ratio(ratio: Canonical, min: Canonical, max: Canonical) -> Option<f64> {
    let (ratio, min, max) = (ratio.number, min.number, max.number);
    let small = [ratio, min, max].iter().all(|q| q.value() < MAX_MILLI);
    // Precision is upstream's: it compares as floats too.
    let (wanted, low, high) = if small {
        (
            ratio.milli_value() as f64 / 1000.0,
            min.milli_value() as f64,
            max.milli_value() as f64,
        )
    } else {
        (ratio.value() as f64, min.value() as f64, max.value() as f64)
    };
    let most = high / low;
    (wanted > most).then_some(most)
}

pub fn resource_quota(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = Node::root(object).get("spec");
    quantities(&spec.get("hard"), &mut errors);
    scopes(&spec, &mut errors);
    scope_selector(&spec, &mut errors);
    errors.into_vec()
}

pub fn resource_quota_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.extend(resource_quota(new));
    let scopes = |object| Node::root(object).get("spec").get("scopes");
    let set = |node: &Node<'_>| -> BTreeSet<String> {
        node.each().map(|scope| scope.text().to_owned()).collect()
    };
    let (new, old) = (scopes(new), scopes(old));
    if set(&new) != set(&old) {
        let shown = new.value.clone();
        errors.push(FieldError::invalid(&new.path, shown, "field is immutable"));
    }
    errors.into_vec()
}

pub fn resource_quota_status(new: &Value, _: &Value, _: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let status = Node::root(new).get("status");
    quantities(&status.get("hard"), &mut errors);
    quantities(&status.get("used"), &mut errors);
    errors.into_vec()
}

fn quantities(list: &Node<'_>, errors: &mut Errors) {
    for (name, quantity) in list.entries() {
        errors.extend(
            quota_resource_name(name)
                .into_iter()
                .map(|why| FieldError::invalid(&quantity.path, name, why)),
        );
        let value = Canonical::of(Some(quantity.value)).number;
        if value < Canonical::ZERO.number {
            errors.push(quantity.invalid("must be greater than or equal to 0"));
        }
        if (COUNTED.contains(&name) || is_extended(name)) && value.milli_value() % 1000 != 0 {
            errors.push(quantity.invalid("must be an integer"));
        }
    }
}

/// Whether a quota of that scope can count the resource at all.
fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => resource == "pods" || COMPUTE.contains(&resource),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        _ => true,
    }
}

fn misfits<'a>(spec: &Node<'a>, scope: &str) -> usize {
    let hard = spec.get("hard");
    let names = hard.entries().map(|(name, _)| name);
    names
        .filter(|name| is_standard_for_quota(name) && !scope_fits(scope, name))
        .count()
}

fn conflicting(scopes: &BTreeSet<&str>) -> usize {
    [
        ["BestEffort", "NotBestEffort"],
        ["Terminating", "NotTerminating"],
    ]
    .iter()
    .filter(|pair| pair.iter().all(|scope| scopes.contains(scope)))
    .count()
}

fn scopes(spec: &Node<'_>, errors: &mut Errors) {
    let list = spec.get("scopes");
    let mut refuse = |why: &str| errors.push(list.invalid(why));
    let mut seen = BTreeSet::new();
    for scope in list.each() {
        if !SCOPES.contains(&scope.text()) {
            refuse("unsupported scope");
        }
        for _ in 0..misfits(spec, scope.text()) {
            refuse("unsupported scope applied to resource");
        }
        seen.insert(scope.text());
    }
    for _ in 0..conflicting(&seen) {
        refuse("conflicting scopes");
    }
}

fn scope_selector(spec: &Node<'_>, errors: &mut Errors) {
    let selector = spec.get("scopeSelector");
    let list = selector.get("matchExpressions");
    let mut seen = BTreeSet::new();
    for requirement in list.each() {
        // Upstream's paths name no index here.
        let at = |field: &str| list.path.child(field);
        let (scope, operator) = (
            requirement.get("scopeName").text(),
            requirement.get("operator").text(),
        );
        let values = requirement.get("values");
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(
                at("scopeName"),
                scope,
                "unsupported scope",
            ));
        }
        for _ in 0..misfits(spec, scope) {
            let shown = selector.value.clone();
            errors.push(FieldError::invalid(
                &list.path,
                shown,
                "unsupported scope applied to resource",
            ));
        }
        let only_exists =
            SCOPES.contains(&scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if only_exists && operator != "Exists" {
            errors.push(FieldError::invalid(
                at("operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
        match operator {
            "In" | "NotIn" if values.len() == 0 => errors.push(FieldError::required(
                at("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if values.len() > 0 => errors.push(FieldError::invalid(
                at("values"),
                values.value.clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                at("operator"),
                operator,
                "not a valid selector operator",
            )),
        }
        seen.insert(scope);
    }
    for _ in 0..conflicting(&seen) {
        let shown = spec.get("scopes").value.clone();
        errors.push(FieldError::invalid(&list.path, shown, "conflicting scopes"));
    }
}

#[cfg(test)]
mod tests;
