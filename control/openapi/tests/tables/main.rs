//! What `kubectl get` prints, cell by cell, for every kind.

mod kinds;
mod pods;

use jiff::Timestamp;
use kernelet_api::{Registry, Value, resources::Cell};
use kernelet_openapi::tables::{IncludeObject, Printer, TableOptions, human_duration, table};
use serde_json::json;

const NOW: &str = "2026-03-01T12:00:00Z";
/// Three hours before.
const CREATED: &str = "2026-03-01T09:00:00Z";

fn options(include: IncludeObject) -> TableOptions {
    TableOptions {
        include,
        now: NOW.parse::<Timestamp>().expect("a time"),
    }
}

fn render(group: &str, kind: &str, object: &Value, include: IncludeObject) -> Value {
    let registry = Registry::builtin();
    let resource = registry
        .by_kind(group, kind)
        .expect("a kind that is served");
    let metadata = json!({"resourceVersion": "7"});
    let rendered = table(resource, [object], metadata.clone(), options(include));
    // Printed piece by piece from the object's text, it is the same table.
    if let Some(printer) = Printer::new(resource, options(include)) {
        let mut text = printer.head("meta.k8s.io/v1", &metadata).into_bytes();
        printer
            .row(object.to_string().as_bytes(), &mut text)
            .expect("well-formed");
        text.extend_from_slice(b"]}");
        let printed: Value = serde_json::from_slice(&text).expect("well-formed");
        assert_eq!(printed, rendered, "{kind}");
    }
    rendered
}

/// The object with a name and an age, and its kind.
fn complete(kind: &str, mut object: Value) -> Value {
    let metadata = object["metadata"]
        .as_object_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    let mut all = json!({"name": "x", "creationTimestamp": CREATED});
    all.as_object_mut().expect("an object").extend(metadata);
    object["metadata"] = all;
    object["kind"] = kind.into();
    object
}

fn check(group: &str, kind: &str, object: Value, cells: Value) {
    let rendered = render(group, kind, &complete(kind, object), IncludeObject::None);
    assert_eq!(rendered["rows"][0]["cells"], cells, "{kind}");
    let columns = rendered["columnDefinitions"].as_array().expect("columns");
    assert_eq!(
        columns.len(),
        cells.as_array().expect("cells").len(),
        "{kind}"
    );
}

#[test]
fn columns_are_upstreams() {
    let expected: &[(&str, &str, &[&str])] = &[
        (
            "",
            "Pod",
            &[
                "Name",
                "Ready",
                "Status",
                "Restarts",
                "Age",
                "*IP",
                "*Node",
                "*Nominated Node",
                "*Readiness Gates",
            ],
        ),
        (
            "",
            "Service",
            &[
                "Name",
                "Type",
                "Cluster-IP",
                "External-IP",
                "Port(s)",
                "Age",
                "*Selector",
            ],
        ),
        ("", "Endpoints", &["Name", "Endpoints", "Age"]),
        (
            "",
            "Node",
            &[
                "Name",
                "Status",
                "Roles",
                "Age",
                "Version",
                "*Internal-IP",
                "*External-IP",
                "*OS-Image",
                "*Kernel-Version",
                "*Container-Runtime",
            ],
        ),
        (
            "",
            "Event",
            &[
                "Last Seen",
                "Type",
                "Reason",
                "Object",
                "*Subobject",
                "*Source",
                "Message",
                "*First Seen",
                "*Count",
                "*Name",
            ],
        ),
        (
            "events.k8s.io",
            "Event",
            &[
                "Last Seen",
                "Type",
                "Reason",
                "Object",
                "*Subobject",
                "*Source",
                "Message",
                "*First Seen",
                "*Count",
                "*Name",
            ],
        ),
        ("", "Namespace", &["Name", "Status", "Age"]),
        ("", "Secret", &["Name", "Type", "Data", "Age"]),
        ("", "ConfigMap", &["Name", "Data", "Age"]),
        ("", "ServiceAccount", &["Name", "Age"]),
        (
            "apps",
            "Deployment",
            &[
                "Name",
                "Ready",
                "Up-to-date",
                "Available",
                "Age",
                "*Containers",
                "*Images",
                "*Selector",
            ],
        ),
        (
            "apps",
            "ControllerRevision",
            &["Name", "Controller", "Revision", "Age"],
        ),
        (
            "apps",
            "DaemonSet",
            &[
                "Name",
                "Desired",
                "Current",
                "Ready",
                "Up-to-date",
                "Available",
                "Node Selector",
                "Age",
                "*Containers",
                "*Images",
                "*Selector",
            ],
        ),
        (
            "",
            "ReplicationController",
            &[
                "Name",
                "Desired",
                "Current",
                "Ready",
                "Age",
                "*Containers",
                "*Images",
                "*Selector",
            ],
        ),
        (
            "apps",
            "ReplicaSet",
            &[
                "Name",
                "Desired",
                "Current",
                "Ready",
                "Age",
                "*Containers",
                "*Images",
                "*Selector",
            ],
        ),
        ("coordination.k8s.io", "Lease", &["Name", "Holder", "Age"]),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        ),
        (
            "certificates.k8s.io",
            "CertificateSigningRequest",
            &[
                "Name",
                "Age",
                "SignerName",
                "Requestor",
                "RequestedDuration",
                "Condition",
            ],
        ),
        (
            "policy",
            "PodDisruptionBudget",
            &[
                "Name",
                "Min Available",
                "Max Unavailable",
                "Allowed Disruptions",
                "Age",
            ],
        ),
        ("rbac.authorization.k8s.io", "Role", &["Name", "Created At"]),
        (
            "rbac.authorization.k8s.io",
            "ClusterRole",
            &["Name", "Created At"],
        ),
        (
            "rbac.authorization.k8s.io",
            "RoleBinding",
            &[
                "Name",
                "Role",
                "Age",
                "*Users",
                "*Groups",
                "*ServiceAccounts",
            ],
        ),
        (
            "rbac.authorization.k8s.io",
            "ClusterRoleBinding",
            &[
                "Name",
                "Role",
                "Age",
                "*Users",
                "*Groups",
                "*ServiceAccounts",
            ],
        ),
    ];
    for (group, kind, names) in expected {
        let resource = Registry::builtin()
            .by_kind(group, kind)
            .expect("a kind that is served");
        let ours: Vec<String> = resource
            .columns
            .iter()
            .map(|column| {
                format!(
                    "{}{}",
                    if column.priority > 0 { "*" } else { "" },
                    column.name
                )
            })
            .collect();
        assert_eq!(ours, *names, "{kind}");
        let name = resource
            .columns
            .iter()
            .find(|column| column.name == "Name")
            .expect("a name");
        assert_eq!(name.format, "name", "{kind}");
    }
}

#[test]
fn every_computed_column_is_computed() {
    for resource in Registry::builtin().resources() {
        let object = complete(&resource.kind, json!({}));
        let rendered = render(
            &resource.group,
            &resource.kind,
            &object,
            IncludeObject::None,
        );
        for (column, cell) in resource
            .columns
            .iter()
            .zip(rendered["rows"][0]["cells"].as_array().expect("cells"))
        {
            if let Cell::Computed(name) = column.cell {
                assert!(!cell.is_null(), "{}: nobody computes {name}", resource.kind);
            }
        }
    }
}

#[test]
fn a_table_carries_the_lists_metadata_and_as_much_of_each_object_as_was_asked_for() {
    let object = complete("ConfigMap", json!({"apiVersion": "v1", "data": {"a": "b"}}));
    let rendered = render("", "ConfigMap", &object, IncludeObject::Metadata);
    assert_eq!(rendered["kind"], "Table");
    assert_eq!(rendered["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(rendered["metadata"], json!({"resourceVersion": "7"}));
    assert_eq!(
        rendered["rows"][0]["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    );
    assert_eq!(
        render("", "ConfigMap", &object, IncludeObject::None)["rows"][0]["object"],
        Value::Null
    );
    assert_eq!(
        render("", "ConfigMap", &object, IncludeObject::Object)["rows"][0]["object"],
        object
    );
}

#[test]
fn ages_have_two_or_three_significant_figures() {
    let minute = 60;
    let hour = 60 * minute;
    let day = 24 * hour;
    for (seconds, text) in [
        (-3, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (59, "59s"),
        (119, "119s"),
        (2 * minute, "2m"),
        (3 * minute + 20, "3m20s"),
        (9 * minute + 59, "9m59s"),
        (10 * minute + 30, "10m"),
        (179 * minute, "179m"),
        (3 * hour, "3h"),
        (7 * hour + 59 * minute, "7h59m"),
        (8 * hour + 59 * minute, "8h"),
        (47 * hour, "47h"),
        (2 * day, "2d"),
        (5 * day + 12 * hour, "5d12h"),
        (8 * day + 12 * hour, "8d"),
        (729 * day, "729d"),
        (2 * 365 * day, "2y"),
        (2 * 365 * day + 8 * day, "2y8d"),
        (8 * 365 * day + 8 * day, "8y"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}
