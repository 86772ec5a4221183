//! The options of requests, as query parameters or bodies.

use super::{
    meta,
    node::{Errors, Node},
};
use crate::{FieldError, Value, field::Path};

/// `DeleteOptions`, from the body or the query.
pub fn delete_options(options: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let options = Node::root(options);
    let (policy, orphan) = (
        options.get("propagationPolicy"),
        options.get("orphanDependents"),
    );
    if policy.is_set() && orphan.is_set() {
        errors.push(policy.invalid("orphanDependents and deletionPropagation cannot be both set"));
    }
    if policy.is_set() && !matches!(policy.text(), "Foreground" | "Background" | "Orphan") {
        errors.push(policy.not_supported(&["Foreground", "Background", "Orphan", "nil"]));
    }
    dry_run(&options.get("dryRun"), &mut errors);
    errors.into_vec()
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`; `apply` tells whether the request is a server-side apply.
pub fn write_options(options: &Value, patch: Option<Patch>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let options = Node::root(options);
    let (manager, force) = (options.get("fieldManager"), options.get("force"));
    match patch {
        Some(Patch::Apply) if manager.text().is_empty() => {
            errors.push(manager.required("is required for apply patch"));
        }
        Some(Patch::Other) if force.is_set() => {
            errors.push(force.forbidden("may not be specified for non-apply patch"));
        }
        _ => {}
    }
    errors.extend(meta::field_manager(
        manager.text(),
        &Path::new("fieldManager"),
    ));
    dry_run(&options.get("dryRun"), &mut errors);
    let validation = options.get("fieldValidation");
    if !matches!(validation.text(), "" | "Ignore" | "Warn" | "Strict") {
        errors.push(validation.not_supported(&["", "Ignore", "Strict", "Warn"]));
    }
    errors.into_vec()
}

/// What kind of patch carries the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    Apply,
    Other,
}

fn dry_run(node: &Node<'_>, errors: &mut Errors) {
    if node.each().any(|item| item.text() != "All") {
        errors.push(node.not_supported(&["All"]));
    }
}
