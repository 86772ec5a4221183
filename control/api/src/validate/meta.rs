//! Metadata: names, labels, annotations, owners, finalizers, managed fields.

use super::{
    names::{self, Messages},
    node::{Errors, Node},
};
use crate::{FieldError, field::ErrorType, resources::NameRule};
use std::collections::BTreeSet;

impl NameRule {
    /// What is wrong with a name, or, with `prefix`, with a generateName.
    pub fn check(self, name: &str, prefix: Prefix) -> Messages {
        let masked = match prefix {
            Prefix::Yes if self != NameRule::PathSegment => names::mask_trailing_dash(name),
            _ => name.to_owned(),
        };
        match self {
            NameRule::DnsSubdomain => names::dns_subdomain(&masked),
            NameRule::DnsLabel => names::dns_label(&masked),
            NameRule::Dns1035Label => names::dns_1035_label(&masked),
            NameRule::PathSegment if prefix == Prefix::Yes && matches!(name, "." | "..") => vec![],
            NameRule::PathSegment => names::path_segment(name),
            NameRule::Any => vec![],
        }
    }
}

/// Whether a name is only the beginning of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefix {
    Yes,
    No,
}

const MAX_ANNOTATIONS: usize = 256 << 10;
const MAX_MANAGER: usize = 128;
const MAX_SUBRESOURCE: usize = 256;

pub(super) fn metadata(meta: &Node<'_>, namespaced: bool, rule: NameRule, errors: &mut Errors) {
    let generate = meta.get("generateName");
    if !generate.text().is_empty() {
        errors.messages(&generate, rule.check(generate.text(), Prefix::Yes));
    }
    let name = meta.get("name");
    if name.text().is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        errors.messages(&name, rule.check(name.text(), Prefix::No));
    }
    let namespace = meta.get("namespace");
    match (namespaced, namespace.text()) {
        (true, "") => errors.push(namespace.required("")),
        (true, text) => errors.messages(&namespace, names::dns_label(text)),
        (false, "") => {}
        (false, _) => errors.push(namespace.forbidden("not allowed on this type")),
    }
    errors.non_negative(&meta.get("generation"));
    labels(&meta.get("labels"), errors);
    annotations(&meta.get("annotations"), errors);
    owners(&meta.get("ownerReferences"), errors);
    finalizers(&meta.get("finalizers"), errors);
    managed_fields(&meta.get("managedFields"), errors);
    finalizers_without_domain(&meta.get("finalizers"), errors);
}

/// The metadata of an update. Both are as [`crate::Resource::prepare_for_update`] leaves them.
pub(super) fn metadata_update(new: &Node<'_>, old: &Node<'_>, errors: &mut Errors) {
    if old.get("deletionTimestamp").is_set() {
        let before: BTreeSet<&str> = old.get("finalizers").each().map(|f| f.text()).collect();
        let after: BTreeSet<&str> = new.get("finalizers").each().map(|f| f.text()).collect();
        let added: Vec<String> = after
            .difference(&before)
            .map(|f| format!("{f:?}"))
            .collect();
        if !added.is_empty() {
            errors.push(new.get("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            )));
        }
    }
    let generation = new.get("generation");
    if generation.int().unwrap_or(0) < old.get("generation").int().unwrap_or(0) {
        errors.push(FieldError::invalid(
            &generation.path,
            generation.int().unwrap_or(0),
            "must not be decremented",
        ));
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        errors.immutable(&new.get(field), &old.get(field));
    }
    labels(&new.get("labels"), errors);
    annotations(&new.get("annotations"), errors);
    owners(&new.get("ownerReferences"), errors);
    managed_fields(&new.get("managedFields"), errors);
    finalizers_without_domain(&new.get("finalizers"), errors);
}

/// A map of labels: the error of a key or value stands at the map's path, as upstream has it.
pub(super) fn labels(labels: &Node<'_>, errors: &mut Errors) {
    for (key, value) in labels.map().into_iter().flatten() {
        for message in names::qualified_name(key) {
            errors.push(FieldError::invalid(&labels.path, key.as_str(), message));
        }
        for message in names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(&labels.path, value.clone(), message));
        }
    }
}

pub(super) fn annotations(annotations: &Node<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.map().into_iter().flatten() {
        for message in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(
                &annotations.path,
                key.as_str(),
                message,
            ));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(&annotations.path, MAX_ANNOTATIONS));
    }
}

fn owners(owners: &Node<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in owners.each() {
        let api_version = owner.get("apiVersion");
        // Upstream can't tell a version in a text with more than one slash.
        let version = match api_version.text().matches('/').count() {
            0 | 1 => api_version.text().rsplit('/').next().unwrap_or_default(),
            _ => "",
        };
        if version.is_empty() {
            errors.push(api_version.invalid("version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            let node = owner.get(field);
            if node.text().is_empty() {
                errors.push(node.invalid("must not be empty"));
            }
        }
        if api_version.text() == "v1" && owner.get("kind").text() == "Event" {
            errors.push(owner.invalid("/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.get("controller").is_true() {
            let this = format!("{}/{}", owner.get("kind").text(), owner.get("name").text());
            match &controller {
                None => controller = Some(this),
                Some(first) => errors.push(owners.invalid(format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                ))),
            }
        }
    }
}

fn finalizers(finalizers: &Node<'_>, errors: &mut Errors) {
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in finalizers.each() {
        for message in names::qualified_name(finalizer.text()) {
            errors.push(FieldError::invalid(
                &finalizers.path,
                finalizer.text(),
                message,
            ));
        }
        orphan |= finalizer.text() == "orphan";
        foreground |= finalizer.text() == "foregroundDeletion";
    }
    if orphan && foreground {
        errors
            .push(finalizers.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

/// Names without a domain are upstream's own.
fn finalizers_without_domain(finalizers: &Node<'_>, errors: &mut Errors) {
    for finalizer in finalizers.each() {
        let name = finalizer.text();
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            errors
                .push(finalizer.invalid(
                    "name is neither a standard finalizer name nor is it fully qualified",
                ));
        }
    }
}

fn managed_fields(list: &Node<'_>, errors: &mut Errors) {
    for entry in list.each() {
        let operation = entry.get("operation");
        if !matches!(operation.text(), "Apply" | "Update") {
            errors.push(operation.invalid("must be `Apply` or `Update`"));
        }
        let ty = entry.get("fieldsType");
        if !matches!(ty.text(), "" | "FieldsV1") {
            errors.push(ty.invalid("must be `FieldsV1`"));
        }
        errors.extend(field_manager(
            entry.get("manager").text(),
            &entry.get("manager").path,
        ));
        let subresource = entry.get("subresource");
        if subresource.len() > MAX_SUBRESOURCE {
            errors.push(FieldError::too_long(&subresource.path, MAX_SUBRESOURCE));
        }
    }
}

/// The name of a field manager: no more than 128 bytes, printable.
pub fn field_manager(name: &str, path: &crate::field::Path) -> Vec<FieldError> {
    let mut errors = vec![];
    if name.len() > MAX_MANAGER {
        errors.push(FieldError::too_long(path, MAX_MANAGER));
    }
    for (at, c) in name
        .char_indices()
        .filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' '))
    {
        let detail = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(c)
        );
        errors.push(FieldError::new(
            ErrorType::Invalid,
            path,
            Some(name.into()),
            detail,
        ));
    }
    errors
}

/// The object form of a label selector.
pub(super) fn label_selector(selector: &Node<'_>, errors: &mut Errors) {
    labels(&selector.get("matchLabels"), errors);
    for expression in selector.get("matchExpressions").each() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() == 0 => {
                errors
                    .push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                errors.push(values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        let key = expression.get("key");
        errors.messages(&key, names::qualified_name(key.text()));
        for value in values.each() {
            errors.messages(&value, names::label_value(value.text()));
        }
    }
}

/// `status.conditions` of the common type.
pub(super) fn conditions(list: &Node<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for condition in list.each() {
        let ty = condition.get("type");
        if !seen.insert(ty.text()) {
            errors.push(ty.duplicate());
        }
        errors.messages(&ty, names::qualified_name(ty.text()));
        let status = condition.get("status");
        if !matches!(status.text(), "True" | "False" | "Unknown") {
            errors.push(status.not_supported(&["False", "True", "Unknown"]));
        }
        let observed = condition.get("observedGeneration");
        if observed.int().is_some_and(|n| n < 0) {
            errors.push(observed.invalid("must be greater than or equal to zero"));
        }
        errors.require(&condition.get("lastTransitionTime"));
        errors.require(&condition.get("reason"));
    }
}
