//! Pods' subresources: logs from the node, evictions under budgets; and a resource of two versions.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Api, TestServer};
use http::{Request, Response};
use http_body_util::Full;
use kernelet_pki::{Peer, ServeLimits, serve_tls, server_config};
use kernelet_server::UserInfo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const NS: &str = "/api/v1/namespaces/default";

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}]},
    })
}

async fn prepare(api: &Api) {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    api.post(&format!("{NS}/serviceaccounts"), &account)
        .await
        .ok();
}

/// A kubelet API on loopback that tells what it was asked and by whom.
async fn kubelet(server: &TestServer) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let identity = common::identity(&server.ca, "system:node:n", Some("system:nodes"));
    let tls = Arc::new(server_config(&identity, server.ca.cert_pem()).unwrap());
    let handle = |request: Request<hyper::body::Incoming>| async move {
        let peer = request.extensions().get::<Peer>().unwrap();
        let certificate = peer.0.clone().unwrap();
        let who = certificate.identity.clone().unwrap().common_name;
        let text = format!("{} {who}\n", request.uri());
        if request.uri().path().ends_with("/broken") {
            let mut response = Response::new(Full::new(Bytes::from("no log file")));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            return response;
        }
        Response::new(Full::new(Bytes::from(text)))
    };
    tokio::spawn(serve_tls(
        listener,
        tls,
        ServeLimits::default(),
        handle,
        CancellationToken::new(),
    ));
    port
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let server = TestServer::start().await;
    let api = server.admin();
    prepare(&api).await;
    let port = kubelet(&server).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    api.post("/api/v1/nodes", &node).await.ok();
    let mut two = pod("p", "n");
    two["spec"]["containers"] =
        json!([{"name": "c", "image": "x"}, {"name": "broken", "image": "x"}]);
    api.post(&format!("{NS}/pods"), &two).await.ok();
    let log = format!("{NS}/pods/p/log");
    let answer = api
        .get(&format!(
            "{log}?container=c&tailLines=5&timestamps=true&follow=true"
        ))
        .await;
    assert_eq!(
        answer.body,
        "/containerLogs/default/p/c?follow=true&timestamps=true&tailLines=5 kube-apiserver-kubelet-client\n"
    );
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(
        api.get(&log).await.error(),
        "400 BadRequest: a container name must be specified for pod p, choose one of: [c broken]"
    );
    assert_eq!(
        api.get(&format!("{log}?container=x")).await.error(),
        "400 BadRequest: container x is not valid for pod p"
    );
    assert_eq!(
        api.get(&format!("{log}?container=broken")).await.error(),
        "404 NotFound: no log file"
    );
    assert_eq!(
        api.get(&format!("{log}?container=c&tailLines=-1"))
            .await
            .status,
        422
    );
    // Not on a node: nothing was said. On a node that isn't there: an error.
    api.post(&format!("{NS}/pods"), &pod("q", "")).await.ok();
    assert_eq!(api.get(&format!("{NS}/pods/q/log")).await.body, "");
    api.post(&format!("{NS}/pods"), &pod("r", "gone"))
        .await
        .ok();
    assert_eq!(
        api.get(&format!("{NS}/pods/r/log")).await.error(),
        "404 NotFound: nodes \"gone\" not found"
    );
    // Whoever may read pods may not read their logs for that.
    let reader = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &reader)
        .await
        .ok();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    api.post(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        &binding,
    )
    .await
    .ok();
    let bob = server.api(UserInfo::new("bob", [] as [&str; 0]));
    assert_eq!(bob.get(&format!("{NS}/pods/p")).await.status, 200);
    assert_eq!(bob.get(&log).await.status, 403);
    server.stop().await;
}

#[tokio::test]
async fn an_eviction_keeps_to_the_disruption_budget() {
    let server = TestServer::start().await;
    let api = server.admin();
    prepare(&api).await;
    for name in ["a", "b", "c"] {
        api.post(&format!("{NS}/pods"), &pod(name, "n")).await.ok();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch(&format!("{NS}/pods/{name}/status"), "merge", &ready)
            .await
            .ok();
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}}});
    api.post(budgets, &budget).await.ok();
    let evict = |name: &'static str| {
        let api = api.clone();
        async move {
            let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
                "deleteOptions": {"gracePeriodSeconds": 0}});
            api.post(&format!("{NS}/pods/{name}/eviction"), &body).await
        }
    };
    // Its controller hasn't seen it yet.
    let early = evict("a").await;
    assert_eq!(early.status, 429);
    assert_eq!(
        early.json()["details"]["causes"][0]["message"],
        "The disruption budget b is still being processed by the server."
    );
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3}});
    api.patch(&format!("{budgets}/b/status"), "merge", &status)
        .await
        .ok();
    assert_eq!(evict("a").await.status, 201);
    assert_eq!(api.get(&format!("{NS}/pods/a")).await.status, 404);
    let after = api.get(&format!("{budgets}/b")).await.ok();
    assert_eq!(
        after["status"]["disruptionsAllowed"]
            .as_i64()
            .unwrap_or_default(),
        0
    );
    assert!(after["status"]["disruptedPods"]["a"].is_string());
    let refused = evict("b").await;
    assert_eq!(
        refused.error(),
        "429 TooManyRequests: Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        refused.json()["details"]["causes"][0]["message"],
        "The disruption budget b does not allow evicting pods currently"
    );
    // What isn't ready doesn't count against a budget that is met.
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    api.patch(&format!("{NS}/pods/c/status"), "merge", &unready)
        .await
        .ok();
    assert_eq!(evict("c").await.status, 201);
    assert_eq!(
        api.delete(&format!("{NS}/pods/b?gracePeriodSeconds=0"))
            .await
            .status,
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn a_pod_ends_with_its_grace_and_its_nodes_last_word() {
    let server = TestServer::start().await;
    let api = server.admin();
    prepare(&api).await;
    api.post(&format!("{NS}/pods"), &pod("p", "n")).await.ok();
    let path = format!("{NS}/pods/p");
    let deleting = api.delete(&path).await.ok();
    assert_eq!(
        (
            &deleting["kind"],
            &deleting["metadata"]["deletionGracePeriodSeconds"]
        ),
        (&json!("Pod"), &json!(30))
    );
    let again = api.delete(&path).await.ok();
    assert_eq!(
        again["metadata"]["deletionTimestamp"],
        deleting["metadata"]["deletionTimestamp"]
    );
    let sooner = api
        .delete(&format!("{path}?gracePeriodSeconds=5"))
        .await
        .ok();
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    // Its node still tells its status, then has the last word.
    let node = server.api(UserInfo::node("n"));
    node.patch(
        &format!("{path}/status"),
        "merge",
        &json!({"status": {"phase": "Failed"}}),
    )
    .await
    .ok();
    node.delete(&format!("{path}?gracePeriodSeconds=0"))
        .await
        .ok();
    assert_eq!(api.get(&path).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn a_kind_of_two_versions_is_one_object() {
    let server = TestServer::with(Arc::new(kernelet_api::testing::registry()), |_| {}).await;
    let api = server.admin();
    let registry = kernelet_api::testing::registry();
    let widgets = registry.by_resource("test.kernelet.io", "widgets").unwrap();
    let versions: Vec<&str> = widgets
        .versions
        .iter()
        .map(|version| version.name.as_str())
        .collect();
    assert_eq!(versions.len(), 2);
    let path =
        |version: &str| format!("/apis/test.kernelet.io/{version}/namespaces/default/widgets");
    for version in &versions {
        let object = json!({"apiVersion": format!("test.kernelet.io/{version}"), "kind": "Widget", "metadata": {"name": format!("from-{version}")}});
        let made = api.post(&path(version), &object).await.ok();
        assert_eq!(made["apiVersion"], format!("test.kernelet.io/{version}"));
    }
    for version in &versions {
        let list = api.get(&path(version)).await.ok();
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        for item in list["items"].as_array().unwrap() {
            assert_eq!(item["apiVersion"], format!("test.kernelet.io/{version}"));
        }
        let group = api.get("/apis/test.kernelet.io").await.ok();
        assert!(group["versions"].to_string().contains(version));
        assert_eq!(
            api.get(&format!("/openapi/v3/apis/test.kernelet.io/{version}"))
                .await
                .status,
            200
        );
        // Written through either, and watched in either.
        let mut events = api
            .watch(&format!(
                "{}?watch=true&fieldSelector=metadata.name%3Dfrom-v1",
                path(version)
            ))
            .await;
        assert_eq!(
            events.next().await.unwrap()["object"]["apiVersion"],
            format!("test.kernelet.io/{version}")
        );
        let labels = json!({"metadata": {"labels": {"by": version}}});
        api.patch(&format!("{}/from-v1", path(version)), "merge", &labels)
            .await
            .ok();
        let changed = events.next().await.unwrap();
        assert_eq!(
            (
                &changed["type"],
                &changed["object"]["metadata"]["labels"]["by"]
            ),
            (&json!("MODIFIED"), &json!(version))
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_gated_pod_gets_no_node_and_its_gates_only_go() {
    let server = TestServer::start().await;
    let api = server.admin();
    prepare(&api).await;
    let path = format!("{NS}/pods/gated");
    let mut gated = pod("gated", "");
    gated["spec"]["schedulingGates"] =
        json!([{"name": "example.com/a"}, {"name": "example.com/b"}]);
    gated["spec"]["nodeSelector"] = json!({"disk": "fast"});
    let made = api.post(&format!("{NS}/pods"), &gated).await.ok();
    let condition = &made["status"]["conditions"][0];
    assert_eq!(
        (
            &condition["type"],
            &condition["status"],
            &condition["reason"]
        ),
        (
            &json!("PodScheduled"),
            &json!("False"),
            &json!("SchedulingGated")
        )
    );
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "gated"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n"}});
    let bound = api.post(&format!("{path}/binding"), &binding).await;
    assert_eq!(bound.status, 409, "{}", bound.error());

    let merge = async |spec: Value| api.patch(&path, "merge", &json!({"spec": spec})).await;
    let affinity = |values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": values}]}}}})
    };
    let zone = json!({"key": "zone", "operator": "In", "values": ["a"]});
    let rack = json!({"key": "rack", "operator": "Exists"});
    // While it is gated, where it may go may become less; what it is may not change.
    for (spec, expect) in [
        (json!({"nodeSelector": {"arch": "arm"}}), None),
        (
            json!({"nodeSelector": {"disk": "slow"}}),
            Some("only additions to spec.nodeSelector are allowed"),
        ),
        (affinity(json!([zone])), None),
        (affinity(json!([zone, rack])), None),
        (affinity(json!([rack])), Some("only additions are allowed")),
        (
            json!({"affinity": null}),
            Some("no additions/deletions to non-empty"),
        ),
        (
            json!({"hostNetwork": true}),
            Some("pod updates may not change fields other than"),
        ),
        (
            json!({"schedulingGates": [{"name": "example.com/c"}]}),
            Some("only deletion is allowed, but found new scheduling gate 'example.com/c'"),
        ),
        (
            json!({"schedulingGates": [{"name": "example.com/b"}]}),
            None,
        ),
        (json!({"schedulingGates": null}), None),
        // And no longer, once it is not.
        (
            json!({"nodeSelector": {"gpu": "yes"}}),
            Some("pod updates may not change fields other than"),
        ),
    ] {
        let answer = merge(spec.clone()).await;
        match expect {
            None => drop(answer.ok()),
            Some(text) => {
                assert_eq!(answer.status, 422, "{spec}: {answer:?}");
                assert!(answer.error().contains(text), "{spec}: {}", answer.error());
            }
        }
    }
    api.post(&format!("{path}/binding"), &binding).await.ok();
    let now = api.get(&path).await.ok();
    assert_eq!(now["status"]["conditions"][0]["status"], "True");
    server.stop().await;
}
