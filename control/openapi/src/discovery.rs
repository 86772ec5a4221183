//! The discovery documents: which groups, versions, resources and verbs there are.
//!
//! Legacy: `/api`, `/apis`, `/apis/{group}`, `/api/v1`, `/apis/{group}/{version}`. Aggregated: `/api` and `/apis` as
//! `apidiscovery.k8s.io/v2`.

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::{
    Value,
    names::{GroupVersion, Gvk},
    resources::{Registry, Resource, Storage, Subresource, Verb},
};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

/// `GET /api`: the versions of the core group. `server_address` is `host:port` as clients reach it.
pub fn api_versions(registry: &Registry, server_address: &str) -> Value {
    let versions: Vec<String> = registry
        .groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty())
        .flat_map(|(_, versions)| versions)
        .collect();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `GET /apis`: every named group.
pub fn api_group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = named_groups(registry)
        .map(|(name, versions)| group(&name, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`; `None` for an unknown group.
pub fn api_group(registry: &Registry, name: &str) -> Option<Value> {
    let (name, versions) = named_groups(registry).find(|(known, _)| known == name)?;
    let mut group = group(&name, &versions);
    let map = group.as_object_mut().expect("built as an object");
    map.insert("kind".to_owned(), json!("APIGroup"));
    map.insert("apiVersion".to_owned(), json!("v1"));
    Some(group)
}

/// `GET /api/v1` and `/apis/{group}/{version}`; `None` for an unknown version.
pub fn api_resource_list(registry: &Registry, gv: &GroupVersion) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for resource in in_version(registry, gv) {
        resources.push(resource_entry(resource));
        resources.extend(
            resource
                .subresources
                .iter()
                .map(|sub| subresource_entry(resource, sub, gv)),
        );
    }
    if resources.is_empty() {
        return None;
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": gv.to_string(),
        "resources": resources,
    }))
}

/// `GET /api` with Accept `application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.
pub fn aggregated_core(registry: &Registry) -> Value {
    aggregated(registry, |group| group.is_empty())
}

/// `GET /apis` in the same form.
pub fn aggregated_groups(registry: &Registry) -> Value {
    aggregated(registry, |group| !group.is_empty())
}

fn named_groups(registry: &Registry) -> impl Iterator<Item = (String, Vec<String>)> {
    registry
        .groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
}

/// The resources that have this version, in the order of their names.
fn in_version<'r>(registry: &'r Registry, gv: &GroupVersion) -> Vec<&'r Resource> {
    let mut found: Vec<&Resource> = registry
        .resources()
        .map(|resource| &**resource)
        .filter(|resource| resource.group == gv.group && resource.version(&gv.version).is_some())
        .collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found
}

fn group(name: &str, versions: &[String]) -> Value {
    let entry =
        |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let mut group =
        json!({"name": name, "versions": versions.iter().map(entry).collect::<Vec<_>>()});
    if let Some(preferred) = versions.first() {
        group["preferredVersion"] = entry(preferred);
    }
    group
}

fn verbs(verbs: &[Verb]) -> Value {
    let mut names: Vec<&str> = verbs.iter().map(|verb| verb.as_str()).collect();
    names.sort_unstable();
    json!(names)
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(resource.plural));
    entry.insert("singularName".to_owned(), json!(resource.singular));
    entry.insert("namespaced".to_owned(), json!(resource.namespaced));
    entry.insert("kind".to_owned(), json!(resource.kind));
    entry.insert("verbs".to_owned(), verbs(&resource.verbs));
    insert_names(&mut entry, "shortNames", &resource.short_names);
    insert_names(&mut entry, "categories", &resource.categories);
    if let Storage::Stored { gvk, .. } = &resource.storage {
        entry.insert(
            "storageVersionHash".to_owned(),
            json!(storage_version_hash(gvk)),
        );
    }
    Value::Object(entry)
}

fn insert_names(entry: &mut Map<String, Value>, key: &str, names: &[String]) {
    if !names.is_empty() {
        entry.insert(key.to_owned(), json!(names));
    }
}

/// Changes when the stored form changes; opaque to clients.
fn storage_version_hash(gvk: &Gvk) -> String {
    let digest = Sha256::digest(format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind));
    STANDARD.encode(&digest[..8])
}

/// The kind of a subresource's bodies, as served in `gv`.
pub(crate) fn subresource_kind(resource: &Resource, sub: &Subresource, gv: &GroupVersion) -> Gvk {
    if sub.gvk.group == resource.group && sub.gvk.kind == resource.kind {
        gv.with_kind(&resource.kind)
    } else {
        sub.gvk.clone()
    }
}

fn subresource_entry(resource: &Resource, sub: &Subresource, gv: &GroupVersion) -> Value {
    let gvk = subresource_kind(resource, sub, gv);
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": gvk.kind,
        "verbs": verbs(&sub.verbs),
    });
    if gvk.group_version() != *gv {
        entry["group"] = json!(gvk.group);
        entry["version"] = json!(gvk.version);
    }
    entry
}

fn aggregated(registry: &Registry, wanted: impl Fn(&str) -> bool) -> Value {
    let items: Vec<Value> = registry
        .groups()
        .into_iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let gv = GroupVersion::new(&group, version);
                    let resources: Vec<Value> = in_version(registry, &gv)
                        .into_iter()
                        .map(|resource| discovered(resource, &gv))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn discovered(resource: &Resource, gv: &GroupVersion) -> Value {
    // Upstream leaves group and version empty where they are the list's own; some clients don't fill them in.
    let response_kind =
        |gvk: &Gvk| json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
    let mut entry = Map::new();
    entry.insert("resource".to_owned(), json!(resource.plural));
    entry.insert(
        "responseKind".to_owned(),
        response_kind(&gv.with_kind(&resource.kind)),
    );
    entry.insert(
        "scope".to_owned(),
        json!(if resource.namespaced {
            "Namespaced"
        } else {
            "Cluster"
        }),
    );
    entry.insert("singularResource".to_owned(), json!(resource.singular));
    entry.insert("verbs".to_owned(), verbs(&resource.verbs));
    insert_names(&mut entry, "shortNames", &resource.short_names);
    insert_names(&mut entry, "categories", &resource.categories);
    let mut subresources: Vec<&Subresource> = resource.subresources.iter().collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    if !subresources.is_empty() {
        let list: Vec<Value> = subresources
            .into_iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": response_kind(&subresource_kind(resource, sub, gv)),
                    "verbs": verbs(&sub.verbs),
                })
            })
            .collect();
        entry.insert("subresources".to_owned(), json!(list));
    }
    Value::Object(entry)
}
