//! The table of facts against JSON schemas that somebody else made of v1.35: PyPI's `kubernetes-validate`.
//!
//! `KERNELET_SCHEMAS` names its `_definitions.json`; nothing is fetched here.

use kernelet_api::{Field, Schema, Type, Value, schema::ListType};
use std::{env, fs};

fn definitions() -> Option<Value> {
    let Some(path) = env::var_os("KERNELET_SCHEMAS") else {
        eprintln!(
            "SKIP schemas: KERNELET_SCHEMAS names no _definitions.json of kubernetes-validate"
        );
        return None;
    };
    let text = fs::read(path).expect("KERNELET_SCHEMAS can be read");
    let all: Value = serde_json::from_slice(&text).expect("the definitions are JSON");
    Some(all["$defs"].clone())
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// `type` without the `null` that the schemas add everywhere.
fn json_type(property: &Value) -> &str {
    property["type"]
        .as_str()
        .or_else(|| {
            strings(&property["type"])
                .into_iter()
                .find(|t| *t != "null")
        })
        .unwrap_or("")
}

fn expected_type(ty: &Type) -> Option<&'static str> {
    Some(match ty {
        Type::String | Type::Bytes => "string",
        Type::Bool => "boolean",
        Type::Int32 | Type::Int64 => "integer",
        Type::Double => "number",
        Type::List(_) => "array",
        Type::Map(_) => "object",
        _ => return None,
    })
}

fn check(field: &Field, property: &Value, differ: &mut impl FnMut(&str)) {
    if property.get("$ref").is_none()
        && let Some(expected) = expected_type(&field.ty)
        && expected != json_type(property)
    {
        differ("type");
    }
    let list_type = match property["x-kubernetes-list-type"].as_str() {
        Some("atomic") => Some(ListType::Atomic),
        Some("set") => Some(ListType::Set),
        Some("map") => Some(ListType::Map),
        _ => None,
    };
    if field.list_type != list_type {
        differ("list type");
    }
    if field.list_keys != strings(&property["x-kubernetes-list-map-keys"]) {
        differ("list keys");
    }
    if field.patch_strategy.join(",")
        != property["x-kubernetes-patch-strategy"]
            .as_str()
            .unwrap_or_default()
    {
        differ("patch strategy");
    }
    if field.patch_merge_key.as_deref() != property["x-kubernetes-patch-merge-key"].as_str() {
        differ("merge key");
    }
}

#[test]
fn the_facts_agree_with_an_independent_schema_of_the_same_release() {
    let Some(definitions) = definitions() else {
        return;
    };
    let (mut compared, mut differences) = (0, vec![]);
    for (_, def) in Schema::builtin().types() {
        let Some(definition) = definitions.get(&def.name) else {
            continue;
        };
        let required = strings(&definition["required"]);
        let atomic = definition["x-kubernetes-map-type"] == "atomic";
        if def.atomic != atomic {
            differences.push(format!("{}: atomic", def.name));
        }
        for gvk in definition["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let ours = def
                .gvks
                .iter()
                .any(|g| gvk["group"] == g.group && gvk["version"] == g.version);
            // Options and WatchEvent belong to every group; the table says so in another place.
            if !ours && !def.name.ends_with("Options") && !def.name.ends_with("WatchEvent") {
                differences.push(format!("{}: kind {gvk}", def.name));
            }
        }
        for name in definition["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            if def.field(name).is_none() {
                differences.push(format!("{}.{name}: missing", def.name));
            }
        }
        for field in &def.fields {
            compared += 1;
            let mut differ =
                |what: &str| differences.push(format!("{}.{}: {what}", def.name, field.name));
            match definition["properties"].get(&field.name) {
                Some(property) => check(field, property, &mut differ),
                None => differ("not in the schema"),
            }
            if field.required != required.contains(&field.name.as_str()) {
                differ("required");
            }
        }
    }
    assert!(compared > 1000, "only {compared} fields were compared");
    assert!(differences.is_empty(), "{differences:#?}");
}
