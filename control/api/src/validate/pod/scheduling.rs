//! Where a pod may run: tolerations and affinity to nodes. Affinity to other pods is refused by the table.

use super::super::{
    names,
    node::{Errors, Node},
};
use crate::FieldError;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A taint's effect, which must be one of the three.
pub(in super::super) fn taint_effect(effect: &Node<'_>, errors: &mut Errors) {
    errors.one_of(effect, EFFECTS);
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
        let weight = preferred.get("weight");
        if !weight.int().is_some_and(|n| (1..=100).contains(&n)) {
            errors.push(FieldError::invalid(
                &weight.path,
                weight.int().unwrap_or(0),
                "must be in the range 1-100",
            ));
        }
        node_selector_term(&preferred.get("preference"), Values::Any, errors);
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
