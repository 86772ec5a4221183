//! What `kubectl get` prints, cell by cell, for every kind.

use jiff::Timestamp;
use kernelet_api::{Registry, Value, resources::Cell};
use kernelet_openapi::tables::{IncludeObject, TableOptions, human_duration, table};
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
    table(
        resource,
        [object],
        json!({"resourceVersion": "7"}),
        options(include),
    )
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

/// Checks name, ready, status, restarts and age of a pod.
fn check_pod(object: Value, cells: [&str; 3]) {
    let rendered = render("", "Pod", &complete("Pod", object), IncludeObject::None);
    let row = &rendered["rows"][0]["cells"];
    assert_eq!(json!([row[1], row[2], row[3]]), json!(cells));
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

fn running(name: &str, ready: bool, restarts: i64) -> Value {
    json!({"name": name, "ready": ready, "restartCount": restarts, "state": {"running": {"startedAt": CREATED}}})
}

fn waiting(name: &str, reason: &str, restarts: i64) -> Value {
    json!({
        "name": name, "ready": false, "restartCount": restarts, "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-03-01T11:57:00Z"}},
    })
}

fn ended(name: &str, terminated: Value) -> Value {
    json!({"name": name, "ready": false, "restartCount": 0, "state": {"terminated": terminated}})
}

fn pod(phase: &str, containers: &[Value]) -> Value {
    let spec: Vec<Value> = containers
        .iter()
        .map(|status| json!({"name": status["name"]}))
        .collect();
    json!({"spec": {"containers": spec}, "status": {"phase": phase, "containerStatuses": containers}})
}

#[test]
fn a_pods_status_says_what_is_wrong_with_it() {
    check_pod(
        json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Pending"}}),
        ["0/1", "Pending", "0"],
    );
    check_pod(
        pod("Running", &[running("a", true, 0)]),
        ["1/1", "Running", "0"],
    );
    check_pod(
        pod("Running", &[running("a", false, 0)]),
        ["0/1", "Running", "0"],
    );
    check_pod(
        pod("Pending", &[waiting("a", "ContainerCreating", 0)]),
        ["0/1", "ContainerCreating", "0"],
    );
    check_pod(
        pod("Running", &[waiting("a", "CrashLoopBackOff", 2)]),
        ["0/1", "CrashLoopBackOff", "2 (3m ago)"],
    );
    // The first container's reason wins.
    check_pod(
        pod(
            "Running",
            &[
                waiting("a", "ErrImagePull", 0),
                waiting("b", "CrashLoopBackOff", 5),
            ],
        ),
        ["0/2", "ErrImagePull", "5 (3m ago)"],
    );
    check_pod(
        pod(
            "Failed",
            &[ended("a", json!({"exitCode": 1, "reason": "Error"}))],
        ),
        ["0/1", "Error", "0"],
    );
    check_pod(
        pod(
            "Failed",
            &[ended("a", json!({"exitCode": 137, "reason": "OOMKilled"}))],
        ),
        ["0/1", "OOMKilled", "0"],
    );
    check_pod(
        pod("Failed", &[ended("a", json!({"exitCode": 2}))]),
        ["0/1", "ExitCode:2", "0"],
    );
    check_pod(
        pod("Failed", &[ended("a", json!({"exitCode": 0, "signal": 9}))]),
        ["0/1", "Signal:9", "0"],
    );
    check_pod(
        pod(
            "Succeeded",
            &[ended("a", json!({"exitCode": 0, "reason": "Completed"}))],
        ),
        ["0/1", "Completed", "0"],
    );
    let mut evicted = pod("Failed", &[]);
    evicted["status"]["reason"] = json!("Evicted");
    check_pod(evicted, ["0/0", "Evicted", "0"]);
    let mut gated = pod("Pending", &[]);
    gated["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    check_pod(gated, ["0/0", "SchedulingGated", "0"]);
}

#[test]
fn a_pod_of_which_one_container_is_done_still_runs_or_has_failed() {
    let done = || ended("a", json!({"exitCode": 0, "reason": "Completed"}));
    let mut ready = pod("Running", &[done(), running("b", true, 0)]);
    ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    check_pod(ready, ["1/2", "Running", "0"]);
    check_pod(
        pod("Running", &[done(), running("b", true, 0)]),
        ["1/2", "NotReady", "0"],
    );
    let failed = ended("b", json!({"exitCode": 3, "reason": "Error"}));
    check_pod(pod("Running", &[done(), failed]), ["0/2", "Error", "0"]);
}

#[test]
fn a_pod_that_is_being_deleted_is_terminating() {
    let mut object = pod("Running", &[running("a", true, 0)]);
    object["metadata"] = json!({"deletionTimestamp": NOW});
    check_pod(object.clone(), ["1/1", "Terminating", "0"]);
    object["status"]["reason"] = json!("NodeLost");
    check_pod(object, ["1/1", "Unknown", "0"]);
    let mut done = pod(
        "Succeeded",
        &[ended("a", json!({"exitCode": 0, "reason": "Completed"}))],
    );
    done["metadata"] = json!({"deletionTimestamp": NOW});
    check_pod(done, ["0/1", "Completed", "0"]);
}

/// A pod with init containers in this state, and a main container that waits for them.
fn initializing(spec: Value, statuses: Value) -> Value {
    let mut object = pod("Pending", &[waiting("main", "PodInitializing", 0)]);
    object["status"]["containerStatuses"][0]["lastState"] = json!({});
    object["spec"]["initContainers"] = spec;
    object["status"]["initContainerStatuses"] = statuses;
    object
}

#[test]
fn a_pod_that_initializes_says_how_far_it_is_and_what_failed() {
    let two = || json!([{"name": "i1"}, {"name": "i2"}]);
    let done = || ended("i1", json!({"exitCode": 0, "reason": "Completed"}));
    check_pod(
        initializing(two(), json!([waiting("i1", "PodInitializing", 0)])),
        ["0/1", "Init:0/2", "0"],
    );
    check_pod(
        initializing(two(), json!([running("i1", false, 0)])),
        ["0/1", "Init:0/2", "0"],
    );
    check_pod(
        initializing(two(), json!([done(), running("i2", false, 0)])),
        ["0/1", "Init:1/2", "0"],
    );
    check_pod(
        initializing(two(), json!([done(), waiting("i2", "CrashLoopBackOff", 4)])),
        ["0/1", "Init:CrashLoopBackOff", "4 (3m ago)"],
    );
    check_pod(
        initializing(
            two(),
            json!([ended("i1", json!({"exitCode": 1, "reason": "Error"}))]),
        ),
        ["0/1", "Init:Error", "0"],
    );
    check_pod(
        initializing(two(), json!([ended("i1", json!({"exitCode": 7}))])),
        ["0/1", "Init:ExitCode:7", "0"],
    );
    check_pod(
        initializing(
            two(),
            json!([ended("i1", json!({"exitCode": 1, "signal": 15}))]),
        ),
        ["0/1", "Init:Signal:15", "0"],
    );
}

#[test]
fn a_sidecar_counts_as_a_container_and_its_restarts_count_too() {
    let spec = || json!([{"name": "side", "restartPolicy": "Always"}]);
    let side = |ready: bool| {
        json!({
            "name": "side", "ready": ready, "started": true, "restartCount": 3,
            "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-03-01T11:59:00Z"}},
        })
    };
    let mut object = pod("Running", &[running("main", true, 1)]);
    object["spec"]["initContainers"] = spec();
    object["status"]["initContainerStatuses"] = json!([side(true)]);
    check_pod(object.clone(), ["2/2", "Running", "4 (60s ago)"]);
    object["status"]["initContainerStatuses"] = json!([side(false)]);
    check_pod(object, ["1/2", "Running", "4 (60s ago)"]);
    let mut starting = initializing(
        spec(),
        json!([{
            "name": "side", "ready": false, "started": false, "restartCount": 0, "state": {"running": {}},
        }]),
    );
    check_pod(starting.clone(), ["0/2", "Init:0/1", "0"]);
    // An Initialized pod is judged by its main containers whatever an init container reports.
    starting["status"]["conditions"] = json!([{"type": "Initialized", "status": "True"}]);
    check_pod(starting, ["0/2", "PodInitializing", "0"]);
}

#[test]
fn a_pods_wide_columns() {
    let mut object = pod("Running", &[running("a", true, 0)]);
    check(
        "",
        "Pod",
        object.clone(),
        json!([
            "x", "1/1", "Running", "0", "3h", "<none>", "<none>", "<none>", "<none>"
        ]),
    );
    object["spec"]["nodeName"] = json!("n1");
    object["spec"]["readinessGates"] = json!([{"conditionType": "a"}, {"conditionType": "b"}]);
    object["status"]["podIPs"] = json!([{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]);
    object["status"]["nominatedNodeName"] = json!("n2");
    object["status"]["conditions"] =
        json!([{"type": "a", "status": "True"}, {"type": "b", "status": "False"}]);
    check(
        "",
        "Pod",
        object,
        json!([
            "x",
            "1/1",
            "Running",
            "0",
            "3h",
            "10.244.0.5",
            "n1",
            "n2",
            "1/2"
        ]),
    );
}

#[test]
fn a_pod_that_has_ended_says_so_in_its_rows_conditions() {
    let conditions = |phase: &str| {
        let rendered = render(
            "",
            "Pod",
            &complete("Pod", pod(phase, &[])),
            IncludeObject::None,
        );
        rendered["rows"][0].get("conditions").cloned()
    };
    assert_eq!(conditions("Running"), None);
    for (phase, message) in [
        ("Succeeded", "The pod has completed successfully."),
        ("Failed", "The pod failed."),
    ] {
        let wanted =
            json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]);
        assert_eq!(conditions(phase), Some(wanted));
    }
}

#[test]
fn services() {
    check(
        "",
        "Service",
        json!({"spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 443, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        }}),
        json!([
            "x",
            "ClusterIP",
            "10.96.0.1",
            "<none>",
            "443/TCP,53/UDP",
            "3h",
            "a=1,b=2"
        ]),
    );
    check(
        "",
        "Service",
        json!({"spec": {
            "type": "NodePort", "clusterIPs": ["10.96.0.2"], "externalIPs": ["192.0.2.1", "192.0.2.2"],
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
        }}),
        json!([
            "x",
            "NodePort",
            "10.96.0.2",
            "192.0.2.1,192.0.2.2",
            "80:30080/TCP",
            "3h",
            "<none>"
        ]),
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}}),
        json!(["x", "ClusterIP", "None", "<none>", "<none>", "3h", "<none>"]),
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
        json!([
            "x",
            "ExternalName",
            "<none>",
            "example.com",
            "<none>",
            "3h",
            "<none>"
        ]),
    );
    let balanced = |status: Value| json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.3"]}, "status": status});
    check(
        "",
        "Service",
        balanced(json!({})),
        json!([
            "x",
            "LoadBalancer",
            "10.96.0.3",
            "<pending>",
            "<none>",
            "3h",
            "<none>"
        ]),
    );
    check(
        "",
        "Service",
        balanced(
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "lb.example.com"}]}}),
        ),
        json!([
            "x",
            "LoadBalancer",
            "10.96.0.3",
            "192.0.2.9,lb.example.com",
            "<none>",
            "3h",
            "<none>"
        ]),
    );
}

#[test]
fn endpoints_and_slices_show_three_and_count_the_rest() {
    check("", "Endpoints", json!({}), json!(["x", "<none>", "3h"]));
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 81}]}]}),
        json!([
            "x",
            "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...",
            "3h"
        ]),
    );
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}),
        json!(["x", "10.0.0.1", "3h"]),
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4"}),
        json!(["x", "IPv4", "<unset>", "<unset>", "3h"]),
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({
            "addressType": "IPv4", "ports": [{"port": 80}, {"name": "http"}, {}],
            "endpoints": [{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]}],
        }),
        json!([
            "x",
            "IPv4",
            "80,http,*",
            "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...",
            "3h"
        ]),
    );
}

#[test]
fn nodes() {
    check(
        "",
        "Node",
        json!({}),
        json!([
            "x",
            "Unknown",
            "<none>",
            "3h",
            "",
            "<none>",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
    check(
        "",
        "Node",
        json!({
            "metadata": {"labels": {
                "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "",
                "node-role.kubernetes.io/": "", "kubernetes.io/role": "old",
            }},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "True"}],
                "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "192.0.2.3"},
                              {"type": "ExternalIP", "address": "203.0.113.3"}],
                "nodeInfo": {"kubeletVersion": "v1.35.0", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "kernelet://0.1"},
            },
        }),
        json!([
            "x",
            "Ready,SchedulingDisabled",
            "control-plane,old,worker",
            "3h",
            "v1.35.0",
            "192.0.2.3",
            "203.0.113.3",
            "Debian",
            "6.1",
            "kernelet://0.1"
        ]),
    );
    check(
        "",
        "Node",
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        json!([
            "x",
            "NotReady",
            "<none>",
            "3h",
            "",
            "<none>",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
}

#[test]
fn events_of_both_groups() {
    check(
        "",
        "Event",
        json!({
            "type": "Warning", "reason": "BackOff", "message": " Back-off restarting\n",
            "involvedObject": {"kind": "Pod", "name": "web-1", "fieldPath": "spec.containers{web}"},
            "source": {"component": "kubelet", "host": "n1"}, "count": 5,
            "firstTimestamp": "2026-03-01T11:00:00Z", "lastTimestamp": "2026-03-01T11:59:30Z",
        }),
        json!([
            "30s",
            "Warning",
            "BackOff",
            "pod/web-1",
            "spec.containers{web}",
            "kubelet, n1",
            "Back-off restarting",
            "60m",
            5,
            "x"
        ]),
    );
    // Written by the newer client library, which leaves the old fields empty.
    check(
        "",
        "Event",
        json!({
            "type": "Normal", "reason": "Scheduled", "message": "ok", "involvedObject": {"kind": "Pod"},
            "eventTime": "2026-03-01T11:58:00.000000Z", "reportingComponent": "scheduler", "reportingInstance": "s-1",
            "firstTimestamp": null, "lastTimestamp": null, "source": {},
        }),
        json!([
            "2m",
            "Normal",
            "Scheduled",
            "pod",
            "",
            "scheduler, s-1",
            "ok",
            "2m",
            1,
            "x"
        ]),
    );
    check(
        "events.k8s.io",
        "Event",
        json!({
            "type": "Normal", "reason": "Pulled", "note": "pulled", "regarding": {"kind": "Pod", "name": "p"},
            "reportingController": "kernelet", "eventTime": "2026-03-01T10:00:00.000000Z",
            "series": {"count": 3, "lastObservedTime": "2026-03-01T11:59:00.000000Z"},
        }),
        json!([
            "60s", "Normal", "Pulled", "pod/p", "", "kernelet", "pulled", "120m", 3, "x"
        ]),
    );
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:2"}]}});
    check(
        "apps",
        "Deployment",
        json!({
            "spec": {"replicas": 3, "template": template, "selector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"},
                    {"key": "env", "operator": "NotIn", "values": ["dev"]}, {"key": "zone", "operator": "Exists"},
                ],
            }},
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
        }),
        json!([
            "x",
            "1/3",
            2,
            1,
            "3h",
            "a,b",
            "i:1,i:2",
            "app=web,env notin (dev),!old,tier in (a,b),zone"
        ]),
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"replicas": 0}}),
        json!(["x", "0/0", 0, 0, "3h", "", "", ""]),
    );
    check(
        "apps",
        "ReplicaSet",
        json!({"spec": {"replicas": 2, "template": template, "selector": {"matchLabels": {"a": "1", "b": "2"}}},
               "status": {"replicas": 2, "readyReplicas": 1}}),
        json!(["x", 2, 2, 1, "3h", "a,b", "i:1,i:2", "a=1,b=2"]),
    );
    check(
        "apps",
        "ReplicaSet",
        json!({"spec": {"replicas": 0, "selector": {}}}),
        json!(["x", 0, 0, 0, "3h", "", "", "<none>"]),
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": 2}, "status": {"disruptionsAllowed": 1}}),
        json!(["x", "2", "N/A", 1, "3h"]),
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"maxUnavailable": "25%"}}),
        json!(["x", "N/A", "25%", 0, "3h"]),
    );
}

#[test]
fn the_small_kinds() {
    check(
        "",
        "Namespace",
        json!({"status": {"phase": "Active"}}),
        json!(["x", "Active", "3h"]),
    );
    check(
        "",
        "Secret",
        json!({"type": "Opaque", "data": {"a": "", "b": ""}}),
        json!(["x", "Opaque", 2, "3h"]),
    );
    check(
        "",
        "Secret",
        json!({"type": "Opaque"}),
        json!(["x", "Opaque", 0, "3h"]),
    );
    check(
        "",
        "ConfigMap",
        json!({"data": {"a": ""}, "binaryData": {"b": ""}}),
        json!(["x", 2, "3h"]),
    );
    check("", "ServiceAccount", json!({}), json!(["x", "3h"]));
    check(
        "coordination.k8s.io",
        "Lease",
        json!({"spec": {"holderIdentity": "n1"}}),
        json!(["x", "n1", "3h"]),
    );
    check(
        "coordination.k8s.io",
        "Lease",
        json!({"spec": {}}),
        json!(["x", "", "3h"]),
    );
    check(
        "rbac.authorization.k8s.io",
        "Role",
        json!({}),
        json!(["x", CREATED]),
    );
    check(
        "rbac.authorization.k8s.io",
        "ClusterRole",
        json!({}),
        json!(["x", CREATED]),
    );
}

#[test]
fn bindings_and_certificate_requests() {
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({
            "roleRef": {"kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "name": "u1"}, {"kind": "User", "name": "u2"}, {"kind": "Group", "name": "g"},
                         {"kind": "ServiceAccount", "namespace": "ns", "name": "sa"}],
        }),
        json!(["x", "ClusterRole/edit", "3h", "u1, u2", "g", "ns/sa"]),
    );
    check(
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        json!({"roleRef": {"kind": "ClusterRole", "name": "view"}}),
        json!(["x", "ClusterRole/view", "3h", "", "", ""]),
    );
    let request = |conditions: Value, certificate: &str| {
        json!({"spec": {"signerName": "s/s", "username": "u", "expirationSeconds": 3600},
               "status": {"conditions": conditions, "certificate": certificate}})
    };
    for (conditions, certificate, text) in [
        (json!([]), "", "Pending"),
        (json!([{"type": "Approved"}]), "", "Approved"),
        (json!([{"type": "Approved"}]), "LS0t", "Approved,Issued"),
        (
            json!([{"type": "Approved"}, {"type": "Failed"}]),
            "",
            "Approved,Failed",
        ),
        (json!([{"type": "Denied"}]), "", "Denied"),
    ] {
        check(
            "certificates.k8s.io",
            "CertificateSigningRequest",
            request(conditions, certificate),
            json!(["x", "3h", "s/s", "u", "60m", text]),
        );
    }
}

#[test]
fn an_object_without_an_age_has_an_unknown_one() {
    let object = json!({"kind": "ConfigMap", "metadata": {"name": "x"}});
    let rendered = render("", "ConfigMap", &object, IncludeObject::None);
    assert_eq!(rendered["rows"][0]["cells"], json!(["x", 0, "<unknown>"]));
}
