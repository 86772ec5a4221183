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

/// Every operation of a document, with its path and method.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            if method != "parameters" {
                found.push((path.clone(), method.clone(), operation.clone()));
            }
        }
    }
    found
}

fn names(parameters: &Value) -> BTreeSet<&str> {
    parameters
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["name"].as_str())
        .collect()
}

#[test]
fn the_index_names_each_document_by_its_hash() {
    let open_api = open_api();
    let index = open_api.v3_index();
    assert!(
        paths(&index).contains(&"api/v1".to_owned())
            && paths(&index).contains(&"apis/apps/v1".to_owned())
    );
    for path in paths(&index) {
        let document = open_api.v3(&path, Format::Json).expect("a document");
        let url = format!("/openapi/v3/{path}?hash={}", document.hash);
        assert_eq!(index["paths"][&path]["serverRelativeURL"], url);
    }
    assert!(open_api.v3("apis/nothing/v1", Format::Json).is_none());
    // Equal registries have equal hashes, so that clients' caches outlive a restart.
    assert_eq!(index, self::open_api().v3_index());
}

/// kubectl apply and create look for these before they trust the server with validation.
#[test]
fn every_patch_of_a_stored_kind_says_what_kubectl_asks() {
    let open_api = open_api();
    for resource in Registry::builtin().resources() {
        if !resource.has(kernelet_api::resources::Verb::Patch) {
            continue;
        }
        for version in &resource.versions {
            let gv = resource.gvk(&version.name).group_version();
            let path = if gv.group.is_empty() {
                format!("api/{gv}")
            } else {
                format!("apis/{gv}")
            };
            let document = v3(&open_api, &path);
            let patches: Vec<Value> = operations(&document)
                .into_iter()
                .filter(|(path, method, operation)| {
                    method == "patch"
                        && path.ends_with(&format!("/{}/{{name}}", resource.plural))
                        && operation["x-kubernetes-group-version-kind"]["kind"] == resource.kind
                })
                .map(|(_, _, operation)| operation)
                .collect();
            let [patch] = patches.as_slice() else {
                panic!("{}: {} patches", resource.kind, patches.len())
            };
            assert_eq!(
                names(&patch["parameters"]),
                BTreeSet::from(["dryRun", "fieldManager", "fieldValidation", "force"]),
                "{}",
                resource.kind
            );
            assert_eq!(patch["x-kubernetes-action"], "patch");
            let content = patch["requestBody"]["content"]
                .as_object()
                .expect("content");
            assert!(
                content.contains_key("application/strategic-merge-patch+json"),
                "{}",
                resource.kind
            );
            assert!(
                content.contains_key("application/apply-patch+yaml"),
                "{}",
                resource.kind
            );
        }
    }
}

#[test]
fn operations_have_unique_ids_parameters_with_names_and_a_kind() {
    let open_api = open_api();
    let mut ids = BTreeSet::new();
    let mut documents: Vec<Value> = paths(&open_api.v3_index())
        .iter()
        .map(|path| v3(&open_api, path))
        .collect();
    for document in &documents {
        for (path, method, operation) in operations(document) {
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id.clone()), "{id} twice");
            assert!(
                operation["responses"].get("200").is_some(),
                "{path} {method}"
            );
            if !path.ends_with('/') {
                let gvk = &operation["x-kubernetes-group-version-kind"];
                assert!(
                    gvk["kind"].is_string() && gvk["version"].is_string(),
                    "{path} {method}"
                );
                assert!(
                    operation["x-kubernetes-action"].is_string(),
                    "{path} {method}"
                );
            }
            // What stands in the path is declared, and nothing else.
            let declared: BTreeSet<String> = document["paths"][&path]["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|it| it["in"] == "path")
                .map(|it| format!("{{{}}}", it["name"].as_str().unwrap_or_default()))
                .collect();
            let used: BTreeSet<String> = path
                .split('/')
                .filter(|part| part.starts_with('{'))
                .map(str::to_owned)
                .collect();
            assert_eq!(declared, used, "{path}");
        }
    }
    // v2 has the same operations.
    let v2: Value = serde_json::from_slice(&open_api.v2(Format::Json).plain()).expect("JSON");
    let of_v2: BTreeSet<String> = operations(&v2)
        .into_iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(of_v2, ids);
    documents.clear();
}

/// Client-side validation and three-way patches need these extensions.
#[test]
fn schemas_carry_kinds_list_types_and_patch_strategies() {
    let document = v3(&open_api(), "api/v1");
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let pod = schema("io.k8s.api.core.v1.Pod");
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        serde_json::json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    let containers = schema("io.k8s.api.core.v1.PodSpec")["properties"]["containers"].clone();
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(
        containers["x-kubernetes-list-map-keys"],
        serde_json::json!(["name"])
    );
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    let ports = schema("io.k8s.api.core.v1.ServiceSpec")["properties"]["ports"].clone();
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        serde_json::json!(["port", "protocol"])
    );
    assert_eq!(
        schema("io.k8s.api.core.v1.ServicePort")["properties"]["protocol"]["default"],
        "TCP"
    );
    assert_eq!(
        schema("io.k8s.api.core.v1.PodSpec")["required"],
        serde_json::json!(["containers"])
    );
    assert_eq!(
        schema("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector")["x-kubernetes-map-type"],
        "atomic"
    );
}

/// A reader of protobuf that only knows the wire format: every byte belongs to a field.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            0 => {
                varint(&mut bytes);
                0
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            other => panic!("wire type {other}"),
        };
        let (field, rest) = bytes.split_at(length);
        found.push((tag >> 3, field));
        bytes = rest;
    }
    found
}

fn named(pairs: &[u8], number: u64) -> BTreeSet<String> {
    fields(pairs)
        .into_iter()
        .filter(|(field, _)| *field == number)
        .map(|(_, pair)| String::from_utf8(fields(pair)[0].1.to_vec()).expect("a name"))
        .collect()
}

fn field(message: &[u8], number: u64) -> &[u8] {
    fields(message)
        .into_iter()
        .find(|(field, _)| *field == number)
        .expect("the field")
        .1
}

fn keys(value: &Value) -> BTreeSet<String> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect()
}

#[test]
fn the_protobuf_documents_hold_the_same_paths_and_schemas() {
    let open_api = open_api();
    for path in paths(&open_api.v3_index()) {
        let json = v3(&open_api, &path);
        let bytes = open_api
            .v3(&path, Format::Protobuf)
            .expect("a document")
            .plain();
        assert_eq!(named(field(&bytes, 4), 1), keys(&json["paths"]), "{path}");
        let schemas = field(field(&bytes, 5), 1);
        assert_eq!(
            named(schemas, 1),
            keys(&json["components"]["schemas"]),
            "{path}"
        );
    }
    let json: Value = serde_json::from_slice(&open_api.v2(Format::Json).plain()).expect("JSON");
    let bytes = open_api.v2(Format::Protobuf).plain();
    assert_eq!(named(field(&bytes, 8), 2), keys(&json["paths"]));
    assert_eq!(named(field(&bytes, 9), 1), keys(&json["definitions"]));
}

/// kubectl explain prints them.
#[test]
fn types_and_fields_are_described() {
    let document = v3(&open_api(), "api/v1");
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert!(
        pod["description"]
            .as_str()
            .is_some_and(|text| text.starts_with("Pod is a collection of containers"))
    );
    let mut without = Vec::new();
    for (name, schema) in document["components"]["schemas"]
        .as_object()
        .expect("schemas")
    {
        // Lists are generic where the texts come from.
        if name.ends_with("List") {
            continue;
        }
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            if !property["description"].is_string() {
                without.push(format!("{name}.{field}"));
            }
        }
    }
    assert!(without.is_empty(), "{without:?}");
}
