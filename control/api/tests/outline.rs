//! What an index reads of an object in outline is what it would read of the whole.

use kernelet_api::{Registry, codec::Outline};
use serde_json::{Value, json};

/// Sets the value at a dotted path.
fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for name in path.split('.') {
        at = &mut at[name];
    }
    *at = value;
}

#[test]
fn selectable_fields_are_the_same_in_outline() {
    let registry = Registry::builtin();
    let mut seen = 0;
    for resource in registry.resources() {
        let mut whole = json!({
            "metadata": {"name": "n", "namespace": "ns", "managedFields": [{"manager": "m"}], "annotations": {"a": "b"}},
            "source": {"component": "source's"},
            "reportingComponent": "reporter",
            "involvedObject": {"kind": "k", "name": "of", "uid": "u"},
        });
        for path in &resource.selectable_fields {
            let value = match *path {
                "status.podIPs" => json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]),
                "source" => continue,
                path => json!(format!("value of {path}")),
            };
            set(&mut whole, path, value);
        }
        for whole in [whole, json!({"metadata": {"name": "n"}})] {
            let outline = Outline::of(resource.selectable_sources());
            let part = outline.read(whole.to_string().as_bytes()).unwrap();
            assert_eq!(part.pointer("/metadata/managedFields"), None);
            for path in &resource.selectable_fields {
                assert_eq!(
                    resource.selectable(&part, path),
                    resource.selectable(&whole, path),
                    "{} {path}",
                    resource.plural
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "{seen}");
}
