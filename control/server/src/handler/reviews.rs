//! The virtual resources: questions that are answered and never stored.

use http::{Response, StatusCode};
use kernelet_api::{ApiError, FieldError, Value};
use serde_json::{Map, json};

use super::{Call, Failure, params::WriteOptions, subresource};
use crate::{
    authz::{Attributes, Decision, Target, policy::rule_to_value},
    body::ResponseBody,
    http::negotiate::Endpoint,
    user::UserInfo,
};

/// `create` of a review.
pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let kind = call.served.resource.kind.as_str();
    if kind == "Binding" {
        return subresource::bind(call, None).await;
    }
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Plain)?;
    let mut review = call.decode(&call.gvk(), options.field_validation)?;
    let status = match kind {
        "TokenReview" => token_review(call, &review),
        "SelfSubjectReview" => json!({"userInfo": user_value(&call.user)}),
        "SelfSubjectAccessReview" => access_review(call, &review, &call.user)?,
        "SubjectAccessReview" => access_review(call, &review, &subject(&review))?,
        "LocalSubjectAccessReview" => {
            let namespace = &call.target.namespace;
            let asked = review
                .pointer("/spec/resourceAttributes/namespace")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if asked != namespace {
                let why = format!("must match metadata.namespace: {namespace}");
                let error = FieldError::invalid("spec.resourceAttributes.namespace", asked, why);
                return Err(ApiError::invalid("authorization.k8s.io", kind, "", &[error]).into());
            }
            access_review(call, &review, &subject(&review))?
        }
        "SelfSubjectRulesReview" => rules_review(call, &review),
        _ => return Err(call.not_supported().into()),
    };
    if let Some(map) = review.as_object_mut() {
        map.insert("status".to_owned(), status);
        map.entry("metadata").or_insert_with(|| json!({}));
    }
    Ok(call.answer_value(StatusCode::CREATED, output, &review))
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn user_value(user: &UserInfo) -> Value {
    let mut map = Map::new();
    map.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        map.insert("uid".to_owned(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        map.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        map.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(map)
}

fn token_review(call: &Call, review: &Value) -> Value {
    let token = review
        .pointer("/spec/token")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let audiences = texts(review.pointer("/spec/audiences"));
    match call.state.authn.review(token, &audiences) {
        Ok((user, audiences)) => {
            json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
        }
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    }
}

/// Whom a SubjectAccessReview asks about.
fn subject(review: &Value) -> UserInfo {
    let spec = &review["spec"];
    let text = |field: &str| {
        spec.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    UserInfo {
        name: text("user"),
        uid: text("uid"),
        groups: texts(spec.get("groups")),
        extra: spec
            .get("extra")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), texts(Some(values))))
            .collect(),
    }
}

fn access_review(call: &Call, review: &Value, user: &UserInfo) -> Result<Value, ApiError> {
    let spec = &review["spec"];
    let (resource, path) = (
        spec.get("resourceAttributes"),
        spec.get("nonResourceAttributes"),
    );
    let invalid = |error| {
        ApiError::invalid(
            "authorization.k8s.io",
            &call.served.resource.kind,
            "",
            &[error],
        )
    };
    if resource.is_some() == path.is_some() {
        let why = if resource.is_some() {
            "cannot be specified in combination with resourceAttributes"
        } else {
            "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        };
        let field = if resource.is_some() {
            "spec.nonResourceAttributes"
        } else {
            "spec.resourceAttributes"
        };
        return Err(invalid(FieldError::invalid(
            field,
            path.cloned().unwrap_or_default(),
            why,
        )));
    }
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid(FieldError::invalid(
            "spec.user",
            "",
            "at least one of user or group must be specified",
        )));
    }
    let asked = resource.or(path).unwrap_or(&Value::Null);
    let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or_default();
    let target = if resource.is_some() {
        Target::Resource {
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            field_selector: asked
                .pointer("/fieldSelector/rawSelector")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        }
    } else {
        Target::Path(text("path"))
    };
    let attributes = Attributes {
        user,
        verb: text("verb"),
        target,
    };
    Ok(match call.state.authz.decide(&attributes) {
        Decision::Allow(reason) if reason.is_empty() => json!({"allowed": true}),
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::No(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::No(reason) => json!({"allowed": false, "reason": reason}),
    })
}

fn rules_review(call: &Call, review: &Value) -> Value {
    let namespace = review
        .pointer("/spec/namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut rules = call.state.authz.rbac.rules_for(&call.user, namespace);
    if call.user.in_group(crate::user::SYSTEM_MASTERS) {
        rules.insert(0, crate::authz::rules::Rule::everything());
    }
    let (mut resource, mut path) = (Vec::new(), Vec::new());
    for rule in &rules {
        if !rule.non_resource_urls.is_empty() {
            path.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
        if !rule.resources.is_empty() {
            let mut value = rule_to_value(rule);
            if let Some(map) = value.as_object_mut() {
                map.remove("nonResourceURLs");
            }
            resource.push(value);
        }
    }
    json!({"incomplete": false, "resourceRules": resource, "nonResourceRules": path})
}
