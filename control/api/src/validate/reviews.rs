//! Access reviews and token requests.

use super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value};

pub fn subject_access_review(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    attributes(&root.get("spec"), Subject::Named, &mut errors);
    empty_metadata(&root, &[], "must be empty", &mut errors);
    errors.into_vec()
}

pub fn self_subject_access_review(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    attributes(&root.get("spec"), Subject::Caller, &mut errors);
    empty_metadata(&root, &[], "must be empty", &mut errors);
    errors.into_vec()
}

pub fn local_subject_access_review(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = Node::root(object);
    let spec = root.get("spec");
    attributes(&spec, Subject::Named, &mut errors);
    empty_metadata(
        &root,
        &["namespace"],
        "must be empty except for namespace",
        &mut errors,
    );
    let resource = spec.get("resourceAttributes");
    let namespace = resource.get("namespace");
    if resource.is_set() && namespace.text() != root.get("metadata").get("namespace").text() {
        errors.push(namespace.invalid("must match metadata.namespace"));
    }
    let other = spec.get("nonResourceAttributes");
    if other.is_set() {
        errors.push(other.invalid("disallowed on this kind of request"));
    }
    errors.into_vec()
}

/// Whose access is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Named,
    Caller,
}

fn attributes(spec: &Node<'_>, subject: Subject, errors: &mut Errors) {
    let (resource, other) = (
        spec.get("resourceAttributes"),
        spec.get("nonResourceAttributes"),
    );
    if resource.is_set() && other.is_set() {
        errors.push(other.invalid("cannot be specified in combination with resourceAttributes"));
    }
    if !resource.is_set() && !other.is_set() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(&resource.path, Value::Null, detail));
    }
    let user = spec.get("user");
    if subject == Subject::Named && user.len() == 0 && spec.get("groups").len() == 0 {
        errors.push(user.invalid("at least one of user or group must be specified"));
    }
    for kind in ["fieldSelector", "labelSelector"] {
        let selector = resource.get(kind);
        if !selector.is_set() {
            continue;
        }
        let (raw, list) = (selector.get("rawSelector"), selector.get("requirements"));
        if raw.len() > 0 && list.len() > 0 {
            errors.push(raw.invalid("may not specified at the same time as requirements"));
        }
        if raw.len() == 0 && list.len() == 0 {
            let why = format!(
                "when {} is specified, requirements or rawSelector is required",
                selector.path
            );
            errors.push(list.required(why));
        }
        for requirement in list.each() {
            let (key, values) = (requirement.get("key"), requirement.get("values"));
            match requirement.get("operator").text() {
                "In" | "NotIn" if values.len() == 0 => {
                    errors.push(
                        values.required("must be specified when `operator` is 'In' or 'NotIn'"),
                    );
                }
                "Exists" | "DoesNotExist" if values.len() > 0 => {
                    errors.push(values.forbidden(
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    ));
                }
                _ => {}
            }
            if kind == "labelSelector" {
                errors.messages(&key, names::qualified_name(key.text()));
            } else if key.len() == 0 {
                errors.push(key.required("must be specified"));
            }
        }
    }
}

fn empty_metadata(root: &Node<'_>, allowed: &[&str], why: &str, errors: &mut Errors) {
    let metadata = root.get("metadata");
    let stray = |key: &String| key != "managedFields" && !allowed.contains(&key.as_str());
    if metadata.map().is_some_and(|m| m.keys().any(stray)) {
        errors.push(metadata.invalid(why));
    }
}

pub fn self_subject_rules_review(_: &Value) -> Vec<FieldError> {
    // Upstream asks for a namespace in the handler, with another kind of error.
    vec![]
}

pub fn token_review(_: &Value) -> Vec<FieldError> {
    // Upstream asks for a token in the handler, with another kind of error.
    vec![]
}

const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

/// The body of a ServiceAccount's `token`, defaulted.
pub fn token_request(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let seconds = Node::root(object).get("spec").get("expirationSeconds");
    match seconds.int() {
        Some(n) if n < MIN_TOKEN_SECONDS => {
            errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        Some(n) if n > MAX_TOKEN_SECONDS => {
            errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    errors.into_vec()
}

/// The body of `scale`, with the name that the path gives.
pub fn scale(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    errors.non_negative(&Node::root(object).get("spec").get("replicas"));
    errors.into_vec()
}
