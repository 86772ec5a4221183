//! JSON patches, merge patches and strategic merges: the examples of their specifications, and their errors.

use kernelet_api::{ApiError, Gvk, Schema, Value};
use kernelet_patch::{JsonPatchError, json_patch, merge_patch, strategic_merge};
use serde_json::json;

/// RFC 6902, appendix A.
#[test]
fn json_patches_do_what_the_rfc_shows() {
    let cases = [
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            json!({"baz": "qux", "foo": "bar"}),
        ),
        (
            json!({"foo": ["bar", "baz"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
            json!({"foo": ["bar", "qux", "baz"]}),
        ),
        (
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "remove", "path": "/baz"}]),
            json!({"foo": "bar"}),
        ),
        (
            json!({"foo": ["bar", "qux", "baz"]}),
            json!([{"op": "remove", "path": "/foo/1"}]),
            json!({"foo": ["bar", "baz"]}),
        ),
        (
            json!({"baz": "qux"}),
            json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
            json!({"baz": "boo"}),
        ),
        (
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
            json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ),
        (
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
            json!({"foo": ["all", "cows", "eat", "grass"]}),
        ),
        (
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
            json!({"foo": "bar", "child": {"grandchild": {}}}),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
            json!({"foo": "bar", "baz": "qux"}),
        ),
        (
            json!({"/": 9, "~1": 10}),
            json!([{"op": "test", "path": "/~01", "value": 10}]),
            json!({"/": 9, "~1": 10}),
        ),
        (
            json!({"foo": ["bar"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
            json!({"foo": ["bar", ["abc", "def"]]}),
        ),
        // Beyond the RFC, as upstream has it.
        (
            json!({"foo": ["a", "b"]}),
            json!([{"op": "remove", "path": "/foo/-1"}]),
            json!({"foo": ["a"]}),
        ),
        (
            json!({}),
            json!([{"op": "replace", "path": "/new", "value": 1}]),
            json!({"new": 1}),
        ),
        (
            json!({"n": 1}),
            json!([{"op": "test", "path": "/n", "value": 1.0}]),
            json!({"n": 1}),
        ),
    ];
    for (doc, patch, wanted) in cases {
        assert_eq!(json_patch(&doc, &patch).as_ref(), Ok(&wanted), "{patch}");
    }
}

fn refused(doc: Value, patch: Value) -> (u16, String) {
    let error = json_patch(&doc, &patch).expect_err("refused");
    (ApiError::from(error.clone()).code, error.to_string())
}

#[test]
fn a_json_patch_that_does_not_apply_says_why() {
    let doc = || json!({"a": {"b": [1]}});
    let cases = [
        (
            json!([{"op": "remove", "path": "/x"}]),
            "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
        ),
        (
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            "add operation does not apply: doc is missing path: \"/x/y\": missing value",
        ),
        (
            json!([{"op": "add", "path": "/a/b/7", "value": 1}]),
            "error in add for path: '/a/b/7': Unable to access invalid index: 7: invalid index referenced",
        ),
        (
            json!([{"op": "add", "path": "/a/b/x", "value": 1}]),
            "error in add for path: '/a/b/x': value was not a proper array index: 'x'",
        ),
        (
            json!([{"op": "test", "path": "/a/b/0", "value": 2}]),
            "testing value /a/b/0 failed: test failed",
        ),
        (
            json!([{"op": "spin", "path": "/a"}]),
            "Unexpected kind: spin",
        ),
        (
            json!([{"op": "add", "value": 1}]),
            "add operation failed to decode path: missing value",
        ),
        (
            json!([{"op": "move", "from": "/a", "path": "/a/b/c"}]),
            "move operation does not apply: /a/b/c is inside /a",
        ),
    ];
    for (patch, wanted) in cases {
        assert_eq!(refused(doc(), patch), (422, wanted.to_owned()));
    }
    assert_eq!(refused(doc(), json!({"op": "add"})).0, 400);
    assert_eq!(refused(doc(), json!(["add"])).0, 400);
    let many = Value::Array(vec![
        json!({"op": "test", "path": "/a", "value": {}});
        10_001
    ]);
    assert_eq!(refused(doc(), many).0, 413);
}

#[test]
fn copies_that_double_the_document_end_before_memory_does() {
    let big = "x".repeat(1024);
    let doubling = |i: usize| json!({"op": "copy", "from": "", "path": format!("/copy{i}")});
    let patch = (0..40).map(doubling).collect::<Vec<_>>().into();
    // Not `expect_err`: nobody wants to read what came out.
    let Err(error) = json_patch(&json!({"a": big}), &patch) else {
        panic!("forty doublings were carried out")
    };
    assert!(
        matches!(&error, JsonPatchError::DoesNotApply(why) if why.contains("exceeding the limit")),
        "{error}"
    );
}

/// RFC 7386, appendix A, as far as documents are objects.
#[test]
fn merge_patches_do_what_the_rfc_shows() {
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b"}),
            json!({"b": "c"}),
            json!({"a": "b", "b": "c"}),
        ),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"a": [{"b": "c"}]}),
            json!({"a": [1]}),
            json!({"a": [1]}),
        ),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ];
    for (doc, patch, wanted) in cases {
        assert_eq!(
            merge_patch(&doc, &patch).expect("applies"),
            wanted,
            "{patch}"
        );
    }
    for patch in [json!([1]), json!("a"), json!(null)] {
        let error = ApiError::from(merge_patch(&json!({}), &patch).expect_err("refused"));
        assert_eq!(
            (error.code, error.message.as_str()),
            (400, "Invalid JSON Patch")
        );
    }
}

fn strategic(kind: &str, doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    let group = if kind == "Deployment" { "apps" } else { "" };
    let schema = Schema::builtin();
    let ty = schema
        .by_gvk(&Gvk::new(group, "v1", kind))
        .expect("a kind that is served");
    strategic_merge(schema, ty, doc, patch).map_err(ApiError::from)
}

fn spec(spec: Value) -> Value {
    json!({"spec": spec})
}

fn check(kind: &str, before: Value, patch: Value, after: Value) {
    assert_eq!(
        strategic(kind, &spec(before), &spec(patch.clone())),
        Ok(spec(after)),
        "{patch}"
    );
}

#[test]
fn lists_with_a_merge_key_are_merged_item_by_item() {
    check(
        "Pod",
        json!({"containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]}),
        json!({"containers": [{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}]}),
        json!({"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
            {"name": "b", "image": "b:1"},
        ]}),
    );
    // Lists without a strategy are replaced; maps are merged.
    check(
        "Pod",
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
    check(
        "Pod",
        json!({"nodeSelector": {"a": "1", "b": "2"}}),
        json!({"nodeSelector": {"a": "9", "b": null}}),
        json!({"nodeSelector": {"a": "9"}}),
    );
}

#[test]
fn directives_delete_and_replace() {
    let before = || json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}], "nodeSelector": {"x": "y"}});
    check(
        "Pod",
        before(),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b", "image": "b:1"}], "nodeSelector": {"x": "y"}}),
    );
    check(
        "Pod",
        before(),
        json!({"containers": [{"$patch": "replace"}, {"name": "c", "image": "c:1"}]}),
        json!({"containers": [{"name": "c", "image": "c:1"}], "nodeSelector": {"x": "y"}}),
    );
    check(
        "Pod",
        before(),
        json!({"$patch": "replace", "hostNetwork": true}),
        json!({"hostNetwork": true}),
    );
    check(
        "Pod",
        before(),
        json!({"nodeSelector": {"$patch": "delete"}}),
        json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}], "nodeSelector": {}}),
    );
}

#[test]
fn the_order_of_a_list_can_be_given() {
    check(
        "Pod",
        json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
        json!({
            "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new", "image": "n:1"}],
        }),
        json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "new", "image": "n:1"}, {"name": "a"}]}),
    );
}

#[test]
fn values_can_be_deleted_from_lists_of_scalars() {
    let with = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["x/a"], "$setElementOrder/finalizers": ["x/c", "x/b"], "finalizers": ["x/c"],
    }});
    assert_eq!(
        strategic("ConfigMap", &with(json!(["x/a", "x/b"])), &patch),
        Ok(with(json!(["x/c", "x/b"])))
    );
}

#[test]
fn retained_keys_clear_the_others() {
    check(
        "Deployment",
        json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
        json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        json!({"strategy": {"type": "Recreate"}}),
    );
    check(
        "Pod",
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
    );
}

#[test]
fn a_strategic_patch_that_makes_no_sense_says_why() {
    let refused = |kind: &str, before: Value, patch: Value| {
        let error = strategic(kind, &spec(before), &spec(patch)).expect_err("refused");
        (error.code, error.message)
    };
    let containers = || json!({"containers": [{"name": "a"}]});
    let cases = [
        (
            containers(),
            json!({"containers": [{"image": "x"}]}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            containers(),
            json!({"containers": [{"name": "a", "$patch": "explode"}]}),
            500,
            "unknown patch type: explode in map",
        ),
        (
            containers(),
            json!({"$retainKeys": ["x"], "hostNetwork": true}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            containers(),
            json!({"$retainKeys": "x"}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            containers(),
            json!({"$setElementOrder/containers": "a"}),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (
            containers(),
            json!({"$deleteFromPrimitiveList/": ["a"]}),
            400,
            "invalid patch format of primitive list",
        ),
        (
            containers(),
            json!({"containers": [["a"]]}),
            422,
            "lists of lists are not supported",
        ),
        (
            containers(),
            json!({"containers": ["a"]}),
            500,
            "list element types are not identical in containers",
        ),
    ];
    for (before, patch, code, message) in cases {
        assert_eq!(
            refused("Pod", before, patch.clone()),
            (code, message.to_owned()),
            "{patch}"
        );
    }
    let error = strategic("Pod", &json!({}), &json!([])).expect_err("refused");
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "invalid JSON document")
    );
}
