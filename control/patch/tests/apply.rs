//! Server-side apply and managed fields, case by case.

use kernelet_api::{ApiError, Gvk, Registry, Value, names::GroupVersion, testing};
use kernelet_patch::{Applied, ApplyError, FieldManager, keep_unchanged_times};
use serde_json::json;

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

/// Who writes, and where.
#[derive(Clone, Copy)]
struct By<'a> {
    manager: &'a str,
    subresource: Option<&'a str>,
    now: &'a str,
    force: bool,
}

fn by(manager: &str) -> By<'_> {
    By {
        manager,
        subresource: None,
        now: EARLY,
        force: false,
    }
}

impl<'a> By<'a> {
    fn late(self) -> Self {
        By { now: LATE, ..self }
    }

    fn forced(self) -> Self {
        By {
            force: true,
            ..self
        }
    }

    fn status(self) -> Self {
        By {
            subresource: Some("status"),
            ..self
        }
    }

    fn field_manager<'r>(&self, registry: &'r Registry, object: &Value) -> FieldManager<'r> {
        let gvk: Gvk = GroupVersion::parse(object["apiVersion"].as_str().expect("apiVersion"))
            .expect("a group version")
            .with_kind(object["kind"].as_str().expect("a kind"));
        let resource = registry
            .by_kind(&gvk.group, &gvk.kind)
            .expect("a kind that is served");
        FieldManager::new(registry, resource, &gvk, self.subresource, self.now)
            .expect("a known type")
    }

    fn try_apply(self, live: Option<&Value>, patch: &Value) -> Result<Applied, ApplyError> {
        let registry = testing::registry();
        self.field_manager(&registry, patch)
            .apply(live, patch, self.manager, self.force)
    }

    fn apply(self, live: Option<&Value>, patch: &Value) -> Value {
        let mut object = self.try_apply(live, patch).expect("applies").object;
        // What the server sets on create.
        object["metadata"]["uid"] = "u".into();
        object
    }

    fn update(self, live: Option<&Value>, new: &Value) -> Value {
        let registry = testing::registry();
        let mut new = new.clone();
        self.field_manager(&registry, &new)
            .update(live, &mut new, self.manager)
            .expect("updates");
        new["metadata"]["uid"] = "u".into();
        new
    }

    /// The API's error.
    fn refused(self, live: Option<&Value>, patch: &Value) -> ApiError {
        self.try_apply(live, patch).expect_err("refused").into()
    }
}

fn deployment(spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": spec,
    })
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": data})
}

fn with_containers(containers: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": containers}}}))
}

/// The managers with their sets, by name: `manager/operation[/subresource]`.
fn managers(object: &Value) -> Value {
    let entries = object["metadata"]["managedFields"].as_array();
    let name = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let sub = text("subresource");
        let sub = if sub.is_empty() {
            String::new()
        } else {
            format!("/{sub}")
        };
        format!("{}/{}{sub}", text("manager"), text("operation"))
    };
    entries
        .into_iter()
        .flatten()
        .map(|entry| (name(entry), entry["fieldsV1"].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn entry<'o>(object: &'o Value, manager: &str) -> &'o Value {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .expect("managedFields");
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .unwrap_or_else(|| panic!("{manager} is not in {entries:#?}"))
}

#[test]
fn applying_creates_and_owns_what_it_says() {
    let object = by("alice").apply(
        None,
        &deployment(json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}})),
    );
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "alice", "operation": "Apply", "apiVersion": "apps/v1", "time": EARLY,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:selector": {}}},
        }])
    );
    assert_eq!(object["spec"]["replicas"], 3);
}

#[test]
fn a_field_of_another_applier_is_a_conflict_in_upstreams_words() {
    let live = by("alice").apply(None, &deployment(json!({"replicas": 3})));
    let error = by("bob").refused(Some(&live), &deployment(json!({"replicas": 5})));
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"alice\": .spec.replicas"
    );
    let status = error.to_status();
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"alice\"", "field": ".spec.replicas"}])
    );
    // The same value is no conflict: both own it from then on.
    let shared = by("bob").apply(Some(&live), &deployment(json!({"replicas": 3})));
    let set = json!({"f:spec": {"f:replicas": {}}});
    assert_eq!(
        managers(&shared),
        json!({"alice/Apply": set, "bob/Apply": set})
    );
}

#[test]
fn conflicts_with_updaters_name_their_version_and_several_are_grouped() {
    let live = by("alice").apply(
        None,
        &deployment(json!({"replicas": 3, "paused": false, "minReadySeconds": 1})),
    );
    let mut edited = live.clone();
    edited["spec"]["replicas"] = json!(4);
    edited["spec"]["paused"] = json!(true);
    let live = by("kubectl-edit").update(Some(&live), &edited);
    let mut status = live.clone();
    status["status"] = json!({"replicas": 4});
    let live = by("controller").status().update(Some(&live), &status);

    let error = by("alice").refused(
        Some(&live),
        &deployment(json!({"replicas": 3, "minReadySeconds": 1})),
    );
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.replicas"
    );
    let error = by("bob").refused(
        Some(&live),
        &deployment(json!({"replicas": 3, "paused": false, "minReadySeconds": 2})),
    );
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"alice\":\n- .spec.minReadySeconds\n\
         conflicts with \"kubectl-edit\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    let mut patch = deployment(json!({}));
    patch["status"] = json!({"replicas": 9});
    let error = by("bob").status().refused(Some(&live), &patch);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"controller\" with subresource \"status\" using apps/v1: .status.replicas"
    );
}

#[test]
fn force_takes_the_fields() {
    let live = by("alice").apply(None, &deployment(json!({"replicas": 3, "paused": true})));
    let forced = by("bob")
        .forced()
        .apply(Some(&live), &deployment(json!({"replicas": 5})));
    assert_eq!(forced["spec"], json!({"replicas": 5, "paused": true}));
    assert_eq!(
        managers(&forced),
        json!({"alice/Apply": {"f:spec": {"f:paused": {}}}, "bob/Apply": {"f:spec": {"f:replicas": {}}}})
    );
}

#[test]
fn a_field_that_its_only_manager_no_longer_applies_goes() {
    let live = by("alice").apply(None, &config_map(json!({"a": "1", "b": "2"})));
    let after = by("alice").apply(Some(&live), &config_map(json!({"a": "1"})));
    assert_eq!(after["data"], json!({"a": "1"}));
    // All of them: the map itself goes too.
    let mut nothing = config_map(json!({}));
    nothing.as_object_mut().expect("an object").remove("data");
    let empty = by("alice").apply(Some(&live), &nothing);
    assert!(empty.get("data").is_none(), "{empty}");
    assert!(empty["metadata"].get("managedFields").is_none(), "{empty}");
}

#[test]
fn a_field_that_somebody_else_manages_stays_when_it_is_given_up() {
    let live = by("alice").apply(None, &config_map(json!({"a": "1", "b": "2"})));
    let shared = by("bob").apply(Some(&live), &config_map(json!({"b": "2"})));
    let after = by("alice").apply(Some(&shared), &config_map(json!({"a": "1"})));
    assert_eq!(after["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(
        managers(&after),
        json!({"alice/Apply": {"f:data": {"f:a": {}}}, "bob/Apply": {"f:data": {"f:b": {}}}})
    );
    // An update by a third changes the value, and nobody can take it away by giving up.
    let mut edited = shared.clone();
    edited["data"]["b"] = json!("3");
    let edited = by("carol").update(Some(&shared), &edited);
    let after = by("alice").apply(Some(&edited), &config_map(json!({"a": "1"})));
    assert_eq!(after["data"], json!({"a": "1", "b": "3"}));
}

#[test]
fn items_of_keyed_lists_are_merged_by_their_keys() {
    let live = by("alice").apply(
        None,
        &with_containers(json!([
            {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}]},
            {"name": "log", "image": "log:1"},
        ])),
    );
    let after = by("bob").apply(
        Some(&live),
        &with_containers(json!([
            {"name": "web", "env": [{"name": "B", "value": "2"}]},
            {"name": "mesh", "image": "mesh:1"},
        ])),
    );
    assert_eq!(
        after["spec"]["template"]["spec"]["containers"],
        json!([
            {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "log", "image": "log:1"},
            {"name": "mesh", "image": "mesh:1"},
        ])
    );
    // Alice drops a container; Bob's part of the shared one stays.
    let dropped = by("alice").apply(
        Some(&after),
        &with_containers(json!([{"name": "log", "image": "log:1"}])),
    );
    assert_eq!(
        dropped["spec"]["template"]["spec"]["containers"],
        json!([
            {"name": "web", "env": [{"name": "B", "value": "2"}]},
            {"name": "log", "image": "log:1"},
            {"name": "mesh", "image": "mesh:1"},
        ])
    );
}

#[test]
fn a_port_without_a_protocol_is_the_tcp_port() {
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "d"}, "spec": {"ports": ports}});
    let live = by("alice").apply(None, &service(json!([{"port": 53, "targetPort": 1053}])));
    assert_eq!(
        managers(&live)["alice/Apply"]["f:spec"]["f:ports"],
        json!({"k:{\"port\":53,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:targetPort": {}}})
    );
    let after = by("bob").apply(Some(&live), &service(json!([
        {"port": 53, "protocol": "TCP", "name": "dns"}, {"port": 53, "protocol": "UDP", "name": "dns-udp"},
    ])));
    assert_eq!(
        after["spec"]["ports"],
        json!([
            {"port": 53, "targetPort": 1053, "protocol": "TCP", "name": "dns"},
            {"port": 53, "protocol": "UDP", "name": "dns-udp"},
        ])
    );
}

#[test]
fn items_of_sets_are_owned_one_by_one() {
    let with_finalizers = |finalizers: Value| {
        let mut object = config_map(json!({}));
        object["metadata"]["finalizers"] = finalizers;
        object
    };
    let live = by("alice").apply(None, &with_finalizers(json!(["x/a", "x/b"])));
    let after = by("bob").apply(Some(&live), &with_finalizers(json!(["x/b", "x/c"])));
    assert_eq!(
        after["metadata"]["finalizers"],
        json!(["x/a", "x/b", "x/c"])
    );
    let given_up = by("alice").apply(Some(&after), &with_finalizers(json!([])));
    assert_eq!(given_up["metadata"]["finalizers"], json!(["x/b", "x/c"]));
}

#[test]
fn atomic_lists_and_maps_are_owned_whole() {
    let live = by("alice").apply(
        None,
        &with_containers(json!([{"name": "web", "command": ["a", "b"]}])),
    );
    let error = by("bob").refused(
        Some(&live),
        &with_containers(json!([{"name": "web", "command": ["a"]}])),
    );
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"alice\": .spec.template.spec.containers[name=\"web\"].command"
    );
    let forced = by("bob").forced().apply(
        Some(&live),
        &with_containers(json!([{"name": "web", "command": ["a"]}])),
    );
    assert_eq!(
        forced["spec"]["template"]["spec"]["containers"][0]["command"],
        json!(["a"])
    );
    let selector = |labels: Value| deployment(json!({"selector": {"matchLabels": labels}}));
    let live = by("alice").apply(None, &selector(json!({"a": "1"})));
    let error = by("bob").refused(Some(&live), &selector(json!({"a": "1", "b": "2"})));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"alice\": .spec.selector"
    );
}

#[test]
fn applying_the_same_again_changes_nothing_not_even_the_time() {
    let patch = deployment(json!({"replicas": 3}));
    let live = by("alice").apply(None, &patch);
    let again = by("alice")
        .late()
        .try_apply(Some(&live), &patch)
        .expect("applies");
    assert!(!again.changed);
    assert_eq!(again.object, live);
    let more = by("alice")
        .late()
        .try_apply(Some(&live), &deployment(json!({"replicas": 4})))
        .expect("applies");
    assert!(more.changed);
    assert_eq!(entry(&more.object, "alice")["time"], LATE);
    // Only who manages what changes: the times stay.
    let shared = by("bob").late().apply(Some(&live), &patch);
    assert_eq!(entry(&shared, "alice")["time"], EARLY);
    assert!(entry(&shared, "bob").get("time").is_none());
}

#[test]
fn an_explicit_null_takes_a_field_away_and_keeps_it_away() {
    let live = by("alice").apply(None, &deployment(json!({"replicas": 3, "paused": true})));
    let after = by("alice").apply(
        Some(&live),
        &deployment(json!({"replicas": null, "paused": true})),
    );
    assert_eq!(after["spec"], json!({"paused": true}));
    assert_eq!(
        managers(&after)["alice/Apply"],
        json!({"f:spec": {"f:paused": {}, "f:replicas": {}}})
    );
}

#[test]
fn what_the_request_does_not_write_is_not_owned() {
    let mut patch = deployment(json!({"replicas": 3}));
    patch["status"] = json!({"replicas": 3});
    let live = by("alice").apply(None, &patch);
    assert_eq!(
        managers(&live),
        json!({"alice/Apply": {"f:spec": {"f:replicas": {}}}})
    );
    let owned = by("controller").status().apply(Some(&live), &patch);
    assert_eq!(
        managers(&owned),
        json!({"alice/Apply": {"f:spec": {"f:replicas": {}}}, "controller/Apply/status": {"f:status": {"f:replicas": {}}}})
    );
}

#[test]
fn fields_that_the_type_does_not_have_or_of_the_wrong_type_are_named() {
    let error = by("alice").refused(None, &deployment(json!({"replica": 3})));
    assert_eq!(error.code, 500);
    assert_eq!(
        error.message,
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema"
    );
    let error = by("alice").refused(
        None,
        &deployment(json!({"replicas": "three", "template": []})),
    );
    assert_eq!(
        error.message,
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): errors:\n  \
         .spec.replicas: expected numeric (int or float), got string\n  .spec.template: expected map, got &{[]}"
    );
    let error = by("alice").refused(
        None,
        &with_containers(json!([{"name": "a"}, {"name": "a"}])),
    );
    assert!(
        error
            .message
            .ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"),
        "{error}"
    );
    let mut with_null = config_map(json!({}));
    with_null["metadata"]["finalizers"] = json!([null]);
    let error = by("alice").refused(None, &with_null);
    assert!(
        error.message.ends_with(
            ".metadata.finalizers: element 0: associative list without keys has an element that's an explicit null"
        ),
        "{error}"
    );
    assert_eq!(
        by("a")
            .refused(
                None,
                &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}})
            )
            .message,
        "metadata.managedFields must be nil"
    );
}

#[test]
fn a_body_of_another_kind_is_a_bad_request() {
    let registry = testing::registry();
    let manager = by("alice").field_manager(&registry, &deployment(json!({})));
    let error: ApiError = manager
        .apply(None, &config_map(json!({})), "alice", false)
        .expect_err("refused")
        .into();
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "invalid object type: /v1, Kind=ConfigMap")
    );
}

#[test]
fn an_update_owns_what_it_changed() {
    let created = by("kubectl-create").update(None, &config_map(json!({"a": "1", "b": "2"})));
    assert_eq!(
        managers(&created),
        json!({"kubectl-create/Update": {"f:data": {".": {}, "f:a": {}, "f:b": {}}}})
    );
    let mut edited = created.clone();
    edited["data"]["b"] = json!("3");
    let edited = by("kubectl-edit").late().update(Some(&created), &edited);
    assert_eq!(
        managers(&edited),
        json!({
            "kubectl-create/Update": {"f:data": {".": {}, "f:a": {}}},
            "kubectl-edit/Update": {"f:data": {"f:b": {}}},
        })
    );
    assert_eq!(entry(&edited, "kubectl-create")["time"], EARLY);
    assert_eq!(entry(&edited, "kubectl-edit")["time"], LATE);
    // What nobody changed leaves everything as it is.
    assert_eq!(by("anyone").late().update(Some(&edited), &edited), edited);
    // A removed field belongs to nobody.
    let mut removed = edited.clone();
    removed["data"].as_object_mut().expect("data").remove("b");
    let removed = by("kubectl-edit").update(Some(&edited), &removed);
    assert_eq!(
        managers(&removed),
        json!({"kubectl-create/Update": {"f:data": {".": {}, "f:a": {}}}})
    );
}

#[test]
fn a_create_owns_neither_names_nor_what_the_server_sets() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 1, "labels": {"a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    pod["metadata"]["creationTimestamp"] = EARLY.into();
    let created = by("kubectl-run").update(None, &pod);
    assert_eq!(
        managers(&created)["kubectl-run/Update"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}},
        })
    );
}

#[test]
fn a_client_that_drops_managed_fields_does_not_lose_them_and_one_that_empties_them_does() {
    let created = by("alice").update(None, &config_map(json!({"a": "1"})));
    let without = config_map(json!({"a": "1", "b": "2"}));
    assert_eq!(
        managers(&by("bob").update(Some(&created), &without)),
        json!({"alice/Update": {"f:data": {".": {}, "f:a": {}}}, "bob/Update": {"f:data": {"f:b": {}}}})
    );
    for reset in [json!([]), json!([{}])] {
        let mut emptied = without.clone();
        emptied["metadata"]["managedFields"] = reset;
        let emptied = by("bob").update(Some(&created), &emptied);
        assert!(
            emptied["metadata"].get("managedFields").is_none(),
            "{emptied}"
        );
        // From then on nobody is tracked, until somebody applies: then what was there belongs to nobody's past.
        let mut edited = emptied.clone();
        edited["data"]["c"] = json!("3");
        let edited = by("carol").update(Some(&emptied), &edited);
        assert!(edited["metadata"].get("managedFields").is_none());
        let applied = by("dave").apply(Some(&edited), &config_map(json!({"d": "4"})));
        assert_eq!(
            managers(&applied),
            json!({
                "before-first-apply/Update": {"f:data": {".": {}, "f:a": {}, "f:b": {}, "f:c": {}}},
                "dave/Apply": {"f:data": {"f:d": {}}},
            })
        );
    }
}

#[test]
fn managed_fields_that_make_no_sense_are_ignored_on_update_and_refused_on_apply() {
    let created = by("alice").update(None, &config_map(json!({"a": "1"})));
    for nonsense in [
        json!([{"manager": "x", "operation": "Delete", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]),
        json!([{"manager": "x", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {}}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsV1": {}}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV2", "fieldsV1": {}}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"k:{": {}}}]),
    ] {
        let mut new = created.clone();
        new["metadata"]["managedFields"] = nonsense.clone();
        assert_eq!(
            managers(&by("bob").update(Some(&created), &new)),
            managers(&created)
        );
        let error = by("bob").refused(Some(&new), &config_map(json!({})));
        assert!(
            error
                .message
                .starts_with("failed to decode managed fields: "),
            "{error}"
        );
    }
}

#[test]
fn managers_stand_in_upstreams_order_and_old_updaters_are_merged() {
    let mut object = by("creator").update(None, &config_map(json!({"a": "0"})));
    for i in 0..12 {
        let mut next = object.clone();
        next["data"][format!("k{i:02}")] = json!("1");
        let now = format!("2026-02-01T00:00:{i:02}Z");
        object = By {
            now: &now,
            ..by(&format!("m{i:02}"))
        }
        .update(Some(&object), &next);
    }
    let names: Vec<&str> = object["metadata"]["managedFields"]
        .as_array()
        .expect("managedFields")
        .iter()
        .map(|entry| entry["manager"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        [
            "ancient-changes",
            "m03",
            "m04",
            "m05",
            "m06",
            "m07",
            "m08",
            "m09",
            "m10",
            "m11"
        ]
    );
    let merged = entry(&object, "ancient-changes");
    assert_eq!(
        merged["fieldsV1"],
        json!({"f:data": {".": {}, "f:a": {}, "f:k00": {}, "f:k01": {}, "f:k02": {}}})
    );
    assert_eq!(merged["time"], "2026-02-01T00:00:02Z");
    // Appliers come first, whatever their time.
    let applied = By {
        now: "2026-03-01T00:00:00Z",
        ..by("zoe")
    }
    .apply(Some(&object), &config_map(json!({"z": "1"})));
    assert_eq!(applied["metadata"]["managedFields"][0]["manager"], "zoe");
}

#[test]
fn the_first_server_side_apply_of_kubectl_takes_over_from_client_side_ones() {
    let last = config_map(json!({"a": "1", "b": "2"}));
    let mut created = last.clone();
    created["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    let created = by("kubectl-client-side-apply").update(None, &created);
    // For another manager it is a conflict as any other.
    let change = config_map(json!({"a": "9"}));
    assert_eq!(by("argo").refused(Some(&created), &change).code, 409);
    let applied = by("kubectl").apply(Some(&created), &change);
    assert_eq!(applied["data"]["a"], "9");
    let annotation =
        &applied["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let renewed: Value = serde_json::from_str(annotation.as_str().expect("a text")).expect("JSON");
    assert_eq!(renewed, change);
    // What somebody else has changed since is a conflict for kubectl too.
    let mut edited = created.clone();
    edited["data"]["a"] = json!("5");
    let edited = by("kubectl-edit").update(Some(&created), &edited);
    let error = by("kubectl").refused(Some(&edited), &change);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a"
    );
}

fn widget(version: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{}/{version}", testing::GROUP), "kind": "Widget",
        "metadata": {"name": "w", "namespace": "d"}, "spec": spec,
    })
}

#[test]
fn managers_of_two_versions_know_each_others_fields() {
    let live = by("old").apply(None, &widget("v1beta1", json!({"colour": "red"})));
    // The stored object is v1; the entry still speaks of v1beta1.
    let registry = testing::registry();
    let resource = registry.by_kind(testing::GROUP, "Widget").expect("widgets");
    let v1 = Gvk::new(testing::GROUP, "v1", "Widget");
    let live = resource.convert(live, &v1).expect("converts");
    assert_eq!(live["spec"], json!({"color": "red"}));
    assert_eq!(
        entry(&live, "old")["fieldsV1"],
        json!({"f:spec": {"f:colour": {}}})
    );

    let error = by("new").refused(Some(&live), &widget("v1", json!({"color": "blue"})));
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"old\": .spec.colour"
    );
    let forced = by("new")
        .forced()
        .apply(Some(&live), &widget("v1", json!({"color": "blue"})));
    assert_eq!(
        managers(&forced),
        json!({"new/Apply": {"f:spec": {"f:color": {}}}})
    );
    // An applier that moves to the new version gives up what it had in the old one.
    let moved = by("old").apply(Some(&live), &widget("v1", json!({})));
    assert!(moved["spec"].get("color").is_none(), "{moved}");
}

#[test]
fn managers_of_a_version_that_is_gone_are_forgotten() {
    let mut live = by("alice").apply(None, &widget("v1", json!({"color": "red"})));
    live["metadata"]["managedFields"][0]["apiVersion"] = json!(format!("{}/v0", testing::GROUP));
    let after = by("bob").apply(Some(&live), &widget("v1", json!({"color": "blue"})));
    assert_eq!(
        managers(&after),
        json!({"bob/Apply": {"f:spec": {"f:color": {}}}})
    );
}

#[test]
fn a_write_that_only_moves_times_keeps_the_old_ones() {
    let old = by("alice").update(None, &config_map(json!({"a": "1"})));
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = LATE.into();
    keep_unchanged_times(&old, &mut new);
    assert_eq!(new, old);
    let mut changed = old.clone();
    changed["data"]["b"] = json!("2");
    changed["metadata"]["managedFields"][0]["time"] = LATE.into();
    let before = changed.clone();
    keep_unchanged_times(&old, &mut changed);
    assert_eq!(changed, before);
}
