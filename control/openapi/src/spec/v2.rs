//! OpenAPI v2 ("swagger"): everything in one document.

use std::io::{self, Write};

use kernelet_api::{Registry, Value, names::GroupVersion};
use serde_json::{Map, json};

use super::{
    descriptions::Descriptions,
    parameters::{Parameter, Place},
    paths::{self, Answer, Body, Operation, PathItem},
    types::{Dialect, Types},
    v3::PATCH_TYPES,
    write_members,
};

const MEDIA_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// Writes the document piece by piece.
pub(super) fn write(registry: &Registry, version: &str, out: &mut dyn Write) -> io::Result<()> {
    let group_versions: Vec<GroupVersion> = registry
        .groups()
        .into_iter()
        .flat_map(|(group, versions)| {
            versions
                .into_iter()
                .map(move |version| GroupVersion::new(group.as_str(), version))
        })
        .collect();
    let everywhere = group_versions
        .iter()
        .map(|gv| (gv.group.clone(), gv.version.clone()))
        .collect();
    let packed = Descriptions::load();
    let mut types = Types::new(&registry.schema, Dialect::V2, everywhere, &packed);
    let info = json!({"title": "Kubernetes", "version": version});
    write!(out, r#"{{"swagger":"2.0","info":{info},"paths":{{"#)?;
    let items = group_versions
        .iter()
        .flat_map(|gv| paths::paths(registry, gv));
    write_members(
        out,
        items.map(|item| (item.path.clone(), path_item(&item, &mut types))),
    )?;
    write!(out, r#"}},"definitions":{{"#)?;
    write_members(out, types.definitions())?;
    let definitions = json!({"BearerToken": {
        "description": "Bearer Token authentication",
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
    }});
    write!(
        out,
        r#"}},"securityDefinitions":{definitions},"security":[{{"BearerToken":[]}}]}}"#
    )
}

fn path_item(item: &PathItem, types: &mut Types<'_>) -> Value {
    let mut out = Map::new();
    if !item.parameters.is_empty() {
        out.insert(
            "parameters".to_owned(),
            item.parameters.iter().map(parameter).collect(),
        );
    }
    for one in &item.operations {
        out.insert(one.method.to_owned(), operation(one, types));
    }
    Value::Object(out)
}

fn parameter(parameter: &Parameter) -> Value {
    let mut entry = json!({
        "name": parameter.name,
        "in": if parameter.place == Place::Path { "path" } else { "query" },
        "description": parameter.description,
        "type": parameter.ty,
        "uniqueItems": true,
    });
    if parameter.place == Place::Path {
        entry["required"] = json!(true);
    }
    entry
}

fn operation(operation: &Operation, types: &mut Types<'_>) -> Value {
    let mut parameters: Vec<Value> = operation.parameters.iter().map(parameter).collect();
    let mut consumes: &[&str] = &["*/*"];
    if let Some(body) = &operation.body {
        let (schema, required) = match body {
            Body::Object(ty) => (types.object(*ty), true),
            Body::DeleteOptions(ty) => (types.object(*ty), false),
            Body::Patch => {
                consumes = PATCH_TYPES;
                (types.patch(), true)
            }
        };
        let mut entry = json!({"name": "body", "in": "body", "schema": schema});
        if required {
            entry["required"] = json!(true);
        }
        parameters.insert(0, entry);
    }
    let mut produces: Vec<&str> = MEDIA_TYPES.to_vec();
    if operation.watchable {
        produces.extend([
            "application/json;stream=watch",
            "application/vnd.kubernetes.protobuf;stream=watch",
        ]);
    }
    let mut responses = Map::new();
    for (code, description, answer) in &operation.responses {
        let mut response = json!({"description": description});
        match answer {
            Answer::Object(ty) => response["schema"] = types.object(*ty),
            Answer::Text => {
                produces.insert(0, "text/plain");
                response["schema"] = json!({"type": "string"});
            }
            Answer::Nothing => {}
        }
        responses.insert((*code).to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    let mut out = json!({
        "operationId": operation.id,
        "description": operation.description,
        "tags": [operation.tag],
        "schemes": ["https"],
        "consumes": consumes,
        "produces": produces,
        "responses": responses,
    });
    if !parameters.is_empty() {
        out["parameters"] = Value::Array(parameters);
    }
    if let Some((action, gvk)) = &operation.about {
        out["x-kubernetes-action"] = json!(action);
        out["x-kubernetes-group-version-kind"] =
            json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    }
    out
}
