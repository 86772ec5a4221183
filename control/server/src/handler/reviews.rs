//! The virtual resources: questions that are answered and never stored.

mod access;

use http::{Response, StatusCode};
use kernelet_api::{ApiError, Value};
use serde_json::{Map, json};

use super::{Call, Failure, params::WriteOptions, read::now_text, subresource};
use crate::{
    authz::policy::rule_to_value, body::ResponseBody, http::negotiate::Endpoint, user::UserInfo,
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
        "TokenReview" => token_review(call, &review)?,
        "SelfSubjectReview" => json!({"userInfo": user_value(&call.user)}),
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            access::review(call, kind, &mut review)?
        }
        "SelfSubjectRulesReview" => rules_review(call, &review)?,
        _ => return Err(call.not_supported().into()),
    };
    if let Some(map) = review.as_object_mut() {
        map.insert("status".to_owned(), status);
        let metadata = map.entry("metadata").or_insert_with(|| json!({}));
        if kind == "SelfSubjectReview"
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.insert("creationTimestamp".to_owned(), now_text().into());
        }
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

fn token_review(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let token = review
        .pointer("/spec/token")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = texts(review.pointer("/spec/audiences"));
    let found = call.state.authn.review(token, &audiences);
    Ok(match found {
        Ok(found) => json!({
            "authenticated": true, "user": user_value(&found.user), "audiences": found.audiences,
        }),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}

fn rules_review(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let namespace = review
        .pointer("/spec/namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, missing) = call
        .state
        .authz
        .rbac
        .rules_and_missing(&call.user, namespace);
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
    // What the Node authorizer allows depends on the pods of the moment.
    let of_node = call.user.node_name().is_some();
    let mut errors: Vec<String> = Vec::new();
    if of_node {
        errors.push("node authorizer does not support user rule resolution".to_owned());
    }
    errors.extend(missing);
    let mut status =
        json!({"incomplete": of_node, "resourceRules": resource, "nonResourceRules": path});
    match errors.as_slice() {
        [] => {}
        [one] => status["evaluationError"] = one.as_str().into(),
        many => status["evaluationError"] = format!("[{}]", many.join(", ")).into(),
    }
    Ok(status)
}
