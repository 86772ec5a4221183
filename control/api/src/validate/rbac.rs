//! Roles and their bindings.

use super::{
    meta, names,
    node::{Errors, Node},
};
use crate::{FieldError, Value};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a rule or subject stands in a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespace,
    Cluster,
}

pub fn role(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    rules(&Node::root(object), Scope::Namespace, &mut errors);
    errors.into_vec()
}

pub fn role_update(new: &Value, _: &Value) -> Vec<FieldError> {
    role(new)
}

pub fn cluster_role(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    rules(&root, Scope::Cluster, &mut errors);
    let aggregation = root.get("aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.get("clusterRoleSelectors");
        if selectors.len() == 0 {
            errors.push(selectors.required(
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for selector in selectors.each() {
            meta::label_selector(&selector, &mut errors);
        }
    }
    errors.into_vec()
}

pub fn cluster_role_update(new: &Value, _: &Value) -> Vec<FieldError> {
    cluster_role(new)
}

fn rules(root: &Node<'_>, scope: Scope, errors: &mut Errors) {
    for rule in root.get("rules").each() {
        let verbs = rule.get("verbs");
        if verbs.len() == 0 {
            errors.push(verbs.required("verbs must contain at least one value"));
        }
        let urls = rule.get("nonResourceURLs");
        let (groups, resources) = (rule.get("apiGroups"), rule.get("resources"));
        if urls.len() > 0 {
            if scope == Scope::Namespace {
                errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if groups.len() + resources.len() + rule.get("resourceNames").len() > 0 {
                errors.push(
                    urls.invalid(
                        "rules cannot apply to both regular resources and non-resource URLs",
                    ),
                );
            }
            continue;
        }
        if groups.len() == 0 {
            errors.push(groups.required("resource rules must supply at least one api group"));
        }
        if resources.len() == 0 {
            errors.push(resources.required("resource rules must supply at least one resource"));
        }
    }
}

pub fn role_binding(object: &Value) -> Vec<FieldError> {
    binding(object, Scope::Namespace)
}

pub fn cluster_role_binding(object: &Value) -> Vec<FieldError> {
    binding(object, Scope::Cluster)
}

pub fn role_binding_update(new: &Value, old: &Value) -> Vec<FieldError> {
    binding_update(new, old, Scope::Namespace)
}

pub fn cluster_role_binding_update(new: &Value, old: &Value) -> Vec<FieldError> {
    binding_update(new, old, Scope::Cluster)
}

fn binding(object: &Value, scope: Scope) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let reference = root.get("roleRef");
    let (group, kind, name) = (
        reference.get("apiGroup"),
        reference.get("kind"),
        reference.get("name"),
    );
    if group.text() != GROUP {
        errors.push(group.not_supported(&[GROUP]));
    }
    let kinds: &[&str] = if scope == Scope::Cluster {
        &["ClusterRole"]
    } else {
        &["Role", "ClusterRole"]
    };
    if !kinds.contains(&kind.text()) {
        errors.push(kind.not_supported(kinds));
    }
    if errors.require(&name) {
        errors.messages(&name, names::path_segment(name.text()));
    }
    for subject in root.get("subjects").each() {
        self::subject(&subject, scope, &mut errors);
    }
    errors.into_vec()
}

fn subject(subject: &Node<'_>, scope: Scope, errors: &mut Errors) {
    let (kind, name, group) = (
        subject.get("kind"),
        subject.get("name"),
        subject.get("apiGroup"),
    );
    let named = errors.require(&name);
    match kind.text() {
        "ServiceAccount" => {
            if named {
                errors.messages(&name, names::dns_subdomain(name.text()));
            }
            if group.len() > 0 {
                errors.push(group.not_supported(&[""]));
            }
            if scope == Scope::Cluster {
                errors.require(&subject.get("namespace"));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                errors.push(group.not_supported(&[GROUP]));
            }
        }
        _ => errors.push(kind.not_supported(&["ServiceAccount", "User", "Group"])),
    }
}

fn binding_update(new: &Value, old: &Value, scope: Scope) -> Vec<FieldError> {
    let mut errors = binding(new, scope);
    if new.get("roleRef") != old.get("roleRef") {
        errors.push(
            Node::root(new)
                .get("roleRef")
                .invalid("cannot change roleRef"),
        );
    }
    errors
}
