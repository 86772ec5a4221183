//! Every other kind, cell by cell.

use super::*;

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

#[test]
fn daemon_sets_their_revisions_and_replication_controllers() {
    let template = json!({"spec": {"nodeSelector": {"disk": "ssd"}, "containers": [
        {"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}});
    check(
        "apps",
        "DaemonSet",
        json!({
            "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template},
            "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberMisscheduled": 0,
                "numberReady": 1, "updatedNumberScheduled": 2},
        }),
        json!([
            "x", 3, 2, 1, 2, 0, "disk=ssd", "3h", "a,b", "i:1,j:2", "app=x"
        ]),
    );
    check(
        "",
        "ReplicationController",
        json!({
            "spec": {"replicas": 2, "selector": {"app": "x", "b": "y"}, "template": template},
            "status": {"replicas": 1},
        }),
        json!(["x", 2, 1, 0, "3h", "a,b", "i:1,j:2", "app=x,b=y"]),
    );
    check(
        "apps",
        "ControllerRevision",
        json!({"revision": 4, "metadata": {"name": "x", "creationTimestamp": CREATED, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "u", "controller": true}]}}),
        json!(["x", "daemonset.apps/web", 4, "3h"]),
    );
}
