//! The documents, read back strictly: every reference resolves, and everything a client looks for is there.

use std::collections::BTreeSet;

use kernelet_api::{Registry, Value};
use kernelet_openapi::{Format, OpenApi};

fn open_api() -> OpenApi {
    OpenApi::new(Registry::builtin().clone(), "v1.35.0")
}

fn paths(index: &Value) -> Vec<String> {
    index["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .cloned()
        .collect()
}

fn v3(open_api: &OpenApi, path: &str) -> Value {
    let document = open_api
        .v3(path, Format::Json)
        .expect("a document for each path of the index");
    serde_json::from_slice(&document.plain()).expect("JSON")
}

/// Every `$ref` below `value`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.clone());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_of_v3_resolves_and_every_schema_is_referred_to() {
    let open_api = open_api();
    for path in paths(&open_api.v3_index()) {
        let document = v3(&open_api, &path);
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("schemas");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let wanted: BTreeSet<String> = schemas
            .keys()
            .map(|name| format!("#/components/schemas/{name}"))
            .collect();
        assert_eq!(found, wanted, "{path}");
    }
}

#[test]
fn every_reference_of_v2_resolves() {
    let document: Value =
        serde_json::from_slice(&open_api().v2(Format::Json).plain()).expect("JSON");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let definitions = document["definitions"].as_object().expect("definitions");
    let wanted: BTreeSet<String> = definitions
        .keys()
        .map(|name| format!("#/definitions/{name}"))
        .collect();
    assert_eq!(found, wanted);
}
