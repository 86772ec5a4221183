//! May somebody do something: the three kinds of access review.

use kernelet_api::{ApiError, FieldError, Value, meta};
use serde_json::json;

use super::{super::Call, texts};
use crate::{
    authz::{Attributes, Decision, Target},
    user::UserInfo,
};

const GROUP: &str = "authorization.k8s.io";

/// The review's status; a LocalSubjectAccessReview gets its URL's namespace.
pub fn review(call: &Call, kind: &str, review: &mut Value) -> Result<Value, ApiError> {
    let local = kind == "LocalSubjectAccessReview";
    if local {
        let (inside, namespace) = (meta::namespace(review), call.target.namespace.as_str());
        if !inside.is_empty() && inside != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta::set(review, "namespace", namespace);
    }
    let own = kind == "SelfSubjectAccessReview";
    let errors = validate(review, own, local);
    if !errors.is_empty() {
        return Err(ApiError::invalid(GROUP, kind, "", &errors));
    }
    let user = if own {
        (*call.user).clone()
    } else {
        subject(review)
    };
    Ok(decide(call, &review["spec"], &user))
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A field that is there and isn't null.
fn present<'v>(value: &'v Value, field: &str) -> Option<&'v Value> {
    value.get(field).filter(|value| !value.is_null())
}

fn validate(review: &Value, own: bool, local: bool) -> Vec<FieldError> {
    let spec = &review["spec"];
    let (resource, path) = (
        present(spec, "resourceAttributes"),
        present(spec, "nonResourceAttributes"),
    );
    let mut errors = Vec::new();
    match (resource, path) {
        (Some(_), Some(path)) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if !own && text(spec, "user").is_empty() && texts(spec.get("groups")).is_empty() {
        errors.push(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        ));
    }
    if let Some(resource) = resource {
        for (field, value) in [
            ("fieldSelector", present(resource, "fieldSelector")),
            ("labelSelector", present(resource, "labelSelector")),
        ] {
            if let Some(selector) = value {
                let path = format!("spec.resourceAttributes.{field}");
                errors.extend(selector_errors(selector, &path));
            }
        }
    }
    errors.extend(metadata_errors(review, local));
    if local {
        let namespace = meta::namespace(review);
        if let Some(resource) = resource.filter(|r| text(r, "namespace") != namespace) {
            errors.push(FieldError::invalid(
                "spec.resourceAttributes.namespace",
                text(resource, "namespace"),
                "must match metadata.namespace",
            ));
        }
        if let Some(path) = path {
            errors.push(FieldError::invalid(
                "spec.nonResourceAttributes",
                path.clone(),
                "disallowed on this kind of request",
            ));
        }
    }
    errors
}

/// A question has no name, and nothing else that would be kept.
fn metadata_errors(review: &Value, local: bool) -> Option<FieldError> {
    let metadata = review.get("metadata")?;
    let said = metadata.as_object()?.iter().any(|(field, value)| {
        let empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        !empty && field != "managedFields" && !(local && field == "namespace")
    });
    let why = if local {
        "must be empty except for namespace"
    } else {
        "must be empty"
    };
    said.then(|| FieldError::invalid("metadata", metadata.clone(), why))
}

fn selector_errors(selector: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let raw = text(selector, "rawSelector");
    let requirements = requirements(selector);
    if !raw.is_empty() && !requirements.is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.rawSelector"),
            raw,
            "may not specified at the same time as requirements",
        ));
    }
    if raw.is_empty() && requirements.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.requirements"),
            format!("when {path} is specified, requirements or rawSelector is required"),
        ));
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let path = format!("{path}.requirements[{index}]");
        let values = texts(requirement.get("values"));
        match text(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            // Operators of later releases are let through: what isn't understood narrows nothing.
            _ => {}
        }
        if text(requirement, "key").is_empty() {
            errors.push(FieldError::required(
                format!("{path}.key"),
                "must be specified",
            ));
        }
    }
    errors
}

/// Whom a SubjectAccessReview asks about.
fn subject(review: &Value) -> UserInfo {
    let spec = &review["spec"];
    UserInfo {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: texts(spec.get("groups")),
        extra: spec
            .get("extra")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.to_ascii_lowercase(), texts(Some(values))))
            .collect(),
    }
}

/// The field selector as terms, and whether all of it could be taken into account.
fn field_terms(attributes: &Value) -> (String, bool) {
    let Some(selector) = present(attributes, "fieldSelector") else {
        return (String::new(), true);
    };
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        return (raw.to_owned(), true);
    }
    let (mut terms, mut whole) = (Vec::new(), true);
    for requirement in requirements(selector) {
        let (key, values) = (text(requirement, "key"), texts(requirement.get("values")));
        match (text(requirement, "operator"), values.as_slice()) {
            ("In", [value]) => terms.push(format!("{key}={value}")),
            ("NotIn", [value]) => terms.push(format!("{key}!={value}")),
            _ => whole = false,
        }
    }
    (terms.join(","), whole)
}

fn requirements(selector: &Value) -> &[Value] {
    selector
        .get("requirements")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// How much of a selector was left out of account, told as upstream does.
fn ignored(field: &str, terms_left: bool) -> String {
    let how = if terms_left {
        "partially ignored"
    } else {
        "ignored"
    };
    format!("spec.resourceAttributes.{field} {how} due to parse error")
}

fn decide(call: &Call, spec: &Value, user: &UserInfo) -> Value {
    let (resource, path) = (
        present(spec, "resourceAttributes"),
        present(spec, "nonResourceAttributes"),
    );
    let asked = resource.or(path).unwrap_or(&Value::Null);
    let (terms, whole) = field_terms(asked);
    let target = if resource.is_some() {
        Target::Resource {
            group: text(asked, "group"),
            resource: text(asked, "resource"),
            subresource: text(asked, "subresource"),
            namespace: text(asked, "namespace"),
            name: text(asked, "name"),
            field_selector: &terms,
        }
    } else {
        Target::Path(text(asked, "path"))
    };
    let attributes = Attributes {
        user,
        verb: text(asked, "verb"),
        target,
    };
    let (allowed, reason) = match call.state.authz.decide(&attributes) {
        Decision::Allow(reason) => (true, reason),
        Decision::No(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    let mut errors = Vec::new();
    if !whole {
        errors.push(ignored("fieldSelector", !terms.is_empty()));
    }
    if let Some(selector) = present(asked, "labelSelector") {
        let known = |requirement: &&Value| {
            let operator = text(requirement, "operator");
            matches!(operator, "In" | "NotIn" | "Exists" | "DoesNotExist")
        };
        let all = requirements(selector);
        let understood = all.iter().filter(known).count();
        if understood < all.len() {
            errors.push(ignored("labelSelector", understood > 0));
        }
    }
    if !errors.is_empty() {
        status["evaluationError"] = errors.join("; ").into();
    }
    status
}
