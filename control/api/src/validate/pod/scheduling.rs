//! Where a pod may run: tolerations, affinity to nodes and to other pods, spreading.

use super::super::{
    meta, names,
    node::{Errors, Node},
};
use crate::{FieldError, Value};
use std::collections::BTreeSet;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A taint's effect, which must be one of the three.
pub(in super::super) fn taint_effect(effect: &Node<'_>, errors: &mut Errors) {
    errors.one_of(effect, EFFECTS);
}

/// What must be taken away before a scheduler may look at the pod.
pub(super) fn gates(list: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for gate in list.each() {
        let name = gate.get("name").text();
        // Upstream names the element, not its field.
        let invalid = |message: String| FieldError::invalid(&gate.path, name, message);
        errors.extend(names::qualified_name(name).into_iter().map(invalid));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&gate.path, name));
        }
    }
}

/// Gates may only go.
pub(super) fn only_removed_gates(new: &Node<'_>, old: &Node<'_>, errors: &mut Errors) {
    let had: BTreeSet<&str> = old.each().map(|gate| gate.get("name").text()).collect();
    for gate in new.each() {
        let name = gate.get("name");
        if !had.contains(name.text()) {
            errors.push(name.forbidden(format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                name.text()
            )));
        }
    }
}

/// A gated pod's node selector may become narrower.
pub(super) fn only_added_selectors(new: &Node<'_>, old: &Node<'_>, errors: &mut Errors) {
    let kept = old
        .entries()
        .all(|(key, was)| new.value.get(key) == Some(was.value));
    if !kept {
        errors.push(new.invalid(
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        ));
    }
}

/// So may its required affinity to nodes: each term by more expressions. What is only preferred is free.
pub(super) fn only_narrowed_affinity(new: &Node<'_>, old: &Node<'_>, errors: &mut Errors) {
    let terms = |affinity: &Node<'_>| {
        affinity
            .get("requiredDuringSchedulingIgnoredDuringExecution")
            .get("nodeSelectorTerms")
            .value
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let (now, before) = (terms(new), terms(old));
    if before.is_empty() {
        return;
    }
    let list = new
        .get("requiredDuringSchedulingIgnoredDuringExecution")
        .get("nodeSelectorTerms");
    if now.len() != before.len() {
        errors.push(
            list.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed"),
        );
        return;
    }
    for (term, was) in list.each().zip(&before) {
        if !only_additions(term.value, was) {
            errors.push(term.invalid("only additions are allowed (no mutations or deletions)"));
        }
    }
}

/// Whether a term's expressions begin with those it had. One without any matches nothing, and stays so.
fn only_additions(new: &Value, old: &Value) -> bool {
    let list = |term: &Value, field: &str| {
        term.get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let fields = ["matchExpressions", "matchFields"];
    if fields.iter().all(|field| list(old, field).is_empty()) {
        return fields.iter().all(|field| list(new, field).is_empty());
    }
    fields
        .iter()
        .all(|field| list(new, field).starts_with(&list(old, field)))
}

pub(super) fn tolerations(list: &Node<'_>, errors: &mut Errors) {
    for toleration in list.each() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (value, effect) = (toleration.get("value"), toleration.get("effect"));
        if key.len() > 0 {
            errors.messages(&key, names::qualified_name(key.text()));
        } else if operator.text() != "Exists" {
            errors.push(
                operator.invalid("operator must be Exists when `key` is empty, which means \"match all values and all keys\""),
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            errors
                .push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.text() {
            "" | "Equal" => {
                let messages = names::label_value(value.text());
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(
                        &operator.path,
                        value.text(),
                        messages.join(";"),
                    ));
                }
            }
            "Exists" if value.len() > 0 => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&operator.path, value.text(), detail));
            }
            "Exists" => {}
            // Comparisons are an alpha feature that is off.
            "Lt" | "Gt" => errors.push(operator.not_supported(&["Equal", "Exists", "Lt", "Gt"])),
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if effect.len() > 0 && !EFFECTS.contains(&effect.text()) {
            errors.push(effect.not_supported(EFFECTS));
        }
    }
}

pub(super) fn affinity(affinity: &Node<'_>, errors: &mut Errors) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        let terms = required.get("nodeSelectorTerms");
        if terms.len() == 0 {
            errors.push(terms.required("must have at least one node selector term"));
        }
        for term in terms.each() {
            node_selector_term(&term, Values::Checked, errors);
        }
    }
    for preferred in node
        .get("preferredDuringSchedulingIgnoredDuringExecution")
        .each()
    {
        weight(&preferred, errors);
        node_selector_term(&preferred.get("preference"), Values::Any, errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = affinity.get(kind);
        for term in affinity
            .get("requiredDuringSchedulingIgnoredDuringExecution")
            .each()
        {
            pod_term(&term, errors);
        }
        for preferred in affinity
            .get("preferredDuringSchedulingIgnoredDuringExecution")
            .each()
        {
            weight(&preferred, errors);
            pod_term(&preferred.get("podAffinityTerm"), errors);
        }
    }
}

fn weight(preferred: &Node<'_>, errors: &mut Errors) {
    let weight = preferred.get("weight");
    if !weight.int().is_some_and(|n| (1..=100).contains(&n)) {
        errors.push(FieldError::invalid(
            &weight.path,
            weight.int().unwrap_or(0),
            "must be in the range 1-100",
        ));
    }
}

fn pod_term(term: &Node<'_>, errors: &mut Errors) {
    meta::label_selector(&term.get("labelSelector"), errors);
    meta::label_selector(&term.get("namespaceSelector"), errors);
    for namespace in term.get("namespaces").each() {
        for message in names::dns_label(namespace.text()) {
            errors.push(FieldError::invalid(
                term.path.child("namespace"),
                namespace.text(),
                message,
            ));
        }
    }
    label_keys(term, errors);
    let key = term.get("topologyKey");
    if key.len() == 0 {
        errors.push(key.required("can not be empty"));
    }
    errors.messages(&key, names::qualified_name(key.text()));
}

/// `matchLabelKeys` and `mismatchLabelKeys`: names of labels that the selector does not settle already.
fn label_keys(place: &Node<'_>, errors: &mut Errors) {
    let selector = place.get("labelSelector");
    let (matching, mismatching) = (place.get("matchLabelKeys"), place.get("mismatchLabelKeys"));
    for keys in [&matching, &mismatching] {
        if keys.len() > 0 && !selector.is_set() {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for key in keys.each() {
            errors.messages(&key, names::qualified_name(key.text()));
        }
    }
    let mut selected: BTreeSet<&str> = selector
        .get("matchLabels")
        .entries()
        .map(|(key, _)| key)
        .collect();
    for expression in selector.get("matchExpressions").each() {
        let key = expression.get("key").text();
        if let Some(i) = matching.each().position(|k| k.text() == key)
            && selected.contains(key)
        {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid(place.path.index(i), key, detail));
        }
        selected.insert(key);
    }
    for key in matching.each() {
        if mismatching.each().any(|other| other.text() == key.text()) {
            errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

pub(super) fn spread(list: &Node<'_>, errors: &mut Errors) {
    let constraints: Vec<Node<'_>> = list.each().collect();
    for (i, constraint) in constraints.iter().enumerate() {
        let (key, action) = (
            constraint.get("topologyKey"),
            constraint.get("whenUnsatisfiable"),
        );
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            errors.push(FieldError::invalid(
                &skew.path,
                skew.int().unwrap_or(0),
                "must be greater than zero",
            ));
        }
        if key.len() == 0 {
            errors.push(key.required("can not be empty"));
        }
        if !matches!(action.text(), "DoNotSchedule" | "ScheduleAnyway") {
            errors.push(action.not_supported(&["DoNotSchedule", "ScheduleAnyway"]));
        }
        let same = |other: &Node<'_>| {
            other.get("topologyKey").text() == key.text()
                && other.get("whenUnsatisfiable").text() == action.text()
        };
        if constraints[i + 1..].iter().any(same) {
            let path = constraint.path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(
                path,
                format!("{{{}, {}}}", key.text(), action.text()),
            ));
        }
        let domains = constraint.get("minDomains");
        if domains.is_set() {
            positive(&domains, errors);
            if action.text() != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                );
                errors.push(domains.invalid(detail));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.get(policy);
            if policy.is_set() && !matches!(policy.text(), "Honor" | "Ignore") {
                errors.push(policy.not_supported(&["Honor", "Ignore"]));
            }
        }
        label_keys(constraint, errors);
        meta::label_selector(&constraint.get("labelSelector"), errors);
    }
}

fn positive(node: &Node<'_>, errors: &mut Errors) {
    let number = node.int().unwrap_or(0);
    if number <= 0 {
        errors.push(FieldError::invalid(
            &node.path,
            number,
            "must be greater than 0",
        ));
    }
}

/// Whether the values of a term must be label values: upstream lets any text stand in preferences.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Checked,
    Any,
}

fn node_selector_term(term: &Node<'_>, check: Values, errors: &mut Errors) {
    for requirement in term.get("matchExpressions").each() {
        let (operator, values, key) = (
            requirement.get("operator"),
            requirement.get("values"),
            requirement.get("key"),
        );
        match operator.text() {
            "In" | "NotIn" => {
                if values.len() == 0 {
                    errors.push(
                        values.required("must be specified when `operator` is 'In' or 'NotIn'"),
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if values.len() > 0 {
                    errors.push(values.forbidden(
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    ));
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    errors.push(values.required(
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    ));
                }
            }
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        errors.messages(&key, names::qualified_name(key.text()));
        if check == Values::Checked {
            for value in values.each() {
                errors.messages(&value, names::label_value(value.text()));
            }
        }
    }
    for requirement in term.get("matchFields").each() {
        let (operator, values, key) = (
            requirement.get("operator"),
            requirement.get("values"),
            requirement.get("key"),
        );
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => errors.push(values.required(
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            )),
            "In" | "NotIn" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        if key.text() == "metadata.name" {
            for value in values.each() {
                errors.messages(&value, names::dns_subdomain(value.text()));
            }
        } else {
            errors.push(key.invalid("not a valid field selector key"));
        }
    }
}
