//! OpenAPI v3: one document a group version.

use std::io::{self, Write};

use kernelet_api::{Registry, Value, names::GroupVersion};
use serde_json::{Map, json};

use super::{
    descriptions::Descriptions,
    parameters::{Parameter, Place},
    paths::{self, Answer, Body, Operation, PathItem},
    types::{Dialect, Types},
    write_members,
};

const MEDIA_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const STREAMED: &[&str] = &[
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
pub(super) const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Writes the document of a group version piece by piece.
pub(super) fn write(
    registry: &Registry,
    gv: &GroupVersion,
    version: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut everywhere = vec![(gv.group.clone(), gv.version.clone())];
    if !gv.group.is_empty() {
        everywhere.insert(0, (String::new(), "v1".to_owned()));
    }
    let packed = Descriptions::load();
    let mut types = Types::new(&registry.schema, Dialect::V3, everywhere, &packed);
    let info = json!({"title": "Kubernetes", "version": version});
    write!(out, r#"{{"openapi":"3.0.0","info":{info},"paths":{{"#)?;
    let paths = paths::paths(registry, gv);
    write_members(
        out,
        paths
            .iter()
            .map(|item| (item.path.clone(), path_item(item, &mut types))),
    )?;
    write!(out, r#"}},"components":{{"schemas":{{"#)?;
    write_members(out, types.definitions())?;
    let security = json!({"BearerToken": {
        "description": "Bearer Token authentication",
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
    }});
    write!(out, r#"}},"securitySchemes":{security}}}}}"#)
}

fn path_item(item: &PathItem, types: &mut Types<'_>) -> Value {
    let mut out = Map::new();
    if !item.parameters.is_empty() {
        out.insert("parameters".to_owned(), parameters(&item.parameters));
    }
    for one in &item.operations {
        out.insert(one.method.to_owned(), operation(one, types));
    }
    Value::Object(out)
}

fn parameters(list: &[Parameter]) -> Value {
    let entry = |parameter: &Parameter| {
        let mut entry = json!({
            "name": parameter.name,
            "in": if parameter.place == Place::Path { "path" } else { "query" },
            "description": parameter.description,
            "schema": {"type": parameter.ty, "uniqueItems": true},
        });
        if parameter.place == Place::Path {
            entry["required"] = json!(true);
        }
        entry
    };
    Value::Array(list.iter().map(entry).collect())
}

fn operation(operation: &Operation, types: &mut Types<'_>) -> Value {
    let mut out = Map::new();
    out.insert("operationId".to_owned(), json!(operation.id));
    out.insert("description".to_owned(), json!(operation.description));
    out.insert("tags".to_owned(), json!([operation.tag]));
    if !operation.parameters.is_empty() {
        out.insert("parameters".to_owned(), parameters(operation.parameters));
    }
    if let Some(body) = &operation.body {
        let content = match body {
            Body::Object(ty) | Body::DeleteOptions(ty) => content(&["*/*"], &types.object(*ty)),
            Body::Patch => content(PATCH_TYPES, &types.patch()),
        };
        let mut request = json!({"content": content});
        if !matches!(body, Body::DeleteOptions(_)) {
            request["required"] = json!(true);
        }
        out.insert("requestBody".to_owned(), request);
    }
    let mut responses = Map::new();
    for (code, description, answer) in &operation.responses {
        let mut response = json!({"description": description});
        match answer {
            Answer::Object(ty) => {
                let streamed = if operation.watchable { STREAMED } else { &[] };
                let media_types: Vec<&str> = MEDIA_TYPES.iter().chain(streamed).copied().collect();
                response["content"] = content(&media_types, &types.object(*ty));
            }
            Answer::Text => {
                response["content"] = content(&["text/plain"], &json!({"type": "string"}))
            }
            Answer::Nothing => {}
        }
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    out.insert("responses".to_owned(), Value::Object(responses));
    if let Some((action, gvk)) = &operation.about {
        out.insert("x-kubernetes-action".to_owned(), json!(action));
        out.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind}),
        );
    }
    Value::Object(out)
}

fn content(media_types: &[&str], schema: &Value) -> Value {
    Value::Object(
        media_types
            .iter()
            .map(|name| ((*name).to_owned(), json!({"schema": schema})))
            .collect(),
    )
}
