//! `scale`: the replicas of what has replicas, as an `autoscaling/v1` Scale.

use http::{Response, StatusCode};
use jiff::Timestamp;
use kernelet_api::{
    ApiError, FieldError, Gvk, Value,
    codec::{self, Decoded},
    meta,
    resources::Verb,
};
use kernelet_openapi::tables::human_duration;
use serde_json::{Map, json};

use super::super::{
    Call, Failure, WriteRequest, encode::partial, params::WriteOptions, patch::Patch, read::reach,
};
use crate::{
    body::ResponseBody,
    http::negotiate::{Endpoint, Form, MetaVersion},
    registry::Stored,
};

fn kind() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

pub async fn handle(call: &Call, verb: Verb) -> Result<Response<ResponseBody>, Failure> {
    let output = call.output(match verb {
        Verb::Get => Endpoint::Object,
        _ => Endpoint::Plain,
    })?;
    let stored = call.stored()?;
    let scale = match verb {
        Verb::Get => {
            reach(call, None).await?;
            let key = Stored::cache_key(&call.target.namespace, &call.target.name);
            let object = stored.cache.get(&key).ok_or_else(|| call.not_found())?;
            scale_of(&call.view().tree(&object)?)
        }
        _ => write(call, verb).await?,
    };
    let answer = match output.form {
        Form::Full => scale,
        Form::Metadata(version) => partial(&scale, version),
        Form::Table(version) => table(&scale, version),
    };
    Ok(call.answer_value(StatusCode::OK, output, &answer))
}

/// Upstream's columns of a Scale.
fn table(scale: &Value, version: MetaVersion) -> Value {
    let column = |name: &str, ty: &str, format: &str, description: &str| json!({"name": name, "type": ty, "format": format, "description": description, "priority": 0});
    let count = |path: &str| scale.pointer(path).cloned().unwrap_or_else(|| 0.into());
    let created: Option<Timestamp> = scale
        .pointer("/metadata/creationTimestamp")
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok());
    let age = created.map_or("<unknown>".to_owned(), |created| {
        human_duration(Timestamp::now().as_second() - created.as_second())
    });
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": {"resourceVersion": meta::resource_version(scale)},
        "columnDefinitions": [
            column("Name", "string", "name", "The object's name."),
            column("Desired", "integer", "", "Replicas wanted."),
            column("Available", "integer", "", "Replicas that there are."),
            column("Age", "string", "", "The time since the object was created."),
        ],
        "rows": [{
            "cells": [meta::name(scale), count("/spec/replicas"), count("/status/replicas"), age],
            "object": partial(scale, version),
        }],
    })
}

async fn write(call: &Call, verb: Verb) -> Result<Value, Failure> {
    let options = WriteOptions::parse(
        &call.query,
        if verb == Verb::Patch {
            "PatchOptions"
        } else {
            "UpdateOptions"
        },
    )?;
    let name = call.target.name.as_str();
    let request = WriteRequest::of(call, &options, Some("scale"));
    let (wanted, patch) = match verb {
        Verb::Patch => (None, Some(Patch::parse(call, &options)?)),
        _ => {
            let scale = call.decode(&kind(), options.field_validation)?;
            request.check_name(&scale, name)?;
            (Some(scale), None)
        }
    };
    if matches!(patch, Some(Patch::Apply(_))) {
        return Err(ApiError::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ])
        .into());
    }
    let change = |old: &Value| {
        let before = scale_of(old);
        let after = match (&wanted, &patch) {
            (Some(scale), _) => scale.clone(),
            (None, Some(patch)) => {
                let patched = patch.on(call, &before, &kind())?;
                let Decoded {
                    value, warnings, ..
                } = codec::typecheck(
                    &call.snapshot.api.schema,
                    patched,
                    &kind(),
                    options.field_validation,
                )?;
                call.warn(warnings);
                value
            }
            (None, None) => before.clone(),
        };
        let version = meta::resource_version(&after);
        if !version.is_empty() && version != meta::resource_version(old) {
            let (group, plural) = call.served.names();
            return Err(ApiError::modified(group, plural, name));
        }
        let replicas = after
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        if replicas < 0 {
            let error = FieldError::invalid(
                "spec.replicas",
                replicas,
                "must be greater than or equal to 0",
            );
            return Err(ApiError::invalid("autoscaling", "Scale", name, &[error]));
        }
        let mut new = old.clone();
        meta::child_mut(&mut new, "spec").insert("replicas".to_owned(), replicas.into());
        Ok(new)
    };
    let written = request.update(name, None, &change).await?;
    Ok(scale_of(&call.view().tree(&written.object)?))
}

/// The Scale of an object with `spec.replicas`, `status.replicas` and a selector.
fn scale_of(object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let number = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_i64)
            .unwrap_or_default()
    };
    let mut status = json!({"replicas": number("/status/replicas")});
    let selector = selector_text(object.pointer("/spec/selector"));
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default()},
        "status": status,
    })
}

/// A label selector as text: `app=web,tier in (a,b)`.
fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return String::new();
    };
    // A ReplicationController's is a plain map of labels.
    let plain = selector
        .as_object()
        .filter(|map| map.values().all(Value::is_string));
    let mut terms: Vec<String> = plain
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        terms.extend(
            labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())),
        );
    }
    for expression in selector
        .get("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |field: &str| {
            expression
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let mut values: Vec<&str> = expression
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let (key, values) = (text("key"), values.join(","));
        terms.push(match text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    terms.sort();
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_tells_replicas_and_selector() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"},
            ]}},
            "status": {"replicas": 2},
        });
        let scale = scale_of(&object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(
            scale["status"],
            json!({"replicas": 2, "selector": "!old,app=web,tier in (a,b)"})
        );
        assert_eq!(scale["metadata"].get("labels"), None);
        let plain = json!({"spec": {"selector": {"b": "2", "a": "1"}}});
        assert_eq!(scale_of(&plain)["status"]["selector"], "a=1,b=2");
    }
}
