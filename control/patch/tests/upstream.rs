//! The same requests, answered by upstream's own code and by ours.
//!
//! `data/*.jsonl` holds one case a line: what was asked and what upstream v1.35 answered. Times are left out, and so are
//! nulls and empty maps, which upstream's typed objects add and drop at will.

use std::{fs, path::Path};

use kernelet_api::{Gvk, Schema, Value, names::GroupVersion};
use kernelet_patch::{
    ApplyError, FieldManager, NoOtherVersions, Set, json_patch, merge_patch, strategic_merge,
};
use serde_json::json;

const NOW: &str = "2026-01-02T03:04:05Z";

/// Every case of the committed file, and of the same file in the folder that `KERNELET_PATCH_CASES` names.
fn cases(file: &str) -> Vec<Value> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let more = std::env::var_os("KERNELET_PATCH_CASES").map(Into::into);
    let mut all = Vec::new();
    for folder in std::iter::once(committed).chain(more) {
        let path = folder.join(file);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {path:?}: {error}"));
        all.extend(
            text.lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("a case is JSON")),
        );
    }
    assert!(all.len() >= 50, "only {} cases in {file}", all.len());
    all
}

fn gvk(case: &Value) -> Gvk {
    let api_version = case["apiVersion"].as_str().expect("apiVersion");
    GroupVersion::parse(api_version)
        .expect("a group version")
        .with_kind(case["kind"].as_str().expect("kind"))
}

/// Without nulls, times and what Go's encoder leaves out: empty maps and lists, zeroes.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, _)| *key != "time")
                .map(|(key, value)| {
                    // An empty map is a member in a set of fields.
                    let value = if key == "fieldsV1" {
                        value.clone()
                    } else {
                        plain(value)
                    };
                    (key.clone(), value)
                })
                .filter(|(_, value)| {
                    ![
                        json!(null),
                        json!({}),
                        json!([]),
                        json!(0),
                        json!(false),
                        json!(""),
                    ]
                    .contains(value)
                })
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.iter().map(plain).collect()),
        other => other.clone(),
    }
}

/// As [`plain`], with the managers in a fixed order: theirs depends on times.
fn comparable(object: &Value) -> Value {
    let mut object = plain(object);
    if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields") {
        entries.sort_by_key(Value::to_string);
    }
    object
}

/// The places where two values differ.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                );
                differences(&format!("{path}.{key}"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{path}: ours {a}, theirs {b}")),
    }
}

/// Names the case by its line and says what differs.
fn difference(line: usize, ours: Result<&Value, String>, case: &Value) -> String {
    let null = Value::Null;
    let theirs = case.get("result").unwrap_or(&null);
    let mut found = Vec::new();
    match ours {
        Ok(ours) => differences("", ours, theirs, &mut found),
        Err(error) => found.push(format!("ours: {error}")),
    }
    if let Some(error) = case.get("error") {
        found.push(format!("theirs: {error}"));
    }
    format!("line {}: {}", line + 1, found.join("; "))
}

fn report(file: &str, failures: Vec<String>, total: usize) {
    let shown: Vec<&String> = failures.iter().take(12).collect();
    assert!(
        failures.is_empty(),
        "{} of {total} cases of {file} differ:\n{shown:#?}",
        failures.len()
    );
}

#[test]
fn json_patches_do_what_upstream_does() {
    let cases = cases("jp.jsonl");
    let mut failures = Vec::new();
    for (line, case) in cases.iter().enumerate() {
        let ours = json_patch(&case["live"], &case["patch"]);
        let same = match (&ours, case.get("result")) {
            (Ok(ours), Some(theirs)) => ours == theirs,
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            failures.push(difference(
                line,
                ours.as_ref().map_err(ToString::to_string),
                case,
            ));
        }
    }
    report("jp.jsonl", failures, cases.len());
}

#[test]
fn merge_patches_do_what_upstream_does() {
    let cases = cases("mp.jsonl");
    let mut failures = Vec::new();
    for (line, case) in cases.iter().enumerate() {
        let ours = merge_patch(&case["live"], &case["patch"]);
        // Upstream also drops nulls inside lists; what becomes of an object doesn't differ.
        if ours.as_ref().map(plain).ok() != case.get("result").map(plain) {
            failures.push(difference(
                line,
                ours.as_ref().map_err(ToString::to_string),
                case,
            ));
        }
    }
    report("mp.jsonl", failures, cases.len());
}

#[test]
fn strategic_merges_do_what_upstream_does() {
    let cases = cases("smp.jsonl");
    let schema = Schema::builtin();
    let mut failures = Vec::new();
    for (line, case) in cases.iter().enumerate() {
        let ty = schema.by_gvk(&gvk(case)).expect("a kind that is served");
        let ours = strategic_merge(schema, ty, &case["live"], &case["patch"]);
        let same = match (&ours, case.get("result")) {
            (Ok(ours), Some(theirs)) => ours == theirs,
            (Err(_), None) => true,
            _ => false,
        };
        if !same {
            failures.push(difference(
                line,
                ours.as_ref().map_err(ToString::to_string),
                case,
            ));
        }
    }
    report("smp.jsonl", failures, cases.len());
}

fn manager<'a>(schema: &'a Schema, case: &Value) -> FieldManager<'a> {
    let gvk = gvk(case);
    let ty = schema.by_gvk(&gvk).expect("a kind that is served");
    let paths: Vec<Vec<&str>> = case
        .get("reset")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|path| {
            path.as_array()
                .expect("a path")
                .iter()
                .filter_map(Value::as_str)
                .collect()
        })
        .collect();
    let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
    let subresource = case.get("subresource").and_then(Value::as_str);
    FieldManager::with_parts(
        schema,
        &gvk,
        ty,
        subresource,
        Set::of_fields(&paths),
        Box::new(NoOtherVersions),
        NOW,
    )
}

#[test]
fn applies_and_updates_do_what_upstream_does() {
    let cases = cases("ssa.jsonl");
    let schema = Schema::builtin();
    let mut failures = Vec::new();
    for (line, case) in cases.iter().enumerate() {
        let manager = manager(schema, case);
        let name = case["manager"].as_str().expect("a manager");
        let live = case.get("live").filter(|live| !live.is_null());
        let ours = if case["op"] == "apply" {
            manager
                .apply(live, &case["patch"], name, case["force"] == true)
                .map(|applied| applied.object)
        } else {
            let mut new = case["new"].clone();
            manager.update(live, &mut new, name).map(|()| new)
        };
        let same = match (&ours, case.get("result")) {
            (Ok(ours), Some(theirs)) => comparable(ours) == comparable(theirs),
            (Err(ApplyError::Conflict(conflicts)), None) => same_conflicts(conflicts, case),
            (Err(ours), None) => ours.to_string() == case["error"].as_str().unwrap_or_default(),
            _ => false,
        };
        if !same {
            let mut case = case.clone();
            if let Some(result) = case.get("result").map(comparable) {
                case["result"] = result;
            }
            failures.push(difference(
                line,
                ours.as_ref()
                    .map(comparable)
                    .as_ref()
                    .map_err(|e| e.to_string()),
                &case,
            ));
        }
    }
    report("ssa.jsonl", failures, cases.len());
}

/// The same causes; upstream lists managers in no fixed order.
fn same_conflicts(ours: &impl std::fmt::Display, case: &Value) -> bool {
    let lines = |text: &str| {
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.replace("conflicts: ", "conflicts:\n"))
            .collect();
        lines.sort();
        lines
    };
    let sort = |text: &str| lines(&text.replacen("conflicts: ", "conflicts:\n", 1));
    json!(sort(&ours.to_string())) == json!(sort(case["error"].as_str().unwrap_or_default()))
}
