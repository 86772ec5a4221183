//! A larger registry is discovered and described without anything else being told.

use std::sync::Arc;

use kernelet_api::{Registry, Value, names::GroupVersion, testing};
use kernelet_openapi::{Format, OpenApi, discovery};
use serde_json::json;

#[test]
fn a_new_resource_is_in_every_discovery_document() {
    let registry = testing::registry();
    let groups = discovery::api_group_list(&registry);
    let group = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .find(|it| it["name"] == testing::GROUP);
    assert_eq!(
        group.expect("the group")["preferredVersion"],
        json!({"groupVersion": "test.kernelet.io/v1", "version": "v1"})
    );
    assert_eq!(
        discovery::api_group(&registry, testing::GROUP).expect("the group")["versions"][1]["version"],
        "v1beta1"
    );
    for version in ["v1", "v1beta1"] {
        let list =
            discovery::api_resource_list(&registry, &GroupVersion::new(testing::GROUP, version));
        let list = list.expect("a list for each version");
        let names: Vec<&Value> = list["resources"]
            .as_array()
            .expect("resources")
            .iter()
            .map(|it| &it["name"])
            .collect();
        assert_eq!(
            names,
            [&json!("widgets"), &json!("widgets/status")],
            "{version}"
        );
    }
    let aggregated = discovery::aggregated_groups(&registry);
    let item = aggregated["items"]
        .as_array()
        .expect("items")
        .iter()
        .find(|it| it["metadata"]["name"] == testing::GROUP);
    let resource = &item.expect("the group")["versions"][1]["resources"][0];
    assert_eq!(
        resource["responseKind"],
        json!({"group": "test.kernelet.io", "version": "v1beta1", "kind": "Widget"})
    );
    assert_eq!(resource["subresources"][0]["subresource"], "status");
    assert_eq!(resource["shortNames"], json!(["wd"]));
    assert!(discovery::api_group(Registry::builtin(), testing::GROUP).is_none());
}

#[test]
fn the_core_group_is_not_among_the_named_ones() {
    let registry = Registry::builtin();
    let versions = discovery::api_versions(registry, "192.0.2.1:6443");
    assert_eq!(versions["versions"], json!(["v1"]));
    assert_eq!(
        versions["serverAddressByClientCIDRs"][0]["serverAddress"],
        "192.0.2.1:6443"
    );
    assert!(discovery::api_group(registry, "").is_none());
    assert!(discovery::api_resource_list(registry, &GroupVersion::new("", "v1")).is_some());
    assert!(discovery::api_resource_list(registry, &GroupVersion::new("", "v2")).is_none());
    let core = discovery::aggregated_core(registry);
    assert_eq!(core["items"].as_array().expect("items").len(), 1);
    let pods = core["items"][0]["versions"][0]["resources"]
        .as_array()
        .expect("resources");
    let pods = pods
        .iter()
        .find(|it| it["resource"] == "pods")
        .expect("pods");
    assert_eq!(pods["scope"], "Namespaced");
    let eviction = pods["subresources"]
        .as_array()
        .expect("subresources")
        .iter()
        .find(|it| it["subresource"] == "eviction");
    assert_eq!(
        eviction.expect("eviction")["responseKind"],
        json!({"group": "policy", "version": "v1", "kind": "Eviction"})
    );
}

#[test]
fn a_new_resource_has_documents_and_leaves_the_others_as_they_are() {
    let before = OpenApi::new(Registry::builtin().clone(), "v1");
    let after = OpenApi::new(Arc::new(testing::registry()), "v1");
    let document = after
        .v3("apis/test.kernelet.io/v1beta1", Format::Json)
        .expect("a document");
    let document: Value = serde_json::from_slice(&document.plain()).expect("JSON");
    let path = "/apis/test.kernelet.io/v1beta1/namespaces/{namespace}/widgets/{name}";
    assert_eq!(
        document["paths"][path]["patch"]["x-kubernetes-group-version-kind"]["kind"],
        "Widget"
    );
    let hash =
        |open_api: &OpenApi, path: &str| open_api.v3(path, Format::Json).expect("a document").hash;
    assert_eq!(hash(&before, "api/v1"), hash(&after, "api/v1"));
    assert_ne!(before.v2(Format::Json).hash, after.v2(Format::Json).hash);
}
