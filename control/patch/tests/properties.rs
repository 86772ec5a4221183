//! What holds for every patch.

use kernelet_api::{Gvk, Registry, Schema, Value};
use kernelet_patch::{
    FieldManager, Path, PathElement, Set, json_patch, merge_patch, strategic_merge,
};
use proptest::{collection, option, prelude::*, sample::select};
use serde_json::{Map, json};

/// Any JSON without nulls, keys from a small alphabet so that documents overlap.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-3..3i64).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn json_object() -> impl Strategy<Value = Value> {
    collection::btree_map("[a-d]", json_value(), 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

/// The merge patch that leads from `from` to `to`.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to {
        match from.get(key) {
            Some(before) if before == value => {}
            Some(before) => drop(patch.insert(key.clone(), difference(before, value))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

fn element() -> impl Strategy<Value = PathElement> {
    prop_oneof![
        "[a-c/.:\"]{1,2}".prop_map(PathElement::field),
        (0..4i64).prop_map(PathElement::Index),
        prop_oneof![
            "[a-c]".prop_map(Value::from),
            (0..3).prop_map(Value::from),
            any::<bool>().prop_map(Value::from)
        ]
        .prop_map(PathElement::Value),
        collection::btree_map("[a-c]", (0..3).prop_map(Value::from), 1..3)
            .prop_map(|key| PathElement::key(key.into_iter().collect())),
    ]
}

fn set() -> impl Strategy<Value = Set> {
    let path = collection::vec(element(), 1..4).prop_map(Path);
    collection::vec(path, 0..8).prop_map(|paths| paths.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_patch_made_from_a_difference_leads_there(from in json_object(), to in json_object()) {
        prop_assert_eq!(merge_patch(&from, &difference(&from, &to)).expect("applies"), to);
    }

    #[test]
    fn a_merge_patch_applied_twice_is_as_good_as_once(from in json_object(), patch in json_object()) {
        let once = merge_patch(&from, &patch).expect("applies");
        prop_assert_eq!(&merge_patch(&once, &patch).expect("applies"), &once);
    }

    #[test]
    fn what_a_json_patch_adds_it_can_test_and_remove(from in json_object(), key in "[a-d~/]{1,3}", value in json_value()) {
        let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        let added = json_patch(&from, &json!([
            {"op": "add", "path": pointer, "value": value}, {"op": "test", "path": pointer, "value": value},
        ])).expect("applies");
        prop_assert_eq!(&added[&key], &value);
        let mut without = from.clone();
        without.as_object_mut().expect("an object").remove(&key);
        prop_assert_eq!(json_patch(&added, &json!([{"op": "remove", "path": pointer}])).expect("applies"), without);
    }

    #[test]
    fn a_set_survives_the_wire(set in set()) {
        prop_assert_eq!(Set::from_fields(&set.to_fields()).expect("reads"), set);
    }

    #[test]
    fn sets_obey_the_laws_of_sets(a in set(), b in set()) {
        for path in a.paths().iter().chain(&b.paths()) {
            let (in_a, in_b) = (a.contains(&path.0), b.contains(&path.0));
            prop_assert_eq!(a.union(&b).contains(&path.0), in_a || in_b);
            prop_assert_eq!(a.intersection(&b).contains(&path.0), in_a && in_b);
            prop_assert_eq!(a.difference(&b).contains(&path.0), in_a && !in_b);
            let below_b = (1..=path.0.len()).any(|length| b.contains(&path.0[..length]));
            prop_assert_eq!(a.recursive_difference(&b).contains(&path.0), in_a && !below_b);
        }
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert!(a.difference(&a).is_empty());
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

/// An object of the given fields, each perhaps left out.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| {
            option::of(value).prop_map(move |value| value.map(|value| (name.to_owned(), value)))
        })
        .collect();
    fields
        .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect()))
        .boxed()
}

/// A list of items with different values of `key`.
fn keyed(key: &'static str, item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    collection::btree_map(name(), item, 1..4)
        .prop_map(move |items| {
            items
                .into_iter()
                .map(|(name, mut item)| {
                    item[key] = name.into();
                    item
                })
                .collect()
        })
        .boxed()
}

fn text() -> BoxedStrategy<Value> {
    name().prop_map(Value::from).boxed()
}

fn labels() -> BoxedStrategy<Value> {
    collection::btree_map(name(), name(), 1..3)
        .prop_map(|labels| {
            labels
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect::<Map<_, _>>()
                .into()
        })
        .boxed()
}

fn deployment() -> impl Strategy<Value = Value> {
    let container = object(vec![
        ("image", text()),
        (
            "command",
            collection::vec(text(), 1..3).prop_map(Value::from).boxed(),
        ),
        ("env", keyed("name", object(vec![("value", text())]))),
    ]);
    let pod = object(vec![
        ("containers", keyed("name", container)),
        ("nodeSelector", labels()),
        ("hostNetwork", Just(json!(true)).boxed()),
    ]);
    let spec = object(vec![
        ("replicas", (1..4).prop_map(Value::from).boxed()),
        (
            "selector",
            labels()
                .prop_map(|labels| json!({"matchLabels": labels}))
                .boxed(),
        ),
        ("template", object(vec![("spec", pod)])),
    ]);
    (spec, option::of(labels())).prop_map(|(spec, labels)| {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "n"}, "spec": spec,
        });
        if let Some(labels) = labels {
            object["metadata"]["labels"] = labels;
        }
        object
    })
}

/// Whether all of `part` stands in `whole`; lists of objects by name, others as they are.
fn stands_in(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part
            .iter()
            .all(|(key, value)| whole.get(key).is_some_and(|other| stands_in(value, other))),
        (Value::Array(part), Value::Array(whole)) if part.iter().all(Value::is_object) => {
            part.iter().all(|item| {
                whole
                    .iter()
                    .find(|other| other["name"] == item["name"])
                    .is_some_and(|other| stands_in(item, other))
            })
        }
        (part, whole) => part == whole,
    }
}

fn manager() -> FieldManager<'static> {
    let registry = Registry::builtin();
    let resource = registry.by_kind("apps", "Deployment").expect("deployments");
    let gvk = Gvk::new("apps", "v1", "Deployment");
    FieldManager::new(registry, resource, &gvk, None, "2026-01-01T00:00:00Z").expect("a known type")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_strategic_merge_brings_everything_in_and_is_stable(from in deployment(), patch in deployment()) {
        let schema = Schema::builtin();
        let ty = schema.by_gvk(&Gvk::new("apps", "v1", "Deployment")).expect("deployments");
        let once = strategic_merge(schema, ty, &from, &patch).expect("applies");
        prop_assert!(stands_in(&patch, &once), "{once}");
        prop_assert_eq!(strategic_merge(schema, ty, &once, &patch).expect("applies"), once);
    }

    #[test]
    fn whatever_was_applied_is_there_until_it_is_given_up(
        steps in collection::vec((name(), deployment()), 1..6),
    ) {
        let mut live: Option<Value> = None;
        for (who, mut config) in steps {
            // An empty map says nothing, and doesn't outlive what was in it.
            prune(&mut config);
            let applied = manager().apply(live.as_ref(), &config, who, true).expect("forced").object;
            prop_assert!(stands_in(&config, &applied), "{applied}");
            // Again is no change, and needs no force.
            let again = manager().apply(Some(&applied), &config, who, false).expect("no conflict");
            prop_assert!(!again.changed);
            prop_assert_eq!(&again.object, &applied);
            live = Some(applied);
        }
        // When everybody has given up, nothing that was applied is left.
        let empty = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}});
        for who in ["a", "b", "c"] {
            live = Some(manager().apply(live.as_ref(), &empty, who, false).expect("no conflict").object);
        }
        let mut live = live.expect("applied at least once");
        // An empty shell may be left of what stood around the fields.
        prune(&mut live);
        prop_assert_eq!(live, empty);
    }

    #[test]
    fn an_update_owns_exactly_what_it_changed(from in deployment(), to in deployment()) {
        let mut created = from.clone();
        manager().update(None, &mut created, "creator").expect("creates");
        created["metadata"]["uid"] = "u".into();
        let mut updated = to.clone();
        updated["metadata"]["uid"] = "u".into();
        manager().update(Some(&created), &mut updated, "updater").expect("updates");
        let entries = updated["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let sets: Vec<Set> = entries.iter().map(|it| Set::from_fields(&it["fieldsV1"]).expect("reads")).collect();
        if let [one, other] = sets.as_slice() {
            prop_assert!(one.intersection(other).is_empty());
        }
        if from == to {
            prop_assert!(entries.iter().all(|entry| entry["manager"] == "creator"));
        }
    }
}

/// Drops empty maps and lists, from the inside out.
fn prune(value: &mut Value) {
    if let Value::Object(map) = value {
        map.values_mut().for_each(prune);
        map.retain(|_, value| *value != json!({}) && *value != json!([]));
    }
}

/// Any JSON at all, with keys and texts that mean something to one patch or another.
fn anything() -> impl Strategy<Value = Value> {
    let words = select(vec![
        "",
        "name",
        "spec",
        "containers",
        "metadata",
        "managedFields",
        "fieldsV1",
        "operation",
        "Apply",
        "Update",
        "manager",
        "apiVersion",
        "apps/v1",
        "kind",
        "Deployment",
        "fieldsType",
        "FieldsV1",
        "f:spec",
        "k:{\"name\":\"a\"}",
        "v:1",
        "i:0",
        ".",
        "x:",
        "k:{",
        "f:",
        "$patch",
        "replace",
        "delete",
        "merge",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "finalizers",
        "op",
        "add",
        "remove",
        "test",
        "move",
        "copy",
        "path",
        "from",
        "value",
        "/spec",
        "/",
        "/-",
        "/metadata/finalizers/-1",
        "~",
        "template",
        "env",
        "ports",
        "labels",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::vec((words.clone(), inner), 0..5).prop_map(|pairs| Value::Object(
                pairs
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_can_be_sent_makes_a_patch_panic(live in anything(), patch in anything(), sane in deployment()) {
        let schema = Schema::builtin();
        let ty = schema.by_gvk(&Gvk::new("apps", "v1", "Deployment")).expect("deployments");
        for doc in [&live, &sane] {
            let _ = json_patch(doc, &patch);
            let _ = json_patch(doc, &json!([patch]));
            let _ = merge_patch(doc, &patch);
            let _ = strategic_merge(schema, ty, doc, &patch);
            let mut with_spec = sane.clone();
            with_spec["spec"] = patch.clone();
            let _ = strategic_merge(schema, ty, doc, &with_spec);
            let _ = manager().apply(Some(doc), &with_spec, "a", true);
            let mut new = with_spec.clone();
            let _ = manager().update(Some(doc), &mut new, "a");
            let mut with_fields = sane.clone();
            with_fields["metadata"]["managedFields"] = json!([
                {"manager": "m", "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": patch},
            ]);
            let _ = manager().apply(Some(&with_fields), &sane, "m", false);
            with_fields["metadata"]["managedFields"] = patch.clone();
            let _ = manager().update(Some(doc), &mut with_fields, "a");
        }
        let _ = Set::from_fields(&patch);
    }
}
