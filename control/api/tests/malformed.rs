//! Malformed manifests as data: each row of `data/malformed.yaml` is decoded, defaulted and validated as the server
//! does it, and must be answered with its code, reason and causes.

use kernelet_api::{
    ApiError, Gvk, Registry, Resource, Value, codec, codec::FieldValidation, codec::Format, meta,
    names::GroupVersion,
};
use serde_json::{Map, json};
use std::{fs, path::Path};

fn table() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed.yaml");
    codec::parse_yaml(&fs::read(path).expect("the table is there"))
        .expect("the table is YAML")
        .0
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// RFC 7386, and `"@n"` for a text of n characters.
fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let map = target.as_object_mut().expect("made an object above");
            for (key, value) in patch {
                if value.is_null() {
                    map.remove(key);
                } else {
                    merge(map.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        Value::String(text) => match text.strip_prefix('@').and_then(|n| n.parse().ok()) {
            Some(n) => *target = "x".repeat(n).into(),
            None => *target = patch.clone(),
        },
        other => *target = other.clone(),
    }
}

fn resource(kind: &Gvk) -> &'static Resource {
    Registry::builtin()
        .by_kind(&kind.group, &kind.kind)
        .unwrap_or_else(|| panic!("{kind:?} is served"))
}

fn invalid(
    resource: &Resource,
    object: &Value,
    errors: &[kernelet_api::FieldError],
) -> Result<Value, ApiError> {
    if errors.is_empty() {
        return Ok(object.clone());
    }
    Err(ApiError::invalid(
        &resource.group,
        &resource.kind,
        meta::name(object),
        errors,
    ))
}

fn decode(body: &[u8], gvk: &Gvk) -> Result<Value, ApiError> {
    let schema = &Registry::builtin().schema;
    let mut value = codec::decode(schema, Format::Json, body, gvk, FieldValidation::Strict)?.value;
    resource(gvk).default(&mut value);
    Ok(value)
}

fn create(body: &[u8], gvk: &Gvk) -> Result<Value, ApiError> {
    let resource = resource(gvk);
    let mut value = decode(body, gvk)?;
    resource.prepare_for_create(&mut value);
    invalid(resource, &value, &resource.validate_create(&value))
}

fn update(
    old: &Value,
    new: &Value,
    gvk: &Gvk,
    subresource: Option<&str>,
) -> Result<Value, ApiError> {
    let resource = resource(gvk);
    let mut value = decode(new.to_string().as_bytes(), gvk)?;
    resource.prepare_for_update(&mut value, old, subresource);
    invalid(
        resource,
        &value,
        &resource.validate_update(&value, old, subresource),
    )
}

/// Runs one row; answers what is wrong with the answer.
fn check(row: &Value, table: &Value) -> Result<(), String> {
    let fill = |text: &str| {
        let texts = table["texts"].as_object().expect("the table has texts");
        texts.iter().fold(text.to_owned(), |t, (k, v)| {
            t.replace(&format!("{{{k}}}"), v.as_str().unwrap_or_default())
        })
    };
    let answer = match row.get("body").and_then(Value::as_str) {
        Some(body) => create(body.as_bytes(), &Gvk::new("", "v1", text(row, "kind"))),
        None => {
            let base = &table["bases"][text(row, "base")];
            let gvk = GroupVersion::parse(text(base, "apiVersion"))
                .unwrap()
                .with_kind(text(base, "kind"));
            let mut changed = base.clone();
            if row.get("update").is_some() {
                let mut old =
                    create(base.to_string().as_bytes(), &gvk).expect("a base is well-formed");
                meta::set(&mut old, "uid", "1");
                meta::set(&mut old, "resourceVersion", "1");
                changed = old.clone();
                merge(&mut changed, &row["change"]);
                update(
                    &old,
                    &changed,
                    &gvk,
                    row.get("subresource").and_then(Value::as_str),
                )
            } else {
                merge(&mut changed, &row["change"]);
                create(changed.to_string().as_bytes(), &gvk)
            }
        }
    };
    let Err(error) = answer else {
        return Err("was accepted".to_owned());
    };
    let status = error.to_status();
    let code = row.get("code").cloned().unwrap_or(422.into());
    let reason = row.get("reason").cloned().unwrap_or("Invalid".into());
    if (&status["code"], &status["reason"]) != (&code, &reason) {
        return Err(format!(
            "got {} {}: {}",
            status["code"], status["reason"], status["message"]
        ));
    }
    if let Some(message) = row.get("message").and_then(Value::as_str)
        && status["message"] != fill(message)
    {
        return Err(format!(
            "message\n   got {}\n  want {}",
            status["message"],
            json!(fill(message))
        ));
    }
    let causes: Vec<String> = (status["details"]["causes"].as_array().into_iter().flatten())
        .map(|c| {
            format!(
                "{} {}: {}",
                text(c, "reason"),
                text(c, "field"),
                text(c, "message")
            )
        })
        .collect();
    let want: Vec<String> = (row["causes"].as_array().into_iter().flatten())
        .map(|c| fill(c.as_str().unwrap_or_default()))
        .collect();
    if causes != want {
        return Err(format!("causes\n   got {causes:#?}\n  want {want:#?}"));
    }
    Ok(())
}

#[test]
fn every_malformed_manifest_is_refused_with_its_code_reason_and_causes() {
    let table = table();
    let rows = table["rows"].as_array().expect("the table has rows");
    assert!(rows.len() >= 200, "only {} rows", rows.len());
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            check(row, &table)
                .err()
                .map(|why| format!("{}: {why}", text(row, "what")))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_base_is_accepted_so_that_only_a_rows_change_is_refused() {
    let table = table();
    for (name, base) in table["bases"].as_object().expect("the table has bases") {
        let gvk = GroupVersion::parse(text(base, "apiVersion"))
            .unwrap()
            .with_kind(text(base, "kind"));
        if let Err(error) = create(base.to_string().as_bytes(), &gvk) {
            panic!("{name}: {error}");
        }
    }
}
